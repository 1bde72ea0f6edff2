"""What the driver of a slot move asks of meta and of the two groups: part of the union in `work`.

All of it is plain data, so that it can travel to a group's leader. Each names the move's epoch; it
is without effect (affected 0) where it was carried out before, and Conflict where it is too late.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalamdb.model.ids import GroupId, Seq, Slot, TableId
from kalamdb.model.slot import SlotHead, SlotPiece

# ---- meta ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BeginMove:
    """Meta: record a move; the outcome's one row is its epoch. Conflict while the slot is moving,
    or when `source` does not own it; LimitReached for too many at once.
    """

    slot: Slot
    source: GroupId
    target: GroupId


@dataclass(frozen=True, slots=True)
class FinishMove:
    """Meta: from now on `target` owns the slot. `tables`: the versions its image came with.

    Conflict when the move was aborted, or while a definition of these tables is not at rest.
    """

    slot: Slot
    epoch: int
    tables: tuple[tuple[TableId, int], ...]


@dataclass(frozen=True, slots=True)
class AbortMove:
    """Meta: `source` keeps the slot. Conflict when the move was finished."""

    slot: Slot
    epoch: int


@dataclass(frozen=True, slots=True)
class EndMove:
    """Meta: both groups have done their part; forget the record. Conflict while it is MOVING."""

    slot: Slot
    epoch: int


# ---- the source ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotFreeze:
    """Source: decide nothing on the slot any more. The outcome's one row is the cut."""

    slot: Slot
    epoch: int
    target: GroupId


@dataclass(frozen=True, slots=True)
class SlotThaw:
    """Source, once meta says the move is aborted: the slot is open again."""

    slot: Slot
    epoch: int


# ---- the target ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportBegin:
    """Target: an image is coming. `attempt` is one more than that of the image before, from 1.

    Conflict while any key of the slot is left.
    """

    slot: Slot
    epoch: int
    source: GroupId
    attempt: int
    head: SlotHead


@dataclass(frozen=True, slots=True)
class ImportChunk:
    """Target: the next piece of the image. The one that came last is accepted again."""

    slot: Slot
    epoch: int
    attempt: int
    piece: SlotPiece


@dataclass(frozen=True, slots=True)
class ImportClear:
    """Target: give the image up. The first makes the import refuse pieces; the next delete `keys`;
    the one that says `done` follows a walk that has found all of them.

    `complete`: it was seen complete. An import that is complete is not cleared by who has not.
    """

    slot: Slot
    epoch: int
    attempt: int
    complete: bool = False
    keys: tuple[bytes, ...] = ()
    done: bool = False


@dataclass(frozen=True, slots=True)
class SlotOpen:
    """Target, once meta says the move is finished: own the slot. `cut` is the source's."""

    slot: Slot
    epoch: int
    cut: Seq


# ---- whoever does not own the slot ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotPurge:
    """The source of a finished move, the target of an aborted one: give the slot up for ever, in
    steps like `ImportClear`.
    """

    slot: Slot
    epoch: int
    keys: tuple[bytes, ...] = ()
    done: bool = False


MoveWork = BeginMove | FinishMove | AbortMove | EndMove
SlotWork = SlotFreeze | SlotThaw | ImportBegin | ImportChunk | ImportClear | SlotOpen | SlotPurge
SLOT_WORK = (SlotFreeze, SlotThaw, ImportBegin, ImportChunk, ImportClear, SlotOpen, SlotPurge)
