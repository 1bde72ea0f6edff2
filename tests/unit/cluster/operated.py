"""A cluster to operate: meta decides for real, the groups do as they are told and tell how far.

Members copy `speed` entries a round. Nodes can be cut off. Every change is written down, and what
Raft would refuse is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.control import Control, NoSlotMoves
from cluster.membership import GroupView, Membership, MembershipSettings
from cluster.raft.members import (
    AddLearner,
    Demote,
    MemberChange,
    MemberProgress,
    Members,
    Promote,
    Remove,
    Roster,
    changed,
)
from kalamdb.errors import Conflict, Unavailable
from kalamdb.model.catalog import CatalogView, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import PutNode, PutPlacement, Work
from tests.unit.replica.harness import World

LAST_INDEX = 1_000
GROUPS = 4


@dataclass
class FakeGroup:
    roster: Roster
    leader: int
    copied: dict[int, int] = field(default_factory=dict[int, int])
    busy: bool = False


class Operated:
    """Nodes 1…`first` are there from the beginning. Implements `ControlledGroups`."""

    def __init__(self, first: int = 3, *, speed: int = LAST_INDEX, groups: int = GROUPS) -> None:
        self.meta = World(group=0)
        self.speed = speed
        self.alive = set(range(1, first + 1))
        self.done: list[str] = []
        self.leads_meta = True
        voters = tuple(range(1, min(first, 3) + 1)) if first != 2 else (1,)
        self.meta.do(PutPlacement(groups, voters, "c"))
        for node in range(1, first + 1):
            self.meta.do(PutNode(NodeId(node), f"n{node}:1", f"uuid-{node}", join=True))
        self.groups = {GroupId(g): FakeGroup(Roster(voters), 1) for g in range(groups + 1)}
        for group in self.groups.values():
            group.copied = dict.fromkeys(voters, LAST_INDEX)

    # ---- what the job sees ----------------------------------------------------------------------

    @property
    def catalog(self) -> CatalogView:
        return self.meta.replica.catalog

    @property
    def placement(self) -> Placement:
        found = self.catalog.placement
        assert found is not None
        return found

    def connected(self, node: NodeId) -> bool:
        return node in self.alive

    async def view(self, group: GroupId) -> GroupView:
        found = self.groups[group]
        self._elect(group)
        if found.leader not in self.alive:
            raise Unavailable(f"group {group} has no leader")
        for node in found.roster.learners:
            if node in self.alive:
                before = found.copied.get(node, 0)
                found.copied[node] = min(LAST_INDEX, before + self.speed)
        roster = found.roster
        members = Members(roster.voters, roster.learners, 1, not found.busy)
        others = [node for node in roster.nodes if node != found.leader]
        progress = tuple(self._progress(found, node) for node in others)
        return GroupView(group, NodeId(found.leader), members, progress, LAST_INDEX)

    def _progress(self, found: FakeGroup, node: int) -> MemberProgress:
        copied = found.copied.get(node, 0)
        age_s = 0.0 if node in self.alive else 60.0
        complete = copied == LAST_INDEX and node in self.alive
        stage = "replicate" if complete else "image"
        voter = node in found.roster.voters
        behind = LAST_INDEX - copied if node in self.alive else LAST_INDEX * 10
        return MemberProgress(node, voter, voter, copied, behind, stage, age_s, complete)

    def _elect(self, group: GroupId) -> None:
        found = self.groups[group]
        able = [node for node in found.roster.voters if node in self.alive]
        if found.leader not in self.alive and len(able) * 2 > len(found.roster.voters):
            found.leader = able[0]

    # ---- what the job does ----------------------------------------------------------------------

    async def propose_members(self, group: GroupId, change: MemberChange) -> None:
        found = self.groups[group]
        if found.busy:
            raise Conflict("another change is under way")
        made = changed(found.roster, change)
        able = [node for node in made.voters if node in self.alive]
        assert len(able) * 2 > len(made.voters), f"{change} would stop group {group}"
        match change:
            case Promote(node):
                assert found.copied.get(node) == LAST_INDEX
            case Demote(node):
                assert node != found.leader
            case Remove(node):
                found.copied.pop(node, None)
            case AddLearner():
                pass
        found.roster = made
        self.done.append(f"g{group} {type(change).__name__} {change.node}")

    async def hand_over(self, group: GroupId, node: NodeId) -> None:
        found = self.groups[group]
        if node not in self.alive:
            raise Unavailable(f"node {node} does not answer")
        assert node in found.roster.voters
        assert found.copied[node] == LAST_INDEX
        found.leader = node
        self.done.append(f"g{group} leader {node}")

    async def write_meta(self, work: Work) -> Outcome:
        return self.meta.do(work)

    async def snapshot(self, group: GroupId) -> int:
        await self.view(group)
        return LAST_INDEX

    # ---- for tests ------------------------------------------------------------------------------

    def membership(self, **settings: float) -> Membership:
        return Membership(
            self,
            lambda: self.catalog,
            lambda: self.leads_meta,
            self.meta.clock,
            MembershipSettings(**settings),
        )

    def control(self, job: Membership | None = None) -> Control:
        kick = (lambda: None) if job is None else job.kick
        return Control(self, lambda: self.catalog, kick, NoSlotMoves())

    async def settle(self, job: Membership, rounds: int = 400) -> None:
        """Rounds a second apart, until nothing is left to do for a while."""
        idle = 0
        for _ in range(rounds):
            self.advance_s(1.0)
            idle = 0 if await job.step() else idle + 1
            if idle > 15:
                return
        raise AssertionError("the cluster does not settle")

    def advance_s(self, seconds: float) -> None:
        self.meta.clock.now_ms += int(seconds * 1000)

    def join(self, node: int) -> None:
        self.meta.do(PutNode(NodeId(node), f"n{node}:1", join=True))

    def start(self, node: int) -> None:
        self.alive.add(node)
        self.meta.do(PutNode(NodeId(node), f"n{node}:1", f"uuid-{node}"))

    def voters(self, group: int) -> tuple[int, ...]:
        return self.groups[GroupId(group)].roster.voters

    def led_by(self, node: int) -> int:
        return sum(group.leader == node for group in self.groups.values())

    def held_by(self, node: int) -> int:
        return sum(node in group.roster.voters for group in self.groups.values())

    @property
    def meta_members(self) -> Roster:
        return self.groups[META_GROUP].roster
