"""Rows of tables whose definition changes: what is in them follows from who wrote them.

Every table has the same first columns: a key, the list of operation numbers that wrote the row,
the version of the definition its writer was bound to, and two that indexes and constraints are put
on. Each younger column holds the writer's number, NULL after every fifth, or what the column is
given when the writer did not know of it; so a reader can tell whether a row is right under any
version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kalamdb.model.change import Row
from kalamdb.model.ids import TableId
from kalamdb.model.table import Column, TableDef

KEY_COLUMN, LIST_COLUMN, VERSION_COLUMN, BADGE_COLUMN, MARK_COLUMN = range(1, 6)
NULL_EVERY = 5

COLUMNS = "id BIGINT PRIMARY KEY, numbers TEXT NOT NULL, ver BIGINT, badge BIGINT, mark BIGINT"

Versions = Mapping[tuple[TableId, int], TableDef]


def younger(table: TableDef) -> list[Column]:
    return [column for column in table.columns if column.id > MARK_COLUMN]


def content(number: int, column: Column) -> int | None:
    """What operation `number` writes in a younger column."""
    return None if column.nullable and number % NULL_EVERY == 0 else number


def writing(
    table: TableDef, number: int, badge: int | None, mark: int | None
) -> Callable[[Row], Row]:
    """The change of an UPDATE bound to `table`; None leaves badge and mark as they are."""

    def change(row: Row) -> Row:
        after = row | {column.id: content(number, column) for column in younger(table)}
        after |= {LIST_COLUMN: f"{row[LIST_COLUMN]},{number}", VERSION_COLUMN: table.version}
        if badge is not None:
            after[BADGE_COLUMN] = badge
        if mark is not None:
            after[MARK_COLUMN] = mark
        return {column: value for column, value in after.items() if value is not None}

    return change


def new_row(table: TableDef, key: int, number: int, badge: int | None, mark: int | None) -> Row:
    row = writing(table, number, badge, mark)({KEY_COLUMN: key, LIST_COLUMN: ""})
    return row | {LIST_COLUMN: str(number)}


def fault_of(table: TableDef, versions: Versions, row: Row) -> str | None:
    """What is wrong in a row as read under `table`."""
    number = int(row[LIST_COLUMN].rsplit(",", 1)[-1])
    writer = versions[table.id, row[VERSION_COLUMN]]
    for column in younger(table):
        then = writer.by_id.get(column.id)
        wanted = column.initial if then is None else content(number, then)
        found = row.get(column.id)
        if found != wanted:
            return f"column {column.name} of {row} is {found}, it was written as {wanted}"
    return None
