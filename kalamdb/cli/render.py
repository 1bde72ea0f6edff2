"""Results for people and for programs: tables, JSON, CSV; live rows one line each."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Result = Mapping[str, Any]


def show(console: Console, results: Sequence[Result], form: Format) -> None:
    """Print the results of one request."""
    match form:
        case Format.TABLE:
            for result in results:
                show_table(console, result)
        case Format.JSON:
            for result in results:
                console.file.write(orjson.dumps(as_object(result)).decode() + "\n")
        case Format.CSV:
            for number, result in enumerate(result for result in results if "rows" in result):
                console.file.write("\n" * bool(number) + as_csv(result))


def show_table(console: Console, result: Result) -> None:
    if "rows" not in result:
        console.print(Text(result.get("message", "done")))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in result.get("schema", []):
        table.add_column(Text(column["name"]), overflow="fold")
    for row in result["rows"]:
        table.add_row(*(_cell(value) for value in row))
    count = result["row_count"]
    console.print(table)
    console.print(Text(f"{count} row{'' if count == 1 else 's'}", style="dim"))


def as_object(result: Result) -> object:
    """Rows as objects by column name; a message stays as it is."""
    if "rows" not in result:
        return {"row_count": result.get("row_count", 0), "message": result.get("message")}
    names = [column["name"] for column in result.get("schema", [])]
    return [dict(zip(names, row, strict=True)) for row in result["rows"]]


def as_csv(result: Result) -> str:
    """RFC 4180 with a header; NULL is empty, arrays and objects are JSON."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([column["name"] for column in result.get("schema", [])])
    for row in result["rows"]:
        writer.writerow(["" if value is None else _plain(value) for value in row])
    return out.getvalue()


def live_lines(message: Mapping[str, Any], form: Format) -> Iterator[tuple[str, str]]:
    """(mark, text) of each row in a message of a live query: + there or new, ~ changed, - gone."""
    show_row: Callable[[Any], str] = _json if form is Format.JSON else _pairs
    match message.get("type"):
        case "initial_data_batch":
            for row in message["rows"]:
                yield "+", show_row(row)
        case "change":
            change = message["change_type"]
            mark = {"insert": "+", "update": "~", "delete": "-"}[change]
            for row in message["old_values" if change == "delete" else "rows"]:
                yield mark, show_row(row)
        case _:
            pass


MARK_STYLES = {"+": "green", "~": "yellow", "-": "red"}


def _cell(value: object) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    return Text(_plain(value))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _pairs(row: Mapping[str, Any]) -> str:
    shown = ("NULL" if value is None else _plain(value) for value in row.values())
    return "  ".join(f"{name}={value}" for name, value in zip(row, shown, strict=True))
