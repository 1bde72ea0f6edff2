"""What a group has of each slot, as applied: what may be read here, of one tenant and of all.

`SlotTable` is one state of it, never changed; `AppliedSlots` is replaced by the next with every
command on a slot.

Keeps: a slot is read where it is open or frozen, never where it is importing, purging or gone. Of
one state of two groups, a slot is counted in exactly one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kalamdb.errors import Moved, NotLeader, Unavailable
from kalamdb.model import keys
from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId, Partition, Slot, slot_of
from kalamdb.model.slot import FIRST_EPOCH
from kalamdb.store.kv import KeyReader, prefix_end
from kalamdb.store.slot_codec import SlotRecord, SlotState, decode_slot

HELD = frozenset((SlotState.IMPORTING, SlotState.FROZEN, SlotState.PURGING))
"""Its keys are there, and only commands on the slot itself touch them."""

_HIDDEN = frozenset((SlotState.IMPORTING, SlotState.PURGING))
_READ = frozenset((SlotState.OPEN, SlotState.FROZEN))
_PREFIX = bytes([keys.Family.SLOT])


def elsewhere(group: GroupId, slot: Slot, record: SlotRecord | None) -> Unavailable:
    """What is said of a slot that is not open in `group`."""
    if record is None:
        return NotLeader(group, None)
    # While it comes here meta says so already, or will.
    hint = group if record.state is SlotState.IMPORTING else record.peer
    return Moved(slot, record.epoch, hint)


@dataclass(frozen=True, slots=True)
class SlotTable:
    """Records by slot. `frozen`: those; `hidden`: there may be keys that are not to be seen;
    `moved`: open, and another group had it before.
    """

    group: GroupId
    records: Mapping[Slot, SlotRecord] = field(default_factory=dict[Slot, SlotRecord])
    frozen: frozenset[Slot] = frozenset()
    hidden: frozenset[Slot] = frozenset()
    moved: frozenset[Slot] = frozenset()

    @staticmethod
    def of(group: GroupId, records: Mapping[Slot, SlotRecord]) -> SlotTable:
        found = records.items()
        return SlotTable(
            group,
            records,
            frozenset(slot for slot, record in found if record.state is SlotState.FROZEN),
            frozenset(slot for slot, record in found if record.state in _HIDDEN),
            frozenset(
                slot
                for slot, record in found
                if record.epoch > FIRST_EPOCH and record.state is SlotState.OPEN
            ),
        )

    def check_read(self, partition: Partition) -> None:
        """Raises Moved, or NotLeader, where the partition's slot is not to be read."""
        slot = slot_of(partition)
        record = self.records.get(slot)
        if record is None or record.state not in _READ:
            raise elsewhere(self.group, slot, record)

    def open_epoch(self, partition: Partition) -> int:
        """The epoch in which the partition's slot is open. Raises Moved, NotLeader."""
        slot = slot_of(partition)
        record = self.records.get(slot)
        if record is None or record.state is not SlotState.OPEN:
            raise elsewhere(self.group, slot, record)
        return record.epoch


def serving(tables: Sequence[SlotTable], *, all_groups: bool = True) -> list[frozenset[Slot]]:
    """For several groups' states, each of its own time: the slots that are not to be read there.
    `all_groups` False: other groups are read too, and a slot may be counted there.

    Raises Unavailable when a slot on its way is to be read in none of them (the states are of
    different times, or of too few groups): take them again.
    """
    hide = [set(table.hidden) for table in tables]
    moving = {slot for table in tables for slot in table.frozen | table.hidden | table.moved}
    for slot in moving:
        having = [
            (record.state is SlotState.OPEN, record.epoch, number)
            for number, table in enumerate(tables)
            if (record := table.records.get(slot)) is not None and record.state in _READ
        ]
        if not having:
            if not all_groups:
                continue
            raise Unavailable(f"slot {slot} is being moved")
        newest = max(having, key=lambda one: (one[1], one[0]))[2]
        for _, _, number in having:
            if number != newest:
                hide[number].add(slot)
    return [frozenset(slots) for slots in hide]


class AppliedSlots:
    """The newest state, kept in step with what is applied."""

    def __init__(self, group: GroupId, reader: KeyReader) -> None:
        self._group = group
        self.table = SlotTable(group)
        self.load(reader)

    def load(self, reader: KeyReader) -> None:
        self.table = SlotTable(self._group)
        self.learn(reader.scan(_PREFIX, prefix_end(_PREFIX)))

    def learn(self, effects: Iterable[Effect]) -> bool:
        """Follow SLOT effects among others; False when there was none."""
        records: dict[Slot, SlotRecord] | None = None
        for key, value in effects:
            if key[0] != keys.Family.SLOT:
                continue
            if records is None:
                records = dict(self.table.records)
            slot = Slot(keys.U16.unpack_from(key, 1)[0])
            records.pop(slot, None)
            if value is not None:
                records[slot] = decode_slot(value)
        if records is None:
            return False
        self.table = SlotTable.of(self._group, records)
        return True
