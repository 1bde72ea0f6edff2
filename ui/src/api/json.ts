/** JSON as it comes over the wire: nothing is believed before it was looked at. */

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [name: string]: Json | undefined;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isList(value: unknown): value is readonly Json[] {
  return Array.isArray(value);
}

/** A text field, or `otherwise` when it is absent or something else. */
export function text(value: JsonObject, name: string, otherwise = ""): string {
  const found = value[name];
  return typeof found === "string" ? found : otherwise;
}

export function number(value: JsonObject, name: string, otherwise = 0): number {
  const found = value[name];
  return typeof found === "number" ? found : otherwise;
}

export function objects(value: JsonObject, name: string): readonly JsonObject[] {
  const found = value[name];
  return isList(found) ? found.filter(isObject) : [];
}

/** The parsed text, or null when it is no JSON. */
export function parse(source: string): Json {
  try {
    return JSON.parse(source) as Json;
  } catch {
    return null;
  }
}

/** A scalar as text, anything else as JSON; nothing for what is absent. */
export function word(value: Json | undefined): string {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
