/**
 * What makes one evaluated result the next. Pure.
 *
 * In ordered results places say all: those of deletes and the old ones of updates are taken out of
 * the old list, then the new ones are put in, from the first to the last. Without an order, rows are
 * known by the key, or by all they show.
 */

import type { JsonObject } from "../api/json";
import type { Change, Evaluated } from "./frames";
import { keyText, type LiveRow } from "./row";

export interface Step {
  readonly rows: readonly LiveRow[];
  readonly gone: readonly LiveRow[];
  readonly came: readonly LiveRow[];
  readonly altered: readonly { readonly row: LiveRow; readonly values: JsonObject }[];
}

interface Placed {
  readonly at: number;
  readonly row: LiveRow;
}

/** null: the unit speaks of rows that are not here. `make` makes a row that came. */
export function stepOf(
  rows: readonly LiveRow[],
  unit: readonly Change[],
  how: Evaluated,
  make: (values: JsonObject) => LiveRow,
): Step | null {
  return how.ordered ? byPlace(rows, unit, make) : byKey(rows, unit, how, make);
}

function byPlace(
  rows: readonly LiveRow[],
  unit: readonly Change[],
  make: (values: JsonObject) => LiveRow,
): Step | null {
  const taken = new Set<number>();
  const placed: Placed[] = [];
  const gone: LiveRow[] = [];
  const came: LiveRow[] = [];
  const altered: { row: LiveRow; values: JsonObject }[] = [];
  for (const change of unit) {
    const olds = change.kind === "delete" ? change.positions : change.oldPositions;
    for (const at of olds) taken.add(at);
    if (change.kind === "delete") {
      for (const at of change.positions) gone.push(...rows.slice(at, at + 1));
      continue;
    }
    for (const [index, values] of change.rows.entries()) {
      const at = change.positions[index];
      const row = change.kind === "insert" ? make(values) : rows[change.oldPositions[index] ?? -1];
      if (at === undefined || row === undefined) return null;
      placed.push({ at, row });
      if (change.kind === "insert") came.push(row);
      else altered.push({ row, values });
    }
  }
  const stay = rows.filter((_, at) => !taken.has(at));
  if (stay.length !== rows.length - taken.size) return null;
  return { rows: merged(stay, placed), gone, came, altered };
}

function merged(stay: readonly LiveRow[], placed: Placed[]): LiveRow[] {
  const all: LiveRow[] = [];
  let kept = 0;
  for (const { at, row } of placed.sort((one, other) => one.at - other.at)) {
    const before = stay.slice(kept, kept + Math.max(0, at - all.length));
    all.push(...before, row);
    kept += before.length;
  }
  return [...all, ...stay.slice(kept)];
}

function byKey(
  rows: readonly LiveRow[],
  unit: readonly Change[],
  how: Evaluated,
  make: (values: JsonObject) => LiveRow,
): Step | null {
  const known = new Map<string, LiveRow[]>();
  const wholeOf = (values: JsonObject): string => keyText(Object.keys(values).sort(), values);
  const textOf = (values: JsonObject): string =>
    how.key === null ? wholeOf(values) : keyText(how.key, values);
  for (const row of rows) known.set(textOf(row.values), [...(known.get(textOf(row.values)) ?? []), row]);
  const gone = new Set<LiveRow>();
  const came: LiveRow[] = [];
  const altered: { row: LiveRow; values: JsonObject }[] = [];
  for (const change of unit) {
    if (change.kind === "insert") came.push(...change.rows.map(make));
    if (change.kind === "delete") {
      for (const values of change.old) {
        // Two rows may have the same key: all that is shown says which one.
        const alike = known.get(textOf(values)) ?? [];
        const at = alike.findIndex((row) => wholeOf(row.values) === wholeOf(values));
        if (at < 0) return null;
        for (const row of alike.splice(at, 1)) gone.add(row);
      }
    }
    if (change.kind === "update") {
      for (const values of change.rows) {
        const row = known.get(textOf(values))?.[0];
        if (row === undefined) return null;
        altered.push({ row, values });
      }
    }
  }
  return { rows: [...came, ...rows.filter((row) => !gone.has(row))], gone: [...gone], came, altered };
}
