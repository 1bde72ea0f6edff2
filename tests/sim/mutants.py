"""Clauses of the protocol, each left out: what a simulated world must notice.

A mutant patches the real classes for the time of a run; its docstring says which rule it breaks.
`first_seeds` names a seed that notices it (`python -m tests.sim.mutants` writes the table anew).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

from cluster.raft import transport
from cluster.raft.group import Group
from cluster.raft.hub import Hub, _Outbox
from cluster.raft.journal import GroupJournal
from cluster.raft.transport import Guard
from kalamdb.apply.machine import Machine
from kalamdb.decide import purge, rows, sequencer
from kalamdb.decide.draft import Draft
from kalamdb.decide.flight import Flight, settle
from kalamdb.decide.requests import Requests
from kalamdb.decide.rows import RowWriter
from kalamdb.decide.sequencer import Sequencer
from kalamdb.decide.standing import Standing
from kalamdb.errors import NotLeader, Unavailable
from kalamdb.model import codec, keys
from kalamdb.model.command import Entry, Outcome
from kalamdb.model.ids import HOUR_MS, SEQ_TIME_SHIFT, Seq
from kalamdb.model.work import ReadSet
from kalamdb.ports import ChangeSink
from kalamdb.replica.replica import Replica
from kalamdb.store import changes
from kalamdb.store.memory import MemoryStore
from tests.sim import run
from tests.sim.first_seeds import FIRST_SEED

Patches = Callable[[], list[Any]]
MUTANTS: dict[str, Patches] = {}
ALONE: set[str] = set()
"""Mutants that show with one member only."""


def mutant(make: Patches) -> Patches:
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def active(patches: list[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def planted(name: str) -> AbstractContextManager[None]:
    return active(MUTANTS[name]())


# Deciding.


@mutant
def leads_before_its_no_op() -> list[Any]:
    """§1 ready: a leader decides only when it has applied its own no-op."""
    settle_group = Group._settle

    def eager(self: Group) -> None:
        if self._led is None and self._core.leads():
            self._led = self._core.term()
            self._uncommitted_bytes = 0
            self._machine.lead(self._led)
        settle_group(self)

    return [patch.object(Group, "_settle", eager)]


@mutant
def refuses_at_once() -> list[Any]:
    """§1 refusals wait for everything decided before them."""

    def judge(self: Sequencer, waiter: Any, result: Any) -> None:
        settle(waiter, result)

    return [patch.object(Sequencer, "_judge", judge)]


@mutant
def refuses_unconfirmed() -> list[Any]:
    """§1 refusals: leadership is confirmed after the decision."""
    return [patch.object(Replica, "_confirm", lambda self, done: True)]


@mutant
def keeps_overlay() -> list[Any]:
    """§1 the overlay dies with the term."""
    resign, lead = Sequencer.resign, Sequencer.lead

    def keep(self: Sequencer, reason: str) -> None:
        kept = dict(self.overlay)
        resign(self, reason)
        self.kept = kept  # type: ignore[attr-defined]

    def bring(self: Sequencer, term: int) -> None:
        lead(self, term)
        self.overlay.update(getattr(self, "kept", {}))

    return [patch.object(Sequencer, "resign", keep), patch.object(Sequencer, "lead", bring)]


@mutant
def keeps_queue() -> list[Any]:
    """§1 an entry is appended only if this node leads in the term in which it was decided."""
    resign, lead = Sequencer.resign, Sequencer.lead

    def keep(self: Sequencer, reason: str) -> None:
        kept = deque(self._queue)
        resign(self, reason)
        self.kept = kept  # type: ignore[attr-defined]

    def bring(self: Sequencer, term: int) -> None:
        lead(self, term)
        self._queue.extend(getattr(self, "kept", ()))
        if self._queue:
            self.seq_last = max(self.seq_last, self._queue[-1].seq_after)

    return [patch.object(Sequencer, "resign", keep), patch.object(Sequencer, "lead", bring)]


@mutant
def calls_appended_unavailable() -> list[Any]:
    """§1 what was appended may be done: Indeterminate, not Unavailable."""
    return [patch.object(sequencer, "Indeterminate", Unavailable)]


@mutant
def answers_before_apply() -> list[Any]:
    """§6 `ok` after apply on the leader."""
    take = Sequencer.take

    def early(self: Sequencer, term: int, size_max: int) -> bytes | None:
        payload = take(self, term, size_max)
        if payload is not None:
            for flight in self._taken[-1].commands:
                for waiter in flight.waiters:
                    settle(waiter, flight.answer)
        return payload

    return [patch.object(Sequencer, "take", early)]


@mutant
def reads_no_overlay() -> list[Any]:
    """§1 `decide` reads overlay and store, not the store alone."""

    def get(self: Draft, key: bytes) -> bytes | None:
        effect = self.fresh.get(key)
        return self._stored(key) if effect is None else effect[1]

    return [patch.object(Draft, "get", get)]


@mutant
def believes_slow_work() -> list[Any]:
    """§1 the section revalidates the read set of slow work."""
    put = rows.put_rows

    def believe(draft: Draft, work: Any, plan: Any, chain: Any, *, last_seqs: Any) -> Outcome:
        return put(draft, replace(work, read_set=ReadSet()), plan, chain, last_seqs={})

    return [patch.object(rows, "put_rows", believe)]


class _EndsInAnswer(Flight):
    @property
    def seq_after(self) -> Seq:
        return self.answer.seq

    @seq_after.setter
    def seq_after(self, seq: Seq) -> None:  # type: ignore[override]
        pass


@mutant
def entry_ends_in_answer() -> list[Any]:
    """§1 an entry's `seq_last` is the group's: a command without changes does not set it back."""
    return [patch.object(sequencer, "Flight", _EndsInAnswer)]


@mutant
def chain_of_applied_only() -> list[Any]:
    """§9 `prev_seq` follows what is decided, not what is applied."""

    def moved(self: Standing, chain: Any, last: Seq) -> None:
        self._chains.pop((chain.table, chain.partition), None)

    def read(self: Standing, key: bytes) -> bytes | None:
        if key[0] == keys.Family.LAST:
            return self._store.get(key)
        effect = self._decided.get(key)
        return self._store.get(key) if effect is None else effect[1]

    return [patch.object(Standing, "moved", moved), patch.object(Standing, "_read", read)]


@mutant
def seq_of_clock() -> list[Any]:
    """§3 seqs rise whatever clocks do."""

    def draw(self: Draft) -> Seq:
        now = (self.wall_ms - 1_704_067_200_000) << SEQ_TIME_SHIFT | self.group
        self.seq = Seq(self.seq + 1024 if now >> 22 == self.seq >> 22 else now)
        return self.seq

    return [patch.object(Draft, "draw", draw)]


@mutant
def forgets_pending_requests() -> list[Any]:
    """§6 a repeat while pending waits."""
    return [
        patch.object(Requests, "join", lambda self, key, tag, waiter: None),
        patch.object(Requests, "done", lambda self, flight: None),
    ]


@mutant
def forgets_stored_requests() -> list[Any]:
    """§6 a repeat later gets the stored outcome."""

    def repeated(self: Sequencer, key: bytes, tag: Any, waiter: Any) -> bool:
        return bool(self._requests.join(key, tag, waiter))

    return [patch.object(Sequencer, "_repeated", repeated)]


@mutant
def writes_no_history() -> list[Any]:
    """§2 hist is written for every superseded version."""
    supersede = RowWriter._supersede

    def bare(self: RowWriter, pk: bytes, old: bytes, seq: Seq) -> Seq:
        old_seq = supersede(self, pk, old, seq)
        family = keys.Family.HISTORY
        self.draft.effects[:] = [e for e in self.draft.effects if e[0][0] != family]
        return old_seq

    return [patch.object(RowWriter, "_supersede", bare)]


@mutant
def splits_transactions() -> list[Any]:
    """§9 the last change of a transaction says so."""
    emit = RowWriter._emit

    def split(self: RowWriter, held: Any, *, last_of_txn: bool) -> None:
        emit(self, held, last_of_txn=True)

    return [patch.object(RowWriter, "_emit", split)]


@mutant
def floor_of_clock() -> list[Any]:
    """§9 chg_floor is at most seq_last."""
    trim = purge.trim_before

    def eager(draft: Draft, work: Any, *, keys_max: int = 2000, **given: Any) -> Outcome:
        target = Seq(((work.hour + 2) * HOUR_MS) << SEQ_TIME_SHIFT)
        raw = draft.get(keys.CHANGE_FLOOR)
        if raw is None or codec.decode_seq(raw) < target:
            draft.put(keys.CHANGE_FLOOR, codec.encode_seq(target))
            return Outcome(1, draft.seq)
        return trim(draft, work, keys_max=keys_max, **given)

    return [patch.object(purge, "trim_before", eager)]


@mutant
def trims_before_the_floor() -> list[Any]:
    """§9 TrimBefore first raises the floor, deletes later."""

    def eager(draft: Draft, work: Any, *, keys_max: int = 2000, **given: Any) -> Outcome:
        target = Seq(min((work.hour * HOUR_MS) << SEQ_TIME_SHIFT, draft.seq))
        with patch.object(purge, "change_floor", lambda _: target):
            purge._trim_changes(draft, given["reader"], given["held"], keys_max)
        return Outcome(1, draft.seq)

    return [patch.object(purge, "trim_before", eager)]


@mutant
def resumes_below_the_floor() -> list[Any]:
    """§9 a cursor that misses changes below the floor is expired."""

    def check(reader: Any, at: Any, cursor: Seq, seq_last: Seq) -> Seq:
        return cursor

    return [patch.object(changes, "check_cursor", check)]


# Applying.


@mutant
def applies_any_term() -> list[Any]:
    """§1 an entry that names another term than its Raft entry's is discarded."""
    read = Machine._read

    def any_term(self: Machine, entry: Any) -> Any:
        decided = read(self, entry)
        return replace(decided, term=entry.term) if isinstance(decided, Entry) else decided

    return [patch.object(Machine, "_read", any_term)]


