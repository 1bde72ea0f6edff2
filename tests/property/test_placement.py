"""Placement against a model cluster: plans come to an end, and no step on the way is a bad one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import placement as p
from cluster.raft.members import AddLearner, Demote, Promote, Remove
from kalamdb.model.ids import META_GROUP, SLOTS, GroupId, NodeId, Slot

STEPS_MAX = 2_000


class ModelCluster:
    """Groups that do as they are told, as `cluster/raft` does: one node moves at a time."""

    def __init__(self, wish: p.Wish, nodes: p.Nodes) -> None:
        self.nodes = nodes
        self.voters = {group: set(members) for group, members in wish.items()}
        self.learners: dict[GroupId, set[NodeId]] = {group: set() for group in wish}
        self.leads = {group: members[0] for group, members in wish.items()}
        self.steps = 0
        self.transfers = 0

    def states(self) -> list[p.GroupState]:
        return [self.state(group) for group in sorted(self.voters)]

    def state(self, group: GroupId) -> p.GroupState:
        members = self.voters[group] | self.learners[group]
        alive = frozenset(members & self.nodes.connected)
        leads = self.leads[group]
        if leads not in alive:
            heirs = sorted(self.voters[group] & alive)
            enough = len(heirs) * 2 > len(self.voters[group])
            leader = heirs[0] if enough else None
            if leader is not None:
                self.leads[group] = leader
        else:
            leader = leads
        return p.GroupState(
            group,
            leader,
            frozenset(self.voters[group]),
            frozenset(self.learners[group]),
            alive,
            alive,
        )

    def carry_out(self, step: p.Step) -> None:
        self.steps += 1
        voters, learners = self.voters[step.group], self.learners[step.group]
        match step:
            case p.HandOver(group, node):
                assert node in voters & self.nodes.connected
                self.leads[group] = node
                self.transfers += 1
                return
            case p.ChangeMembers(group, AddLearner(node)):
                assert node not in voters | learners
                learners.add(NodeId(node))
            case p.ChangeMembers(group, Promote(node)):
                assert node in learners
                learners.remove(NodeId(node))
                voters.add(NodeId(node))
            case p.ChangeMembers(group, Demote(node)):
                assert node in voters
                assert node != self.leads[group]
                voters.remove(NodeId(node))
                learners.add(NodeId(node))
            case p.ChangeMembers(group, Remove(node)):
                assert node in learners
                learners.remove(NodeId(node))
        assert len(voters & self.nodes.connected) * 2 > len(voters), "no majority is left"

    def settle(self, wish: p.Wish) -> None:
        """Rounds of a plan, until it is empty."""
        limit = self.steps + STEPS_MAX
        while steps := p.plan(self.states(), wish, self.nodes):
            groups = [step.group for step in steps]
            assert len(set(groups)) == len(groups), "two steps of a group at once"
            for step in steps:
                self.carry_out(step)
            assert self.steps < limit, "the plan has no end"


def ids(*numbers: int) -> frozenset[NodeId]:
    return frozenset(map(NodeId, numbers))


def all_connected(nodes: frozenset[NodeId]) -> p.Nodes:
    return p.Nodes(nodes, connected=nodes)


def loads(wish: p.Wish, nodes: frozenset[NodeId]) -> dict[NodeId, int]:
    return {node: sum(node in members for members in wish.values()) for node in nodes}


def lead_loads(wish: p.Wish, nodes: frozenset[NodeId]) -> dict[NodeId, int]:
    return {node: sum(members[0] == node for members in wish.values()) for node in nodes}


def spans(load: dict[NodeId, int]) -> int:
    return max(load.values()) - min(load.values())


def moved(before: p.Wish, after: p.Wish) -> int:
    return sum(len(set(after[group]) - set(before[group])) for group in before)


NODES = st.sets(st.integers(1, 12).map(NodeId), min_size=1, max_size=9).map(frozenset)
GROUPS = st.integers(1, 24)
FACTORS = st.sampled_from((1, 3, 5))


@given(NODES, GROUPS, FACTORS)
def test_a_new_cluster_is_even(nodes: frozenset[NodeId], groups: int, replication: int) -> None:
    wish = p.initial(nodes, groups, replication)
    size = p.factor(replication, len(nodes))
    assert size % 2 == 1
    assert all(len(set(members)) == len(members) == size for members in wish.values())
    assert spans(loads(wish, nodes)) <= 1
    assert len(wish) == groups + 1


@given(NODES, GROUPS, FACTORS, st.data())
@settings(max_examples=100)
def test_a_spread_is_even_and_moves_no_more_than_it_must(
    nodes: frozenset[NodeId], groups: int, replication: int, data: st.DataObject
) -> None:
    before = p.initial(nodes, groups, replication)
    joins = data.draw(st.sets(st.integers(20, 23).map(NodeId), max_size=3), label="joins")
    leaves = data.draw(st.sets(st.sampled_from(sorted(nodes)), max_size=2), label="leaves")
    after_nodes = (nodes | joins) - leaves
    size = p.factor(replication, len(nodes))
    if len(after_nodes) < size:
        assert p.spread(after_nodes, size, before) == before
        return
    after = p.spread(after_nodes, size, before)
    assert all(len(set(members)) == len(members) == size for members in after.values())
    assert all(set(members) <= after_nodes for members in after.values())
    assert spans(loads(after, after_nodes)) <= 1
    # What left has to move; then each node beyond its share gives, or gets, one member a move.
    gone = sum(node in leaves for members in before.values() for node in members)
    share = len(before) * size // len(after_nodes)
    missing = sum(max(0, share - load) for load in loads(before, after_nodes).values())
    assert moved(before, after) <= max(gone, missing) + len(after_nodes)
    if not leaves:
        excess = sum(max(0, load - share - 1) for load in loads(before, nodes).values())
        assert moved(before, after) == max(missing, excess)
    assert p.spread(after_nodes, size, after) == after


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_no_other_choice_of_leaders_is_more_even(
    nodes: int, groups: int, data: st.DataObject
) -> None:
    members = st.lists(st.integers(1, nodes).map(NodeId), min_size=1, unique=True).map(tuple)
    wish = {GroupId(g): data.draw(members) for g in range(groups)}
    found = p.even_leaders(wish)
    assert {g: set(m) for g, m in found.items()} == {g: set(m) for g, m in wish.items()}

    def unevenness(leaders: tuple[NodeId, ...]) -> int:
        return sum(leaders.count(node) ** 2 for node in set(leaders))

    best = min(map(unevenness, product(*wish.values())))
    assert unevenness(tuple(m[0] for m in found.values())) == best
    assert p.even_leaders(found) == found


@given(NODES, GROUPS, FACTORS, st.data())
@settings(max_examples=60)
def test_plans_converge_and_never_lose_a_quorum(
    nodes: frozenset[NodeId], groups: int, replication: int, data: st.DataObject
) -> None:
    cluster = ModelCluster(p.initial(nodes, groups, replication), all_connected(nodes))
    wish: p.Wish = {group: tuple(sorted(members)) for group, members in cluster.voters.items()}
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        joins = data.draw(st.sets(st.integers(20, 26).map(NodeId), max_size=3), label="joins")
        present = nodes | joins
        drains = data.draw(st.sets(st.sampled_from(sorted(nodes)), max_size=2), label="drains")
        size = p.factor(data.draw(FACTORS, label="factor"), len(present - drains))
        dead = data.draw(st.sets(st.sampled_from(sorted(present)), max_size=1), label="dead")
        quorate = all(len(voters - dead) * 2 > len(voters) for voters in cluster.voters.values())
        alive = present - dead if quorate else present
        cluster.nodes = p.Nodes(
            active=present - drains, draining=frozenset(drains), connected=alive
        )
        wish = p.even_leaders(p.spread(present - drains, size, wish))
        cluster.settle(wish)
        nodes = present
        check_settled(cluster, wish)
        cluster.nodes = replace(cluster.nodes, connected=present)
        cluster.settle(wish)
        check_settled(cluster, wish)


def check_settled(cluster: ModelCluster, wish: p.Wish) -> None:
    connected = cluster.nodes.connected
    for group, members in wish.items():
        if not set(members) <= connected:
            continue
        assert cluster.voters[group] == set(members)
        assert cluster.leads[group] == members[0]
        copies = cluster.nodes.all & connected if group == META_GROUP else frozenset[NodeId]()
        assert cluster.learners[group] >= copies - set(members)
        assert cluster.learners[group] <= cluster.nodes.all - set(members)
        if group != META_GROUP:
            assert not cluster.learners[group]


# ---- stories ------------------------------------------------------------------------------------


def test_one_node_grows_to_three() -> None:
    one, three = ids(1), ids(1, 2, 3)
    cluster = ModelCluster(p.initial(one, 8, 3), all_connected(one))
    cluster.nodes = p.Nodes(one, joining=ids(2, 3), connected=three)
    wish = p.initial(one, 8, 3)
    cluster.settle(wish)
    assert cluster.learners[META_GROUP] == ids(2, 3)
    assert not any(learners for group, learners in cluster.learners.items() if group)
    cluster.nodes = all_connected(three)
    wish = p.even_leaders(p.spread(three, p.factor(3, 3), wish))
    cluster.settle(wish)
    assert all(voters == three for voters in cluster.voters.values())
    assert set(lead_loads(wish, three).values()) == {3}


def test_growing_waits_until_two_more_can_vote() -> None:
    """Two voters would be worse than one: both would have to live."""
    state = p.GroupState(GroupId(1), NodeId(1), ids(1), ids(2, 3), ids(1, 2, 3), ids(1, 2))
    wish = {GroupId(1): (NodeId(1), NodeId(2), NodeId(3))}
    nodes = all_connected(ids(1, 2, 3))
    assert p.next_step(state, wish, nodes) is None
    ready = replace(state, current=ids(1, 2, 3))
    assert p.next_step(ready, wish, nodes) == p.ChangeMembers(GroupId(1), Promote(NodeId(2)))


def test_a_dead_node_is_replaced_with_the_majority_there_is() -> None:
    nodes = p.Nodes(ids(1, 2, 4), draining=ids(3), connected=ids(1, 2, 4))
    cluster = ModelCluster(p.initial(ids(1, 2, 3), 2, 3), nodes)
    wish = p.even_leaders(p.spread(nodes.active, 3, p.initial(ids(1, 2, 3), 2, 3)))
    cluster.settle(wish)
    assert all(voters == ids(1, 2, 4) for voters in cluster.voters.values())


def test_a_draining_node_loses_its_leaders_first() -> None:
    wish = p.initial(ids(1, 2, 3, 4), 8, 3)
    cluster = ModelCluster(wish, all_connected(ids(1, 2, 3, 4)))
    cluster.nodes = p.Nodes(ids(2, 3, 4), draining=ids(1), connected=ids(1, 2, 3, 4))
    wish = p.even_leaders(p.spread(ids(2, 3, 4), 3, wish))
    led = [group for group, node in cluster.leads.items() if node == 1]
    first = p.plan(cluster.states(), wish, cluster.nodes)[: len(led)]
    assert [(step.group, type(step)) for step in first] == [(group, p.HandOver) for group in led]
    cluster.settle(wish)
    assert not any(1 in voters for voters in cluster.voters.values())


def test_nothing_is_done_while_a_change_is_under_way_or_nobody_leads() -> None:
    state = p.GroupState(GroupId(1), NodeId(1), ids(1, 2, 3), ids(4), ids(1, 2, 3), ids(1, 2, 3))
    wish = {GroupId(1): (NodeId(2), NodeId(1), NodeId(3))}
    nodes = all_connected(ids(1, 2, 3))
    assert p.next_step(state, wish, nodes) == p.ChangeMembers(GroupId(1), Remove(NodeId(4)))
    assert p.next_step(replace(state, changing=True), wish, nodes) is None
    assert p.next_step(replace(state, leader=None), wish, nodes) is None


def test_a_leader_that_lags_is_not_preferred() -> None:
    state = p.GroupState(
        GroupId(1), NodeId(1), ids(1, 2, 3), reachable=ids(1, 2, 3), current=ids(1, 3)
    )
    wish = {GroupId(1): (NodeId(2), NodeId(1), NodeId(3))}
    nodes = all_connected(ids(1, 2, 3))
    assert p.next_step(state, wish, nodes) is None
    found = p.next_step(replace(state, current=ids(1, 2, 3)), wish, nodes)
    assert found == p.HandOver(GroupId(1), NodeId(2), urgent=False)


@given(GROUPS, st.dictionaries(st.integers(0, SLOTS - 1), st.integers(1, 24), max_size=300))
@settings(max_examples=30)
def test_slots_are_evened_with_few_moves(groups: int, strays: dict[int, int]) -> None:
    owners = {Slot(n): GroupId(n * groups // SLOTS + 1) for n in range(SLOTS)}
    for slot, group in strays.items():
        owners[Slot(slot)] = GroupId(group % groups + 1)
    moves = p.even_slots(owners, groups)
    for move in moves:
        assert owners[move.slot] == move.source != move.target
        owners[move.slot] = move.target
    counts = [sum(owner == g for owner in owners.values()) for g in range(1, groups + 1)]
    assert max(counts) - min(counts) <= 1
    assert len(moves) <= len(strays)
    assert not p.even_slots(owners, groups)


def test_nobody_loses_a_vote_before_there_is_another() -> None:
    state = p.GroupState(GroupId(1), NodeId(1), ids(1, 2, 3), ids(4), ids(1, 2, 3, 4), ids(1, 2, 3))
    wish = {GroupId(1): (NodeId(1), NodeId(2), NodeId(4))}
    nodes = all_connected(ids(1, 2, 3, 4))
    assert p.next_step(state, wish, nodes) is None
    ready = replace(state, current=ids(1, 2, 3, 4))
    assert p.next_step(ready, wish, nodes) == p.ChangeMembers(GroupId(1), Promote(NodeId(4)))
    four = replace(ready, voters=ids(1, 2, 3, 4), learners=ids())
    assert p.next_step(four, wish, nodes) == p.ChangeMembers(GroupId(1), Demote(NodeId(3)))
    # Of two that are surplus, the one that cannot be reached helps no majority.
    five = replace(four, voters=ids(1, 2, 3, 4, 5), reachable=ids(1, 2, 3, 4))
    assert p.next_step(five, wish, nodes) == p.ChangeMembers(GroupId(1), Demote(NodeId(5)))


def test_a_voter_of_a_node_that_was_given_up_is_taken_out() -> None:
    """Although groups are meant to have it: another disk may come under its id."""
    wish = {GroupId(1): (NodeId(1), NodeId(2), NodeId(3))}
    two = all_connected(ids(1, 2))
    state = p.GroupState(
        GroupId(1), NodeId(1), ids(1, 2, 3), reachable=ids(1, 2), current=ids(1, 2)
    )
    assert p.next_step(state, wish, two) == p.ChangeMembers(GroupId(1), Demote(NodeId(3)))
    alone = replace(state, reachable=ids(1), current=ids(1))
    assert p.next_step(alone, wish, two) is None  # the other one is missed already
    out = replace(state, voters=ids(1, 2), learners=ids(3))
    assert p.next_step(out, wish, two) == p.ChangeMembers(GroupId(1), Remove(NodeId(3)))
    gone = replace(out, learners=ids())
    assert p.next_step(gone, wish, two) is None
    back = p.Nodes(ids(1, 2), joining=ids(3), connected=ids(1, 2, 3))
    assert p.next_step(gone, wish, back) == p.ChangeMembers(GroupId(1), AddLearner(NodeId(3)))
    copied = replace(out, reachable=ids(1, 2, 3), current=ids(1, 2, 3))
    assert p.next_step(copied, wish, back) == p.ChangeMembers(GroupId(1), Promote(NodeId(3)))


def test_a_voter_that_lost_its_disk_begins_anew() -> None:
    wish = {GroupId(1): (NodeId(1), NodeId(2), NodeId(3))}
    nodes = all_connected(ids(1, 2, 3))
    state = p.GroupState(
        GroupId(1),
        NodeId(1),
        ids(1, 2, 3),
        reachable=ids(1, 2),
        current=ids(1, 2),
        lost=ids(3),
    )
    assert p.next_step(state, wish, nodes) == p.ChangeMembers(GroupId(1), Demote(NodeId(3)))
