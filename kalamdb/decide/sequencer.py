"""Sequencer: the one synchronous place where a group's leader decides writes (core.md §1).

Life of a write:
1. `decide` settles everything in one step over what is applied and what is decided (`overlay`), and
   queues the command; a refusal, or an answer that needs no entry, becomes a verdict instead.
2. `take` cuts queued commands into an entry, in the very tick in which the log appends it.
3. `applied` answers the waiters once the machine has put the entry; the overlay lets go of its
   keys.

Keeps:
- It decides only between `lead` and `resign`: this node leads and has applied its own first entry.
- A verdict is said only when everything decided before it is applied here and leadership was
  confirmed after it; if leadership is lost first, it is Unavailable.
- Losing leadership drops the overlay, the counter and all that was queued: queued commands are
  surely not done, appended ones may be.
- A key in several commands under way stays in the overlay until the last of them is applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kalamdb.decide import meta, purge, rows, transaction, upkeep
from kalamdb.decide.draft import Chain, Draft
from kalamdb.decide.flight import NOTHING, Flight, Taken, Verdict, Waiter, settle
from kalamdb.decide.load import SequencerLimits as SequencerLimits
from kalamdb.decide.load import SequencerStatistics as SequencerStatistics
from kalamdb.decide.load import check_rows
from kalamdb.decide.plan import Checks, TablePlan, no_checks
from kalamdb.decide.requests import Requests, home_slot, request_key, stored_outcome
from kalamdb.decide.standing import Standing
from kalamdb.errors import (
    DiskFull,
    Indeterminate,
    KalamError,
    NotLeader,
    Overloaded,
    RequestIdReused,
    StatementTooLarge,
    Unavailable,
)
from kalamdb.model import codec, work
from kalamdb.model.command import (
    ENTRY_SIZE_MAX_BYTES,
    Effect,
    Outcome,
)
from kalamdb.model.ids import GroupId, Partition, Seq, Slot, seq_ms, slot_of
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.store import staged
from kalamdb.store.catalog_codec import (
    decode_request,
    encode_request,
)
from kalamdb.store.kv import GroupStore, prefix_end
from kalamdb.store.slot_codec import SlotState

ENTRY_HEAD_BYTES = 64  # version, numbers, array headers of an entry
COMMAND_HEAD_BYTES = 5  # length of one command in its entry
COMMAND_BYTES_MAX = ENTRY_SIZE_MAX_BYTES - ENTRY_HEAD_BYTES - COMMAND_HEAD_BYTES

Confirm = Callable[[Callable[[KalamError | None], None]], bool]
"""Confirm leadership: True at once, or False and the callback later, with None or why it was lost.
"""


def _disk_has_room() -> DiskFull | None:
    return None


class Sequencer:
    """See the module. One per replica; idle while another node leads."""

    def __init__(
        self,
        store: GroupStore,
        *,
        wall_ms: Callable[[], int],
        make_waiter: Callable[[], Waiter],
        confirm: Confirm,
        limits: SequencerLimits,
        checks: Checks = no_checks,
        disk_full: Callable[[], DiskFull | None] = _disk_has_room,
    ) -> None:
        self.group: GroupId = store.group
        self._store = store
        self._stored = store.get
        self._wall_ms = wall_ms
        self._make_waiter = make_waiter
        self._confirm = confirm
        self._limits = limits
        self._checks = checks
        self._disk_full = disk_full
        self.term = 0
        self.ready = False
        self.seq_last = Seq(0)
        self._cut_seq = Seq(0)  # seq_last of the entry taken last
        self._number = 0  # of the command decided last
        self._applied_number = 0
        self.overlay: dict[bytes, Effect] = {}
        self._queue: deque[Flight] = deque()
        self._queue_bytes = 0
        self._taken: deque[Taken] = deque()
        self._claimed = 0  # of those, how many the machine has in its batch
        self._verdicts: deque[Verdict] = deque()
        self._requests = Requests(store, limits.request_ids_max)
        self._standing = Standing(store, self.overlay, checks, limits.chains_max)
        self.plan = self._standing.plan  # of a table, as decided so far
        self.rows_max = limits.rows_max
        self.returned_bytes_max = limits.returned_bytes_max
        self._decided = self._refused = 0

    # ---- leadership -----------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """This node leads in `term` and has applied its own first entry."""
        assert not self.ready
        assert not self.overlay
        mark = self._store.mark()
        self.term = term
        self.seq_last = self._cut_seq = mark.seq_last
        self.ready = True
        self._standing.load()
        self._drop_orphaned_chunks()

    def resign(self, reason: str) -> None:
        """Leadership is lost. Every waiter gets the strongest answer that is certainly true."""
        queued, taken, verdicts = self._queue, self._taken, self._verdicts
        self.ready = False
        self.overlay.clear()
        self._queue, self._taken, self._verdicts = deque(), deque(), deque()
        self._queue_bytes = self._claimed = 0
        self._applied_number = self._number
        self._requests.clear()
        self._standing.forget()
        for entry in taken:
            for flight in entry.commands:
                _answer(flight, Indeterminate(reason))
        for flight in queued:
            _answer(flight, Unavailable(reason))
        for verdict in verdicts:
            settle(verdict.waiter, Unavailable(reason))

    def _drop_orphaned_chunks(self) -> None:
        """Chunks of staged commands whose commit was lost with an earlier leader."""
        left = [
            (key, None) for key, _ in self._store.scan(staged.PREFIX, prefix_end(staged.PREFIX))
        ]
        for at in range(0, len(left), purge.STEP_KEYS_MAX):
            step = left[at : at + purge.STEP_KEYS_MAX]
            self._enqueue(Flight(0, step, NOTHING, Outcome(0, self.seq_last)))

    # ---- deciding -------------------------------------------------------------------------------

    def decide(self, asked: Work, tag: RequestTag | None = None) -> Waiter:
        """Decide now; the waiter resolves with the Outcome, or raises of the error tree."""
        waiter = self._make_waiter()
        if not self.ready:
            settle(waiter, NotLeader(self.group, None))
            return waiter
        key = None
        try:
            if tag is not None:
                slot = self._request_slot(tag, asked)
                key = request_key(tag, slot)
                if self._repeated(key, tag, waiter) or self._at_home(tag, slot, waiter):
                    return waiter
                self._requests.check_room(tag, slot)
            self._check_load()
            draft = Draft(
                self.overlay,
                self._stored,
                self.group,
                self.seq_last,
                self._wall_ms(),
                returned_max_bytes=self.returned_bytes_max,
            )
            outcome = self._decide(draft, asked)
            if draft.effects or key is not None:
                self._accept(draft, outcome, asked, tag=tag, key=key, waiter=waiter)
            else:
                self._judge(waiter, outcome)
        except Unavailable as error:
            settle(waiter, error)  # "surely not done" needs no proof
        except KalamError as error:
            self._refused += 1
            self._judge(waiter, error)
        return waiter

    def _check_load(self) -> None:
        waiting = self._number - self._applied_number
        if waiting >= self._limits.commands_max:
            raise Overloaded(f"the write queue of group {self.group}", self._limits.commands_max)
        if self._queue_bytes >= self._limits.queue_bytes_max:
            raise Overloaded(f"the write queue of group {self.group}", self._limits.queue_bytes_max)

    def _request_slot(self, tag: RequestTag, asked: Work) -> Slot:
        return slot_of(asked.partition) if isinstance(asked, work.RowWork) else home_slot(tag)

    def _at_home(self, tag: RequestTag, slot: Slot, waiter: Waiter) -> bool:
        """Until 0.2 a record stood in the slot of the tenant who asked."""
        home = home_slot(tag)
        return home != slot and self._repeated(request_key(tag, home), tag, waiter)

    def _repeated(self, key: bytes, tag: RequestTag, waiter: Waiter) -> bool:
        """Answer a request id that is pending or done. Raises RequestIdReused."""
        joined = self._requests.join(key, tag, waiter)
        if joined is None:
            raw = self._stored(key)
            # A deletion on its way was decided: the id is free again.
            if raw is None or key in self.overlay:
                return False
            digest, outcome = decode_request(raw)
            joined = digest == tag.hash
            if joined:
                settle(waiter, codec.decode_outcome(outcome))
        if not joined:
            raise RequestIdReused(tag.request_id)
        return True

    def _decide(self, draft: Draft, asked: Work) -> Outcome:
        match asked:
            case work.InsertRows():
                if len(asked.rows) > self.rows_max:
                    check_rows(asked, self.rows_max)
                plan, chain = self._target(asked.table, asked.partition)
                if asked.read_set is not None:
                    rows.check_last_seqs(self._seen(asked.read_set))
                return rows.insert_rows(draft, asked, plan, chain, reader=self._store)
            case work.ChangeKeys():
                plan, chain = self._target(asked.table, asked.partition)
                return rows.change_keys(draft, asked, plan, chain)
            case work.PutRows():
                check_rows(asked, self.rows_max)
                plan, chain = self._target(asked.table, asked.partition)
                seen = self._seen(asked.read_set)
                return rows.put_rows(draft, asked, plan, chain, last_seqs=seen)
            case work.CommitRows():
                check_rows(asked, self.rows_max)
                return transaction.commit_rows(draft, asked, self._target)
            case _:
                return self._decide_other(draft, asked)

    def _decide_other(self, draft: Draft, asked: work.UpkeepWork | work.MetaWork) -> Outcome:
        if not isinstance(asked, work.UpkeepWork):
            return self._decide_meta(draft, asked)
        if isinstance(asked, upkeep.NEEDS_ROOM):
            self._require_disk()
        if isinstance(asked, upkeep.CHANGES_REQUESTS):
            self._requests.trimmed()
        return upkeep.decide_upkeep(draft, asked, self._standing, reader=self._store)

    def _decide_meta(self, draft: Draft, asked: work.MetaWork) -> Outcome:
        view = self._standing.catalog
        assert view is not None, "only group 0 holds the catalog"
        if not isinstance(asked, meta.NEEDS_NO_ROOM):
            self._require_disk()
        return meta.decide_meta(draft, asked, view, reader=self._store)

    def _require_disk(self) -> None:
        full = self._disk_full()
        if full is not None:
            raise full

    def _seen(self, read_set: work.ReadSet) -> dict[Chain, Seq]:
        """The chains of a read set with the seqs they were seen at. Raises Conflict for slots."""
        if read_set.slots:
            self._standing.check_slots(read_set.slots)
        return {self._standing.chain(*place): seq for place, seq in read_set.tables.items()}

    def _target(self, table: TableDef, partition: Partition) -> tuple[TablePlan, Chain]:
        """Where a row write goes. Raises SchemaChanged, UnknownTable, Moved, DiskFull."""
        self._require_disk()
        plan = self._standing.plan(table)
        return plan, self._standing.chain_for_write(table.id, partition)

    # ---- for transactions -----------------------------------------------------------------------

    def reserve(self, drawn: Seq) -> None:
        """Numbers up to `drawn` were given out and are never drawn again in this term."""
        assert self.ready
        assert drawn >= self.seq_last
        self.seq_last = drawn

    def recall(self, tag: RequestTag) -> Waiter | None:
        """What a request id that is pending or done has come to; None: it is free here. Raises
        RequestIdReused; Moved while a slot in which it may stand is frozen.
        """
        waiter = self._make_waiter()
        for slot in dict.fromkeys((home_slot(tag), *self._standing.shared_slots())):
            if self._repeated(request_key(tag, slot), tag, waiter):
                return waiter
            record = self._standing.record(slot)
            if record is not None and record.state is SlotState.FROZEN:
                raise self._standing.elsewhere(slot)
        return None

    def open_epoch(self, slot: Slot) -> int | None:
        """The epoch in which a slot is open, as decided so far; None: it is not."""
        return self._standing.open_epoch(slot)

    # ---- what was decided -----------------------------------------------------------------------

    def _accept(
        self,
        draft: Draft,
        outcome: Outcome,
        asked: Work,
        *,
        tag: RequestTag | None,
        key: bytes | None,
        waiter: Waiter,
    ) -> None:
        flight = Flight(0, draft.effects, draft.fresh, outcome)
        flight.seq_after = draft.seq  # the answer's seq is its chain's, which may be older
        flight.waiters.append(waiter)
        if tag is not None and key is not None:
            flight.request_key = key
            flight.hash = tag.hash
            flight.outcome = stored_outcome(outcome)
        self._enqueue(flight)  # may refuse: nothing has been kept so far
        for chain, last in draft.moved:
            self._standing.moved(chain, last)
        self.overlay.update(draft.fresh)
        if tag is not None and key is not None:
            self._requests.add(tag, self._request_slot(tag, asked), flight)
            effect = (key, encode_request(tag.hash, flight.outcome))
            self.overlay[key] = effect
            flight.fresh = {**flight.fresh, key: effect}
        self.seq_last = draft.seq
        self._decided += 1
        if not isinstance(asked, work.RowWork):
            self._standing.learn(draft.effects)

    def _enqueue(self, flight: Flight) -> None:
        """Raises StatementTooLarge."""
        encoded = codec.encode_command_parts(
            flight.effects, flight.request_key, flight.hash, flight.outcome
        )
        if len(encoded) <= COMMAND_BYTES_MAX:
            self._number += 1
            flight.number = self._number
            flight.encoded = encoded
            self._queue.append(flight)
            self._queue_bytes += len(encoded)
            return
        if len(encoded) > self._limits.effects_bytes_max:
            raise StatementTooLarge(len(encoded), self._limits.effects_bytes_max)
        self._enqueue_staged(flight, encoded)

    def _enqueue_staged(self, flight: Flight, encoded: bytes) -> None:
        """Chunks travel first, under the seq of before; the commit carries the waiters."""
        *parts, commit = staged.split(encoded, self.term, self._number + 1)
        before = Outcome(0, self.seq_last)
        for effects in parts:
            self._number += 1
            part = Flight(self._number, effects, NOTHING, before)
            part.encoded = codec.encode_command_parts(effects, None, b"", b"")
            self._queue.append(part)
            self._queue_bytes += len(part.encoded)
        self._number += 1
        flight.number = self._number
        flight.whole, flight.effects = flight.effects, commit
        flight.encoded = codec.encode_command_parts(commit, None, b"", b"")
        self._queue.append(flight)
        self._queue_bytes += len(flight.encoded)

    def _judge(self, waiter: Waiter, result: Outcome | KalamError) -> None:
        verdict = Verdict(self._number, waiter, result)
        self._verdicts.append(verdict)

        def confirmed(lost: KalamError | None) -> None:
            if lost is not None:
                settle(waiter, lost)
            verdict.confirmed = True
            self._settle_verdicts()

        try:
            verdict.confirmed = self._confirm(confirmed)
        except Unavailable as lost:
            confirmed(lost)
            return
        self._settle_verdicts()

    def _settle_verdicts(self) -> None:
        verdicts = self._verdicts
        while verdicts:
            first = verdicts[0]
            if first.after > self._applied_number or not first.confirmed:
                return
            verdicts.popleft()
            settle(first.waiter, first.result)

    # ---- the log --------------------------------------------------------------------------------

    @property
    def has_queued(self) -> bool:
        return bool(self._queue)

    def take(self, term: int, size_max: int) -> bytes | None:
        """The next entry to append in `term`; None when nothing is queued, or in another term."""
        queue = self._queue
        if not queue or not self.ready or term != self.term:
            return None
        limit = min(size_max, ENTRY_SIZE_MAX_BYTES)
        size = ENTRY_HEAD_BYTES
        commands: list[Flight] = []
        while queue:
            size += len(queue[0].encoded) + COMMAND_HEAD_BYTES
            if size > limit:
                break
            commands.append(queue.popleft())
        if not commands:
            return None
        encoded = [flight.encoded for flight in commands]
        self._queue_bytes -= sum(map(len, encoded))
        seq_last = commands[-1].seq_after
        time_ms = max(self._wall_ms(), seq_ms(seq_last))
        payload = codec.encode_entry(term, self._cut_seq, seq_last, time_ms, encoded)
        taken = Taken(payload, term, self._cut_seq, seq_last, time_ms, tuple(commands))
        self._taken.append(taken)
        self._cut_seq = seq_last
        return payload

    def claim(self, payload: bytes) -> Taken | None:
        """The entry this node took, if `payload` is the next of them: no need to decode it."""
        at = self._claimed
        if at < len(self._taken) and self._taken[at].payload == payload:
            self._claimed = at + 1
            return self._taken[at]
        return None

    def _release(self, payload: bytes) -> Taken | None:
        """The oldest entry taken, if this is it."""
        if not self._taken or self._taken[0].payload != payload:
            return None
        self._claimed = max(0, self._claimed - 1)
        return self._taken.popleft()

    def applied(self, payload: bytes) -> None:
        """The machine has put this entry: answer its waiters."""
        taken = self._release(payload)
        if taken is None:
            return
        overlay = self.overlay
        for flight in taken.commands:
            for key, effect in flight.fresh.items():
                if overlay.get(key) is effect:
                    del overlay[key]
            self._requests.done(flight)
        self._applied_number = taken.commands[-1].number
        for flight in taken.commands:
            _answer(flight, flight.answer)
        self._settle_verdicts()

    def void(self, payload: bytes) -> None:
        """The log carried this entry under another term: it never took effect, nor does what
        follows it.
        """
        taken = self._release(payload)
        if taken is None:
            return
        for flight in taken.commands:
            _answer(flight, Unavailable("another leader's term began"))
        self.resign("another leader's term began")

    def statistics(self) -> SequencerStatistics:
        return SequencerStatistics(
            self.term,
            self.ready,
            len(self._queue),
            self._queue_bytes,
            self._number - self._applied_number,
            len(self.overlay),
            len(self._verdicts),
            self._decided,
            self._refused,
        )


def _answer(flight: Flight, result: Outcome | KalamError) -> None:
    for waiter in flight.waiters:
        settle(waiter, result)
