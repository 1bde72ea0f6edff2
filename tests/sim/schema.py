"""The simulated table: a key, the list of operation numbers that wrote it, a UNIQUE value."""

from __future__ import annotations

from collections.abc import Callable

from kalamdb.model import keys
from kalamdb.model.change import Row
from kalamdb.model.ids import Seq, TableId
from kalamdb.model.table import Column, TableDef, TableKind, Unique
from kalamdb.model.types import BIGINT, TEXT
from kalamdb.model.work import ReturningClause
from tests.sim.history import Elements

KEY_COLUMN, LIST_COLUMN, UNIQUE_COLUMN, BALANCE_COLUMN = 1, 2, 3, 4

TABLE = TableDef(
    id=TableId(7),
    namespace="sim",
    name="lists",
    kind=TableKind.USER,
    columns=(
        Column(KEY_COLUMN, "id", BIGINT, nullable=False),
        Column(LIST_COLUMN, "numbers", TEXT, nullable=False),
        Column(UNIQUE_COLUMN, "badge", BIGINT),
        Column(BALANCE_COLUMN, "balance", BIGINT),  # of a bank's accounts
    ),
    primary_key=(KEY_COLUMN,),
    uniques=(Unique(1, (UNIQUE_COLUMN,), "badge_key"),),
    next_column_id=5,
    next_index_id=2,
)


def key_bytes(key: int) -> bytes:
    return keys.encode_key((BIGINT,), (key,))


def new_row(key: int, number: int, unique: int | None) -> Row:
    row: Row = {KEY_COLUMN: key, LIST_COLUMN: str(number)}
    return row if unique is None else row | {UNIQUE_COLUMN: unique}


def appending(number: int, unique: int | None) -> Callable[[Row], Row]:
    """The change of an UPDATE that adds `number` to a row's list, and takes a UNIQUE value."""

    def change(row: Row) -> Row:
        after = row | {LIST_COLUMN: f"{row[LIST_COLUMN]},{number}"}
        return after if unique is None else after | {UNIQUE_COLUMN: unique}

    return change


def elements_of(row: Row) -> Elements:
    return tuple(int(text) for text in row[LIST_COLUMN].split(","))


def _project(row: Row, seq: Seq) -> tuple[object, ...]:
    return (row[LIST_COLUMN],)


RETURNING = ReturningClause(("numbers",), _project)


def returned(text: object) -> Elements:
    assert isinstance(text, str)
    return tuple(int(part) for part in text.split(","))


def request_id(number: int) -> str:
    return f"op-{number}"


def operation_of_request(request_key: bytes) -> int:
    """The operation number a request key was made for."""
    at = 3
    for _ in range(2):  # tenant, actor
        _, at = keys.split_terminated(request_key, at)
    name, _ = keys.split_terminated(request_key, at)
    return int(name.decode().removeprefix("op-"))
