"""One transaction as its statements use it: where they read and write, what state it is in.

A transaction implements `ports.Groups`, so every path of a statement (by key, by range, by scan,
in the query engine, UPDATE by scan, INSERT … SELECT) runs inside it without knowing. Behind it is
one `GroupTransaction` for each partition it touches, opened at the first touch: from then on it is
read as it was then, with the transaction's own writes.

States: open → failed (a statement was refused) → open again by ROLLBACK TO → ended. What ends it
from outside (a timeout, KILL) leaves a `doom`, which every later statement is told.

Keeps:
- It writes one partition, and reads no tenant but its own.
- One statement at a time; its snapshots are let go at its end, whoever ends it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from kalamdb.errors import KalamError, LimitReached
from kalamdb.far_reads import FarReads, FarRows
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Partition, Seq, partition_tenant
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.model.work import (
    ChangeKeys,
    CommitRows,
    InsertRows,
    PutRows,
    RequestTag,
    Work,
)
from kalamdb.ports import Groups, GroupTransaction, Snapshot, TransactionGroups
from kalamdb.transaction_errors import (
    NotInTransaction,
    TransactionAborted,
    TransactionBusy,
    TransactionCrossGroup,
    TransactionMisused,
    UnknownSavepoint,
)


class State(Enum):
    OPEN = "open"
    FAILED = "failed"
    COMMITTING = "committing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Place:
    """A savepoint: where the own writes stood, None while there was no part to write."""

    name: str
    place: int | None
    counts: tuple[int, int, int]


class Transaction:
    """See the module. Made by `Transactions.begin`."""

    def __init__(
        self,
        transaction_id: str,
        principal: Principal,
        groups: Groups,
        parts: TransactionGroups,
        *,
        read_only: bool,
        origin: str,
        now_s: float,
    ) -> None:
        self.id = transaction_id
        self.owner = principal
        self.origin = origin  # sql | http | websocket
        self.read_only = read_only
        self.state = State.OPEN
        self.doom: KalamError | None = None
        self.began_s = self.used_s = now_s
        self.busy = True  # a request of it is under way: the one it begins in
        self.counts = (0, 0, 0)  # rows inserted, updated, deleted, as its statements answered
        self.touched = False
        self.room_bytes = 0  # what the next statement may add; set by `Transactions`
        self.counted_bytes = 0  # what `Transactions` has counted of it
        self._groups = groups
        self._open = parts.open_transaction
        self._parts: dict[Partition, GroupTransaction] = {}
        self._tenant: Partition | None = None
        self._home: GroupTransaction | None = None
        self._savepoints: list[_Place] = []

    # ---- statements -----------------------------------------------------------------------------

    def take_turn(self) -> None:
        """One request of it begins; `Transactions.used` ends it. Raises TransactionBusy during
        another one.
        """
        if self.busy:
            raise TransactionBusy(self.id)
        self.busy = True

    def check_runs(self) -> None:
        """Before a statement that is no ROLLBACK. Raises what the transaction died of,
        TransactionAborted.
        """
        if self.doom is not None:
            raise self.doom
        if self.state is State.FAILED:
            raise TransactionAborted()

    def fail(self) -> None:
        """A statement was refused, or nobody knows how far it came."""
        if self.state is State.OPEN:
            self.state = State.FAILED

    def set_read_only(self, read_only: bool) -> None:
        """Raises TransactionMisused after the first statement."""
        if self.touched:
            raise TransactionMisused("SET TRANSACTION comes before the first statement")
        self.read_only = read_only

    # ---- ports.Groups ---------------------------------------------------------------------------

    @property
    def catalog(self) -> CatalogView:
        return self._groups.catalog

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        if self.doom is not None:
            raise self.doom
        if partition in self._parts:
            return None
        self._check_is_here(partition)
        return self._groups.barrier(partition)

    def _check_is_here(self, partition: Partition) -> None:
        """Raises TransactionCrossGroup for what another node leads, when the transaction has its
        place on this one. Before it has, NotLeader says where to begin it.
        """
        far = self._groups.far
        if far is None or far.group_of(partition) is None:
            return
        home = next(iter(self._parts), self.owner.partition)
        if home != partition and far.group_of(home) is None:
            raise TransactionCrossGroup(
                _named(home), f"{_named(partition)} (in another group of the cluster)"
            )

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        return self._part(partition).get(table, pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self._part(partition).last_change(table)

    def snapshot(self, partition: Partition) -> Snapshot:
        return self._part(partition).snapshot()

    @property
    def far(self) -> FarReads | None:
        """Nothing inside a transaction is read elsewhere: `barrier` refuses what would be."""
        return None

    def barrier_everywhere(self, but: Collection[GroupId] = ()) -> Awaitable[object] | None:
        raise NotInTransaction("reading all users' rows", "read them outside")

    def snapshots_everywhere(
        self, table: TableDef, far: Sequence[FarRows] = ()
    ) -> Sequence[Snapshot]:
        raise NotInTransaction("reading all users' rows", "read them outside")

    def has_applied(self, at_least: Mapping[GroupId, Seq], partition: Partition | None) -> bool:
        raise AssertionError("a transaction reads what was there when it began")

    async def wait_applied(
        self, at_least: Mapping[GroupId, Seq], partition: Partition | None
    ) -> None:
        raise AssertionError("a transaction reads what was there when it began")

    async def write(
        self, partition: Partition, work: Work, tag: RequestTag | None = None
    ) -> Outcome:
        assert isinstance(work, (InsertRows, ChangeKeys, PutRows))
        assert tag is None, "a request id belongs to the COMMIT"
        barrier = self.barrier(partition)
        if barrier is not None:
            await barrier
        part = self._part(partition)
        if self._home is not None and self._home is not part:
            first, second = _named(self._home.partition), _named(partition)
            raise TransactionCrossGroup(first, second)
        outcome = await part.write(work, self.room_bytes)
        if part.size_bytes:
            self._home = part
        inserted, updated, deleted = self.counts
        self.counts = (
            inserted + outcome.inserted,
            updated + outcome.updated,
            deleted + outcome.deleted,
        )
        return outcome

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        raise AssertionError("definitions are refused before they come here")

    async def refresh_catalog(self) -> None:
        raise AssertionError("a transaction is where its catalog is")

    async def write_everywhere(self, work: Work) -> None:
        raise AssertionError("definitions are refused before they come here")

    async def step_everywhere(self, step: Callable[[bytes], Work]) -> None:
        raise AssertionError("definitions are refused before they come here")

    def _part(self, partition: Partition) -> GroupTransaction:
        """Raises TransactionCrossGroup, Unavailable, what the transaction died of."""
        if self.doom is not None:
            raise self.doom
        self.touched = True
        part = self._parts.get(partition)
        if part is None:
            if partition_tenant(partition) is not None:
                if self._tenant not in (None, partition):
                    assert self._tenant is not None
                    raise TransactionCrossGroup(_named(self._tenant), _named(partition))
                self._tenant = partition
            part = self._parts[partition] = self._open(partition)
        return part

    # ---- savepoints -----------------------------------------------------------------------------

    def savepoint(self, name: str, savepoints_max: int) -> None:
        """Raises LimitReached."""
        if len(self._savepoints) >= savepoints_max:
            raise LimitReached(
                "transactions.max_savepoints", f"at most {savepoints_max} savepoints at a time"
            )
        place = None if self._home is None else self._home.savepoint()
        self._savepoints.append(_Place(name, place, self.counts))

    def release(self, name: str) -> None:
        """The savepoint and those after it are gone. Raises UnknownSavepoint."""
        del self._savepoints[self._find(name) :]
        if not self._savepoints and self._home is not None:
            self._home.keep()

    def rollback_to(self, name: str) -> None:
        """Undo what was written since. Raises UnknownSavepoint, what the transaction died of."""
        if self.doom is not None:
            raise self.doom
        at = self._find(name)
        found = self._savepoints[at]
        del self._savepoints[at + 1 :]
        if self._home is not None:
            self._home.undo_to(found.place)
            if found.place is None:
                self._home = None
        self.counts = found.counts
        self.state = State.OPEN

    def _find(self, name: str) -> int:
        """The newest of that name."""
        for at in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[at].name == name:
                return at
        raise UnknownSavepoint(name)

    # ---- the end --------------------------------------------------------------------------------

    async def commit(self, tag: RequestTag | None) -> Outcome | None:
        """Everything at once, as one command; None when there was nothing to write.

        It ends the transaction whatever comes of it. Raises Conflict, UniqueViolation,
        StatementTooLarge, Unavailable, Indeterminate; RequestIdReused.
        """
        try:
            self.check_runs()
            partition = self.owner.partition if self._home is None else self._home.partition
            asked = CommitRows(partition, self.id, (), *self.counts)
            self.state = State.COMMITTING
            if self._home is not None and self._home.size_bytes:
                return await self._home.commit(asked, tag)
            # Nothing to agree on; a request id wants its outcome kept.
            return None if tag is None else await self._groups.write(partition, asked, tag)
        finally:
            self.end()

    def end(self, doom: KalamError | None = None) -> None:
        """Let go of everything; `doom` is what later statements are told."""
        if doom is not None and self.doom is None:
            self.doom = doom
        self.state = State.ENDED
        self._home = None
        self._savepoints.clear()
        parts, self._parts = self._parts, {}
        for part in parts.values():
            part.close()

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED

    @property
    def lost(self) -> bool:
        """A leader of what it reads or writes is not what it was."""
        return any(part.lost for part in self._parts.values())

    @property
    def size_bytes(self) -> int:
        return 0 if self._home is None else self._home.size_bytes

    @property
    def written(self) -> tuple[int, int]:
        """Rows and tables written so far."""
        if self._home is None:
            return 0, 0
        held = self._home.uncommitted()
        return held.rows, held.tables

    @property
    def snapshot_seq(self) -> Seq:
        """Of the oldest snapshot it reads, 0 before the first."""
        return min((part.uncommitted().seq for part in self._parts.values()), default=Seq(0))


def _named(partition: Partition) -> str:
    tenant = partition_tenant(partition)
    return "rows of a SHARED table" if tenant is None else f"rows of {tenant}"
