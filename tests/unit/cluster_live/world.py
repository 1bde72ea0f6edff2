"""Three nodes with one group in memory, a router, and clients of live queries on all of them.

The group's rows and changes are one state, as if every follower had applied all of it; the leader's
hub alone is told of changes. `lead` moves the leadership, with or without a time between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.live_host import HostLimits, LiveHost
from cluster.live_relay import LiveRelay, RelayLimits
from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.local import LocalLive
from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.protocol import NextBatch, Options, Wish
from kalamdb.edge.ws.services import LiveServices
from kalamdb.edge.ws.streams import Streams
from kalamdb.errors import KalamError, NotLeader
from kalamdb.feed.hub import Hub
from kalamdb.feed.replay import ReplayLimits
from kalamdb.feed.subscription import FeedLimits
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import GroupId, Partition, TenantId
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import TableDef
from kalamdb.ports import Snapshot
from tests.loopback import Loopback
from tests.property.live_world import frames_of
from tests.unit.edge_ws.house import bind_live, check, parse
from tests.unit.feed.group import GROUP, MemoryGroup
from tests.waiting import wait_until

ROUTER = -1
NODES = (1, 2, 3)
TINY = FeedLimits(
    slice_rows=2,
    page_bytes_max=150,
    replay=ReplayLimits(
        changes_max=2, size_max_bytes=300, txn_changes_max=3, txn_size_max_bytes=500
    ),
)
USER = Principal.of("alice", Role.USER)


class LedGroup(MemoryGroup):
    """`leader` is told of changes; None: nobody leads."""

    def __init__(self) -> None:
        super().__init__()
        self.hubs = {node: Hub() for node in NODES}
        self.leader: int | None = None
        self.lead(1)

    def lead(self, node: int | None) -> None:
        """The one before learns it at once."""
        if self.leader is not None:
            self.hubs[self.leader].close_all("another node leads")
        self.leader = node
        # Changes go to the leader's hub alone: `MemoryGroup` publishes to this one.
        self.hub = Hub() if node is None else self.hubs[node]


class NodeGroups:
    """Implements `LiveGroups` on one node (0: on a router)."""

    def __init__(self, group: LedGroup, node: int) -> None:
        self._group = group
        self._node = node

    @property
    def catalog(self) -> CatalogView:
        return self._group.catalog

    def barrier(self, partition: Partition) -> None:
        self._check()

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        self._check()
        return self._group.get(table, partition, pk)

    def snapshot(self, partition: Partition) -> Snapshot:
        self._check()
        return self._group.snapshot(partition)

    def hub_of(self, partition: Partition) -> Hub:
        return self.hub(GROUP)

    def hub(self, group: GroupId) -> Hub:
        self._check()
        return self._group.hubs[self._node]

    def _check(self) -> None:
        if self._group.leader != self._node:
            raise NotLeader(GROUP, self._group.leader)


class KnownLeaders:
    """Who leads, as one process knows it: right, unless `wrong` says otherwise."""

    def __init__(self, group: LedGroup, node: int | None) -> None:
        self.node = node
        self.wrong: int | None = None
        self._group = group

    def leader_of(self, group: GroupId) -> int | None:
        return self._group.leader if self.wrong is None else self.wrong

    def group_of(self, partition: Partition) -> GroupId:
        return GROUP

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        if self.wrong == asked:
            self.wrong = None


@dataclass
class Site:
    """One process: a node, or a router."""

    relay: LiveRelay
    leaders: KnownLeaders
    services: LiveServices
    host: LiveHost | None


class Viewer:
    """One socket with one live query, and what its client makes of it.

    It checks every frame: an event follows the one before, and no other.
    """

    def __init__(self, site: Site, sql: str, *, limit_bytes: int, chained: bool) -> None:
        self.sql = sql
        self.reads = True
        self.is_whole = True  # its rows are the table's, once it has everything
        self.rows: dict[str, dict[str, Any]] = {}
        self.cursor = 0
        self.acks = 0
        self.loading = False
        self.open_txn = False
        self.errors: list[dict[str, Any]] = []
        self.events = 0
        self.last_row: str | None = None
        self.pages_by_itself = True
        self._chained = chained
        self._resumes = False
        self._sent = bytearray()
        self._was_read = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox = Outbox(self, Flusher(asyncio.get_running_loop()), limit_bytes)
        self._outbox.packed = False
        self.streams = Streams(site.services, self._outbox, self._drained, self._spawn)

    # ---- the transport --------------------------------------------------------------------------

    def write(self, data: bytes, /) -> None:
        self._sent += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self._sent)

    async def _drained(self) -> bool:
        self._outbox.flush()
        while self._sent and not self.reads:
            self._was_read.clear()
            await self._was_read.wait()
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- the client -----------------------------------------------------------------------------

    async def subscribe(self, options: Options | None) -> None:
        self.is_whole = options is not None
        await self.streams.subscribe(Wish("v", self.sql, options), USER)

    async def resume(self) -> None:
        """Begin anew from where it is."""
        self.acks, self._resumes = 0, True
        await self.subscribe(Options(from_=self.cursor, on_expired="snapshot"))

    def read(self) -> None:
        """Take in what was sent."""
        self._outbox.flush()
        sent, self._sent = bytes(self._sent), bytearray()
        for payload in frames_of(sent):
            self._take(orjson.loads(payload))
        self._was_read.set()

    def _take(self, frame: dict[str, Any]) -> None:
        assert frame["subscription_id"] == "v"
        match frame["type"]:
            case "subscription_ack":
                self.acks += 1
                assert (self.acks > 1) <= bool(frame.get("reset")), "rows twice, and no word of it"
                if frame.get("reset") or not self._resumes or not self.cursor:
                    self.rows.clear()
                    self.cursor = int(frame.get("seq", 0))
                self._resumes = False
                self.loading = frame["batch_control"]["has_more"]
            case "initial_data_batch":
                for row in frame["rows"]:
                    self.rows[row["id"]] = row
                self.cursor = int(frame.get("seq", self.cursor))
                self.loading = frame["batch_control"]["has_more"]
                self.last_row = frame["batch_control"]["last_seq_id"]
                if self.pages_by_itself:
                    self.next_page()
            case "change":
                self._change(frame)
            case "position":
                assert int(frame["seq"]) >= self.cursor
                self.cursor, self.open_txn = int(frame["seq"]), False
            case _:
                self.errors.append(frame)

    def next_page(self) -> None:
        if self.loading:
            self.streams.next_batch(NextBatch("v", self.last_row))

    def _change(self, frame: dict[str, Any]) -> None:
        seq, prev_seq = int(frame["seq"]), int(frame["prev_seq"])
        assert not self.loading, "a change among the first rows"
        assert seq > self.cursor, "a change twice, or out of order"
        assert prev_seq >= self.cursor or prev_seq < seq
        if self._chained:
            assert prev_seq == self.cursor, "a gap"
        self.events += 1
        self.cursor, self.open_txn = seq, not frame["commit"]
        if not self.is_whole:
            return
        match frame["change_type"]:
            case "insert":
                (row,) = frame["rows"]
                self.rows[row["id"]] = row
            case "update":
                (row,) = frame["rows"]
                self.rows[row["id"]] = self.rows[row["id"]] | row
            case _:
                (row,) = frame["old_values"]
                del self.rows[row["id"]]

    def close(self) -> None:
        self.streams.close()
        for task in self._tasks:
            task.cancel()


class World:
    def __init__(self, net: Loopback, group: LedGroup, sites: dict[int, Site]) -> None:
        self.net = net
        self.group = group
        self.sites = sites
        self.viewers: list[Viewer] = []

    def viewer(self, at: int, sql: str, *, limit_bytes: int = 1 << 20, chained: bool) -> Viewer:
        made = Viewer(self.sites[at], sql, limit_bytes=limit_bytes, chained=chained)
        self.viewers.append(made)
        return made

    async def settle(self, what: str) -> None:
        """Until every client has been given everything."""

        def settled() -> bool:
            for viewer in self.viewers:
                viewer.reads = True
                viewer.read()
            whole = [viewer for viewer in self.viewers if viewer.is_whole]
            return all(viewer.errors or self.has_all(viewer) for viewer in whole)

        await wait_until(settled, what=what, timeout_s=20)

    def has_all(self, viewer: Viewer) -> bool:
        return not viewer.loading and viewer.acks > 0 and self.said(viewer) == self.true(viewer)

    def said(self, viewer: Viewer) -> dict[int, object]:
        return {int(number): row.get("body") for number, row in viewer.rows.items()}

    def true(self, viewer: Viewer) -> dict[int, object]:
        rows = self.group.rows()
        if "room" in viewer.sql:
            rows = {number: row for number, row in rows.items() if row.get(2) == "r"}
        return {number: row.get(3) for number, row in rows.items()}


@asynccontextmanager
async def opened(
    *, feed: FeedLimits | None = None, wait_s: float = 30.0, sites: Sequence[int] = (*NODES, ROUTER)
) -> AsyncIterator[World]:
    """Node 1 leads. Everything is released when the block ends."""
    clock, group = SystemClock(), LedGroup()
    limits = WsLimits(position_interval_s=0, feed=feed or FeedLimits())
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(Loopback(*NODES, ROUTER))
        packer = stack.enter_context(ThreadPoolExecutor(1))
        made: dict[int, Site] = {}
        for number in sites:
            groups = NodeGroups(group, number)
            leaders = KnownLeaders(group, number if number > 0 else None)
            binder = LiveBinder(groups, parse, bind_live, check, clock, SystemIds())
            local = LocalLive(groups, groups.hub_of, binder, limits.feed)
            host = None
            if number > 0:
                host = LiveHost(
                    local, groups.hub, lambda principal: True, clock, HostLimits(100, 0)
                )
                host.serve(net[number])
            relay = await stack.enter_async_context(
                LiveRelay(net[number], leaders, clock, RelayLimits(wait_s))
            )
            services = LiveServices(
                groups,
                groups.hub_of,
                binder,
                clock,
                limits,
                packer,
                Counter[TenantId](),
                relays=relay,
            )
            made[number] = Site(relay, leaders, services, host)
        world = World(net, group, made)
        try:
            yield world
        finally:
            for viewer in world.viewers:
                viewer.close()
        await wait_until(
            lambda: all(one.host is None or is_empty(one.host) for one in made.values()),
            what="nodes forget whom nobody follows",
        )
        assert all(hub.statistics().subscriptions == 0 for hub in group.hubs.values())
        assert group.snapshots_open == 0
        assert all(site.relay.statistics().streams == 0 for site in made.values())


def is_empty(host: LiveHost) -> bool:
    found = host.statistics()
    return not (found.subscriptions or found.feeds or found.watches)
