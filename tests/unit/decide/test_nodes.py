"""Decisions on nodes and on the voters that groups are meant to have."""

from __future__ import annotations

import pytest

from kalamdb.cluster_errors import NodeNeeded, NodeTaken, UnknownNode
from kalamdb.errors import Conflict, InvalidStatement, Unavailable
from kalamdb.model.catalog import NodeRecord, NodeState
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import (
    ActivateNode,
    DrainNode,
    PutMembers,
    PutNode,
    PutPlacement,
    PutReplication,
    RemoveNode,
)
from kalamdb.store import catalog
from tests.unit.replica.harness import World

ONE, TWO, THREE, FOUR = (NodeId(number) for number in range(1, 5))


@pytest.fixture
async def meta() -> World:
    world = World(group=0)
    world.do(PutPlacement(4, (1, 2, 3), "c"))
    for node in (ONE, TWO, THREE):
        world.do(PutNode(node, f"n{node}:1", join=True))
    return world


def node_of(meta: World, node: NodeId) -> NodeRecord:
    return meta.replica.catalog.nodes[node]


def state_of(meta: World, node: NodeId) -> NodeState:
    return node_of(meta, node).state


async def test_nodes_join_say_who_they_are_and_become_active(meta: World) -> None:
    assert state_of(meta, ONE) is NodeState.ACTIVE  # it holds groups from the beginning
    with pytest.raises(UnknownNode, match="CLUSTER JOIN"):
        meta.do(PutNode(FOUR, "n4:1", "uuid-4"))
    meta.do(PutNode(FOUR, "n4:1", join=True))
    assert state_of(meta, FOUR) is NodeState.JOINING
    with pytest.raises(Unavailable, match="who it is"):
        meta.do(ActivateNode(FOUR))
    meta.do(PutNode(FOUR, "n4:2", "uuid-4", "h4:80"))
    record = node_of(meta, FOUR)
    assert (record.rpc, record.uuid, record.http) == ("n4:2", "uuid-4", "h4:80")
    meta.clock.now_ms += 5
    meta.do(ActivateNode(FOUR))
    assert node_of(meta, FOUR).since_ms == record.since_ms + 5
    assert meta.do(ActivateNode(FOUR)).affected == 0
    # Nothing new is no change.
    assert meta.do(PutNode(FOUR, "n4:2", "uuid-4")).affected == 0
    assert node_of(meta, FOUR).http == "h4:80"


async def test_an_id_belongs_to_one_disk_until_it_was_removed(meta: World) -> None:
    meta.do(PutNode(FOUR, "n4:1", "uuid-4", join=True))
    for join in (False, True):
        with pytest.raises(NodeTaken, match="another disk"):
            meta.do(PutNode(FOUR, "n4:1", "uuid-5", join=join))
    meta.do(RemoveNode(FOUR))
    assert state_of(meta, FOUR) is NodeState.REMOVED
    with pytest.raises(UnknownNode):
        meta.do(PutNode(FOUR, "n4:1", "uuid-4"))  # it was removed, and does not know
    meta.do(PutNode(FOUR, "n4:1", "uuid-5", join=True))
    assert node_of(meta, FOUR).uuid == "uuid-5"


async def test_addresses_and_disks_are_of_one_node(meta: World) -> None:
    with pytest.raises(NodeTaken, match="address of node 1"):
        meta.do(PutNode(FOUR, "n1:1", join=True))
    meta.do(PutNode(ONE, "n1:1", "uuid-1"))
    with pytest.raises(NodeTaken, match="that of node 1"):
        meta.do(PutNode(FOUR, "n4:1", "uuid-1", join=True))
    with pytest.raises(InvalidStatement, match="address"):
        meta.do(PutNode(FOUR, "", join=True))
    with pytest.raises(InvalidStatement, match="300"):
        meta.do(PutNode(FOUR, "x" * 301, join=True))
    for number in (0, -1, 70_000):
        with pytest.raises(InvalidStatement, match="from 1 to"):
            meta.do(PutNode(NodeId(number), "n:1", join=True))


async def test_a_node_leaves_only_where_others_can_hold_its_groups(meta: World) -> None:
    with pytest.raises(NodeNeeded, match="2 nodes would be left"):
        meta.do(DrainNode(ONE))
    meta.do(PutNode(FOUR, "n4:1", "u", join=True))
    with pytest.raises(NodeNeeded):
        meta.do(DrainNode(ONE))  # it has not become active
    meta.do(ActivateNode(FOUR))
    meta.do(DrainNode(ONE))
    assert state_of(meta, ONE) is NodeState.DRAINING
    assert meta.do(DrainNode(ONE)).affected == 0
    with pytest.raises(NodeNeeded, match="members of groups 0, 1, 2, 3, 4"):
        meta.do(RemoveNode(ONE))
    with pytest.raises(NodeNeeded):
        meta.do(DrainNode(TWO))
    meta.do(PutNode(ONE, "n1:1", join=True))  # it may stay after all
    assert state_of(meta, ONE) is NodeState.ACTIVE


