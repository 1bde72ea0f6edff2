"""Slots of several groups' states that were taken at different moments: who is read for which.

Keeps: each slot is read in exactly one group. Where several have it (it moved in between) it is the
newest; where none has it, the states are to be taken again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kalamdb.errors import Unavailable
from kalamdb.far_reads import SlotRun
from kalamdb.model.ids import SLOTS, GroupId, Slot
from kalamdb.store.slot_codec import SlotState
from kalamdb.store.slots import SlotTable

_READ = frozenset((SlotState.OPEN, SlotState.FROZEN))


class SlotRuns:
    """The slots that may be read, equal neighbours as one run; made once for each state of them."""

    def __init__(self) -> None:
        self._kept: dict[GroupId, tuple[SlotTable, list[SlotRun]]] = {}

    def of(self, table: SlotTable) -> Sequence[SlotRun]:
        kept = self._kept.get(table.group)
        if kept is None or kept[0] is not table:
            kept = self._kept[table.group] = table, list(_runs(table))
        return kept[1]


def _runs(table: SlotTable) -> Iterator[SlotRun]:
    first = stop = -1
    seen: tuple[int, bool] = (0, False)
    for slot, record in sorted(table.records.items()):
        if record.state not in _READ:
            continue
        found = record.epoch, record.state is SlotState.OPEN
        if slot == stop and found == seen:
            stop += 1
            continue
        if first >= 0:
            yield SlotRun(first, stop, *seen)
        first, stop, seen = slot, slot + 1, found
    if first >= 0:
        yield SlotRun(first, stop, *seen)


def divided(groups: Sequence[Sequence[SlotRun]]) -> list[frozenset[Slot]]:
    """For each group the slots that are read in another one. Raises Unavailable."""
    if _fits(groups):
        return [frozenset() for _ in groups]
    best: list[tuple[int, bool, int] | None] = [None] * SLOTS
    hide: list[set[Slot]] = [set() for _ in groups]
    for number, runs in enumerate(groups):
        for run in runs:
            mine = run.epoch, run.is_open, number
            for slot in range(run.first, min(run.stop, SLOTS)):
                other = best[slot]
                if other is None:
                    best[slot] = mine
                    continue
                best[slot], older = max(mine, other), min(mine, other)
                hide[older[2]].add(Slot(slot))
    for slot, owner in enumerate(best):
        if owner is None:
            raise Unavailable(f"slot {slot} is being moved")
    return [frozenset(slots) for slots in hide]


def _fits(groups: Sequence[Sequence[SlotRun]]) -> bool:
    """The usual case: runs side by side, from the first slot to the last."""
    at = 0
    for run in sorted((run for runs in groups for run in runs), key=lambda run: run.first):
        if run.first != at:
            return False
        at = run.stop
    return at == SLOTS
