/** Two panes, one above the other; the bar between them is dragged, or moved with arrow keys. */

import type { ComponentChildren, JSX, TargetedPointerEvent } from "preact";
import { useState } from "preact/hooks";

interface Props {
  /** Under which the share is kept in this browser. */
  readonly name: string;
  readonly label: string;
  readonly first: ComponentChildren;
  readonly second: ComponentChildren;
}

const LEAST = 15;
const MOST = 85;
const FIRST = 38;

export function Split({ name, label, first, second }: Props): JSX.Element {
  const key = `kalamdb.split.${name}`;
  const [share, setShare] = useState(() => within(Number(localStorage.getItem(key) ?? FIRST)));
  const keep = (wish: number): void => {
    setShare(within(wish));
    localStorage.setItem(key, String(within(wish)));
  };
  const drag = (event: TargetedPointerEvent<HTMLDivElement>): void => {
    const bar = event.currentTarget;
    const box = bar.parentElement?.getBoundingClientRect();
    if (!box) return;
    bar.setPointerCapture(event.pointerId);
    bar.onpointermove = (moved) => keep(((moved.clientY - box.top) / box.height) * 100);
    bar.onpointerup = bar.onpointercancel = () => {
      bar.onpointermove = bar.onpointerup = bar.onpointercancel = null;
    };
  };
  const press = (event: KeyboardEvent): void => {
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
    keep(share + (event.key === "ArrowUp" ? -3 : 3));
  };
  return (
    <div class="split" style={{ gridTemplateRows: `minmax(0, ${share}fr) auto minmax(0, ${100 - share}fr)` }}>
      {first}
      <div
        class="split-bar"
        role="separator"
        tabIndex={0}
        aria-label={label}
        aria-orientation="horizontal"
        aria-valuenow={Math.round(share)}
        aria-valuemin={LEAST}
        aria-valuemax={MOST}
        onPointerDown={drag}
        onKeyDown={press}
      />
      {second}
    </div>
  );
}

function within(share: number): number {
  return Number.isFinite(share) ? Math.min(Math.max(share, LEAST), MOST) : FIRST;
}
