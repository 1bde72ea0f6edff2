"""Machine: puts what committed entries say, on every member alike (core.md §1).

Flow of `apply`:
1. Each entry: void if it names another term than its Raft entry's; else its chain is checked and
   its effects join the batch, with the group's new seq.
2. One batch with everything and the new mark.
3. Afterwards: who decided the entries is told, the catalog (group 0) and the fences are kept in
   step, changes of watched chains go to the sink.

Keeps:
- Apply reads no row, clock, catalog or environment. (Chunks of a staged command are log content:
  `store.staged`.)
- It does not raise: what can't be right goes to `fatal`, which ends the process.
- An entry already applied is skipped; putting one again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from kalamdb.errors import Corruption, KalamError
from kalamdb.model import codec, keys
from kalamdb.model.change import Change, ChangeBatch, Op, Row
from kalamdb.model.command import Effect
from kalamdb.model.ids import HOUR_MS, SEQ_EPOCH_MS, GroupId, Partition, Seq, Slot, TableId
from kalamdb.ports import ChangeSink, LogEntry
from kalamdb.store import staged
from kalamdb.store.catalog_codec import Fence, FenceState, decode_fence, encode_request
from kalamdb.store.kv import GroupStore, Mark
from kalamdb.store.slot_codec import SlotState, decode_slot
from kalamdb.store.slot_keys import slot_of_key


class DecidedCommand(Protocol):
    """A command, as decoded or as the leader still holds it."""

    @property
    def effects(self) -> Sequence[Effect]: ...
    @property
    def whole(self) -> Sequence[Effect] | None:
        """The effects in the chunks of a staged command, where they need no decoding."""
        ...

    @property
    def request_key(self) -> bytes | None: ...
    @property
    def hash(self) -> bytes: ...
    @property
    def outcome(self) -> bytes: ...


class DecidedEntry(Protocol):
    """An entry, as decoded or as the leader still holds it."""

    @property
    def term(self) -> int: ...
    @property
    def prev_seq(self) -> Seq: ...
    @property
    def seq_last(self) -> Seq: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def commands(self) -> Sequence[DecidedCommand]: ...


class Decider(Protocol):
    """Who decided the entries on this member, and waits for them: the sequencer."""

    def claim(self, payload: bytes) -> DecidedEntry | None:
        """The entry behind a payload this member encoded itself, so that it needs no decoding."""
        ...

    def applied(self, payload: bytes) -> None: ...

    def void(self, payload: bytes) -> None: ...


Fatal = Callable[[KalamError], NoReturn]

# Plain numbers: every effect of every entry is compared with them.
_CHANGE = int(keys.Family.CHANGE)
_CATALOG = int(keys.Family.CATALOG)
_FENCE = int(keys.Family.FENCE)
_SLOT = int(keys.Family.SLOT)
_TOLD = frozenset((_CHANGE, _CATALOG, _FENCE, _SLOT))
_ROW = bytes([keys.Family.ROW])
_ENDING = (SlotState.FROZEN, SlotState.PURGING)  # who came while it was frozen ends later
_HISTORY = bytes([keys.Family.HISTORY])


@dataclass(frozen=True, slots=True)
class MachineStatistics:
    entries: int
    commands: int
    void: int


class Machine:
    """See the module. One per replica, on leader and followers."""

    def __init__(
        self,
        store: GroupStore,
        sink: ChangeSink,
        decider: Decider,
        *,
        fatal: Fatal,
        on_records: Callable[[Sequence[Effect]], None],
    ) -> None:
        """`on_records` gets the CATALOG, FENCE and SLOT effects of a batch, after it was put."""
        self._store = store
        self._sink = sink
        self._decider = decider
        self._fatal = fatal
        self._on_records = on_records
        self._entries = self._commands = self._void = 0

    def apply(self, entries: Sequence[LogEntry]) -> None:
        mark = self._store.mark()
        index, term, seq = mark.index, mark.term, mark.seq_last
        puts: list[Effect] = []
        applied: list[tuple[LogEntry, DecidedEntry | None]] = []
        for entry in entries:
            if entry.index <= index:
                continue
            index, term = entry.index, entry.term
            if not entry.payload:
                continue
            decided = self._read(entry)
            if decided.term != entry.term:
                applied.append((entry, None))
                continue
            if decided.prev_seq != seq or decided.seq_last < seq:
                span = f"it goes from seq {decided.prev_seq} to {decided.seq_last}"
                self._corrupt(entry, f"{span}, the group is at {seq}")
            for command in decided.commands:
                self._put(entry, decided, command, puts)
            seq = decided.seq_last
            applied.append((entry, decided))
        if index == mark.index:
            return
        self._store.write(puts, Mark(index, term, seq))
        self._tell(applied, puts, seq)

    def _read(self, entry: LogEntry) -> DecidedEntry:
        claimed = self._decider.claim(entry.payload)
        if claimed is not None:
            return claimed
        try:
            return codec.decode_entry(entry.payload)
        except (ValueError, IndexError, TypeError) as error:
            self._corrupt(entry, f"it cannot be decoded: {error}")

    def _put(
        self,
        entry: LogEntry,
        decided: DecidedEntry,
        command: DecidedCommand,
        puts: list[Effect],
    ) -> None:
        if not staged.is_commit(command.effects):
            puts.extend(command.effects)
        elif command.whole is not None:
            puts.extend(staged.deletions(command.effects[0]))
            puts.extend(command.whole)
        else:
            command = self._join(entry, command.effects[0], puts)
            puts.extend(command.effects)
        if command.request_key is not None:
            key = command.request_key
            hour = max(0, decided.time_ms - SEQ_EPOCH_MS) // HOUR_MS
            puts.append((key, encode_request(command.hash, command.outcome)))
            puts.append((keys.request_hour(hour, key), b""))
        self._commands += 1

    def _join(self, entry: LogEntry, commit: Effect, puts: list[Effect]) -> DecidedCommand:
        """The command in the chunks, which are in the store or in this very batch."""
        here = {key: value for key, value in puts if key[0] == keys.Family.STAGED}
        try:
            command, deletions = staged.join(
                commit, lambda key: here[key] if key in here else self._store.get(key)
            )
        except (LookupError, ValueError) as error:
            self._corrupt(entry, str(error))
        puts.extend(deletions)
        return command

    def _corrupt(self, entry: LogEntry, detail: str) -> NoReturn:
        self._fatal(Corruption(f"log of group {self._store.group}", entry.index, detail))

    # ---- afterwards -----------------------------------------------------------------------------

    def _tell(
        self,
        applied: list[tuple[LogEntry, DecidedEntry | None]],
        puts: list[Effect],
        seq: Seq,
    ) -> None:
        told = [effect for effect in puts if effect[0][0] in _TOLD]
        records = [effect for effect in told if effect[0][0] != _CHANGE]
        if records:
            self._on_records(records)
        if records and any(key[0] == _SLOT for key, _ in records):
            self._publish_moving(puts, seq)
        else:
            self._publish(told, puts, seq)
        for key, value in records:
            if key[0] == _FENCE and value is not None:
                self._tell_fence(decode_fence(value))
        for entry, decided in applied:
            if decided is None:
                self._void += 1
                self._decider.void(entry.payload)
            else:
                self._entries += 1
                self._decider.applied(entry.payload)

    def _publish(self, told: list[Effect], puts: list[Effect], seq: Seq) -> None:
        changes = self._changes(told, puts)
        if changes:
            self._sink.publish(ChangeBatch(self._store.group, seq, tuple(changes)))

    def _publish_moving(self, puts: list[Effect], seq: Seq) -> None:
        """Of a batch with commands on slots: what a slot was given with its image is no change that
        happened, and what comes behind a freeze is not for the streams that it ends.
        """
        told: list[Effect] = []
        arriving: set[Slot] = set()
        for effect in puts:
            key, value = effect
            if key[0] == _SLOT:
                slot = Slot(keys.U16.unpack_from(key, 1)[0])
                record = None if value is None else decode_slot(value)
                arriving.discard(slot)
                if record is not None and record.state in _ENDING:
                    self._publish(told, puts, record.cut or seq)
                    told = []
                    self._sink.close_slots((slot,), f"slot {slot} is being moved")
                elif record is not None and record.state is SlotState.IMPORTING:
                    arriving.add(slot)
            elif key[0] == _CHANGE and not (arriving and slot_of_key(key, 9) in arriving):
                told.append(effect)
        self._publish(told, puts, seq)

    def _tell_fence(self, fence: Fence) -> None:
        """Streams end with their table, or with the definition they were bound to."""
        if fence.state is FenceState.ACTIVE:
            self._sink.close_older(fence.table)
        else:
            self._sink.close_table(fence.table.id)

    def _changes(self, told: list[Effect], puts: list[Effect]) -> list[Change]:
        """Changes of watched chains among `told`, in seq order, with both images from the same
        commands.
        """
        watches, found = self._sink.watches, list[tuple[bytes, bytes]]()
        chain, watched = b"", False
        for key, value in told:
            if key[0] != _CHANGE or value is None:
                continue
            if key[5:-8] != chain:
                chain = key[5:-8]
                watched = watches(chain)
            if watched:
                found.append((key, value))
        if not found:
            return []
        # A trim further on in the same batch (a member that lags) takes versions out again; the
        # changes before it still need them.
        images = {key: value for key, value in puts if value is not None}
        return [_change(images, self._store.group, key=key, value=value) for key, value in found]

    def statistics(self) -> MachineStatistics:
        return MachineStatistics(self._entries, self._commands, self._void)


def _change(images: dict[bytes, bytes], group: GroupId, *, key: bytes, value: bytes) -> Change:
    op, prev_seq, before_seq, last_of_txn, pk = codec.decode_change(value)
    chain = keys.chain_of_change(key)
    seq = Seq(keys.U64.unpack_from(key, len(key) - 8)[0])
    partition, _ = keys.split_terminated(chain, 4)
    return Change(
        group,
        TableId(keys.U32.unpack_from(chain)[0]),
        Partition(partition),
        seq,
        prev_seq,
        op,
        pk,
        _image(images, chain, pk, before_seq) if before_seq else None,
        before_seq,
        None if op in (Op.DELETE, Op.EXPIRE) else _image(images, chain, pk, seq),
        last_of_txn,
    )


def _image(images: dict[bytes, bytes], chain: bytes, pk: bytes, seq: Seq) -> Row:
    """The version of `seq`: superseded in this batch, or still the newest after it."""
    kept = images.get(_HISTORY + chain + pk + keys.U64.pack(seq))
    raw = images[_ROW + chain + pk] if kept is None else codec.decode_history(kept)[1]
    assert codec.row_seq(raw) == seq
    row = codec.decode_row(raw)[1]
    assert row is not None
    return row
