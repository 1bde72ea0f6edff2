/** What is offered while typing: statements, functions, tables, and columns of the tables named. */

import type { Completion, CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import { keywordCompletionSource } from "@codemirror/lang-sql";
import type { Namespace, Table } from "../catalogue/catalogue";
import { functionCompletions, kalam, statementCompletions } from "./dialect";
import { statementAt } from "./statements";

const NAME = /[\w"]*$/;
const DOTTED = /((?:[\w"]+\.)+)([\w"]*)$/;
const TABLE_USE = /\b(?:from|join|into|update|describe|table)\s+((?:[\w"]+\.)?[\w"]+)(?:\s+(?:as\s+)?(\w+))?/gi;

export type CompletionSource = (context: CompletionContext) => CompletionResult | null;

/** Names follow the catalogue: `read` is asked each time. */
export function catalogueSource(read: () => readonly Namespace[]): CompletionSource {
  return (context) => {
    const line = context.state.doc.lineAt(context.pos);
    const before = context.state.sliceDoc(line.from, context.pos);
    const dotted = DOTTED.exec(before);
    const word = dotted?.[2] ?? NAME.exec(before)?.[0] ?? "";
    if (word === "" && !dotted && !context.explicit) return null;
    const namespaces = read();
    const used = tablesUsed(context, namespaces);
    const options = dotted
      ? membersOf(bare(dotted[1] ?? "").split(".").filter(Boolean), namespaces, used)
      : unqualified(namespaces, used);
    return { from: context.pos - word.length, options, validFor: /^[\w"]*$/ };
  };
}

export function statementSource(context: CompletionContext): CompletionResult | null {
  const before = context.state.sliceDoc(Math.max(0, context.pos - 200), context.pos);
  const opening = /(?:^|;)\s*([A-Za-z][A-Za-z ]*)?$/.exec(before);
  if (!opening || (opening[1] === undefined && !context.explicit)) return null;
  const typed = opening[1] ?? "";
  return { from: context.pos - typed.length, options: [...statementCompletions], validFor: /^[A-Za-z ]*$/ };
}

const keywords = keywordCompletionSource(kalam, true, (label) => ({ label, type: "keyword", boost: -2 }));

export function wordSource(context: CompletionContext): ReturnType<typeof keywords> {
  const before = context.matchBefore(/[\w.]+/);
  if (before?.text.includes(".") === true) return null;
  return keywords(context);
}

export function functionSource(context: CompletionContext): CompletionResult | null {
  const word = context.matchBefore(/\w+/);
  if (!word || context.state.sliceDoc(word.from - 1, word.from) === ".") return null;
  return { from: word.from, options: [...functionCompletions], validFor: /^\w*$/ };
}

interface Used {
  readonly table: Table;
  readonly alias: string | null;
}

function tablesUsed(context: CompletionContext, namespaces: readonly Namespace[]): Used[] {
  const span = statementAt(context.state, context.pos);
  if (!span) return [];
  const text = context.state.sliceDoc(span.from, Math.max(span.to, context.pos));
  const used: Used[] = [];
  for (const [, name = "", alias = null] of text.matchAll(TABLE_USE)) {
    const [first = "", second] = bare(name).split(".");
    const namespace = second === undefined ? "default" : first;
    const space = namespaces.find((one) => one.name === namespace);
    const table = space?.tables.find((one) => one.name === (second ?? first));
    if (table) used.push({ table, alias });
  }
  return used;
}

function membersOf(
  path: readonly string[],
  namespaces: readonly Namespace[],
  used: readonly Used[],
): Completion[] {
  const [first, second] = path;
  const aliased = used.filter(({ table, alias }) => first === alias || first === table.name);
  const space = namespaces.find((namespace) => namespace.name === first);
  if (second !== undefined) {
    const table = space?.tables.find((one) => one.name === second);
    return table ? columnsOf(table) : [];
  }
  return [...aliased.flatMap(({ table }) => columnsOf(table)), ...(space?.tables.map((it) => tableOption(it)) ?? [])];
}

function unqualified(namespaces: readonly Namespace[], used: readonly Used[]): Completion[] {
  return [
    ...used.flatMap(({ table }) => columnsOf(table)),
    ...namespaces.flatMap((namespace) => namespace.tables.map((table) => tableOption(table, true))),
    ...namespaces.map(({ name }) => ({ label: sqlName(name), type: "namespace", detail: "namespace" })),
  ];
}

function tableOption(table: Table, whole = false): Completion {
  const label = whole ? `${sqlName(table.namespace)}.${table.name}` : table.name;
  return { label, type: `${table.kind}-table`, detail: `${table.kind} table`, boost: 1 };
}

function columnsOf(table: Table): Completion[] {
  return (table.columns ?? []).map((column) => ({
    label: column.name,
    type: column.isKey ? "key" : "column",
    detail: column.type.toLowerCase(),
    boost: column.name.startsWith("_") ? 1 : 3,
  }));
}

function sqlName(namespace: string): string {
  return namespace === "default" ? '"default"' : namespace;
}

function bare(name: string): string {
  return name.replaceAll('"', "").toLowerCase();
}