async def test_fewer_members_let_nodes_leave(meta: World) -> None:
    meta.do(PutReplication(1))
    meta.do(DrainNode(THREE))
    meta.do(DrainNode(TWO))
    with pytest.raises(NodeNeeded, match="no other node"):
        meta.do(DrainNode(ONE))


async def test_a_removed_node_holds_nothing(meta: World) -> None:
    meta.do(PutReplication(1))
    meta.do(DrainNode(THREE))
    meta.do(PutMembers({GroupId(group): (ONE,) for group in range(5)}))
    meta.do(RemoveNode(THREE))
    for asked in (DrainNode(THREE), RemoveNode(THREE), ActivateNode(THREE)):
        with pytest.raises(UnknownNode, match="removed"):
            meta.do(asked)
    with pytest.raises(UnknownNode):
        meta.do(PutMembers({GroupId(1): (THREE,)}))


async def test_a_dead_node_may_be_given_up_and_begins_anew(meta: World) -> None:
    meta.do(RemoveNode(THREE, dead=True))
    assert state_of(meta, THREE) is NodeState.REMOVED
    placement = meta.replica.catalog.placement
    assert placement is not None
    assert THREE in placement.voters_of(GroupId(1))  # until another takes its place
    meta.do(PutMembers({GroupId(1): (TWO, ONE, THREE)}))
    meta.do(PutNode(THREE, "n3:1", join=True))
    assert state_of(meta, THREE) is NodeState.JOINING
    meta.do(PutNode(THREE, "n3:1", "another-disk"))
    assert meta.replica.catalog.nodes[THREE].uuid == "another-disk"


async def test_members(meta: World) -> None:
    placement = meta.replica.catalog.placement
    assert placement is not None
    assert placement.voters_of(GroupId(2)) == (1, 2, 3)
    meta.do(PutMembers({GroupId(2): (THREE, ONE, TWO), META_GROUP: (TWO,)}))
    placement = meta.replica.catalog.placement
    assert placement is not None
    assert placement.voters_of(GroupId(2)) == (3, 1, 2)
    assert placement.voters_of(META_GROUP) == (2,)
    assert placement.voters_of(GroupId(1)) == (1, 2, 3)
    assert placement.held_by(ONE) == (1, 2, 3, 4)
    version = meta.replica.catalog.version
    assert meta.do(PutMembers({META_GROUP: (TWO,)})).affected == 0
    assert meta.replica.catalog.version == version
    for group, voters in (
        (9, (ONE,)),
        (-1, (ONE,)),
        (1, ()),
        (1, (ONE, TWO)),
        (1, (ONE, ONE, TWO)),
        (1, (ONE, TWO, THREE, FOUR)),
    ):
        with pytest.raises(InvalidStatement):
            meta.do(PutMembers({GroupId(group): voters}))
    with pytest.raises(UnknownNode):
        meta.do(PutMembers({GroupId(1): (FOUR,)}))
    meta.do(PutNode(FOUR, "n4:1", join=True))
    with pytest.raises(Conflict, match="joining"):
        meta.do(PutMembers({GroupId(1): (FOUR,)}))


async def test_one_refused_group_refuses_all(meta: World) -> None:
    with pytest.raises(InvalidStatement):
        meta.do(PutMembers({GroupId(1): (ONE,), GroupId(9): (ONE,)}))
    placement = meta.replica.catalog.placement
    assert placement is not None
    assert not placement.members


async def test_replication(meta: World) -> None:
    for voters in (0, 2, 4, 6, 7, -1):
        with pytest.raises(InvalidStatement):
            meta.do(PutReplication(voters))
    assert meta.do(PutReplication(3)).affected == 0
    assert meta.do(PutReplication(5)).affected == 1


async def test_the_catalog_of_effects_is_that_of_the_store(meta: World) -> None:
    meta.do(PutMembers({GroupId(2): (THREE, ONE, TWO)}))
    meta.do(PutReplication(5))
    meta.do(PutNode(FOUR, "n4:1", "u", "h:1", join=True))
    assert meta.replica.catalog == catalog.load(meta.store)
    placement = meta.replica.catalog.placement
    assert placement is not None
    assert placement.replication == 5
    assert len(meta.replica.catalog.nodes) == 4


async def test_nothing_is_placed_before_the_cluster_is() -> None:
    world = World(group=0)
    with pytest.raises(Unavailable):
        world.do(PutNode(ONE, "n1:1", join=True))
    with pytest.raises(Unavailable):
        world.do(PutReplication(1))
