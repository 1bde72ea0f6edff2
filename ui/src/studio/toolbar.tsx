/** Run, stop, and the Live switch. */

import type { JSX } from "preact";
import { Icon } from "../shell/icons";
import { MOD } from "../shell/keys";
import type { Studio } from "./studio";

export function Toolbar({ studio }: { readonly studio: Studio }): JSX.Element {
  const running = studio.running.value !== null;
  const on = studio.isLive.value;
  return (
    <div class="toolbar" role="toolbar" aria-label="Run">
      {running ? (
        <button type="button" class="button is-stop" onClick={() => studio.stopRunning()}>
          <Icon name="stop" /> Stop
        </button>
      ) : (
        <button type="button" class="button is-primary" onClick={() => studio.run()} title={`Run (${MOD}+Enter)`}>
          <Icon name="play" />
          {studio.hasSelection.value ? "Run selection" : "Run"}
          <kbd>{MOD} ↵</kbd>
        </button>
      )}
      <button
        type="button"
        class="button is-quiet"
        disabled={running}
        onClick={() => studio.run("all")}
        title={`Run all statements (${MOD}+Shift+Enter)`}
      >
        Run all
      </button>
      <span class="toolbar-gap" />
      <label class={`switch ${on ? "is-on" : ""}`} title="Rows change in place as anybody changes them">
        <input
          type="checkbox"
          role="switch"
          checked={on}
          onChange={(event) => studio.setLive(event.currentTarget.checked)}
        />
        <span class="switch-track" aria-hidden="true" />
        Live
      </label>
    </div>
  );
}
