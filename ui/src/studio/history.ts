/** Statements that were run, newest first; of this browser tab, gone with it or with the sign-out. */

import { signal } from "@preact/signals";
import { isList, isObject, number, parse, text } from "../api/json";
import { mayBeKept } from "./reading";

export interface Past {
  readonly sql: string;
  readonly ok: boolean;
  readonly note: string;
  readonly atMs: number;
}

const KEY = "kalamdb.history";
const ENTRIES_MAX = 100;
const KEPT_CHARACTERS_MAX = 20_000;

export class History {
  readonly entries = signal<readonly Past[]>(read());

  add(past: Past): void {
    const others = this.entries.peek().filter((entry) => entry.sql !== past.sql);
    this.entries.value = [past, ...others].slice(0, ENTRIES_MAX);
    const kept = this.entries.peek().filter(({ sql }) => mayBeKept(sql) && sql.length <= KEPT_CHARACTERS_MAX);
    try {
      sessionStorage.setItem(KEY, JSON.stringify(kept));
    } catch {
      sessionStorage.removeItem(KEY);
    }
  }

  clear(): void {
    this.entries.value = [];
    sessionStorage.removeItem(KEY);
  }
}

function read(): Past[] {
  const kept = parse(sessionStorage.getItem(KEY) ?? "[]");
  if (!isList(kept)) return [];
  return kept.filter(isObject).map((entry) => ({
    sql: text(entry, "sql"),
    ok: entry["ok"] === true,
    note: text(entry, "note"),
    atMs: number(entry, "atMs"),
  }));
}
