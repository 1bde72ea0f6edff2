"""Whole clusters on a simulated network and disk: elections, failover, images, faults of all kinds.

`World` checks safety all the time (world.py); `settle` checks that nothing acknowledged is lost.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from cluster.raft import journal
from cluster.raft.core import Timings
from cluster.raft.group import Group
from kalamdb.errors import Unavailable
from tests.raft.world import World

FAULTS = (
    "kill",
    "power",
    "kill all",
    "power all",
    "partition",
    "one way",
    "reset",
    "lag",
    "slow disk",
    "hand over",
)


class Chaos:
    """Writers, an owner that compacts, and a nemesis, for `duration_s` of a world."""

    def __init__(self, world: World, dice: Random, duration_s: float) -> None:
        self.world, self.dice = world, dice
        self.end_s = world.now_s + duration_s
        for work, mean_s in ((self.write, 0.02), (self.compact, 0.3), (self.harm, 0.8)):
            self.again(work, mean_s)

    def again(self, work: object, mean_s: float) -> None:
        def run() -> None:
            if self.world.now_s < self.end_s:
                self.again(work, mean_s)
                work()  # type: ignore[operator]

        self.world.at(self.world.now_s + self.dice.expovariate(1 / mean_s), run)

    def write(self) -> None:
        gid = self.dice.choice(self.world.gids)
        nodes = [node for node in self.world.nodes.values() if node.hub]
        leaders = [node for node in nodes if node.group(gid).ready]
        if leaders:
            machine = self.dice.choice(leaders).machines[gid]
            for _ in range(self.dice.choice((1, 1, 5, 40))):
                self.world.written += 1
                size = self.dice.choice((0, 30, 300))
                machine.write(self.world.written.to_bytes(8, "big") + bytes(size))

    def compact(self) -> None:
        for node in self.world.nodes.values():
            for gid, machine in node.machines.items():
                if node.hub and self.dice.random() < 0.7:
                    machine.synced_mark = machine.mark
                    node.group(gid).compact_to(machine.mark.index)

    def harm(self) -> None:
        world, dice = self.world, self.dice
        id = dice.choice(world.voters)
        leader = world.leader(dice.choice(world.gids))
        if leader is not None and dice.random() < 0.6:
            id = leader
        later_s = world.now_s + dice.uniform(0.5, 4)
        fault = dice.choice(FAULTS)
        match fault:
            case "kill" | "power" | "kill all" | "power all":
                for victim in world.voters if fault.endswith("all") else (id,):
                    self.stop(victim, power=fault.startswith("power"))
            case "partition" | "one way":
                cut = {(id, other) for other in world.voters if other != id}
                if fault == "partition":
                    cut |= {(b, a) for a, b in cut}
                world.cut |= cut
                world.at(later_s, lambda: world.cut.difference_update(cut))
            case "reset":
                world.reset(id, dice.choice([other for other in world.voters if other != id]))
            case "lag":
                world.lag_s = (0.02, dice.uniform(0.05, 0.6))
                world.at(later_s, self.calm)
            case "slow disk":
                world.sync_s = (0.001, dice.choice((0.02, 0.3)))
                world.at(later_s, self.calm)
            case _:
                if world.nodes[id].hub:
                    world.hand_over(id, dice.choice(world.voters))

    def stop(self, id: int, *, power: bool) -> None:
        if self.world.nodes[id].hub:
            self.world.stop(id, power=power)
            back_s = self.world.now_s + self.dice.choice((0.05, 0.5, 3))
            self.world.at(back_s, lambda: self.world.revive(id))

    def calm(self) -> None:
        self.world.lag_s, self.world.sync_s = (0.0005, 0.005), (0.0002, 0.003)


def chaos(seed: int, duration_s: float = 20.0, *, size: int = 3, groups: int = 1) -> World:
    made = World(seed, segment_bytes=20_000, size=size, groups=groups)
    nemesis = Chaos(made, Random(seed + 1), duration_s)
    made.run(duration_s)
    nemesis.calm()
    made.settle(60.0)
    assert made.acked
    return made


def asked(group: Group) -> asyncio.Future[int]:
    reader = group.read_index()
    assert isinstance(reader, asyncio.Future)
    return reader


def cycles(world: World, id: int) -> int:
    hub = world.nodes[id].hub
    assert hub is not None
    return hub.statistics().cycles


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_ENTRIES", 20)


@pytest.mark.usefixtures("short_logs")
def test_faults_lose_nothing(sim_seed: int) -> None:
    world = chaos(sim_seed)
    assert world.led > 1


@pytest.mark.usefixtures("short_logs")
def test_faults_lose_nothing_in_five_with_three_groups(sim_seed: int) -> None:
    chaos(sim_seed + 1000, 8.0, size=5, groups=3)


@pytest.mark.usefixtures("short_logs")
def test_a_seed_is_a_run() -> None:
    def trace() -> object:
        world = chaos(77, 8.0)
        return world.now_s, world.acked, world.history, world.resigned, world.images

    assert trace() == trace()


def test_three_elect_replicate_and_fail_over() -> None:
    world = World(11)
    first = world.wait_leader()
    assert world.now_s - 1000 < 1.5
    world.write(100)
    world.wait_acked(100)
    world.stop(first)
    start_s = world.now_s
    assert world.run(5.0, lambda: world.leader() not in (None, first))
    assert world.now_s - start_s < 1.6
    world.write(100)
    world.wait_acked(200)
    world.start(first)
    assert world.settle() < 0.5
    assert world.nodes[first].group().status().role == "follower"


def test_a_kill_of_all_loses_nothing() -> None:
    world = World(12)
    world.wait_leader()
    world.write(100)
    world.wait_acked(100)
    for id in world.voters:
        world.stop(id, power=True)
    world.settle()
    assert len(world.nodes[1].machines[0].rows) == 100


@pytest.mark.usefixtures("short_logs")
def test_a_member_far_behind_pulls_an_image() -> None:
    world = World(13)
    leader = world.wait_leader()
    behind = next(id for id in world.voters if id != leader)
    world.stop(behind)
    world.write(500)
    world.wait_acked(500)
    for node in world.nodes.values():
        if node.hub:
            node.group().compact_to(node.machines[0].mark.index)
    assert world.nodes[leader].group().status().first_index > 400
    world.start(behind)
    world.write(5)
    assert world.settle() < 1.0
    assert world.nodes[behind].machines[0].images == 1
    assert world.resigned == []
    assert world.leader() == leader


def test_a_member_a_little_behind_reads_the_log() -> None:
    world = World(14)
    leader = world.wait_leader()
    behind = next(id for id in world.voters if id != leader)
    world.stop(behind)
    world.write(500)
    world.wait_acked(500)
    world.nodes[leader].group().compact_to(world.nodes[leader].machines[0].mark.index)
    world.start(behind)
    world.settle()
    assert world.images == 0


def test_leadership_can_be_handed_over() -> None:
    world = World(15)
    first = world.wait_leader()
    world.write(10)
    world.wait_acked(10)
    second = next(id for id in world.voters if id != first)
    world.run(0.2)
    start_s = world.now_s
    asked = world.hand_over(first, second)
    assert world.run(1.0, lambda: world.leader() == second)
    assert world.now_s - start_s < 0.1
    assert world.run(0.2, lambda: asked.well)
    assert world.resigned == ["another term began"]


def test_a_refused_hand_over_resumes() -> None:
    world = World(16)
    first = world.wait_leader()
    world.write(10)
    world.wait_acked(10)
    world.run(0.2)
    second = next(id for id in world.voters if id != first)
    world.cut.add((first, second))  # it will never hear of it
    asked = world.hand_over(first, second)
    world.write(1)
    world.run(0.2)
    assert len(world.acked) == 10
    assert not asked.done
    world.wait_acked(11, 1.0)
    assert isinstance(asked.error if asked.done else None, Unavailable)


async def test_read_index_is_confirmed_by_a_majority() -> None:
    world = World(17)
    leader = world.wait_leader()
    world.write(10)
    world.wait_acked(10)
    group = world.nodes[leader].group()
    readers = [asked(group) for _ in range(3)]
    before = cycles(world, leader)
    assert world.run(1.0, lambda: all(reader.done() for reader in readers))
    applied = world.nodes[leader].machines[0].mark.index
    assert [reader.result() for reader in readers] == [applied] * 3
    assert cycles(world, leader) - before < 6  # one round, no disk write
    cancelled, other = asked(group), asked(group)
    cancelled.cancel()
    assert world.run(1.0, other.done)
    other.result()


async def test_read_index_fails_when_leadership_is_lost() -> None:
    world = World(18)
    leader = world.wait_leader()
    world.write(10)
    world.wait_acked(10)
    group = world.nodes[leader].group()
    world.isolate(leader)
    reader = asked(group)
    assert not world.run(0.5, reader.done)
    world.write(1)
    assert world.run(2.0, reader.done)
    with pytest.raises(Unavailable):
        reader.result()
    with pytest.raises(Unavailable):
        group.read_index()


async def test_reads_are_linearizable_under_faults(
    sim_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read sees all that was acknowledged, by any leader, before it was asked for."""
    monkeypatch.setattr(journal, "KEEP_ENTRIES", 20)
    world = World(sim_seed + 500, segment_bytes=20_000)
    dice = Random(sim_seed)
    reads: list[tuple[int, asyncio.Future[int]]] = []

    class Readers(Chaos):
        def write(self) -> None:
            super().write()
            for node in world.nodes.values():
                if node.hub and node.group().ready:
                    reader = asked(node.group())
                    reads.append((max(world.acked.values(), default=0), reader))

    nemesis = Readers(world, dice, 15.0)
    world.run(15.0)
    nemesis.calm()
    world.settle()
    done = [(seen, reader) for seen, reader in reads if reader.done()]
    answered = [(seen, reader) for seen, reader in done if not reader.exception()]
    assert len(answered) > 50
    assert all(reader.result() >= seen for seen, reader in answered)


def test_an_idle_cluster_sends_heartbeats_only() -> None:
    world = World(19, groups=8, timings=Timings())
    for gid in world.gids:
        world.wait_leader(gid)
    world.run(5.0)
    frames = sum(node.hub.statistics().frames_sent for node in world.nodes.values() if node.hub)
    world.run(10.0)
    later = sum(node.hub.statistics().frames_sent for node in world.nodes.values() if node.hub)
    # Ten heartbeats a second of up to three leaders to two followers, and the answers.
    assert later - frames < 10 * 10 * 3 * 2 * 2 * 1.3
