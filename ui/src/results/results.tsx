/** Below the editor: rows, messages, faults, or the live query; and the line that says how it went. */

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import type { Answer } from "../api/sql";
import type { Column, Fault, Result } from "../api/shapes";
import { formatted, type Format } from "../grid/copy";
import { Grid, type GridRowLike } from "../grid/grid";
import type { Done, Studio } from "../studio/studio";
import { FaultCard } from "./faultcard";
import { Inspector } from "./inspector";
import { LiveResults } from "./live";
import { StatusLine } from "./status";
import { Welcome } from "./welcome";

export function Results({ studio }: { readonly studio: Studio }): JSX.Element {
  const done = studio.done.value;
  const live = studio.live.value;
  const turn = useTurn(done);
  return (
    <section class="panel results" aria-label="Results" aria-busy={studio.running.value !== null}>
      {studio.running.value !== null && <div class="progress" role="progressbar" aria-label="Running" />}
      {live ? (
        <LiveResults key={live.sql} live={live} studio={studio} beside={done} />
      ) : done ? (
        <Answered key={turn} done={done} />
      ) : (
        <Welcome studio={studio} />
      )}
    </section>
  );
}

function Answered({ done }: { readonly done: Done }): JSX.Element {
  const { answer } = done;
  const [at, setAt] = useState(lastRows(answer));
  if (answer.fault !== null) return <FaultCard fault={answer.fault} />;
  const result = answer.results[Math.min(at, answer.results.length - 1)];
  return (
    <>
      {answer.results.length > 1 && (
        <div class="result-tabs" role="tablist" aria-label="Results of the statements">
          {answer.results.map((each, index) => (
            <button
              key={index}
              type="button"
              role="tab"
              aria-selected={index === at}
              onClick={() => setAt(index)}
            >
              {index + 1} <small>{titleOf(each)}</small>
            </button>
          ))}
        </div>
      )}
      {result?.is === "rows" ? (
        <RowsView
          columns={result.columns}
          rows={gridRows(result.rows)}
          status={<AnswerStatus answer={answer} rows={result.rows.length} asUser={result.asUser} />}
        />
      ) : (
        <>
          <div class="said">
            <p>{result?.message ?? "done"}</p>
          </div>
          <StatusLine left={<AnswerStatus answer={answer} rows={null} asUser={null} />} />
        </>
      )}
    </>
  );
}

/** A number of its own for each answer: the next one begins as if nothing had been chosen. */
function useTurn(done: Done | null): number {
  const kept = useRef({ done, turn: 0 });
  if (kept.current.done !== done) kept.current = { done, turn: kept.current.turn + 1 };
  return kept.current.turn;
}

interface RowsViewProps {
  readonly columns: readonly Column[];
  readonly rows: readonly GridRowLike[];
  readonly status: JSX.Element;
  readonly fault?: Fault | null;
}

/** Grid, inspector and status line of one list of rows. */
export function RowsView({ columns, rows, status, fault = null }: RowsViewProps): JSX.Element {
  const [chosen, setChosen] = useState<number | null>(null);
  const [inspecting, setInspecting] = useState(false);
  const [said, say] = useState("");
  const copy = (text: string, what: string): void => {
    navigator.clipboard.writeText(text).then(
      () => say(`${what} copied`),
      () => say("the browser does not allow copying"),
    );
  };
  const row = rows.find((each) => each.id === chosen) ?? null;
  const copyAll = (format: Format): void => {
    copy(formatted(format, columns, rows.map((each) => each.cells)), `${rows.length} rows as ${format.toUpperCase()}`);
  };
  return (
    <>
      {fault && <FaultCard fault={fault} compact />}
      <div
        class="rows-view"
        onKeyDown={(event) => {
          if (event.key === "Escape") setInspecting(false);
        }}
      >
        {rows.length === 0 ? (
          <EmptyRows columns={columns} />
        ) : (
          <Grid
            columns={columns}
            rows={rows}
            label="Rows"
            onSelect={(each) => setChosen(each.id)}
            onOpen={(each) => {
              setChosen(each.id);
              setInspecting(true);
            }}
            onCopy={(text) => copy(text, "cell")}
          />
        )}
        {inspecting && (
          <Inspector columns={columns} row={row} onCopy={copy} onClose={() => setInspecting(false)} />
        )}
      </div>
      <StatusLine
        left={status}
        said={said}
        onCopy={rows.length > 0 ? copyAll : null}
        inspecting={inspecting}
        onInspect={() => setInspecting(!inspecting)}
      />
    </>
  );
}

function EmptyRows({ columns }: { readonly columns: readonly Column[] }): JSX.Element {
  return (
    <div class="said">
      <p>No rows.</p>
      <p class="dim">{columns.map((column) => column.name).join(", ")}</p>
    </div>
  );
}

function AnswerStatus(props: { answer: Answer; rows: number | null; asUser: string | null }): JSX.Element {
  const { answer, rows, asUser } = props;
  const trip = `${answer.tripMs.toFixed(0)} ms with the way there and back`;
  return (
    <>
      {rows !== null && (
        <span class="count">
          <b>{rows.toLocaleString("en")}</b> {rows === 1 ? "row" : "rows"}
        </span>
      )}
      <span title={trip}>{answer.tookMs.toFixed(answer.tookMs < 10 ? 2 : 0)} ms</span>
      {asUser !== null && asUser !== "" && <span class="dim">as {asUser}</span>}
    </>
  );
}

/** Where one looks first: the last rows there are. */
function lastRows(answer: Answer): number {
  return Math.max(0, answer.results.findLastIndex((result) => result.is === "rows"));
}

const made = new WeakMap<readonly (readonly unknown[])[], readonly GridRowLike[]>();

/** The same list for the same rows, or the grid would begin again. */
function gridRows(rows: readonly GridRowLike["cells"][]): readonly GridRowLike[] {
  const known = made.get(rows);
  if (known) return known;
  const list = rows.map((cells, id) => ({ id, cells }));
  made.set(rows, list);
  return list;
}

function titleOf(result: Result): string {
  return result.is === "rows" ? `${result.rows.length} rows` : result.message;
}
