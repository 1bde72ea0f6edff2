/** Guesses from a statement's text that only steer the page; the server alone understands SQL. */

const COMMENTS = /--[^\n]*|\/\*[\s\S]*?\*\//g;

function firstWords(sql: string): string {
  return sql.replaceAll(COMMENTS, " ").trimStart().slice(0, 40).toLowerCase();
}

/** Would it answer rows that can be watched? */
export function isQuery(sql: string): boolean {
  return /^(select|with|values|table)\b/.test(firstWords(sql));
}

export function changesCatalogue(sql: string): boolean {
  return /\b(create|drop|alter|rename)\b/i.test(sql.replaceAll(COMMENTS, " "));
}

/** Text with a password in it is not kept. */
export function mayBeKept(sql: string): boolean {
  return !/\bpassword\b/i.test(sql);
}
