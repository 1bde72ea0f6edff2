/** Namespaces, tables and columns of the signed-in user, as SHOW and DESCRIBE tell them. */

import { signal } from "@preact/signals";
import { word } from "../api/json";
import { runSql, type Answer } from "../api/sql";
import type { Session } from "../api/session";
import type { Fault, RowsResult } from "../api/shapes";

export type TableKind = "user" | "shared" | "stream" | "view" | "system";

export interface TableColumn {
  readonly name: string;
  readonly type: string;
  readonly isKey: boolean;
  readonly nullable: boolean;
  readonly preset: string | null;
}

export interface Table {
  readonly namespace: string;
  readonly name: string;
  readonly kind: TableKind;
  /** null until somebody opened it or all were read. */
  readonly columns: readonly TableColumn[] | null;
}

export interface Namespace {
  readonly name: string;
  readonly tables: readonly Table[];
}

/** Above, columns are read when a table is opened; DESCRIBE is one statement each. */
const DESCRIBE_AHEAD_MAX = 200;
const DESCRIBE_AT_ONCE = 50;

export class Catalogue {
  readonly namespaces = signal<readonly Namespace[]>([]);
  readonly fault = signal<Fault | null>(null);
  readonly reading = signal(false);
  readonly #session: Session;
  #turn = 0;

  constructor(session: Session) {
    this.#session = session;
  }

  /** Read all again. What was there stays until the new is whole. */
  async read(): Promise<void> {
    const turn = ++this.#turn;
    this.reading.value = true;
    const answer = await runSql(this.#session, "SHOW NAMESPACES; SHOW TABLES");
    if (turn !== this.#turn) return;
    this.fault.value = answer.fault;
    if (answer.fault === null) {
      const known = new Map(this.#tables().map((table) => [qualified(table), table.columns]));
      this.namespaces.value = namespacesOf(answer, known);
      const tables = this.#tables().slice(0, DESCRIBE_AHEAD_MAX);
      for (let at = 0; at < tables.length && turn === this.#turn; at += DESCRIBE_AT_ONCE) {
        await this.describe(tables.slice(at, at + DESCRIBE_AT_ONCE));
      }
    }
    if (turn === this.#turn) this.reading.value = false;
  }

  async describe(tables: readonly Table[]): Promise<void> {
    const sql = tables.map((table) => `DESCRIBE ${qualified(table)}`).join("; ");
    const answer = await runSql(this.#session, sql);
    // A table dropped meanwhile fails the request; then each is asked alone.
    if (answer.fault !== null && tables.length > 1) {
      for (const table of tables) await this.describe([table]);
      return;
    }
    const found = new Map<string, readonly TableColumn[]>();
    rowsOf(answer).forEach((result, index) => {
      const table = tables[index];
      if (table) found.set(qualified(table), columnsOf(result));
    });
    this.namespaces.value = this.namespaces.peek().map((namespace) => ({
      ...namespace,
      tables: namespace.tables.map((table) => {
        const columns = found.get(qualified(table));
        return columns ? { ...table, columns } : table;
      }),
    }));
  }

  #tables(): Table[] {
    return this.namespaces.peek().flatMap((namespace) => namespace.tables);
  }
}

export function qualified(table: { readonly namespace: string; readonly name: string }): string {
  const namespace = table.namespace === "default" ? '"default"' : table.namespace;
  return `${namespace}.${table.name}`;
}

function namespacesOf(answer: Answer, known: Map<string, Table["columns"]>): Namespace[] {
  const [spaces, tables] = rowsOf(answer);
  const cell = (result: RowsResult, name: string): ((row: RowsResult["rows"][number]) => string) => {
    const index = result.columns.findIndex((column) => column.name === name);
    return (row) => word(row[index]);
  };
  const found = new Map<string, Table[]>();
  if (spaces) for (const name of spaces.rows.map(cell(spaces, "name"))) found.set(name, []);
  if (tables) {
    const [space, name, kind] = ["namespace_id", "table_name", "table_type"].map((it) => cell(tables, it));
    for (const row of tables.rows) {
      const table = { namespace: space?.(row) ?? "", name: name?.(row) ?? "" };
      const columns = known.get(qualified(table)) ?? null;
      const entry = { ...table, kind: kindOf(kind?.(row) ?? ""), columns };
      found.set(table.namespace, [...(found.get(table.namespace) ?? []), entry]);
    }
  }
  return [...found]
    .map(([name, list]) => ({ name, tables: list.sort((a, b) => a.name.localeCompare(b.name)) }))
    .sort((a, b) => a.name.localeCompare(b.name));
}

function rowsOf(answer: Answer): RowsResult[] {
  return answer.results.filter((result) => result.is === "rows");
}

function kindOf(said: string): TableKind {
  const word = said.toLowerCase();
  return word === "user" || word === "stream" || word === "view" || word === "system" ? word : "shared";
}

function columnsOf(result: RowsResult): TableColumn[] {
  const at = (name: string): number => result.columns.findIndex((column) => column.name === name);
  const [name, type, nullable] = [at("column_name"), at("data_type"), at("is_nullable")];
  const [key, preset] = [at("is_primary_key"), at("column_default")];
  return result.rows.map((row) => ({
    name: word(row[name]),
    type: word(row[type]),
    isKey: row[key] === true,
    nullable: row[nullable] === true,
    preset: row[preset] === null || row[preset] === undefined ? null : word(row[preset]),
  }));
}
