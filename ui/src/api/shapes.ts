/** What the server says, as the page uses it; the readers turn JSON into it. */

import { isList, isObject, number, objects, text, word, type Json, type JsonObject } from "./json";

export type Kind =
  | "text"
  | "number"
  | "boolean"
  | "timestamp"
  | "date"
  | "time"
  | "json"
  | "bytes"
  | "vector";

export interface Column {
  readonly name: string;
  /** As it is written in SQL: `BIGINT`, `DECIMAL(10, 2)`. */
  readonly type: string;
  readonly kind: Kind;
  readonly isKey: boolean;
}

export type Row = readonly Json[];

export interface RowsResult {
  readonly is: "rows";
  readonly columns: readonly Column[];
  readonly rows: readonly Row[];
  readonly asUser: string;
  readonly cursor: string | null;
}

export interface MessageResult {
  readonly is: "message";
  readonly message: string;
  readonly rowCount: number;
  readonly cursor: string | null;
}

export type Result = RowsResult | MessageResult;

export interface Fault {
  readonly code: string;
  readonly message: string;
  readonly sqlstate: string | null;
  readonly hint: string | null;
  /** Where in the text that was sent; both count from 1. */
  readonly position: { readonly line: number; readonly column: number } | null;
}

export interface User {
  readonly name: string;
  readonly role: string;
}

const KINDS: Readonly<Record<string, Kind>> = {
  boolean: "boolean",
  smallint: "number",
  int: "number",
  bigint: "number",
  float: "number",
  double: "number",
  decimal: "number",
  timestamp: "timestamp",
  datetime: "timestamp",
  date: "date",
  time: "time",
  json: "json",
  file: "json",
  bytes: "bytes",
  embedding: "vector",
};

export function columnsOf(schema: readonly JsonObject[]): Column[] {
  return schema.map((entry) => {
    const flags = isList(entry["flags"]) ? entry["flags"] : [];
    return { name: text(entry, "name"), ...typeOf(entry["data_type"]), isKey: flags.includes("pk") };
  });
}

function typeOf(said: Json | undefined): { type: string; kind: Kind } {
  if (typeof said === "string") {
    return { type: said.toUpperCase(), kind: KINDS[said.toLowerCase()] ?? "text" };
  }
  const [name, detail] = isObject(said) ? (Object.entries(said)[0] ?? ["text", null]) : ["text", null];
  const size = isObject(detail) ? Object.values(detail).map(word).join(", ") : word(detail);
  return { type: `${name.toUpperCase()}(${size})`, kind: KINDS[name.toLowerCase()] ?? "text" };
}

export function resultOf(said: JsonObject): Result {
  const cursor = typeof said["cursor"] === "string" ? said["cursor"] : null;
  const rows = said["rows"];
  if (isList(rows)) {
    const columns = columnsOf(objects(said, "schema"));
    return { is: "rows", columns, rows: rows.filter(isList), asUser: text(said, "as_user"), cursor };
  }
  return { is: "message", message: text(said, "message"), rowCount: number(said, "row_count"), cursor };
}

/** An error of the SQL route, of the auth routes, or of a live query. */
export function faultOf(said: Json | undefined, status: number): Fault {
  const inner = isObject(said) && isObject(said["error"]) ? said["error"] : said;
  if (!isObject(inner)) {
    return plainFault("UNREADABLE", `the server answered ${status} and no error that can be read`);
  }
  const word = text(inner, "code") || text(inner, "error") || `HTTP_${status}`;
  const message = text(inner, "message", "the server gave no reason");
  return {
    code: word.toUpperCase(),
    message,
    sqlstate: text(inner, "sqlstate") || null,
    hint: text(inner, "hint") || null,
    position: positionIn(message),
  };
}

export function plainFault(code: string, message: string, hint: string | null = null): Fault {
  return { code, message, sqlstate: null, hint, position: null };
}

function positionIn(message: string): Fault["position"] {
  const found = /line (\d+), column (\d+)/.exec(message);
  return found ? { line: Number(found[1]), column: Number(found[2]) } : null;
}
