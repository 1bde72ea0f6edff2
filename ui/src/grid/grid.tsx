/**
 * A grid that holds as many rows as there are and draws those in sight.
 * Keyboard: arrows, Page Up and Down, Home, End; Enter opens the row, Ctrl+C copies the cell.
 */

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Json } from "../api/json";
import type { Column } from "../api/shapes";
import { GridHead, type Sorting } from "./head";
import { move, type Place } from "./moves";
import { GridRow } from "./row";
import { compare, plain } from "./values";
import { firstWidths } from "./widths";

export interface GridRowLike {
  readonly id: number;
  readonly cells: readonly Json[];
  readonly touched?: ReadonlyMap<number, number>;
  /** Above 0: it came while one looked. */
  readonly born?: number;
  readonly leaving?: boolean;
}

interface Props {
  readonly columns: readonly Column[];
  readonly rows: readonly GridRowLike[];
  readonly label: string;
  readonly onOpen: (row: GridRowLike) => void;
  readonly onSelect: (row: GridRowLike) => void;
  readonly onCopy: (text: string) => void;
}

export const ROW_PX = 32;
const HEAD_PX = 36;
const BEYOND_ROWS = 8;

export function Grid({ columns, rows, label, onOpen, onSelect, onCopy }: Props): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [place, setPlace] = useState<Place | null>(null);
  const [sorting, setSorting] = useState<Sorting | null>(null);
  const shape = columns.map((column) => `${column.name} ${column.type}`).join("\n");
  const [widths, setWidths] = useState<{ shape: string; all: readonly number[] } | null>(null);
  const automatic = useMemo(() => firstWidths(columns, rows.map((row) => row.cells)), [shape, rows.length > 0]);
  const wide = widths?.shape === shape ? widths.all : automatic;
  const sorted = useMemo(() => sort(rows, columns, sorting), [rows, sorting]);

  useEffect(() => {
    const box = scroller.current;
    if (box === null) return undefined;
    const watch = new ResizeObserver(() => setView((old) => ({ ...old, height: box.clientHeight })));
    watch.observe(box);
    return () => watch.disconnect();
  }, []);
  useEffect(() => {
    setSorting(null);
    setPlace(null);
  }, [shape]);

  const from = Math.max(0, Math.floor(view.top / ROW_PX) - BEYOND_ROWS);
  const to = Math.min(sorted.length, Math.ceil((view.top + view.height) / ROW_PX) + BEYOND_ROWS);
  const total = wide.reduce((sum, width) => sum + width, 0);

  const choose = (next: Place): void => {
    setPlace(next);
    const row = sorted[next.row];
    if (row) onSelect(row);
    reveal(scroller.current, next, wide);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const here = place ?? { row: 0, column: 0 };
    const column = columns[here.column];
    const row = sorted[here.row];
    if ((event.ctrlKey || event.metaKey) && event.key === "c" && column && row) {
      if (document.getSelection()?.isCollapsed === false) return;
      onCopy(plain(row.cells[here.column], column));
    } else if (event.key === "Enter" && row) {
      onOpen(row);
    } else {
      const page = Math.max(1, Math.floor((view.height - HEAD_PX) / ROW_PX) - 1);
      const next = move(event, place, { rows: sorted.length, columns: columns.length, page });
      if (next === null) return;
      choose(next);
    }
    event.preventDefault();
  };

  return (
    <div
      ref={scroller}
      class="grid"
      role="grid"
      tabIndex={0}
      aria-label={label}
      aria-rowcount={sorted.length + 1}
      aria-colcount={columns.length}
      aria-activedescendant={place ? cellId(place) : undefined}
      onScroll={(event) => {
        const top = event.currentTarget.scrollTop;
        setView((old) => ({ ...old, top }));
      }}
      onKeyDown={onKeyDown}
    >
      <GridHead
        columns={columns}
        widths={wide}
        sorting={sorting}
        onSort={setSorting}
        onWidths={(all) => setWidths({ shape, all })}
      />
      <div class="grid-body" role="rowgroup" style={{ height: `${sorted.length * ROW_PX}px`, width: `${total + 56}px` }}>
        {sorted.slice(from, to).map((row, offset) => (
          <GridRow
            key={row.id}
            row={row}
            at={from + offset}
            columns={columns}
            widths={wide}
            selected={place?.row === from + offset ? place.column : null}
            onChoose={choose}
            onOpen={onOpen}
          />
        ))}
      </div>
    </div>
  );
}

export function cellId({ row, column }: Place): string {
  return `cell-${row}-${column}`;
}

function sort(
  rows: readonly GridRowLike[],
  columns: readonly Column[],
  sorting: Sorting | null,
): readonly GridRowLike[] {
  const column = sorting && columns[sorting.column];
  if (!column) return rows;
  const sign = sorting.down ? -1 : 1;
  return [...rows].sort((a, b) => sign * compare(a.cells[sorting.column], b.cells[sorting.column], column));
}

function reveal(box: HTMLDivElement | null, place: Place, widths: readonly number[]): void {
  if (box === null) return;
  const top = place.row * ROW_PX;
  const roomPx = box.clientHeight - HEAD_PX;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + ROW_PX > box.scrollTop + roomPx) box.scrollTop = top + ROW_PX - roomPx;
  const left = widths.slice(0, place.column).reduce((sum, width) => sum + width, 0);
  const right = left + (widths[place.column] ?? 0) + 56;
  if (left < box.scrollLeft) box.scrollLeft = left;
  else if (right > box.scrollLeft + box.clientWidth) box.scrollLeft = right - box.clientWidth;
}
