/** KalamDB's words, for colour and completion. */

import { SQLDialect } from "@codemirror/lang-sql";
import { snippetCompletion, type Completion } from "@codemirror/autocomplete";

const KEYWORDS = `access_level add all alter analyze and any as asc at begin between by cascade case check
collate column commit conflict constraint create cross current_role current_user default delete desc
describe distinct do drop else email end escape except excluded execute exists explain false fetch first
following for from full group having history if ilike in index inner insert internal intersect into is
join key kill last lateral left like limit live namespace namespaces natural not nothing null nulls
offset on options or order outer over partition password preceding primary query range recursive rename
restrict returning right role rollback row rows savepoint select set shared show stats stream subscribe
table tables then to topic transaction true ttl_seconds type unbounded union unique update use user
users using values view views when where window with without`;

const TYPES = `bigint blob boolean bytea bytes char date datetime decimal double embedding enum file float
int integer json jsonb numeric real serial bigserial smallint text time timestamp timestamptz uuid varchar`;

const FUNCTIONS: Readonly<Record<string, string>> = {
  abs: "number", array_agg: "aggregate", avg: "aggregate", coalesce: "first that is not NULL",
  count: "aggregate", current_role: "role of the session", date_trunc: "to the start of a unit",
  length: "of a text", lower: "of a text", max: "aggregate", min: "aggregate", now: "current time",
  nullif: "NULL when equal", row_number: "window", snowflake_id: "new increasing BIGINT",
  starts_with: "of a text", string_agg: "aggregate", substring: "of a text", sum: "aggregate",
  to_char: "time as text", trim: "of a text", ulid: "new sortable TEXT", upper: "of a text",
  uuid_v7: "new sortable UUID",
};

export const kalam = SQLDialect.define({
  keywords: KEYWORDS.replaceAll("\n", " "),
  types: TYPES.replaceAll("\n", " "),
  builtin: Object.keys(FUNCTIONS).join(" "),
  operatorChars: "*+-%<>!=&|~^/?:",
  doubleQuotedStrings: false,
  caseInsensitiveIdentifiers: true,
});

export const functionCompletions: readonly Completion[] = Object.entries(FUNCTIONS).map(
  ([name, detail]) => snippetCompletion(`${name.toUpperCase()}(\${})`, {
    label: name.toUpperCase(), type: "function", detail, boost: -1,
  }),
);

/** Whole statements, offered where one begins. */
export const statementCompletions: readonly Completion[] = [
  ["SELECT", "SELECT ${*} FROM ${table}", "rows of a table"],
  ["INSERT INTO", "INSERT INTO ${table} (${columns}) VALUES (${values})", "new rows"],
  ["UPDATE", "UPDATE ${table} SET ${column} = ${value} WHERE ${condition}", "change rows"],
  ["DELETE FROM", "DELETE FROM ${table} WHERE ${condition}", "remove rows"],
  ["CREATE NAMESPACE", "CREATE NAMESPACE ${name}", "a room for tables"],
  [
    "CREATE USER TABLE",
    "CREATE USER TABLE ${namespace}.${name} (\n    id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(),\n    ${body} TEXT NOT NULL\n)",
    "each user has rows of their own",
  ],
  [
    "CREATE SHARED TABLE",
    "CREATE SHARED TABLE ${namespace}.${name} (\n    id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(),\n    ${title} TEXT NOT NULL\n) WITH (ACCESS_LEVEL = '${public}')",
    "one set of rows for all",
  ],
  [
    "CREATE STREAM TABLE",
    "CREATE STREAM TABLE ${namespace}.${name} (\n    id TEXT PRIMARY KEY DEFAULT ULID(),\n    ${payload} JSON\n) WITH (TTL_SECONDS = ${60})",
    "rows that expire",
  ],
  ["CREATE USER", "CREATE USER '${name}' WITH PASSWORD '${password}' ROLE ${user}", "someone who signs in"],
  ["EXECUTE AS", "EXECUTE AS '${user}' (${statement})", "as another tenant"],
  ["DESCRIBE", "DESCRIBE ${table}", "columns of a table"],
  ["SHOW NAMESPACES", "SHOW NAMESPACES", "all of them"],
  ["SHOW TABLES", "SHOW TABLES", "of a namespace, or all"],
  ["EXPLAIN", "EXPLAIN ${select}", "how it would run"],
  ["SUBSCRIBE TO", "SUBSCRIBE TO ${table}", "what a client sends"],
].map(([label = "", template = "", detail = ""]) =>
  snippetCompletion(template, { label, detail, type: "statement", boost: 60 }),
);
