"""KILL, and SHOW of what runs, of users, indexes and settings: a node speaking of itself.

The rows are those of the `system` tables, without the query engine. What runs is shown to everybody
for themselves and to dba and system for all; the rest is as permitted before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, assert_never

import orjson

from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.model.catalog import CatalogView
from kalamdb.model.principal import Principal
from kalamdb.model.values import encoder
from kalamdb.query.system import Values
from kalamdb.session import answers, permissions
from kalamdb.session.activity import Activity
from kalamdb.session.cluster_statements import ClusterStatements
from kalamdb.session.information_schema import visible_stored
from kalamdb.session.system_catalog import indexes_of
from kalamdb.session.system_tables import SystemTables
from kalamdb.sql.bound import OutputColumn
from kalamdb.sql.statement import (
    Cluster,
    Kill,
    Ongoing,
    ShowIndexes,
    ShowOngoing,
    ShowSettings,
    ShowUsers,
    TableName,
)
from kalamdb.sql.virtual import SYSTEM, VirtualTable, virtual_table

NodeStatement = Kill | Cluster | ShowOngoing | ShowUsers | ShowIndexes | ShowSettings
TABLES: dict[Ongoing, str] = {
    Ongoing.QUERY: "queries",
    Ongoing.LIVE_QUERY: "live",
    Ongoing.TRANSACTION: "transactions",
    Ongoing.CONNECTION: "sessions",
}
OnKill = Callable[[Principal, str], None]
"""Who ended what, as `QUERY q1-7`."""


def no_kill_heard(principal: Principal, what: str) -> None:
    """For sessions outside a node."""


class NodeStatements:
    """Answers them. `on_kill` hears of each KILL that ended something."""

    def __init__(
        self,
        catalog: Callable[[], CatalogView],
        system: SystemTables,
        activity: Activity,
        on_kill: OnKill = no_kill_heard,
        *,
        cluster: ClusterStatements | None = None,
    ) -> None:
        self._catalog = catalog
        self._system = system
        self._activity = activity
        self._on_kill = on_kill
        self._cluster = cluster or ClusterStatements(system, None, no_kill_heard)

    async def answer(self, principal: Principal, statement: NodeStatement, namespace: str) -> bytes:
        """The result as bytes. Raises NothingToKill, Unavailable, UnknownTable,
        InvalidStatement.
        """
        user = principal.user
        match statement:
            case Kill(kind, item_id):
                await self._activity.kill(kind, item_id, principal)
                self._on_kill(principal, f"{kind.value} {item_id}")
                return answers.message(f"{kind.value.lower()} {item_id} ended", user)
            case Cluster(asked):
                return await self._cluster.answer(principal, asked)
            case ShowOngoing(kind):
                if not self._activity.has(kind):
                    raise Unsupported(f"SHOW of each {kind.value}", "this node runs none")
                table = virtual_table(SYSTEM, TABLES[kind])
                return result(table, await self._activity.rows(kind, table, principal), user)
            case ShowUsers():
                table = virtual_table(SYSTEM, "users")
                return result(table, await self._system.rows(table, principal), user)
            case ShowIndexes(name):
                table = virtual_table(SYSTEM, "indexes")
                return result(table, self._indexes(name, namespace, principal), user)
            case ShowSettings(name):
                table = virtual_table(SYSTEM, "settings")
                rows = list(await self._system.rows(table, principal))
                if name is not None:
                    rows = [row for row in rows if row[0] == name]
                    if not rows:
                        raise InvalidStatement(f"there is no setting {name}; SHOW ALL lists them")
                return result(table, rows, user)
            case _:
                assert_never(statement)

    def _indexes(
        self, name: TableName | None, namespace: str, principal: Principal
    ) -> Iterator[Values]:
        catalog = self._catalog()
        if name is None:
            for table in visible_stored(catalog, principal):
                yield from indexes_of(catalog.pending.get(table.id, table))
            return
        if name.all_users:
            raise InvalidStatement("name the table as namespace.table")
        table = catalog.table(name.namespace or namespace, name.name)
        permissions.check_read(principal, table)
        yield from indexes_of(catalog.pending.get(table.id, table))


def result(table: VirtualTable, rows: Iterable[Values], user: str) -> bytes:
    """Rows of a virtual table as one result."""
    output = [
        OutputColumn(column.name, column.type, table.flags(column)) for column in table.columns
    ]
    encoders = [encoder(column.type) for column in table.columns]
    found: list[list[Any]] = [
        [
            value if value is None or encode is None else encode(value)
            for value, encode in zip(row, encoders, strict=True)
        ]
        for row in rows
    ]
    return answers.rows(answers.schema(output), orjson.dumps(found), len(found), user, "0")
