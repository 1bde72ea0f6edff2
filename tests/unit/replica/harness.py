"""A replica of one group with a log in the test's hand: nothing moves unless the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import replace
from typing import Any

from kalamdb.errors import KalamError, Unavailable
from kalamdb.model import codec, keys, types
from kalamdb.model.change import Change, ChangeBatch, Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import (
    SLOTS,
    GroupId,
    Partition,
    Slot,
    TableId,
    TenantId,
    tenant_partition,
)
from kalamdb.model.table import Column, TableDef, TableKind, TableOptions, Unique
from kalamdb.model.work import (
    ChangeKeys,
    ConflictRule,
    InsertRows,
    OpenSlots,
    PutFence,
    RequestTag,
    ReturningClause,
    Work,
)
from kalamdb.ports import LogEntry, LogStatus
from kalamdb.replica.replica import Replica
from kalamdb.store.kv import GroupStore
from kalamdb.store.memory import MemoryStore

ALICE = tenant_partition(TenantId("alice"))
BOB = tenant_partition(TenantId("bob"))
START_MS = 1_790_000_000_000
ENTRY_BYTES_MAX = 1 << 20


class TestClock:
    """Time that moves when the test says so."""

    __test__ = False

    def __init__(self, wall_ms: int = START_MS) -> None:
        self.now_ms = wall_ms

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_ms / 1000

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


class ListSink:
    """Keeps what a machine publishes; watches everything unless told which chains."""

    def __init__(self) -> None:
        self.watched: set[bytes] | None = None
        self.batches: list[ChangeBatch] = []
        self.closed_tables: list[int] = []
        self.closed: list[str] = []
        self.closed_slots: list[tuple[Slot, int]] = []  # with how many changes came before

    @property
    def changes(self) -> list[Change]:
        return [change for batch in self.batches for change in batch.changes]

    def watches(self, chain: bytes) -> bool:
        return self.watched is None or chain in self.watched

    def publish(self, batch: ChangeBatch) -> None:
        self.batches.append(batch)

    def close_table(self, table: int) -> None:
        self.closed_tables.append(table)

    def close_older(self, table: TableDef) -> None: ...

    def close_slots(self, slots: Collection[Slot], detail: str) -> None:
        self.closed_slots += [(slot, len(self.changes)) for slot in slots]

    def close_all(self, reason: str) -> None:
        self.closed.append(reason)


class HandLog:
    """The log of a replica, by hand: `pull` appends what is queued, `commit` applies it.

    `sole` False: leadership is confirmed only by `confirm`, as with other voters.
    """

    def __init__(self, replica: Replica, *, sole: bool = True) -> None:
        self.replica = replica
        self.sole = sole
        self.term = 0
        self.kicked = 0
        self.entries: list[LogEntry] = []
        self.readers: list[asyncio.Future[int]] = []
        self._next = replica.applied().index
        replica.attach(self)

    # ports.Log

    def kick(self) -> None:
        self.kicked += 1

    def read_index(self) -> Awaitable[int] | None:
        if self.sole:
            return None
        reader: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.readers.append(reader)
        return reader

    def status(self) -> LogStatus:
        applied = self.replica.applied().index
        return LogStatus(0, 1, "leader", self.term, 1, applied, applied, 1, self._next, (1,))

    # The test's hand.

    def elect(self, term: int) -> None:
        """A new term begins and its first entry is applied."""
        self.term = term
        self.append(b"")
        self.commit()
        self.replica.lead(term)

    def append(self, payload: bytes, term: int | None = None) -> LogEntry:
        self._next += 1
        entry = LogEntry(self._next, self.term if term is None else term, payload)
        self.entries.append(entry)
        return entry

    def pull(self, size_max: int = ENTRY_BYTES_MAX) -> int:
        """Append what is queued; returns how many entries that made."""
        made = 0
        while (payload := self.replica.take(self.term, size_max)) is not None:
            assert len(payload) <= size_max
            self.append(payload)
            made += 1
        return made

    def forget(self) -> None:
        """The newest entry is cut off the log."""
        self.entries.pop()
        self._next -= 1

    def follow(self, other: HandLog) -> None:
        """Hold what another member's log holds."""
        self.entries = list(other.entries)
        self._next = other._next

    def commit(self, count: int | None = None) -> None:
        """Apply the first `count` entries that are not applied."""
        applied = self.replica.applied().index
        waiting = [entry for entry in self.entries if entry.index > applied]
        self.replica.apply(waiting[: len(waiting) if count is None else count])

    def confirm(self, lost: KalamError | None = None) -> None:
        """Answer every waiting read index."""
        readers, self.readers = self.readers, []
        for reader in readers:
            if lost is None:
                reader.set_result(self.replica.applied().index)
            else:
                reader.set_exception(lost)

    def turn(self) -> None:
        self.pull()
        self.commit()

    def lose(self, reason: str = "the quorum was lost") -> None:
        self.confirm(Unavailable(reason))
        self.replica.resign(reason)


