/** A JSON value as a tree that opens and closes. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { isList, isObject, type Json } from "../api/json";

const OPEN_DEPTH = 2;
const SHOWN_AT_FIRST = 100;

interface Props {
  readonly value: Json;
  readonly name?: string;
  readonly depth?: number;
}

export function JsonTree({ value, name, depth = 0 }: Props): JSX.Element {
  const [most, setMost] = useState(SHOWN_AT_FIRST);
  const label = name === undefined ? null : <span class="json-name">{name}: </span>;
  const inner: readonly (readonly [string, Json])[] | null = isList(value)
    ? value.map((each, at) => [String(at), each] as const)
    : isObject(value)
      ? Object.entries(value).map(([key, each]) => [key, each ?? null] as const)
      : null;
  if (inner === null) {
    return (
      <div class="json-leaf">
        {label}
        <span class={`json-${value === null ? "null" : typeof value}`}>{JSON.stringify(value)}</span>
      </div>
    );
  }
  const size = isList(value) ? `[${inner.length}]` : `{${inner.length}}`;
  return (
    <details class="json" open={depth < OPEN_DEPTH}>
      <summary>
        {label}
        <span class="json-size">{size}</span>
      </summary>
      {inner.slice(0, most).map(([key, each]) => (
        <JsonTree key={key} name={key} value={each} depth={depth + 1} />
      ))}
      {inner.length > most && (
        <button type="button" class="link" onClick={() => setMost(most * 10)}>
          {inner.length - most} more
        </button>
      )}
    </details>
  );
}
