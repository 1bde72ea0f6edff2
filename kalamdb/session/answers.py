"""Results as the bytes of the JSON success envelope.

The envelope is put together from encoded parts: rows the query workers already encoded are not
decoded and encoded again, and the constant parts of a prepared statement are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq
from kalamdb.sql.bound import OutputColumn

VERBS = ("Inserted", "Updated", "Deleted")


def schema(output: Sequence[OutputColumn]) -> bytes:
    """The `schema` array of a row result."""
    columns: list[dict[str, Any]] = []
    for index, column in enumerate(output):
        entry: dict[str, Any] = {
            "name": column.name,
            "data_type": column.type.label,
            "index": index,
        }
        if column.flags:
            entry["flags"] = list(column.flags)
        columns.append(entry)
    return orjson.dumps(columns)


def rows(schema_json: bytes, rows_json: bytes, count: int, as_user: str, cursor: str) -> bytes:
    """One result with rows."""
    return b'{"schema":%b,"rows":%b,"row_count":%d,"as_user":%b,"cursor":"%b"}' % (
        schema_json,
        rows_json,
        count,
        orjson.dumps(as_user),
        cursor.encode(),
    )


def before_rows(schema_json: bytes) -> bytes:
    """What stands before the rows of a result."""
    return b'{"schema":%b,"rows":' % schema_json


def after_rows(count: int, as_user: str, cursor: str) -> bytes:
    """What stands behind them."""
    return b',"row_count":%d,"as_user":%b,"cursor":"%b"}' % (
        count,
        orjson.dumps(as_user),
        cursor.encode(),
    )


def affected(verb: str, count: int, as_user: str, seq: Seq) -> bytes:
    """The result of INSERT, UPDATE or DELETE without RETURNING."""
    return b'{"row_count":%d,"message":"%b %d row(s)","as_user":%b,"cursor":"%d"}' % (
        count,
        verb.encode(),
        count,
        orjson.dumps(as_user),
        seq,
    )


def message(text: str, as_user: str) -> bytes:
    """The result of DDL and other statements that only say something."""
    return orjson.dumps({"row_count": 0, "message": text, "as_user": as_user})


def returned(schema_json: bytes, outcome: Outcome, as_user: str) -> bytes:
    """The result of a write with RETURNING."""
    found = outcome.rows or ()
    return rows(schema_json, orjson.dumps(found), len(found), as_user, str(outcome.seq))


def envelope(results: Sequence[bytes], took_ms: float, transaction_id: str | None = None) -> bytes:
    """`transaction_id`: the transaction that is open after the request."""
    whole = b'{"status":"success","results":[%b],"took":%.3f}' % (b",".join(results), took_ms)
    if transaction_id is None:
        return whole
    return b'%b,"transaction_id":"%b"}' % (whole[:-1], transaction_id.encode())


ENVELOPE_HEAD = b'{"status":"success","results":['


def envelope_tail(took_ms: float) -> bytes:
    return b'],"took":%.3f}' % took_ms
