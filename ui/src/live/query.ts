/** A live query on the page: connection and rows together, published at most once per frame. */

import { signal } from "@preact/signals";
import type { Session } from "../api/session";
import type { Column } from "../api/shapes";
import { LiveConnection } from "./connection";
import type { Frame } from "./frames";
import type { Counts, LiveRow } from "./row";
import { LiveRows } from "./rows";

export interface LiveView {
  readonly columns: readonly Column[];
  readonly rows: readonly LiveRow[];
  readonly counts: Counts;
}

/** As long as the animation of a row that leaves. */
const LEAVING_MS = 600;
/** Beyond, rows go at once: nobody can watch so many. */
const LEAVING_MAX = 500;
/** Hidden pages have no animation frames. */
const HIDDEN_EVERY_MS = 250;

export class LiveQuery {
  readonly view = signal<LiveView | null>(null);
  readonly connection: LiveConnection;
  readonly sql: string;
  readonly #rows = new LiveRows();
  readonly #fading = new Set<LiveRow>();
  #due = false;
  #lost = false;

  constructor(session: Session, sql: string) {
    this.sql = sql;
    const onRestart = (): void => this.#rows.restart();
    const onFrame = (frame: Frame): void => this.#take(frame);
    this.connection = new LiveConnection(session, sql, { onRestart, onFrame });
    this.connection.start();
  }

  stop(): void {
    this.connection.stop();
  }

  #take(frame: Frame): void {
    if (frame.is === "ack") this.#lost = false;
    if (this.#lost) return;
    if (!this.#rows.apply(frame)) {
      this.#lost = true;
      this.connection.restart();
      return;
    }
    // A statement is shown as a whole, a snapshot when its last page is in.
    const shown = frame.is === "change" ? frame.commit : frame.is === "page" && !frame.hasMore;
    if (shown || frame.is === "position") this.#publishSoon();
  }

  #publishSoon(): void {
    if (this.#due) return;
    this.#due = true;
    if (document.hidden) setTimeout(() => this.#publish(), HIDDEN_EVERY_MS);
    else requestAnimationFrame(() => this.#publish());
  }

  #publish(): void {
    this.#due = false;
    const gone = new Set(this.#rows.rows.filter((row) => row.leaving && !this.#fading.has(row)));
    if (gone.size > LEAVING_MAX) this.#rows.sweep(gone);
    else if (gone.size > 0) this.#fade(gone);
    const { columns, rows, counts } = this.#rows;
    this.view.value = { columns, rows: [...rows], counts };
  }

  #fade(gone: ReadonlySet<LiveRow>): void {
    for (const row of gone) this.#fading.add(row);
    setTimeout(() => {
      this.#rows.sweep(gone);
      for (const row of gone) this.#fading.delete(row);
      this.#publishSoon();
    }, LEAVING_MS);
  }
}
