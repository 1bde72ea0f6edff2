"""A SELECT for the query engine: pin its partitions, send their rows, answer what comes back.

1. Barriers: this node leads the groups of the session's tenant and of each SHARED table.
2. Snapshots of them, all in one step of the loop, each checked against the group's schema fence.
3. A query worker gets the rows it does not hold already, runs the rendered text, encodes the
   result.

Keeps: D10: the only partitions ever opened are `table.partition_for(principal.partition)`; I6: the
result carries the seqs it is current to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kalamdb.errors import Unsupported
from kalamdb.model import keys
from kalamdb.model.codec import encode_seq
from kalamdb.model.ids import META_GROUP, GroupId, Partition, Seq, TableId
from kalamdb.model.table import SEQ_COLUMN_ID, Column, TableDef, TableKind
from kalamdb.ports import Groups, Snapshot
from kalamdb.query import wire
from kalamdb.query.engine_link import EngineResult, ScanRequest
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.wire import SourceColumn, WireSource, WireTable
from kalamdb.sql.bound import Env, OutputColumn, ScanSelect, ScanTable


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What a result may hold, and what an UPDATE or DELETE that looks for its rows may change."""

    rows_max: int = 100_000
    size_max_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class ScanResult:
    """`rows_json` is a JSON array of row arrays; `seqs` what it is current to, by group."""

    columns: tuple[OutputColumn, ...]
    rows_json: bytes
    row_count: int
    seqs: tuple[tuple[GroupId, Seq], ...]

    @property
    def cursor(self) -> str:
        return cursor(self.seqs)


@dataclass(frozen=True, slots=True)
class ScanValues:
    """A result as stored values (a UUID as text), with what it rests on: per (table, partition) the
    group and the last change.
    """

    rows: list[list[Any]]
    tables: Mapping[tuple[TableId, Partition], tuple[GroupId, Seq]]

    def last_changes(self, group: GroupId) -> dict[tuple[TableId, Partition], Seq]:
        """Those one group can check; no cut is promised across groups."""
        return {place: seq for place, (of, seq) in self.tables.items() if of == group}


async def select(
    plan: ScanSelect, env: Env, groups: Groups, pool: EnginePool, limits: ScanLimits
) -> ScanResult:
    """Run a SELECT. Raises Unsupported (all_users tables) and what `EnginePool.run` raises."""
    sources = Sources(plan.tables, env.principal.partition, groups)
    result = await pool.run(_request(plan, env, sources, limits, values=False), sources)
    return ScanResult(
        tuple(
            OutputColumn(column.name, wire.from_wire(column.type), column.flags)
            for column in result.columns
        ),
        b"[" + b",".join(result.parts) + b"]",
        result.row_count,
        sources.seqs,
    )


async def values(
    plan: ScanSelect, env: Env, groups: Groups, pool: EnginePool, limits: ScanLimits
) -> ScanValues:
    """Run a SELECT whose rows go on as values. Raises as `select` does."""
    sources = Sources(plan.tables, env.principal.partition, groups)
    result = await pool.run(_request(plan, env, sources, limits, values=True), sources)
    return ScanValues(_rows(result), sources.rests_on)


def cursor(seqs: Sequence[tuple[GroupId, Seq]]) -> str:
    """One group's seq in decimals; of several groups `{group:seq,…}`; 0 when no table was read."""
    if not seqs:
        return "0"
    if len(seqs) == 1:
        return str(seqs[0][1])
    return "{" + ",".join(f"{group}:{seq}" for group, seq in seqs) + "}"


def check_schema(table: TableDef, partition: Partition, groups: Groups) -> None:
    """Raises SchemaChanged when the partition's group knows a newer definition than `table`.

    After a snapshot was taken: a fence that has not passed now had not passed then.
    """
    groups.get(table, partition, b"")  # no row has an empty key: this is for the check alone


def _rows(result: EngineResult) -> list[list[Any]]:
    return [row for part in result.parts for row in wire.unpack_values(part)]


