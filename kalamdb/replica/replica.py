"""Replica: one group on one node. Store, machine and sequencer behind the `LogMachine` port.

    write ─► sequencer.decide ─► log pulls `take` ─► committed ─► `apply` ─► machine ─► batch ─►
    waiters, sink read  ─► barrier (read index) ─► get | snapshot

Keeps: it serves writes and linearizable reads only between `lead` and `resign`; reads after
`barrier` see everything answered before it was called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from kalamdb.apply.machine import Fatal, Machine, MachineStatistics
from kalamdb.decide.plan import Checks, no_checks
from kalamdb.decide.sequencer import Sequencer, SequencerLimits, SequencerStatistics
from kalamdb.errors import (
    Corruption,
    DiskFull,
    KalamError,
    NotLeader,
    SchemaChanged,
    Unavailable,
    UnknownTable,
)
from kalamdb.lib.clock import Clock
from kalamdb.lib.tasks import when_done
from kalamdb.model import codec, keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Effect, Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Partition, Seq, Slot, TableId, seq_ms, slot_of
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import AppliedMark, ChangeSink, Log, LogEntry
from kalamdb.replica.slot_image import SlotImage, SlotSteps, clear_slot
from kalamdb.replica.transaction import ReplicaTransaction
from kalamdb.store import catalog, image, rows
from kalamdb.store.catalog_codec import Fence, FenceState, decode_fence
from kalamdb.store.kv import GroupStore, prefix_end
from kalamdb.store.slot_codec import SlotRecord, SlotState
from kalamdb.store.slots import AppliedSlots, SlotTable, elsewhere
from kalamdb.store.snapshot import HotSnapshot

PullImage = Callable[[GroupId, int], AsyncIterator[image.Pairs]]
"""Chunks of a group's image as another node has it (`Replica.image_chunks` there)."""

MetaAllows = Callable[[Slot, int], Awaitable[bool]]
"""After a read index of meta: is the move of this epoch recorded, and not as opened? Then the group
in which the slot is frozen may answer reads of it (core.md §10). Raises Unavailable.
"""

PURGE_KEYS = 2000
_LAST = bytes([keys.Family.LAST])


def _no_room_needed() -> DiskFull | None:
    return None


def _raise(error: KalamError) -> NoReturn:
    raise error


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    sequencer: SequencerLimits = field(default_factory=SequencerLimits)
    prefixes_max: int = 100_000  # key prefixes of partitions kept for point reads


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    group: int
    leads: bool
    seq_last: Seq
    applied_index: int
    applied_term: int
    durable_index: int
    sequencer: SequencerStatistics
    machine: MachineStatistics