@mutant
def applies_before_durable() -> list[Any]:
    """I4 only what is on this node's disk is applied: with one member an answer rests on it."""
    taken = GroupJournal.mark_taken

    def early(self: GroupJournal) -> None:
        taken(self)
        self.mark_synced()

    commit_alone = Group.tick

    def tick(self: Group, slack_s: float = 0.0) -> None:
        commit_alone(self, slack_s)
        self.journal.mark_taken()
        self.synced()

    return [
        patch.object(GroupJournal, "mark_taken", early),
        patch.object(Group, "tick", tick),
    ]


ALONE.add("applies_before_durable")


@mutant
def image_leaves_streams() -> list[Any]:
    """§11 the install of an image closes the group's streams on that member."""

    async def image(self: Replica, source: int) -> Any:
        sink = self._sink
        self._sink = cast(ChangeSink, _Deaf(sink))
        try:
            return await original(self, source)
        finally:
            self._sink = sink

    original = Replica.image
    return [patch.object(Replica, "image", image)]


class _Deaf:
    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def close_all(self, reason: str) -> None:
        pass


@mutant
def deposed_leader_is_not_told() -> list[Any]:
    """§1 a deposed leader's sequencer ends with its term: it must not answer from what it had."""
    return [patch.object(Group, "_resign", _resign_quietly)]


