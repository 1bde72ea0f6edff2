"""Rules of membership (docs/decisions/0018-membership-in-the-log.md), each left out.

A mutant patches the real classes; `NOTICED` names the story that fails then, or the seed of
`test_members_chaos` (`python -m tests.raft.mutants` looks for the first ones).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from cluster.raft import core as core_module
from cluster.raft import journal
from cluster.raft.core import Core
from cluster.raft.elections import Elections
from cluster.raft.group import Group
from cluster.raft.handover import HandOver
from cluster.raft.journal import GroupJournal
from cluster.raft.members import MemberLog
from cluster.raft.membership import Membership
from cluster.raft.transport import Guard
from tests.raft import test_members as stories
from tests.raft import test_members_lives as lives
from tests.raft.test_members_chaos import members_chaos

MUTANTS: dict[str, Callable[[], list[Any]]] = {}
NOTICED: dict[str, Callable[[], None] | int] = {
    "counts_learners": stories.learners_do_not_count,
    "asks_everybody": 108,
    "counts_itself_always": stories.a_demoted_leader_does_not_count_itself,
    "two_changes_at_once": stories.a_minority_cannot_shrink_the_group,
    "changes_before_its_no_op": stories.a_new_leader_waits_for_its_no_op,
    "keeps_a_roster_that_was_cut": 1,
    "compacts_the_roster_away": stories.restarts_behind_compaction,
    "one_life_is_as_good_as_another": lives.a_lost_disk_is_another_member,
    "promotes_no_life": 0,
    "campaigns_by_a_guess": lives.an_image_leaves_the_roster_open,
    "votes_by_its_own_roster": stories.a_promoted_learner_votes_before_it_knows,
    "votes_while_led": lives.a_vote_is_not_given_while_a_leader_is_heard,
    "tells_nobody_that_it_is_out": lives.a_removed_member_disturbs_nobody,
    "leads_for_ever": stories.a_demoted_leader_does_not_count_itself,
}


def mutant(make: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    MUTANTS[make.__name__] = make
    return make


@mutant
def counts_learners() -> list[Any]:
    """A learner counts for nothing."""
    follow = Core.follow_members

    def eager(self: Core) -> None:
        follow(self)
        self._SyncObj__otherNodes |= self._SyncObj__readonlyNodes  # type: ignore[attr-defined]

    return [patch.object(Core, "follow_members", eager)]


@mutant
def asks_everybody() -> list[Any]:
    """Votes are asked of voters only."""

    def majority(self: Elections, others: Any) -> bool:
        members = self._journal.members
        return 2 * (len(others) + members.counts) > len(members.roster.voters)

    def send(self: Guard, node: Any, message: Any) -> bool:
        if message["type"] == "request_vote":
            last = (message["last_log_index"], message["last_log_term"])
            for peer in self._journal.members.roster.learners:
                self.elections.request_vote(peer, message["term"], *last)
        return stock(self, node, message)

    def grant(self: Elections, peer: int, message: Any) -> None:
        if message.term == self._core.term():
            self._core.hear(peer, {"type": "response_vote", "term": message.term})

    stock = Guard.send
    return [
        patch.object(Elections, "majority", majority),
        patch.object(Elections, "hear_grant", grant),
        patch.object(Guard, "send", send),
    ]


@mutant
def counts_itself_always() -> list[Any]:
    """A leader that is no voter does not count itself."""
    follow = Core.follow_members

    def eager(self: Core) -> None:
        follow(self)
        self._SyncObj__otherNodes.discard(core_module._ABSENT)  # type: ignore[attr-defined]

    return [patch.object(Core, "follow_members", eager)]


@mutant
def two_changes_at_once() -> list[Any]:
    """The next change waits for the one before to be committed."""

    def propose(self: Membership, change: Any) -> Any:
        with patch.object(Membership, "_settled", lambda self, index: True):
            return stock(self, change)

    stock = Membership.propose
    return [patch.object(Membership, "propose", propose)]


@mutant
def changes_before_its_no_op() -> list[Any]:
    """A new leader changes nothing before its no-op is committed."""

    def expect(self: Group) -> None:
        if not self._core.leads():
            stock(self)

    stock = Group._expect_leader
    return [patch.object(Group, "_expect_leader", expect)]


@mutant
def keeps_a_roster_that_was_cut() -> list[Any]:
    """A roster goes with its entry."""

    def cut(self: MemberLog, index: int) -> bool:
        return False

    def added(self: MemberLog, index: int, roster: Any) -> None:
        self._said = [said for said in self._said if said[0] < index]
        self._said.append((index, roster))
        self._refresh()

    return [patch.object(MemberLog, "cut_from", cut), patch.object(MemberLog, "added", added)]


@mutant
def compacts_the_roster_away() -> list[Any]:
    """The log remembers the roster as of its start."""

    def changed(self: GroupJournal) -> None:
        self.on_members()

    return [patch.object(GroupJournal, "_members_changed", changed)]


@mutant
def one_life_is_as_good_as_another() -> list[Any]:
    """A member that lost its disk is somebody else."""

    def request(self: Elections, peer: int, message: Any) -> None:
        mine = {"life": self._journal.members.life}
        heard(self, peer, type(message)(*_values(message, mine)))

    def ask(self: Elections, peer: int, message: Any) -> None:
        mine = {"life": self._journal.members.life}
        asked(self, peer, type(message)(*_values(message, mine)))

    heard, asked = Elections.hear_request, Elections.hear_ask
    return [
        patch.object(Elections, "hear_request", request),
        patch.object(Elections, "hear_ask", ask),
        patch.object(Guard, "_counted", lambda self, peer, life: True),
    ]


def _values(message: Any, changed: dict[str, Any]) -> list[Any]:
    fields = message.__struct_fields__
    return [changed.get(name, getattr(message, name)) for name in fields]


@mutant
def promotes_no_life() -> list[Any]:
    """A learner is promoted in its life."""
    propose = Membership.propose

    def careless(self: Membership, change: Any) -> Any:
        progress = self._guard.progress.get(change.node)
        if progress is None or progress.life is None:
            return propose(self, change)
        life, progress.life = progress.life, 0
        try:
            return propose(self, change)
        finally:
            progress.life = life

    return [patch.object(Membership, "propose", careless)]


@mutant
def campaigns_by_a_guess() -> list[Any]:
    """Who does not know the members does not campaign."""
    refresh = MemberLog._refresh

    def sure(self: MemberLog) -> None:
        refresh(self)
        self.known = True

    return [patch.object(MemberLog, "_refresh", sure)]


@mutant
def votes_by_its_own_roster() -> list[Any]:
    """A vote is given without consulting one's own roster."""

    def request(self: Elections, peer: int, message: Any) -> None:
        if self._journal.members.counts:
            heard(self, peer, message)

    heard = Elections.hear_request
    return [patch.object(Elections, "hear_request", request)]


