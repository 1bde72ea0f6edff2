"""The job that brings groups to their members and leaders, over groups that do as they are told."""

from __future__ import annotations

import pytest

from cluster.membership import COPIES_MAX, enrol, introduce
from kalamdb.cluster_errors import NodeNeeded, NodeTaken, UnknownNode
from kalamdb.errors import Unavailable
from kalamdb.model.catalog import NodeState
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import DrainNode, PutMembers, PutNode, PutReplication, RemoveNode
from kalamdb.sql.cluster_statement import ClusterRemove
from tests.unit.cluster.operated import LAST_INDEX, Operated


async def test_leaders_are_spread_one_at_a_time() -> None:
    cluster = Operated(3)
    job = cluster.membership(balance_interval_s=10)
    assert await job.step() == 0  # nothing is moved right after a start
    cluster.advance_s(9.9)
    assert await job.step() == 0
    cluster.advance_s(0.2)
    assert await job.step() == 1
    assert await job.step() == 0
    for _ in range(50):
        cluster.advance_s(10)
        await job.step()
    assert sorted(cluster.led_by(node) for node in (1, 2, 3)) == [1, 2, 2]
    assert all("leader" in step for step in cluster.done)
    assert len(cluster.done) == 3


async def test_leaders_stay_where_balancing_is_off() -> None:
    cluster = Operated(3)
    await cluster.settle(cluster.membership(balance_interval_s=0))
    assert not cluster.done


async def test_the_preferred_leader_comes_back_after_a_restart() -> None:
    cluster = Operated(3)
    await cluster.settle(cluster.membership())
    before = {group: found.leader for group, found in cluster.groups.items()}
    cluster.alive.remove(2)
    job = cluster.membership()  # another node leads meta
    await cluster.settle(job)
    assert cluster.led_by(2) == 0
    assert cluster.held_by(2) == 5
    cluster.alive.add(2)
    await cluster.settle(job)
    assert {group: found.leader for group, found in cluster.groups.items()} == before


async def test_a_leader_that_lags_is_not_moved_there() -> None:
    cluster = Operated(3)
    for group in cluster.groups.values():
        group.copied[2] = group.copied[3] = 0
    await cluster.settle(cluster.membership())
    assert not cluster.done


async def test_one_node_grows_to_three() -> None:
    cluster = Operated(1, speed=200)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.join(2)
    await cluster.settle(job)
    assert not cluster.done  # it was not started yet
    cluster.start(2)
    await cluster.settle(job)
    assert cluster.meta_members.learners == (2,)
    assert cluster.catalog.nodes[NodeId(2)].state is NodeState.ACTIVE
    assert cluster.held_by(2) == 0  # two voters would be worse than one
    cluster.join(3)
    cluster.start(3)
    await cluster.settle(job)
    assert all(group.roster.voters == (1, 2, 3) for group in cluster.groups.values())
    assert not any(group.roster.learners for group in cluster.groups.values())
    assert sorted(cluster.led_by(node) for node in (1, 2, 3)) == [1, 2, 2]


async def test_a_fourth_node_takes_its_share_and_every_node_has_meta() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    await cluster.settle(job)
    assert sorted(cluster.held_by(node) for node in (1, 2, 3, 4)) == [3, 4, 4, 4]
    assert all(len(cluster.voters(group)) == 3 for group in cluster.groups)
    assert set(cluster.meta_members.nodes) == {1, 2, 3, 4}


async def test_a_node_copies_few_groups_at_a_time() -> None:
    cluster = Operated(3, speed=1, groups=20)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    cluster.groups[META_GROUP].copied[4] = LAST_INDEX - 2
    for _ in range(10):
        await job.step()
        copying = [
            group
            for group, found in cluster.groups.items()
            if group != META_GROUP and 4 in found.roster.learners
        ]
        assert len(copying) <= COPIES_MAX
    assert len(copying) == COPIES_MAX


