/** One row in sight. A changed cell is drawn anew, so that its highlight runs again. */

import type { JSX } from "preact";
import type { Column } from "../api/shapes";
import { cellId, ROW_PX, type GridRowLike } from "./grid";
import type { Place } from "./moves";
import { shown } from "./values";

interface Props {
  readonly row: GridRowLike;
  readonly at: number;
  readonly columns: readonly Column[];
  readonly widths: readonly number[];
  /** Column of the chosen cell, when it is in this row. */
  readonly selected: number | null;
  readonly onChoose: (place: Place) => void;
  readonly onOpen: (row: GridRowLike) => void;
}

export function GridRow({ row, at, columns, widths, selected, onChoose, onOpen }: Props): JSX.Element {
  const look = row.leaving === true ? "is-leaving" : (row.born ?? 0) > 0 ? "is-new" : "";
  return (
    <div
      class={`grid-row ${look} ${selected === null ? "" : "is-chosen"}`}
      role="row"
      aria-rowindex={at + 2}
      aria-selected={selected !== null}
      style={{ transform: `translateY(${at * ROW_PX}px)` }}
      onDblClick={() => onOpen(row)}
    >
      <span class="grid-number" role="presentation">
        {at + 1}
      </span>
      {columns.map((column, index) => {
        const { text, look: kind } = shown(row.cells[index], column);
        const revision = row.touched?.get(index) ?? 0;
        return (
          <div
            key={`${column.name} ${revision}`}
            id={cellId({ row: at, column: index })}
            role="gridcell"
            aria-colindex={index + 1}
            class={`grid-cell is-${column.kind} as-${kind} ${revision > 0 ? "is-changed" : ""} ${selected === index ? "is-here" : ""}`}
            style={{ width: `${widths[index] ?? 0}px` }}
            onClick={() => onChoose({ row: at, column: index })}
          >
            <span>{text}</span>
          </div>
        );
      })}
    </div>
  );
}
