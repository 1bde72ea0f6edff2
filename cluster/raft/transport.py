# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
"""pysyncobj's Transport of one group, and the guard between its core and the wire.

Everything a member says passes here in both directions; what the core hears is made so that its
stock behaviour is safe (docs/decisions/0002-raft-on-pysyncobj.md lists each fault and its mend).

Keeps:
- A follower's entries are cut only where they conflict, and never at or below its commit index.
- `commit` never covers entries not verified against the leader of the term.
- Answers count only in the term they were given in, from members, in the life the roster names.
- An image is pulled only when the log cannot serve; one at or below the applied index is refused.
- Entries are no-ops, raw payloads or rosters, messages are of the closed set in `wire`; the rest is
  dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, assert_never

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.raft.core import RAW, Core, Timings
from cluster.raft.elections import Elections
from cluster.raft.journal import NO_OP
from cluster.raft.members import ROSTER, Roster, decode_roster
from cluster.raft.progress import IN_FLIGHT_BYTES_MAX, Progress, Stage
from cluster.raft.wal_recovery import Entry
from cluster.raft.wire import (
    Accept,
    Append,
    AskMembers,
    AskVote,
    Busy,
    Gone,
    GrantVote,
    Message,
    Pointer,
    Reject,
    RequestVote,
    Stale,
    TakeOver,
    TellMembers,
    WireEntry,
    WouldVote,
)

BATCH_BYTES_MAX = 4 << 20
PROBE_BYTES_MAX = 64 << 10


class GuardOwner(Protocol):
    """What the guard asks of its group."""

    def now_s(self) -> float: ...

    def post(self, peer: int, message: Message) -> bool: ...

    def install(self, source: int) -> None: ...


class Guard(Transport):
    """See the module."""

    def __init__(self, owner: GuardOwner, core: Core, timings: Timings) -> None:
        super().__init__(core, None, ())
        self._owner = owner
        self._core = core
        self._journal = core.journal
        self.elections = Elections(owner, core, timings)
        self._progress: dict[int, Progress] = {}
        self._round = 0  # raised by each read index; sent with every Append
        self._echoed: dict[int, int] = {}
        self._round_heard = 0
        self.installing = False
        self.dropped = 0

    # Links.

    def connected(self, peer: int) -> None:
        self._onNodeConnected(self._core.node_of(peer))

    def disconnected(self, peer: int) -> None:
        self._onNodeDisconnected(self._core.node_of(peer))
        if peer in self._progress:
            self._progress[peer].lost()

    # Members.

    def members_changed(self) -> None:
        """Another roster is in force: a leader sends to its members, and counts its voters."""
        core = self._core
        core.follow_members()
        if not core.leads():
            return
        roster, next_index = self._journal.members.roster, self._journal.last_index + 1
        wanted = [node for node in roster.nodes if node != core.node]
        for gone in self._progress.keys() - set(wanted):
            del self._progress[gone]
            self._echoed.pop(gone, None)
        for peer in wanted:
            progress = self._progress.setdefault(peer, Progress(next_index))
            if self._counted(peer, progress.life):
                self._count(peer, progress)
            else:
                core.matched(peer, 0)

    def _counted(self, peer: int, life: int | None) -> bool:
        """What `peer` says in `life` is said by the member of that id."""
        roster = self._journal.members.roster
        return peer not in roster.voters or roster.life(peer) == life

    def majority_at_s(self, roster: Roster) -> float:
        """At a leader: when a majority of `roster` had answered last."""
        core, now_s = self._core, self._owner.now_s()
        answered_s = sorted(
            now_s if voter == core.node else core.answered_at_s(voter) for voter in roster.voters
        )
        return answered_s[(len(answered_s) - 1) // 2]

    # Leading.

    def began_leading(self) -> None:
        next_index = self._journal.last_index + 1
        node, roster = self._core.node, self._journal.members.roster
        self._progress = {peer: Progress(next_index) for peer in roster.nodes if peer != node}
        self._echoed = {}

    def open_round(self) -> int:
        """A number that only answers to what is sent from now on will echo."""
        self._round += 1
        return self._round

    def confirmed(self, number: int) -> bool:
        """A majority has answered, in this term, something sent after `open_round` gave
        `number`.
        """
        heard = [peer for peer, echo in self._echoed.items() if echo >= number]
        return self.elections.majority(heard)

    @property
    def progress(self) -> Mapping[int, Progress]:
        return self._progress

    def broadcast(self, *, forced: bool) -> None:
        """Send what each follower lacks; `forced`: at least a heartbeat to each."""
        if forced:
            self._core.sent_heartbeats(self._owner.now_s())
        for peer, progress in self._progress.items():
            if self._core.connected(peer):
                self._send_to(peer, progress, forced)

    def _send_to(self, peer: int, progress: Progress, forced: bool) -> None:
        journal = self._journal
        if progress.next_index <= journal.base_index and progress.stage is not Stage.IMAGE:
            progress.needs_image()
            forced = True
        match progress.stage:
            case Stage.IMAGE:
                if forced:
                    term, index = self._core.term(), journal.base_index
                    self._owner.post(peer, Pointer(term, self._round, index, journal.base_term))
            case Stage.PROBE:
                if forced or not progress.probing:
                    progress.probing = True
                    entries = journal.entries_from(progress.next_index, PROBE_BYTES_MAX)
                    self._post_append(peer, progress.next_index, entries)
            case Stage.REPLICATE:
                idle = True
                while (
                    progress.next_index <= journal.last_index
                    and progress.in_flight_bytes < IN_FLIGHT_BYTES_MAX
                ):
                    idle = False
                    first = progress.next_index
                    entries = journal.entries_from(first, BATCH_BYTES_MAX)
                    progress.sent(entries[-1][1], sum(len(entry[0]) for entry in entries))
                    if not self._post_append(peer, first, entries):
                        return
                if idle and forced:
                    self._post_append(peer, progress.next_index, [])
            case _:
                assert_never(progress.stage)

    def _post_append(self, peer: int, first: int, entries: list[Entry]) -> bool:
        core, journal = self._core, self._journal
        prev_term = journal.term_at(first - 1)
        assert prev_term is not None
        message = Append(
            core.term(),
            self._round,
            first - 1,
            prev_term,
            core.commit_index(),
            [(term, command) for command, _, term in entries],
        )
        return self._owner.post(peer, message)

    # What peers say.

    def deliver(self, peer: int, message: Message) -> None:
        """Hear `message` of `peer`. Leaders and candidates may be strangers, answers are not."""
        elections = self.elections
        match message:
            case Append():
                self._hear_append(peer, message)
            case Pointer():
                self._hear_pointer(peer, message)
            case Accept() | Reject() | Busy():
                self._hear_answer(peer, message)
            case RequestVote():
                elections.hear_request(peer, message)
            case GrantVote():
                elections.hear_grant(peer, message)
            case AskVote():
                elections.hear_ask(peer, message)
            case WouldVote():
                elections.hear_would(peer, message)
            case Stale(term):
                if peer in self._journal.members.roster.nodes:
                    self._core.see_term(peer, term)
                else:
                    self.dropped += 1
            case TakeOver():
                elections.hear_take_over(peer, message, installing=self.installing)
            case Gone():
                elections.hear_gone(message)
            case AskMembers():
                self._hear_ask_members(peer, message)
            case TellMembers():
                self._hear_tell_members(peer, message)
            case _:
                assert_never(message)

    def _hear_append(self, peer: int, message: Append) -> None:
        core, journal = self._core, self._journal
        if not self._hear_leader(peer, message):
            return
        if self.installing:
            self._hear_heartbeat(peer, message.term, 0)
            self._owner.post(peer, Busy(message.term, message.round, journal.members.life))
            return
        if not _well_formed(message):
            self.dropped += 1
            return
        prev, entries = message.prev_index, message.entries
        if (
            prev < journal.base_index
        ):  # what the base stands for is committed, so the leader has it too
            entries = entries[journal.base_index - prev :]
            prev = journal.base_index
        elif journal.term_at(prev) != message.prev_term:
            self._hear_heartbeat(peer, message.term, 0)
            index = min(prev, journal.last_index)
            index, term = journal.find_conflict(index, message.prev_term)
            said = (prev, index, term, journal.members.life)
            self._owner.post(peer, Reject(message.term, message.round, *said))
            return
        verified, at = prev + len(entries), prev + 1 - journal.base_index
        commit = min(message.commit, verified)
        known = _common(journal[at : at + len(entries)], entries)
        if known == len(entries):
            # Nothing new, and we may hold more: stock code would cut entries we have acknowledged.
            self._hear_heartbeat(peer, message.term, commit)
            self._accept(peer, message.term, message.round, verified)
            return
        prev += known
        assert prev >= min(core.commit_index(), journal.last_index), (
            "a committed entry would be cut"
        )
        fresh = enumerate(entries[known:], prev + 1)
        core.hear(
            peer,
            {
                "type": "append_entries",
                "term": message.term,
                "commit_index": commit,
                "prevLogIdx": prev,
                "prevLogTerm": journal.term_at(prev),
                "entries": [(command, index, term) for index, (term, command) in fresh],
            },
        )

    def _hear_pointer(self, peer: int, message: Pointer) -> None:
        if not self._hear_leader(peer, message):
            return
        self._hear_heartbeat(peer, message.term, 0)
        index = message.index
        held = self._journal.term_at(index) == message.base_term
        if not self.installing and (held or index <= self._core.applied_index()):
            # The leader's log starts within ours: no image, which could only set this group back.
            self._accept(peer, message.term, message.round, index)
            return
        self._owner.post(peer, Busy(message.term, message.round, self._journal.members.life))
        if not self.installing:
            self.installing = True
            self._owner.install(peer)

    def installed(self, index: int) -> None:
        """An image as of `index` is in place: tell the leader."""
        leader = self._core.leader()
        if leader is not None and leader != self._core.node:
            self._accept(leader, self._core.term(), self._round_heard, index)

    def _accept(self, leader: int, term: int, round: int, index: int) -> bool:
        life = self._journal.members.life
        return self._owner.post(leader, Accept(term, round, index, life))

    def _hear_leader(self, peer: int, message: Append | Pointer) -> bool:
        term = self._core.term()
        if message.term < term:
            self._owner.post(peer, Stale(term))
            return False
        assert not (message.term == term and self._core.leads()), "two leaders in one term"
        self.elections.hear_leader()
        self._round_heard = message.round
        if not self._journal.members.known and not self.installing:
            self._owner.post(peer, AskMembers(message.term, self._journal.base_index))
        return True

    def _hear_heartbeat(self, peer: int, term: int, commit: int) -> None:
        """Stock code: follow `peer`, touch no entry, commit what is verified."""
        heartbeat = {"type": "append_entries", "term": term}
        self._core.hear(peer, heartbeat | {"commit_index": commit, "serialized": None})

    def _count(self, peer: int, progress: Progress) -> None:
        """pysyncobj counts this node for every entry it has; entries leave before they are on its
        disk, so those that are not yet are not counted for the others either.
        """
        self._core.matched(peer, min(progress.match_index, self._journal.durable_index))

    def is_level(self, peer: int) -> bool:
        """At a leader: it has been sent all there is, and nothing waits for what it says."""
        progress = self._progress.get(peer)
        return (
            progress is not None
            and progress.stage is Stage.REPLICATE
            and progress.next_index > self._journal.last_index
        )

    def synced(self) -> None:
        """More of the own log is on disk: what others were not counted for before may count now."""
        for peer, progress in self._progress.items():
            if progress.life is not None and self._counted(peer, progress.life):
                self._count(peer, progress)

    def _hear_answer(self, peer: int, message: Accept | Reject | Busy) -> None:
        core = self._core
        if message.term != core.term() or not core.leads():
            return  # an answer to another leadership proves nothing about this one
        progress = self._progress.get(peer)
        if progress is None:
            self.dropped += 1
            return
        if progress.life != message.life:
            if progress.life is not None:  # what it had is lost
                progress = self._progress[peer] = Progress(self._journal.last_index + 1)
                self._echoed.pop(peer, None)
                core.matched(peer, 0)
            progress.life = message.life
        counted, now_s = self._counted(peer, message.life), self._owner.now_s()
        if counted:
            core.answered(peer, now_s)
            self._echoed[peer] = max(self._echoed.get(peer, 0), min(message.round, self._round))
        match message:
            case Accept():
                if message.index > self._journal.last_index:
                    self.dropped += 1
                    return
                progress.accepted(message.index)
                progress.turned(self._journal.last_index, now_s)
                if counted:
                    self._count(peer, progress)
            case Reject():
                common, _ = self._journal.find_conflict(message.index, message.hint_term)
                progress.rejected(message.prev_index, common)
            case Busy():
                pass
            case _:
                assert_never(message)

    def _hear_ask_members(self, peer: int, message: AskMembers) -> None:
        core, journal, index = self._core, self._journal, message.index
        if not core.leads() or message.term != core.term():
            return
        said = journal.members.at(index)
        if said is not None and index <= journal.last_index:
            at, roster = said
            told = (at, roster.voters, roster.learners, roster.lives)
            self._owner.post(peer, TellMembers(message.term, index, *told))

    def _hear_tell_members(self, peer: int, message: TellMembers) -> None:
        core, journal = self._core, self._journal
        roster = Roster(message.voters, message.learners, message.lives)
        if not roster.well_formed() or message.said > message.index:
            self.dropped += 1
            return
        current = peer == core.leader() and message.term == core.term()
        if current and message.index == journal.base_index and not journal.members.base_known:
            journal.tell_members(message.said, roster)

    # What the core says.

    def send(self, node: Node, message: Mapping[str, Any]) -> bool:
        peer: int = node.id
        if peer < 0:  # the core's voter that is never there
            return False
        match message["type"]:
            case "request_vote":
                last_index, last_term = message["last_log_index"], message["last_log_term"]
                return self.elections.request_vote(peer, message["term"], last_index, last_term)
            case "response_vote":
                return self._owner.post(peer, GrantVote(message["term"]))
            case "next_node_idx":
                assert message["success"], "the guard refuses by itself"
                index: int = message["next_node_idx"] - 1
                return self._accept(peer, self._core.term(), self._round_heard, index)
            case _:  # forwarding, transmission, stock entries: nothing of ours needs them
                self.dropped += 1
                return False

    def hand_over(self, peer: int) -> bool:
        return self._owner.post(peer, TakeOver(self._core.term()))

    def destroy(self) -> None:
        pass


def _well_formed(message: Append) -> bool:
    """Terms never fall and never pass the leader's; commands are no-ops, raw payloads, rosters."""
    low = message.prev_term
    for term, command in message.entries:
        if not low <= term <= message.term:
            return False
        kind = command[:1]
        if kind == ROSTER:
            if decode_roster(command) is None:
                return False
        elif command != NO_OP and kind != RAW:
            return False
        low = term
    return True


def _common(held: Iterable[Entry], entries: list[WireEntry]) -> int:
    """How many of `entries` are the first of `held`: same index and term means the same entry."""
    count = 0
    for (_, _, term), (their_term, _) in zip(held, entries, strict=False):
        if term != their_term:
            break
        count += 1
    return count
