/**
 * Namespaces, tables, columns. A click on a table queries it, on its arrow opens it.
 * Keyboard: up and down walk, right opens, left closes, Enter queries.
 */

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { Icon } from "../shell/icons";
import type { Catalogue, Table } from "./catalogue";
import { entriesOf, type Entry } from "./entries";

interface Props {
  readonly catalogue: Catalogue;
  readonly onQuery: (table: Table) => void;
}

export function Tree({ catalogue, onQuery }: Props): JSX.Element {
  const [wish, setWish] = useState("");
  // Namespaces are open at first, tables closed: what differs is kept.
  const [turned, setTurned] = useState<ReadonlySet<string>>(new Set());
  const [focused, setFocused] = useState(0);
  const namespaces = catalogue.namespaces.value;
  const entries = useMemo(() => entriesOf(namespaces, turned, wish), [namespaces, turned, wish]);
  const here = Math.min(focused, entries.length - 1);

  const turn = (entry: Entry): void => {
    const next = new Set(turned);
    if (!next.delete(entry.id)) next.add(entry.id);
    setTurned(next);
    if (entry.table?.columns === null) void catalogue.describe([entry.table]);
  };
  const go = (to: number): void => {
    const next = Math.min(Math.max(to, 0), entries.length - 1);
    setFocused(next);
    const id = entries[next]?.id;
    if (id !== undefined) document.getElementById(`tree ${id}`)?.focus();
  };
  const act = (entry: Entry): void => {
    if (entry.is === "table" && entry.table) onQuery(entry.table);
    else if (entry.is === "namespace") turn(entry);
  };
  const press = (event: KeyboardEvent): void => {
    const entry = entries[here];
    if (!entry) return;
    const step = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: entries.length }[event.key];
    if (step !== undefined) go(step);
    else if (event.key === "ArrowRight" && entry.open === false) turn(entry);
    else if (event.key === "ArrowRight" && entry.open === true) go(here + 1);
    else if (event.key === "ArrowLeft" && entry.open === true) turn(entry);
    else if (event.key === "ArrowLeft") go(parentOf(entries, here));
    else if (event.key === "Enter") act(entry);
    else return;
    event.preventDefault();
  };

  return (
    <>
      <div class="side-search">
        <Icon name="search" />
        <input
          type="search"
          placeholder="Find a table or column"
          aria-label="Search tables and columns"
          value={wish}
          onInput={(event) => setWish(event.currentTarget.value)}
        />
        <button
          type="button"
          class={`icon-button ${catalogue.reading.value ? "is-turning" : ""}`}
          aria-label="Read the list of tables again"
          title="Read again"
          onClick={() => void catalogue.read()}
        >
          <Icon name="refresh" />
        </button>
      </div>
      {catalogue.fault.value && <p class="side-fault">{catalogue.fault.value.message}</p>}
      <ul class="tree" role="tree" aria-label="Namespaces and tables" onKeyDown={press}>
        {entries.map((entry, at) => (
          <li
            key={entry.id}
            id={`tree ${entry.id}`}
            role="treeitem"
            aria-level={entry.level}
            aria-expanded={entry.open ?? undefined}
            aria-label={entry.label}
            tabIndex={at === here ? 0 : -1}
            class={`tree-${entry.is} level-${entry.level}`}
            title={entry.title}
            onFocus={() => setFocused(at)}
            onClick={() => act(entry)}
          >
            <span
              class={`tree-arrow ${entry.open === true ? "is-open" : ""}`}
              onClick={(event) => {
                if (entry.open === null) return;
                event.stopPropagation();
                turn(entry);
              }}
            >
              {entry.open !== null && <Icon name="chevron" />}
            </span>
            <span class={`kind kind-${entry.kind}`}>
              <Icon name={entry.kind} />
            </span>
            <span class="tree-name">{entry.name}</span>
            <span class="tree-note">{entry.note}</span>
          </li>
        ))}
      </ul>
      {entries.length === 0 && !catalogue.reading.value && (
        <p class="side-nothing">{wish === "" ? "There are no tables." : `Nothing is called “${wish}”.`}</p>
      )}
    </>
  );
}

function parentOf(entries: readonly Entry[], at: number): number {
  const level = entries[at]?.level ?? 1;
  for (let up = at - 1; up >= 0; up -= 1) if ((entries[up]?.level ?? 1) < level) return up;
  return at;
}
