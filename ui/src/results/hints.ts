/** What to do about an error, by its stable code; the server's own hint comes first. */

import type { Fault } from "../api/shapes";

const BY_SQLSTATE: Readonly<Record<string, string>> = {
  "3F000": "CREATE NAMESPACE makes one; SHOW NAMESPACES lists them.",
  "42P01": "Names are namespace.table; the list on the left shows what there is.",
  "42703": "DESCRIBE shows the columns of a table.",
  "42501": "Your role may not do this.",
  "23505": "Another row has this key. ON CONFLICT says what to do then.",
};

const BY_CODE: Readonly<Record<string, string>> = {
  RESULT_TOO_LARGE: "Nothing is cut silently: narrow the WHERE, or add LIMIT.",
  OUTCOME_UNKNOWN: "It may have been done. Look before you run it again.",
  PERMISSION_DENIED: "Your role may not do this.",
  RATE_LIMIT_EXCEEDED: "Wait a moment.",
};

export function hintFor(fault: Fault): string | null {
  return fault.hint ?? BY_SQLSTATE[fault.sqlstate ?? ""] ?? BY_CODE[fault.code] ?? null;
}