def _resign_quietly(self: Group, reason: str) -> None:
    if self._led is not None:
        self._led = None
        self._read_rounds = []


# Reading.


@mutant
def reads_without_barrier() -> list[Any]:
    """§8 linearizable reads come after a read index."""

    def barrier(self: Replica) -> None:
        if not self.leads:
            raise NotLeader(self.group, None)

    return [patch.object(Replica, "barrier", barrier)]


@mutant
def reads_on_followers() -> list[Any]:
    """§8 the read index is the leader's."""
    return [patch.object(Replica, "barrier", lambda self: None)]


@mutant
def read_index_of_old_answers() -> list[Any]:
    """raft.md §6 a read is confirmed by answers to what was sent after it began."""
    return [patch.object(Guard, "open_round", lambda self: self._round)]


# The log.


@mutant
def cuts_on_duplicates() -> list[Any]:
    """raft.md hole 1: entries that match are not cut."""
    return [patch.object(transport, "_common", lambda held, entries: 0)]


@mutant
def acknowledges_before_sync() -> list[Any]:
    """raft.md §6: nothing produced in a cycle leaves before its records are on disk."""
    begin = Hub.cycle_begin

    def eager(self: Hub) -> Any:
        batch = begin(self)
        closing, self._closing = self._closing, {peer: _Outbox() for peer in self._closing}
        for peer, outbox in closing.items():
            if outbox.messages and peer in self._outboxes:
                self._flush(peer, outbox.messages)
        return batch

    return [patch.object(Hub, "cycle_begin", eager)]


@mutant
def forgets_votes() -> list[Any]:
    """Raft: term and vote are on disk before a vote is given."""

    def set_term(self: GroupJournal, term: int, vote: int | None) -> None:
        self._term, self._vote = term, vote

    return [patch.object(GroupJournal, "setCurrentTerm", set_term)]


@mutant
def commits_unverified() -> list[Any]:
    """raft.md hole 2: commit never covers entries not verified against the leader."""
    heartbeat = Guard._hear_append

    def eager(self: Guard, peer: int, message: Any) -> None:
        heartbeat(self, peer, message)
        if message.term == self._core.term():
            self._hear_heartbeat(peer, message.term, message.commit)

    return [patch.object(Guard, "_hear_append", eager)]


@mutant
def compacts_what_is_not_durable() -> list[Any]:
    """§11 the log keeps each entry until the store has it on disk."""
    return [
        patch.object(MemoryStore, "durable_index", lambda self: self.mark().index),
    ]


@mutant
def store_with_holes() -> list[Any]:
    """§11 after an OS crash the store is a prefix of its batches, never one with a hole."""
    crash = MemoryStore.crash

    def hole(self: MemoryStore, lost: int) -> None:
        if lost > 1:
            del self._unsynced[-lost : -lost + 1]
            lost = 0
        crash(self, lost)

    return [patch.object(MemoryStore, "crash", hole)]


SEEDS_MAX = 60


def caught(name: str, seed: int) -> list[str]:
    """The faults of a run with the mutant in."""
    with planted(name):
        return run.run(seed, alone=name in ALONE).faults


def first_seed(name: str) -> int | None:
    """The first seed that notices the mutant, the known one before all others."""
    for seed in (FIRST_SEED[name], *range(SEEDS_MAX)):
        if caught(name, seed):
            return seed
    return None


if __name__ == "__main__":
    for wanted in sys.argv[1:] or FIRST_SEED:
        found = next((seed for seed in range(SEEDS_MAX) if caught(wanted, seed)), None)
        print(f'    "{wanted}": {found},', flush=True)
