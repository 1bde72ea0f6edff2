"""Whatever happens between, each client's rows become the table's: each change once, in order.

Moves are drawn from a seed: writes, changes of leadership with and without a time between, links
that break, are held up and mended, processes that take another for the leader, clients that come,
read, stop reading, go and resume, on nodes and on the router. `Viewer` checks every frame.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from cluster import live_relay
from kalamdb.edge.ws.protocol import Options
from kalamdb.lib.clock import SystemClock
from tests.unit.cluster_live.world import NODES, ROUTER, TINY, Viewer, World, opened
from tests.unit.edge_ws.house import ALL, IN_R
from tests.unit.feed.group import OTHERS, Write, note

MOVES = 120
SEEDS = 40
VIEWERS_MAX = 12


class Story:
    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = Random(seed)
        self.counter = 0
        self.cut: set[tuple[int, int]] = set()
        self.held: set[tuple[int, int]] = set()

    async def run(self) -> None:
        moves = [
            *[self.write] * 6,
            *[self.open] * 3,
            *[self.read] * 4,
            self.stop_reading,
            self.leave,
            self.resume,
            self.lead,
            self.nobody_leads,
            self.cut_link,
            self.hold_link,
            *[self.mend] * 2,
            self.mistake_leader,
            self.tick,
        ]
        for _ in range(MOVES):
            await self.dice.choice(moves)()
            for _ in range(self.dice.choice([0, 1, 1, 3, 10])):
                await asyncio.sleep(0)
        await self.heal()

    async def heal(self) -> None:
        await self.mend()
        for site in self.world.sites.values():
            site.leaders.wrong = None
        if self.world.group.leader is None:
            await self.lead()
        await self.world.settle("everybody has everything")
        await self.write()
        await self.world.settle("everybody goes on")
        for viewer in self.world.viewers:
            assert not viewer.errors, viewer.errors

    # ---- moves ----------------------------------------------------------------------------------

    async def write(self) -> None:
        transactions = self.dice.choice([1, 1, 1, 2])
        self.world.group.write(
            *([self.one() for _ in range(self.dice.choice([1, 1, 2, 5]))],) * transactions
        )

    def one(self) -> Write:
        self.counter += 1
        number = self.dice.randrange(8)
        if self.dice.random() < 0.25:
            return Write(number, None)
        table = OTHERS if self.dice.random() < 0.1 else None
        row = note(number, self.dice.choice(["r", "r", "s", None]), str(self.counter))
        return Write(number, row) if table is None else Write(number, row, table)

    async def open(self) -> None:
        if len(self.world.viewers) >= VIEWERS_MAX:
            return
        sql = self.dice.choice([ALL, ALL, IN_R])
        limit = self.dice.choice([700, 4000, 1 << 20])
        at = self.dice.choice([*NODES, ROUTER, ROUTER])
        viewer = self.world.viewer(at, sql, limit_bytes=limit, chained=sql == ALL)
        rows = self.dice.randint(1, 4)
        await viewer.subscribe(self.dice.choice([Options(batch_size=rows), Options(), None]))

    def any(self) -> Viewer | None:
        return self.dice.choice(self.world.viewers) if self.world.viewers else None

    async def read(self) -> None:
        for viewer in self.world.viewers:
            if self.dice.random() < 0.5:
                viewer.reads = True
                viewer.read()

    async def stop_reading(self) -> None:
        if (viewer := self.any()) is not None:
            viewer.reads = False

    async def leave(self) -> None:
        if (viewer := self.any()) is not None:
            viewer.close()
            self.world.viewers.remove(viewer)

    async def resume(self) -> None:
        viewer = self.any()
        if viewer is not None and viewer.acks and not viewer.loading and viewer.is_whole:
            viewer.read()
            if not viewer.loading and viewer.acks and viewer.cursor:
                await viewer.resume()

    async def lead(self) -> None:
        self.world.group.lead(self.dice.choice(NODES))

    async def nobody_leads(self) -> None:
        self.world.group.lead(None)

    async def cut_link(self) -> None:
        self.world.net.cut(self.dice.choice([ROUTER, 1]), self.dice.choice([2, 3]))

    async def hold_link(self) -> None:
        pair = (self.dice.choice([1, 2, 3]), ROUTER)
        if pair[1] in self.world.net[pair[0]].links:
            self.held.add(pair)
            self.world.net.hold(*pair)

    async def mend(self) -> None:
        for pair in self.held:
            if pair[1] in self.world.net[pair[0]].links:
                self.world.net.release(*pair)
        self.held.clear()
        for first in (*NODES, ROUTER):
            for second in NODES:
                if first != second:
                    self.world.net.mend(first, second)

    async def mistake_leader(self) -> None:
        site = self.world.sites[self.dice.choice([*NODES, ROUTER])]
        site.leaders.wrong = self.dice.choice([None, *NODES])

    async def tick(self) -> None:
        now_s = SystemClock().monotonic_s()
        for viewer in self.world.viewers:
            viewer.streams.tick(now_s)
        for site in self.world.sites.values():
            if site.host is not None:
                site.host.tick(now_s)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_story(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_relay, "RETRY_S", 0.0005)
    monkeypatch.setattr(live_relay, "RETRY_MAX_S", 0.01)
    async with opened(feed=TINY) as world:
        await Story(world, seed).run()
