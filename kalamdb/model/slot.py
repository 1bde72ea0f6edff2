"""Slot moves as plain data: what meta keeps of a move, and what travels with the image of a slot.

A move carries one slot from the group `source` to `target`. Its epoch is drawn from one counter, so
of two moves of a slot the later has the larger one, and every command of a move names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from kalamdb.model.ids import GroupId, Seq, Slot, TableId

FIRST_EPOCH = 1
"""In which the slots of a new cluster open; moves have larger ones."""


class MoveState(IntEnum):
    """MOVING, then exactly one of the others; the number is what the MOVE record holds."""

    MOVING = 1
    OPENED = 2
    ABORTED = 3


@dataclass(frozen=True, slots=True)
class Move:
    """A move in flight. It is forgotten when both groups have done what its end asks of them."""

    slot: Slot
    source: GroupId
    target: GroupId
    epoch: int
    state: MoveState
    started_ms: int


@dataclass(frozen=True, slots=True)
class SlotHead:
    """What comes before the keys of a slot's image, from the same snapshot.

    `index`: the applied index it was taken at. `floor`: the group's change floor. `components`: for
    each group whose changes were brought there, a bound of their seqs. `tables`: versions of the
    fences of all tables with keys in the slot. `chains`: how many (table, partition) there are.
    """

    index: int
    cut: Seq
    floor: Seq
    components: tuple[tuple[GroupId, Seq], ...]
    tables: tuple[tuple[TableId, int], ...]
    chains: int


@dataclass(frozen=True, slots=True)
class SlotPiece:
    """Keys of the image, in the image's order. `after` and `upto` name the last key before it and
    in it; `chains`: how many are complete by then. The last piece has no keys.
    """

    after: bytes
    upto: bytes
    pairs: tuple[tuple[bytes, bytes], ...]
    chains: int
    last: bool = False
