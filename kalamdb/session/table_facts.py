"""DESCRIBE of a view, DESCRIBE … HISTORY, SHOW CREATE and SHOW STATS.

Keeps: nobody is told of a table they may not read; numbers are of rows the asker may read. Of a
USER or STREAM table that is its own partition, as in any SELECT; roles dba and system, who may read
all tenants' rows, get the numbers of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import assert_never

from kalamdb.errors import PermissionDenied, QueryTimeout
from kalamdb.far_reads import FarReads, FarRows, RowsAsked
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.ids import GroupId
from kalamdb.model.principal import Role
from kalamdb.model.table import TableDef
from kalamdb.model.types import BIGINT, INT, TEXT
from kalamdb.ports import Groups, Snapshot
from kalamdb.query import scan
from kalamdb.query.engine_pool import EnginePool, Stopped
from kalamdb.query.far import open_far
from kalamdb.query.running import stoppable
from kalamdb.query.scan import ScanLimits
from kalamdb.session import introspect, permissions
from kalamdb.session.activity import Activity
from kalamdb.session.information_schema import may_read_view
from kalamdb.session.run import Run
from kalamdb.sql.bound import Env, OutputColumn
from kalamdb.sql.create_text import create_table_text, create_view_text
from kalamdb.sql.engine_query import scan_select
from kalamdb.sql.statement import (
    CreateView,
    DescribeTable,
    Ongoing,
    ShowCreate,
    ShowStats,
    TableName,
)
from kalamdb.sql.views import view_query
from kalamdb.sql.virtual import VIRTUAL_NAMESPACES, virtual_table
from kalamdb.store.catalog_codec import decode_replaced

STOP_ROWS = 256
_STATS = (
    OutputColumn("table_name", TEXT),
    OutputColumn("namespace", TEXT),
    OutputColumn("schema_version", INT),
    OutputColumn("logical_rows", BIGINT),
    OutputColumn("flushed_segments", BIGINT),
    OutputColumn("active_streams", BIGINT),
    OutputColumn("memory_bytes", BIGINT),
)


class TableFacts:
    """Answers as row results."""

    def __init__(
        self,
        groups: Groups,
        engine: EnginePool,
        clock: Clock,
        *,
        ids: Ids,
        limits: ScanLimits,
        activity: Activity,
    ) -> None:
        self._groups = groups
        self._engine = engine
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._activity = activity

    async def answer(self, run: Run, statement: DescribeTable | ShowCreate | ShowStats) -> bytes:
        match statement:
            case DescribeTable():
                return await self.describe(run, statement)
            case ShowCreate():
                return self.create_text(run, statement)
            case ShowStats():
                return await self.stats(run, statement)
            case _:
                assert_never(statement)

    async def with_columns(self, run: Run, statement: CreateView) -> CreateView:
        """The statement with what its query gives."""
        found = await self.columns(run, statement.query, run.namespace)
        return replace(statement, found=tuple(column.name for column in found))

    async def describe(self, run: Run, statement: DescribeTable) -> bytes:
        """Raises UnknownTable, UnknownNamespace, InvalidStatement, PermissionDenied."""
        catalog = self._groups.catalog
        view = _view(catalog, statement.table, run.namespace)
        if view is not None and not statement.history:
            _check_view(catalog, run, view)
            columns = await self.columns(run, view.sql, view.home)
            return introspect.described_view(view, columns, run.user)
        namespace = statement.table.namespace or run.namespace
        if namespace in VIRTUAL_NAMESPACES:
            virtual = virtual_table(namespace, statement.table.name)
            permissions.check_read(run.principal, virtual)
            return introspect.described(virtual, run.user)
        table = catalog.table(namespace, statement.table.name)
        permissions.check_read(run.principal, table)
        if not statement.history:
            return introspect.described(table, run.user)
        return introspect.history(tuple(_versions(catalog, table)), run.user)

    async def columns(self, run: Run, sql: str, home: str) -> Sequence[OutputColumn]:
        """What the query of a view gives, as the engine says over its tables without rows. Raises
        what binding and planning raise.
        """
        plan = scan_select(view_query(sql).query, self._groups.catalog, home, 0)
        env = Env(run.principal, self._clock.wall_ms(), self._ids, ())
        return await scan.columns(plan, env, self._groups, self._engine, self._limits)

    def create_text(self, run: Run, statement: ShowCreate) -> bytes:
        """For who may read it: the text holds the literals of its defaults, checks and filters.

        Raises UnknownTable, PermissionDenied.
        """
        catalog, name = self._groups.catalog, statement.table
        view = _view(catalog, name, run.namespace)
        if view is not None:
            _check_view(catalog, run, view)
            return introspect.created(view.name, create_view_text(view), run.user)
        table = catalog.table(name.namespace or run.namespace, name.name, statement.kind)
        permissions.check_read(run.principal, table)
        return introspect.created(table.name, create_table_text(table), run.user)

    async def stats(self, run: Run, statement: ShowStats) -> bytes:
        """Counts row by row, within the time of a query. Raises UnknownTable, PermissionDenied,
        QueryTimeout.
        """
        name, principal = statement.table, run.principal
        table = self._groups.catalog.table(name.namespace or run.namespace, name.name)
        permissions.check_read(principal, table)
        if table.is_tenant_scoped and principal.role.at_least(Role.DBA):
            rows, size_bytes = await self._count_all(table)
        else:
            rows, size_bytes = await self._count_own(run, table)
        row = [
            table.name,
            table.namespace,
            table.version,
            str(rows),
            "0",
            await self._streams(run, table),
            str(size_bytes),
        ]
        return introspect.result(_STATS, [row], run.user)

    async def _streams(self, run: Run, table: TableDef) -> str | None:
        """Live queries of the table that the asker may see; None when a node did not say."""
        listed = await self._activity.everywhere(Ongoing.LIVE_QUERY, run.principal)
        if listed.silent:
            return None
        named = table.namespace, table.name
        return str(sum(one.table == named for one in listed.known))

    async def _count_own(self, run: Run, table: TableDef) -> tuple[int, int]:
        partition = table.partition_for(run.principal.partition)
        far = self._groups.far
        group = None if far is None else far.group_of(partition)
        if far is not None and group is not None:
            async with self._opened(far, {group: RowsAsked(table, partition)}) as opened:
                return await self._count_far(opened)
        barrier = self._groups.barrier(partition)
        if barrier is not None:
            await barrier
        snapshot = self._groups.snapshot(partition)

        def look(stopped: Stopped) -> tuple[int, int]:
            return _count((raw for _, raw in snapshot.scan(table, partition)), stopped)

        return await self._engine.look(look, snapshot.close)

    async def _count_all(self, table: TableDef) -> tuple[int, int]:
        far = self._groups.far
        if far is None:
            return await self._count_here(table, ())
        asked = dict.fromkeys(far.groups(), RowsAsked(table, None))
        async with self._opened(far, asked) as opened:
            here = await self._count_here(table, opened)
            elsewhere = await self._count_far(opened)
        return here[0] + elsewhere[0], here[1] + elsewhere[1]

    @asynccontextmanager
    async def _opened(
        self, far: FarReads, asked: Mapping[GroupId, RowsAsked]
    ) -> AsyncGenerator[Sequence[FarRows]]:
        found = await open_far(far, {group: (one,) for group, one in asked.items()})
        try:
            yield tuple(found.values())
        finally:
            for rows in found.values():
                rows.close()

    async def _count_far(self, opened: Sequence[FarRows]) -> tuple[int, int]:
        """In groups of other nodes, counted there. Raises as `FarRows.count` does."""
        timeout_s = self._engine.settings.timeout_s
        try:
            async with stoppable(), asyncio.timeout(timeout_s):
                counted = await asyncio.gather(*(rows.count(0) for rows in opened))
        except TimeoutError:
            raise QueryTimeout(timeout_s) from None
        return sum(rows for rows, _ in counted), sum(size for _, size in counted)

    async def _count_here(self, table: TableDef, opened: Sequence[FarRows]) -> tuple[int, int]:
        """In groups of this node, the others being opened elsewhere."""
        barrier = self._groups.barrier_everywhere({rows.group for rows in opened})
        if barrier is not None:
            await barrier
        snapshots = self._groups.snapshots_everywhere(table, opened)

        def look(stopped: Stopped) -> tuple[int, int]:
            return _count(_all_rows(table, snapshots), stopped)

        def close() -> None:
            for snapshot in snapshots:
                snapshot.close()

        return await self._engine.look(look, close)


def _all_rows(table: TableDef, snapshots: Sequence[Snapshot]) -> Iterator[bytes]:
    for snapshot in snapshots:
        for _, _, raw in snapshot.scan_table(table):
            yield raw


def _count(rows: Iterable[bytes], stopped: Stopped) -> tuple[int, int]:
    """In a thread: how many, and their bytes."""
    number = size_bytes = 0
    for raw in rows:
        if number % STOP_ROWS == 0:
            stopped()
        number += 1
        size_bytes += len(raw)
    return number, size_bytes


def _view(catalog: CatalogView, name: TableName, namespace: str) -> ViewDef | None:
    return catalog.views.get((name.namespace or namespace, name.name))


def _check_view(catalog: CatalogView, run: Run, view: ViewDef) -> None:
    if not may_read_view(catalog, run.principal, view):
        raise PermissionDenied(f"reading {view.full_name}", "the tables under it")


def _versions(catalog: CatalogView, table: TableDef) -> Iterator[tuple[TableDef, int]]:
    """Every version that is kept, oldest first, with when it came into force."""
    kept = catalog.history.get(table.id, {})
    since_ms = table.created_ms
    for version in sorted(kept):
        replaced = decode_replaced(kept[version])
        yield replaced.table, replaced.since_ms
        since_ms = replaced.until_ms
    yield table, since_ms
