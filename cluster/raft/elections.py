"""One member's part in elections: when it campaigns, whom it asks, to whom it gives its vote.

Keeps:
- Only a voter campaigns: of the roster in force, or of one that is not yet replaced for good. Not
  while the roster is not known, nor after the others said that it is out.
- A campaign begins with a pre-vote, which changes nothing, or by order of the leader.
- Votes are asked of the voters of the roster in force, each in its life, and count from them only.
- A vote is given without consulting the own roster; never for another life, never, unless the
  leader wants it, while a leader is heard.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from cluster.raft.core import Core, Timings
from cluster.raft.wire import (
    AskVote,
    Gone,
    GrantVote,
    Message,
    RequestVote,
    Stale,
    TakeOver,
    WouldVote,
)

FAR_PAST_S = float("-inf")


class ElectionOwner(Protocol):
    """What elections ask of their group."""

    def now_s(self) -> float: ...

    def post(self, peer: int, message: Message) -> bool: ...


class Elections:
    """See the module."""

    def __init__(self, owner: ElectionOwner, core: Core, timings: Timings) -> None:
        self._owner = owner
        self._core = core
        self._journal = core.journal
        self._timings = timings
        self.heard_at_s = FAR_PAST_S  # a leader of the current term
        self.gone_index = 0  # the committed entry there does not have this node among the voters
        self.removed = False  # nor among the learners
        self._asked_to = False  # the campaign was
        self._granted: set[int] = set()
        self._granted_term = 0
        self._ask = 0
        self._asked_at_s = FAR_PAST_S
        self._would_vote: set[int] = set()

    # Campaigning.

    def stands(self) -> bool:
        """This node may campaign."""
        members = self._journal.members
        if not members.known or members.index < self.gone_index:
            return False
        return members.counts or any(
            roster.counts(self._core.node, members.life)
            for roster in members.since(self._core.commit_index())
        )

    def may_campaign(self) -> bool:
        """The election deadline has passed: campaign only if a majority would vote for this
        node.
        """
        core = self._core
        if not self.stands():
            return False
        self._asked_to = core.takes_over()
        if self._asked_to or self.majority(()):
            return True
        now_s = self._owner.now_s()
        if now_s >= self.asks_again_at_s():
            self._ask += 1
            self._asked_at_s = now_s
            self._would_vote.clear()
            journal = self._journal
            last_index, last_term = journal.last_index, journal.last_term
            members = journal.members
            for voter in members.roster.voters:
                if voter != core.node:
                    said = (members.roster.life(voter), members.index)
                    ask = AskVote(self._ask, core.term(), last_index, last_term, *said)
                    self._owner.post(voter, ask)
            return False
        if not self.majority(self._would_vote):
            return False
        self._asked_at_s = FAR_PAST_S
        return True

    def asks_again_at_s(self) -> float:
        return self._asked_at_s + self._timings.election_min_s / 2

    def majority(self, others: Collection[int]) -> bool:
        """`others`, with this node if it counts, are one of the roster in force."""
        members = self._journal.members
        voters = members.roster.voters
        count = sum(1 for voter in voters if voter in others and voter != self._core.node)
        return 2 * (count + members.counts) > len(voters)

    def request_vote(self, peer: int, term: int, last_index: int, last_term: int) -> bool:
        life = self._journal.members.roster.life(peer)
        request = RequestVote(term, last_index, last_term, life, self._asked_to)
        return self._owner.post(peer, request)

    def hear_would(self, peer: int, message: WouldVote) -> None:
        if message.ask == self._ask:
            self._would_vote.add(peer)

    def hear_grant(self, peer: int, message: GrantVote) -> None:
        term = message.term
        if term != self._core.term() or peer not in self._journal.members.roster.voters:
            return
        if self._granted_term != term:
            self._granted_term, self._granted = term, set()
        if peer not in self._granted:
            self._granted.add(peer)
            self._core.hear(peer, {"type": "response_vote", "term": term})

    def hear_take_over(self, peer: int, message: TakeOver, *, installing: bool) -> None:
        if self.stands() and not installing:
            self._core.hear(peer, {"type": "timeout_now", "term": message.term})

    def hear_gone(self, message: Gone) -> None:
        if message.index > max(self.gone_index, self._journal.members.index):
            self.gone_index = message.index
            self.removed = not message.learner
            self._core.forget_take_over()

    # Voting.

    def hear_leader(self) -> None:
        self.heard_at_s = self._owner.now_s()
        self.removed = False

    def led(self) -> bool:
        """A leader was heard within the shortest election timeout, or this node is one."""
        recently_s = self._owner.now_s() - self._timings.election_min_s
        return self._core.leads() or self.heard_at_s > recently_s

    def hear_request(self, peer: int, message: RequestVote) -> None:
        core = self._core
        if message.term < core.term():
            self._owner.post(peer, Stale(core.term()))
        elif self.led() and not message.asked_to:
            return
        elif message.life != self._journal.members.life:
            core.see_term(peer, message.term)
        else:
            request = {"type": "request_vote", "term": message.term}
            request |= {
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            }
            core.hear(peer, request)

    def hear_ask(self, peer: int, message: AskVote) -> None:
        core, journal = self._core, self._journal
        said = journal.members.at(max(core.commit_index(), journal.base_index))
        if said is not None and message.members < said[0] and peer not in said[1].voters:
            self._owner.post(peer, Gone(said[0], peer in said[1].learners))
            return
        if message.term < core.term():
            self._owner.post(peer, Stale(core.term()))
            return
        mine = (journal.last_term, journal.last_index)
        newer = (message.last_term, message.last_index) >= mine
        if newer and not self.led() and message.life == journal.members.life:
            self._owner.post(peer, WouldVote(message.ask))
