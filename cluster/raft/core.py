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
    """See the module. Members are ints; `voters` includes this node."""

    def __init__(
        self,
        owner: CoreOwner,
        journal: GroupJournal,
        make_transport: Callable[[Core], Transport],
        *,
        node: int,
        voters: tuple[int, ...],
        timings: Timings,
    ) -> None:
        self._owner = owner
        self.journal = journal
        self.nodes = {voter: Node(voter) for voter in voters}
        self.peers = tuple(voter for voter in voters if voter != node)
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
        others = [self.nodes[peer] for peer in self.peers]
        super().__init__(
            self.nodes[node],
            others,
            conf,
            nodeClass=Node,
            transportClass=lambda core, _node, _others: make_transport(core),
        )
        self._poller = _NoPoller()
        self._SyncObj__serializer = None
        self._SyncObj__raftLastApplied = journal.getRaftCommitIndex()
        if not self.peers:  # nobody to wait for
            self._SyncObj__raftElectionDeadline = _PAST

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
        return self.nodes[peer] in self._SyncObj__connectedNodes

    def takes_over(self) -> bool:
        """The leader asked this node to campaign at once."""
        return self._SyncObj__transferInProgress

    def election_at_s(self) -> float:
        return self._SyncObj__raftElectionDeadline

    def heartbeat_at_s(self) -> float:
        return self._SyncObj__newAppendEntriesTime

    # What the group does.

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

    def matched(self, peer: int, index: int) -> None:
        node = self.nodes[peer]
        self._SyncObj__raftMatchIndex[node] = max(self._SyncObj__raftMatchIndex[node], index)

    def answered(self, peer: int, now_s: float) -> None:
        self._SyncObj__lastResponseTime[self.nodes[peer]] = now_s

    def sent_heartbeats(self, now_s: float) -> None:
        self._SyncObj__newAppendEntriesTime = now_s + self.timings.heartbeat_s

    def hear(self, peer: int, message: Mapping[str, object]) -> None:
        """Hand a checked message to pysyncobj."""
        self._SyncObj__onMessageReceived(self.nodes[peer], message)

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
