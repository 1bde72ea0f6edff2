"""CLUSTER statements over groups that do as they are told."""

from __future__ import annotations

import pytest

from cluster.placement import SlotMove
from kalamdb.cluster_errors import NodeNeeded, NoSuchMember, UnknownNode
from kalamdb.errors import InvalidStatement, Unavailable
from kalamdb.model.catalog import NodeState
from kalamdb.model.ids import GroupId, NodeId, TenantId, slot_of, tenant_partition
from kalamdb.session.cluster_statements import ClusterAct
from kalamdb.sql.cluster_statement import (
    ClusterChange,
    ClusterJoin,
    ClusterLeave,
    ClusterMove,
    ClusterRebalance,
    ClusterRemove,
    ClusterReplication,
    ClusterSnapshot,
    ClusterStepDown,
    ClusterTransfer,
)
from tests.unit.cluster.operated import LAST_INDEX, Operated


async def acts(cluster: Operated, asked: ClusterChange) -> list[ClusterAct]:
    done = await cluster.control().carry_out(asked)
    assert not isinstance(done, str)
    return list(done)


async def test_a_transferred_leader_stays() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    target = cluster.placement.voters_of(GroupId(2))[1]
    assert await acts(cluster, ClusterTransfer(2, target)) == [
        ClusterAct("transfer_leader", 2, target)
    ]
    assert cluster.groups[GroupId(2)].leader == target
    await cluster.settle(job)
    assert cluster.groups[GroupId(2)].leader == target
    await acts(cluster, ClusterRebalance(leaders=True))
    assert sorted(cluster.led_by(node) for node in (1, 2, 3)) == [1, 2, 2]


async def test_leaders_go_only_to_voters_that_can_lead() -> None:
    cluster = Operated(4)
    job = cluster.membership()
    await cluster.settle(job)
    group = next(g for g in cluster.groups if 4 not in cluster.voters(g))
    with pytest.raises(NoSuchMember, match="does not vote"):
        await acts(cluster, ClusterTransfer(group, 4))
    other = next(n for n in cluster.voters(group) if n != cluster.groups[group].leader)
    cluster.groups[group].copied[other] = 0
    with pytest.raises(NoSuchMember, match="caught up"):
        await acts(cluster, ClusterTransfer(group, other))
    cluster.alive.remove(other)
    with pytest.raises(NoSuchMember, match="reached"):
        await acts(cluster, ClusterTransfer(group, other))
    with pytest.raises(UnknownNode):
        await acts(cluster, ClusterTransfer(group, 9))
    with pytest.raises(InvalidStatement, match="groups are 0"):
        await acts(cluster, ClusterTransfer(99, 1))


async def test_every_group_of_a_node() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.groups[GroupId(3)].copied[2] = 0
    cluster.groups[GroupId(3)].leader = 1
    found = await acts(cluster, ClusterTransfer(None, 2))
    failed = [act for act in found if act.error is not None]
    assert len(found) == len(cluster.groups)
    assert [act.group for act in failed] == [3]
    assert cluster.led_by(2) == len(cluster.groups) - 1


async def test_a_node_steps_down_and_stays_down() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    led = cluster.led_by(2)
    found = await acts(cluster, ClusterStepDown(node=2))
    assert len(found) == led > 0
    assert cluster.led_by(2) == 0
    await cluster.settle(job)
    assert cluster.led_by(2) == 0
    meta_leader = cluster.groups[GroupId(0)].leader
    await acts(cluster, ClusterStepDown())
    assert cluster.led_by(meta_leader) == 0
    (act,) = await acts(cluster, ClusterStepDown(group=1))
    assert act.group == 1
    assert cluster.groups[GroupId(1)].leader == act.node


async def test_nobody_steps_down_where_nobody_takes_over() -> None:
    cluster = Operated(3)
    cluster.alive -= {2, 3}
    (act, *rest) = await acts(cluster, ClusterStepDown(node=1))
    assert act.error is not None
    assert all(one.error is not None for one in rest)
    with pytest.raises(NoSuchMember):
        await acts(cluster, ClusterStepDown(group=1))


async def test_nodes_join_and_leave() -> None:
    cluster = Operated(3)
    control = cluster.control()
    job = cluster.membership()
    await cluster.settle(job)
    assert "joins" in str(await control.carry_out(ClusterJoin(4, "n4:1")))
    with pytest.raises(NodeNeeded):
        await control.carry_out(ClusterLeave(1))
    cluster.start(4)
    await cluster.settle(job)
    await control.carry_out(ClusterLeave(1))
    with pytest.raises(NodeNeeded, match="votes in groups"):
        await control.carry_out(ClusterRemove(1))
    await cluster.settle(job)
    await control.carry_out(ClusterRemove(1))
    assert cluster.catalog.nodes[NodeId(1)].state is NodeState.REMOVED
    with pytest.raises(UnknownNode):
        await control.carry_out(ClusterRemove(1))
    assert "3" in str(await control.carry_out(ClusterReplication(5)))


async def test_a_voter_is_not_removed_though_meta_means_it_gone() -> None:
    cluster = Operated(4)
    job = cluster.membership()
    await cluster.settle(job)
    control = cluster.control()
    await control.carry_out(ClusterLeave(1))
    await job.step()  # the wishes are written, and no member has moved yet
    assert not cluster.placement.held_by(NodeId(1))
    with pytest.raises(NodeNeeded, match="votes in"):
        await control.carry_out(ClusterRemove(1))


async def test_snapshots() -> None:
    cluster = Operated(3)
    found = await acts(cluster, ClusterSnapshot())
    assert [act.group for act in found] == [0, 1, 2, 3, 4]
    assert all(act.snapshot_index == LAST_INDEX for act in found)
    cluster.alive -= {1, 2}
    found = await acts(cluster, ClusterSnapshot())
    assert all(act.error is not None for act in found)
    with pytest.raises(Unavailable):
        await acts(cluster, ClusterSnapshot(1))


async def test_rebalance_wakes_the_job_and_moves_slots() -> None:
    cluster = Operated(3)
    begun: list[SlotMove] = []

    class Slots:
        async def begin(self, move: SlotMove) -> None:
            begun.append(move)

    woken: list[bool] = []
    control = cluster.control()
    control = type(control)(control.groups, control.catalog, lambda: woken.append(True), Slots())
    done = await control.carry_out(ClusterRebalance())
    assert not begun  # slots are where they were from the beginning
    assert woken == [True]
    assert {act.action for act in done if isinstance(act, ClusterAct)} == {"rebalance_leader"}


async def test_a_slot_is_moved_by_its_number_or_by_a_user() -> None:
    cluster = Operated(3)
    begun: list[SlotMove] = []

    class Slots:
        async def begin(self, move: SlotMove) -> None:
            begun.append(move)

    control = cluster.control()
    control = type(control)(control.groups, control.catalog, lambda: None, Slots())
    slot = slot_of(tenant_partition(TenantId("alice")))
    source = cluster.placement.group_of(slot)
    target = GroupId(source % 4 + 1)
    for asked in (int(slot), "alice"):
        done = await control.carry_out(ClusterMove(asked, target))
        assert isinstance(done, str)
        assert f"slot {slot} goes from group {source} to group {target}" in done
        assert begun.pop() == SlotMove(slot, source, target)
    assert (
        await control.carry_out(ClusterMove("alice", source)) == f"slot {slot} is in group {source}"
    )
    for number, group in ((4096, 1), (7, 9)):
        with pytest.raises(InvalidStatement):
            await control.carry_out(ClusterMove(number, group))
    assert not begun
