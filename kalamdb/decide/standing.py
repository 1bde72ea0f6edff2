"""What decisions rest on besides rows: fences, slots, chains, and in group 0 the catalog.

All of it is the group's own state as decided so far, kept decoded while this node leads.

Keeps: `learn` follows every decision in the step in which it is made; nothing survives `forget`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kalamdb.decide.draft import Chain
from kalamdb.decide.plan import Checks, TablePlan
from kalamdb.errors import Conflict, SchemaChanged, Unavailable, UnknownTable
from kalamdb.model import codec, keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Effect
from kalamdb.model.ids import (
    META_GROUP,
    Partition,
    Seq,
    Slot,
    TableId,
    shared_partition,
    slot_of,
)
from kalamdb.model.table import TableDef, TableKind
from kalamdb.store import catalog
from kalamdb.store.catalog_codec import FenceState, decode_fence
from kalamdb.store.kv import GroupStore, prefix_end
from kalamdb.store.slot_codec import SlotRecord, SlotState, decode_slot
from kalamdb.store.slots import HELD, elsewhere


class Standing:
    """See the module. Sequencer state."""

    def __init__(
        self,
        store: GroupStore,
        decided: Mapping[bytes, Effect],
        checks: Checks,
        chains_max: int,
    ) -> None:
        self._store = store
        self._decided = decided
        self._checks = checks
        self._chains_max = chains_max
        self._plans: dict[TableId, TablePlan] = {}
        self._open_slots: dict[Slot, int] = {}  # with the epoch
        self._other_slots: dict[Slot, SlotRecord] = {}
        self.held: frozenset[Slot] = frozenset()  # what they hold must stay as it is
        self.purging: frozenset[Slot] = frozenset()  # nothing may be put there
        self._shared: tuple[Slot, ...] | None = None
        self._chains: dict[tuple[TableId, Partition], Chain] = {}
        self.catalog: CatalogView | None = None

    def load(self) -> None:
        """At the beginning of a term, when all that was decided is applied."""
        prefix = bytes([keys.Family.SLOT])
        for key, value in self._store.scan(prefix, prefix_end(prefix)):
            self._learn_slot(key, value)
        self._sort_slots()
        if self._store.group == META_GROUP:
            self.catalog = catalog.load(self._store)

    def forget(self) -> None:
        self._plans.clear()
        self._open_slots.clear()
        self._other_slots.clear()
        self.held = self.purging = frozenset()
        self._shared = None
        self._chains.clear()
        self.catalog = None

    def learn(self, effects: Sequence[Effect]) -> None:
        """Follow a decision on schema, slots or catalog."""
        slots = False
        for key, value in effects:
            if key[0] == keys.Family.SLOT:
                self._learn_slot(key, value)
                slots = True
            elif key[0] == keys.Family.FENCE:
                self._plans.pop(keys.table_of(key), None)
                self._shared = None
        if slots:
            self._sort_slots()
        if self.catalog is not None:
            self.catalog = catalog.fold(self.catalog, effects)

    def _learn_slot(self, key: bytes, value: bytes | None) -> None:
        slot = Slot(keys.U16.unpack_from(key, 1)[0])
        record = None if value is None else decode_slot(value)
        self._open_slots.pop(slot, None)
        self._other_slots.pop(slot, None)
        if record is not None and record.state is SlotState.OPEN:
            # Another group may have gone on with its chains.
            self._chains.clear()
            self._open_slots[slot] = record.epoch
        elif record is not None:
            self._other_slots[slot] = record

    def _sort_slots(self) -> None:
        others = self._other_slots.items()
        self.held = frozenset(slot for slot, found in others if found.state in HELD)
        self.purging = frozenset(slot for slot, found in others if found.state is SlotState.PURGING)

    def _read(self, key: bytes) -> bytes | None:
        effect = self._decided.get(key)
        return self._store.get(key) if effect is None else effect[1]

    def plan(self, table: TableDef) -> TablePlan:
        """The fence's plan. Raises SchemaChanged, UnknownTable; Unavailable without a fence."""
        plan = self._plans.get(table.id)
        if plan is None:
            raw = self._read(keys.fence(table.id))
            if raw is None:
                group = self._store.group
                raise Unavailable(f"group {group} has no fence for {table.full_name} yet")
            fence = decode_fence(raw)
            plan = self._plans[table.id] = TablePlan(fence.table, fence.state, self._checks)
        if plan.state is not FenceState.ACTIVE:
            raise UnknownTable(table.full_name)
        if plan.table.version != table.version:
            raise SchemaChanged(table.full_name, plan.table.version, plan.table)
        return plan

    def chain(self, table: TableId, partition: Partition) -> Chain:
        """The chain's keys and its last decided change."""
        found = self._chains.get((table, partition))
        if found is None:
            if len(self._chains) >= self._chains_max:
                self._chains.clear()
            raw = self._read(keys.last(table, partition))
            last = Seq(0) if raw is None else codec.decode_seq(raw)
            found = self._chains[table, partition] = Chain(table, partition, last)
        return found

    def moved(self, chain: Chain, last: Seq) -> None:
        """A decision ended in `last`. The chain is kept again: it may have been let go meanwhile,
        and another object must not stand for it with an older seq.
        """
        chain.last_seq = last
        self._chains[chain.table, chain.partition] = chain

    def chain_for_write(self, table: TableId, partition: Partition) -> Chain:
        """Raises Moved, or NotLeader, when the partition's slot is not open here."""
        chain = self._chains.get((table, partition))
        slot = slot_of(partition) if chain is None else chain.slot
        if slot not in self._open_slots:
            raise self.elsewhere(slot)
        return self.chain(table, partition) if chain is None else chain

    def elsewhere(self, slot: Slot) -> Unavailable:
        """What is said of a slot that is not open."""
        return elsewhere(self._store.group, slot, self._other_slots.get(slot))

    def open_epoch(self, slot: Slot) -> int | None:
        """The epoch in which the slot is open; None: it is not."""
        return self._open_slots.get(slot)

    def shared_slots(self) -> tuple[Slot, ...]:
        """The slots of all SHARED tables, wherever they are."""
        if self._shared is None:
            prefix = bytes([keys.Family.FENCE])
            scan = self._store.scan(prefix, prefix_end(prefix))
            tables = (decode_fence(raw).table for _, raw in scan)
            self._shared = tuple(
                dict.fromkeys(
                    slot_of(shared_partition(table.id))
                    for table in tables
                    if table.kind is TableKind.SHARED
                )
            )
        return self._shared

    def record(self, slot: Slot) -> SlotRecord | None:
        """What is known of a slot that is not open."""
        return self._other_slots.get(slot)

    def check_slots(self, seen: Mapping[Slot, int]) -> None:
        """Raises Conflict when a slot is not open in the epoch in which it was seen open."""
        for slot, epoch in seen.items():
            if self._open_slots.get(slot) != epoch:
                raise Conflict(f"slot {slot} was moved")
