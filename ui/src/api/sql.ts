/** POST /v1/api/sql. */

import { isObject, number, objects, parse } from "./json";
import { Refused, type Session } from "./session";
import { faultOf, plainFault, resultOf, type Fault, type Result } from "./shapes";

export interface Answer {
  readonly results: readonly Result[];
  readonly fault: Fault | null;
  /** In the server, as it says. */
  readonly tookMs: number;
  /** With the way there and back. */
  readonly tripMs: number;
}

/** Run statements. Faults of the statement and of the way are in the answer; only `stop` throws. */
export async function runSql(session: Session, sql: string, stop?: AbortSignal): Promise<Answer> {
  const begunMs = performance.now();
  const failed = (fault: Fault): Answer => {
    return { results: [], fault, tookMs: 0, tripMs: performance.now() - begunMs };
  };
  try {
    let response = await send(await session.token(), sql, stop);
    // 401 comes before anything ran, so that asking again is safe.
    if (response.status === 401) response = await send(await session.renew(), sql, stop);
    const said = parse(await response.text());
    const fault = response.ok && isObject(said) ? null : faultOf(said, response.status);
    return {
      results: isObject(said) ? objects(said, "results").map(resultOf) : [],
      fault,
      tookMs: isObject(said) ? number(said, "took") : 0,
      tripMs: performance.now() - begunMs,
    };
  } catch (error) {
    if (error instanceof Refused) return failed(error.fault);
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    const hint = "A statement that writes may or may not have been done: look before you repeat it.";
    return failed(plainFault("UNREACHABLE", "the connection to the server broke", hint));
  }
}

function send(token: string, sql: string, stop?: AbortSignal): Promise<Response> {
  return fetch("/v1/api/sql", {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
    body: JSON.stringify({ sql }),
    ...(stop && { signal: stop }),
  });
}
