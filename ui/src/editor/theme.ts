/** The editor's look; colours are the page's variables, which reach into its shadow root. */

import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorView } from "@codemirror/view";
import { tags } from "@lezer/highlight";

const look = EditorView.theme({
  "&": { height: "100%", color: "var(--ink)", backgroundColor: "transparent", fontSize: "13.5px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.65", overflow: "auto" },
  ".cm-content": { padding: "12px 0", caretColor: "var(--accent)" },
  ".cm-line": { padding: "0 20px 0 8px" },
  ".cm-cursor": { borderLeftColor: "var(--accent)", borderLeftWidth: "2px" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--faint)", border: "none", paddingLeft: "10px" },
  ".cm-lineNumbers .cm-gutterElement": { minWidth: "28px", padding: "0 8px 0 0" },
  ".cm-activeLine": { backgroundColor: "transparent" },
  ".cm-activeLineGutter": { backgroundColor: "transparent", color: "var(--muted)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    background: "var(--selection)",
  },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": {
    backgroundColor: "var(--accent-soft)", color: "inherit", borderRadius: "3px",
  },
  ".cm-placeholder": { color: "var(--faint)" },
  ".cm-current-statement": { boxShadow: "inset 2px 0 0 var(--accent)" },
  ".cm-fault": {
    textDecoration: "underline wavy var(--bad) 1.5px", textUnderlineOffset: "4px",
    backgroundColor: "var(--bad-soft)", borderRadius: "3px",
  },
  ".cm-tooltip": {
    backgroundColor: "var(--raised)", color: "var(--ink)", border: "1px solid var(--line-strong)",
    borderRadius: "10px", boxShadow: "var(--shadow)", overflow: "hidden",
  },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": {
    fontFamily: "var(--mono)", fontSize: "12.5px", maxHeight: "17em", minWidth: "300px", padding: "5px",
  },
  ".cm-tooltip.cm-tooltip-autocomplete > ul > li": {
    display: "flex", alignItems: "center", gap: "9px", padding: "4px 9px", borderRadius: "6px", lineHeight: "1.5",
  },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { background: "var(--accent-soft)", color: "var(--ink)" },
  ".cm-completionMatchedText": { textDecoration: "none", color: "var(--accent)", fontWeight: "600" },
  ".cm-completionDetail": {
    marginLeft: "auto", paddingLeft: "20px", color: "var(--muted)", fontStyle: "normal",
    fontFamily: "var(--sans)", fontSize: "11.5px",
  },
  ".cm-completionIcon": {
    width: "8px", height: "8px", padding: "0", borderRadius: "3px", opacity: "1", background: "var(--faint)", flex: "none",
  },
  ".cm-completionIcon::after": { content: "''" },
  ".cm-completionIcon-user-table": { background: "var(--user)" },
  ".cm-completionIcon-shared-table": { background: "var(--shared)" },
  ".cm-completionIcon-stream-table": { background: "var(--stream)" },
  ".cm-completionIcon-column": { background: "transparent", boxShadow: "inset 0 0 0 1.5px var(--muted)" },
  ".cm-completionIcon-key": { background: "transparent", boxShadow: "inset 0 0 0 1.5px var(--key)" },
  ".cm-completionIcon-statement": { background: "var(--accent)", borderRadius: "50%" },
  ".cm-completionIcon-function": { background: "var(--code-function)", borderRadius: "50%" },
  ".cm-snippetField": { backgroundColor: "var(--accent-soft)" },
});

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--code-keyword)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
  { tag: tags.typeName, color: "var(--code-type)" },
  { tag: tags.standard(tags.name), color: "var(--code-function)" },
  { tag: [tags.comment, tags.lineComment, tags.blockComment], color: "var(--faint)", fontStyle: "italic" },
  { tag: [tags.operator, tags.punctuation, tags.bracket], color: "var(--muted)" },
]);

export const theme = [look, syntaxHighlighting(colours)];
