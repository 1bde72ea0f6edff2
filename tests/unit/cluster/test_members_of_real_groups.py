"""The job of membership over real Raft groups in virtual time, with writes going on."""

from __future__ import annotations

import pytest

from cluster.membership import GroupView, Membership
from cluster.raft.members import MemberChange
from kalamdb.errors import Indeterminate, KalamError, Unavailable
from kalamdb.model.catalog import NodeState
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import DrainNode, PutReplication, RemoveNode
from kalamdb.sql.cluster_statement import ClusterStepDown, ClusterTransfer
from tests.raft.asking import Ask
from tests.raft.member_world import MemberWorld
from tests.unit.cluster.operated import Operated

DATA_GROUPS = 2
ROUND_S = 0.5


class RealGroups(Operated):
    """Nodes 1…`first` began the cluster; up to five can join."""

    def __init__(self, first: int, seed: int) -> None:
        super().__init__(first, groups=DATA_GROUPS)
        self.world = MemberWorld(seed, founders=first, size=5, groups=DATA_GROUPS + 1)
        for gid in self.world.gids:
            self.world.wait_leader(gid)

    async def view(self, group: GroupId) -> GroupView:
        leader = self.world.leader(group)
        if leader is None:
            raise Unavailable(f"group {group} has no leader")
        found = self.world.nodes[leader].group(group)
        last = found.status().last_index
        return GroupView(group, NodeId(leader), found.members(), found.progress(), last)

    async def propose_members(self, group: GroupId, change: MemberChange) -> None:
        leader = self.leader(group)
        self.wait(self.world.ask(self.world.nodes[leader].group(group).propose_members, change))
        self.done.append(f"g{group} {type(change).__name__} {change.node}")

    async def hand_over(self, group: GroupId, node: NodeId) -> None:
        leader = self.leader(group)
        self.wait(self.world.ask(self.world.nodes[leader].group(group).hand_over, node))
        self.done.append(f"g{group} leader {node}")

    def leader(self, group: GroupId) -> int:
        found = self.world.leader(group)
        if found is None:
            raise Unavailable(f"group {group} has no leader")
        return found

    def wait(self, ask: Ask) -> None:
        if not self.world.run(5.0, lambda: ask.done):
            raise Indeterminate("no answer")
        if ask.error is not None:
            raise ask.error

    # ---- for tests ------------------------------------------------------------------------------

    async def settle(self, job: Membership, rounds: int = 200) -> None:
        idle = 0
        for _ in range(rounds):
            for gid in self.world.gids:
                if self.world.leader(gid) is not None:
                    self.world.write(3, gid=gid)
            self.world.run(ROUND_S)
            self.advance_s(ROUND_S)
            idle = 0 if await job.step() else idle + 1
            if idle > 9:
                return
        raise AssertionError("the cluster does not settle")

    def rosters(self) -> dict[int, tuple[int, ...]]:
        """Voters of each group, as its leader has them."""
        return {gid: self.world.roster(self.leader(GroupId(gid)), gid).voters for gid in range(3)}

    def leaders(self) -> list[int]:
        return sorted(self.leader(GroupId(gid)) for gid in range(3))

    def crash(self, node: int) -> None:
        self.alive.discard(node)
        self.world.stop(node)

    def check(self) -> None:
        """Nothing that was acknowledged is lost."""
        assert len(self.world.acked) > 20
        self.world.settle()


@pytest.mark.parametrize("seed", range(2))
async def test_one_node_grows_to_three(seed: int) -> None:
    cluster = RealGroups(1, seed)
    job = cluster.membership(balance_interval_s=1)
    await cluster.settle(job)
    for node in (2, 3):
        cluster.join(node)
        cluster.start(node)
        await cluster.settle(job)
    assert set(cluster.rosters().values()) == {(1, 2, 3)}
    assert cluster.leaders() == [1, 2, 3]
    cluster.check()


@pytest.mark.parametrize("seed", range(2))
async def test_a_dead_node_is_replaced(seed: int) -> None:
    cluster = RealGroups(3, seed)
    job = cluster.membership(balance_interval_s=1)
    await cluster.settle(job)
    assert cluster.leaders() == [1, 2, 3]
    cluster.crash(3)
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    await cluster.settle(job)
    assert cluster.catalog.nodes[NodeId(4)].state is NodeState.ACTIVE
    cluster.meta.do(DrainNode(NodeId(3)))
    await cluster.settle(job)
    assert set(cluster.rosters().values()) == {(1, 2, 4)}
    assert cluster.leaders() == [1, 2, 4]
    cluster.meta.do(RemoveNode(NodeId(3)))
    await cluster.settle(job)
    meta = cluster.world.roster(cluster.leader(META_GROUP))
    assert 3 not in meta.nodes
    cluster.check()


@pytest.mark.parametrize("seed", range(2))
async def test_a_node_leaves_and_another_comes(seed: int) -> None:
    cluster = RealGroups(3, seed)
    job = cluster.membership(balance_interval_s=1)
    cluster.join(4)
    cluster.start(4)
    await cluster.settle(job)
    held = [sum(node in voters for voters in cluster.rosters().values()) for node in range(1, 5)]
    assert sorted(held) == [2, 2, 2, 3]
    cluster.meta.do(DrainNode(NodeId(1)))
    await cluster.settle(job)
    assert set(cluster.rosters().values()) == {(2, 3, 4)}
    assert cluster.world.roster(cluster.leader(META_GROUP)).learners == (1,)
    cluster.check()


async def test_fewer_members_and_more_again() -> None:
    cluster = RealGroups(3, 7)
    job = cluster.membership(balance_interval_s=1)
    await cluster.settle(job)
    cluster.meta.do(PutReplication(1))
    await cluster.settle(job)
    assert sorted(voters for (voters,) in cluster.rosters().values()) == [1, 2, 3]
    cluster.meta.do(PutReplication(3))
    await cluster.settle(job)
    assert set(cluster.rosters().values()) == {(1, 2, 3)}
    cluster.check()


async def test_leaders_go_where_an_operator_wants_them() -> None:
    cluster = RealGroups(3, 9)
    job = cluster.membership(balance_interval_s=1)
    await cluster.settle(job)
    control = cluster.control(job)
    await control.carry_out(ClusterTransfer(1, 2))
    await cluster.settle(job)
    assert cluster.leader(GroupId(1)) == 2
    acts = await control.carry_out(ClusterStepDown(node=2))
    assert not isinstance(acts, str)
    assert all(act.error is None for act in acts)
    await cluster.settle(job)
    assert 2 not in cluster.leaders()
    cluster.check()


@pytest.mark.parametrize("seed", range(3))
async def test_leaders_die_while_members_move(seed: int) -> None:
    """Another leader of meta goes on with what stands in the logs."""
    cluster = RealGroups(3, seed)
    job = cluster.membership(balance_interval_s=1)
    cluster.join(4)
    cluster.start(4)
    for turn in range(6):
        cluster.world.run(ROUND_S)
        cluster.advance_s(ROUND_S)
        try:
            await job.step()
        except KalamError as error:
            raise AssertionError("a round met a refusal it did not expect") from error
        if turn in (2, 4):
            victim = cluster.world.leader(turn % 3)
            if victim is not None:
                cluster.crash(victim)
                job = cluster.membership(balance_interval_s=1)
                cluster.world.run(3.0)
                cluster.world.start(victim)
                cluster.alive.add(victim)
    await cluster.settle(job)
    held = [sum(node in voters for voters in cluster.rosters().values()) for node in (1, 2, 3, 4)]
    assert sorted(held) == [2, 2, 2, 3]
    cluster.check()
