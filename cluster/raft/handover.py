"""Handing leadership to another voter: no new entries, wait until it has all, tell it, watch.

1. `begin`: the group takes no entries while `paused`.
2. The peer has every entry, and all are applied here, so that nobody who waits stays unanswered:
   it is told to take over.
3. This node follows it: done. Else, when a bound has passed, another leads, or the link is gone,
   the waiter is told so and entries are taken again.

`leave` is for a leader that is no voter any more: the same, to whichever voter has most, and then
it steps down in any case.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from cluster.raft.core import NEVER, Core
from cluster.raft.transport import Guard
from kalamdb.errors import Unavailable

CATCH_UP_S = 0.5
HAND_OVER_S = 0.3


class HandOverOwner(Protocol):
    """What handing over asks of its group."""

    def now_s(self) -> float: ...

    def kick(self) -> None: ...


@dataclass(slots=True)
class _Attempt:
    peer: int
    term: int
    until_s: float
    waiter: asyncio.Future[None] | None  # None: this node leaves
    told: bool = False


class HandOver:
    """See the module. One attempt at a time."""

    def __init__(self, owner: HandOverOwner, core: Core, guard: Guard) -> None:
        self._owner = owner
        self._core = core
        self._guard = guard
        self._attempt: _Attempt | None = None

    @property
    def paused(self) -> bool:
        return self._attempt is not None and self._core.leads()

    @property
    def busy(self) -> bool:
        return self._attempt is not None

    def due_at_s(self) -> float:
        return NEVER if self._attempt is None else self._attempt.until_s

    def begin(self, peer: int) -> asyncio.Future[None]:
        """`peer` is a voter and not this node, which leads; nothing is under way."""
        assert self._attempt is None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        until_s = self._owner.now_s() + CATCH_UP_S
        self._attempt = _Attempt(peer, self._core.term(), until_s, waiter)
        self._owner.kick()
        return waiter

    def leave(self) -> None:
        """This leader is no voter, and the entry that says so is committed."""
        if self._attempt is not None:
            return
        journal, progress = self._core.journal, self._guard.progress
        connected = [each for each in journal.members.roster.voters if self._core.connected(each)]
        if not connected:
            self._core.step_down()
            return
        peer = max(connected, key=lambda each: (progress[each].match_index, -each))
        until_s = self._owner.now_s() + CATCH_UP_S
        self._attempt = _Attempt(peer, self._core.term(), until_s, None)

    def tick(self) -> None:
        """Go on with the attempt, if there is one."""
        attempt, core = self._attempt, self._core
        if attempt is None:
            return
        if attempt.told and not core.leads():
            leader = core.leader()
            if leader == attempt.peer:
                self._end("")
            elif leader is not None:
                self._end(f"node {leader} leads now")
            elif self._owner.now_s() >= attempt.until_s:
                self._end(f"node {attempt.peer} did not begin to lead")
        elif not core.leads() or core.term() != attempt.term:
            self._end("leadership was lost before it could be handed over")
        elif self._owner.now_s() >= attempt.until_s:
            late = "did not begin to lead" if attempt.told else "lacks entries"
            self._end(f"node {attempt.peer} {late}")
        elif not attempt.told:
            self._tell(attempt)

    def _tell(self, attempt: _Attempt) -> None:
        core, last_index = self._core, self._core.journal.last_index
        progress = self._guard.progress.get(attempt.peer)
        if progress is None:
            self._end(f"node {attempt.peer} is no member any more")
            return
        if progress.match_index < last_index or core.applied_index() < last_index:
            return
        if not self._guard.hand_over(attempt.peer):
            self._end(f"node {attempt.peer} is not connected")
            return
        attempt.told = True
        attempt.until_s = self._owner.now_s() + HAND_OVER_S
        if attempt.waiter is None:
            self._end("")

    def stop(self, reason: str) -> None:
        if self._attempt is not None:
            self._end(reason)

    def _end(self, complaint: str) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        if attempt.waiter is None:
            if self._core.leads():
                self._core.step_down()
        elif not attempt.waiter.done():
            if complaint:
                attempt.waiter.set_exception(Unavailable(f"leadership stays: {complaint}"))
            else:
                attempt.waiter.set_result(None)
        self._owner.kick()
