"""The committed logs of a cluster: the meta group's as catalogs, the data groups' as one history.

1. Each group's log is folded as ever (`sim.reference`).
2. A change belongs to the group whose bits its seq has; what a move brings is not a new change. The
   changes of a tenant in all groups are one chain, whoever owns its slot.
3. Slots are followed through their states: one group at most has a slot open, and a group changes
   rows of open slots only.

Keeps: a chain that breaks, and a slot with two owners, raise at once (`Violation`).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from kalamdb.model import codec, keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Command
from kalamdb.model.ids import SEQ_GROUP_MASK, Partition, Seq, Slot, TableId, slot_of
from kalamdb.store.catalog import FIRST_CATALOG, fold
from kalamdb.store.slot_codec import SlotRecord, SlotState, decode_slot
from tests.sim.history import Elements, Frame
from tests.sim.reference import CommittedCommand, GroupReference, Violation
from tests.sim.schema import elements_of, operation_of_request

TABLE_ID = TableId(1)  # the first table of a cluster


@dataclass(slots=True)
class Ownership:
    """What all data groups say together. `opened` counts how often each slot was opened."""

    chains: dict[Partition, list[Frame]] = field(default_factory=dict[Partition, list[Frame]])
    open_in: dict[Slot, int] = field(default_factory=dict[Slot, int])
    opened: dict[Slot, int] = field(default_factory=dict[Slot, int])

    def opens(self, slot: Slot, group: int) -> None:
        owner = self.open_in.setdefault(slot, group)
        if owner != group:
            raise Violation(f"slot {slot} is open in group {owner}, and now in group {group} too")
        self.opened[slot] = self.opened.get(slot, 0) + 1

    def closes(self, slot: Slot, group: int) -> None:
        if self.open_in.get(slot) == group:
            del self.open_in[slot]


class MetaLog(GroupReference):
    """Group 0: `catalogs` has each catalog with the time it was first applied."""

    def __init__(self) -> None:
        super().__init__(0)
        self.catalogs: list[tuple[float, CatalogView]] = [(0.0, FIRST_CATALOG)]

    @property
    def catalog(self) -> CatalogView:
        return self.catalogs[-1][1]

    def newer_than(self, version: int) -> float:
        """When a catalog newer than that was first applied; infinite for never."""
        at = bisect_right(self.catalogs, version, key=lambda known: known[1].version)
        return self.catalogs[at][0] if at < len(self.catalogs) else float("inf")

    def _note(self, where: str, index: int, command: Command, *, now_s: float) -> None:
        view = fold(self.catalog, command.effects)
        if view is not self.catalog:
            self.catalogs.append((now_s, view))


class DataLog(GroupReference):
    """A data group."""

    def __init__(self, group: int, ownership: Ownership) -> None:
        super().__init__(group)
        self._ownership = ownership
        self.slots: dict[Slot, SlotRecord] = {}

    def chain(self, partition: Partition) -> list[Frame]:
        return self._ownership.chains.setdefault(partition, [])

    def _note(self, where: str, index: int, command: Command, *, now_s: float) -> None:
        before = self.seq
        versions = self._own_versions(command, before)
        changes: list[tuple[Seq, bytes, bytes]] = []
        for key, value in command.effects:
            match key[0]:
                case keys.Family.CHANGE if value is not None:
                    seq = codec.decode_seq(key[-8:])
                    mine = seq & SEQ_GROUP_MASK == self.group and seq > before
                    if mine and keys.chain_of_change(key)[:4] == keys.U32.pack(TABLE_ID):
                        changes.append((seq, key, value))
                case keys.Family.SLOT:
                    self._note_slot(key, value)
                case _:
                    pass
        for seq, key, value in changes:
            last = seq == changes[-1][0]
            self._note_own_change(where, key, value, versions, last=last)
        if changes or command.request_key is not None:
            numbers = dict.fromkeys(row[-1] for row in versions.values())
            if command.request_key is not None:
                numbers[operation_of_request(command.request_key)] = None
            made = CommittedCommand(index, self.seq, command.request_key, tuple(numbers))
            self.commands.append(made)

    def _own_versions(self, command: Command, before: Seq) -> dict[tuple[bytes, Seq], Elements]:
        """Row versions that this command made, by key and seq; not those a move brought."""
        found: dict[tuple[bytes, Seq], Elements] = {}
        for key, value in command.effects:
            if key[0] != keys.Family.ROW or value is None or keys.table_of(key) != TABLE_ID:
                continue
            seq, row = codec.decode_row(value)
            if row is None or seq & SEQ_GROUP_MASK != self.group or seq <= before:
                continue
            _, at = keys.split_terminated(key, 5)
            found[key[at:], seq] = elements_of(row)
        return found

    def _note_own_change(
        self,
        where: str,
        key: bytes,
        value: bytes,
        versions: dict[tuple[bytes, Seq], Elements],
        *,
        last: bool,
    ) -> None:
        op, prev_seq, _, last_of_txn, pk = codec.decode_change(value)
        seq = codec.decode_seq(key[-8:])
        name, _ = keys.split_terminated(keys.chain_of_change(key), 4)
        partition = Partition(name)
        chain = self.chain(partition)
        newest = chain[-1].seq if chain else Seq(0)
        if seq <= newest:
            raise Violation(f"{where}: seq {seq} does not rise above {newest} of its chain")
        if prev_seq != newest:
            raise Violation(f"{where}: change {seq} follows {prev_seq}, its chain is at {newest}")
        if last_of_txn != last:
            raise Violation(f"{where}: change {seq} says last_of_txn={last_of_txn}")
        record = self.slots.get(slot_of(partition))
        if record is None or record.state is not SlotState.OPEN:
            raise Violation(f"{where}: change {seq} of a slot that is {record} here")
        self.seq = seq
        chain.append(Frame(seq, prev_seq, op, pk, versions.get((pk, seq)), last_of_txn))

    def _note_slot(self, key: bytes, value: bytes | None) -> None:
        slot = Slot(int.from_bytes(key[1:3], "big"))
        if value is None:
            self.slots.pop(slot, None)
            self._ownership.closes(slot, self.group)
            return
        record = self.slots[slot] = decode_slot(value)
        if record.state is SlotState.OPEN:
            self._ownership.opens(slot, self.group)
        else:
            self._ownership.closes(slot, self.group)
