"""Who leads which group, as far as is known here, and how to ask it: a hint, never a proof.

A node asks its own member of the group first; what it has no member of, and everything at a
router, it knows from the catalog feed and from refusals that name the leader.

Keeps: nothing is asked a second time unless it was surely not done, or may be done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from kalamdb.errors import Indeterminate, KalamError, Moved, NotLeader, Unavailable
from kalamdb.lib.clock import Clock
from kalamdb.model.ids import GroupId

PAUSE_S = 0.02
ROUTE_S = 10.0
SILENT_S = 2.0
"""A member that was not in touch with its leader for so long may have been removed unheard."""

T = TypeVar("T")
Pause = Callable[[float], Awaitable[None]]


class KnowsLeader(Protocol):
    """A member of a group (`raft.group.Group`)."""

    @property
    def outside(self) -> bool:
        """It is no member any more, or has not heard yet that it is one: others know more."""
        ...

    def leader(self) -> int | None: ...

    def heard_age_s(self) -> float:
        """Seconds since it was in touch with a leader."""
        ...


class Leaders:
    """See the module. `node` is None at a router; `nodes` are those that could be asked now."""

    def __init__(
        self,
        members: Mapping[GroupId, KnowsLeader],
        connected: Callable[[int], bool],
        nodes: Callable[[], list[int]],
        clock: Clock,
        *,
        node: int | None = None,
        pause: Pause = asyncio.sleep,
    ) -> None:
        """`pause` is how time passes; a simulation gives its own."""
        self.node = node
        self._members = members
        self._connected = connected
        self._nodes = nodes
        self._clock = clock
        self._pause = pause
        self._told: dict[GroupId, int] = {}
        self._turn = 0

    def of(self, group: GroupId) -> int | None:
        """The node to ask; None when nobody is known who could be."""
        member = self._member(group)
        leader = None if member is None else member.leader()
        if leader is None:
            leader = self._told.get(group)
        if leader is not None and (leader == self.node or self._connected(leader)):
            return leader
        return self._stranger() if member is None else None

    def _member(self, group: GroupId) -> KnowsLeader | None:
        member = self._members.get(group)
        if member is None or member.outside or member.heard_age_s() > SILENT_S:
            return None
        return member

    def _stranger(self) -> int | None:
        """Of a group this process has no member of, any other node may know more."""
        nodes = [node for node in self._nodes() if node != self.node]
        return self._in_turn(nodes) if nodes else None

    def anybody(self) -> int:
        """A node for what any can do. Raises Unavailable."""
        if self.node is not None:
            return self.node
        nodes = self._nodes()
        if not nodes:
            raise Unavailable("no node of the cluster can be reached")
        return self._in_turn(nodes)

    def _in_turn(self, nodes: list[int]) -> int:
        self._turn += 1
        return nodes[self._turn % len(nodes)]

    def all(self) -> dict[GroupId, int]:
        """Of every group whose leader is known."""
        known = dict(self._told)
        for group in self._members:
            member = self._member(group)
            leader = None if member is None else member.leader()
            if leader is not None:
                known[group] = leader
        return known

    def told(self, group: GroupId, leader: int | None) -> None:
        """Somebody who should know says so."""
        if leader is None:
            self._told.pop(group, None)
        else:
            self._told[group] = leader

    async def ask(
        self,
        group_of: Callable[[], GroupId | None],
        ask: Callable[[int], Awaitable[T]],
        *,
        twice: bool,
        within_s: float = ROUTE_S,
    ) -> T:
        """What the leader of the group (None: any node) says, once there is one.

        `twice`: it may be done twice, so an unknown outcome is asked again. Raises what the leader
        refuses with, Unavailable or Indeterminate when the time is over.
        """
        until_s = 0.0
        while True:
            asked = group = None
            try:
                group = group_of()
                asked = self.anybody() if group is None else self.of(group)
                if asked is None:
                    assert group is not None
                    raise NotLeader(group, None)
                answer = await ask(asked)
                if group is not None and group not in self._members:
                    self._told[group] = asked
                return answer
            except (Unavailable, Indeterminate) as error:
                if not (twice if isinstance(error, Indeterminate) else _is_routing(error)):
                    raise
                now_s = self._clock.monotonic_s()
                until_s = until_s or now_s + within_s
                if now_s >= until_s:
                    raise
                if group is not None:
                    self.refused(group, asked, error)
            await self._pause(PAUSE_S)

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        """`asked` did not take it, and may have said who would."""
        hint = error.leader if isinstance(error, NotLeader) else None
        if hint is not None and hint != asked:
            self._told[group] = hint
        elif self._told.get(group) == asked:
            self._told.pop(group, None)


def _is_routing(error: Unavailable) -> bool:
    """Nothing was done, and somebody else, or the same a moment later, may do it. (A later
    statement of a request that is refused comes after others that are done.)
    """
    statement: int = error.__dict__.get("statement", 1)
    return statement == 1 and (isinstance(error, (NotLeader, Moved)) or type(error) is Unavailable)
