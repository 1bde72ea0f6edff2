/** The icons of the page: 16 by 16, strokes in the colour of the text. */

import type { JSX } from "preact";

const PATHS = {
  chevron: "M6 4l4 4-4 4",
  check: "M3 8.5l3.2 3L13 4.5",
  clock: "M8 4.5V8l2.3 1.6M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z",
  close: "M4 4l8 8M12 4l-8 8",
  column: "M3.5 8h9",
  copy: "M5.5 5.5v-2a1 1 0 0 1 1-1h6a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-2M3.5 5.5h6a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-6a1 1 0 0 1-1-1v-6a1 1 0 0 1 1-1z",
  database: "M2.5 4c0-1.2 2.5-2 5.5-2s5.5.8 5.5 2-2.5 2-5.5 2-5.5-.8-5.5-2zM2.5 4v8c0 1.2 2.5 2 5.5 2s5.5-.8 5.5-2V4M2.5 8c0 1.2 2.5 2 5.5 2s5.5-.8 5.5-2",
  down: "M8 3v10M4 9l4 4 4-4",
  up: "M8 13V3M4 7l4-4 4 4",
  key: "M10.2 7.2a3 3 0 1 0-2.4-2.4L2.5 10.5v3h3v-2h2v-2z",
  moon: "M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7z",
  sun: "M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6zM8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M3.4 12.6l.7-.7M11.9 4.1l.7-.7",
  play: "M4.5 2.8v10.4L13 8z",
  stop: "M4 4h8v8H4z",
  refresh: "M13 8a5 5 0 1 1-1.5-3.6M13 2.5v3h-3",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9zM10.3 10.3l3.2 3.2",
  shared: "M6 3a2.2 2.2 0 1 1 0 4.4A2.2 2.2 0 0 1 6 3zM1.8 13c0-2.5 1.8-4 4.2-4s4.2 1.5 4.2 4M10.5 3.3a2.2 2.2 0 0 1 0 3.9M12 9.4c1.4.5 2.3 1.8 2.3 3.6",
  stream: "M1.5 8h2l2-5 3.5 10 2.2-5h3.3",
  user: "M8 2.5a2.7 2.7 0 1 1 0 5.4 2.7 2.7 0 0 1 0-5.4zM3 13.5c0-2.8 2.2-4.5 5-4.5s5 1.7 5 4.5",
  view: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8zM8 6.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6z",
  system: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.1M5 11h.1",
  namespace: "M2 4.5a1 1 0 0 1 1-1h3.2l1.5 1.8H13a1 1 0 0 1 1 1v5.7a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1z",
  leave: "M6 2.5H3.5a1 1 0 0 0-1 1v9a1 1 0 0 0 1 1H6M10.5 11l3-3-3-3M13.5 8H6",
  panel: "M2.5 3.5h11v9h-11zM9.5 3.5v9",
  side: "M2.5 3.5h11v9h-11zM6.5 3.5v9",
  warn: "M8 2.2l6.3 11.3H1.7zM8 6.5v3M8 11.5v.1",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { readonly name: IconName }): JSX.Element {
  const filled = name === "play" || name === "stop";
  return (
    <svg
      class={`icon icon-${name}`}
      viewBox="0 0 16 16"
      width="16"
      height="16"
      aria-hidden="true"
      fill={filled ? "currentColor" : "none"}
      stroke={filled ? "none" : "currentColor"}
      stroke-width="1.4"
      stroke-linecap="round"
      stroke-linejoin="round"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** A reed pen's nib, and the drop it leaves. */
export function Logo(): JSX.Element {
  return (
    <svg class="logo" viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
      <rect width="32" height="32" rx="8" class="logo-ground" />
      <path d="M20.8 5.5l5.7 5.7-9.3 10.2-6.6 1.4 1.4-6.6z" class="logo-nib" />
      <path d="M12.3 19.7l4.6-4.6" class="logo-slit" />
      <circle cx="8.3" cy="24.3" r="2.3" class="logo-drop" />
    </svg>
  );
}
