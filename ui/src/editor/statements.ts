/** Which text a run takes: the selection, the statement at the cursor, or all. */

import { ensureSyntaxTree } from "@codemirror/language";
import type { EditorState } from "@codemirror/state";

export interface Span {
  readonly from: number;
  readonly to: number;
}

export type Choice = "selection" | "statement" | "all";

const PARSE_MS = 200;

/** Statements of the text, in order, without the semicolons. */
export function statements(state: EditorState): Span[] {
  const tree = ensureSyntaxTree(state, state.doc.length, PARSE_MS);
  const found: Span[] = [];
  for (let node = tree?.topNode.firstChild ?? null; node !== null; node = node.nextSibling) {
    if (node.name !== "Statement") continue;
    const text = state.sliceDoc(node.from, node.to).replace(/;\s*$/u, "").trimEnd();
    if (text !== "") found.push({ from: node.from, to: node.from + text.length });
  }
  return found;
}

/** The statement the cursor is in or behind, else the next one. */
export function statementAt(state: EditorState, at: number): Span | null {
  const all = statements(state);
  const line = state.doc.lineAt(at);
  const within = all.find((span) => span.from <= at && at <= span.to + 1);
  const sameLine = all.filter((span) => span.from <= line.to && span.to >= line.from);
  const before = all.filter((span) => span.to <= at);
  return within ?? sameLine.at(-1) ?? before.at(-1) ?? all[0] ?? null;
}

export function chosen(state: EditorState, wish: "best" | "all"): Span & { choice: Choice } {
  const { main } = state.selection;
  if (wish === "all") return { from: 0, to: state.doc.length, choice: "all" };
  if (!main.empty) return { from: main.from, to: main.to, choice: "selection" };
  const span = statementAt(state, main.head) ?? { from: 0, to: state.doc.length };
  return { ...span, choice: "statement" };
}
