"""The groups as membership and operators reach them: here, or by one call to the leader's node.

Implements `ControlledGroups`. A leader that has changed is asked for once more at the node that the
refusal names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from cluster.membership import GroupView
from cluster.raft.members import (
    AddLearner,
    Demote,
    MemberChange,
    MemberProgress,
    Members,
    Promote,
    Remove,
)
from cluster.rpc.port import Peer, Rpc, Service
from kalamdb.errors import MalformedRequest, NotLeader, PermissionDenied, Unavailable
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, NodeId
from kalamdb.model.work import Work
from kalamdb.ports import LogStatus

T = TypeVar("T")
METHOD = "members"
LEADER = "leader"
ATTEMPTS = 2
VIEW_S = 1.0
CHANGE_S = 10.0
_CHANGES = {"add": AddLearner, "promote": Promote, "demote": Demote, "remove": Remove}
_NAMES = {kind: name for name, kind in _CHANGES.items()}


class GroupMember(Protocol):
    """What is asked of a group of this node (`raft.group.Group`)."""

    def status(self) -> LogStatus: ...

    def members(self) -> Members: ...

    def progress(self) -> tuple[MemberProgress, ...]: ...

    def propose_members(self, change: MemberChange) -> Awaitable[Members]: ...

    def hand_over(self, peer: int) -> Awaitable[None]: ...


class KnowsLeaders(Protocol):
    """`leaders.Leaders`."""

    def of(self, group: GroupId) -> int | None: ...

    def refused(self, group: GroupId, asked: int | None, error: NotLeader) -> None: ...


class _Ask(msgspec.Struct, array_like=True, frozen=True):
    """`what`: view, snapshot, hand_over, or the name of a change."""

    group: int
    what: str
    node: int = 0


class _View(msgspec.Struct, array_like=True, frozen=True):
    leader: int
    members: Members
    progress: tuple[MemberProgress, ...]
    last_index: int


_encode = msgspec.msgpack.Encoder().encode
_ask_in = msgspec.msgpack.Decoder(_Ask).decode
_view_in = msgspec.msgpack.Decoder(_View).decode
_index_in = msgspec.msgpack.Decoder(int).decode


class LedHere:
    """The groups this node leads. `snapshot` syncs the row store and cuts a group's log."""

    def __init__(
        self,
        node: int,
        groups: Mapping[GroupId, GroupMember],
        snapshot: Callable[[GroupId], Awaitable[int]],
    ) -> None:
        self.node = node
        self._groups = groups
        self._snapshot = snapshot

    def of(self, group: GroupId) -> GroupMember:
        """Raises NotLeader."""
        found = self._groups.get(group)
        if found is None:
            raise NotLeader(group, None)
        status = found.status()
        if status.leader != self.node:
            raise NotLeader(group, status.leader)
        return found

    def leads(self, group: GroupId) -> bool:
        found = self._groups.get(group)
        return found is not None and found.status().role == LEADER

    def view(self, group: GroupId) -> GroupView:
        found = self.of(group)
        last = found.status().last_index
        return GroupView(group, NodeId(self.node), found.members(), found.progress(), last)

    async def answer(self, ask: _Ask) -> bytes:
        group = GroupId(ask.group)
        match ask.what:
            case "view":
                view = self.view(group)
                told = _View(view.leader, view.members, view.progress, view.last_index)
                return _encode(told)
            case "snapshot":
                self.of(group)
                return _encode(await self._snapshot(group))
            case "hand_over":
                await self.of(group).hand_over(ask.node)
                return b""
            case _:
                if ask.what not in _CHANGES:
                    raise MalformedRequest(f"members: {ask.what} is not known")
                await self.of(group).propose_members(_CHANGES[ask.what](ask.node))
                return b""


class MemberGroupsByRpc:
    """See the module. `rpc` and `leaders` None: there is one node."""

    def __init__(
        self,
        here: LedHere,
        write_meta: Callable[[Work], Awaitable[Outcome]],
        rpc: Rpc | None = None,
        leaders: KnowsLeaders | None = None,
    ) -> None:
        self._here = here
        self._write_meta = write_meta
        self._rpc = rpc
        self._leaders = leaders

    def connected(self, node: NodeId) -> bool:
        return node == self._here.node or (self._rpc is not None and self._rpc.connected(node))

    async def write_meta(self, work: Work) -> Outcome:
        return await self._write_meta(work)

    async def view(self, group: GroupId) -> GroupView:
        told = _view_in(await self._ask(_Ask(group, "view"), VIEW_S))
        return GroupView(group, NodeId(told.leader), told.members, told.progress, told.last_index)

    async def propose_members(self, group: GroupId, change: MemberChange) -> None:
        await self._ask(_Ask(group, _NAMES[type(change)], change.node), CHANGE_S)

    async def hand_over(self, group: GroupId, node: NodeId) -> None:
        await self._ask(_Ask(group, "hand_over", node), CHANGE_S)

    async def snapshot(self, group: GroupId) -> int:
        return _index_in(await self._ask(_Ask(group, "snapshot"), CHANGE_S))

    async def _ask(self, ask: _Ask, timeout_s: float) -> bytes:
        group = GroupId(ask.group)
        leader: int | None = None
        for _ in range(ATTEMPTS):
            leader = self._here.node if self._leaders is None else self._leaders.of(group)
            if leader is None:
                break
            try:
                if leader == self._here.node or self._rpc is None:
                    return await self._here.answer(ask)
                return await self._rpc.call(leader, METHOD, _encode(ask), timeout_s)
            except NotLeader as error:
                if self._leaders is not None:
                    self._leaders.refused(group, leader, error)
        raise Unavailable(f"no leader of group {group} is known")


def serve_members(service: Service, here: LedHere) -> None:
    """Answer the node that leads meta."""

    async def answer(peer: Peer, payload: bytes) -> bytes:
        if peer.node is None:
            raise PermissionDenied("changing members", "a node")
        try:
            ask = _ask_in(payload)
        except msgspec.DecodeError as error:
            raise MalformedRequest(f"members: {error}") from error
        return await here.answer(ask)

    service.on_call(METHOD, answer)
