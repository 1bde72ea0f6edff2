"""A slot's image read from this member, and its keys removed from it. Walks run in a thread.

Keeps:
- An image is of one snapshot, and only of one in which the slot is frozen in the move's epoch.
- That nothing is left is said only after a whole walk over a snapshot in which the slot is given up
  already: from then on nothing adds a key to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kalamdb.errors import Conflict
from kalamdb.model import keys
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Slot
from kalamdb.model.slot import SlotHead, SlotPiece
from kalamdb.model.slot_work import ImportClear, SlotPurge
from kalamdb.model.work import Work
from kalamdb.store.catalog_codec import FenceState
from kalamdb.store.changes import change_floor, components
from kalamdb.store.kv import GroupSnapshot, KeyReader
from kalamdb.store.slot_codec import ArrivalState, SlotRecord, SlotState, decode_slot
from kalamdb.store.slot_keys import SlotWalk, key_steps, pieces

T = TypeVar("T")
STEP_KEYS = 2000


def record_of(reader: KeyReader, slot: Slot) -> SlotRecord | None:
    raw = reader.get(keys.slot(slot))
    return None if raw is None else decode_slot(raw)


class SlotImage:
    """One image. `head`, then `pieces` once; both scan and belong in a thread. Must be closed."""

    def __init__(self, snapshot: GroupSnapshot, slot: Slot, epoch: int) -> None:
        """Raises Conflict when the slot is not frozen with `epoch` in the snapshot."""
        self._snapshot = snapshot
        self._slot = slot
        self._walk: SlotWalk | None = None
        record = record_of(snapshot, slot)
        if record is None or (record.epoch, record.state) != (epoch, SlotState.FROZEN):
            snapshot.close()
            raise Conflict(f"slot {slot} is not frozen with epoch {epoch} here")
        self._cut = record.cut

    def head(self) -> SlotHead:
        snapshot = self._snapshot
        walk = self._walk = SlotWalk(snapshot, self._slot)
        active = (fence.table for fence in walk.fences() if fence.state is FenceState.ACTIVE)
        return SlotHead(
            snapshot.mark.index,
            self._cut,
            change_floor(snapshot),
            tuple(components(snapshot)),
            tuple((table.id, table.version) for table in active),
            len(walk.chains),
        )

    def pieces(self) -> Iterator[SlotPiece]:
        walk = self._walk
        assert walk is not None, "the head comes first"
        found = [
            (keys.fence(fence.table.id), raw)
            for fence in walk.fences()
            if (raw := self._snapshot.get(keys.fence(fence.table.id))) is not None
            and fence.state is FenceState.ACTIVE
        ]
        return pieces(walk, found)

    def close(self) -> None:
        self._snapshot.close()


async def image_stream(image: SlotImage) -> AsyncGenerator[SlotHead | SlotPiece]:
    """The head, then the pieces, each made in a thread when it is asked for. Closes the image."""
    try:
        yield await _in_thread(image.head)
        found = image.pieces()
        while (piece := await _in_thread(lambda: next(found, None))) is not None:
            yield piece
    finally:
        image.close()


async def _in_thread(work: Callable[[], T]) -> T:
    """A bounded piece of work on a snapshot. Who is cancelled waits for its end: the snapshot is
    closed next.
    """
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    finally:
        if not running.done():
            await asyncio.wait((running,))


# ---- removing ------------------------------------------------------------------------------------


class Writes(Protocol):
    """The leader's replica, as far as removing needs it."""

    def write(self, work: Work) -> Awaitable[Outcome]: ...


@dataclass(frozen=True, slots=True)
class SlotSteps:
    """The commands that remove a slot's keys: of the slot, or (`attempt`) of an import."""

    slot: Slot
    epoch: int
    attempt: int | None = None

    def work(
        self, keys: tuple[bytes, ...] = (), *, done: bool = False, complete: bool = False
    ) -> SlotPurge | ImportClear:
        if self.attempt is None:
            return SlotPurge(self.slot, self.epoch, keys, done)
        return ImportClear(self.slot, self.epoch, self.attempt, complete, keys, done)

    def is_given_up(self, record: SlotRecord | None) -> bool | None:
        """May keys be removed? None: none is left."""
        if record is None or record.epoch != self.epoch:
            return False
        if self.attempt is None:
            return None if record.state is SlotState.GONE else record.state is SlotState.PURGING
        arrival = record.arrival
        if arrival is None or arrival.attempt != self.attempt:
            return False
        if arrival.state is ArrivalState.CLEAR:
            return None
        return arrival.state is ArrivalState.CLEARING


async def clear_slot(
    replica: Writes, snapshot: Callable[[], GroupSnapshot], steps: SlotSteps, keys_max: int
) -> bool:
    """Up to about `keys_max` keys; True when none is left. Raises Conflict where the slot is not
    given up: the command that does that comes first, and from whoever may say so.
    """
    view = snapshot()
    try:
        given_up = steps.is_given_up(record_of(view, steps.slot))
        if given_up is None:
            return True
        if not given_up:
            raise Conflict(f"slot {steps.slot} is not given up here")
        walk = await _in_thread(lambda: SlotWalk(view, steps.slot))
        found = key_steps(walk, STEP_KEYS)
        removed = 0
        while (step := await _in_thread(lambda: next(found, None))) is not None:
            await replica.write(steps.work(step))
            removed += len(step)
            if removed >= keys_max:
                return False
    finally:
        view.close()
    await replica.write(steps.work(done=True))
    return True
