"""Decisions on the slots of a data group: first ownership, and both sides of a move (core.md §10).

    none ─► importing ─► open ─► frozen ─► purging ─► gone
              └──────────────► purging (aborted)  └─► open (aborted)

`reader` is the applied state. What is deleted or opened was found, or came, in steps of its own;
those must be applied, because nothing of them is kept in the overlay.

Keeps:
- Nothing is decided on rows of a slot that is not open, so the freeze is the last of them: `cut`.
- A command of an epoch that has passed changes nothing.
- A slot opens only with a complete image, after numbers above all that came with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from kalamdb.decide.draft import Draft
from kalamdb.errors import Conflict
from kalamdb.model import codec, keys
from kalamdb.model.command import Outcome
from kalamdb.model.ids import SEQ_GROUP_MASK, SEQ_STEP, GroupId, Seq, Slot, TableId
from kalamdb.model.slot import SlotHead
from kalamdb.model.slot_work import (
    ImportBegin,
    ImportChunk,
    ImportClear,
    SlotFreeze,
    SlotOpen,
    SlotPurge,
    SlotThaw,
    SlotWork,
)
from kalamdb.model.work import OpenSlots
from kalamdb.store.catalog_codec import FenceState, decode_fence
from kalamdb.store.changes import change_floor
from kalamdb.store.kv import KeyReader
from kalamdb.store.slot_codec import (
    Arrival,
    ArrivalState,
    SlotRecord,
    SlotState,
    decode_slot,
    encode_slot,
)
from kalamdb.store.slot_keys import table_of_key


def decide_slot(draft: Draft, asked: SlotWork, *, reader: KeyReader) -> Outcome:
    """Raises Conflict for what comes too late, or too early."""
    match asked:
        case SlotFreeze():
            return freeze(draft, asked)
        case SlotThaw():
            return thaw(draft, asked)
        case ImportBegin():
            return import_begin(draft, asked)
        case ImportChunk():
            return import_chunk(draft, asked)
        case ImportClear():
            return import_clear(draft, asked, reader=reader)
        case SlotOpen():
            return open_slot(draft, asked, reader=reader)
        case SlotPurge():
            return purge(draft, asked, reader=reader)
        case _:
            assert_never(asked)


def open_slots(draft: Draft, work: OpenSlots) -> Outcome:
    """First ownership. A slot that was ever here is left as it is: its record says who has it."""
    opened = 0
    value = encode_slot(SlotRecord(work.epoch, SlotState.OPEN))
    for slot in work.slots:
        if draft.get(keys.slot(slot)) is None:
            draft.put(keys.slot(slot), value)
            opened += 1
    return Outcome(opened, draft.seq)


# ---- the source ----------------------------------------------------------------------------------


def freeze(draft: Draft, work: SlotFreeze) -> Outcome:
    record = _record(draft, work.slot)
    if record is not None and (record.epoch, record.state) == (work.epoch, SlotState.FROZEN):
        return _cut(0, draft, record.cut)
    if record is None or record.state is not SlotState.OPEN or record.epoch >= work.epoch:
        raise _late(work.slot, work.epoch, record)
    frozen = SlotRecord(work.epoch, SlotState.FROZEN, draft.seq, work.target)
    _put(draft, work.slot, frozen)
    return _cut(1, draft, frozen.cut)


def _cut(affected: int, draft: Draft, cut: Seq) -> Outcome:
    return Outcome(affected, draft.seq, ("cut",), ((str(cut),),))


def thaw(draft: Draft, work: SlotThaw) -> Outcome:
    """A slot that is not frozen yet gets the epoch too: the freeze on its way comes too late."""
    record = _record(draft, work.slot)
    if record is not None and (record.epoch, record.state) == (work.epoch, SlotState.OPEN):
        return Outcome(0, draft.seq)
    mine = record is not None and (
        (record.state is SlotState.FROZEN and record.epoch == work.epoch)
        or (record.state is SlotState.OPEN and record.epoch < work.epoch)
    )
    if not mine:
        raise _late(work.slot, work.epoch, record)
    _put(draft, work.slot, SlotRecord(work.epoch, SlotState.OPEN))
    return Outcome(1, draft.seq)


# ---- the target ----------------------------------------------------------------------------------


def import_begin(draft: Draft, work: ImportBegin) -> Outcome:
    record = _record(draft, work.slot)
    arrival = None if record is None or record.epoch != work.epoch else record.arrival
    if arrival is None:
        # None, or gone with an older move: a slot is gone when no key of it is left.
        is_free = record is None or (record.state is SlotState.GONE and record.epoch < work.epoch)
        if not is_free or work.attempt < 1:
            raise _late(work.slot, work.epoch, record)
    elif (arrival.attempt, arrival.head, arrival.upto) == (work.attempt, work.head, b""):
        if arrival.state is ArrivalState.FILLING:
            return Outcome(0, draft.seq)
        raise _late(work.slot, work.epoch, record)
    elif arrival.state is not ArrivalState.CLEAR or work.attempt != arrival.attempt + 1:
        raise Conflict(f"slot {work.slot} still holds what came with image {arrival.attempt}")
    begun = Arrival(work.attempt, ArrivalState.FILLING, work.head)
    _put(draft, work.slot, _importing(work.epoch, work.head, work.source, begun))
    return Outcome(1, draft.seq)


def _importing(epoch: int, head: SlotHead, source: GroupId, arrival: Arrival) -> SlotRecord:
    return SlotRecord(epoch, SlotState.IMPORTING, head.cut, source, arrival)


def import_chunk(draft: Draft, work: ImportChunk) -> Outcome:
    record, arrival = _arriving(draft, work)
    piece = work.piece
    if piece.upto == arrival.upto and piece.last == (arrival.state is ArrivalState.COMPLETE):
        return Outcome(0, draft.seq)
    if arrival.state is not ArrivalState.FILLING or piece.after != arrival.upto:
        raise Conflict(f"slot {work.slot} does not wait for this piece of its image")
    arrival = replace(
        arrival,
        state=ArrivalState.COMPLETE if piece.last else ArrivalState.FILLING,
        upto=piece.upto,
        chains=piece.chains,
        keys=arrival.keys + len(piece.pairs),
        size_bytes=arrival.size_bytes + sum(len(key) + len(raw) for key, raw in piece.pairs),
    )
    # First, so that the machine knows what the others are.
    _put(draft, work.slot, replace(record, arrival=arrival))
    _add_pairs(draft, arrival.head, piece.pairs)
    return Outcome(1, draft.seq)


def _add_pairs(draft: Draft, head: SlotHead, pairs: tuple[tuple[bytes, bytes], ...]) -> None:
    """All but rows of tables that are dropped here: those are purged, or will be, by now."""
    dropped = {table for table, _ in head.tables if _is_dropped(draft, table)}
    for key, value in pairs:
        if key[0] == keys.Family.FENCE:
            if draft.get(key) is None:
                draft.put(key, value)
        elif not dropped or table_of_key(key) not in dropped:
            draft.add(key, value)


def _is_dropped(draft: Draft, table: TableId) -> bool:
    raw = draft.get(keys.fence(table))
    return raw is not None and decode_fence(raw).state is not FenceState.ACTIVE


def import_clear(draft: Draft, work: ImportClear, *, reader: KeyReader) -> Outcome:
    record, arrival = _arriving(draft, work)
    match arrival.state:
        case ArrivalState.FILLING | ArrivalState.COMPLETE:
            if work.complete != (arrival.state is ArrivalState.COMPLETE):
                raise Conflict(f"the image of slot {work.slot} is in another state")
            state = ArrivalState.CLEARING
        case ArrivalState.CLEARING:
            _require_applied(draft, work.slot, reader)
            _delete(draft, work.slot, record, work.keys)
            state = ArrivalState.CLEAR if work.done else ArrivalState.CLEARING
        case ArrivalState.CLEAR:
            state = ArrivalState.CLEAR
        case _:
            assert_never(arrival.state)
    if state is not arrival.state:
        _put(draft, work.slot, replace(record, arrival=replace(arrival, state=state)))
    return Outcome(len(work.keys), draft.seq)


def _arriving(draft: Draft, work: ImportChunk | ImportClear) -> tuple[SlotRecord, Arrival]:
    record = _record(draft, work.slot)
    arrival = None if record is None else record.arrival
    if record is None or arrival is None or record.epoch != work.epoch:
        raise _late(work.slot, work.epoch, record)
    if record.state is not SlotState.IMPORTING or arrival.attempt != work.attempt:
        raise _late(work.slot, work.epoch, record)
    return record, arrival


def open_slot(draft: Draft, work: SlotOpen, *, reader: KeyReader) -> Outcome:
    record = _record(draft, work.slot)
    if record is not None and (record.epoch, record.state) == (work.epoch, SlotState.OPEN):
        return Outcome(0, draft.seq)
    arrival = None if record is None else record.arrival
    if record is None or arrival is None or record.epoch != work.epoch:
        raise _late(work.slot, work.epoch, record)
    if arrival.state is not ArrivalState.COMPLETE or arrival.head.cut != work.cut:
        raise Conflict(f"the image of slot {work.slot} is not complete")
    _require_applied(draft, work.slot, reader)
    _put(draft, work.slot, SlotRecord(work.epoch, SlotState.OPEN))
    head = arrival.head
    floor = max(change_floor(draft), min(head.floor, head.cut))
    draft.put(keys.CHANGE_FLOOR, codec.encode_seq(floor))
    _note_components(draft, head, record.peer)
    draft.seq = numbers_from(max(draft.seq, head.cut), draft.group)
    return Outcome(1, draft.seq)


def numbers_from(least: Seq, group: GroupId) -> Seq:
    """The smallest seq with the group's bits that is not below `least`."""
    own = (least & ~SEQ_GROUP_MASK) | group
    return Seq(own if own >= least else own + SEQ_STEP)


