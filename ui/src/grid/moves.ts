/** Where a key moves the chosen cell. */

export interface Place {
  readonly row: number;
  readonly column: number;
}

interface Size {
  readonly rows: number;
  readonly columns: number;
  readonly page: number;
}

/** null: the key moves nothing. */
export function move(event: KeyboardEvent, from: Place | null, size: Size): Place | null {
  const step = stepOf(event, size);
  if (step === null || size.rows === 0) return null;
  if (from === null) return { row: 0, column: 0 };
  return {
    row: within(from.row + step.row, size.rows),
    column: within(from.column + step.column, size.columns),
  };
}

function stepOf(event: KeyboardEvent, size: Size): Place | null {
  const whole = event.ctrlKey || event.metaKey;
  switch (event.key) {
    case "ArrowDown":
      return { row: whole ? size.rows : 1, column: 0 };
    case "ArrowUp":
      return { row: whole ? -size.rows : -1, column: 0 };
    case "ArrowRight":
      return { row: 0, column: whole ? size.columns : 1 };
    case "ArrowLeft":
      return { row: 0, column: whole ? -size.columns : -1 };
    case "PageDown":
      return { row: size.page, column: 0 };
    case "PageUp":
      return { row: -size.page, column: 0 };
    case "Home":
      return { row: whole ? -size.rows : 0, column: -size.columns };
    case "End":
      return { row: whole ? size.rows : 0, column: size.columns };
    default:
      return null;
  }
}

function within(value: number, count: number): number {
  return Math.min(Math.max(value, 0), count - 1);
}
