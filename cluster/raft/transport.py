# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
"""pysyncobj's Transport of one group, and the guard between its core and the wire.

Everything a member says passes here in both directions; what the core hears is made so that its
stock behaviour is safe (docs/decisions/0002-raft-on-pysyncobj.md lists each fault and its mend).

Keeps:
- A follower's entries are cut only where they conflict, and never at or below its commit index.
- `commit` never covers entries not verified against the leader of the term.
- Answers count only in the term they were given in, votes once for each voter.
- An image is pulled only when the log cannot serve; one at or below the applied index is refused.
- Entries are no-ops or raw payloads, messages are of the closed set in `wire`; the rest is dropped
  and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, assert_never

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.raft.core import RAW, Core, Timings
from cluster.raft.journal import NO_OP
from cluster.raft.progress import IN_FLIGHT_BYTES_MAX, Progress, Stage
from cluster.raft.wal_recovery import Entry
from cluster.raft.wire import (
    Accept,
    Append,
    AskVote,
    Busy,
    GrantVote,
    Message,
    Pointer,
    Reject,
    RequestVote,
    Stale,
    TakeOver,
    WireEntry,
    WouldVote,
)

BATCH_BYTES_MAX = 4 << 20
PROBE_BYTES_MAX = 64 << 10
_FAR_PAST_S = float("-inf")


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
        self._timings = timings
        self._voters = len(core.peers) + 1
        self._progress: dict[int, Progress] = {}
        self._round = 0  # raised by each read index; sent with every Append
        self._echoed: dict[int, int] = {}
        self._round_heard = 0
        self._heard_at_s = _FAR_PAST_S  # from a leader of the current term
        self._granted: set[int] = set()
        self._granted_term = 0
        self._ask = 0
        self._asked_at_s = _FAR_PAST_S
        self._would_vote: set[int] = set()
        self.installing = False
        self.dropped = 0

    # Links.

    def connected(self, peer: int) -> None:
        self._onNodeConnected(self._core.nodes[peer])

    def disconnected(self, peer: int) -> None:
        self._onNodeDisconnected(self._core.nodes[peer])
        if peer in self._progress:
            self._progress[peer].lost()

    # Elections.

    def may_campaign(self) -> bool:
        """The election deadline has passed: campaign only if a majority would vote for this
        node.
        """
        if not self._core.peers:
            return True
        if self.installing:
            return False
        if self._core.takes_over():
            return True
        now_s = self._owner.now_s()
        if now_s >= self.asks_again_at_s():
            self._ask += 1
            self._asked_at_s = now_s
            self._would_vote.clear()
            last_index, last_term = self._journal.last_index, self._journal.last_term
            for peer in self._core.peers:
                self._owner.post(peer, AskVote(self._ask, self._core.term(), last_index, last_term))
            return False
        if not self._majority(len(self._would_vote)):
            return False
        self._asked_at_s = _FAR_PAST_S
        return True

    def asks_again_at_s(self) -> float:
        return self._asked_at_s + self._timings.election_min_s / 2

    def _majority(self, others: int) -> bool:
        return 2 * (others + 1) > self._voters

    # Leading.

    def began_leading(self) -> None:
        next_index = self._journal.last_index + 1
        self._progress = {peer: Progress(next_index) for peer in self._core.peers}
        self._echoed = {}

    def open_round(self) -> int:
        """A number that only answers to what is sent from now on will echo."""
        self._round += 1
        return self._round

    def confirmed(self, number: int) -> bool:
        """A majority has answered, in this term, something sent after `open_round` gave
        `number`.
        """
        return self._majority(sum(1 for echo in self._echoed.values() if echo >= number))

    def matched(self, peer: int) -> int:
        return self._progress[peer].match_index

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
        """Hear `message` of `peer`, a member of this group."""
        if peer not in self._core.nodes or peer not in self._core.peers:
            self.dropped += 1
            return
        match message:
            case Append():
                self._hear_append(peer, message)
            case Pointer():
                self._hear_pointer(peer, message)
            case Accept() | Reject() | Busy():
                self._hear_answer(peer, message)
            case RequestVote(term, last_index, last_term):
                if term < self._core.term():
                    self._owner.post(peer, Stale(self._core.term()))
                    return
                request = {"type": "request_vote", "term": term}
                request |= {"last_log_index": last_index, "last_log_term": last_term}
                self._core.hear(peer, request)
            case GrantVote(term):
                self._hear_grant(peer, term)
            case AskVote():
                self._hear_ask(peer, message)
            case WouldVote(ask):
                if ask == self._ask:
                    self._would_vote.add(peer)
            case Stale(term):
                self._core.see_term(peer, term)
            case TakeOver(term):
                self._core.hear(peer, {"type": "timeout_now", "term": term})
            case _:
                assert_never(message)

    def _hear_append(self, peer: int, message: Append) -> None:
        core, journal = self._core, self._journal
        if not self._hear_leader(peer, message):
            return
        if self.installing:
            self._hear_heartbeat(peer, message.term, 0)
            self._owner.post(peer, Busy(message.term, message.round))
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
            self._owner.post(peer, Reject(message.term, message.round, prev, index, term))
            return
        verified, at = prev + len(entries), prev + 1 - journal.base_index
        commit = min(message.commit, verified)
        known = _common(journal[at : at + len(entries)], entries)
        if known == len(entries):
            # Nothing new, and we may hold more: stock code would cut entries we have acknowledged.
            self._hear_heartbeat(peer, message.term, commit)
            self._owner.post(peer, Accept(message.term, message.round, verified))
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
            self._owner.post(peer, Accept(message.term, message.round, index))
            return
        self._owner.post(peer, Busy(message.term, message.round))
        if not self.installing:
            self.installing = True
            self._owner.install(peer)

    def installed(self, index: int) -> None:
        """An image as of `index` is in place: tell the leader."""
        leader = self._core.leader()
        if leader is not None and leader in self._core.peers:
            self._owner.post(leader, Accept(self._core.term(), self._round_heard, index))

    def _hear_leader(self, peer: int, message: Append | Pointer) -> bool:
        term = self._core.term()
        if message.term < term:
            self._owner.post(peer, Stale(term))
            return False
        assert not (message.term == term and self._core.leads()), "two leaders in one term"
        self._heard_at_s = self._owner.now_s()
        self._round_heard = message.round
        return True

    def _hear_heartbeat(self, peer: int, term: int, commit: int) -> None:
        """Stock code: follow `peer`, touch no entry, commit what is verified."""
        heartbeat = {"type": "append_entries", "term": term}
        self._core.hear(peer, heartbeat | {"commit_index": commit, "serialized": None})

    def _hear_answer(self, peer: int, message: Accept | Reject | Busy) -> None:
        core = self._core
        if message.term != core.term() or not core.leads():
            return  # an answer to another leadership proves nothing about this one
        core.answered(peer, self._owner.now_s())
        self._echoed[peer] = max(self._echoed.get(peer, 0), min(message.round, self._round))
        progress = self._progress[peer]
        match message:
            case Accept():
                if message.index > self._journal.last_index:
                    self.dropped += 1
                    return
                progress.accepted(message.index)
                core.matched(peer, message.index)
            case Reject():
                common, _ = self._journal.find_conflict(message.index, message.hint_term)
                progress.rejected(message.prev_index, common)
            case Busy():
                pass
            case _:
                assert_never(message)

    def _hear_grant(self, peer: int, term: int) -> None:
        if term != self._core.term():
            return
        if self._granted_term != term:
            self._granted_term, self._granted = term, set()
        if peer not in self._granted:
            self._granted.add(peer)
            self._core.hear(peer, {"type": "response_vote", "term": term})

    def _hear_ask(self, peer: int, message: AskVote) -> None:
        core, journal = self._core, self._journal
        if message.term < core.term():
            self._owner.post(peer, Stale(core.term()))
            return
        mine = (journal.last_term, journal.last_index)
        led = core.leads() or (
            self._owner.now_s() - self._heard_at_s < self._timings.election_min_s
        )
        if not led and (message.last_term, message.last_index) >= mine:
            self._owner.post(peer, WouldVote(message.ask))

    # What the core says.

    def send(self, node: Node, message: Mapping[str, Any]) -> bool:
        peer: int = node.id
        match message["type"]:
            case "request_vote":
                last_index, last_term = message["last_log_index"], message["last_log_term"]
                return self._owner.post(peer, RequestVote(message["term"], last_index, last_term))
            case "response_vote":
                return self._owner.post(peer, GrantVote(message["term"]))
            case "next_node_idx":
                assert message["success"], "the guard refuses by itself"
                index: int = message["next_node_idx"] - 1
                return self._owner.post(peer, Accept(self._core.term(), self._round_heard, index))
            case _:  # forwarding, transmission, stock entries: nothing of ours needs them
                self.dropped += 1
                return False

    def hand_over(self, peer: int) -> bool:
        return self._owner.post(peer, TakeOver(self._core.term()))

    def destroy(self) -> None:
        pass


def _well_formed(message: Append) -> bool:
    """Terms never fall and never pass the leader's; commands are no-ops or raw payloads."""
    low = message.prev_term
    for term, command in message.entries:
        if not low <= term <= message.term:
            return False
        if command != NO_OP and command[:1] != RAW:
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
