# pyright: basic
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
"""The SyncObj of one group: pysyncobj's terms, votes and commit rule, with the rest cut out.

All names of the form `_SyncObj__x` live in this file. pysyncobj calls its private methods through
those mangled names, so a subclass replaces them; `audit` makes sure they mean what they meant when
read.

What is left of pysyncobj: the tick (election deadline, commit by counting entries of the own term,
leaderFallbackTimeout), vote bookkeeping, the follower's append, becoming leader with a no-op. What
is replaced: applying, sending entries, compaction and dumps, command queue and forwarding,
membership, code versions; nothing that reads a pickle stays reachable.

Members follow the journal's roster: other voters are pysyncobj's `otherNodes`, which it counts,
learners its `readonlyNodes`, which it does not. It always counts itself, as one of
`len(otherNodes) + 1`; where this node is no voter, a node that never answers stands among the
others: with n voters `1 + k > (n + 2) / 2` is `k > n / 2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.raft.journal import GroupJournal

RAW = b"\x10"  # our command type byte: what follows is the payload, uninterpreted
NEVER = float("inf")
_PAST = float("-inf")

_ABSENT = Node(-1)  # never answers: see the module
_FOLLOWER, _CANDIDATE, _LEADER = 0, 1, 2
_ROLES = {_FOLLOWER: "follower", _CANDIDATE: "candidate", _LEADER: "leader"}


@dataclass(frozen=True, slots=True)
class Timings:
    """Raft's timers in seconds. An election timeout is drawn between min and max."""

    heartbeat_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    fallback_s: float = 1.0  # a leader without a quorum's answers for this long steps down


class CoreOwner(Protocol):
    """What the core asks of its group."""

    def may_campaign(self) -> bool: ...

    def apply_ready(self) -> None: ...

    def broadcast(self, *, forced: bool) -> None: ...

    def began_leading(self) -> None: ...

    def state_changed(self, leads: bool) -> None: ...

    def dice(self) -> float: ...


def use_clock(monotonic: Callable[[], float]) -> None:
    """Let pysyncobj read time from `monotonic`: the one clock of the process (or of the
    simulation).
    """
    library.monotonicTime = monotonic


def _create_journal(journal: Journal | None = None) -> Journal:
    assert isinstance(journal, GroupJournal), "a group's journal is made by its owner"
    return journal


class _NoPoller:
    """pysyncobj's tick ends in a poll; there are no descriptors."""

    def poll(self, timeout: float) -> None:
        pass


