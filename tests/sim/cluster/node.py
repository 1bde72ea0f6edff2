"""A data node: a member's log, groups and stores, and above them all that answers requests.

Keeps: everything above the network, the disk and the stores is the product's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, cast

from cluster.catalog_feed import CatalogHost
from cluster.images import ImageHost, pull
from cluster.leaders import Leaders
from cluster.live import KnownLeaders, LiveHubs
from cluster.live_host import HostLimits, LiveHost
from cluster.live_relay import LiveRelay
from cluster.move_calls import MoveCalls, MoveHost
from cluster.moves import Moves, MoveSettings
from cluster.raft.hub import Hub as RaftHub
from cluster.raft.wal import Wal
from cluster.remote import ClusterGroups
from cluster.routed import RoutedSession
from cluster.sql_host import SqlHost
from kalamdb.config import TransactionSettings
from kalamdb.edge.ws.local import LocalLive
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Slot
from kalamdb.model.work import Work
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.scan import ScanLimits
from kalamdb.replica.replica import Replica
from kalamdb.session.ddl import Definitions
from kalamdb.session.run import SessionLimits
from kalamdb.session.session import Session
from kalamdb.session.tokens import stands
from kalamdb.session.transactions import Transactions
from kalamdb.store.memory import MemoryStore
from tests.sim.cluster.edge import WS_LIMITS, binder, keep_relay, live_services
from tests.sim.cluster.links import LinkEnd, RpcFrame
from tests.sim.member import (
    SEGMENT_BYTES,
    Member,
    NodeClock,
    NodeIds,
    WatchedMachine,
    World,
    _fatal,
    _fatal_disk,
    _raise_fault,
)

FOUNDERS = (1, 2, 3)
CLOSE_S = 0.3
SLOW_SHARE = 0.08
LIMITS = SessionLimits(10_000, 1 << 20, ScanLimits())


class DataNode(Member):
    """See the module."""

    def __init__(self, world: World, node: int, groups: Sequence[int], clock: NodeClock) -> None:
        super().__init__(world, node, groups, clock)
        self._founding = tuple(groups)
        self.wished: Callable[[], Collection[int]] = tuple
        self.feeds: dict[int, Hub] = {}
        self.edge: RoutedSession
        # Some copies take long, so that other things happen meanwhile.
        pace = world.dice.choice((5_000, 50_000, 1 << 20))
        self.move_settings = MoveSettings(
            bytes_per_s=pace, frozen_max_s=2.5, images_max=4, retry_s=0.1, idle_s=0.2
        )

    def _open(self) -> None:
        world, clock, ids = self.world, self.clock, NodeIds(self.world.dice)
        uuid = bytes([self.node]) * 16
        wal = Wal(self.disk, uuid, segment_bytes=SEGMENT_BYTES, fatal=_fatal_disk)
        self.hub = RaftHub(self.node, wal, self, clock=clock, ids=ids, drive=self)
        self.links = LinkEnd(self.node, world.network, self.loop, self.life)
        logs = cast("dict[GroupId, Any]", self.groups)
        replicas = cast("dict[GroupId, Replica]", self.replicas)
        leaders = Leaders(logs, self.links.connected, self._linked_nodes, clock, node=self.node)
        known = self.hub.unopened() or self._founding
        for number, voters in {META_GROUP: (), **dict.fromkeys(known, FOUNDERS)}.items():
            self._open_group(number, voters)
        self.run(self._reside())
        groups = self.cluster_groups = ClusterGroups(
            replicas, leaders, self.links, lambda: logs[META_GROUP].heard_age_s()
        )
        self._feed = CatalogHost(self.stores[META_GROUP], leaders.all, groups.catalog_age_s)
        session = session_over(groups, clock, ids, self.node)
        self.edge = RoutedSession(groups, leaders, self.links, clock, local=session)
        groups.serve(self.links)
        SqlHost(session, groups).serve(self.links)
        ImageHost(replicas).serve(self.links)
        self._feed.serve(self.links)
        self._open_live(leaders, groups, ids)
        self._open_moves(groups)
        self.wake()

    def _open_group(self, number: int, voters: tuple[int, ...]) -> None:
        """Of a group the log knows, or one that is founded. Without voters it joins."""
        world = self.world
        store = self.stores.get(number)
        if store is None:
            store = self.stores[number] = MemoryStore(GroupId(number))
        self.check_group(number)
        feed = self.feeds[number] = Hub()
        replica = Replica(
            store.group,
            store,
            feed,
            self.clock,
            checks=world.checks,
            pull_image=partial(pull, self.links),
            on_catalog=self._catalog_changed,
            on_records=self._records_applied,
            meta_allows=self._meta_allows,
            fatal=_fatal,
        )
        assert self.hub is not None
        machine = WatchedMachine(self, number, replica)
        group = self.hub.open(number, voters, machine, world.timings, joining=not voters)
        replica.attach(group)
        self.replicas[number], self.groups[number] = replica, group

    def join_group(self, number: int) -> None:
        """Be ready to become a member."""
        if number not in self.groups:
            self._open_group(number, ())

    async def _reside(self) -> None:
        """Groups this node is to hold are opened; those it is no member of any more are given up,
        but never the catalog. As `cluster.residence`, which looks into the placement.
        """
        while True:
            await self.pause(CLOSE_S)
            for number in self.wished():
                self.join_group(number)
            for number in [number for number, group in self.groups.items() if group.removed]:
                if number != META_GROUP and number not in self.wished():
                    await self._leave_group(number)

    async def _leave_group(self, number: int) -> None:
        assert self.hub is not None
        if self.groups[number].guard.installing:
            return
        self.note(f"close g{number}")
        self.hub.close_group(number)
        self.feeds[number].close_all("the group left this node")
        del self.groups[number], self.replicas[number], self.feeds[number]
        await self.hub.wait_synced()
        del self.stores[number]

    def _open_live(self, leaders: Leaders, groups: ClusterGroups, ids: Ids) -> None:
        relay = LiveRelay(self.links, KnownLeaders(leaders, lambda: groups.catalog), self.clock)
        hubs = LiveHubs(cast("dict[GroupId, Hub]", self.feeds), groups, relay)
        local = LocalLive(groups, hubs.here, binder(groups, self.clock, ids), WS_LIMITS.feed)
        host = LiveHost(
            local,
            hubs.led,
            lambda principal: stands(principal, groups.catalog),
            self.clock,
            HostLimits(position_interval_s=0.6),
        )
        host.serve(self.links)
        self.live = live_services(groups, hubs.here, self.clock, ids, relay)
        self.run(keep_relay(relay, self.loop))

    def _open_moves(self, groups: ClusterGroups) -> None:
        replicas = cast("dict[GroupId, Replica]", self.replicas)
        MoveHost(groups).serve(self.links)
        calls = SlowMoves(self, groups)
        self._allows_reads = calls.allows_reads
        meta = replicas[META_GROUP]
        self.moves = Moves(calls, lambda: meta.leads, self.clock, self.move_settings)
        self.run(self.moves.run())

    def catalog_age_s(self) -> float:
        return self.groups[META_GROUP].heard_age_s()

    def _linked_nodes(self) -> list[int]:
        return [node for node in self.links.peers if node in self.world.members]

    async def _meta_allows(self, slot: Slot, epoch: int) -> bool:
        return await self._allows_reads(slot, epoch)

    def _catalog_changed(self, catalog: object) -> None:
        self.cluster_groups.catalog_watch.changed()

    def _records_applied(self, records: Any) -> None:
        self._feed.applied(records)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """For as long as the process lives."""
        self.loop.create_task(work).add_done_callback(_raise_fault)

    def kill(self) -> None:
        super().kill()
        self.feeds = {}

    def _hub_hears(self, what: str, *values: Any) -> None:
        """The links' events: those of nodes are for the hub too."""
        match what:
            case "connected":
                self.links.link_up(values[0])
            case "disconnected":
                self.links.link_down(values[0])
            case _ if isinstance(values[1], RpcFrame):
                self.links.receive(values[0], values[1])
                return
            case _:
                pass
        if values[0] in self.world.members:
            super()._hub_hears(what, *values)


class SlowMoves(MoveCalls):
    """A driver of moves that takes its time before some of its commands."""

    def __init__(self, node: DataNode, groups: ClusterGroups) -> None:
        super().__init__(groups, node.links)
        self._node = node

    async def write(self, group: GroupId, work: Work) -> Outcome:
        dice = self._node.world.dice
        if dice.random() < SLOW_SHARE:
            await self._node.pause(dice.uniform(0.1, 1.5))
        return await super().write(group, work)


def session_over(groups: ClusterGroups, clock: Clock, ids: Ids, node: int) -> Session:
    definitions = Definitions(groups, clock, _no_passwords)
    transactions = Transactions(groups, groups, clock, ids, TransactionSettings(), node=node)
    return Session(
        groups,
        cast("EnginePool", None),  # statements here go by key
        definitions,
        clock,
        ids=ids,
        limits=LIMITS,
        on_execute_as=_allow,
        transactions=transactions,
    )


def _allow(actor: object, target: str, allowed: bool) -> None: ...


async def _no_passwords(name: str, password: str) -> str:
    raise AssertionError("nobody makes users")
