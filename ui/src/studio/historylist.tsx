/** Past statements; a click puts one back into the editor. */

import type { JSX } from "preact";
import { Icon } from "../shell/icons";
import type { History } from "./history";

interface Props {
  readonly history: History;
  readonly onTake: (sql: string) => void;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function HistoryList({ history, onTake }: Props): JSX.Element {
  const entries = history.entries.value;
  if (entries.length === 0) {
    return (
      <div class="nothing">
        <Icon name="clock" />
        <p>What you run is listed here until you close this tab or sign out.</p>
      </div>
    );
  }
  return (
    <>
      <ol class="past">
        {entries.map((entry) => (
          <li key={`${entry.atMs} ${entry.sql}`}>
            <button type="button" onClick={() => onTake(entry.sql.replace(/;\s*$/, ""))} title={entry.sql}>
              <code>{entry.sql.replaceAll(/\s+/g, " ").slice(0, 160)}</code>
              <small>
                <i class={entry.ok ? "dot is-good" : "dot is-bad"} />
                {clock.format(entry.atMs)} · {entry.note}
              </small>
            </button>
          </li>
        ))}
      </ol>
      <button type="button" class="button is-quiet is-small" onClick={() => history.clear()}>
        Clear the history
      </button>
    </>
  );
}
