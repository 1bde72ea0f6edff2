"""Members and facts over links between nodes."""

from __future__ import annotations

import pytest

from cluster.cluster_tables import link_rows, move_rows
from cluster.facts import ClusterFacts, NodeFacts, decode_facts, encode_facts, serve_facts
from cluster.member_groups import LedHere, MemberGroupsByRpc, serve_members
from cluster.membership import MoveProgress
from cluster.raft.members import AddLearner, Demote, MemberChange, MemberProgress, Members, Promote
from cluster.rpc.peers import LinkFacts
from kalamdb.errors import Conflict, KalamError, NotLeader, PermissionDenied, Unavailable
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, NodeId
from kalamdb.model.work import Work
from kalamdb.ports import LogStatus
from tests.loopback import Loopback

GROUP = GroupId(3)


class Member:
    """A group as the node `node` knows it."""

    def __init__(self, node: int, leader: int) -> None:
        self.node = node
        self.leader = leader
        self.asked: list[object] = []
        self.refusal: KalamError | None = None

    def status(self) -> LogStatus:
        role = "leader" if self.leader == self.node else "follower"
        return LogStatus(GROUP, self.node, role, 4, self.leader, 9, 9, 1, 10, (1, 2), (3,))

    def members(self) -> Members:
        return Members((1, 2), (3,), 5, True)

    def progress(self) -> tuple[MemberProgress, ...]:
        return (MemberProgress(3, False, False, 7, 3, "replicate", 0.1, True),)

    async def propose_members(self, change: MemberChange) -> Members:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(change)
        return self.members()

    async def hand_over(self, peer: int) -> None:
        self.asked.append(peer)


class Leaders:
    """What a node believes."""

    def __init__(self, leader: int | None) -> None:
        self.leader = leader

    def of(self, group: GroupId) -> int | None:
        return self.leader

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        self.leader = error.leader if isinstance(error, NotLeader) else None


async def no_meta(work: Work) -> Outcome:
    raise Unavailable("no meta here")


async def index(group: GroupId) -> int:
    return 40 + group


def led(node: int, member: Member) -> LedHere:
    return LedHere(node, {GROUP: member}, index)


async def test_asked_here_and_there() -> None:
    async with Loopback(1, 2, -1) as net:
        one, two = Member(1, 2), Member(2, 2)
        serve_members(net[1], led(1, one))
        serve_members(net[2], led(2, two))
        leaders = Leaders(1)  # it was, once
        groups = MemberGroupsByRpc(led(1, one), no_meta, net[1], leaders)
        view = await groups.view(GROUP)
        assert (view.leader, view.members, view.last_index) == (2, two.members(), 10)
        assert view.progress == two.progress()
        assert leaders.leader == 2
        await groups.propose_members(GROUP, AddLearner(4))
        await groups.propose_members(GROUP, Promote(3))
        await groups.propose_members(GROUP, Demote(1))
        await groups.hand_over(GROUP, NodeId(1))
        assert two.asked == [AddLearner(4), Promote(3), Demote(1), 1]
        assert await groups.snapshot(GROUP) == 43
        two.refusal = Conflict("another change is under way")
        with pytest.raises(Conflict, match="another change"):
            await groups.propose_members(GROUP, Promote(3))
        assert groups.connected(NodeId(2))
        assert groups.connected(NodeId(1))
        net.cut(1, 2)
        assert not groups.connected(NodeId(2))
        with pytest.raises(Unavailable):
            await groups.view(GROUP)
        leaders.leader = None
        with pytest.raises(Unavailable, match="no leader"):
            await groups.view(GROUP)
        with pytest.raises(PermissionDenied):
            await net[-1].call(2, "members", b"", 1.0)


async def test_a_single_node_asks_itself() -> None:
    member = Member(1, 1)
    groups = MemberGroupsByRpc(led(1, member), no_meta)
    view = await groups.view(GROUP)
    state = view.state()
    assert state.leader == 1
    assert state.current == {1, 3}
    assert not groups.connected(NodeId(2))
    with pytest.raises(Unavailable, match="no leader"):
        await groups.view(GroupId(8))


LINK = LinkFacts(2, "node 2", "10.0.0.2:9189", True, False, 5, 0.25, 10, 20, 0, 1, 2)
MOVE = MoveProgress("member", GROUP, 1, 4, "image", None, 50, 100, 0, 0, 1_000, 3_000)


def facts(node: int) -> NodeFacts:
    member = Member(node, 2)
    logs, moves = (member.status(),), (MOVE,) if node == 2 else ()
    return NodeFacts(node, "h", "1", "linux", "x", 30, 7, logs, (LINK,), moves, {1: 5})


async def test_facts_of_all_that_answer() -> None:
    async with Loopback(1, 2, 3, -1) as net:
        for node in (1, 2, 3):
            serve_facts(net[node], lambda node=node: facts(node))
        here = ClusterFacts(lambda: facts(1), net[1], lambda: [1, 2, 3, 4])
        assert await here.all() == [facts(1), facts(2), facts(3)]
        router = ClusterFacts(None, net[-1], lambda: [1, 2, 3])
        assert [told.node for told in await router.all()] == [1, 2, 3]
        assert router.own_node is None
        net.cut(1, 3)
        assert [told.node for told in await here.all()] == [1, 2]
    alone = ClusterFacts(lambda: facts(1), None, list)
    assert await alone.all() == [facts(1)]


def test_bytes_of_facts() -> None:
    assert decode_facts(encode_facts(facts(2))) == facts(2)
    with pytest.raises(Unavailable):
        decode_facts(b"\x93nonsense")


def test_rows_of_moves_and_links() -> None:
    older = MoveProgress("member", GROUP, 1, 4, "waiting", started_ms=1_000, updated_ms=2_000)
    told = [facts(2), NodeFacts(3, "h", "1", "l", "x", 1, 1, moves=(older,))]
    ((kind, group, slot, source, target, state, *numbers),) = move_rows(told)
    assert (kind, group, slot, source, target, state) == ("member", 3, None, 1, 4, "image")
    assert numbers == [50, 100, 0, 0, 1_000_000, 3_000_000, 2.0]
    (row,) = link_rows([facts(2)])
    assert row[:5] == (2, 2, "node 2", "10.0.0.2:9189", True)