async def test_a_draining_node_loses_leaders_then_members() -> None:
    cluster = Operated(4)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.done.clear()
    cluster.meta.do(DrainNode(NodeId(1)))
    assert cluster.led_by(1) > 0
    await job.step()
    assert cluster.led_by(1) == 0
    await cluster.settle(job)
    assert cluster.held_by(1) == 0
    assert 1 in cluster.meta_members.learners  # it is still a node, and has the catalog
    cluster.meta.do(RemoveNode(NodeId(1)))
    await cluster.settle(job)
    assert cluster.meta_members.nodes == (2, 3, 4)


async def test_a_dead_node_is_replaced_when_an_operator_says_so() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.alive.remove(3)
    cluster.join(4)
    cluster.start(4)
    await cluster.settle(job)
    held = cluster.held_by(3)
    assert held > 0  # a new node takes its share, the dead one keeps the rest
    cluster.meta.do(DrainNode(NodeId(3)))
    await cluster.settle(job)
    assert cluster.held_by(3) == 0
    assert all(cluster.voters(group) == (1, 2, 4) for group in cluster.groups)


async def test_a_dead_node_comes_back_with_another_disk() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    control = cluster.control()
    with pytest.raises(NodeNeeded, match="stop it first"):
        await control.carry_out(ClusterRemove(3))
    cluster.alive -= {2, 3}
    with pytest.raises(NodeNeeded, match="no majority"):
        await control.carry_out(ClusterRemove(3))
    cluster.alive.add(2)
    await control.carry_out(ClusterRemove(3))
    await cluster.settle(job)
    assert all(cluster.voters(group) == (1, 2) for group in cluster.groups)
    assert all(3 in cluster.placement.voters_of(group) for group in cluster.groups)
    cluster.join(3)
    cluster.start(3)
    await cluster.settle(job)
    assert all(cluster.voters(group) == (1, 2, 3) for group in cluster.groups)
    assert sorted(cluster.led_by(node) for node in (1, 2, 3)) == [1, 2, 2]


async def test_another_node_takes_the_place_of_one_that_was_given_up() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.alive.remove(3)
    await cluster.control().carry_out(ClusterRemove(3))
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    await cluster.settle(job)
    assert all(cluster.voters(group) == (1, 2, 4) for group in cluster.groups)
    assert not any(3 in cluster.placement.voters_of(group) for group in cluster.groups)


async def test_a_dead_node_is_replaced_after_a_time() -> None:
    cluster = Operated(4)
    job = cluster.membership(replace_after_s=60)
    await cluster.settle(job)
    cluster.alive.remove(2)
    for _ in range(5):
        cluster.advance_s(11)
        await job.step()
    held = cluster.held_by(2)
    assert held > 0
    cluster.advance_s(11)
    await cluster.settle(job)
    assert cluster.held_by(2) == 0
    assert cluster.catalog.nodes[NodeId(2)].state is NodeState.ACTIVE
    cluster.alive.add(2)
    await cluster.settle(job)
    assert cluster.held_by(2) >= 3  # it is back, and gets its share


async def test_the_time_begins_anew_when_a_node_was_seen() -> None:
    cluster = Operated(4)
    job = cluster.membership(replace_after_s=60)
    await cluster.settle(job)
    held = cluster.held_by(2)
    for _ in range(5):
        cluster.alive.discard(2)
        cluster.advance_s(50)
        await job.step()
        cluster.alive.add(2)
        await job.step()
    assert cluster.held_by(2) == held


async def test_nobody_is_replaced_where_too_few_nodes_are_left() -> None:
    cluster = Operated(3)
    job = cluster.membership(replace_after_s=5)
    await cluster.settle(job)
    cluster.alive.remove(3)
    await cluster.settle(job)
    assert all(cluster.voters(group) == (1, 2, 3) for group in cluster.groups)


async def test_fewer_members_are_wished() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.meta.do(PutReplication(1))
    await cluster.settle(job)
    assert all(len(cluster.voters(group)) == 1 for group in cluster.groups)
    assert sorted(cluster.held_by(node) for node in (1, 2, 3)) == [1, 2, 2]
    cluster.meta.do(DrainNode(NodeId(3)))
    await cluster.settle(job)
    assert cluster.held_by(3) == 0


