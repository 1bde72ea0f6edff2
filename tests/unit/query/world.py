"""Groups and snapshots in memory, and tables to query: what the query layer is tested on.

Writes are decided at once: a read set that no longer holds is refused, as the sequencer would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kalamdb.errors import Conflict
from kalamdb.far_reads import FarReads, FarRows
from kalamdb.lib.clock import SystemIds
from kalamdb.model import codec, keys
from kalamdb.model.catalog import EMPTY_CATALOG, CatalogView
from kalamdb.model.change import Change, Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Partition, Seq, TableId, slot_of
from kalamdb.model.key_range import KeyRange
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import ColumnType, Kind
from kalamdb.model.work import InsertRows, PutRows, ReadSet, RequestTag, Work
from kalamdb.sql.bound import Env, ScanSelect, ScanTable

Place = tuple[TableId, Partition]
GROUPS = 8


def column(number: int, name: str, kind: Kind, **parameters: int) -> Column:
    return Column(number, name, ColumnType(kind, **parameters))


def table(number: int, name: str, *columns: Column, kind: TableKind = TableKind.USER) -> TableDef:
    """The first column is the primary key."""
    return TableDef(TableId(number), "app", name, kind, columns, (columns[0].id,))


MESSAGES = table(
    1,
    "messages",
    column(1, "id", Kind.BIGINT),
    column(2, "author", Kind.TEXT),
    column(3, "body", Kind.TEXT),
    column(4, "score", Kind.DOUBLE),
    column(5, "at", Kind.TIMESTAMP),
)
ROOMS = table(
    2,
    "rooms",
    column(1, "id", Kind.BIGINT),
    column(2, "title", Kind.TEXT),
    kind=TableKind.SHARED,
)
EVENTS = table(
    3, "events", column(1, "id", Kind.BIGINT), column(2, "what", Kind.TEXT), kind=TableKind.STREAM
)


@dataclass
class FakeSnapshot:
    group: GroupId
    seq: Seq
    rows: dict[Place, dict[bytes, bytes]]
    last: dict[Place, Seq]
    before_row: Callable[[], None] | None = None
    closed: bool = False

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        assert not self.closed
        return self.rows.get((table.id, partition), {}).get(pk)

    def scan(self, table: TableDef, partition: Partition) -> Iterator[tuple[bytes, bytes]]:
        for item in sorted(self.rows.get((table.id, partition), {}).items()):
            assert not self.closed
            if self.before_row is not None:
                self.before_row()
            yield item

    def scan_table(self, table: TableDef) -> Iterator[tuple[Partition, bytes, bytes]]:
        for (table_id, partition), rows in sorted(self.rows.items()):
            if table_id == table.id:
                for key, raw in sorted(rows.items()):
                    assert not self.closed
                    yield partition, key, raw

    def open_epoch(self, partition: Partition) -> int:
        return 1

    def scan_by_seq(
        self, table: TableDef, partition: Partition, after: Seq, *, newest_first: bool = False
    ) -> Iterator[bytes]:
        raise AssertionError("a scan reads by key")

    def scan_range(
        self, table: TableDef, partition: Partition, keys: KeyRange, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes | None]]:
        raise AssertionError("a scan reads all rows")

    def scan_as_of(
        self, table: TableDef, partition: Partition, then: Seq, wall_ms: int
    ) -> Iterator[tuple[bytes, bytes]]:
        raise AssertionError("a scan reads what is")

    def scan_table_as_of(
        self, table: TableDef, then: Seq, wall_ms: int
    ) -> Iterator[tuple[Partition, bytes, bytes]]:
        raise AssertionError("a scan reads what is")

    def changes(
        self, table: TableDef, partition: Partition, after: Seq, upto: Seq
    ) -> Iterator[Change]:
        raise AssertionError("a scan reads rows")

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        assert not self.closed
        return self.last.get((table.id, partition), Seq(0))

    def holds_uncommitted(self, table: TableDef) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeSnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass
class FakeGroups:
    """`on_snapshot` is called with each snapshot before it is handed out."""

    catalog: CatalogView = EMPTY_CATALOG
    seq: int = 1000
    rows: dict[Place, dict[bytes, bytes]] = field(default_factory=dict)
    last: dict[Place, Seq] = field(default_factory=dict)
    snapshots: list[FakeSnapshot] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    on_snapshot: Callable[[FakeSnapshot], None] = lambda snapshot: None
    on_get: Callable[[], None] = lambda: None
    far: FarReads | None = None

    def put(self, table: TableDef, partition: Partition, *rows: Row) -> None:
        kept = self.rows.setdefault((table.id, partition), {})
        for row in rows:
            kept[key_of(table, row)] = codec.encode_row(self._next(table, partition), row)

    def _next(self, table: TableDef, partition: Partition) -> Seq:
        self.seq += 1024
        self.last[table.id, partition] = Seq(self.seq)
        return Seq(self.seq)

    def stored(self, table: TableDef, partition: Partition) -> list[Row]:
        rows = sorted(self.rows.get((table.id, partition), {}).items())
        return [row for _, raw in rows if (row := codec.decode_row(raw)[1]) is not None]

    async def write(
        self, partition: Partition, work: Work, tag: RequestTag | None = None
    ) -> Outcome:
        self.works.append(work)
        match work:
            case PutRows():
                self._check(work.read_set)
                kept = self.rows.setdefault((work.table.id, partition), {})
                for key, row in work.rows:
                    seq = self._next(work.table, partition)
                    if row is None:
                        del kept[key]
                    else:
                        kept[key] = codec.encode_row(seq, row)
                return Outcome(len(work.rows), Seq(self.seq))
            case InsertRows():
                if work.read_set is not None:
                    self._check(work.read_set)
                self.put(work.table, partition, *work.rows)
                return Outcome(len(work.rows), Seq(self.seq))
            case _:
                raise AssertionError(work)

    def _check(self, read_set: ReadSet) -> None:
        for place, seq in read_set.tables.items():
            if self.last.get(place, Seq(0)) != seq:
                raise Conflict("a table changed")

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        raise AssertionError("nothing here writes meta")

    def write_everywhere(self, work: Work) -> Awaitable[None]:
        raise AssertionError("nothing here writes everywhere")

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        return asyncio.sleep(0)

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        self.on_get()
        return self.rows.get((table.id, partition), {}).get(pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return Seq(self.seq)

    def has_applied(self, at_least: Mapping[GroupId, Seq], partition: Partition | None) -> bool:
        return True

    async def wait_applied(
        self, at_least: Mapping[GroupId, Seq], partition: Partition | None
    ) -> None:
        """It is always there."""

    async def refresh_catalog(self) -> None:
        """It is never behind."""

    def barrier_everywhere(self, but: Collection[GroupId] = ()) -> Awaitable[object] | None:
        return asyncio.sleep(0)

    def snapshots_everywhere(
        self, table: TableDef, far: Sequence[FarRows] = ()
    ) -> Sequence[FakeSnapshot]:
        """One per group, with the partitions of that group."""
        found: list[FakeSnapshot] = []
        for number in range(1, GROUPS + 1):
            rows = {
                place: dict(kept)
                for place, kept in self.rows.items()
                if slot_of(place[1]) % GROUPS + 1 == number
            }
            snapshot = FakeSnapshot(GroupId(number), Seq(self.seq), rows, dict(self.last))
            self.on_snapshot(snapshot)
            self.snapshots.append(snapshot)
            found.append(snapshot)
        return found

    def snapshot(self, partition: Partition) -> FakeSnapshot:
        rows = {place: dict(kept) for place, kept in self.rows.items()}
        group = GroupId(slot_of(partition) % GROUPS + 1)
        snapshot = FakeSnapshot(group, Seq(self.seq), rows, dict(self.last))
        self.on_snapshot(snapshot)
        self.snapshots.append(snapshot)
        return snapshot


def key_of(table: TableDef, row: Row) -> bytes:
    types = [column.type for column in table.key_columns]
    return keys.encode_key(types, [row.get(column.id) for column in table.key_columns])


def env(user: str = "alice", params: Sequence[Any] = ()) -> Env:
    return Env(Principal.of(user, Role.USER), 1_700_000_000_000, SystemIds(), params)


def tenant(user: str = "alice") -> Partition:
    return env(user).principal.partition


def scan_plan(text: str, *tables: TableDef, ordered: bool = False) -> ScanSelect:
    """A SELECT over `tables`, which the text calls t0, t1, …; every readable column is read."""
    used = tuple(
        ScanTable(f"t{number}", found, found.readable) for number, found in enumerate(tables)
    )
    return ScanSelect(used, lambda env: text, ordered)


def message(number: int, **changed: Any) -> Row:
    row: dict[str, Any] = {
        "id": number,
        "author": f"author-{number % 7}",
        "body": f"message number {number}",
        "score": number / 2,
        "at": 1_700_000_000_000_000 + number,
    }
    row |= changed
    return {MESSAGES.by_name[name].id: value for name, value in row.items() if value is not None}
