"""What an answer must look like: known errors, and cells of the types their columns name."""

from __future__ import annotations

import re
from typing import Any

import orjson

from kalamdb.edge.faults import FAULTS

CODES = {(fault.status, fault.code) for fault in FAULTS.values() if fault.status != 500}
MIXING = ("UNION", "EXCEPT", "INTERSECT", "APP.V")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Wrong(AssertionError):
    """An answer that breaks the contract."""


def check_answer(status: int, body: Any, sql: str) -> None:
    """Raises Wrong."""
    if status != 200:
        error = body["error"]
        if (status, error["code"]) not in CODES:
            raise Wrong(f"an unknown refusal: {status} {error}")
        if not error["message"] or not error["sqlstate"]:
            raise Wrong(f"a refusal without words: {error}")
        return
    if body["status"] != "success" or not isinstance(body["results"], list):
        raise Wrong(f"an odd answer: {body}")
    for result in body["results"]:
        if "rows" in result:
            check_rows(result, mixed=any(word in sql.upper() for word in MIXING))


def check_rows(result: dict[str, Any], *, mixed: bool = False) -> None:
    """`mixed`: rows of several SELECTs, which may give text where the first has a UUID or JSON."""
    schema, rows = result["schema"], result["rows"]
    if result["row_count"] != len(rows):
        raise Wrong(f"row_count is {result['row_count']} of {len(rows)} rows")
    for column in schema:
        if not isinstance(column["name"], str) or "data_type" not in column:
            raise Wrong(f"an odd column: {column}")
    for row in rows:
        if len(row) != len(schema):
            raise Wrong(f"{len(row)} cells for {len(schema)} columns")
        for column, cell in zip(schema, row, strict=True):
            if mixed and column["data_type"] in ("Uuid", "Json", "File"):
                continue
            if cell is not None and not fits(column["data_type"], cell):
                raise Wrong(f"{cell!r} is no {column['data_type']} ({column['name']})")


def fits(data_type: Any, cell: Any) -> bool:
    """Is this the JSON form of a value of the type?"""
    match data_type:
        case "Boolean":
            return isinstance(cell, bool)
        case "SmallInt" | "Int" | "Timestamp" | "DateTime" | "Date" | "Time":
            return isinstance(cell, int) and not isinstance(cell, bool)
        case "BigInt":
            return isinstance(cell, str) and _INTEGER.fullmatch(cell) is not None
        case "Float" | "Double":
            return isinstance(cell, (int, float)) and not isinstance(cell, bool)
        case {"Decimal": {"scale": int(scale)}}:
            _, _, decimals = cell.partition(".")
            return (
                len(decimals) == scale
                and _INTEGER.fullmatch(cell.replace(".", "", 1).lstrip("-0") or "0") is not None
            )
        case "Text" | "File":
            return isinstance(cell, str)
        case "Json":
            orjson.loads(cell)
            return True
        case "Bytes":
            return isinstance(cell, list) and all(0 <= byte <= 255 for byte in cell)
        case "Uuid":
            return isinstance(cell, str) and _UUID.fullmatch(cell) is not None
        case {"Embedding": int(size)}:
            return isinstance(cell, list) and len(cell) == size
        case _:
            return False
