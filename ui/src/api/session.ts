/**
 * Who is signed in. The access token lives in this object and nowhere else; after a reload the
 * refresh cookie, which no script can read, gives a new one.
 */

import { signal, type ReadonlySignal } from "@preact/signals";
import { isObject, parse, text, type Json } from "./json";
import { faultOf, plainFault, type Fault, type User } from "./shapes";

const AUTH = "/v1/api/auth";
/** Says only that signing in again is worth a try; no secret. */
const MARK = "kalamdb.signed-in";
const RENEW_BEFORE_MS = 60_000;

export class Refused extends Error {
  readonly fault: Fault;

  constructor(fault: Fault) {
    super(fault.message);
    this.fault = fault;
  }
}

export interface FirstUser {
  readonly user: string;
  readonly password: string;
  readonly root_password: string;
}

interface Token {
  readonly text: string;
  readonly expiresMs: number;
}

export class Session {
  readonly #user = signal<User | null>(null);
  #token: Token | null = null;
  #renewal: Promise<string> | null = null;

  get user(): ReadonlySignal<User | null> {
    return this.#user;
  }

  /** When the token in hand should be renewed, in milliseconds of the clock. */
  get renewAtMs(): number {
    return this.#token === null ? 0 : this.#token.expiresMs - RENEW_BEFORE_MS;
  }

  /** After a reload: true when the cookie still holds. */
  async resume(): Promise<boolean> {
    if (localStorage.getItem(MARK) === null) return false;
    try {
      await this.renew();
      return true;
    } catch {
      return false;
    }
  }

  /** Throws Refused. */
  async signIn(user: string, password: string): Promise<void> {
    this.#accept(await post("/login", { user, password }));
  }

  /** Gives root its password and makes the first user. Throws Refused. */
  async setUp(first: FirstUser): Promise<void> {
    await post("/setup", { ...first });
    await this.signIn(first.user, first.password);
  }

  async needsSetup(): Promise<boolean> {
    const response = await fetch(`${AUTH}/status`).catch(() => null);
    if (response?.ok !== true) return false;
    const said = parse(await response.text());
    return isObject(said) && said["needs_setup"] === true;
  }

  async signOut(): Promise<void> {
    const token = this.#token?.text;
    this.forget();
    await post("/logout", {}, token).catch(() => null);
  }

  /** The session is over, whoever ended it. */
  forget(): void {
    this.#token = null;
    this.#user.value = null;
    localStorage.removeItem(MARK);
    sessionStorage.clear();
  }

  /** An access token that is good for a while. Throws Refused. */
  async token(): Promise<string> {
    if (this.#token !== null && Date.now() < this.renewAtMs) return this.#token.text;
    return this.renew();
  }

  /** A new access token, by the cookie; one request, however many ask. Throws Refused. */
  renew(): Promise<string> {
    this.#renewal ??= this.#renew().finally(() => (this.#renewal = null));
    return this.#renewal;
  }

  async #renew(): Promise<string> {
    try {
      return this.#accept(await post("/refresh", {}));
    } catch (error) {
      if (error instanceof Refused && error.fault.code === "UNAUTHORIZED") this.forget();
      throw error;
    }
  }

  #accept(said: Json): string {
    if (!isObject(said) || !isObject(said["user"])) {
      throw new Refused(plainFault("UNREADABLE", "the answer to the sign-in cannot be read"));
    }
    const token = text(said, "access_token");
    this.#token = { text: token, expiresMs: lifeEndMs(text(said, "expires_at")) };
    const user = { name: text(said["user"], "id"), role: text(said["user"], "role") };
    const known = this.#user.peek();
    if (known?.name !== user.name || known.role !== user.role) this.#user.value = user;
    localStorage.setItem(MARK, "1");
    return token;
  }
}

/** A clock that is wrong must not make every request renew first. */
function lifeEndMs(said: string): number {
  const endMs = Date.parse(said);
  const shortestMs = Date.now() + 2 * RENEW_BEFORE_MS;
  return Number.isNaN(endMs) ? shortestMs : Math.max(endMs, shortestMs);
}

async function post(path: string, body: Record<string, string>, token?: string): Promise<Json> {
  const headers: Record<string, string> = { "Content-Type": "application/json" };
  if (token !== undefined) headers["Authorization"] = `Bearer ${token}`;
  const options = { method: "POST", headers, body: JSON.stringify(body) };
  let response: Response;
  try {
    response = await fetch(AUTH + path, options);
  } catch {
    throw new Refused(plainFault("UNREACHABLE", "the server cannot be reached"));
  }
  const said = parse(await response.text());
  if (!response.ok) throw new Refused(faultOf(said, response.status));
  return said;
}
