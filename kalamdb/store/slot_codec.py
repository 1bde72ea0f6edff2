"""Versioned bytes of slot records and of moves, as in `catalog_codec`.

A SLOT record says what a slot is to a group. One that says no more than version 1 could is written
as of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from kalamdb.model import codec
from kalamdb.model.ids import GroupId, Seq, Slot, TableId
from kalamdb.model.slot import Move, MoveState, SlotHead

_NO_CUT = Seq(0)
VERSION = 1
SLOT_VERSION = 2  # cut, the other group, what is arriving


class SlotState(IntEnum):
    """GONE: it was here; commands of its epoch and of older ones come too late."""

    IMPORTING = 1
    OPEN = 2
    FROZEN = 3
    PURGING = 4
    GONE = 5


class ArrivalState(IntEnum):
    FILLING = 1
    COMPLETE = 2
    CLEARING = 3
    CLEAR = 4  # no key of the slot is left


@dataclass(frozen=True, slots=True)
class Arrival:
    """How far the import of a slot is. `upto` is the last key that came."""

    attempt: int
    state: ArrivalState
    head: SlotHead
    upto: bytes = b""
    chains: int = 0
    keys: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """`peer` is the other group of the move that `epoch` names: where a frozen, purging or gone
    slot goes (after an abort: stays), where an importing one comes from.
    """

    epoch: int
    state: SlotState
    cut: Seq = _NO_CUT
    peer: GroupId | None = None
    arrival: Arrival | None = None


def _fields(raw: bytes, what: str, newest: int = VERSION) -> list[Any]:
    found = codec.unpack(raw)
    if not 1 <= found[0] <= newest:
        raise codec.UnknownVersion(f"{what} format {found[0]} is not known")
    return found[1:]


def encode_slot(record: SlotRecord) -> bytes:
    if not record.cut and record.peer is None and record.arrival is None:
        return codec.pack([VERSION, record.epoch, record.state])
    arrival = None if record.arrival is None else _arrival_out(record.arrival)
    fields = [record.epoch, record.state, record.cut, record.peer, arrival]
    return codec.pack([SLOT_VERSION, *fields])


def decode_slot(raw: bytes) -> SlotRecord:
    epoch, state, *later = _fields(raw, "slot", SLOT_VERSION)
    if not later:
        return SlotRecord(epoch, SlotState(state))
    cut, peer, arrival = later
    return SlotRecord(
        epoch,
        SlotState(state),
        Seq(cut),
        None if peer is None else GroupId(peer),
        None if arrival is None else _arrival_in(arrival),
    )


def _arrival_out(arrival: Arrival) -> list[Any]:
    return [
        arrival.attempt,
        arrival.state,
        head_out(arrival.head),
        arrival.upto,
        arrival.chains,
        arrival.keys,
        arrival.size_bytes,
    ]


def _arrival_in(raw: list[Any]) -> Arrival:
    attempt, state, head, *rest = raw
    return Arrival(attempt, ArrivalState(state), head_in(head), *rest)


def head_out(head: SlotHead) -> list[Any]:
    return [head.index, head.cut, head.floor, head.components, head.tables, head.chains]


def head_in(raw: list[Any]) -> SlotHead:
    index, cut, floor, components, tables, chains = raw
    return SlotHead(
        index,
        Seq(cut),
        Seq(floor),
        tuple((GroupId(group), Seq(seq)) for group, seq in components),
        tuple((TableId(table), version) for table, version in tables),
        chains,
    )


def encode_move(move: Move) -> bytes:
    fields = [move.slot, move.source, move.target, move.epoch, move.state, move.started_ms]
    return codec.pack([VERSION, *fields])


def decode_move(raw: bytes) -> Move:
    slot, source, target, epoch, state, started_ms = _fields(raw, "move")
    groups = GroupId(source), GroupId(target)
    return Move(Slot(slot), *groups, epoch, MoveState(state), started_ms)
