"""The job that brings groups to the members and leaders they are meant to have.

Runs on the leader of meta. Each round:
1. asks every group at its leader what it has (`MemberGroups.view`);
2. activates joining nodes whose copy of the catalog is current;
3. wishes voters and preferred leaders for the nodes there are, and puts them into meta;
4. carries out the next step of each group (`placement.plan`).

Nothing is kept between rounds that the next leader of meta would miss: what is meant stands in
meta, what is stands in the groups' logs. Only the waits (how long a node has been gone, when a
leader was moved last) begin anew with a new leader.

Keeps: at most one change of a group at a time; leaders that are only better elsewhere are moved one
per `balance_interval_s`; a node copies at most COPIES_MAX groups at a time, meta aside.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from cluster import placement
from cluster.placement import ChangeMembers, GroupState, HandOver, Nodes, Step, Wish
from cluster.raft.members import AddLearner, MemberChange, MemberProgress, Members
from kalamdb.errors import KalamError
from kalamdb.lib.clock import Clock
from kalamdb.model.catalog import CatalogView, NodeState, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import ActivateNode, PutMembers, PutNode, Work

log: Any = structlog.get_logger("membership")

ROUND_S = 1.0  # with nothing to do
BUSY_ROUND_S = 0.1  # while steps are carried out
HEARD_S = 1.0  # who answered its leader so lately can be reached
CURRENT_ENTRIES = 1_000  # a voter that lacks fewer can take over
COPIES_MAX = 2


@dataclass(frozen=True, slots=True)
class GroupView:
    """What a group's leader says of its group. `last_index`: of its log."""

    group: GroupId
    leader: NodeId
    members: Members
    progress: tuple[MemberProgress, ...]
    last_index: int

    def state(self) -> GroupState:
        """As planning sees it."""
        of = {each.node: each for each in self.progress}
        reachable = {node for node, each in of.items() if _is_heard(each)} | {self.leader}
        current = {node for node in reachable if node == self.leader or _is_current(of[node])}
        return GroupState(
            self.group,
            self.leader,
            _ids(self.members.voters),
            _ids(self.members.learners),
            _ids(reachable),
            _ids(current),
            _ids(each.node for each in self.progress if each.voter and not each.counts),
            not self.members.committed,
        )


def _ids(nodes: Iterable[int]) -> frozenset[NodeId]:
    return frozenset(map(NodeId, nodes))


def _is_heard(progress: MemberProgress) -> bool:
    """A voter that lost its disk answers, and counts for no majority."""
    return progress.heard_age_s <= HEARD_S and (progress.counts or not progress.voter)


def _is_current(progress: MemberProgress) -> bool:
    if not progress.voter:
        return progress.caught_up
    return progress.stage == "replicate" and progress.behind_entries <= CURRENT_ENTRIES


