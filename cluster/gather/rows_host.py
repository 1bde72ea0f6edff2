"""Rows of this node's groups for reads that run on other nodes.

1. A read index where the read is linearizable, or the wait for what it has to see.
2. One snapshot of the group; what is asked of it is checked: definitions, the partition's place,
   whether an earlier moment is retained.
3. Rows go out as they are asked for, a batch at a time, as fast as the other side takes them.

Keeps: D10 is the asker's to keep: a partition is read when it asks for it. A snapshot is pinned for
a bounded time, by a bounded number of readers; the loop never scans.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cluster.gather import wire
from cluster.gather.wire import RowsRequest, WiredAsk
from cluster.rpc.port import Peer, RpcStream, Service
from kalamdb.errors import (
    CursorExpired,
    LimitReached,
    NotLeader,
    Overloaded,
    QueryTimeout,
    ReplicaBehind,
)
from kalamdb.far_reads import SlotRun
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import GroupId, Partition, Seq, Slot, TableId
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import TableDef
from kalamdb.query.engine_link import after
from kalamdb.query.sources import owned
from kalamdb.replica.replica import Replica
from kalamdb.store.slot_runs import SlotRuns
from kalamdb.store.snapshot import HotSnapshot

ROWS = "rows"
THREADS = 2
COUNTED_ROWS = 4096
"""Rows a thread counts in one go."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatherLimits:
    """- `hold_s`: how long one read may pin a snapshot here, and how long counting may take.
    - `wait_s`: how long a stale read waits for what it has to see.
    - `find_s`: how long a group's leader is looked for.
    - `size_max_bytes`: rows that one read takes from one group of another node.
    - `readers_max`: reads of other nodes at the same time.
    """

    hold_s: float = 60.0
    wait_s: float = 5.0
    find_s: float = 5.0
    size_max_bytes: int = 1 << 30
    readers_max: int = 64


class PinnedRows:
    """Implements `ports.FarRows` where the group is: one snapshot and what is asked of it."""

    def __init__(
        self,
        snapshot: HotSnapshot,
        scans: Sequence[_Scan],
        serves: Sequence[SlotRun],
        turns: _Turns,
    ) -> None:
        self.serves = serves
        self.group = snapshot.group
        self.seq = snapshot.seq
        self.last_changes: Sequence[Seq] = [scan.last_change for scan in scans]
        self._snapshot = snapshot
        self._scans = scans
        self._turns = turns

    @property
    def asked(self) -> int:
        return len(self._scans)

    def hide(self, slots: frozenset[Slot]) -> None:
        self._snapshot.hide(slots)

    def rows(self, asked: int) -> Iterator[tuple[bytes, bytes]]:
        return self._scans[asked].rows()

    async def count(self, asked: int) -> tuple[int, int]:
        rows = self.rows(asked)
        number = size_bytes = 0
        while True:
            found, found_bytes = await self._turns.turn(partial(_counted, rows))
            number += found
            size_bytes += found_bytes
            if found < COUNTED_ROWS:
                return number, size_bytes

    async def batch(self, rows: Iterator[tuple[bytes, bytes]]) -> bytes | None:
        """The next batch of `rows`, put together in a thread."""
        return await self._turns.turn(partial(wire.next_batch, rows))

    def stop(self) -> None:
        """Rows that are here are not waited for."""

    def close(self) -> None:
        """The snapshot is let go when no thread reads it any more."""
        self._turns.after(self._snapshot.close)


