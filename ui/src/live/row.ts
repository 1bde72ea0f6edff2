/** One row of a live query, and what the page shows of its past. */

import type { Json, JsonObject } from "../api/json";
import type { Column } from "../api/shapes";

export interface LiveRow {
  readonly id: number;
  values: JsonObject;
  cells: readonly Json[];
  /** Revision of the last change of each cell that was changed. */
  touched: ReadonlyMap<number, number>;
  /** Revision it came in; 0 when it was there from the start. */
  born: number;
  /** Deleted, and still shown for a moment. */
  leaving: boolean;
}

export interface Counts {
  readonly inserted: number;
  readonly updated: number;
  readonly deleted: number;
}

export function cellsOf(columns: readonly Column[], values: JsonObject): Json[] {
  return columns.map(({ name }) => values[name] ?? null);
}

/** Lay new values over a row; cells that differ are touched by this revision. */
export function alter(row: LiveRow, values: JsonObject, columns: readonly Column[], revision: number): void {
  const merged = { ...row.values, ...values };
  const cells = cellsOf(columns, merged);
  const touched = new Map(row.touched);
  cells.forEach((cell, at) => {
    if (columns[at]?.name !== "_seq" && !same(cell, row.cells[at])) touched.set(at, revision);
  });
  Object.assign(row, { values: merged, cells, touched });
}

export function same(one: Json | undefined, other: Json | undefined): boolean {
  return one === other || JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
}

/** The values of some columns as one text. */
export function keyText(names: readonly string[], values: JsonObject): string {
  return JSON.stringify(names.map((name) => values[name] ?? null));
}
