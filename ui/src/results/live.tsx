/** A live query's rows, its state, and what happened beside it. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { LiveQuery } from "../live/query";
import type { LiveState } from "../live/connection";
import type { Counts } from "../live/row";
import type { Done, Studio } from "../studio/studio";
import { FaultCard } from "./faultcard";
import { RowsView } from "./results";
import { StatusLine } from "./status";

interface Props {
  readonly live: LiveQuery;
  readonly studio: Studio;
  readonly beside: Done | null;
}

export function LiveResults({ live, studio, beside }: Props): JSX.Element {
  const state = live.connection.state.value;
  const view = live.view.value;
  const refusal = state.is === "ended" ? state.fault : null;
  useEffect(() => {
    if (refusal !== null) studio.liveRefused();
  }, [refusal]);
  const fault = refusal ?? beside?.answer.fault ?? null;
  const status = (
    <>
      <LiveBadge state={state} onHurry={() => live.connection.hurry()} />
      {view && (
        <span class="count">
          <b>{alive(view.rows).toLocaleString("en")}</b> {alive(view.rows) === 1 ? "row" : "rows"}
        </span>
      )}
      {view && <Changes counts={view.counts} />}
      {beside && beside.answer.fault === null && <span class="dim">{saidBy(beside)}</span>}
    </>
  );
  if (view === null) {
    return (
      <>
        {fault ? <FaultCard fault={fault} /> : <div class="said" aria-busy="true" />}
        <StatusLine left={status} />
      </>
    );
  }
  return <RowsView columns={view.columns} rows={view.rows} status={status} fault={fault} />;
}

function LiveBadge({ state, onHurry }: { state: LiveState; onHurry: () => void }): JSX.Element {
  return (
    <span class={`badge is-${state.is}`} data-testid="live-state">
      <i />
      {state.is === "waiting" ? <Waiting untilMs={state.untilMs} /> : WORDS[state.is]}
      {state.is === "waiting" && (
        <button type="button" class="link" onClick={onHurry}>
          now
        </button>
      )}
    </span>
  );
}

const WORDS = { connecting: "connecting", loading: "loading", live: "live", ended: "stopped" } as const;

function Waiting({ untilMs }: { readonly untilMs: number }): JSX.Element {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, []);
  return <>cut off, again in {Math.max(0, Math.ceil((untilMs - now) / 1000))} s</>;
}

function Changes({ counts }: { readonly counts: Counts }): JSX.Element {
  return (
    <span class="changes" title="inserted, updated and deleted since it went live">
      <em class="is-insert">+{counts.inserted}</em>
      <em class="is-update">~{counts.updated}</em>
      <em class="is-delete">−{counts.deleted}</em>
    </span>
  );
}

function alive(rows: readonly { readonly leaving: boolean }[]): number {
  return rows.reduce((count, row) => count + (row.leaving ? 0 : 1), 0);
}

function saidBy(done: Done): string {
  const messages = done.answer.results.flatMap((each) => (each.is === "message" ? [each.message] : []));
  return `${messages.join(", ")} · ${done.answer.tookMs.toFixed(2)} ms`;
}
