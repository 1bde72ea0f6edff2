/** Column names: click sorts, the edge drags the width. */

import type { JSX, TargetedPointerEvent } from "preact";
import type { Column } from "../api/shapes";
import { Icon } from "../shell/icons";
import { NARROWEST_PX } from "./widths";

export interface Sorting {
  readonly column: number;
  readonly down: boolean;
}

interface Props {
  readonly columns: readonly Column[];
  readonly widths: readonly number[];
  readonly sorting: Sorting | null;
  readonly onSort: (sorting: Sorting | null) => void;
  readonly onWidths: (widths: readonly number[]) => void;
}

export function GridHead({ columns, widths, sorting, onSort, onWidths }: Props): JSX.Element {
  return (
    <div class="grid-head" role="row" aria-rowindex={1}>
      <span class="grid-number" role="presentation" />
      {columns.map((column, at) => {
        const order = sorting?.column === at ? (sorting.down ? "descending" : "ascending") : "none";
        return (
          <div
            key={column.name}
            role="columnheader"
            aria-colindex={at + 1}
            aria-sort={order}
            class={`grid-column is-${column.kind}`}
            style={{ width: `${widths[at] ?? 0}px` }}
            title={`${column.name} ${column.type}${column.isKey ? ", primary key" : ""}`}
          >
            <button type="button" tabIndex={-1} onClick={() => onSort(next(sorting, at))}>
              {column.isKey && <Icon name="key" />}
              <span class="grid-name">{column.name}</span>
              <span class="grid-type">{column.type.toLowerCase()}</span>
              {order !== "none" && <Icon name={order === "ascending" ? "up" : "down"} />}
            </button>
            <span class="grid-edge" onPointerDown={(event) => drag(event, widths, at, onWidths)} />
          </div>
        );
      })}
    </div>
  );
}

function next(sorting: Sorting | null, column: number): Sorting | null {
  if (sorting?.column !== column) return { column, down: false };
  return sorting.down ? null : { column, down: true };
}

function drag(
  event: TargetedPointerEvent<HTMLSpanElement>,
  widths: readonly number[],
  at: number,
  onWidths: (widths: readonly number[]) => void,
): void {
  const edge = event.currentTarget;
  const begin = event.clientX - (widths[at] ?? 0);
  edge.setPointerCapture(event.pointerId);
  edge.onpointermove = (moved) =>
    onWidths(widths.with(at, Math.max(NARROWEST_PX, moved.clientX - begin)));
  edge.onpointerup = edge.onpointercancel = () => {
    edge.onpointermove = edge.onpointerup = edge.onpointercancel = null;
  };
}
