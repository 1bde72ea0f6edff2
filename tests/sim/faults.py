"""The nemesis: what goes wrong, when, for how long, all drawn from the seed.

Keeps: every fault ends by itself, and `heal` ends all at once; a fault is counted when it hits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from kalamdb.errors import KalamError
from tests.sim.calls import Calls
from tests.sim.member import Member
from tests.sim.network import Network
from tests.sim.timeline import Timeline

CALM_S = (0.2, 1.2)
HOUR_MS = 3_600_000

Fault = Callable[[], Awaitable[None]]


class Nemesis:
    """See the module. `hits` counts the faults by name."""

    def __init__(
        self,
        timeline: Timeline,
        dice: Random,
        calls: Calls,
        network: Network,
        members: dict[int, Member],
    ) -> None:
        self._timeline = timeline
        self._dice = dice
        self._calls = calls
        self._network = network
        self._members = members
        self.hits: Counter[str] = Counter()
        self.over = False
        kinds: list[tuple[Fault, int]] = [
            (self.kill, 24),
            (self.power, 14),
            (self.disaster, 6),
            (self.bridge, 5),
            (self.part, 30),
            (self.stop, 14),
            (self.lag, 6),
            (self.resets, 10),
            (self.jump, 8),
            (self.slow_disk, 6),
            (self.hand_over, 8),
        ]
        if len(members) == 1:
            apart = (self.bridge, self.part, self.lag, self.resets, self.hand_over)
            kinds = [(kind, weight) for kind, weight in kinds if kind not in apart]
        # Each seed has its own mix, so that some runs see one fault many times.
        self._kinds = [(kind, weight * dice.choice((0, 1, 1, 3))) for kind, weight in kinds]
        if not any(weight for _, weight in self._kinds):
            self._kinds = kinds

    async def run(self) -> None:
        """Until `heal`."""
        faults = [kind for kind, _ in self._kinds]
        weights = [weight for _, weight in self._kinds]
        while not self.over:
            await self._calls.pause(self._dice.uniform(*CALM_S))
            if not self.over:
                await self._dice.choices(faults, weights)[0]()

    def heal(self) -> float:
        """Everything works again; members that are down start. When the last stop has ended, in
        seconds of the timeline.
        """
        self.over = True
        self._network.mend()
        self._network.delay_s = (0.0002, 0.004)
        for member in self._members.values():
            member.sync_s = (0.0001, 0.002)
            if not member.up:
                member.start()
        return max(member.life.stopped_until_s for member in self._members.values())

    # Kinds.

    async def kill(self) -> None:
        await self._end("kill", power=False)

    async def power(self) -> None:
        await self._end("power", power=True)

    async def _end(self, name: str, *, power: bool) -> None:
        count = self._dice.choices((1, 2, 3), weights=(5, 2, 3))[0]
        for member in self._some(count):
            if self.over or not member.up:
                continue
            self._hit(name)
            member.kill()
            if power:
                member.lose_power()
            back_s = self._dice.choice((0.02, 0.3, 1.0)) * self._dice.uniform(0.5, 2.0)
            self._timeline.after(back_s, lambda member=member: self._revive(member))
            if self._dice.random() < 0.5:
                await self._calls.pause(self._dice.uniform(0.0, 0.6))

    async def disaster(self) -> None:
        """All lose power while the followers' disks are slow; who led comes back last."""
        leader = self._leader()
        followers = [member for member in self._members.values() if member is not leader]
        for member in followers:
            member.sync_s = (0.03, 0.08)
        await self._calls.pause(0.1)
        for _ in range(400):
            if all(member.up and member.writing_s > 0.008 for member in followers):
                break
            await self._calls.pause(0.001)
        for member in followers:
            member.sync_s = (0.0001, 0.002)
        if self.over:
            return
        self._hit("disaster")
        for member in self._members.values():
            if member.up:
                member.kill()
                member.lose_power()
                back_s = self._dice.uniform(2.0, 3.0) if member is leader else 0.05
                self._timeline.after(back_s, lambda member=member: self._revive(member))
        await self._calls.pause(self._dice.uniform(0.5, 2.5))

    def _revive(self, member: Member) -> None:
        if not member.up:
            member.start()

    async def part(self) -> None:
        """Halves, the leader alone, one direction only, or a node that hears but is not heard."""
        one = self._leader() if self._dice.random() < 0.8 else self._some(1)[0]
        others = [node for node in self._members if node != one.node]
        shape = self._dice.choice(
            ("alone", "alone", "alone", "alone", "deaf", "mute", "link", "oneway")
        )
        inward = [(other, one.node) for other in others]
        outward = [(one.node, other) for other in others]
        match shape:
            case "alone":
                cut = inward + outward
            case "deaf":
                cut = inward
            case "mute":
                cut = outward
            case "link":
                other = self._dice.choice(others)
                cut = [(one.node, other), (other, one.node)]
            case _:
                cut = [(one.node, self._dice.choice(others))]
        self._hit(f"part {shape}")
        self._network.cut(*cut)
        await self._calls.pause(
            self._dice.choice((0.3, 1.5, 2.0, 3.0)) * self._dice.uniform(0.7, 1.5)
        )
        if not self.over:
            self._network.mend()

    async def bridge(self) -> None:
        """Nobody leads, then two reach only the third; it dies as soon as its vote has made one of
        them lead, and comes back to the other.
        """
        self._hit("bridge")
        third, one, other = self._some(3)
        pairs = [(a, b) for a in self._members for b in self._members if a != b]
        self._network.cut(*pairs)
        await self._calls.pause(self._dice.uniform(1.2, 2.0))
        if self.over:
            return
        self._network.mend()
        self._network.cut((one.node, other.node), (other.node, one.node))
        terms = {number: group.status().term for number, group in third.groups.items()}
        winner = None
        for _ in range(4000):
            await self._calls.pause(0.0004)
            if self.over or not third.up:
                return
            winner = next((m for m in (one, other) if _won(m, terms)), None)
            if winner is not None:
                break
        if winner is not None:
            third.kill()
            self._network.cut((winner.node, third.node), (third.node, winner.node))
            self._timeline.after(0.02, lambda: self._revive(third))
        await self._calls.pause(self._dice.uniform(0.5, 2.0))
        if not self.over:
            self._network.mend()

    async def stop(self) -> None:
        member = self._leader() if self._dice.random() < 0.6 else self._some(1)[0]
        if member.up:
            self._hit("stop")
            long_s = self._dice.choice((0.5, 1.0, 1.0, 2.0, 5.0))
            member.stop_for(long_s * self._dice.uniform(0.6, 2.0))
            await self._calls.pause(self._dice.uniform(0.1, long_s))

    async def lag(self) -> None:
        self._hit("lag")
        high_s = self._dice.choice((0.03, 0.1, 0.4))
        self._network.delay_s = (0.001, high_s)
        await self._calls.pause(self._dice.uniform(0.5, 2.0))
        if not self.over:
            self._network.delay_s = (0.0002, 0.004)

    async def resets(self) -> None:
        for _ in range(self._dice.randint(1, 5)):
            a, b = self._dice.sample(sorted(self._members), 2)
            self._hit("reset")
            self._network.reset(a, b)
            await self._calls.pause(self._dice.uniform(0.0, 0.3))

    async def jump(self) -> None:
        clock = self._some(1)[0].clock
        self._hit("jump")
        clock.skew_ms += self._dice.choice(
            (-400, -50, 300, 2_000, -2_000, HOUR_MS // 2, -HOUR_MS // 3)
        )

    async def slow_disk(self) -> None:
        member = self._some(1)[0]
        self._hit("slow disk")
        member.sync_s = (0.02, self._dice.choice((0.1, 0.6)))
        await self._calls.pause(self._dice.uniform(0.5, 2.0))
        member.sync_s = (0.0001, 0.002)

    async def hand_over(self) -> None:
        """The leader is asked to let another member lead."""
        leader = self._leader()
        for group in leader.groups.values():
            if group.ready and self._timeline.now_s >= leader.life.stopped_until_s:
                peer = self._dice.choice([node for node in self._members if node != leader.node])
                self._hit("hand over")
                with contextlib.suppress(KalamError):
                    leader.loop.step(group.hand_over, peer).add_done_callback(_heed)

    # Whom.

    def _some(self, count: int) -> list[Member]:
        members = [self._members[node] for node in sorted(self._members)]
        return self._dice.sample(members, min(count, len(members)))

    def _leader(self) -> Member:
        leading = [
            member
            for member in self._members.values()
            if member.up and any(group.ready for group in member.groups.values())
        ]
        return self._dice.choice(leading) if leading else self._some(1)[0]

    def _hit(self, name: str) -> None:
        self.hits[name] += 1
        self._timeline.note(f"fault {name}")


def _heed(asked: asyncio.Future[None]) -> None:
    """It may come to nothing; somebody has to hear of it."""
    if not asked.cancelled():
        asked.exception()


def _won(member: Member, terms: dict[int, int]) -> bool:
    """The member leads a group in a newer term than `terms` has."""
    found = [(number, group.status()) for number, group in member.groups.items()]
    return any(
        status.role == "leader" and status.term > terms[number]
        for number, status in found
        if number in terms
    )
