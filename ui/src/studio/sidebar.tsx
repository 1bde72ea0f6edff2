/** Tables and history, behind two tabs. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { Tree } from "../catalogue/tree";
import { HistoryList } from "./historylist";
import type { Studio } from "./studio";

type Tab = "tables" | "history";

const TABS: readonly { readonly tab: Tab; readonly title: string }[] = [
  { tab: "tables", title: "Tables" },
  { tab: "history", title: "History" },
];

interface Props {
  readonly studio: Studio;
  readonly onTaken: () => void;
}

export function Sidebar({ studio, onTaken }: Props): JSX.Element {
  const [open, setOpen] = useState<Tab>("tables");
  const take = (act: () => void): void => {
    act();
    onTaken();
  };
  const turn = (event: KeyboardEvent): void => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = open === "tables" ? "history" : "tables";
    setOpen(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return (
    <aside class="side" aria-label="Explorer">
      <div class="tabs" role="tablist" aria-label="Explorer" onKeyDown={turn}>
        {TABS.map(({ tab, title }) => (
          <button
            key={tab}
            id={`tab-${tab}`}
            type="button"
            role="tab"
            aria-selected={open === tab}
            aria-controls="side-panel"
            tabIndex={open === tab ? 0 : -1}
            onClick={() => setOpen(tab)}
          >
            {title}
          </button>
        ))}
      </div>
      <div class="side-panel" id="side-panel" role="tabpanel" aria-labelledby={`tab-${open}`}>
        {open === "tables" ? (
          <Tree catalogue={studio.catalogue} onQuery={(table) => take(() => studio.query(table))} />
        ) : (
          <HistoryList history={studio.history} onTake={(sql) => take(() => studio.append(sql))} />
        )}
      </div>
    </aside>
  );
}
