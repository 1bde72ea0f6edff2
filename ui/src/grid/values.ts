/** A value of a column as text: short for a cell, whole for the inspector, plain for the clipboard. */

import { isList, isObject, parse, word, type Json } from "../api/json";
import type { Column } from "../api/shapes";

/** Longer texts are cut in a cell, and whole in the inspector. */
const CELL_MAX = 240;
const LISTED_NUMBERS = 4;

export interface Shown {
  readonly text: string;
  readonly look: "null" | "number" | "boolean" | "time" | "json" | "text" | "dim";
}

export function shown(value: Json | undefined, column: Column): Shown {
  if (value === null || value === undefined) return { text: "NULL", look: "null" };
  const text = plain(value, column);
  switch (column.kind) {
    case "number":
      return { text, look: "number" };
    case "boolean":
      return { text, look: "boolean" };
    case "timestamp":
    case "date":
    case "time":
      return { text, look: "time" };
    case "json":
      return { text: cut(text), look: "json" };
    case "bytes":
      return { text: cut(text), look: "dim" };
    case "vector":
      return { text: vector(value), look: "dim" };
    case "text":
      return { text: text === "" ? "empty" : cut(text), look: text === "" ? "dim" : "text" };
  }
}

/** As it would be copied: the whole value, times in ISO 8601. */
export function plain(value: Json | undefined, column: Column): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") {
    if (column.kind === "timestamp") return timestamp(value);
    if (column.kind === "date") return new Date(value * 86_400_000).toISOString().slice(0, 10);
    if (column.kind === "time") return timeOfDay(value);
  }
  if (column.kind === "bytes" && isList(value)) return bytes(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The tree a JSON column holds as text; null when there is none to show. */
export function treeOf(value: Json | undefined): Json {
  if (isList(value) || isObject(value)) return value;
  if (typeof value !== "string" || !/^\s*[[{]/.test(value)) return null;
  return parse(value);
}

function timestamp(micros: number): string {
  const ms = Math.floor(micros / 1000);
  const moment = new Date(ms);
  if (Number.isNaN(moment.getTime())) return String(micros);
  const rest = micros - ms * 1000;
  const fine = rest === 0 ? "" : String(rest).padStart(3, "0");
  return moment.toISOString().replace("T", " ").replace("Z", fine);
}

function timeOfDay(micros: number): string {
  const seconds = Math.floor(micros / 1_000_000);
  const two = (part: number): string => String(part).padStart(2, "0");
  const clock = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map(two).join(":");
  const rest = micros % 1_000_000;
  return rest === 0 ? clock : `${clock}.${String(rest).padStart(6, "0")}`;
}

function bytes(value: readonly Json[]): string {
  return `\\x${value.map((byte) => Number(byte).toString(16).padStart(2, "0")).join("")}`;
}

function vector(value: Json): string {
  if (!isList(value)) return cut(JSON.stringify(value));
  const first = value.slice(0, LISTED_NUMBERS).map((part) => Number(part).toPrecision(3));
  const more = value.length > LISTED_NUMBERS ? ", …" : "";
  return `[${first.join(", ")}${more}] · ${value.length}`;
}

function cut(text: string): string {
  const line = text.length > CELL_MAX ? `${text.slice(0, CELL_MAX)}…` : text;
  return line.replaceAll(/\s+/g, " ");
}

/** Order of two values of a column; NULL stands last. */
export function compare(one: Json | undefined, other: Json | undefined, column: Column): number {
  const left = one ?? null;
  const right = other ?? null;
  if (left === null || right === null) return Number(left === null) - Number(right === null);
  if (typeof left === "number" && typeof right === "number") return left - right;
  if (typeof left === "boolean" && typeof right === "boolean") return Number(left) - Number(right);
  if (column.kind === "number") return compareDigits(word(left), word(right));
  const [first, second] = [plain(left, column), plain(right, column)];
  return first < second ? -1 : Number(first > second);
}

/** BIGINT and DECIMAL come as text and may be beyond what a double holds. */
function compareDigits(one: string, other: string): number {
  const near = Number(one) - Number(other);
  if (Math.abs(near) > 1 && Number.isSafeInteger(Math.trunc(near))) return near;
  try {
    const [left, right] = [BigInt(one), BigInt(other)];
    return left < right ? -1 : Number(left > right);
  } catch {
    return near;
  }
}