async def test_refusals_are_met_again() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    cluster.groups[GroupId(1)].busy = True
    await cluster.settle(job)
    assert 4 not in cluster.voters(1) or cluster.groups[GroupId(1)].roster.learners == ()
    cluster.groups[GroupId(1)].busy = False
    await cluster.settle(job)
    assert sorted(cluster.held_by(node) for node in (1, 2, 3, 4)) == [3, 4, 4, 4]


async def test_a_group_without_a_leader_holds_up_no_other() -> None:
    cluster = Operated(4)
    job = cluster.membership()
    await cluster.settle(job)
    lost = cluster.groups[GroupId(2)]
    lost.leader, lost.roster = 9, type(lost.roster)((8, 9))
    cluster.meta.do(DrainNode(NodeId(1)))
    await cluster.settle(job)
    assert cluster.held_by(1) == 0


async def test_only_the_leader_of_meta_does_it() -> None:
    cluster = Operated(4)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.done.clear()
    cluster.leads_meta = False
    cluster.meta.do(DrainNode(NodeId(1)))
    await cluster.settle(job)
    assert not cluster.done
    assert job.moves() == []
    cluster.leads_meta = True
    await cluster.settle(job)
    assert cluster.held_by(1) == 0


async def test_moves_tell_how_far_they_are() -> None:
    cluster = Operated(3, speed=100)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    for _ in range(5):
        cluster.advance_s(1)
        await job.step()
    (meta,) = [move for move in job.moves() if move.group == META_GROUP]
    assert (meta.kind, meta.target, meta.keys_total, meta.state) == ("member", 4, 1000, "image")
    assert 0 < meta.keys_done < 1000
    assert meta.eta_s is not None
    assert meta.eta_s == pytest.approx((1000 - meta.keys_done) / 100, rel=0.5)
    await cluster.settle(job)
    assert job.moves() == []
    assert 4 in job.heard()


async def test_wishes_of_an_operator_stay() -> None:
    cluster = Operated(3)
    job = cluster.membership()
    await cluster.settle(job)
    nodes = cluster.placement.voters_of(GroupId(1))
    cluster.meta.do(PutMembers({GroupId(1): (nodes[2], nodes[0], nodes[1])}))
    await cluster.settle(job)
    assert cluster.groups[GroupId(1)].leader == nodes[2]


# ---- who the nodes are --------------------------------------------------------------------------


async def test_nodes_are_enrolled_once_and_say_who_they_are() -> None:
    cluster = Operated(1)
    cluster.meta.do(PutReplication(1))
    before = cluster.catalog
    await enrol(cluster.write_meta, cluster.catalog, {1: "n1:1", 2: "n2:1"})
    assert cluster.catalog is before  # a cluster that has nodes
    with pytest.raises(UnknownNode):
        await introduce(cluster.write_meta, cluster.catalog, PutNode(NodeId(2), "n2:1", "u"))
    cluster.join(2)
    said = PutNode(NodeId(2), "n2:1", "uuid-2", "h2:80")
    await introduce(cluster.write_meta, cluster.catalog, said)
    version = cluster.catalog.version
    await introduce(cluster.write_meta, cluster.catalog, said)
    assert cluster.catalog.version == version
    with pytest.raises(NodeTaken, match="another disk"):
        await introduce(cluster.write_meta, cluster.catalog, PutNode(NodeId(2), "n2:1", "empty"))
    cluster.meta.do(RemoveNode(NodeId(2)))
    with pytest.raises(UnknownNode, match="CLUSTER JOIN"):
        await introduce(cluster.write_meta, cluster.catalog, said)


async def test_a_group_that_is_not_seen_is_as_it_was() -> None:
    cluster = Operated(3, speed=1)
    job = cluster.membership()
    await cluster.settle(job)
    cluster.join(4)
    cluster.start(4)
    await job.step()
    await job.step()
    before = job.moves()
    assert before

    async def unseen(group: GroupId) -> None:
        raise Unavailable("no answer")

    cluster.view = unseen  # pyright: ignore[reportAttributeAccessIssue]
    await job.step()
    assert job.moves() == before