class World:
    """A leading replica with open slots and fences."""

    def __init__(
        self,
        store: GroupStore | None = None,
        *,
        group: int = 1,
        sole: bool = True,
        slots: Sequence[int] = range(SLOTS),
        **options: Any,
    ) -> None:
        self.clock = TestClock()
        self.sink = ListSink()
        self.store: Any = store or MemoryStore(GroupId(group))
        self.replica = Replica(GroupId(group), self.store, self.sink, self.clock, **options)
        self.log = HandLog(self.replica)
        self.log.elect(1)
        if group:
            self.do(OpenSlots(tuple(map(Slot, slots)), 1))
        self.log.sole = sole

    def add(self, *tables: TableDef) -> None:
        for table in tables:
            self.do(PutFence(table))

    def ask(self, work: Work, tag: RequestTag | None = None) -> asyncio.Future[Outcome]:
        return self.replica.write(work, tag)

    def do(self, work: Work, tag: RequestTag | None = None) -> Outcome:
        """Decide, append, apply; the outcome, or the error raised."""
        asked = self.ask(work, tag)
        self.log.turn()
        assert asked.done()
        return asked.result()

    def row(self, table: TableDef, *key: Any, partition: Partition = ALICE) -> Row | None:
        raw = self.replica.get(table, partition, pk_of(table, *key))
        return None if raw is None else codec.decode_row(raw)[1]

    def rows(self, table: TableDef, partition: Partition = ALICE) -> list[Row]:
        with self.replica.snapshot() as snapshot:
            found = [codec.decode_row(raw)[1] for _, raw in snapshot.scan(table, partition)]
        return [row for row in found if row is not None]


def pk_of(table: TableDef, *key: Any) -> bytes:
    return keys.encode_key([column.type for column in table.key_columns], key)


def message_table(
    number: int = 7, *, kind: TableKind = TableKind.USER, ttl_s: int | None = None, **changes: Any
) -> TableDef:
    """id BIGINT (1) primary key, body TEXT (2), mail TEXT (3) UNIQUE, stars INT (4)."""
    table = TableDef(
        TableId(number),
        "chat",
        f"messages{number}",
        kind,
        (
            Column(1, "id", types.BIGINT, nullable=False),
            Column(2, "body", types.TEXT, nullable=False),
            Column(3, "mail", types.TEXT),
            Column(4, "stars", types.INT),
        ),
        (1,),
        uniques=(Unique(1, (3,), "messages_mail"),),
        options=TableOptions(ttl_s=ttl_s),
        next_column_id=5,
        next_index_id=2,
    )
    return replace(table, **changes)


def insert(table: TableDef, *rows: Row, partition: Partition = ALICE, **options: Any) -> InsertRows:
    return InsertRows(table, partition, rows, **options)


def update(
    table: TableDef, key: int, change: Row, partition: Partition = ALICE, **options: Any
) -> ChangeKeys:
    return ChangeKeys(
        table, partition, [pk_of(table, key)], lambda row: _changed(row, change), **options
    )


def delete(
    table: TableDef, *found: int, partition: Partition = ALICE, **options: Any
) -> ChangeKeys:
    found_keys = [pk_of(table, key) for key in found]
    return ChangeKeys(table, partition, found_keys, None, **options)


def _changed(row: Row, change: Row) -> Row:
    merged = row | change
    return {column: value for column, value in merged.items() if value is not None}


def message(number: int, body: str = "hi", mail: str | None = None) -> Row:
    row: Row = {1: number, 2: body}
    return row if mail is None else row | {3: mail}


RETURNING_ALL = ReturningClause(
    ("id", "body", "_seq"), lambda row, seq: (row.get(1), row.get(2), seq)
)
DO_NOTHING = ConflictRule(any_target=True)


def tag(request_id: str, digest: bytes = b"h", number: int = 1) -> RequestTag:
    return RequestTag("alice", "alice", request_id, number, digest)