class Replica:
    """Implements `ports.LogMachine`. Everything runs on the event loop."""

    def __init__(
        self,
        group: GroupId,
        store: GroupStore,
        sink: ChangeSink,
        clock: Clock,
        *,
        limits: ReplicaLimits | None = None,
        checks: Checks = no_checks,
        disk_full: Callable[[], DiskFull | None] = _no_room_needed,
        on_catalog: Callable[[CatalogView], None] | None = None,
        on_records: Callable[[Sequence[Effect]], None] | None = None,
        pull_image: PullImage | None = None,
        meta_allows: MetaAllows | None = None,
        fatal: Fatal = _raise,
    ) -> None:
        """`disk_full` says whether row writes must be refused now; `fatal` ends the process.
        `on_records` hears the records behind a new catalog; of none, when an image brought it.
        `meta_allows` says whether a frozen slot may be read here; None: it may not.
        """
        assert group == store.group
        self.group = group
        self._store = store
        self._sink = sink
        self._clock = clock
        self._limits = limits or ReplicaLimits()
        self._on_catalog = on_catalog
        self._on_records = on_records
        self._pull_image = pull_image
        self._meta_allows = meta_allows
        self._slots = AppliedSlots(group, store)
        self._log: Log | None = None
        self._confirming: set[asyncio.Future[Any]] = set()
        self._leads_waiters: list[asyncio.Future[None]] = []
        self._behind: dict[asyncio.Future[None], Seq] = {}
        self._sequencer = Sequencer(
            store,
            wall_ms=clock.wall_ms,
            make_waiter=_new_future,
            confirm=self._confirm,
            limits=self._limits.sequencer,
            checks=checks,
            disk_full=disk_full,
        )
        self._machine = Machine(
            store, sink, self._sequencer, fatal=fatal, on_records=self._records_applied
        )
        self._get = store.get
        self._prefixes: dict[tuple[TableId, Partition], bytes] = {}
        self._fences: dict[TableId, Fence | None] = {}
        self.catalog: CatalogView = catalog.FIRST_CATALOG
        if self.group == META_GROUP:
            self.catalog = catalog.load(store)

    def attach(self, log: Log) -> None:
        """The group's log, once, before anything is written."""
        assert self._log is None
        self._log = log

    # ---- writes ---------------------------------------------------------------------------------

    def write(self, work: Work, tag: RequestTag | None = None) -> asyncio.Future[Outcome]:
        """Decide now; resolves once applied here. Raises (in the future) of the error tree."""
        waiter = self._sequencer.decide(work, tag)
        if self._sequencer.has_queued:
            self._required_log().kick()
        return cast("asyncio.Future[Outcome]", waiter)  # what _new_future made

    def open_transaction(self, partition: Partition) -> ReplicaTransaction:
        """One partition's part of a transaction, on the state applied now. Raises NotLeader,
        Moved.
        """
        if not self._sequencer.ready:
            raise NotLeader(self.group, self._leader())
        slots, wall_ms = self._slots.table, self._clock.wall_ms
        slots.open_epoch(partition)
        reader = self._store.snapshot()
        return ReplicaTransaction(
            self._sequencer, self.write, partition, reader, wall_ms, slots=slots
        )

    def recall(self, tag: RequestTag) -> Awaitable[Outcome] | None:
        """What a request id has come to here; None: nothing. Raises RequestIdReused, NotLeader;
        Moved while a slot is frozen in which it may stand.
        """
        if not self._sequencer.ready:
            raise NotLeader(self.group, self._leader())
        return cast("Awaitable[Outcome] | None", self._sequencer.recall(tag))

    def has_fence(self, table: TableDef) -> bool:
        """Does this group know the table, as of what is applied?"""
        return self._fence(table.id) is not None

    def fences(self) -> Iterator[Fence]:
        """Every table this group was ever told of, dropped ones among them."""
        prefix = bytes([keys.Family.FENCE])
        for _, raw in self._store.scan(prefix, prefix_end(prefix)):
            yield decode_fence(raw)

    # ---- reads ----------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """This node leads the group and has applied everything committed before it did."""
        return self._sequencer.ready

    async def wait_leads(self) -> None:
        """Returns once this node leads the group."""
        if not self.leads:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._leads_waiters.append(waiter)
            await waiter

    @property
    def owns_slots(self) -> bool:
        """Has the group been given slots, as of what is applied?"""
        return bool(self._slots.table.records)

    @property
    def slots(self) -> SlotTable:
        """What the group has of each slot, as applied here."""
        return self._slots.table

    async def slot(self, slot: Slot) -> SlotRecord | None:
        """What the group has of a slot, linearizable. Raises NotLeader, Unavailable."""
        reading = self.barrier()
        if reading is not None:
            await reading
        return self._slots.table.records.get(slot)

    @property
    def seq_last(self) -> Seq:
        """The group's seq as applied here."""
        return self._store.mark().seq_last

    def barrier(self, partition: Partition | None = None) -> Awaitable[int] | None:
        """A linearizable read may start once this resolves; None: at once. Raises Unavailable.

        Of a partition whose slot is frozen here, when meta allows it: Moved otherwise.
        """
        if not self._sequencer.ready:
            raise NotLeader(self.group, self._leader())
        if partition is not None and self._slots.table.frozen:
            slot = slot_of(partition)
            if slot in self._slots.table.frozen:
                return self._frozen_barrier(slot)
        return self._required_log().read_index()

    async def _frozen_barrier(self, slot: Slot) -> int:
        """In this order: frozen when this node led for certain, and not opened elsewhere later."""
        reading = self._required_log().read_index()
        index = self._store.mark().index if reading is None else await reading
        record = self._slots.table.records.get(slot)
        if record is not None and record.state is SlotState.FROZEN:
            allows = self._meta_allows
            if allows is None or not await allows(slot, record.epoch):
                raise elsewhere(self.group, slot, record)
        return index  # where it is read, its state is looked at again

    def wait_applied(self, seq: Seq) -> Awaitable[None] | None:
        """Until `seq` is applied here, whoever leads; None: it is."""
        if seq <= self.seq_last:
            return None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._behind[waiter] = seq
        waiter.add_done_callback(lambda done: self._behind.pop(done, None))
        return waiter

    def _tell_applied(self) -> None:
        seq_last = self.seq_last
        for waiter, seq in list(self._behind.items()):
            if seq <= seq_last and not waiter.done():
                waiter.set_result(None)

    def definition(self, table: TableId, version: int, full_name: str) -> TableDef | None:
        """The table as this group knows it; None: it was never told of it, and has no row of it.
        Raises SchemaChanged when that is another version, UnknownTable when it was dropped.
        """
        fence = self._fence(table)
        if fence is None:
            return None
        if fence.table.version != version:
            raise SchemaChanged(full_name, fence.table.version, fence.table)
        if fence.state is not FenceState.ACTIVE:
            raise UnknownTable(full_name)
        return fence.table

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        """Row bytes of a visible row. Raises SchemaChanged, UnknownTable (dropped); Moved or
        NotLeader where the partition's slot is not to be read.
        """
        fence = self._fences.get(table.id)
        if fence is None:
            fence = self._fence(table.id)
            if fence is None:
                self._check_read(partition)
                return None  # no row of a table the group was never told of
        if fence.table.version != table.version:
            raise SchemaChanged(table.full_name, fence.table.version, fence.table)
        if fence.state is not FenceState.ACTIVE:
            raise UnknownTable(table.full_name)
        prefix = self._prefixes.get((table.id, partition))
        if prefix is None:
            prefix = self._prefix(table.id, partition)
        raw = self._get(prefix + pk)
        if raw is None or raw[1] & codec.TOMBSTONE:
            return None
        if not table.has_tombstones and codec.row_seq(raw) <= self._hidden_upto(table):
            return None
        return raw

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        """Seq of the newest change of the chain, 0 for none."""
        prefix = self._prefixes.get((table.id, partition))
        if prefix is None:
            prefix = self._prefix(table.id, partition)
        # A LAST key is the row prefix under another family.
        raw = self._get(_LAST + prefix[1:])
        return Seq(0) if raw is None else codec.decode_seq(raw)

    def _hidden_upto(self, table: TableDef) -> Seq:
        now_ms = max(self._clock.wall_ms(), seq_ms(self.seq_last))
        return rows.expired_upto(table, now_ms, self.group)

    def _check_read(self, partition: Partition) -> None:
        if partition:  # a look at the definition names none
            self._slots.table.check_read(partition)

    def _prefix(self, table: TableId, partition: Partition) -> bytes:
        """Only of partitions that may be read; commands on slots clear them."""
        self._check_read(partition)
        if len(self._prefixes) >= self._limits.prefixes_max:
            self._prefixes.clear()
        made = self._prefixes[table, partition] = keys.row_prefix(table, partition)
        return made

    def _fence(self, table: TableId) -> Fence | None:
        raw = self._get(keys.fence(table))
        if raw is None:
            return None
        made = self._fences[table] = decode_fence(raw)
        return made

    def snapshot(self, partition: Partition | None = None) -> HotSnapshot:
        """The group as applied here. Close it; take it after `barrier` for a linearizable read.

        Raises Moved, NotLeader where `partition` is not to be read.
        """
        slots = self._slots.table
        if partition is not None:
            slots.check_read(partition)
        return HotSnapshot(self.group, self._store.snapshot(), self._clock.wall_ms(), slots)

    # ---- LogMachine -----------------------------------------------------------------------------

    def applied(self) -> AppliedMark:
        mark = self._store.mark()
        return AppliedMark(mark.index, mark.term)

    @property
    def durable_index(self) -> int:
        """Entries up to here need the log no more on this node."""
        return self._store.durable_index()

    def lead(self, term: int) -> None:
        self._sequencer.lead(term)
        if self._sequencer.has_queued:
            self._required_log().kick()
        waiters, self._leads_waiters = self._leads_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def resign(self, reason: str) -> None:
        self._sequencer.resign(reason)
        self._sink.close_all(reason)

    def take(self, term: int, size_max: int) -> bytes | None:
        return self._sequencer.take(term, size_max)

    def apply(self, entries: Sequence[LogEntry]) -> None:
        self._machine.apply(entries)
        if self._behind:
            self._tell_applied()

    def _records_applied(self, records: Sequence[Effect]) -> None:
        self._fences.clear()
        if self._slots.learn(records):
            self._prefixes.clear()
        if self.group == META_GROUP:
            view = catalog.fold(self.catalog, records)
            if view is not self.catalog:
                self.catalog = view
                if self._on_records is not None:
                    self._on_records(records)
                if self._on_catalog is not None:
                    self._on_catalog(view)

    # ---- images ---------------------------------------------------------------------------------

    def image_chunks(self) -> Iterator[image.Pairs]:
        """This group's whole state as of now, for a member that lacks too much of the log."""
        snapshot = self._store.snapshot()
        try:
            yield from image.chunks(snapshot)
        finally:
            snapshot.close()

    def size_bytes(self) -> int:
        """About what the group has on disk."""
        return self._store.size_bytes()

    def slot_image(self, slot: Slot, epoch: int) -> SlotImage:
        """The image of a slot that is frozen here with this epoch, as applied. Close it. Raises
        Conflict.
        """
        return SlotImage(self._store.snapshot(), slot, epoch)

    def purge_slot(
        self, slot: Slot, epoch: int, *, attempt: int | None = None, keys_max: int = 50_000
    ) -> Awaitable[bool]:
        """Delete keys of a slot that is given up (`attempt`: of an import that is), in steps; True
        when none is left. Raises Conflict, Unavailable, Indeterminate.
        """
        return clear_slot(self, self._store.snapshot, SlotSteps(slot, epoch, attempt), keys_max)

    async def image(self, source: int) -> AppliedMark:
        """Replace the state by what node `source` has. Raises Unavailable when it can't be had."""
        if self._pull_image is None:
            raise Unavailable("this node cannot pull images")
        build = self._store.build()
        mark = None
        async for pairs in self._pull_image(self.group, source):
            mark = mark or image.mark_of(pairs)
            build.put(pairs)
        if mark is None:
            raise Corruption(f"image of group {self.group} from node {source}", 0, "no mark in it")
        if mark.index <= self._store.mark().index:
            raise Unavailable(f"the image of node {source} is not newer")
        self._sequencer.resign("an image was installed")
        build.flip(mark)
        self._slots.load(self._store)
        self._prefixes.clear()
        self._fences.clear()
        if self.group == META_GROUP:
            self.catalog = catalog.load(self._store)
            if self._on_records is not None:
                self._on_records(())  # all of it is another
            if self._on_catalog is not None:
                self._on_catalog(self.catalog)
        self._sink.close_all("an image was installed")
        self._tell_applied()
        return AppliedMark(mark.index, mark.term)

    def purge_old(self) -> int:
        """One bounded step of removing what images replaced; 0 when nothing is left."""
        return self._store.purge_old(PURGE_KEYS)

    # ---- the rest -------------------------------------------------------------------------------

    def _required_log(self) -> Log:
        assert self._log is not None, "attach comes first"
        return self._log

    def _leader(self) -> int | None:
        return None if self._log is None else self._log.status().leader

    def _confirm(self, done: Callable[[KalamError | None], None]) -> bool:
        reading = self._required_log().read_index()
        if reading is None:
            return True
        waiting = when_done(reading, done)
        self._confirming.add(waiting)
        waiting.add_done_callback(self._confirming.discard)
        return False

    def digest(self) -> str:
        """Equal on two members at the same applied index."""
        snapshot = self._store.snapshot()
        try:
            return image.digest(snapshot)
        finally:
            snapshot.close()

    def statistics(self) -> ReplicaStatistics:
        mark = self._store.mark()
        return ReplicaStatistics(
            self.group,
            self.leads,
            mark.seq_last,
            mark.index,
            mark.term,
            self._store.durable_index(),
            self._sequencer.statistics(),
            self._machine.statistics(),
        )


def _new_future() -> asyncio.Future[Outcome]:
    return asyncio.get_running_loop().create_future()
