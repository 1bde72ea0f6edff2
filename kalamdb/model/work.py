"""What a session asks the sequencer to decide: a closed union, one class per kind of write.

Work is bound and typed: rows hold stored values by column id (NULL left out), keys are key bytes.
Functions in it (`change`, `where`, `assign`, `returning`) are pure and quick: they run inside the
sequencer's synchronous section; an error of the tree they raise refuses the whole statement and
leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kalamdb.model.change import Row
from kalamdb.model.ids import Partition, Seq, Slot, TableId
from kalamdb.model.table import TableDef

Returning = Callable[[Row, Seq], tuple[object, ...]]
"""Row and its seq → JSON-ready values of the RETURNING list."""


@dataclass(frozen=True, slots=True)
class ReturningClause:
    columns: tuple[str, ...]
    project: Returning


@dataclass(frozen=True, slots=True)
class ConflictRule:
    """ON CONFLICT. `unique` is None for the primary key, else the Unique's id; `any_target` for no
    target.

    `assign(old, excluded)` gives the new row (None `assign`: DO NOTHING); `where(old, excluded)`
    may skip it.
    """

    unique: int | None = None
    any_target: bool = False
    assign: Callable[[Row, Row], Row] | None = None
    where: Callable[[Row, Row], bool] | None = None


@dataclass(frozen=True, slots=True)
class InsertRows:
    """New rows. `drawn` are column ids that take a number from the seq counter in rows that lack
    them (SNOWFLAKE_ID defaults and the hidden row id); a drawn key needs no look-up.
    """

    table: TableDef
    partition: Partition
    rows: Sequence[Row]
    drawn: tuple[int, ...] = ()
    conflict: ConflictRule | None = None
    returning: ReturningClause | None = None


@dataclass(frozen=True, slots=True)
class ChangeKeys:
    """UPDATE or DELETE by primary key: `change` gives the new row, None `change` deletes.

    Keys not present, or whose row fails `where`, are skipped (affected counts say so).
    """

    table: TableDef
    partition: Partition
    keys: Sequence[bytes]
    change: Callable[[Row], Row] | None
    where: Callable[[Row, Seq], bool] | None = None
    returning: ReturningClause | None = None


@dataclass(frozen=True, slots=True)
class ReadSet:
    """What slow work looked at; the section accepts its result only while this still holds.

    `rows`: ROW key → seq seen (0: absent); `tables`: (table, partition) → last change seq seen.
    """

    rows: Mapping[tuple[TableId, Partition, bytes], Seq] = field(
        default_factory=dict[tuple[TableId, Partition, bytes], Seq]
    )
    tables: Mapping[tuple[TableId, Partition], Seq] = field(
        default_factory=dict[tuple[TableId, Partition], Seq]
    )


@dataclass(frozen=True, slots=True)
class PutRows:
    """Rows evaluated outside on a snapshot (UPDATE … WHERE, DELETE … WHERE): key → new row, None
    deletes.

    Refused with Conflict when the read set no longer holds; the writer evaluates again, at most 5
    times.
    """

    table: TableDef
    partition: Partition
    rows: Sequence[tuple[bytes, Row | None]]
    read_set: ReadSet
    returning: ReturningClause | None = None


@dataclass(frozen=True, slots=True)
class ExpireRows:
    """Remove STREAM rows whose seq is at or below `upto`; their changes are marked EXPIRE."""

    table: TableDef
    upto: Seq
    rows_max: int = 2000


@dataclass(frozen=True, slots=True)
class TrimBefore:
    """Raise the change floor to the first seq of `hour`; repeated, purge older changes and their
    history. Request ids of commands before `requests_hour` (`hour` when None) go too.

    Affected 0: nothing is left.
    """

    hour: int
    requests_hour: int | None = None


# ---- meta and schema -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateNamespace:
    name: str
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class DropNamespace:
    name: str
    if_exists: bool


@dataclass(frozen=True, slots=True)
class DefineTable:
    """Meta: record `table` as pending (id assigned here when 0)."""

    table: TableDef
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class ActivateTable:
    """Meta: the fences stand in every data group; the definition of this version is in force."""

    table: TableId
    version: int


@dataclass(frozen=True, slots=True)
class DropTable:
    """Meta: forget the table (its id is never used again)."""

    table: TableId


@dataclass(frozen=True, slots=True)
class PutFence:
    """Data group: from now on this definition; `dropped` closes the table's subscriptions."""

    table: TableDef
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class PurgeTable:
    """Data group: delete up to `keys_max` keys of a dropped table; affected 0 means it is empty."""

    table: TableId
    keys_max: int = 2000


@dataclass(frozen=True, slots=True)
class OpenSlots:
    """Data group: first ownership of slots, at cluster creation."""

    slots: tuple[Slot, ...]
    epoch: int


@dataclass(frozen=True, slots=True)
class PutPlacement:
    """Meta: the slot → group table; refused when one is there already."""

    groups: int
    voters: tuple[int, ...]
    cluster_id: str


@dataclass(frozen=True, slots=True)
class PutUser:
    """Meta: create (`create`) or change a user; None fields stay as they are; every change bumps
    the epoch.
    """

    name: str
    create: bool
    password_hash: str | None = None
    role: str | None = None
    email: str | None = None
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropUser:
    name: str
    if_exists: bool


MetaWork = (
    CreateNamespace
    | DropNamespace
    | DefineTable
    | ActivateTable
    | DropTable
    | PutPlacement
    | PutUser
    | DropUser
)

Work = (
    InsertRows
    | ChangeKeys
    | PutRows
    | ExpireRows
    | TrimBefore
    | PutFence
    | PurgeTable
    | OpenSlots
    | MetaWork
)


@dataclass(frozen=True, slots=True)
class RequestTag:
    """Names a statement for exactly-once retries (core.md §6). `hash` is over text and
    parameters.
    """

    tenant: str
    actor: str
    request_id: str
    number: int
    hash: bytes
