"""Carries out CLUSTER statements on the node that leads meta; implements `ClusterControl`.

What takes long is only begun: JOIN, LEAVE, REPLICATION and REBALANCE write down what is meant, and
the job of `membership.py` brings it about; `system.cluster_moves` shows how far it is. Leaders are
handed over at once. A leader that was moved by hand stays: the node becomes the group's preferred
one, until REBALANCE or until a node comes or goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from cluster import placement
from cluster.membership import GroupView, MemberGroups
from cluster.placement import SlotMove, Wish
from kalamdb.cluster_errors import NodeNeeded, NoSuchMember, UnknownNode
from kalamdb.errors import InvalidStatement, KalamError, Unavailable, Unsupported
from kalamdb.model.catalog import CatalogView, NodeState, Placement
from kalamdb.model.ids import SLOTS, GroupId, NodeId, Slot, TenantId, slot_of, tenant_partition
from kalamdb.model.work import DrainNode, PutMembers, PutNode, PutReplication, RemoveNode
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

WATCH = "system.cluster_moves shows how far it is"


class ControlledGroups(MemberGroups, Protocol):
    """What an operator asks of the groups besides."""

    async def snapshot(self, group: GroupId) -> int:
        """Sync the leader's row store and cut its log; gives the index the log begins after."""
        ...


class MovesSlots(Protocol):
    """Moves a slot to another group (core.md §10)."""

    async def begin(self, move: SlotMove) -> None:
        """The move is under way once this returns. Raises what refuses it."""
        ...


class NoSlotMoves:
    """Of a session that belongs to no node."""

    async def begin(self, move: SlotMove) -> None:
        raise Unsupported("moving slots", "this session belongs to no node")


