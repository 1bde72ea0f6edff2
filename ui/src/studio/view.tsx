/** The SQL view: what there is on the left, the editor above its results. */

import type { JSX } from "preact";
import { useEffect, useMemo } from "preact/hooks";
import type { Session } from "../api/session";
import { Editor, type EditorWiring } from "../editor/editor";
import { Results } from "../results/results";
import { Split } from "../shell/split";
import { Sidebar } from "./sidebar";
import { Studio } from "./studio";
import { Toolbar } from "./toolbar";

interface Props {
  readonly session: Session;
  readonly sideOpen: boolean;
  /** Something was taken from the explorer. */
  readonly onTaken: () => void;
}

export default function StudioView({ session, sideOpen, onTaken }: Props): JSX.Element {
  const studio = useMemo(() => new Studio(session), [session]);
  useEffect(() => () => studio.close(), [studio]);
  const wiring: EditorWiring = useMemo(
    () => ({
      namespaces: () => studio.catalogue.namespaces.peek(),
      onRun: (wish) => studio.run(wish),
      onText: (text) => studio.keepText(text),
      onSelect: (has) => (studio.hasSelection.value = has),
    }),
    [studio],
  );
  return (
    <div class={`studio ${sideOpen ? "" : "is-wide"}`}>
      <Sidebar studio={studio} onTaken={onTaken} />
      <Split
        name="editor"
        label="Height of the editor"
        first={
          <section class="panel editor-panel" aria-label="Statements">
            <Toolbar studio={studio} />
            <Editor text={studio.firstText} wiring={wiring} onReady={(view) => studio.editorReady(view)} />
          </section>
        }
        second={<Results studio={studio} />}
      />
    </div>
  );
}
