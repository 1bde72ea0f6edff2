/** What the text itself shows: the statement a run would take, and where a fault was found. */

import { RangeSetBuilder, StateEffect, StateField, type Extension, type Text } from "@codemirror/state";
import {
  Decoration, EditorView, ViewPlugin, type DecorationSet, type ViewUpdate,
} from "@codemirror/view";
import { statementAt, statements, type Span } from "./statements";

const current = Decoration.line({ class: "cm-current-statement" });
const fault = Decoration.mark({ class: "cm-fault", attributes: { "aria-invalid": "true" } });

const setFault = StateEffect.define<Span | null>();

const faults = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(found, transaction) {
    for (const effect of transaction.effects) {
      if (!effect.is(setFault)) continue;
      const span = effect.value;
      return span ? Decoration.set([fault.range(span.from, span.to)]) : Decoration.none;
    }
    return transaction.docChanged ? Decoration.none : found;
  },
  provide: (field) => EditorView.decorations.from(field),
});

/** Underline the word at a position of the text that was sent; null takes the mark away. */
export function markFault(view: EditorView, at: number | null): void {
  view.dispatch({ effects: setFault.of(at === null ? null : wordAt(view.state.doc, at)) });
}

/** `line` and `column` count from 1, within the text that begins at `from`. */
export function offsetOf(doc: Text, from: number, line: number, column: number): number {
  const first = doc.lineAt(from);
  const number = Math.min(first.number + line - 1, doc.lines);
  const start = line === 1 ? from : doc.line(number).from;
  return Math.min(start + column - 1, doc.length);
}

function wordAt(doc: Text, at: number): Span | null {
  const line = doc.lineAt(at);
  const rest = /^(?:[\w.$"]+|\S)/.exec(line.text.slice(at - line.from));
  if (rest) return { from: at, to: at + rest[0].length };
  // Behind the end of the text: the last character stands for what is missing.
  const back = line.text.trimEnd().length;
  return back > 0 ? { from: line.from + back - 1, to: line.from + back } : null;
}

const statementBar = ViewPlugin.fromClass(
  class {
    decorations: DecorationSet;

    constructor(view: EditorView) {
      this.decorations = barOf(view);
    }

    update(update: ViewUpdate): void {
      if (update.docChanged || update.selectionSet) this.decorations = barOf(update.view);
    }
  },
  { decorations: (plugin) => plugin.decorations },
);

/** A bar beside the lines of the statement that would run; none when there is only one. */
function barOf(view: EditorView): DecorationSet {
  const { state } = view;
  if (!state.selection.main.empty || statements(state).length < 2) return Decoration.none;
  const span = statementAt(state, state.selection.main.head);
  if (!span) return Decoration.none;
  const bars = new RangeSetBuilder<Decoration>();
  for (let at = span.from; at <= span.to; ) {
    const line = state.doc.lineAt(at);
    bars.add(line.from, line.from, current);
    at = line.to + 1;
  }
  return bars.finish();
}

export const marks: Extension = [faults, statementBar];
