"""Reads of groups that other nodes lead: `kalamdb.ports.FarReads` over the links between nodes.

1. The leader of a group is asked as it was last heard of; who is not it says who is. A stale read
   asks any member. Looking goes on for `GatherLimits.find_s`.
2. The group's state is pinned there before a row moves (`rows_host.py`).
3. Rows are fetched by the thread that feeds the query worker, a part at a time.

Keeps: at most one window of a stream is held here; a link that breaks is Unavailable, because a
read that did not end did nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from cluster.gather import wire
from cluster.gather.rows_host import ROWS, RowsHost
from cluster.rpc.port import Rpc, RpcStream
from kalamdb.errors import (
    Indeterminate,
    KalamError,
    Moved,
    NotLeader,
    Overloaded,
    ReplicaBehind,
    Unavailable,
)
from kalamdb.far_reads import FarRows, Freshness, RowsAsked, SlotRun
from kalamdb.model.ids import GroupId, Partition, Seq, Slot

FIRST_PAUSE_S = 0.02
PAUSE_MAX_S = 0.25

T = TypeVar("T")


class LeaderHints(Protocol):
    """Who leads which group, as far as this node has heard (`cluster.leaders.Leaders`)."""

    def of(self, group: GroupId) -> int | None: ...

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        """`asked` did not take it, and may have said who would."""
        ...


Members = Callable[[GroupId], Sequence[int]]
"""The nodes that have a replica of a group, as far as this node has heard."""


class GatheredReads:
    """Implements `kalamdb.ports.FarReads`. `host` reads what turns out to be here after all."""

    def __init__(
        self,
        node: int,
        rpc: Rpc,
        leaders: LeaderHints,
        members: Members,
        *,
        host: RowsHost,
        freshness: Freshness | None = None,
    ) -> None:
        self._node = node
        self._rpc = rpc
        self._leaders = leaders
        self._members = members
        self._host = host
        self._freshness = freshness or Freshness()

    def fresh(self, freshness: Freshness) -> GatheredReads:
        return GatheredReads(
            self._node,
            self._rpc,
            self._leaders,
            self._members,
            host=self._host,
            freshness=freshness,
        )

    def groups(self) -> frozenset[GroupId]:
        groups = self._host.catalog.data_groups()
        return frozenset(group for group in groups if not self._is_here(group))

    def group_of(self, partition: Partition) -> GroupId | None:
        group = self._host.catalog.group_of(partition)
        return None if self._is_here(group) else group

    def _is_here(self, group: GroupId) -> bool:
        return self._host.reads(group, stale=self._freshness.stale)

    def node_of(self, group: GroupId) -> int | None:
        return next(iter(self._candidates(group)), None)

    async def open(self, group: GroupId, asked: Sequence[RowsAsked]) -> FarRows:
        request = wire.rows_request(group, asked, self._freshness)

        async def at(node: int) -> FarRows:
            if node == self._node:
                return await self._host.pin(wire.read_rows_request(request))
            return await self._open_at(node, group, request)

        return await self._found(group, at)

    # ---- finding who leads ----------------------------------------------------------------------

    async def _found(self, group: GroupId, at: Callable[[int], Awaitable[T]]) -> T:
        """What the right node answers. Raises what it raises; Unavailable when none is found."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._host.limits.find_s
        pause_s = FIRST_PAUSE_S
        failed: Unavailable = NotLeader(group, None)
        while True:
            for node in self._candidates(group):
                try:
                    return await at(node)
                except (Overloaded, ReplicaBehind):
                    raise
                except Unavailable as error:
                    if isinstance(error, Moved):
                        raise  # another group has the partition now: it is asked for anew
                    failed = error
                except Indeterminate as error:
                    failed = Unavailable(error.reason)
                self._leaders.refused(group, node, failed)
                if isinstance(failed, NotLeader) and failed.leader not in (None, node):
                    break  # whom it names is first now
            if loop.time() + pause_s > until_s:
                raise failed
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _candidates(self, group: GroupId) -> list[int]:
        """Whom to ask, in order: who leads as far as is known, or (stale) whoever is connected."""
        members = list(self._members(group))
        if self._freshness.stale:
            members.sort(key=lambda node: not self._is_up(node))
            return members
        first = self._leaders.of(group)
        if first is None:
            return members
        return [first, *(node for node in members if node != first)]

    def _is_up(self, node: int) -> bool:
        return node == self._node or self._rpc.connected(node)

    async def _open_at(self, node: int, group: GroupId, request: bytes) -> RemoteRows:
        stream = await self._rpc.open(node, ROWS, request)
        try:
            limits = self._host.limits
            async with asyncio.timeout(limits.find_s + limits.wait_s):
                first = await stream.receive()
        except TimeoutError:
            stream.abort()
            raise Unavailable(f"node {node} does not answer") from None
        except BaseException:
            stream.abort()
            raise
        if first is None:
            stream.abort()
            raise Unavailable(f"node {node} ended the read")
        return RemoteRows(node, group, stream, wire.unpack_opened(first))


class RemoteRows:
    """Implements `ports.FarRows` over a stream from the node that pinned them."""

    def __init__(self, node: int, group: GroupId, stream: RpcStream, opened: wire.Opened) -> None:
        self.group = group
        self.seq = Seq(opened.seq)
        self.last_changes: Sequence[Seq] = [Seq(last) for last in opened.last_changes]
        self.serves: Sequence[SlotRun] = [
            SlotRun(run.first, run.stop, run.epoch, run.is_open) for run in opened.serves
        ]
        self._hidden: frozenset[Slot] = frozenset()
        self._node = node
        self._stream = stream
        self._loop = asyncio.get_running_loop()

    def hide(self, slots: frozenset[Slot]) -> None:
        self._hidden |= slots

    async def count(self, asked: int) -> tuple[int, int]:
        await self._stream.send(wire.wanted(asked, self._hidden, counted=True))
        answer = await self._stream.receive()
        if answer is None:
            raise Unavailable(f"node {self._node} ended the read of group {self.group}")
        return wire.unpack_counted(answer)

    def rows(self, asked: int) -> Iterator[tuple[bytes, bytes]]:
        """In a thread; it waits for the loop, which waits for the other node."""
        self._on_loop(self._stream.send(wire.wanted(asked, self._hidden)))
        for batch in wire.joined(self._messages()):
            yield from wire.read_batch(batch)

    def _messages(self) -> Iterator[bytes]:
        while True:
            message = self._on_loop(self._stream.receive())
            if message is None:
                raise Unavailable(f"node {self._node} ended the rows of group {self.group}")
            yield message

    def _on_loop(self, waiting: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def stop(self) -> None:
        self._stream.abort()

    def close(self) -> None:
        self._stream.abort()
