/** One row, whole: every value in full, JSON as a tree. */

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Column } from "../api/shapes";
import type { GridRowLike } from "../grid/grid";
import { plain, treeOf } from "../grid/values";
import { Icon } from "../shell/icons";
import { JsonTree } from "./jsontree";

interface Props {
  readonly columns: readonly Column[];
  readonly row: GridRowLike | null;
  readonly onCopy: (text: string, what: string) => void;
  readonly onClose: () => void;
}

export function Inspector({ columns, row, onCopy, onClose }: Props): JSX.Element {
  const box = useRef<HTMLElement>(null);
  useEffect(() => box.current?.focus(), []);
  return (
    <aside ref={box} class="inspector" aria-label="The chosen row" tabIndex={-1}>
      <header>
        <h2>Row</h2>
        <button type="button" class="icon-button" aria-label="Close" onClick={onClose}>
          <Icon name="close" />
        </button>
      </header>
      {row === null ? (
        <p class="dim">Choose a row.</p>
      ) : (
        <dl>
          {columns.map((column, at) => (
            <Field key={column.name} column={column} value={row.cells[at]} onCopy={onCopy} />
          ))}
        </dl>
      )}
    </aside>
  );
}

interface FieldProps {
  readonly column: Column;
  readonly value: GridRowLike["cells"][number] | undefined;
  readonly onCopy: Props["onCopy"];
}

function Field({ column, value, onCopy }: FieldProps): JSX.Element {
  const tree = treeOf(value);
  const text = plain(value, column);
  return (
    <div class="field">
      <dt>
        {column.isKey && <Icon name="key" />}
        {column.name} <small>{column.type.toLowerCase()}</small>
        <button
          type="button"
          class="icon-button"
          aria-label={`Copy ${column.name}`}
          onClick={() => onCopy(text, column.name)}
        >
          <Icon name="copy" />
        </button>
      </dt>
      <dd>
        {value === null || value === undefined ? (
          <span class="null">NULL</span>
        ) : tree !== null ? (
          <JsonTree value={tree} />
        ) : (
          <pre>{text}</pre>
        )}
      </dd>
    </div>
  );
}
