"""A SELECT for the query engine: pin its partitions, send their rows, answer what comes back.

1. Barriers: this node leads the groups of what is read.
2. Snapshots of them, all in one step of the loop, each checked against the group's schema fence
   (`sources.py`).
3. A query worker gets the rows it does not hold already, runs the rendered text, encodes the
   result.

Keeps: I6: the result carries the seqs it is current to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kalamdb.model.ids import GroupId, Partition, Seq, TableId
from kalamdb.ports import Groups
from kalamdb.query import wire
from kalamdb.query.engine_link import EngineResult, ScanRequest
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.held import HeldResult
from kalamdb.query.sources import Sources, check_schema
from kalamdb.query.system import OpenVirtual, Values
from kalamdb.query.wire import WireSource
from kalamdb.sql.bound import Env, OutputColumn, ScanSelect
from kalamdb.sql.virtual import VirtualTable

HELD_ABOVE_BYTES = 256 << 10
"""JSON rows of more bytes are not collected in the server's memory, where the edge can stream."""

__all__ = [
    "ScanLimits",
    "ScanResult",
    "ScanValues",
    "check_schema",
    "columns",
    "cursor",
    "select",
    "values",
]


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What a result may hold, and what an UPDATE or DELETE that looks for its rows may change."""

    rows_max: int = 100_000
    size_max_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class ScanResult:
    """`rows_json` is a JSON array of row arrays; `seqs` what it is current to, by group.

    `held`: the rows, joined by commas, where they are too many bytes for `rows_json`; close it.
    """

    columns: tuple[OutputColumn, ...]
    rows_json: bytes
    row_count: int
    seqs: tuple[tuple[GroupId, Seq], ...]
    held: HeldResult | None = None

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
    plan: ScanSelect,
    env: Env,
    groups: Groups,
    pool: EnginePool,
    limits: ScanLimits,
    *,
    open_virtual: OpenVirtual | None = None,
    hold: bool = False,
) -> ScanResult:
    """Run a SELECT. `hold`: a large result may stay outside the server (`ScanResult.held`).

    Raises what `Sources` and `EnginePool.run` raise.
    """
    sources = Sources(plan.tables, env.principal.partition, groups, open_virtual, narrow=env)
    request = _request(plan, env, sources, limits, values=False)
    held = None
    if hold:
        request = replace(request, held_above=HELD_ABOVE_BYTES)
        result, held = await pool.run_held(request, sources, env.principal.actor)
    else:
        result = await pool.run(request, sources)
    return ScanResult(
        tuple(
            OutputColumn(column.name, wire.from_wire(column.type), column.flags)
            for column in result.columns
        ),
        b"[" + b",".join(result.parts) + b"]",
        result.row_count,
        sources.seqs,
        held,
    )


class _NoRows:
    """Implements `engine_link.Feed`: the tables of a query without their rows."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def open(self) -> tuple[WireSource, ...]:
        return self._sources.described()

    def rows(self, source: int) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


async def columns(
    plan: ScanSelect, env: Env, groups: Groups, pool: EnginePool, limits: ScanLimits
) -> tuple[OutputColumn, ...]:
    """What a SELECT gives, found out without a row. Raises what the engine says of the text."""
    sources = Sources(plan.tables, env.principal.partition, groups, _no_virtual)
    result = await pool.run(_request(plan, env, sources, limits, values=False), _NoRows(sources))
    return tuple(
        OutputColumn(column.name, wire.from_wire(column.type), column.flags)
        for column in result.columns
    )


async def _no_virtual(table: VirtualTable) -> Iterable[Values]:
    return ()


async def values(
    plan: ScanSelect,
    env: Env,
    groups: Groups,
    pool: EnginePool,
    limits: ScanLimits,
    *,
    open_virtual: OpenVirtual | None = None,
) -> ScanValues:
    """Run a SELECT whose rows go on as values. Raises as `select` does."""
    sources = Sources(plan.tables, env.principal.partition, groups, open_virtual, narrow=env)
    result = await pool.run(_request(plan, env, sources, limits, values=True), sources)
    return ScanValues(_rows(result), sources.rests_on)


def cursor(seqs: Sequence[tuple[GroupId, Seq]]) -> str:
    """One group's seq in decimals; of several groups `{group:seq,…}`; 0 when no table was read."""
    if not seqs:
        return "0"
    if len(seqs) == 1:
        return str(seqs[0][1])
    return "{" + ",".join(f"{group}:{seq}" for group, seq in seqs) + "}"


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
