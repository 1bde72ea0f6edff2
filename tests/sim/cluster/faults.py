"""What goes wrong in a cluster besides what goes wrong among members: routers, and their links."""

from __future__ import annotations

from random import Random

from tests.sim.calls import Calls
from tests.sim.cluster.node import DataNode
from tests.sim.cluster.router import Router
from tests.sim.faults import Nemesis
from tests.sim.network import Network
from tests.sim.timeline import Timeline


class ClusterNemesis(Nemesis):
    """See `sim.faults`; transfers of leadership are among its kinds."""

    def __init__(
        self,
        timeline: Timeline,
        dice: Random,
        calls: Calls,
        network: Network,
        nodes: dict[int, DataNode],
        *,
        routers: dict[int, Router],
    ) -> None:
        super().__init__(timeline, dice, calls, network, nodes)  # type: ignore[arg-type]
        self._routers = routers
        self._kinds += [
            (kind, weight * dice.choice((0, 1, 1, 3)))
            for kind, weight in (
                (self.kill_router, 12),
                (self.stop_router, 5),
                (self.part_router, 8),
                (self.reset_router, 8),
                (self.hand_over, 10),
            )
        ]

    def heal(self) -> float:
        for router in self._routers.values():
            if not router.up:
                router.start()
        stopped_s = max(router.life.stopped_until_s for router in self._routers.values())
        return max(super().heal(), stopped_s)

    def _router(self) -> Router:
        return self._routers[self._dice.choice(sorted(self._routers))]

    async def kill_router(self) -> None:
        router = self._router()
        if router.up:
            self._hit("kill router")
            router.kill()
            back_s = self._dice.choice((0.02, 0.3, 1.0)) * self._dice.uniform(0.5, 2.0)
            self._timeline.after(back_s, lambda: self._revive_router(router))

    def _revive_router(self, router: Router) -> None:
        if not router.up:
            router.start()

    async def stop_router(self) -> None:
        router = self._router()
        if router.up:
            self._hit("stop router")
            router.stop_for(self._dice.uniform(0.3, 3.0))

    async def part_router(self) -> None:
        """From some nodes, in one direction or both."""
        router = self._router()
        nodes = self._dice.sample(sorted(self._members), self._dice.randint(1, 2))
        outward = [(router.node, node) for node in nodes]
        inward = [(node, router.node) for node in nodes]
        self._hit("part router")
        self._network.cut(*self._dice.choice((outward, inward, outward + inward)))
        await self._calls.pause(self._dice.uniform(0.3, 3.0))
        if not self.over:
            self._network.mend()

    async def reset_router(self) -> None:
        for _ in range(self._dice.randint(1, 4)):
            node = self._dice.choice(sorted(self._members))
            self._hit("reset router")
            self._network.reset(self._router().node, node)
            await self._calls.pause(self._dice.uniform(0.0, 0.3))
