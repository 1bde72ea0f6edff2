/**
 * One live query over /v1/ws: signs in, subscribes, keeps alive, and after a break goes on from
 * the cursor of the last frame. No rows in it: whole frames go to `onFrame`, in order.
 */

import { signal, type ReadonlySignal } from "@preact/signals";
import { parse } from "../api/json";
import { Refused, type Session } from "../api/session";
import { plainFault, type Fault } from "../api/shapes";
import { frameOf, type Frame, type LiveError } from "./frames";

export type LiveState =
  | { readonly is: "connecting" }
  | { readonly is: "loading" }
  | { readonly is: "live" }
  | { readonly is: "waiting"; readonly untilMs: number }
  | { readonly is: "ended"; readonly fault: Fault | null };

const PING_EVERY_MS = 4_000;
const DEAD_AFTER_MS = 10_000;
const WAIT_FIRST_MS = 400;
const WAIT_LONGEST_MS = 10_000;
const TIMER_MAX_MS = 2 ** 31 - 1;
const ID = "page";
/** Before any row: all of them. */
const BEGINNING = "0";
/** The node cannot now; the query is good. */
const TRY_AGAIN = new Set(["NOT_LEADER", "CLUSTER_UNAVAILABLE", "LEADERSHIP_LOST", "SLOW_CONSUMER"]);

export interface LiveEvents {
  /** All rows come anew with the next pages. */
  readonly onRestart: () => void;
  readonly onFrame: (frame: Frame) => void;
}

export class LiveConnection {
  readonly #state = signal<LiveState>({ is: "connecting" });
  readonly #session: Session;
  readonly #sql: string;
  readonly #events: LiveEvents;
  #cursor = BEGINNING;
  #socket: WebSocket | null = null;
  #heardMs = 0;
  #failures = 0;
  #renewNext = false;
  #timers: ReturnType<typeof setTimeout>[] = [];

  constructor(session: Session, sql: string, events: LiveEvents) {
    this.#session = session;
    this.#sql = sql;
    this.#events = events;
  }

  get state(): ReadonlySignal<LiveState> {
    return this.#state;
  }

  start(): void {
    void this.#connect();
  }

  stop(fault: Fault | null = null): void {
    this.#leave();
    this.#state.value = { is: "ended", fault };
  }

  /** Throw away what was sent and take all rows anew; for a client that lost track. */
  restart(): void {
    this.#cursor = BEGINNING;
    this.#subscribe();
  }

  /** Connect now instead of at the end of the wait. */
  hurry(): void {
    if (this.#state.peek().is === "waiting") void this.#connect();
  }

  get #ended(): boolean {
    return this.#state.peek().is === "ended";
  }

  async #connect(): Promise<void> {
    this.#leave();
    this.#state.value = { is: "connecting" };
    let token: string;
    try {
      token = await (this.#renewNext ? this.#session.renew() : this.#session.token());
    } catch (error) {
      const fault = error instanceof Refused ? error.fault : plainFault("UNREACHABLE", String(error));
      if (fault.code === "UNAUTHORIZED") this.stop(fault);
      else this.#wait();
      return;
    }
    if (this.#ended) return;
    this.#renewNext = false;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/v1/ws`);
    this.#socket = socket;
    this.#heardMs = Date.now();
    socket.onopen = () => {
      this.#signIn(token);
      this.#subscribe();
    };
    socket.onmessage = (message: MessageEvent<unknown>) => this.#hear(message.data);
    // At once: on a dead connection onclose may be long in coming.
    socket.onclose = () => this.#wait();
    this.#timers.push(setInterval(() => this.#beat(), PING_EVERY_MS));
  }

  #signIn(token: string): void {
    const protocol = { serialization: "json", compression: "none" };
    this.#send({ type: "authenticate", method: "jwt", token, protocol });
    const inMs = Math.max(this.#session.renewAtMs - Date.now(), 1_000);
    this.#timers.push(setTimeout(() => void this.#signInAnew(), Math.min(inMs, TIMER_MAX_MS)));
  }

  async #signInAnew(): Promise<void> {
    const socket = this.#socket;
    const token = await this.#session.token().catch(() => null);
    if (token !== null && socket !== null && socket === this.#socket) this.#signIn(token);
  }

  #subscribe(): void {
    const options = { from: this.#cursor, on_expired: "snapshot" };
    this.#state.value = { is: "loading" };
    this.#send({ type: "subscribe", subscription: { id: ID, sql: this.#sql, options } });
  }

  #send(message: object): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #beat(): void {
    if (Date.now() - this.#heardMs > DEAD_AFTER_MS) this.#wait();
    else this.#send({ type: "ping" });
  }

  #hear(data: unknown): void {
    this.#heardMs = Date.now();
    const frame = frameOf(typeof data === "string" ? parse(data) : null);
    switch (frame.is) {
      case "ack":
        if (frame.reset) this.#cursor = BEGINNING;
        if (this.#cursor === BEGINNING && frame.seq === null) this.#events.onRestart();
        else this.#caughtUp();
        break;
      case "page":
        if (frame.hasMore) this.#send({ type: "next_batch", subscription_id: ID });
        else this.#caughtUp();
        break;
      case "error":
        this.#fail(frame);
        return;
      case "refused":
        this.#renewNext = true;
        this.#wait();
        return;
      case "change":
      case "position":
      case "signed in":
      case "other":
        break;
    }
    if ("seq" in frame && frame.seq !== null) this.#cursor = frame.seq;
    this.#events.onFrame(frame);
  }

  #caughtUp(): void {
    this.#failures = 0;
    this.#state.value = { is: "live" };
  }

  #fail(error: LiveError): void {
    if (error.fault.code === "CURSOR_EXPIRED") this.restart();
    else if (TRY_AGAIN.has(error.fault.code)) this.#wait();
    else this.stop(error.fault);
  }

  #wait(): void {
    if (this.#ended) return;
    this.#leave();
    const longest = Math.min(WAIT_FIRST_MS * 2 ** this.#failures, WAIT_LONGEST_MS);
    // Not all pages of a node that restarts at the same moment.
    const waitMs = longest * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#state.value = { is: "waiting", untilMs: Date.now() + waitMs };
    this.#timers.push(setTimeout(() => void this.#connect(), waitMs));
  }

  #leave(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
}