@mutant
def votes_while_led() -> list[Any]:
    """While a leader is heard, votes are given by its order only."""

    def request(self: Elections, peer: int, message: Any) -> None:
        heard(self, peer, type(message)(*_values(message, {"asked_to": True})))

    heard = Elections.hear_request
    return [patch.object(Elections, "hear_request", request)]


@mutant
def tells_nobody_that_it_is_out() -> list[Any]:
    """A member that was removed is told."""
    return [patch.object(Elections, "hear_gone", lambda self, message: None)]


@mutant
def leads_for_ever() -> list[Any]:
    """A leader that is no voter any more steps down."""
    return [patch.object(HandOver, "leave", lambda self: None)]


def fails(name: str, story: Callable[[], None] | int) -> bool:
    """The mutant is noticed."""
    with ExitStack() as stack:
        for one in MUTANTS[name]():
            stack.enter_context(one)
        stack.enter_context(patch.object(journal, "KEEP_ENTRIES", 20))
        try:
            if isinstance(story, int):
                members_chaos(story)
            else:
                story()
        except (AssertionError, KeyError):
            return True
    return False


def main() -> None:
    for name in sys.argv[1:] or MUTANTS:
        found = [seed for seed in range(60) if fails(name, seed)][:1]
        print(name, found)


if __name__ == "__main__":
    main()
