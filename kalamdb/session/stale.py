"""Reads of another freshness than usual: stale ones, and such that must not be older than a cursor.

`SET consistency = 'stale'` and the request fields `consistency` and `min_cursor` ask for them. The
answer's cursor says what it is current to.

Keeps: a linearizable read stays one; a stale read comes from any replica that knows the group at
all, and waits a bounded time for what it has to see.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Collection, Mapping, Sequence

from kalamdb.errors import CursorExpired, MalformedRequest, NotLeader, ReplicaBehind
from kalamdb.far_reads import FarReads, FarRows, Freshness
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GROUPS_MAX, SEQ_GROUP_MASK, SEQ_MAX, GroupId, Partition, Seq
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import Groups, Snapshot

STALE, LINEARIZABLE = "stale", "linearizable"
NEWEST = Freshness()
CURSOR_LENGTH_MAX = 16_384
_ONE = re.compile(r"[0-9]{1,19}")
_SEVERAL = re.compile(
    r"(?:r1\.[0-9a-f]{16}\.[0-9a-f]{16}\.[0-9]{1,14})?"  # of a live result
    r"\{((?:[0-9]{1,3}:[0-9]{1,19}(?:,[0-9]{1,3}:[0-9]{1,19})*)?)\}"
)


def read_cursor(text: str) -> Mapping[GroupId, Seq]:
    """Any cursor a client was given: what has to be applied, by group. Raises MalformedRequest."""
    if len(text) <= CURSOR_LENGTH_MAX:
        if _ONE.fullmatch(text):
            seq = int(text)
            if seq <= SEQ_MAX:
                return {GroupId(seq & SEQ_GROUP_MASK): Seq(seq)} if seq else {}
        several = _SEVERAL.fullmatch(text)
        if several is not None:
            pairs = [pair.split(":") for pair in several[1].split(",") if pair]
            found = {GroupId(int(group)): Seq(int(seq)) for group, seq in pairs}
            if len(found) == len(pairs) and all(
                group < GROUPS_MAX and seq <= SEQ_MAX for group, seq in found.items()
            ):
                return found
    raise MalformedRequest("min_cursor is no cursor: send one as an answer had it")


def cursor_text(cursor: str | int | None) -> str | None:
    """A cursor as a request has it: JSON numbers are taken, too."""
    return None if cursor is None else str(cursor)


def freshness_of(consistency: str | None, min_cursor: str | None) -> Freshness:
    """What a request asks for. Raises MalformedRequest."""
    if consistency not in (None, STALE, LINEARIZABLE):
        raise MalformedRequest(f"consistency is {LINEARIZABLE} or {STALE}")
    at_least = NEWEST.at_least if min_cursor is None else read_cursor(min_cursor)
    return Freshness(consistency == STALE, at_least)


class FreshReads:
    """Implements `ports.Groups` over another; only what confirms that a read may start differs."""

    def __init__(self, groups: Groups, freshness: Freshness, wait_s: float) -> None:
        self._groups = groups
        self._freshness = freshness
        self._wait_s = wait_s
        self._far = None if groups.far is None else groups.far.fresh(freshness)

    @property
    def catalog(self) -> CatalogView:
        return self._groups.catalog

    @property
    def far(self) -> FarReads | None:
        return self._far

    # ---- when a read may start ------------------------------------------------------------------

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        """Raises NotLeader for a stale read of what this node has no replica of."""
        freshness = self._freshness
        if not freshness.stale:
            return self._behind(self._groups.barrier(partition), partition)
        group = None if self._far is None else self._far.group_of(partition)
        if group is not None:
            raise NotLeader(group, None)
        return self._applied(freshness.at_least, partition)

    def barrier_everywhere(self, but: Collection[GroupId] = ()) -> Awaitable[object] | None:
        freshness = self._freshness
        if not freshness.stale:
            return self._behind(self._groups.barrier_everywhere(but), None, but)
        return self._applied(self._of_others(but), None)

    def _of_others(self, but: Collection[GroupId]) -> Mapping[GroupId, Seq]:
        at_least = self._freshness.at_least
        return {group: seq for group, seq in at_least.items() if group not in but}

    def _applied(
        self, at_least: Mapping[GroupId, Seq], partition: Partition | None
    ) -> Awaitable[object] | None:
        if not at_least or self._groups.has_applied(at_least, partition):
            return None
        return self._wait(at_least, partition)

    async def _wait(self, at_least: Mapping[GroupId, Seq], partition: Partition | None) -> None:
        """Raises ReplicaBehind."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._groups.wait_applied(at_least, partition)
        except TimeoutError:
            raise ReplicaBehind(self._shown, self._wait_s) from None

    async def _behind(
        self,
        barrier: Awaitable[object] | None,
        partition: Partition | None,
        but: Collection[GroupId] = (),
    ) -> None:
        """After the barrier: what is ahead of the group now was never given out by it."""
        if barrier is not None:
            await barrier
        if not self._groups.has_applied(self._of_others(but), partition):
            raise CursorExpired(self._shown, "ahead")

    @property
    def _shown(self) -> str:
        pairs = sorted(self._freshness.at_least.items())
        if len(pairs) == 1:
            return str(pairs[0][1])
        return "{" + ",".join(f"{group}:{seq}" for group, seq in pairs) + "}"

    def has_applied(self, at_least: Mapping[GroupId, Seq], partition: Partition | None) -> bool:
        return self._groups.has_applied(at_least, partition)

    async def wait_applied(
        self, at_least: Mapping[GroupId, Seq], partition: Partition | None
    ) -> None:
        await self._groups.wait_applied(at_least, partition)

    # ---- everything else is as it was -----------------------------------------------------------

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        return self._groups.get(table, partition, pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self._groups.last_change(table, partition)

    def snapshot(self, partition: Partition) -> Snapshot:
        return self._groups.snapshot(partition)

    def snapshots_everywhere(
        self, table: TableDef, far: Sequence[FarRows] = ()
    ) -> Sequence[Snapshot]:
        return self._groups.snapshots_everywhere(table, far)

    def write(
        self, partition: Partition, work: Work, tag: RequestTag | None = None
    ) -> Awaitable[Outcome]:
        return self._groups.write(partition, work, tag)

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        return self._groups.write_meta(work, tag)

    async def refresh_catalog(self) -> None:
        await self._groups.refresh_catalog()

    async def write_everywhere(self, work: Work) -> None:
        await self._groups.write_everywhere(work)
