"""A group in memory: rows, change log, snapshots and hub, as a replica would offer them.

Keeps: a snapshot sees nothing written after it; changes are published right after they are applied,
and only those of watched chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kalamdb.errors import CursorExpired, SchemaChanged
from kalamdb.feed.hub import Hub
from kalamdb.model import keys
from kalamdb.model.catalog import EMPTY_CATALOG, CatalogView
from kalamdb.model.change import Change, ChangeBatch, Op, Row
from kalamdb.model.codec import encode_row
from kalamdb.model.ids import GroupId, Partition, Seq, TableId, TenantId, tenant_partition
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import BIGINT, TEXT
from kalamdb.sql.bound import LivePlan, Predicate

GROUP = GroupId(3)
ALICE = tenant_partition(TenantId("alice"))

NOTES = TableDef(
    TableId(7),
    "app",
    "notes",
    TableKind.USER,
    (Column(1, "id", BIGINT, nullable=False), Column(2, "room", TEXT), Column(3, "body", TEXT)),
    (1,),
)
OTHERS = replace(NOTES, id=TableId(8), name="others")


def in_room(room: str) -> Predicate:
    return lambda row, seq: row.get(2) == room


def plan(
    table: TableDef = NOTES,
    where: Predicate | None = None,
    shape: str = "all",
    columns: Sequence[str] | None = None,
) -> LivePlan:
    chosen = table.readable if columns is None else [table.by_name[name] for name in columns]
    return LivePlan(table, tuple(chosen), where, f"{table.id} {shape}")


def note(number: int, room: str | None = None, body: str | None = None) -> Row:
    values: dict[int, object] = {1: number, 2: room, 3: body}
    return {column: value for column, value in values.items() if value is not None}


@dataclass(frozen=True)
class Write:
    """A row put (`row`) or deleted (None) by the number that is its key."""

    number: int
    row: Row | None
    table: TableDef = NOTES
    op: Op = Op.DELETE


Chain = tuple[TableId, Partition]


@dataclass
class State:
    rows: dict[Chain, dict[int, tuple[Seq, Row]]] = field(default_factory=dict)
    changes: dict[Chain, tuple[Change, ...]] = field(default_factory=dict)


class MemorySnapshot:
    def __init__(self, group: MemoryGroup) -> None:
        self.group = GROUP
        self.seq = group.seq_last
        self._home = group
        self._rows = {chain: dict(rows) for chain, rows in group.state.rows.items()}
        self._changes = dict(group.state.changes)
        self.closed = False
        group.snapshots_open += 1

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        raise NotImplementedError

    def scan(self, table: TableDef, partition: Partition) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError

    def scan_table(self, table: TableDef) -> Iterator[tuple[Partition, bytes, bytes]]:
        raise NotImplementedError

    def scan_range(
        self, table: TableDef, partition: Partition, keys: KeyRange, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError

    def scan_as_of(
        self, table: TableDef, partition: Partition, then: Seq, wall_ms: int
    ) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError

    def scan_table_as_of(
        self, table: TableDef, then: Seq, wall_ms: int
    ) -> Iterator[tuple[Partition, bytes, bytes]]:
        raise NotImplementedError

    def open_epoch(self, partition: Partition) -> int:
        return 1

    def scan_by_seq(
        self, table: TableDef, partition: Partition, after: Seq, *, newest_first: bool = False
    ) -> Iterator[bytes]:
        found = sorted(
            self._rows.get((table.id, partition), {}).values(),
            key=lambda pair: pair[0],
            reverse=newest_first,
        )
        for seq, row in found:
            assert not self.closed
            if seq > after:
                yield encode_row(seq, row)

    def changes(
        self, table: TableDef, partition: Partition, after: Seq, upto: Seq
    ) -> Iterator[Change]:
        log = self._changes.get((table.id, partition), ())
        if any(after < change.seq <= self._home.floor for change in log):
            raise CursorExpired(str(after), "expired")
        for change in log:
            assert not self.closed
            if after < change.seq <= upto:
                yield change

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        log = self._changes.get((table.id, partition))
        return log[-1].seq if log else Seq(0)

    def holds_uncommitted(self, table: TableDef) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._home.snapshots_open -= 1

    def __enter__(self) -> MemorySnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MemoryGroup:
    """`Groups` of one group, with the write side as a plain call."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.seq_last = Seq(0)
        self.floor = Seq(0)
        self.state = State()
        self.snapshots_open = 0
        self.catalog: CatalogView = replace(
            EMPTY_CATALOG, tables_by_id={table.id: table for table in (NOTES, OTHERS)}
        )
        self._last: dict[Chain, Seq] = {}

    def barrier(self, partition: Partition) -> None:
        return None

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        """Loads go by seq here: the snapshots have no keys to look in."""
        raise SchemaChanged(table.full_name, table.version + 1, None)

    def snapshot(self, partition: Partition = ALICE) -> MemorySnapshot:
        return MemorySnapshot(self)

    def rows(self, table: TableDef = NOTES, partition: Partition = ALICE) -> Mapping[int, Row]:
        stored = self.state.rows.get((table.id, partition), {})
        return {number: row for number, (_, row) in stored.items()}

    def log(self, table: TableDef = NOTES, partition: Partition = ALICE) -> tuple[Change, ...]:
        return self.state.changes.get((table.id, partition), ())

    def write(self, *transactions: Sequence[Write], partition: Partition = ALICE) -> None:
        """Apply transactions in one batch."""
        changes: list[Change] = []
        for transaction in transactions:
            made = [
                change
                for write in transaction
                if (change := self._apply(write, partition)) is not None
            ]
            if made:
                made[-1] = replace(made[-1], last_of_txn=True)
            changes.extend(made)
        for change in changes:
            chain = (change.table, change.partition)
            self.state.changes[chain] = (*self.state.changes.get(chain, ()), change)
        watched = tuple(
            change
            for change in changes
            if self.hub.watches(keys.chain(change.table, change.partition))
        )
        self.hub.publish(ChangeBatch(GROUP, self.seq_last, watched))

    def _apply(self, write: Write, partition: Partition) -> Change | None:
        chain = (write.table.id, partition)
        rows = self.state.rows.setdefault(chain, {})
        before = rows.get(write.number)
        if before is None and write.row is None:
            return None
        prev_seq = self._last.get(chain, Seq(0))
        self.seq_last = Seq(self.seq_last + 1024 if self.seq_last else 1024 | GROUP)
        self._last[chain] = self.seq_last
        if write.row is None:
            op = write.op
            del rows[write.number]
        else:
            op = Op.INSERT if before is None else Op.UPDATE
            rows[write.number] = (self.seq_last, write.row)
        return Change(
            GROUP,
            write.table.id,
            partition,
            self.seq_last,
            prev_seq,
            op,
            keys.encode_key([BIGINT], [write.number]),
            None if before is None else before[1],
            Seq(0) if before is None else before[0],
            write.row,
            last_of_txn=False,
        )