def _note_components(draft: Draft, head: SlotHead, source: GroupId | None) -> None:
    """What came was decided by `source`, or came to it before."""
    assert source is not None
    for group, bound in (*head.components, (source, head.cut)):
        raw = draft.get(keys.component(group))
        if group != draft.group and (raw is None or codec.decode_seq(raw) < bound):
            draft.put(keys.component(group), codec.encode_seq(bound))


# ---- giving up -----------------------------------------------------------------------------------


def purge(draft: Draft, work: SlotPurge, *, reader: KeyReader) -> Outcome:
    record = _record(draft, work.slot)
    if record is None or (record.state is SlotState.GONE and record.epoch < work.epoch):
        _put(draft, work.slot, SlotRecord(work.epoch, SlotState.GONE))
        return Outcome(0, draft.seq)
    if record.state is SlotState.GONE:
        return Outcome(0, draft.seq)
    if record.state is SlotState.OPEN or record.epoch > work.epoch:
        raise _late(work.slot, work.epoch, record)
    if record.state is not SlotState.PURGING or record.epoch < work.epoch:
        _put(draft, work.slot, SlotRecord(work.epoch, SlotState.PURGING, peer=record.peer))
        return Outcome(0, draft.seq)
    _require_applied(draft, work.slot, reader)
    _delete(draft, work.slot, record, work.keys)
    if work.done:
        _put(draft, work.slot, SlotRecord(work.epoch, SlotState.GONE, peer=record.peer))
    return Outcome(len(work.keys), draft.seq)


def _delete(draft: Draft, slot: Slot, record: SlotRecord, found: tuple[bytes, ...]) -> None:
    """Nothing reads them by name any more: their slot is not open. The record comes first, as it
    is, so that whoever reads the log sees what the others are.
    """
    if found:
        _put(draft, slot, record)
    for key in found:
        draft.add(key, None)


# ---- records -------------------------------------------------------------------------------------


def _record(draft: Draft, slot: Slot) -> SlotRecord | None:
    raw = draft.get(keys.slot(slot))
    return None if raw is None else decode_slot(raw)


def _put(draft: Draft, slot: Slot, record: SlotRecord) -> None:
    draft.put(keys.slot(slot), encode_slot(record))


def _require_applied(draft: Draft, slot: Slot, reader: KeyReader) -> None:
    """The record was put by a command that is applied. Raises Conflict."""
    if reader.get(keys.slot(slot)) != draft.get(keys.slot(slot)):
        raise Conflict(f"a command on slot {slot} is under way")


def _late(slot: Slot, epoch: int, record: SlotRecord | None) -> Conflict:
    shown = "nothing" if record is None else f"{record.state.name} of epoch {record.epoch}"
    return Conflict(f"slot {slot} is {shown} here, a command of epoch {epoch} does not fit")
