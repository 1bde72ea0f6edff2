/** First widths of columns, from what stands in them. */

import type { Json } from "../api/json";
import type { Column } from "../api/shapes";
import { shown } from "./values";

const LOOKED_AT_ROWS = 60;
const CHARACTER_PX = 7.6;
const PADDING_PX = 30;
const LEAST_PX = 72;
const MOST_PX = 380;
export const NARROWEST_PX = 48;

export function firstWidths(columns: readonly Column[], rows: readonly (readonly Json[])[]): number[] {
  const sample = rows.slice(0, LOOKED_AT_ROWS);
  return columns.map((column, at) => {
    const head = column.name.length + column.type.length * 0.75 + (column.isKey ? 3 : 1) + 1;
    const longest = sample.reduce((most, row) => Math.max(most, shown(row[at], column).text.length), head);
    return Math.round(Math.min(Math.max(longest * CHARACTER_PX + PADDING_PX, LEAST_PX), MOST_PX));
  });
}
