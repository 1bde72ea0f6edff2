/** The frames of a live connection, read from JSON. */

import { isList, isObject, objects, text, word, type Json, type JsonObject } from "../api/json";
import { columnsOf, faultOf, type Column, type Fault } from "../api/shapes";

export interface Ack {
  readonly is: "ack";
  readonly columns: readonly Column[];
  readonly reset: boolean;
  /** null: a query of one table, whose changes come row by row. */
  readonly evaluated: Evaluated | null;
  readonly seq: string | null;
}

/** A result that is evaluated anew when something changes. */
export interface Evaluated {
  readonly ordered: boolean;
  /** Columns that tell rows apart: none when there is one row always, null when nothing does. */
  readonly key: readonly string[] | null;
}

export interface Page {
  readonly is: "page";
  readonly rows: readonly JsonObject[];
  readonly hasMore: boolean;
  readonly seq: string | null;
}

export interface Change {
  readonly is: "change";
  readonly kind: "insert" | "update" | "delete";
  readonly rows: readonly JsonObject[];
  readonly old: readonly JsonObject[];
  /** Of ordered results: places in the list after the unit; of deletes in the one before it. */
  readonly positions: readonly number[];
  /** Of updates: places in the list before the unit. */
  readonly oldPositions: readonly number[];
  readonly seq: string | null;
  readonly commit: boolean;
}

export interface LiveError {
  readonly is: "error";
  readonly fault: Fault;
  readonly reason: string;
}

export type Frame =
  | Ack
  | Page
  | Change
  | LiveError
  | { readonly is: "position"; readonly seq: string | null }
  | { readonly is: "signed in" }
  | { readonly is: "refused"; readonly message: string }
  | { readonly is: "other" };

export function frameOf(said: Json): Frame {
  if (!isObject(said)) return { is: "other" };
  const seq = typeof said["seq"] === "string" ? said["seq"] : null;
  switch (text(said, "type")) {
    case "subscription_ack":
      return {
        is: "ack",
        columns: columnsOf(objects(said, "schema")),
        reset: said["reset"] === true,
        evaluated: evaluatedOf(said["evaluated"]),
        seq,
      };
    case "initial_data_batch": {
      const control = said["batch_control"];
      const hasMore = isObject(control) && control["has_more"] === true;
      return { is: "page", rows: objects(said, "rows"), hasMore, seq };
    }
    case "change":
      return changeOf(said, seq);
    case "position":
      return { is: "position", seq };
    case "error":
      return { is: "error", fault: faultOf(said, 0), reason: text(said, "reason") };
    case "auth_success":
      return { is: "signed in" };
    case "auth_error":
      return { is: "refused", message: text(said, "message") };
    default:
      return { is: "other" };
  }
}

function changeOf(said: JsonObject, seq: string | null): Frame {
  const kind = text(said, "change_type");
  if (kind !== "insert" && kind !== "update" && kind !== "delete") return { is: "other" };
  return {
    is: "change",
    kind,
    rows: objects(said, "rows"),
    old: objects(said, "old_values"),
    positions: numbers(said, "positions"),
    oldPositions: numbers(said, "old_positions"),
    seq,
    commit: said["commit"] !== false,
  };
}

function evaluatedOf(said: Json | undefined): Evaluated | null {
  if (!isObject(said)) return null;
  const key = isList(said["key"]) ? said["key"].map(word) : null;
  return { ordered: said["ordered"] === true, key };
}

function numbers(said: JsonObject, name: string): number[] {
  const found = said[name];
  return isList(found) ? found.map(Number) : [];
}
