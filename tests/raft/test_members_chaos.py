"""Clusters whose members change at random under faults of all kinds: nothing is lost, nobody votes
who may not, and the members that are left agree.
"""

from __future__ import annotations

from random import Random

import pytest

from cluster.raft import journal
from cluster.raft.members import AddLearner, Demote, MemberChange, Promote, Remove
from tests.raft.asking import Ask
from tests.raft.member_world import MemberWorld
from tests.raft.test_cluster import Chaos


class MemberChaos(Chaos):
    """Also changes members, and takes disks away."""

    world: MemberWorld

    def __init__(self, world: MemberWorld, dice: Random, duration_s: float) -> None:
        self.asked: list[Ask] = []
        super().__init__(world, dice, duration_s)
        self.again(self.change, 0.15)
        self.again(self.lose_disk, 2.5)

    def change(self) -> None:
        world, dice = self.world, self.dice
        gid = dice.choice(world.gids)
        leaders = [node for node in world.nodes.values() if node.hub and node.group(gid).ready]
        if not leaders:
            return
        group = dice.choice(leaders).group(gid)
        roster = group.journal.members.roster
        choices: list[MemberChange] = []
        choices += [AddLearner(id) for id in world.voters if id not in roster.nodes]
        choices += [Promote(id) for id in roster.learners] * 3
        lost = [id for id in roster.voters if not world.alive(gid, roster, id)]
        choices += [Demote(id) for id in lost] * 4
        if len(roster.voters) > 2 and not lost:
            choices += [Demote(id) for id in roster.voters]
        choices += [Remove(id) for id in roster.learners]
        self.asked.append(world.ask(group.propose_members, dice.choice(choices)))

    def lose_disk(self) -> None:
        id = self.dice.choice(self.world.voters)
        if self.world.may_lose_disk(id):
            self.world.lose_disk(id)
            back_s = self.world.now_s + self.dice.choice((0.05, 0.5))
            self.world.at(back_s, lambda: self.world.revive(id))


def members_chaos(seed: int, duration_s: float = 20.0, **given: int) -> MemberChaos:
    world = MemberWorld(seed, segment_bytes=20_000, size=5, **given)
    nemesis = MemberChaos(world, Random(seed + 1), duration_s)
    world.run(duration_s)
    nemesis.calm()
    world.settle(60.0)
    assert world.acked
    return nemesis


@pytest.fixture
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_ENTRIES", 20)


@pytest.mark.usefixtures("short_logs")
def test_changes_under_faults_lose_nothing(sim_seed: int) -> None:
    assert any(asked.well for asked in members_chaos(sim_seed).asked)


@pytest.mark.usefixtures("short_logs")
def test_changes_of_three_groups(sim_seed: int) -> None:
    members_chaos(sim_seed + 1000, 8.0, groups=3)


@pytest.mark.usefixtures("short_logs")
def test_one_grows(sim_seed: int) -> None:
    members_chaos(sim_seed + 2000, 10.0, founders=1)


@pytest.mark.usefixtures("short_logs")
def test_a_seed_is_a_run() -> None:
    def trace() -> object:
        nemesis = members_chaos(77, 6.0)
        assert sum(asked.well for asked in nemesis.asked) > 5
        world = nemesis.world
        return world.now_s, world.acked, world.history, world.resigned, world.committed

    assert trace() == trace()
