/** What the SQL view knows and does; the components only show it. */

import { computed, signal } from "@preact/signals";
import type { EditorView } from "@codemirror/view";
import { runSql, type Answer } from "../api/sql";
import type { Session } from "../api/session";
import { Catalogue, qualified, type Table } from "../catalogue/catalogue";
import { markFault, offsetOf } from "../editor/marks";
import { chosen, type Span } from "../editor/statements";
import { LiveQuery } from "../live/query";
import { History } from "./history";
import { changesCatalogue, isQuery, mayBeKept } from "./reading";

export interface Done {
  readonly sql: string;
  readonly answer: Answer;
}

const TEXT_KEY = "kalamdb.text";
const FIRST_LIMIT = " LIMIT 200";

export class Studio {
  readonly catalogue: Catalogue;
  readonly history = new History();
  readonly done = signal<Done | null>(null);
  readonly running = signal<AbortController | null>(null);
  readonly live = signal<LiveQuery | null>(null);
  readonly hasSelection = signal(false);
  readonly isLive = computed(() => this.#wanted.value);
  readonly firstText = sessionStorage.getItem(TEXT_KEY) ?? "";
  readonly #wanted = signal(false);
  readonly #session: Session;
  #view: EditorView | null = null;

  constructor(session: Session) {
    this.#session = session;
    this.catalogue = new Catalogue(session);
    void this.catalogue.read();
  }

  close(): void {
    this.live.peek()?.stop();
    this.running.peek()?.abort();
  }

  editorReady(view: EditorView | null): void {
    this.#view = view;
  }

  keepText(text: string): void {
    if (mayBeKept(text)) sessionStorage.setItem(TEXT_KEY, text);
  }

  /** Run the selection, else the statement at the cursor; or all there is. */
  run(wish: "best" | "all" = "best"): void {
    const view = this.#view;
    if (view === null || this.running.peek() !== null) return;
    const span = chosen(view.state, wish);
    const sql = view.state.sliceDoc(span.from, span.to);
    if (sql.trim() === "") return;
    markFault(view, null);
    if (this.#wanted.peek() && isQuery(sql)) this.#goLive(sql);
    else void this.#run(sql, span);
  }

  stopRunning(): void {
    this.running.peek()?.abort();
  }

  /** Live: the query in sight from now on changes in place. */
  setLive(on: boolean): void {
    this.#wanted.value = on;
    if (!on) {
      this.live.peek()?.stop();
      return;
    }
    if (this.running.peek() !== null) return;
    const last = this.live.peek()?.sql ?? this.done.peek()?.sql;
    // The page's own LIMIT is there because a result ends; a live query goes on.
    if (last !== undefined && isQuery(last)) this.#goLive(last.replace(FIRST_LIMIT, ""));
    else this.run();
  }

  /** The server would not have it live. */
  liveRefused(): void {
    this.#wanted.value = false;
  }

  /** A SELECT of this table, in the editor and at once in the results. */
  query(table: Table): void {
    const sql = `SELECT * FROM ${qualified(table)}${this.#wanted.peek() ? "" : FIRST_LIMIT}`;
    this.append(sql);
    this.run();
  }

  /** Put a statement behind the others, or take one that is there, and set the cursor in it. */
  append(sql: string): void {
    const view = this.#view;
    if (view === null) return;
    const text = view.state.doc.toString();
    const there = text.indexOf(`${sql};`);
    if (there >= 0) {
      view.dispatch({ selection: { anchor: there + sql.length }, scrollIntoView: true });
    } else {
      const kept = text.trimEnd();
      const joint = kept === "" ? "" : kept.endsWith(";") ? "\n\n" : ";\n\n";
      const insert = `${joint}${sql};`;
      const changes = { from: kept.length, to: text.length, insert };
      const anchor = kept.length + insert.length - 1;
      view.dispatch({ changes, selection: { anchor }, scrollIntoView: true });
    }
    view.focus();
  }

  #goLive(sql: string): void {
    this.live.peek()?.stop();
    this.done.value = null;
    this.live.value = new LiveQuery(this.#session, sql);
    this.history.add({ sql, ok: true, note: "live", atMs: Date.now() });
  }

  async #run(sql: string, span: Span): Promise<void> {
    const stop = new AbortController();
    this.running.value = stop;
    try {
      const answer = await runSql(this.#session, sql, stop.signal);
      this.#show(sql, answer, span);
    } catch {
      // Stopped by the user: what was there stays.
    } finally {
      this.running.value = null;
    }
  }

  #show(sql: string, answer: Answer, span: Span): void {
    // A live query stays in sight while others write beside it.
    if (isQuery(sql) && answer.fault === null) {
      this.live.peek()?.stop();
      this.live.value = null;
    }
    this.done.value = { sql, answer };
    this.history.add({ sql, ok: answer.fault === null, note: noteOf(answer), atMs: Date.now() });
    const place = answer.fault?.position;
    if (place && this.#view) {
      markFault(this.#view, offsetOf(this.#view.state.doc, span.from, place.line, place.column));
    }
    if (changesCatalogue(sql)) void this.catalogue.read();
    // Live was switched on while it ran.
    if (this.#wanted.peek() && isQuery(sql) && answer.fault === null) this.#goLive(sql);
  }
}

function noteOf(answer: Answer): string {
  if (answer.fault !== null) return answer.fault.code;
  const rows = answer.results.reduce(
    (sum, result) => sum + (result.is === "rows" ? result.rows.length : result.rowCount),
    0,
  );
  return `${rows} ${rows === 1 ? "row" : "rows"}`;
}
