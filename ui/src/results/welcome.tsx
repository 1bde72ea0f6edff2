/** Before anything was run. */

import type { JSX } from "preact";
import { MOD } from "../shell/keys";
import type { Studio } from "../studio/studio";

const EXAMPLE = `CREATE NAMESPACE IF NOT EXISTS chat;

CREATE USER TABLE IF NOT EXISTS chat.messages (
    id    BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(),
    room  TEXT NOT NULL,
    body  TEXT NOT NULL,
    sent  TIMESTAMP DEFAULT NOW()
);

INSERT INTO chat.messages (room, body) VALUES ('tea', 'hello'), ('tea', 'you there?');

SELECT * FROM chat.messages`;

const KEYS: readonly (readonly [string, string])[] = [
  [`${MOD} ↵`, "run the selection, or the statement at the cursor"],
  [`${MOD} ⇧ ↵`, "run everything"],
  ["Ctrl Space", "complete: statements, tables, columns"],
  [`${MOD} /`, "comment"],
  ["Esc, Tab", "leave the editor"],
];

export function Welcome({ studio }: { readonly studio: Studio }): JSX.Element {
  const known = studio.catalogue.namespaces.value.some(({ tables }) => tables.length > 0);
  return (
    <div class="welcome">
      <div>
        <h2>{known ? "Ask something" : "Begin here"}</h2>
        <p>
          {known
            ? "Click a table on the left to see its rows, or write a statement above. With Live on, rows change in place as anybody changes them."
            : "There is no table. An example makes one, puts two rows in and reads them; then switch Live on and insert more."}
        </p>
        <button type="button" class="button" onClick={() => studio.append(EXAMPLE)}>
          Write an example
        </button>
      </div>
      <dl>
        {KEYS.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}