@dataclass(frozen=True, slots=True)
class Control:
    """See the module. `kick` wakes the job that moves members."""

    groups: ControlledGroups
    catalog: Callable[[], CatalogView]
    kick: Callable[[], None]
    slots: MovesSlots

    async def carry_out(self, asked: ClusterChange) -> str | Sequence[ClusterAct]:
        try:
            match asked:
                case ClusterJoin(node, rpc, http):
                    return await self._join(NodeId(node), rpc, http)
                case ClusterLeave(node):
                    return await self._leave(NodeId(node))
                case ClusterRemove(node):
                    return await self._remove(NodeId(node))
                case ClusterReplication(voters):
                    return await self._replication(voters)
                case ClusterTransfer(group, node):
                    return await self._transfer(group, NodeId(node))
                case ClusterStepDown(group, node):
                    return await self._step_down(group, node)
                case ClusterRebalance(leaders):
                    return await self._rebalance(leaders_only=leaders)
                case ClusterMove(slot, group):
                    return await self._move(slot, group)
                case ClusterSnapshot(group):
                    return await self._snapshot(group)
                case _:
                    assert_never(asked)
        finally:
            self.kick()

    # ---- nodes ----------------------------------------------------------------------------------

    async def _join(self, node: NodeId, rpc: str, http: str | None) -> str:
        await self.groups.write_meta(PutNode(node, rpc, http=http or "", join=True))
        state = self.catalog().nodes[node].state
        if state is NodeState.JOINING:
            return f"node {node} joins when it is started at {rpc}; {WATCH}"
        return f"node {node} at {rpc} is {state.value}"

    async def _leave(self, node: NodeId) -> str:
        await self.groups.write_meta(DrainNode(node))
        return f"node {node} gives away its leaders and members; {WATCH}"

    async def _remove(self, node: NodeId) -> str:
        found = self.catalog().nodes.get(node)
        dead = False
        if found is not None and found.holds:
            dead = not self.groups.connected(node)
            await self._expect_free(node, dead=dead)
        await self.groups.write_meta(RemoveNode(node, dead))
        return f"node {node} is no node of the cluster any more"

    async def _expect_free(self, node: NodeId, *, dead: bool) -> None:
        """Raises NodeNeeded where a living node votes, or a dead one is missed."""
        seen = await self._seen(placement.group_ids(self.catalog().placed.groups))
        states = [view.state() for view in seen if node in view.members.voters]
        if states and not dead:
            holds = ", ".join(str(state.group) for state in states)
            detail = f"it votes in groups {holds}; CLUSTER LEAVE {node} moves them"
            raise NodeNeeded(node, f"{detail}; if it is to be given up, stop it first")
        unseen = set(self.catalog().placed.held_by(node)) - {view.group for view in seen}
        missed = [s.group for s in states if not placement.is_majority(s, s.voters - {node})]
        if dead and (missed or unseen):
            named = ", ".join(map(str, sorted({*missed, *unseen})))
            raise NodeNeeded(node, f"groups {named} have no majority without it")

    async def _replication(self, voters: int) -> str:
        await self.groups.write_meta(PutReplication(voters))
        active = sum(node.state is NodeState.ACTIVE for node in self.catalog().nodes.values())
        now = placement.factor(voters, active)
        text = f"groups are to have {voters} members"
        if now < voters:
            text += f", and {now} with the active nodes there are now ({active})"
        return f"{text}; {WATCH}"

    # ---- leaders --------------------------------------------------------------------------------

    async def _transfer(self, group: int | None, node: NodeId) -> Sequence[ClusterAct]:
        self._check_node(node)
        if group is not None:
            view = await self.groups.view(self._group(group))
            await self._hand_over(view, node)
            return [ClusterAct("transfer_leader", group, node)]
        views = await self._seen(placement.group_ids(self.catalog().placed.groups))
        voted = [view for view in views if node in view.members.voters]
        return [
            await self._tried("transfer_leader", view.group, node, self._hand_over(view, node))
            for view in voted
        ]

    async def _step_down(self, group: int | None, node: int | None) -> Sequence[ClusterAct]:
        if group is not None:
            view = await self.groups.view(self._group(group))
            heir = self._heir(view)
            await self._hand_over(view, heir)
            return [ClusterAct("stepdown", group, heir)]
        views = await self._seen(placement.group_ids(self.catalog().placed.groups))
        if node is None:
            node = next((view.leader for view in views if view.group == 0), None)
            if node is None:
                raise Unavailable("no leader of the meta group is known")
        self._check_node(NodeId(node))
        return [await self._stepped(view) for view in views if view.leader == node]

    async def _stepped(self, view: GroupView) -> ClusterAct:
        try:
            heir = self._heir(view)
        except NoSuchMember as error:
            return ClusterAct("stepdown", view.group, error=str(error))
        return await self._tried("stepdown", view.group, heir, self._hand_over(view, heir))

    def _heir(self, view: GroupView) -> NodeId:
        """Raises NoSuchMember."""
        state = view.state()
        able = (state.voters & state.current) - {view.leader}
        order = (*self.catalog().placed.voters_of(view.group), *sorted(able))
        heir = next((node for node in order if node in able), None)
        if heir is None:
            raise NoSuchMember(
                None, view.group, "it has no other voter that is reachable and has caught up"
            )
        return heir

    async def _hand_over(self, view: GroupView, node: NodeId) -> None:
        """`node` leads, and is meant to. Raises NoSuchMember, Unavailable."""
        state = view.state()
        if node not in state.voters:
            raise NoSuchMember(node, view.group, "it does not vote there")
        if node != view.leader:
            if node not in state.reachable or not self.groups.connected(node):
                raise NoSuchMember(node, view.group, "it cannot be reached")
            if node not in state.current:
                raise NoSuchMember(node, view.group, "it has not caught up; try again soon")
            await self.groups.hand_over(view.group, node)
        wished = self.catalog().placed.voters_of(view.group)
        if node in wished and wished[0] != node:
            rest = tuple(other for other in wished if other != node)
            await self.groups.write_meta(PutMembers({view.group: (node, *rest)}))

    async def _tried(
        self, action: str, group: GroupId, node: NodeId, work: Awaitable[None]
    ) -> ClusterAct:
        """One group's failure is its own."""
        try:
            await work
        except KalamError as error:
            return ClusterAct(action, group, node, error=str(error))
        return ClusterAct(action, group, node)

    # ---- evenness -------------------------------------------------------------------------------

    async def _rebalance(self, *, leaders_only: bool) -> Sequence[ClusterAct]:
        placed = self.catalog().placed
        wish: Wish = {g: placed.voters_of(g) for g in placement.group_ids(placed.groups)}
        active = frozenset(
            node.id for node in self.catalog().nodes.values() if node.state is NodeState.ACTIVE
        )
        if not leaders_only and active:
            wish = placement.spread(active, placement.factor(placed.replication, len(active)), wish)
        wish = placement.even_leaders(wish)
        await self.groups.write_meta(PutMembers(wish))
        acts: list[ClusterAct] = []
        for view in await self._seen(tuple(wish)):
            preferred = wish[view.group][0]
            if preferred != view.leader and preferred in view.members.voters:
                work = self._hand_over(view, preferred)
                acts.append(await self._tried("rebalance_leader", view.group, preferred, work))
        if not leaders_only:
            acts += await self._rebalance_slots(placed)
        return acts

    async def _rebalance_slots(self, placed: Placement) -> list[ClusterAct]:
        owners = {Slot(number): placed.group_of(Slot(number)) for number in range(SLOTS)}
        acts: list[ClusterAct] = []
        for move in placement.even_slots(owners, placed.groups):
            action = f"move_slot {move.slot} from group {move.source}"
            try:
                await self.slots.begin(move)
            except KalamError as error:
                acts.append(ClusterAct(action, move.target, error=str(error)))
                break  # the others would meet the same
            acts.append(ClusterAct(action, move.target))
        return acts

    async def _move(self, asked: int | str, group: int) -> str:
        placed, target = self.catalog().placed, self._group(group)
        slot = Slot(asked) if isinstance(asked, int) else slot_of(tenant_partition(TenantId(asked)))
        if not 0 <= slot < SLOTS:
            raise InvalidStatement(f"a slot is a number from 0 to {SLOTS - 1}")
        source = placed.group_of(slot)
        if source == target:
            return f"slot {slot} is in group {source}"
        await self.slots.begin(SlotMove(slot, source, target))
        return f"slot {slot} goes from group {source} to group {target}; {WATCH}"

    async def _snapshot(self, group: int | None) -> Sequence[ClusterAct]:
        asked = (
            placement.group_ids(self.catalog().placed.groups)
            if group is None
            else (self._group(group),)
        )
        acts: list[ClusterAct] = []
        for number in asked:
            try:
                index = await self.groups.snapshot(number)
            except KalamError as error:
                if group is not None:
                    raise
                acts.append(ClusterAct("snapshot", number, error=str(error)))
            else:
                acts.append(ClusterAct("snapshot", number, snapshot_index=index))
        return acts

    # ---- looking --------------------------------------------------------------------------------

    def _group(self, number: int) -> GroupId:
        groups = self.catalog().placed.groups
        if not 0 <= number <= groups:
            raise InvalidStatement(f"there is no group {number}; groups are 0 (meta) to {groups}")
        return GroupId(number)

    def _check_node(self, node: NodeId) -> None:
        found = self.catalog().nodes.get(node)
        if found is None or not found.holds:
            raise UnknownNode(node, None)

    async def _seen(self, groups: Sequence[GroupId]) -> list[GroupView]:
        """Those whose leaders answer."""
        found: list[GroupView] = []
        for group in groups:
            try:
                found.append(await self.groups.view(group))
            except KalamError:
                continue
        return found
