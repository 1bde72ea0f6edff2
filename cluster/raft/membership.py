"""Changes of a group's members at its leader: proposed, appended, waited for.

Keeps:
- One change at a time: the next when the one before is committed and on disk here, and none before
  this leader's own no-op is.
- A learner is promoted in the life that has caught up. Neither a promotion nor a demotion leaves a
  group in which no majority answers.
- A waiter is told what is known: done, or may be done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from cluster.raft.core import Core, Timings
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
    encode_roster,
)
from cluster.raft.transport import Guard
from cluster.raft.wire import Gone, Message
from kalamdb.errors import Conflict, Indeterminate, Unavailable


class MembershipOwner(Protocol):
    """What changes of members ask of their group."""

    def now_s(self) -> float: ...

    def kick(self) -> None: ...

    def post(self, peer: int, message: Message) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Pending:
    change: MemberChange
    index: int
    waiter: asyncio.Future[Members]


class Membership:
    """See the module."""

    def __init__(self, owner: MembershipOwner, core: Core, guard: Guard, timings: Timings) -> None:
        self._owner = owner
        self._core = core
        self._guard = guard
        self._journal = core.journal
        self._timings = timings
        self._pending: _Pending | None = None

    def members(self) -> Members:
        members = self._journal.members
        roster, index = members.roster, members.index
        return Members(roster.voters, roster.learners, index, self._settled(index))

    def _settled(self, index: int) -> bool:
        """Committed, and on disk here."""
        return index <= min(self._core.commit_index(), self._journal.durable_index)

    def propose(self, change: MemberChange) -> asyncio.Future[Members]:
        """Append `change`. This node leads and has applied its own no-op.

        Raises: InvalidInput, LimitReached, Conflict, Unavailable: nothing was done. The future:
        Indeterminate.
        """
        journal = self._journal
        if not self._settled(journal.members.index):
            raise Conflict("the change of members before this one is not committed yet")
        progress = self._guard.progress.get(change.node)
        life = 0 if progress is None or progress.life is None else progress.life
        roster = changed(journal.members.roster, change, life)
        match change:
            case Promote(node):
                self._expect_caught_up(node)
                self._expect_majority(roster)
            case Demote():
                self._expect_majority(roster)
            case AddLearner() | Remove():
                pass
        index = journal.last_index + 1
        waiter: asyncio.Future[Members] = asyncio.get_running_loop().create_future()
        self._pending = _Pending(change, index, waiter)
        journal.add(encode_roster(roster), index, self._core.term())
        self._owner.kick()
        return waiter

    def _expect_caught_up(self, node: int) -> None:
        progress = self._guard.progress[node]
        last_index = self._journal.last_index
        if not progress.caught_up(last_index, self._timings.election_min_s):
            behind = last_index - progress.match_index
            raise Unavailable(f"node {node} has not caught up yet, it lacks {behind} entries")
        if self._age_s(node) > self._timings.election_max_s:
            raise Unavailable(f"node {node} does not answer")

    def _expect_majority(self, roster: Roster) -> None:
        silent_s = self._owner.now_s() - self._guard.majority_at_s(roster)
        if silent_s > self._timings.election_max_s:
            raise Unavailable("no majority of the voters there would be answers")

    def _age_s(self, node: int) -> float:
        return self._owner.now_s() - self._core.answered_at_s(node)

    def settle(self) -> None:
        """After ticks and syncs, at the leader: tell the waiter, and who was removed."""
        pending = self._pending
        if pending is None or not self._settled(pending.index):
            return
        self._pending = None
        if isinstance(pending.change, Remove):
            self._owner.post(pending.change.node, Gone(pending.index, learner=False))
        if not pending.waiter.done():
            pending.waiter.set_result(self.members())

    def resign(self, reason: str) -> None:
        """This node no longer leads."""
        self.settle()
        pending, self._pending = self._pending, None
        if pending is not None and not pending.waiter.done():
            pending.waiter.set_exception(Indeterminate(reason))

    def progress(self) -> tuple[MemberProgress, ...]:
        """Of every other member, as this leader knows it; empty at others."""
        if not self._core.leads():
            return ()
        journal, roster = self._journal, self._journal.members.roster
        last_index, found = journal.last_index, list[MemberProgress]()
        for node, known in sorted(self._guard.progress.items()):
            voter = node in roster.voters
            found.append(
                MemberProgress(
                    node,
                    voter=voter,
                    counts=voter and known.life in (None, roster.life(node)),
                    match_index=known.match_index,
                    behind_entries=max(0, last_index - known.match_index),
                    stage=known.stage.name.lower(),
                    heard_age_s=self._age_s(node),
                    caught_up=known.caught_up(last_index, self._timings.election_min_s),
                )
            )
        return tuple(found)
