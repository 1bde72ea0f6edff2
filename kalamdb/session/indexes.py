"""CREATE INDEX and DROP INDEX, carried out as new versions of their table (`tables.py`).

1. The next definition has the index BUILDING: pending in meta, then in force in every data group,
   whose writes maintain it from then on.
2. Entries for the rows from before are put in bounded steps (`decide/backfill.py`), while others
   read and write.
3. The definition after that has it READY, and becomes active. Rows with equal values (UNIQUE), or
   values that are too long, undo the first step instead.

DROP INDEX is one version without the index; retention removes its entries in bounded steps.
"""

from __future__ import annotations

from kalamdb.errors import UnknownIndex
from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag
from kalamdb.ports import Groups
from kalamdb.session.tables import Tables
from kalamdb.sql.create_index import (
    dropped_index,
    find_index,
    index_named,
    with_index,
    without_index,
)
from kalamdb.sql.statement import CreateIndex, DropIndex


async def create_index(
    groups: Groups, tables: Tables, statement: CreateIndex, namespace: str, tag: RequestTag | None
) -> str:
    """What to tell the client. Raises UnknownTable, AlreadyExists, IndexNotUnique, LimitReached
    (values that are too long), InvalidDefinition, Unsupported, Conflict.
    """
    home = statement.table.namespace or namespace
    table = groups.catalog.table(home, statement.table.name)
    async with tables.turns.of((home, table.name)):
        name = statement.name
        known = None if name is None else find_index(groups.catalog, home, name)
        if known is not None and statement.if_not_exists:
            return f"index {name} already exists"
        made: list[str] = []

        def change(now: TableDef) -> TableDef:
            new = with_index(now, statement, groups.catalog)
            made.append((*new.uniques, *new.indexes)[-1].name if name is None else name)
            return new

        await tables.alter(table, change, tag)
    return f"index {name or made[-1]} created"


async def drop_index(
    groups: Groups, tables: Tables, statement: DropIndex, namespace: str, tag: RequestTag | None
) -> str:
    """What to tell the client. Raises UnknownIndex, InvalidDefinition, Conflict."""
    name = statement.name
    table = dropped_from(groups.catalog, statement, namespace)
    if table is None:
        return f"index {name} does not exist"
    async with tables.turns.of((table.namespace, table.name)):

        def change(now: TableDef) -> TableDef:
            return without_index(now, dropped_index(now, name).id)

        await tables.alter(table, change, tag)
    return f"index {name} dropped"


def table_of(catalog: CatalogView, statement: DropIndex, namespace: str) -> TableDef | None:
    """The table whose index it names, for the permission check; None when there is no such."""
    if statement.table is not None:
        home = statement.namespace or statement.table.namespace or namespace
        return catalog.tables.get((home, statement.table.name))
    found = find_index(catalog, statement.namespace or namespace, statement.name)
    return None if found is None else found[0]


def dropped_from(catalog: CatalogView, statement: DropIndex, namespace: str) -> TableDef | None:
    """The table of the index to drop; None when there is no such index and that is allowed.

    Raises UnknownTable, UnknownIndex, InvalidDefinition.
    """
    home = statement.namespace or namespace
    if statement.table is not None:
        home = statement.namespace or statement.table.namespace or namespace
        table = catalog.table(home, statement.table.name)
        if index_named(table, statement.name) is None:
            if statement.if_exists:
                return None
            dropped_index(table, statement.name)  # says what is wrong
        return table
    found = find_index(catalog, home, statement.name)
    if found is not None:
        return found[0]
    if statement.if_exists:
        return None
    for table in catalog.tables.values():
        if table.namespace == home and any(one.name == statement.name for one in table.uniques):
            dropped_index(table, statement.name)
    raise UnknownIndex(statement.name, None)
