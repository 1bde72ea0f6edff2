/** Light, dark, or what the system says. */

import { signal } from "@preact/signals";

export type Theme = "light" | "dark";

const KEY = "kalamdb.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function kept(): Theme | null {
  const found = localStorage.getItem(KEY);
  return found === "light" || found === "dark" ? found : null;
}

export const theme = signal<Theme>(kept() ?? (system.matches ? "dark" : "light"));

export function toggleTheme(): void {
  const next = theme.peek() === "dark" ? "light" : "dark";
  localStorage.setItem(KEY, next);
  theme.value = next;
}

system.addEventListener("change", () => {
  if (kept() === null) theme.value = system.matches ? "dark" : "light";
});

theme.subscribe((now) => {
  document.documentElement.dataset["theme"] = now;
});
