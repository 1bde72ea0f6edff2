"""A SELECT as it was: the rows of an earlier moment, out of what is retained, for the query engine.

Keeps: the partitions read are those a SELECT of now reads; a moment that is not retained whole is
CursorExpired before a row is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import assert_never

from kalamdb.errors import CursorExpired
from kalamdb.far_reads import RowsAsked
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.table import TableKind
from kalamdb.ports import Groups
from kalamdb.query import wire
from kalamdb.query.engine_link import EngineResult, ScanRequest
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.scan import ScanLimits
from kalamdb.query.sources import Everybody, OneTenant, Sources, Virtual, far_rows, owned
from kalamdb.query.wire import WireSource
from kalamdb.sql.bound import OutputColumn, ReevaluatedPlan

_PAST = b"@past"  # a worker keeps what was beside what is


@dataclass(frozen=True, slots=True)
class Moment:
    """What a result is current to: by group, the last change among the chains it read.

    For a table of all tenants it is the last change of the group. `wall_ms` is the wall clock's
    time where rows expire by it, else 0.
    """

    seqs: tuple[tuple[GroupId, Seq], ...]
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A result: `parts` are JSON row arrays joined by commas."""

    columns: tuple[OutputColumn, ...]
    parts: tuple[bytes, ...]
    row_count: int
    moment: Moment


async def evaluate_now(
    plan: ReevaluatedPlan,
    groups: Groups,
    pool: EnginePool,
    limits: ScanLimits,
    pinned: Callable[[], int],
) -> Evaluated:
    """The result on the rows of now.

    `pinned` is called in the very step that fixes which rows those are; it gives the wall clock's
    milliseconds. Raises what `EnginePool.run` and reading raise.
    """
    sources = _Pinned(plan, groups, pinned)
    result = await pool.run(_request(plan, sources, limits), sources)
    return _evaluated(result, sources.moment)


async def evaluate_then(
    plan: ReevaluatedPlan,
    groups: Groups,
    pool: EnginePool,
    limits: ScanLimits,
    *,
    then: Moment,
    begun: Callable[[], int],
) -> Evaluated:
    """The result on the rows of an earlier moment. Raises CursorExpired as well.

    `begun` is called once a worker is there.
    """
    sources = _Past(plan, groups, then, begun)
    return _evaluated(await pool.run(_request(plan, sources, limits), sources), then)


def _request(plan: ReevaluatedPlan, sources: Sources, limits: ScanLimits) -> ScanRequest:
    return ScanRequest(
        plan.text,
        tuple(sources.wire_table(use) for use in plan.scan.tables),
        sources.places,
        plan.ordered,
        False,
        limits.rows_max,
        limits.size_max_bytes,
    )


def _evaluated(result: EngineResult, moment: Moment) -> Evaluated:
    columns = tuple(
        OutputColumn(column.name, wire.from_wire(column.type), column.flags)
        for column in result.columns
    )
    return Evaluated(columns, result.parts, result.row_count, moment)


class _Pinned(Sources):
    """`Sources` that say when they were pinned."""

    def __init__(self, plan: ReevaluatedPlan, groups: Groups, pinned: Callable[[], int]) -> None:
        super().__init__(plan.scan.tables, plan.env.principal.partition, groups)
        self._pinned_now = pinned
        self.wall_ms = 0

    def _fixed(self) -> None:
        self.wall_ms = self._pinned_now()

    @property
    def moment(self) -> Moment:
        expires = any(source.table.kind is TableKind.STREAM for source in self._sources)
        return Moment(self.seqs, self.wall_ms if expires else 0)


class _Past(Sources):
    """`Sources` as they were at an earlier moment."""

    def __init__(
        self, plan: ReevaluatedPlan, groups: Groups, then: Moment, begun: Callable[[], int]
    ) -> None:
        super().__init__(plan.scan.tables, plan.env.principal.partition, groups)
        self._begun = begun
        self._then = then
        self._seqs = dict(then.seqs)

    @property
    def places(self) -> tuple[bytes, ...]:
        return tuple(place + _PAST for place in super().places)

    async def open(self) -> tuple[WireSource, ...]:
        """Raises CursorExpired as well: here, not in the thread that reads."""
        opened = await super().open()
        self._begun()
        for source in range(len(opened)):
            self.rows(source)
        return tuple(
            WireSource(source.place + _PAST, b"", source.columns, source.owned) for source in opened
        )

    def rows(self, source: int) -> Iterator[tuple[bytes, bytes]]:
        found = self._sources[source]
        match found:
            case OneTenant():
                if found.far is not None:
                    return super().rows(source)
                snapshot = found.snapshot
                assert snapshot is not None
                return snapshot.scan_as_of(
                    found.table, found.partition, self._at(snapshot.group), self._then.wall_ms
                )
            case Everybody():
                scans = [
                    snapshot.scan_table_as_of(
                        found.table, self._at(snapshot.group), self._then.wall_ms
                    )
                    for snapshot in found.snapshots
                ]
                here = owned(itertools.chain.from_iterable(scans))
                return itertools.chain(here, far_rows(found.far))
            case Virtual():
                raise AssertionError("system tables are no part of live queries")
            case _:
                assert_never(found)

    def _asked(self, source: OneTenant | Everybody, group: GroupId) -> RowsAsked:
        """As of then; whether that is retained is checked there, before a row is sent."""
        asked = super()._asked(source, group)
        return replace(asked, then=(self._at(group), self._then.wall_ms))

    def _at(self, group: GroupId) -> Seq:
        then = self._seqs.get(group)
        if then is None:
            raise CursorExpired("of other groups", "foreign")
        return then