class RowsHost:
    """See the module. `close` it when the node stops."""

    def __init__(
        self,
        replicas: Mapping[GroupId, Replica],
        catalog: Callable[[], CatalogView],
        limits: GatherLimits,
    ) -> None:
        self._replicas = replicas
        self._catalog = catalog
        self.limits = limits
        self._readers = 0
        self._runs = SlotRuns()
        self._threads = ThreadPoolExecutor(THREADS, "rows-host")

    def serve(self, service: Service) -> None:
        service.on_stream(ROWS, self._stream)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- what is here ---------------------------------------------------------------------------

    @property
    def catalog(self) -> CatalogView:
        return self._catalog()

    def reads(self, group: GroupId, *, stale: bool) -> bool:
        """May the group be read here, as far as is known now?"""
        replica = self._replicas.get(group)
        if replica is None:
            return False
        return replica.leads or (stale and replica.owns_slots)

    async def pin(self, request: RowsRequest) -> PinnedRows:
        """Raises NotLeader, Moved, Unavailable, ReplicaBehind, SchemaChanged, UnknownTable,
        CursorExpired.
        """
        group = GroupId(request.group)
        replica = self._replicas.get(group)
        if replica is None:
            raise NotLeader(group, None)
        at_least = Seq(request.at_least)
        partitions = {one.partition: wire.asked_of(one)[0] for one in request.asked}.values()
        if request.stale:
            await _wait_applied(replica, at_least, self.limits.wait_s)
        else:
            for barrier in map(replica.barrier, partitions):
                if barrier is not None:
                    await barrier
            if at_least > replica.seq_last:
                raise CursorExpired(str(at_least), "ahead")
        snapshot = replica.snapshot()
        try:
            for partition in partitions:
                if partition is not None:
                    snapshot.slots.check_read(partition)
            scans = [_scan(replica, snapshot, one) for one in request.asked]
        except BaseException:
            snapshot.close()
            raise
        return PinnedRows(snapshot, scans, self._runs.of(snapshot.slots), _Turns(self._threads))

    # ---- for other nodes ------------------------------------------------------------------------

    async def _stream(self, peer: Peer, payload: bytes, stream: RpcStream) -> None:
        request = wire.read_rows_request(payload)
        async with self._reader():
            pinned = await self.pin(request)
            try:
                await self._serve(pinned, stream)
            finally:
                pinned.close()

    async def _serve(self, pinned: PinnedRows, stream: RpcStream) -> None:
        await stream.send(wire.opened(pinned.seq, pinned.last_changes, pinned.serves))
        sent_bytes = 0
        while (message := await stream.receive()) is not None:
            wanted = wire.read_wanted(message, pinned.asked)
            pinned.hide(frozenset(map(Slot, wanted.hidden)))
            if wanted.counted:
                await stream.send(wire.pack(await pinned.count(wanted.number)))
                continue
            rows = pinned.rows(wanted.number)
            while (batch := await pinned.batch(rows)) is not None:
                sent_bytes += len(batch)
                self._check_size(sent_bytes)
                for part in wire.parts(batch):
                    await stream.send(part)
            await stream.send(wire.END)

    def _check_size(self, sent_bytes: int) -> None:
        size_max = self.limits.size_max_bytes
        if sent_bytes > size_max:
            raise LimitReached(
                "max_gathered_bytes",
                f"more than {size_max} bytes of rows are on another node; narrow the WHERE",
            )

    @asynccontextmanager
    async def _reader(self) -> AsyncGenerator[None]:
        if self._readers >= self.limits.readers_max:
            raise Overloaded("the line of other nodes' reads", self.limits.readers_max)
        self._readers += 1
        try:
            async with asyncio.timeout(self.limits.hold_s):
                yield
        except TimeoutError:
            raise QueryTimeout(self.limits.hold_s) from None
        finally:
            self._readers -= 1


class _Turns:
    """Steps of one reader in the threads of all, one after another."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._running: Future[Any] | None = None

    async def turn(self, work: Callable[[], T]) -> T:
        future: Future[T] = self._threads.submit(work)
        self._running = future
        return await asyncio.wrap_future(future)

    def after(self, close: Callable[[], None]) -> None:
        if self._running is None:
            close()
        else:
            after(self._running, close)


def _counted(rows: Iterator[tuple[bytes, bytes]]) -> tuple[int, int]:
    number = size_bytes = 0
    for _, raw in rows:
        number += 1
        size_bytes += len(raw)
        if number == COUNTED_ROWS:
            break
    return number, size_bytes


async def _wait_applied(replica: Replica, seq: Seq, wait_s: float) -> None:
    waiting = replica.wait_applied(seq)
    if waiting is not None:
        await within(waiting, seq, wait_s)


async def within(waiting: Awaitable[object], seq: Seq, wait_s: float) -> None:
    """Raises ReplicaBehind."""
    try:
        async with asyncio.timeout(wait_s):
            await waiting
    except TimeoutError:
        raise ReplicaBehind(str(seq), wait_s) from None


# ---- what is asked of a snapshot ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scan:
    """One thing asked. `table` None: the group was never told of it, and has no row of it."""

    snapshot: HotSnapshot
    table: TableDef | None
    partition: Partition | None
    ranges: tuple[KeyRange, ...] | None
    then: tuple[Seq, int] | None

    @property
    def last_change(self) -> Seq:
        if self.table is None or self.partition is None:
            return Seq(0)
        return self.snapshot.last_change(self.table, self.partition)

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """(owner's name, row bytes). Raises CursorExpired at once."""
        table, partition, snapshot = self.table, self.partition, self.snapshot
        if table is None:
            return iter(())
        if partition is None:
            if self.then is None:
                return owned(snapshot.scan_table(table))
            return owned(snapshot.scan_table_as_of(table, *self.then))
        if self.then is not None:
            return _unnamed(snapshot.scan_as_of(table, partition, *self.then))
        if self.ranges is not None:
            return _in_ranges(snapshot, table, partition, self.ranges)
        return _unnamed(snapshot.scan(table, partition))


def _scan(replica: Replica, snapshot: HotSnapshot, one: WiredAsk) -> _Scan:
    table = replica.definition(TableId(one.table), one.version, one.name)
    partition, ranges = wire.asked_of(one)
    then = None if one.then is None else (Seq(one.then[0]), one.then[1])
    scan = _Scan(snapshot, table, partition, ranges, then)
    if then is not None:
        scan.rows()  # says whether that is retained
    return scan


def _unnamed(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for _, raw in rows:
        yield b"", raw


def _in_ranges(
    snapshot: HotSnapshot, table: TableDef, partition: Partition, ranges: Sequence[KeyRange]
) -> Iterator[tuple[bytes, bytes]]:
    for part in ranges:
        for _, raw in snapshot.scan_range(table, partition, part):
            if raw is not None:
                yield b"", raw
