"""A router: a process without a disk, a group or a memory of what it did before it ended."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from cluster.catalog_feed import FollowedCatalog
from cluster.leaders import Leaders
from cluster.live import KnownLeaders, NoGroups
from cluster.live_relay import LiveRelay
from cluster.routed import RoutedSession
from tests.sim.cluster.edge import keep_relay, live_services
from tests.sim.cluster.links import ROUTERS_FROM, LinkEnd, RpcFrame
from tests.sim.member import NodeClock, NodeIds, World, _raise_fault
from tests.sim.timeline import Life, Loop


class Router:
    """Implements `network.End`; to clients it is what a member is."""

    def __init__(self, world: World, node: int, clock: NodeClock) -> None:
        self.world = world
        self.node = node
        self.clock = clock
        self.dice = world.dice
        self.life = Life()
        self.life.ended = True
        self.edge: RoutedSession
        world.network.join(node, self)

    @property
    def up(self) -> bool:
        return not self.life.ended

    def start(self) -> None:
        assert self.life.ended
        self.life = Life()
        self.loop = Loop(self.world.timeline, self.life, self.world.faults)
        self.world.timeline.note(f"r{self.node} start")
        self.loop.step(self._open)
        self.world.network.started(self.node)

    def _open(self) -> None:
        clock, ids = self.clock, NodeIds(self.world.dice)
        links = self.links = LinkEnd(self.node, self.world.network, self.loop, self.life)
        leaders = Leaders({}, links.connected, self._nodes, clock)
        catalog = self.catalog = FollowedCatalog(links, leaders, clock)
        self.edge = RoutedSession(catalog, leaders, links, clock, local=None)
        relay = LiveRelay(links, KnownLeaders(leaders, lambda: catalog.catalog), clock)
        none = NoGroups(lambda: catalog.catalog)
        self.live = live_services(none, none.hub, clock, ids, relay)
        self.run(catalog.run())
        self.run(keep_relay(relay, self.loop))

    def catalog_age_s(self) -> float:
        return self.catalog.age_s()

    def _nodes(self) -> list[int]:
        return [node for node in self.links.peers if node < ROUTERS_FROM]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """For as long as the process lives."""
        self.loop.create_task(work).add_done_callback(_raise_fault)

    def kill(self) -> None:
        assert self.up
        self.world.timeline.note(f"r{self.node} kill")
        self.life.ended = True
        self.world.network.ended(self.node)

    def stop_for(self, duration_s: float) -> None:
        until_s = self.world.timeline.now_s + duration_s
        self.life.stopped_until_s = max(self.life.stopped_until_s, until_s)

    # The network's side.

    def link_up(self, peer: int) -> None:
        self.loop.call_soon(self.links.link_up, peer)

    def link_down(self, peer: int) -> None:
        self.loop.call_soon(self.links.link_down, peer)

    def link_frame(self, peer: int, frame: Any) -> None:
        assert isinstance(frame, RpcFrame)
        self.loop.call_soon(self.links.receive, peer, frame)
