/** Rows as text for the clipboard. */

import type { Json } from "../api/json";
import type { Column } from "../api/shapes";
import { plain } from "./values";

export type Format = "csv" | "json" | "tsv";

type Cells = readonly Json[];

export function formatted(format: Format, columns: readonly Column[], rows: readonly Cells[]): string {
  switch (format) {
    case "json":
      return JSON.stringify(rows.map((row) => objectOf(columns, row)), null, 2);
    case "csv":
      return lines(columns, rows, ",", quoted);
    case "tsv":
      return lines(columns, rows, "\t", (text) => text.replaceAll(/[\t\r\n]+/g, " "));
  }
}

function objectOf(columns: readonly Column[], row: Cells): Record<string, Json> {
  return Object.fromEntries(columns.map((column, at) => [column.name, row[at] ?? null]));
}

function lines(
  columns: readonly Column[],
  rows: readonly Cells[],
  comma: string,
  safe: (text: string) => string,
): string {
  const head = columns.map((column) => safe(column.name)).join(comma);
  const body = rows.map((row) => columns.map((column, at) => safe(plain(row[at], column))).join(comma));
  return [head, ...body].join("\n");
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
