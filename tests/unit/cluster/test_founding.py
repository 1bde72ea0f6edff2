"""A new cluster gets its nodes one by one, and a crash may come between any two of them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest

from cluster.membership import enrol
from cluster.placement import initial
from cluster.rpc.addresses import AddressBook
from cluster.welcome import may_join
from kalamdb.cluster_errors import UnknownNode
from kalamdb.model.catalog import CatalogView, NodeState
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import PutMembers, PutNode, PutPlacement, Work
from tests.unit.replica.harness import World

GROUPS = 4
PEERS = {node: f"n{node}:1" for node in range(1, 6)}


class Crash(Exception):
    pass


class Meta:
    """The meta group of a cluster that begins with `PEERS`; dies after `lives` more writes."""

    def __init__(self) -> None:
        self.world = World(group=0)
        self.lives = 1000
        wished = initial(map(NodeId, PEERS), GROUPS, 3)
        self.world.do(PutPlacement(GROUPS, wished[META_GROUP], "c"))
        self.world.do(PutMembers(wished))

    @property
    def catalog(self) -> CatalogView:
        return self.world.replica.catalog

    async def write(self, work: Work) -> None:
        if self.lives == 0:
            raise Crash
        self.lives -= 1
        self.world.do(work)


class Links:
    def __init__(self) -> None:
        self.addresses: Mapping[int, str] = PEERS

    def set_addresses(self, addresses: Mapping[int, str]) -> None:
        self.addresses = addresses

    def connected(self, node: int) -> bool:
        return node in self.addresses


@pytest.mark.parametrize("written", range(len(PEERS)))
async def test_until_all_are_named_nobody_is_turned_away(written: int) -> None:
    meta, links = Meta(), Links()
    book = AddressBook(links, PEERS)
    meta.lives = written
    with pytest.raises(Crash):
        await enrol(meta.write, meta.catalog, PEERS)
    book.follow(meta.catalog)
    assert links.addresses == PEERS
    if not meta.catalog.enrolled:
        assert [may_join(meta.catalog, node, UUID(int=node)) for node in PEERS] == [None] * 5
    meta.lives = 1000
    await enrol(meta.write, meta.catalog, PEERS)
    assert meta.catalog.enrolled
    assert {int(node) for node in meta.catalog.nodes} == set(PEERS)
    assert {node.state for node in meta.catalog.nodes.values()} == {NodeState.ACTIVE}
    book.follow(meta.catalog)
    assert links.addresses == PEERS
    assert may_join(meta.catalog, 6, UUID(int=6)) is not None


async def test_members_come_before_nodes_only_at_the_beginning() -> None:
    meta = Meta()
    await enrol(meta.write, meta.catalog, PEERS)
    with pytest.raises(UnknownNode):
        meta.world.do(PutMembers({GroupId(1): (NodeId(1), NodeId(2), NodeId(6))}))
    meta.world.do(PutNode(NodeId(6), "n6:1", join=True))
    assert meta.catalog.nodes[NodeId(6)].state is NodeState.JOINING
