"""Which nodes a group is meant to live on, and the next step towards it: pure functions over data.

1. `factor`: how many voters a group can have: 1, 3 or 5, never 2.
2. `spread`: the voters wished for each group, as few as possible moved; the first of them is the
   preferred leader (`even_leaders`).
3. `plan`: for each group the one next step from the members it has to the members wished for.
4. `even_slots`: the fewest moves of slots after which every group owns its share.

Keeps: `plan` gives a group at most one step, and none while a change of it is under way; no step
leaves a group whose voters that can be reached are no majority; a node gets its leaders taken
before its members; whoever joins is a learner until it has caught up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.raft.members import AddLearner, Demote, MemberChange, Promote, Remove
from kalamdb.model.catalog import MEMBERS_ALLOWED
from kalamdb.model.ids import META_GROUP, SLOTS, GroupId, NodeId, Slot

Wish = Mapping[GroupId, tuple[NodeId, ...]]
"""Voters by group, the preferred leader first."""


@dataclass(frozen=True, slots=True)
class ChangeMembers:
    """One change of one group."""

    group: GroupId
    change: MemberChange


@dataclass(frozen=True, slots=True)
class HandOver:
    """`node` is to lead `group`. Not `urgent`: it leads better there, and that has time."""

    group: GroupId
    node: NodeId
    urgent: bool


Step = ChangeMembers | HandOver


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group as its leader knows it. `reachable` are members it hears of, itself too, and
    `current` those of them whose log is as good as its own; `lost` are voters that came back with
    nothing of what they had; `changing`: a change of members is not committed yet.
    """

    group: GroupId
    leader: NodeId | None
    voters: frozenset[NodeId]
    learners: frozenset[NodeId] = frozenset()
    reachable: frozenset[NodeId] = frozenset()
    current: frozenset[NodeId] = frozenset()
    lost: frozenset[NodeId] = frozenset()
    changing: bool = False


@dataclass(frozen=True, slots=True)
class Nodes:
    """The cluster's nodes: `active` may hold members, `draining` are to lose theirs, `joining` are
    to get the catalog only. `connected`: those one can talk to now.
    """

    active: frozenset[NodeId]
    draining: frozenset[NodeId] = frozenset()
    joining: frozenset[NodeId] = frozenset()
    connected: frozenset[NodeId] = frozenset()

    @property
    def all(self) -> frozenset[NodeId]:
        return self.active | self.draining | self.joining


# ---- what is wished -----------------------------------------------------------------------------


def factor(replication: int, nodes: int) -> int:
    """Voters of a group: the most of 1, 3, 5 that neither `replication` nor the nodes exceed."""
    return max((n for n in MEMBERS_ALLOWED if n <= min(replication, nodes)), default=1)


def group_ids(groups: int) -> tuple[GroupId, ...]:
    """Meta and the data groups."""
    return tuple(map(GroupId, range(groups + 1)))


def initial(nodes: Iterable[NodeId], groups: int, replication: int) -> Wish:
    """The members of a new cluster: the same for everybody who asks with the same arguments."""
    active = frozenset(nodes)
    nobody: Wish = dict.fromkeys(group_ids(groups), ())
    return even_leaders(spread(active, factor(replication, len(active)), nobody))


def spread(active: frozenset[NodeId], voters: int, current: Wish) -> Wish:
    """`voters` members on `active` nodes for each group of `current`, as few as possible moved.

    Every node holds as many members as every other, or one more. Without active nodes nothing is
    changed.
    """
    assert voters in MEMBERS_ALLOWED
    if len(active) < voters:
        return current
    held: dict[GroupId, list[NodeId]] = {
        group: [node for node in members if node in active] for group, members in current.items()
    }
    load = dict.fromkeys(sorted(active), 0)
    for members in held.values():
        for node in members:
            load[node] += 1
    for group in sorted(held):
        members = held[group]
        while len(members) > voters:  # the preferred leader stays
            least = max(members[1:], key=lambda node: (load[node], node))
            members.remove(least)
            load[least] -= 1
    for group in sorted(held):
        members = held[group]
        while len(members) < voters:
            node = min((n for n in load if n not in members), key=lambda n: (load[n], n))
            members.append(node)
            load[node] += 1
    _even(held, load)
    return {group: tuple(members) for group, members in held.items()}


def _even(held: Mapping[GroupId, list[NodeId]], load: dict[NodeId, int]) -> None:
    """Move members from the fullest to the emptiest node until they differ by one at most. Each
    move is needed: it takes from who has too many, or gives to who has too few.
    """
    while True:
        most = max(load, key=lambda node: (load[node], node))
        least = min(load, key=lambda node: (load[node], node))
        if load[most] - load[least] <= 1:
            return
        movable = [g for g in sorted(held) if most in held[g] and least not in held[g]]
        # Last where it is the preferred leader: a group keeps its leader if it can.
        group = min(movable, key=lambda g: (held[g][0] == most, -g))
        held[group][held[group].index(most)] = least
        load[most] -= 1
        load[least] += 1


def even_leaders(wish: Wish) -> Wish:
    """The same members with preferred leaders spread as evenly as the members allow, changing as
    few of them as possible.

    A preferred leader is passed on along a chain of groups from a node with many to one with at
    least two fewer, until there is no such chain: then no spread is more even.
    """
    leads = {group: members[0] for group, members in wish.items() if members}
    while (chain := _shift(wish, leads)) is not None:
        for group, node in chain:
            leads[group] = node
    return {
        group: (leads[group], *(node for node in members if node != leads[group]))
        if group in leads
        else members
        for group, members in wish.items()
    }


