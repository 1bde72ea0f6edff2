/**
 * The SQL editor. It lives in a shadow root: there CodeMirror's styles are constructed sheets, which
 * a policy without inline styles allows.
 */

import {
  acceptCompletion, autocompletion, closeBrackets, closeBracketsKeymap, closeCompletion, completionKeymap,
} from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab, toggleLineComment } from "@codemirror/commands";
import { sql } from "@codemirror/lang-sql";
import { bracketMatching, indentOnInput } from "@codemirror/language";
import { EditorState, Prec, type Extension } from "@codemirror/state";
import {
  drawSelection, EditorView, highlightActiveLineGutter, keymap, lineNumbers, placeholder,
} from "@codemirror/view";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Namespace } from "../catalogue/catalogue";
import { catalogueSource, functionSource, statementSource, wordSource } from "./completion";
import { kalam } from "./dialect";
import { marks } from "./marks";
import { theme } from "./theme";

export interface EditorWiring {
  readonly namespaces: () => readonly Namespace[];
  readonly onRun: (wish: "best" | "all") => void;
  readonly onText: (text: string) => void;
  readonly onSelect: (hasSelection: boolean) => void;
}

interface Props {
  readonly text: string;
  readonly wiring: EditorWiring;
  readonly onReady: (view: EditorView | null) => void;
}

export function Editor({ text, wiring, onReady }: Props): JSX.Element {
  const host = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (host.current === null) return undefined;
    const root = host.current.shadowRoot ?? host.current.attachShadow({ mode: "open" });
    const frame = document.createElement("div");
    frame.style.height = "100%";
    root.replaceChildren(frame);
    const state = EditorState.create({ doc: text, extensions: extensions(wiring) });
    const view = new EditorView({ state, parent: frame, root });
    onReady(view);
    view.focus();
    return () => {
      onReady(null);
      view.destroy();
    };
    // The text is only where it begins: from then on the editor owns it.
  }, []);
  return <div ref={host} class="editor-host" data-testid="editor" />;
}

function extensions(wiring: EditorWiring): Extension[] {
  const run = (wish: "best" | "all") => (view: EditorView): boolean => {
    closeCompletion(view);
    wiring.onRun(wish);
    return true;
  };
  return [
    Prec.highest(
      keymap.of([
        { key: "Mod-Enter", run: run("best") },
        { key: "Mod-Shift-Enter", run: run("all") },
      ]),
    ),
    lineNumbers(),
    highlightActiveLineGutter(),
    history(),
    drawSelection(),
    indentOnInput(),
    bracketMatching(),
    closeBrackets(),
    sql({ dialect: kalam, upperCaseKeywords: true }).language,
    autocompletion({
      override: [statementSource, catalogueSource(wiring.namespaces), functionSource, wordSource],
      icons: true,
      maxRenderedOptions: 60,
    }),
    keymap.of([
      { key: "Tab", run: acceptCompletion },
      { key: "Mod-/", run: toggleLineComment },
      ...closeBracketsKeymap,
      ...completionKeymap,
      ...historyKeymap,
      ...defaultKeymap,
      indentWithTab,
    ]),
    placeholder("SELECT …   Ctrl+Space completes, Ctrl+Enter runs"),
    EditorView.contentAttributes.of({ "aria-label": "SQL editor", spellcheck: "false", autocorrect: "off" }),
    EditorView.updateListener.of((update) => {
      if (update.docChanged) wiring.onText(update.state.doc.toString());
      if (update.selectionSet || update.docChanged) wiring.onSelect(!update.state.selection.main.empty);
    }),
    marks,
    theme,
  ];
}
