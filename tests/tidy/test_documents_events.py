"""Every event the code logs is explained to operators, and none that is not there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/operate/alarms.md"
LEVELS = frozenset({"info", "warning", "error"})

# Events whose name is an expression of two, and so not seen by `events`.
EITHER = frozenset({"start_refused", "corruption_found", "disk_low", "disk_recovered"})


def events(text: str) -> Iterator[str]:
    """First arguments of calls of a log."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="_log" | "log"), attr=level),
                args=[ast.Constant(value=str(event)), *_],
            ) if level in LEVELS and re.fullmatch(r"[a-z_]+", event):
                yield event
            case _:
                pass


def explained(page: str) -> set[str]:
    """The first column of the table of events."""
    table = page.partition("## Logs")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


def test_events_of_the_code_are_explained() -> None:
    files = [file for package in ("kalamdb", "cluster") for file in (ROOT / package).rglob("*.py")]
    logged = {event for file in files for event in events(file.read_text(encoding="utf-8"))}
    assert explained(PAGE.read_text(encoding="utf-8")) == logged | EITHER


def test_the_rule_finds_events() -> None:
    assert list(events('_log.info("row_put", rows=1)\nother.info("no")\n_log.debug("no")')) == [
        "row_put"
    ]
    assert explained("## Logs\n| event |\n|---|\n| `a_b`, `c` | `d` |\n\n## Next\n| `e` |") == {
        "a_b",
        "c",
    }