def _shift(wish: Wish, leads: Mapping[GroupId, NodeId]) -> Sequence[tuple[GroupId, NodeId]] | None:
    """Groups and their new leaders; None: the spread is as even as can be."""
    load = dict.fromkeys(sorted({node for members in wish.values() for node in members}), 0)
    for node in leads.values():
        load[node] += 1
    for start in sorted(load, key=lambda node: (-load[node], node)):
        came: dict[NodeId, tuple[GroupId, NodeId]] = {}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            for group in sorted(group for group, node in leads.items() if node == here):
                for there in wish[group]:
                    if there == start or there in came:
                        continue
                    came[there] = (group, here)
                    if load[there] <= load[start] - 2:
                        return _way(came, there, start)
                    queue.append(there)
    return None


def _way(
    came: Mapping[NodeId, tuple[GroupId, NodeId]], end: NodeId, start: NodeId
) -> Sequence[tuple[GroupId, NodeId]]:
    found: list[tuple[GroupId, NodeId]] = []
    while end != start:
        group, before = came[end]
        found.append((group, end))
        end = before
    return found


# ---- the next steps -----------------------------------------------------------------------------


def plan(groups: Iterable[GroupState], wish: Wish, nodes: Nodes) -> list[Step]:
    """The next step of each group that has one, in the order of groups; urgent ones first."""
    steps = [step for state in groups if (step := next_step(state, wish, nodes)) is not None]
    return sorted(steps, key=lambda step: not (isinstance(step, HandOver) and step.urgent))


def next_step(state: GroupState, wish: Wish, nodes: Nodes) -> Step | None:
    """What brings this group nearer to `wish`; None: nothing, or nothing that can be done now."""
    wished = wish.get(state.group, ())
    if state.changing or state.leader is None or not wished:
        return None
    if state.leader in nodes.draining and (flight := _new_leader(state, wished, nodes)):
        return HandOver(state.group, flight, urgent=True)
    change = _member_change(state, wished, nodes)
    if isinstance(change, HandOver):
        return change
    if change is not None:
        return ChangeMembers(state.group, change)
    preferred = wished[0]
    if state.leader != preferred and preferred in state.voters & state.current:
        return HandOver(state.group, preferred, urgent=False)
    return None


def _member_change(
    state: GroupState, wished: tuple[NodeId, ...], nodes: Nodes
) -> MemberChange | HandOver | None:
    members = state.voters | state.learners
    for node in wished:
        if node not in members and node in nodes.connected:
            return AddLearner(node)
    # Who will never answer as the voter it was helps no majority, and stands in the way of one.
    for node in sorted((state.voters - nodes.all) | (state.voters & state.lost)):
        if node != state.leader and is_majority(state, state.voters - {node}):
            return Demote(node)
    if (ready := _promoted(state, wished)) is not None:
        return Promote(ready)
    surplus = sorted(state.voters - set(wished))
    if surplus and len(state.voters) > len(wished):
        # One that cannot be reached first: it helps no majority.
        for node in sorted(surplus, key=lambda n: (n in state.reachable, n == state.leader, n)):
            if not is_majority(state, state.voters - {node}):
                continue
            if node != state.leader:
                return Demote(node)
            if (heir := _new_leader(state, wished, nodes)) is not None:
                return HandOver(state.group, heir, urgent=True)
    copies = nodes.all if state.group == META_GROUP else frozenset[NodeId]()
    for node in sorted(state.learners - (set(wished) & nodes.all) - copies):
        return Remove(node)
    for node in sorted((copies & nodes.connected) - members):
        return AddLearner(node)
    return None


def _promoted(state: GroupState, wished: tuple[NodeId, ...]) -> NodeId | None:
    """The learner that may vote now."""
    ready = [node for node in wished if node in state.learners & state.current]
    if not ready or len(state.voters) > len(wished):
        return None
    # Of an even number of voters none more may fail than of one fewer: growing waits for two.
    if len(state.voters) < len(wished) and len(state.voters) % 2 and len(ready) < 2:
        return None
    return ready[0] if is_majority(state, state.voters | {ready[0]}) else None


def is_majority(state: GroupState, voters: frozenset[NodeId]) -> bool:
    """Would those of `voters` that can be reached be more than half of them?"""
    return len(voters & state.reachable) * 2 > len(voters)


def _new_leader(state: GroupState, wished: tuple[NodeId, ...], nodes: Nodes) -> NodeId | None:
    """Who takes over from a leader that goes: wished voters first, in their order."""
    able = (state.voters & state.current) - {state.leader} - nodes.draining
    return next((node for node in (*wished, *sorted(state.voters)) if node in able), None)


# ---- slots --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotMove:
    slot: Slot
    source: GroupId
    target: GroupId


@dataclass(slots=True)
class _Share:
    own: list[Slot] = field(default_factory=list[Slot])


def even_slots(owners: Mapping[Slot, GroupId], groups: int) -> list[SlotMove]:
    """Moves after which every data group owns as many slots as every other, or one more; none
    where it is so already.
    """
    shares = {GroupId(number): _Share() for number in range(1, groups + 1)}
    for number in range(SLOTS):
        shares[owners[Slot(number)]].own.append(Slot(number))
    moves: list[SlotMove] = []
    while True:
        most = max(shares, key=lambda group: (len(shares[group].own), -group))
        least = min(shares, key=lambda group: (len(shares[group].own), group))
        if len(shares[most].own) - len(shares[least].own) <= 1:
            return moves
        slot = shares[most].own.pop()
        shares[least].own.append(slot)
        moves.append(SlotMove(slot, most, least))
