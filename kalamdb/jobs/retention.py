"""Retention: what has had its time leaves, in bounded steps decided like any other write.

A round, for each group this node leads:
1. STREAM rows past their table's TTL are expired.
2. The change floor follows `history.retention`; changes, their history and request ids under it go.
3. Entries of dropped indexes are removed, dropped tables are emptied.
4. What an installed image replaced is purged (on followers too: it is this node's copy only).

Keeps: history stays at least as long as the setting and as long as any table of the group asks for,
because a group has one floor; request ids have their own time, so a table that keeps its history
for ever does not pin them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kalamdb.errors import Conflict, Indeterminate, Unavailable
from kalamdb.lib.clock import Clock
from kalamdb.lib.tasks import every
from kalamdb.model.command import Outcome
from kalamdb.model.ids import HOUR_MS, SEQ_EPOCH_MS, GroupId, Seq, seq_ms
from kalamdb.model.table import TableDef
from kalamdb.model.work import ExpireRows, PurgeIndexes, PurgeTable, TrimBefore, Work
from kalamdb.store.catalog_codec import Fence, FenceState
from kalamdb.store.rows import expired_upto


class LedGroup(Protocol):
    """What retention asks of a replica."""

    group: GroupId

    @property
    def leads(self) -> bool: ...

    @property
    def seq_last(self) -> Seq: ...

    def fences(self) -> Iterator[Fence]: ...

    def write(self, work: Work) -> Awaitable[Outcome]: ...

    def purge_old(self) -> int: ...


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    history_s: float = 24 * 3600
    request_ids_s: float = 24 * 3600
    interval_s: float = 30.0
    steps_max: int = 100  # of one kind, for one group, in one round


@dataclass(frozen=True, slots=True)
class RetentionStatistics:
    rounds: int
    expired: int
    trimmed: int
    purged: int


class Retention:
    """See the module. `run` until cancelled, or `round` by hand."""

    def __init__(
        self,
        groups: Callable[[], Iterable[LedGroup]],
        clock: Clock,
        settings: RetentionSettings,
    ) -> None:
        """`groups`: those this node has now."""
        self._groups = groups
        self._clock = clock
        self._settings = settings
        self._rounds = self._expired = self._trimmed = self._purged = 0

    async def run(self) -> None:
        await every(self._settings.interval_s, self.round, name="retention")

    async def round(self) -> None:
        """One pass over all groups. A group that can't decide now is left for the next pass."""
        for group in list(self._groups()):
            for _ in range(self._settings.steps_max):
                if not group.purge_old():
                    break
            if not group.leads:
                continue
            try:
                await self._keep(group)
            except (Unavailable, Indeterminate, Conflict):
                continue
        self._rounds += 1

    async def _keep(self, group: LedGroup) -> None:
        fences = list(group.fences())
        now_ms = max(self._clock.wall_ms(), seq_ms(group.seq_last))
        tables = [fence.table for fence in fences if fence.state is FenceState.ACTIVE]
        for table in tables:
            if not table.has_tombstones and table.options.ttl_s is not None:
                upto = expired_upto(table, now_ms, group.group)
                self._expired += await self._repeat(group, ExpireRows(table, upto))
        trim = TrimBefore(
            _hour(now_ms - self._history_ms(tables)),
            _hour(now_ms - int(self._settings.request_ids_s * 1000)),
        )
        self._trimmed += await self._repeat(group, trim)
        for table in tables:
            if table.next_index_id > len(table.uniques) + len(table.indexes) + 1:
                self._purged += await self._repeat(group, PurgeIndexes(table.id))
        for fence in fences:
            if fence.state is FenceState.DROPPED:
                self._purged += await self._repeat(group, PurgeTable(fence.table.id))

    async def _repeat(self, group: LedGroup, work: Work) -> int:
        """Repeat a step until it affects nothing; returns how much it affected."""
        total = 0
        for _ in range(self._settings.steps_max):
            affected = (await group.write(work)).affected
            total += affected
            if not affected:
                break
        return total

    def _history_ms(self, tables: Sequence[TableDef]) -> int:
        if any(table.options.history_full for table in tables):
            return 1 << 62
        asked_h = [table.options.history_retention_h or 0 for table in tables]
        return max(int(self._settings.history_s * 1000), max(asked_h, default=0) * HOUR_MS)

    def statistics(self) -> RetentionStatistics:
        return RetentionStatistics(self._rounds, self._expired, self._trimmed, self._purged)


def _hour(wall_ms: int) -> int:
    """Hours since the seq epoch; what began before that hour has had its time."""
    return max(0, (wall_ms - SEQ_EPOCH_MS) // HOUR_MS)
