/** An error: what is wrong, where, its code, and what to do. */

import type { JSX } from "preact";
import type { Fault } from "../api/shapes";
import { Icon } from "../shell/icons";
import { hintFor } from "./hints";

export function FaultCard({ fault, compact = false }: { fault: Fault; compact?: boolean }): JSX.Element {
  const hint = hintFor(fault);
  return (
    <div class={`fault ${compact ? "is-compact" : ""}`} role="alert" data-testid="fault">
      <Icon name="warn" />
      <div>
        <p class="fault-message">{fault.message}</p>
        {hint !== null && <p class="fault-hint">{hint}</p>}
        <p class="fault-codes">
          <code>{fault.code}</code>
          {fault.sqlstate !== null && <code title="SQLSTATE">{fault.sqlstate}</code>}
          {fault.position && (
            <span>
              line {fault.position.line}, column {fault.position.column} of what was sent
            </span>
          )}
        </p>
      </div>
    </div>
  );
}
