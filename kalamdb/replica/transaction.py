"""One partition of a transaction on the replica that leads it: a snapshot with own writes over it.

Keeps:
- It lives in the term it began in, and while its slot is open as it was. After that it is gone:
  `Unavailable`, nothing done.
- Reads and statements see one state, that of the snapshot, and what the transaction itself wrote.
- The store snapshot is closed with the transaction, or after the last query that still reads it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from kalamdb.decide.draft import Chain, Draft
from kalamdb.decide.load import check_rows
from kalamdb.decide.sequencer import Sequencer
from kalamdb.decide.transaction import OwnWrites, Statement, decide_statement
from kalamdb.errors import Conflict, LimitReached, SchemaChanged, Unavailable
from kalamdb.model import codec, keys
from kalamdb.model.change import Row
from kalamdb.model.codec import row_seq
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Partition, Seq, TableId, slot_of
from kalamdb.model.table import TableDef
from kalamdb.model.work import (
    ChangeKeys,
    CommitRows,
    RequestTag,
    ReturningClause,
    Work,
    WrittenTable,
)
from kalamdb.ports import Snapshot, Uncommitted
from kalamdb.store.catalog_codec import Fence, FenceState, decode_fence
from kalamdb.store.kv import GroupSnapshot
from kalamdb.store.overlay import OverlayReader, OverlaySnapshot, SharedSnapshot
from kalamdb.store.rows import PartitionKeys
from kalamdb.store.slots import SlotTable
from kalamdb.store.snapshot import HotSnapshot
from kalamdb.transaction_errors import NotInTransaction

Write = Callable[[Work, RequestTag | None], Awaitable[Outcome]]

_ROW = int(keys.Family.ROW)


class ReplicaTransaction:
    """Implements `ports.GroupTransaction`."""

    def __init__(
        self,
        sequencer: Sequencer,
        write: Write,
        partition: Partition,
        reader: GroupSnapshot,
        wall_ms: Callable[[], int],
        *,
        slots: SlotTable,
    ) -> None:
        """`slots` as of the snapshot `reader`. Raises Moved, NotLeader."""
        self._slot = slot_of(partition)
        self._epoch = slots.open_epoch(partition)
        self.group: GroupId = sequencer.group
        self.partition = partition
        self._sequencer = sequencer
        self._term = sequencer.term
        self._write = write
        self._reader = reader
        self._shared = SharedSnapshot(reader)
        self._wall_ms = wall_ms
        self._began_ms = wall_ms()
        self._past = HotSnapshot(self.group, reader, self._began_ms, slots)
        self.seq = self._past.seq
        self._own = OwnWrites()
        self._tables: dict[TableId, tuple[TableDef, Chain]] = {}
        self._fences: dict[TableId, Fence | None] = {}
        self._keys: dict[TableId, PartitionKeys] = {}
        self._open = True

    # ---- reads ----------------------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """Leadership was lost since it began, or the slot moves: it can never be committed."""
        sequencer = self._sequencer
        return (
            not sequencer.ready
            or sequencer.term != self._term
            or sequencer.open_epoch(self._slot) != self._epoch
        )

    def get(self, table: TableDef, pk: bytes) -> bytes | None:
        self._check(table)
        keys_at = self._keys.get(table.id)
        if keys_at is None:
            keys_at = self._keys[table.id] = PartitionKeys(table.id, self.partition)
        effect = self._own.effects.get(keys_at.row + pk)
        if effect is None:
            return self._past.get(table, self.partition, pk)
        raw = effect[1]
        return None if raw is None or raw[1] & codec.TOMBSTONE else raw

    def last_change(self, table: TableDef) -> Seq:
        return self._past.last_change(table, self.partition)

    def snapshot(self) -> Snapshot:
        self._check_open()
        self._shared.hold()
        effects, ordered = self._own.lend()
        reader = OverlayReader(self._reader, effects, ordered, self._shared.let_go)
        written = frozenset[int](self._tables) if effects else frozenset[int]()
        return OverlaySnapshot(self._past, reader, self._began_ms, written)

    # ---- statements -----------------------------------------------------------------------------

    async def write(self, asked: Statement, room_bytes: int) -> Outcome:
        table = asked.table
        if not table.has_tombstones:
            raise NotInTransaction(f"a write of STREAM table {table.full_name}", "write it alone")
        self._check(table)
        try:
            plan = self._sequencer.plan(table)
        except SchemaChanged as moved:
            raise Conflict(f"the definition of {table.full_name} changed") from moved
        if not isinstance(asked, ChangeKeys):
            check_rows(asked, self._sequencer.rows_max)
        chain = Chain(table.id, self.partition, Seq(0))
        if asked.returning is not None:
            asked = replace(asked, returning=_without_seq(asked.returning))
        draft = Draft(
            self._own.effects,
            self._reader.get,
            self.group,
            self._sequencer.seq_last,
            self._wall_ms(),
            returned_max_bytes=self._sequencer.returned_bytes_max,
        )
        outcome = decide_statement(draft, asked, plan, chain, reader=self._reader)
        effects = self._own.of(draft)
        if self._own.size_of(effects) > room_bytes:
            raise LimitReached(
                "transactions.max_bytes", "the transaction writes too much; split it"
            )
        if effects:
            self._own.put(effects)
            self._tables.setdefault(table.id, (table, chain))
        self._sequencer.reserve(draft.seq)
        return replace(outcome, seq=self.last_change(table))

    @property
    def size_bytes(self) -> int:
        return self._own.size_bytes

    def savepoint(self) -> int:
        return self._own.savepoint()

    def undo_to(self, place: int | None) -> None:
        if place is None:
            self._own.undo_all()
        else:
            self._own.undo_to(place)

    def keep(self) -> None:
        self._own.keep()

    # ---- the end --------------------------------------------------------------------------------

    def uncommitted(self) -> Uncommitted:
        own = self._own
        return Uncommitted(self.seq, own.row_count, own.size_bytes, len(self._tables))

    def commit(self, asked: CommitRows, tag: RequestTag | None) -> Awaitable[Outcome]:
        self._check_open()
        return self._write(replace(asked, tables=self._net()), tag)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._own.undo_all()
            self._shared.let_go()

    def _net(self) -> list[WrittenTable]:
        """The last version of each key, in the order in which the keys were first written."""
        found: dict[TableId, list[tuple[bytes, Seq, Row | None]]] = {}
        readers = {
            number: (len(chain.row), codec.row_reader(table))
            for number, (table, chain) in self._tables.items()
        }
        for key, value in self._own.effects.values():
            if key[0] != _ROW:
                continue
            number = keys.table_of(key)
            start, read = readers[number]
            raw = self._reader.get(key)
            seen = Seq(0) if raw is None or raw[1] & codec.TOMBSTONE else row_seq(raw)
            after = None if value is None else read(value)[1]
            found.setdefault(number, []).append((key[start:], seen, after))
        return [WrittenTable(self._tables[number][0], rows) for number, rows in found.items()]

    # ---- what may go wrong ----------------------------------------------------------------------

    def _check_open(self) -> None:
        """Raises Unavailable."""
        if self.lost:
            raise Unavailable(f"what a transaction wrote to went away from group {self.group}")
        assert self._open, "a closed transaction was used"

    def _check(self, table: TableDef) -> None:
        """`table` must be what the snapshot knows it as.

        Raises SchemaChanged when the snapshot knows a newer one (the caller binds again), Conflict
        when `table` was made or changed after the transaction began.
        """
        self._check_open()
        fence = self._fences.get(table.id)
        if fence is None:
            raw = self._reader.get(keys.fence(table.id))
            fence = self._fences[table.id] = None if raw is None else decode_fence(raw)
        if fence is None or fence.table.version < table.version:
            raise Conflict(f"{table.full_name} was defined after this transaction began")
        if fence.table.version > table.version:
            raise SchemaChanged(table.full_name, fence.table.version, fence.table)
        if fence.state is not FenceState.ACTIVE:
            raise Conflict(f"{table.full_name} is not in force in this transaction's snapshot")


def _without_seq(returning: ReturningClause) -> ReturningClause:
    """RETURNING as it may be said before COMMIT: what depends on `_seq`, which the row gets only
    then, is NULL.
    """
    project = returning.project

    def known(row: Row, seq: Seq) -> tuple[object, ...]:
        values, others = project(row, seq), project(row, Seq(seq + 1))
        return tuple(
            value if value == other else None for value, other in zip(values, others, strict=True)
        )

    return ReturningClause(returning.columns, known)
