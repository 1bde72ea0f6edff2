"""Printing: tables, targets, and the JSON file of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

_WIDTH = 132
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Target:
    """A number to reach. `value` is NaN when what it needs did not run."""

    text: str
    value: float
    met: bool

    @property
    def known(self) -> bool:
        """Whether it could be judged in this run."""
        return self.value == self.value


class Report:
    """One run's output on the terminal."""

    def __init__(self) -> None:
        self.console = Console(width=_WIDTH, highlight=False)

    def line(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column is left-aligned, numbers right."""
        table = Table(title=title, title_justify="left")
        table.add_column(columns[0])
        for column in columns[1:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def targets(self, targets: Sequence[Target]) -> bool:
        """Print which targets are met; True unless a judged one is not."""
        for target in targets:
            if not target.known:
                self.line(f"target not judged: {target.text} (a stack it needs did not run)")
            else:
                verdict = "met" if target.met else "NOT MET"
                self.line(f"target {verdict}: {target.text} ({target.value:.2f})")
        return all(target.met for target in targets if target.known)


def at_least(text: str, value: float, floor: float) -> Target:
    """A target that is met from `floor` upwards."""
    return Target(text, value, value >= floor)


def at_most(text: str, value: float, ceiling: float) -> Target:
    """A target that is met up to `ceiling`."""
    return Target(text, value, value <= ceiling)


def write_json(path: Path | None, result: object) -> None:
    """Write a run's raw results, if a file was named."""
    if path is not None:
        path.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def number(value: float, digits: int = 0) -> str:
    """A number for a table cell; a dash for NaN."""
    return _NOTHING if value != value else f"{value:,.{digits}f}"


def pair(first: float, second: float) -> str:
    """Two times as one cell."""
    return _NOTHING if first != first else f"{first:.2f} / {second:.2f}"


def ratio(value: float) -> str:
    """A ratio for a table cell."""
    return _NOTHING if value != value else f"{value:.2f}x"
