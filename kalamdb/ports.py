"""What one node asks of the others, as Protocols declared by their consumer.

`kalamdb/` is everything that is true of one node; `cluster/` implements these seams. The pair `Log`
/ `LogMachine` is the line between a replica of a group (effects, rows, sequencer) and the agreement
beneath it (Raft, the shared log file): the log *pulls* entries when it can append one, so whatever
queued while the last fsync ran goes into one entry (group commit).
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Protocol

from kalamdb.far_reads import FarReads, FarRows
from kalamdb.model.catalog import CatalogView
from kalamdb.model.change import Change, ChangeBatch
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Partition, Seq, Slot
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import TableDef
from kalamdb.model.work import ChangeKeys, CommitRows, InsertRows, PutRows, RequestTag, Work


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One committed entry, as handed to apply.

    `term` is the term of the Raft entry that carried `payload`; a payload that names another term
    is void. `payload` is empty for the log's own no-ops.
    """

    index: int
    term: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class AppliedMark:
    """How far a group's state has got: index and term of the last applied entry."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class LogStatus:
    """What a group's log knows of itself; a plain record for /debug, metrics and system tables."""

    group: int
    node: int
    role: str  # leader | follower | candidate | learner
    term: int
    leader: int | None
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    voters: tuple[int, ...]
    learners: tuple[int, ...] = ()


class LogMachine(Protocol):
    """The state machine above a group's log. All methods run on the event loop and must not raise.

    Calls come in this order: `applied()` once at start; `lead` when this node leads in a term *and*
    has applied its own no-op; `take` only between `lead` and `resign`, in the very tick in which
    the entry is appended; `apply` for committed entries that are durable here, in index order,
    several at a time.
    """

    def applied(self) -> AppliedMark: ...

    def lead(self, term: int) -> None: ...

    def resign(self, reason: str) -> None: ...

    def take(self, term: int, size_max: int) -> bytes | None:
        """The next entry to append in `term`, at most `size_max` bytes; None when nothing is
        queued.
        """
        ...

    def apply(self, entries: Sequence[LogEntry]) -> None:
        """Put the entries' effects and the new mark in one batch; answers waiting writers
        afterwards.
        """
        ...

    def image(self, source: int) -> Awaitable[AppliedMark]:
        """Replace this group's state by the one node `source` has (pulled snapshot, new
        incarnation).

        Resolves when the new state is in place and synced, with its mark.
        """
        ...


class Log(Protocol):
    """A group's log, as the replica above it sees it."""

    def kick(self) -> None:
        """There is something to `take`: run a cycle soon."""
        ...

    def read_index(self) -> Awaitable[int] | None:
        """Confirm that this node leads now. None: confirmed at once (a sole voter, no wait needed).

        Otherwise resolves with the index applied here by then; raises `Unavailable` when leadership
        is lost. Rounds are shared by all callers of a tick.
        """
        ...

    def status(self) -> LogStatus: ...


