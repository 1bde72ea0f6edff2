/**
 * The rows of a live query, kept from its frames. Pure data: no socket, no page.
 *
 * A query of one table sends a change per row: a row is known by its `_seq` (an update names the old
 * one), and found for a delete by the shown part of its key and then by all it shows, for a query
 * need not select its key. Any other query is evaluated anew and sends units (see unit.ts).
 * `apply` is false when a frame speaks of a row that is not here: the caller takes all rows anew.
 */

import { word, type JsonObject } from "../api/json";
import type { Column } from "../api/shapes";
import type { Change, Evaluated, Frame } from "./frames";
import { alter, cellsOf, keyText, same, type Counts, type LiveRow } from "./row";
import { stepOf } from "./unit";

export class LiveRows {
  columns: readonly Column[] = [];
  counts: Counts = { inserted: 0, updated: 0, deleted: 0 };
  #rows: LiveRow[] = [];
  #bySeq = new Map<string, LiveRow>();
  #byKey = new Map<string, Set<LiveRow>>();
  #keyNames: readonly string[] = [];
  #evaluated: Evaluated | null = null;
  #unit: Change[] = [];
  #loading: LiveRow[] | null = null;
  #revision = 0;
  #nextId = 1;

  /** Those that leave among them. */
  get rows(): readonly LiveRow[] {
    return this.#rows;
  }

  /** Pages of a new snapshot follow; the old rows stay in sight until the last one. */
  restart(): void {
    this.#loading = [];
  }

  /** False: lost track. */
  apply(frame: Frame): boolean {
    switch (frame.is) {
      case "ack":
        this.columns = frame.columns;
        this.#keyNames = frame.columns.filter((column) => column.isKey).map(({ name }) => name);
        this.#evaluated = frame.evaluated;
        this.#unit = [];
        return true;
      case "page":
        this.#load(frame.rows, frame.hasMore);
        return true;
      case "change":
        this.#revision += 1;
        return this.#evaluated === null ? this.#change(frame) : this.#collect(frame, this.#evaluated);
      case "error":
      case "position":
      case "signed in":
      case "refused":
      case "other":
        return true;
    }
  }

  /** Take rows that left out of sight. */
  sweep(gone: ReadonlySet<LiveRow>): void {
    this.#rows = this.#rows.filter((row) => !gone.has(row));
  }

  #load(values: readonly JsonObject[], hasMore: boolean): void {
    // After a resume there is an empty page and nothing to load.
    if (this.#loading === null) return;
    for (const value of values) this.#loading.push(this.#made(value, 0));
    if (hasMore) return;
    this.#rows = this.#loading;
    this.#loading = null;
    this.#bySeq.clear();
    this.#byKey.clear();
    if (this.#evaluated === null) for (const row of this.#rows) this.#index(row);
  }

  #collect(change: Change, how: Evaluated): boolean {
    this.#unit.push(change);
    if (!change.commit) return true;
    const alive = this.#rows.filter((row) => !row.leaving);
    const step = stepOf(alive, this.#unit, how, (values) => this.#made(values, this.#revision));
    this.#unit = [];
    if (step === null) return false;
    for (const { row, values } of step.altered) alter(row, values, this.columns, this.#revision);
    for (const row of step.gone) row.leaving = true;
    this.#rows = withLeaving(step.rows, this.#rows);
    this.#count(step.came.length, step.altered.length, step.gone.length);
    return true;
  }

  #change(change: Change): boolean {
    switch (change.kind) {
      case "insert":
        for (const values of change.rows) this.#insert(values);
        return true;
      case "update":
        return change.rows.every((values, at) => this.#update(values, change.old[at]));
      case "delete":
        return change.old.every((values) => this.#delete(values));
    }
  }

  /** New rows stand first, where they are seen. */
  #insert(values: JsonObject): void {
    const row = this.#made(values, this.#revision);
    this.#rows.unshift(row);
    this.#index(row);
    this.#count(1, 0, 0);
  }

  #update(values: JsonObject, old: JsonObject | undefined): boolean {
    const row = this.#bySeq.get(word(old?.["_seq"])) ?? this.#alone(values);
    if (row === undefined) return false;
    this.#unindex(row);
    alter(row, values, this.columns, this.#revision);
    this.#index(row);
    this.#count(0, 1, 0);
    return true;
  }

  #delete(old: JsonObject): boolean {
    const shown = this.columns.filter(({ name }) => name !== "_seq" && name !== "_deleted");
    const candidates = [...(this.#byKey.get(this.#key(old)) ?? [])];
    const row =
      candidates.length === 1
        ? candidates[0]
        : candidates.find(({ values }) => shown.every(({ name }) => same(values[name], old[name])));
    if (row === undefined) return false;
    this.#unindex(row);
    row.leaving = true;
    this.#count(0, 0, 1);
    return true;
  }

  #made(values: JsonObject, born: number): LiveRow {
    const id = this.#nextId++;
    const cells = cellsOf(this.columns, values);
    return { id, values, cells, touched: new Map(), born, leaving: false };
  }

  #key(values: JsonObject): string {
    return keyText(this.#keyNames, values);
  }

  #alone(values: JsonObject): LiveRow | undefined {
    const candidates = this.#byKey.get(this.#key(values));
    return candidates?.size === 1 ? [...candidates][0] : undefined;
  }

  #index(row: LiveRow): void {
    this.#bySeq.set(word(row.values["_seq"]), row);
    const key = this.#key(row.values);
    const rows = this.#byKey.get(key);
    if (rows) rows.add(row);
    else this.#byKey.set(key, new Set([row]));
  }

  #unindex(row: LiveRow): void {
    this.#bySeq.delete(word(row.values["_seq"]));
    const key = this.#key(row.values);
    const rows = this.#byKey.get(key);
    rows?.delete(row);
    if (rows?.size === 0) this.#byKey.delete(key);
  }

  #count(inserted: number, updated: number, deleted: number): void {
    this.counts = {
      inserted: this.counts.inserted + inserted,
      updated: this.counts.updated + updated,
      deleted: this.counts.deleted + deleted,
    };
  }
}

/** The new list, with the rows that leave behind whom they stood. */
function withLeaving(rows: readonly LiveRow[], before: readonly LiveRow[]): LiveRow[] {
  const behind = new Map<LiveRow | null, LiveRow[]>();
  let last: LiveRow | null = null;
  for (const row of before) {
    if (!row.leaving) last = row;
    else behind.set(last, [...(behind.get(last) ?? []), row]);
  }
  return [...(behind.get(null) ?? []), ...rows.flatMap((row) => [row, ...(behind.get(row) ?? [])])];
}