class MemberGroups(Protocol):
    """The groups, each asked at its leader, wherever that is."""

    async def view(self, group: GroupId) -> GroupView:
        """Raises Unavailable when nobody leads it, or its leader does not answer in time."""
        ...

    async def propose_members(self, group: GroupId, change: MemberChange) -> None:
        """Resolves once it is committed. Raises Conflict while another change is under way,
        Unavailable, Indeterminate, InvalidInput.
        """
        ...

    async def hand_over(self, group: GroupId, node: NodeId) -> None:
        """`node` leads the group afterwards. Raises Unavailable when it does not come to that."""
        ...

    async def write_meta(self, work: Work) -> Outcome: ...

    def connected(self, node: NodeId) -> bool:
        """Can one talk to it now? True for this node itself."""
        ...


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Settings `cluster.balance_interval_s` and `cluster.replace_after_s`."""

    balance_interval_s: float = 5.0
    replace_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """Something on its way from one place to another: a member of a group to a node, or a slot to a
    group. Times are Unix milliseconds; `source` and `target` are nodes for members, groups for
    slots. Totals are 0 while they are not known.
    """

    kind: str  # member | slot
    group: GroupId
    source: int | None
    target: int
    state: str
    slot: int | None = None
    keys_done: int = 0
    keys_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    started_ms: int = 0
    updated_ms: int = 0

    @property
    def eta_s(self) -> float | None:
        """At the pace it has had so far."""
        whole, part = self.keys_total, self.keys_done
        if self.bytes_total:
            whole, part = self.bytes_total, self.bytes_done
        passed_ms = self.updated_ms - self.started_ms
        if not 0 < part <= whole or passed_ms <= 0:
            return None
        return (whole - part) * passed_ms / part / 1000


@dataclass(frozen=True, slots=True)
class MembershipStatistics:
    rounds: int
    changes: int
    transfers: int
    refused: int
    groups_unsettled: int


@dataclass(slots=True)
class _Term:
    """What is known only as long as this node leads meta."""

    balanced_s: float
    gone_since_s: dict[NodeId, float] = field(default_factory=dict[NodeId, float])
    heard_ms: dict[int, int] = field(default_factory=dict[int, int])
    copying: dict[tuple[GroupId, NodeId], MoveProgress] = field(
        default_factory=dict[tuple[GroupId, NodeId], MoveProgress]
    )


class Membership:
    """See the module. `leads`: does this node lead meta now?"""

    def __init__(
        self,
        groups: MemberGroups,
        catalog: Callable[[], CatalogView],
        leads: Callable[[], bool],
        clock: Clock,
        settings: MembershipSettings,
    ) -> None:
        self._groups = groups
        self._catalog = catalog
        self._leads = leads
        self._clock = clock
        self._settings = settings
        self._term: _Term | None = None
        self._woken = asyncio.Event()
        self._said: dict[tuple[str, GroupId], str] = {}
        self._rounds = self._changes = self._transfers = self._refused = self._unsettled = 0

    # ---- running --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Round after round, until cancelled."""
        while True:
            self._woken.clear()
            done = await self.step()
            try:
                async with asyncio.timeout(BUSY_ROUND_S if done else ROUND_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    def kick(self) -> None:
        """Something was asked of the cluster: do not wait for the next round."""
        self._woken.set()

    async def step(self) -> int:
        """One round; gives how many steps were carried out. Refusals are met again by the next."""
        placed = self._catalog().placement
        if not self._leads() or placed is None or not self._catalog().enrolled:
            self._term = None
            return 0
        self._rounds += 1
        if self._term is None:
            self._term = _Term(self._clock.monotonic_s())
        try:
            return await self._round(placed, self._term)
        except KalamError as error:
            self._refused += 1
            log.info("membership_refused", reason=str(error))
            return 0

    async def _round(self, placed: Placement, term: _Term) -> int:
        views = await self._views(placed)
        await self._activate(views)
        nodes = self._nodes()
        self._watch(nodes, term)
        wish = await self._wish(nodes, term)
        states = [view.state() for view in views.values()]
        steps = placement.plan(states, wish, nodes)
        self._follow(views, wish, nodes, term)
        self._unsettled = sum(isinstance(step, ChangeMembers) for step in steps)
        due = self._due(steps, states, term)
        results = await asyncio.gather(*(self._carry_out(step) for step in due))
        return sum(results)

    # ---- 1 and 2 --------------------------------------------------------------------------------

    async def _views(self, placed: Placement) -> dict[GroupId, GroupView]:
        """Of the groups whose leaders answer."""
        asked = placement.group_ids(placed.groups)
        found = await asyncio.gather(*map(self._view, asked))
        return {view.group: view for view in found if view is not None}

    async def _view(self, group: GroupId) -> GroupView | None:
        try:
            view = await self._groups.view(group)
        except KalamError as error:
            self._say("group_not_seen", group, str(error))
            return None
        self._said.pop(("group_not_seen", group), None)
        return view

    async def _activate(self, views: Mapping[GroupId, GroupView]) -> None:
        meta = views.get(META_GROUP)
        if meta is None:
            return
        current = meta.state().current
        for node in list(self._catalog().nodes.values()):
            if node.state is NodeState.JOINING and node.uuid and node.id in current:
                await self._groups.write_meta(ActivateNode(node.id))
                log.info("node_activated", node=node.id)

    def _nodes(self) -> Nodes:
        by_state: dict[NodeState, set[NodeId]] = {state: set() for state in NodeState}
        for node in self._catalog().nodes.values():
            by_state[node.state].add(node.id)
        held = {node.id for node in self._catalog().nodes.values() if node.holds}
        return Nodes(
            active=frozenset(by_state[NodeState.ACTIVE]),
            draining=frozenset(by_state[NodeState.DRAINING]),
            joining=frozenset(by_state[NodeState.JOINING]),
            connected=frozenset(node for node in held if self._groups.connected(node)),
        )

    # ---- 3: what is wished ----------------------------------------------------------------------

    def _watch(self, nodes: Nodes, term: _Term) -> None:
        """Since when each node has been gone."""
        now_s = self._clock.monotonic_s()
        gone = nodes.all - nodes.connected
        term.gone_since_s = {node: term.gone_since_s.get(node, now_s) for node in gone}
        term.heard_ms.update(dict.fromkeys(nodes.connected, self._clock.wall_ms()))

    def _staying(self, nodes: Nodes, term: _Term, voters: int) -> frozenset[NodeId]:
        """Active nodes without those gone for too long, as far as `voters` are left."""
        limit_s = self._settings.replace_after_s
        if not limit_s:
            return nodes.active
        now_s = self._clock.monotonic_s()
        since = term.gone_since_s
        lost = sorted(
            (node for node in since if node in nodes.active and now_s - since[node] >= limit_s),
            key=lambda node: (since[node], node),
        )
        return nodes.active - set(lost[: max(0, len(nodes.active) - voters)])

    async def _wish(self, nodes: Nodes, term: _Term) -> Wish:
        placed = self._catalog().placement
        assert placed is not None
        voters = placement.factor(placed.replication, len(nodes.active))
        current = {group: placed.voters_of(group) for group in placement.group_ids(placed.groups)}
        staying = self._staying(nodes, term, voters)
        # On the way from one node to three a second one brings nothing but a second risk.
        alone = voters == 1 < placed.replication
        if alone and all(
            len(members) == 1 and members[0] in staying for members in current.values()
        ):
            wished: Wish = current
        elif voters < min(placed.replication, max(map(len, current.values()))):
            # Nodes were given up: groups are short of voters until others take their place.
            wished = current
        else:
            wished = placement.spread(staying, voters, current)
        moved = any(set(wished[group]) != set(current[group]) for group in current)
        if moved or any(group not in placed.members for group in current):
            wished = placement.even_leaders(wished)
        changed = {
            group: members
            for group, members in wished.items()
            if placed.members.get(group) != members
        }
        if changed:
            await self._groups.write_meta(PutMembers(changed))
            log.info("members_wished", groups=sorted(changed))
        return wished

    # ---- 4: steps -------------------------------------------------------------------------------

    def _due(self, steps: Sequence[Step], states: Sequence[GroupState], term: _Term) -> list[Step]:
        """Those to carry out now: bounded copies, one leader for evenness per interval."""
        copies: Counter[int] = Counter()
        for state in states:
            if state.group != META_GROUP:
                copies.update(state.learners - state.current)
        interval_s = self._settings.balance_interval_s
        now_s = self._clock.monotonic_s()
        balances = interval_s > 0 and now_s - term.balanced_s >= interval_s
        due: list[Step] = []
        for step in steps:
            match step:
                case ChangeMembers(group, AddLearner(node)) if group != META_GROUP:
                    if copies[node] >= COPIES_MAX:
                        continue
                    copies[node] += 1
                case HandOver(urgent=False):
                    if not balances or not self._groups.connected(step.node):
                        continue
                    balances, term.balanced_s = False, now_s
                case _:
                    pass
            due.append(step)
        return due

    async def _carry_out(self, step: Step) -> bool:
        try:
            match step:
                case ChangeMembers(group, change):
                    await self._groups.propose_members(group, change)
                    self._changes += 1
                    kind = type(change).__name__
                    log.info("members_changed", group=group, change=kind, node=change.node)
                case HandOver(group, node):
                    await self._groups.hand_over(group, node)
                    self._transfers += 1
                    log.info("leader_moved", group=group, node=node)
        except KalamError as error:
            self._refused += 1
            self._say("step_refused", step.group, str(error))
            return False
        return True

    def _say(self, event: str, group: GroupId, reason: str) -> None:
        """Once, as long as it stays the same: there is a round each second."""
        if self._said.get((event, group)) == reason:
            return
        self._said[event, group] = reason
        if event == "group_not_seen":
            log.info("group_not_seen", group=group, reason=reason)
        else:
            log.info("step_refused", group=group, reason=reason)

    # ---- telling --------------------------------------------------------------------------------

    def _follow(
        self, views: Mapping[GroupId, GroupView], wish: Wish, nodes: Nodes, term: _Term
    ) -> None:
        """Members that are being copied, as of this round."""
        now_ms = self._clock.wall_ms()
        found: dict[tuple[GroupId, NodeId], MoveProgress] = {}
        for view in views.values():
            state = view.state()
            wanted = set(wish.get(view.group, ()))
            if view.group == META_GROUP:
                wanted |= nodes.all - nodes.draining  # a dead one would be waited for for ever
            leaving = sorted((state.voters | state.learners) - wanted)
            of = {each.node: each for each in view.progress}
            for node in sorted(wanted - state.voters - (state.current & state.learners)):
                before = term.copying.get((view.group, node))
                progress = of.get(node)
                found[view.group, node] = MoveProgress(
                    "member",
                    view.group,
                    leaving[0] if leaving else None,
                    node,
                    "waiting" if progress is None else progress.stage,
                    keys_done=0 if progress is None else progress.match_index,
                    keys_total=view.last_index,
                    started_ms=now_ms if before is None else before.started_ms,
                    updated_ms=now_ms,
                )
        # A group that was not seen this time is as it was.
        unseen = {key: move for key, move in term.copying.items() if key[0] not in views}
        term.copying = unseen | found

    def moves(self) -> list[MoveProgress]:
        """Members that are being copied; empty on nodes that do not lead meta."""
        return [] if self._term is None else list(self._term.copying.values())

    def heard(self) -> dict[int, int]:
        """Node → Unix milliseconds when it could last be talked to; as `moves`."""
        return {} if self._term is None else dict(self._term.heard_ms)

    def statistics(self) -> MembershipStatistics:
        return MembershipStatistics(
            self._rounds, self._changes, self._transfers, self._refused, self._unsettled
        )


async def enrol(
    write_meta: Callable[[Work], Awaitable[Any]], catalog: CatalogView, peers: Mapping[int, str]
) -> None:
    """The first nodes of a cluster, by id: where they are reached (HOST:PORT). A cluster that has
    them gets no others but by CLUSTER JOIN.
    """
    if catalog.enrolled:
        return
    for node, rpc in peers.items():
        if NodeId(node) not in catalog.nodes:
            await write_meta(PutNode(NodeId(node), rpc, join=True))


async def introduce(
    write_meta: Callable[[Work], Awaitable[Any]], catalog: CatalogView, asked: PutNode
) -> None:
    """A node says who and where it is; nothing is written when meta knows.

    Raises what the decision refuses: UnknownNode for one that was removed or never joined,
    NodeTaken for another disk.
    """
    known = catalog.nodes.get(asked.node)
    same = known is not None and (known.uuid, known.rpc, known.http) == (
        asked.uuid,
        asked.rpc,
        asked.http,
    )
    if not same or (known is not None and not known.holds):
        await write_meta(asked)