class Snapshot(Protocol):
    """What one group's partitions are at a Seq. Must be closed (a context manager); never outlives
    a limit.

    Rows come as stored bytes (`codec.decode_row`); deleted and expired rows are left out
    everywhere.
    """

    group: GroupId
    seq: Seq

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None: ...

    def scan(self, table: TableDef, partition: Partition) -> Iterator[tuple[bytes, bytes]]:
        """(primary key bytes, row bytes) in key order."""
        ...

    def scan_table(self, table: TableDef) -> Iterator[tuple[Partition, bytes, bytes]]:
        """(partition, primary key bytes, row bytes) of every partition of the table in this group,
        in key order.
        """
        ...

    def scan_range(
        self, table: TableDef, partition: Partition, keys: KeyRange, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """(primary key bytes, row bytes) of the rows whose primary key, or whose entry in an index
        that `table` says is READY, is in the range; in that order, or backwards. None instead of
        a row that is deleted or expired: such are counted by who bounds a scan.
        """
        ...

    def scan_by_seq(
        self, table: TableDef, partition: Partition, after: Seq, *, newest_first: bool = False
    ) -> Iterator[bytes]:
        """Row bytes with seq > `after`, in seq order."""
        ...

    def scan_as_of(
        self, table: TableDef, partition: Partition, then: Seq, wall_ms: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """(primary key bytes, row bytes) as they were at `then`, in key order; `wall_ms`: when that
        was, for rows that expire. Raises CursorExpired at once.
        """
        ...

    def scan_table_as_of(
        self, table: TableDef, then: Seq, wall_ms: int
    ) -> Iterator[tuple[Partition, bytes, bytes]]:
        """As `scan_as_of`, of every partition of the table in this group."""
        ...

    def changes(
        self, table: TableDef, partition: Partition, after: Seq, upto: Seq
    ) -> Iterator[Change]:
        """Changes in (after, upto], in seq order. Raises CursorExpired (reason expired or
        ahead).
        """
        ...

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        """Seq of the newest change of the (table, partition) chain, 0 for none."""
        ...

    def open_epoch(self, partition: Partition) -> int:
        """The epoch in which the partition's slot is open here: what a read set has to name. Raises
        Moved where it is not; reads alone may go on while it is frozen.
        """
        ...

    def holds_uncommitted(self, table: TableDef) -> bool:
        """A transaction's own writes are among the rows: nobody else may be shown what is read
        here, and `last_change` does not name it.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Snapshot: ...

    def __exit__(self, *exc: object) -> None: ...


class ChangeSink(Protocol):
    """Where a group's machine sends its changes right after the batch is written (the feed's hub).

    A *chain* is `keys.chain(table, partition)`; changes are only built for chains that are watched.
    """

    def watches(self, chain: bytes) -> bool: ...

    def publish(self, batch: ChangeBatch) -> None: ...

    def close_table(self, table: int) -> None:
        """The table was dropped: end its subscriptions with TABLE_DROPPED."""
        ...

    def close_older(self, table: TableDef) -> None:
        """The table is this one now: end subscriptions bound to an older version with
        SCHEMA_CHANGED, unless it makes no difference to them.
        """
        ...

    def close_slots(self, slots: Collection[Slot], detail: str) -> None:
        """These slots were frozen: end the streams of their partitions with SLOT_MOVED. They have
        been given all of it up to the cut; they go on where the slot is open next.
        """
        ...

    def close_all(self, reason: str) -> None:
        """Leadership was lost: end every stream; subscribers resume from their cursors."""
        ...


class MetaGroups(Protocol):
    """What signing in and the audit log ask: the catalog, and work of the meta group."""

    @property
    def catalog(self) -> CatalogView: ...

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        """As `Groups.write`; `catalog` shows it afterwards."""
        ...

    async def refresh_catalog(self) -> None:
        """`catalog` is as new as the meta group's, as of now. Raises Unavailable."""
        ...


class Groups(MetaGroups, Protocol):
    """Target → the group's leader; what sessions and feeds use. `cluster/route.py` implements
    it.
    """

    def write(
        self, partition: Partition, work: Work, tag: RequestTag | None = None
    ) -> Awaitable[Outcome]:
        """Decided, replicated, applied on the leader. Raises the tree: refusals, Unavailable,
        Indeterminate.
        """
        ...

    def write_everywhere(self, work: Work) -> Awaitable[None]:
        """One piece of work through every data group (fences); raises the first failure."""
        ...

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        """A linearizable read may start after this; None: at once. Raises Unavailable."""
        ...

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        """Point read of row bytes, after `barrier`. Raises SchemaChanged when the fence is
        newer.
        """
        ...

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        """Seq of the newest change of the (table, partition) chain applied here, 0 for none.

        The cursor of a read. The group's own position would be one too, but it moves with every
        tenant of the group, and who reads one table must not learn when others write.
        """
        ...

    def snapshot(self, partition: Partition) -> Snapshot: ...

    @property
    def far(self) -> FarReads | None:
        """Reads of groups that are not read here; None: all of them are, always."""
        ...

    def barrier_everywhere(self, but: Collection[GroupId] = ()) -> Awaitable[object] | None:
        """Linearizable reads of all data groups of this node, `but` for some, may start after this;
        None: at once. Raises Unavailable.
        """
        ...

    def snapshots_everywhere(
        self, table: TableDef, far: Sequence[FarRows] = ()
    ) -> Sequence[Snapshot]:
        """One per data group of this node, but for those opened elsewhere (`far`), all in one step,
        for reads of all tenants' rows of `table`; the caller closes them. A slot that several have
        is left out of all but one. Raises SchemaChanged, UnknownTable, Unavailable.
        """
        ...

    def has_applied(self, at_least: Mapping[GroupId, Seq], partition: Partition | None) -> bool:
        """Has the group of a partition (None: every data group of this node) applied here what
        `at_least` says of it?
        """
        ...

    async def wait_applied(
        self, at_least: Mapping[GroupId, Seq], partition: Partition | None
    ) -> None:
        """Until `has_applied`."""
        ...


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """What a transaction holds of one partition: its snapshot's seq, rows and bytes written, tables
    touched by writes.
    """

    seq: Seq
    rows: int
    size_bytes: int
    tables: int


class GroupTransaction(Protocol):
    """A transaction's part in one partition, at its leader. Everything raises Unavailable once
    leadership was lost. Must be closed.
    """

    group: GroupId
    partition: Partition

    @property
    def lost(self) -> bool: ...

    @property
    def size_bytes(self) -> int: ...

    def get(self, table: TableDef, pk: bytes) -> bytes | None:
        """Raises SchemaChanged, Conflict when the table changed since the snapshot."""
        ...

    def last_change(self, table: TableDef) -> Seq:
        """As the snapshot has it; own writes are no changes before COMMIT."""
        ...

    def snapshot(self) -> Snapshot:
        """What is there now, own writes included; stays as it is while the transaction goes on."""
        ...

    def write(
        self, asked: InsertRows | ChangeKeys | PutRows, room_bytes: int
    ) -> Awaitable[Outcome]:
        """One statement, on top of what was written before; seen by this transaction alone.

        Raises as a write outside does, and LimitReached when it takes more than `room_bytes`.
        """
        ...

    def savepoint(self) -> int: ...

    def undo_to(self, place: int | None) -> None:
        """Back to where `savepoint` gave `place`; None: to the beginning."""
        ...

    def keep(self) -> None:
        """There is no savepoint any more."""
        ...

    def commit(self, asked: CommitRows, tag: RequestTag | None) -> Awaitable[Outcome]:
        """`asked` with the rows written (its own are ignored), as one command."""
        ...

    def uncommitted(self) -> Uncommitted: ...

    def close(self) -> None: ...


class TransactionGroups(Protocol):
    """What transactions ask of the groups, beside what every session asks (`Groups`)."""

    def open_transaction(self, partition: Partition) -> GroupTransaction:
        """A part on the state that is applied now; after `Groups.barrier`. Raises Unavailable."""
        ...

    async def recall(self, tag: RequestTag) -> Outcome | None:
        """What a request id has come to in whatever group it was used, after a barrier there; None:
        surely in none. Raises RequestIdReused, Unavailable when a group cannot say.
        """
        ...


class DefiningGroups(Groups, Protocol):
    """What definitions need besides."""

    async def step_everywhere(self, step: Callable[[bytes], Work]) -> None:
        """Work that goes through a table's rows in bounded steps, through every data group:
        `step(after)`, from `after` empty on, until its outcome's one row holds None instead of
        where it ended (hex). Raises the first failure.
        """
        ...


class ObjectStore(Protocol):
    """Object storage of one STORAGE (cold segments, files)."""

    async def put_if_absent(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes: ...

    def list(self, prefix: str) -> AsyncIterator[str]: ...

    async def delete(self, key: str) -> None: ...