def _request(
    plan: ScanSelect, env: Env, sources: Sources, limits: ScanLimits, *, values: bool
) -> ScanRequest:
    return ScanRequest(
        plan.render(env),
        tuple(sources.wire_table(table) for table in plan.tables),
        sources.places,
        plan.ordered,
        values,
        limits.rows_max,
        limits.size_max_bytes,
    )


_NONE = Seq(0)


@dataclass(slots=True)
class _Source:
    """One partition of one table, with the columns all its uses in the query read."""

    table: TableDef
    partition: Partition
    columns: dict[int, Column]
    snapshot: Snapshot | None = None
    group: GroupId = META_GROUP
    last_change: Seq = _NONE

    @property
    def place(self) -> bytes:
        return keys.chain(self.table.id, self.partition)


class Sources:
    """Implements `engine_link.Feed` over the groups' snapshots."""

    def __init__(self, tables: Sequence[ScanTable], tenant: Partition, groups: Groups) -> None:
        self._groups = groups
        self._sources: list[_Source] = []
        self._index: dict[int, int] = {}
        self.seqs: tuple[tuple[GroupId, Seq], ...] = ()
        for table in tables:
            if table.all_users:
                raise Unsupported(
                    "reading all_users tables", "read one tenant's rows, or EXECUTE AS"
                )
            self._add(table, tenant)

    def _add(self, use: ScanTable, tenant: Partition) -> None:
        table = use.table
        if table.id not in self._index:
            self._index[table.id] = len(self._sources)
            self._sources.append(_Source(table, table.partition_for(tenant), {}))
        self._sources[self._index[table.id]].columns.update(
            (column.id, column) for column in _columns(use)
        )

    @property
    def places(self) -> tuple[bytes, ...]:
        return tuple(source.place for source in self._sources)

    @property
    def rests_on(self) -> Mapping[tuple[TableId, Partition], tuple[GroupId, Seq]]:
        return {
            (source.table.id, source.partition): (source.group, source.last_change)
            for source in self._sources
        }

    def wire_table(self, use: ScanTable) -> WireTable:
        return WireTable(
            use.alias,
            self._index[use.table.id],
            tuple(column.id for column in _columns(use)),
            use.table.name,
        )

    async def open(self) -> tuple[WireSource, ...]:
        """Raises Unavailable, SchemaChanged."""
        partitions = dict.fromkeys(source.partition for source in self._sources)
        barriers = [
            barrier
            for partition in partitions
            if (barrier := self._groups.barrier(partition)) is not None
        ]
        if barriers:
            await asyncio.gather(*barriers)
        snapshots: dict[Partition, Snapshot] = {}
        for source in self._sources:
            snapshot = snapshots.get(source.partition)
            if snapshot is None:
                snapshot = snapshots[source.partition] = self._groups.snapshot(source.partition)
            source.snapshot = snapshot
        pinned = tuple(self._pin(source, snapshots[source.partition]) for source in self._sources)
        newest: dict[GroupId, Seq] = {}
        for source in self._sources:
            newest[source.group] = max(newest.get(source.group, Seq(0)), source.last_change)
        self.seqs = tuple(sorted(newest.items()))
        return pinned

    def _pin(self, source: _Source, snapshot: Snapshot) -> WireSource:
        check_schema(source.table, source.partition, self._groups)
        source.group = snapshot.group
        source.last_change = snapshot.last_change(source.table, source.partition)
        return WireSource(
            source.place,
            # STREAM rows expire by the clock, without a change.
            b"" if source.table.kind is TableKind.STREAM else encode_seq(source.last_change),
            tuple(
                SourceColumn(
                    column.id, column.name, wire.to_wire(column.type), source.table.flags(column)
                )
                for column in source.columns.values()
            ),
        )

    def rows(self, source: int) -> Iterator[tuple[bytes, bytes]]:
        found = self._sources[source]
        assert found.snapshot is not None
        return found.snapshot.scan(found.table, found.partition)

    def close(self) -> None:
        for source in self._sources:
            if source.snapshot is not None:
                source.snapshot.close()
                source.snapshot = None


def _columns(use: ScanTable) -> Sequence[Column]:
    """The columns a use reads; one at least, so that there is something to count."""
    return use.columns or (use.table.by_id[SEQ_COLUMN_ID],)
