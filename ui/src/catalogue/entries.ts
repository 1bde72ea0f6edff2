/** The tree as a flat list of what is in sight. */

import type { IconName } from "../shell/icons";
import { qualified, type Namespace, type Table } from "./catalogue";

export interface Entry {
  readonly is: "namespace" | "table" | "column";
  readonly id: string;
  readonly level: 1 | 2 | 3;
  readonly name: string;
  readonly kind: IconName;
  readonly note: string;
  readonly title: string;
  readonly label: string;
  /** null: nothing inside. */
  readonly open: boolean | null;
  readonly table: Table | null;
}

/** `turned` holds ids that are not as they are at first: namespaces open, tables closed. */
export function entriesOf(
  namespaces: readonly Namespace[],
  turned: ReadonlySet<string>,
  wish: string,
): Entry[] {
  const word = wish.trim().toLowerCase();
  return namespaces.flatMap((namespace) => {
    const tables = namespace.tables.filter(
      (table) => word === "" || namespace.name.includes(word) || matches(table, word),
    );
    if (word !== "" && tables.length === 0 && !namespace.name.includes(word)) return [];
    const open = !turned.has(namespace.name);
    const head: Entry = {
      is: "namespace",
      id: namespace.name,
      level: 1,
      name: namespace.name,
      kind: "namespace",
      note: String(namespace.tables.length),
      title: `namespace ${namespace.name}`,
      label: `namespace ${namespace.name}, ${namespace.tables.length} tables`,
      open: tables.length > 0 ? open : null,
      table: null,
    };
    return [head, ...(open ? tables.flatMap((table) => tableEntries(table, turned, word)) : [])];
  });
}

function matches(table: Table, word: string): boolean {
  return table.name.includes(word) || (table.columns ?? []).some(({ name }) => name.includes(word));
}

function tableEntries(table: Table, turned: ReadonlySet<string>, word: string): Entry[] {
  const id = qualified(table);
  const found = word !== "" && !table.name.includes(word) && !table.namespace.includes(word);
  const open = turned.has(id) !== found;
  const head: Entry = {
    is: "table",
    id,
    level: 2,
    name: table.name,
    kind: table.kind,
    note: table.kind,
    title: `${table.kind} table ${id}: click to query it`,
    label: `${table.kind} table ${id}`,
    open,
    table,
  };
  if (!open) return [head];
  const columns = (table.columns ?? []).filter(({ name }) => !found || name.includes(word));
  return [
    head,
    ...columns.map((column): Entry => {
      const optional = column.nullable ? "" : " NOT NULL";
      const preset = column.preset === null ? "" : ` DEFAULT ${column.preset}`;
      const key = column.isKey ? ", primary key" : "";
      return {
        is: "column",
        id: `${id}.${column.name}`,
        level: 3,
        name: column.name,
        kind: column.isKey ? "key" : "column",
        note: column.type.toLowerCase(),
        title: `${column.name} ${column.type}${optional}${preset}${key}`,
        label: `column ${column.name} ${column.type}${key}`,
        open: null,
        table: null,
      };
    }),
  ];
}