class Core(SyncObj):
    """See the module. Members are ints."""

    def __init__(
        self,
        owner: CoreOwner,
        journal: GroupJournal,
        make_transport: Callable[[Core], Transport],
        *,
        node: int,
        timings: Timings,
    ) -> None:
        self._owner = owner
        self.journal = journal
        self.node = node
        self._nodes: dict[int, Node] = {}
        self.timings = timings
        conf = SyncObjConf(
            autoTick=False,
            commandsWaitLeader=False,
            journalFile=journal,
            dynamicMembershipChange=False,
            appendEntriesPeriod=timings.heartbeat_s,
            raftMinTimeout=timings.election_min_s,
            raftMaxTimeout=timings.election_max_s,
            connectionTimeout=max(3.5, timings.election_max_s),
            leaderFallbackTimeout=timings.fallback_s,
            onStateChanged=self._state_changed,
        )
        library.createJournal = _create_journal
        super().__init__(
            self.node_of(node),
            (),
            conf,
            nodeClass=Node,
            transportClass=lambda core, _node, _others: make_transport(core),
        )
        self._poller = _NoPoller()
        self._SyncObj__serializer = None
        self._SyncObj__raftLastApplied = journal.getRaftCommitIndex()
        self.follow_members()
        if journal.members.sole:  # nobody to wait for
            self._SyncObj__raftElectionDeadline = _PAST

    def node_of(self, peer: int) -> Node:
        node = self._nodes.get(peer)
        if node is None:
            node = self._nodes[peer] = Node(peer)
        return node

    # What the group reads.

    def leads(self) -> bool:
        return self._SyncObj__raftState == _LEADER

    def role(self) -> str:
        return _ROLES[self._SyncObj__raftState]

    def term(self) -> int:
        return self._SyncObj__raftCurrentTerm

    def leader(self) -> int | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else leader.id

    def commit_index(self) -> int:
        return self._SyncObj__raftCommitIndex

    def applied_index(self) -> int:
        return self._SyncObj__raftLastApplied

    def no_op_index(self) -> int:
        """Index of the entry this node began its leadership with."""
        index = self._SyncObj__noopIDx
        assert index is not None
        return index

    def connected(self, peer: int) -> bool:
        return self.node_of(peer) in self._SyncObj__connectedNodes

    def answered_at_s(self, peer: int) -> float:
        """At a leader: when `peer` answered last."""
        return self._SyncObj__lastResponseTime.get(self.node_of(peer), _PAST)

    def takes_over(self) -> bool:
        """The leader asked this node to campaign at once."""
        return self._SyncObj__transferInProgress

    def election_at_s(self) -> float:
        return self._SyncObj__raftElectionDeadline

    def heartbeat_at_s(self) -> float:
        return self._SyncObj__newAppendEntriesTime

    # What the group does.

    def follow_members(self) -> None:
        """Another roster may be in force: count its voters."""
        members = self.journal.members
        others = {self.node_of(voter) for voter in members.roster.voters if voter != self.node}
        if not members.counts:
            others.add(_ABSENT)
        learners = {self.node_of(each) for each in members.roster.learners if each != self.node}
        self._SyncObj__otherNodes = others
        self._SyncObj__readonlyNodes = learners
        if self.leads():
            now_s = library.monotonicTime()
            for known in (self._SyncObj__raftMatchIndex, self._SyncObj__lastResponseTime):
                for each in known.keys() - (others | learners):
                    del known[each]
            for each in others | learners:
                self._SyncObj__raftMatchIndex.setdefault(each, 0)
                answered_s = _PAST if each == _ABSENT else now_s
                self._SyncObj__lastResponseTime.setdefault(each, answered_s)

    def step_down(self) -> None:
        self._SyncObj__raftLeader = None
        self._SyncObj__raftElectionDeadline = (
            library.monotonicTime() + self._SyncObj__generateRaftTimeout()
        )
        self._SyncObj__setState(_FOLLOWER)

    def forget_take_over(self) -> None:
        self._SyncObj__transferInProgress = False

    def applied(self, index: int) -> None:
        """Entries up to `index` are in the machine."""
        self._SyncObj__raftLastApplied = index

    def installed(self, index: int) -> None:
        """The machine's state is an image as of `index`."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, index)
        self.journal.setRaftCommitIndex(self._SyncObj__raftCommitIndex)

    def commit_alone(self) -> None:
        """A sole voter: what is on its disk is agreed, if it ends in an entry of the current
        term.
        """
        index = self.journal.durable_index
        if self.journal.term_at(index) == self.term() and index > self.commit_index():
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)

    def advance(self) -> None:
        """Commit what a majority has, this node among them: pysyncobj's rule of its tick, at once.
        Only entries of the own term are counted; they carry the older ones with them.
        """
        others = self._SyncObj__otherNodes
        if not others or not self.leads():
            return
        matches = self._SyncObj__raftMatchIndex
        found = sorted((matches[node] for node in others), reverse=True)
        index = found[(len(found) + 1) // 2 - 1]
        if index > self.commit_index() and self.journal.term_at(index) == self.term():
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)

    def matched(self, peer: int, index: int) -> None:
        """`peer`, as the member it counts for, has our entries up to `index` on disk."""
        self._SyncObj__raftMatchIndex[self.node_of(peer)] = index

    def answered(self, peer: int, now_s: float) -> None:
        self._SyncObj__lastResponseTime[self.node_of(peer)] = now_s

    def sent_heartbeats(self, now_s: float) -> None:
        self._SyncObj__newAppendEntriesTime = now_s + self.timings.heartbeat_s

    def hear(self, peer: int, message: Mapping[str, object]) -> None:
        """Hand a checked message to pysyncobj."""
        self._SyncObj__onMessageReceived(self.node_of(peer), message)

    def see_term(self, peer: int, term: int) -> None:
        """A peer is in `term`: if that is newer, follow in it (a vote request that can't be
        granted).
        """
        if term > self.term():
            request = {"type": "request_vote", "term": term}
            self.hear(peer, request | {"last_log_index": -1, "last_log_term": -1})

    # Replaced parts of pysyncobj.

    def _state_changed(self, old: int, new: int) -> None:
        self._owner.state_changed(new == _LEADER)

    def _SyncObj__generateRaftTimeout(self) -> float:
        low, high = self.timings.election_min_s, self.timings.election_max_s
        return low + (high - low) * self._owner.dice()

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Asked exactly when the election deadline has passed."""
        return self._owner.may_campaign()

    def _SyncObj__applyLogEntries(self) -> bool:
        self._owner.apply_ready()
        return False

    def _SyncObj__sendAppendEntries(self) -> None:
        self._owner.broadcast(forced=True)

    def _SyncObj__onBecomeLeader(self) -> None:
        self._owner.began_leading()
        super()._SyncObj__onBecomeLeader()
        if _ABSENT in self._SyncObj__otherNodes:
            self._SyncObj__lastResponseTime[_ABSENT] = _PAST

    def _checkCommandsToApply(self) -> None:
        """Entries are pulled by the group after the tick."""

    def _SyncObj__tryLogCompaction(self) -> None:
        """The owner compacts the journal; there are no dumps."""

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:
        """Stock code unpickles here."""
        return None

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        raise AssertionError("entries are applied by the group")

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise AssertionError("images are installed by the group")

    def _applyCommand(self, command: object, callback: object, commandType: object = None) -> None:
        raise AssertionError("entries are appended by the group")
