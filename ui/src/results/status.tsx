/** The line under the rows: how many, how long, and what can be done with them. */

import type { ComponentChildren, JSX } from "preact";
import type { Format } from "../grid/copy";
import { Icon } from "../shell/icons";

interface Props {
  readonly left: ComponentChildren;
  readonly said?: string;
  readonly onCopy?: ((format: Format) => void) | null;
  readonly inspecting?: boolean;
  readonly onInspect?: () => void;
}

const FORMATS: readonly Format[] = ["csv", "json", "tsv"];

export function StatusLine({ left, said = "", onCopy = null, inspecting = false, onInspect }: Props): JSX.Element {
  return (
    <footer class="status">
      <div class="status-left" role="status" data-testid="status">
        {left}
      </div>
      <span class="status-said" aria-live="polite">
        {said}
      </span>
      {onCopy && (
        <div class="copying" role="group" aria-label="Copy all rows">
          <Icon name="copy" />
          {FORMATS.map((format) => (
            <button key={format} type="button" onClick={() => onCopy(format)} title={`Copy all rows as ${format.toUpperCase()}`}>
              {format.toUpperCase()}
            </button>
          ))}
        </div>
      )}
      {onInspect && (
        <button
          type="button"
          class="icon-button"
          aria-pressed={inspecting}
          aria-label="Show the chosen row"
          title="Show the chosen row (Enter)"
          onClick={onInspect}
        >
          <Icon name="panel" />
        </button>
      )}
    </footer>
  );
}
