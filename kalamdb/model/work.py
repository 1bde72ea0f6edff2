"""What a session asks the sequencer to decide: a closed union, one class per kind of write.

Work is bound and typed: rows hold stored values by column id (NULL left out), keys are key bytes.
Functions in it (`change`, `where`, `assign`, `returning`) are pure and quick: they run inside the
sequencer's synchronous section; an error of the tree they raise refuses the whole statement and
leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kalamdb.model.audit import AuditEntry
from kalamdb.model.catalog import Identity, ViewDef
from kalamdb.model.change import Row
from kalamdb.model.ids import GroupId, NodeId, Partition, Seq, Slot, TableId
from kalamdb.model.slot_work import SLOT_WORK as SLOT_WORK
from kalamdb.model.slot_work import AbortMove as AbortMove
from kalamdb.model.slot_work import BeginMove as BeginMove
from kalamdb.model.slot_work import EndMove as EndMove
from kalamdb.model.slot_work import FinishMove as FinishMove
from kalamdb.model.slot_work import ImportBegin as ImportBegin
from kalamdb.model.slot_work import ImportChunk as ImportChunk
from kalamdb.model.slot_work import ImportClear as ImportClear
from kalamdb.model.slot_work import MoveWork, SlotWork
from kalamdb.model.slot_work import SlotFreeze as SlotFreeze
from kalamdb.model.slot_work import SlotOpen as SlotOpen
from kalamdb.model.slot_work import SlotPurge as SlotPurge
from kalamdb.model.slot_work import SlotThaw as SlotThaw
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
class ReadSet:
    """What slow work looked at; the section accepts its result only while this still holds.

    `rows`: ROW key → seq seen (0: absent); `tables`: (table, partition) → last change seq seen;
    `slots`: slot → the epoch in which it was open.
    """

    rows: Mapping[tuple[TableId, Partition, bytes], Seq] = field(
        default_factory=dict[tuple[TableId, Partition, bytes], Seq]
    )
    tables: Mapping[tuple[TableId, Partition], Seq] = field(
        default_factory=dict[tuple[TableId, Partition], Seq]
    )
    slots: Mapping[Slot, int] = field(default_factory=dict[Slot, int])


@dataclass(frozen=True, slots=True)
class InsertRows:
    """New rows. `drawn` are column ids that take a number from the seq counter in rows that lack
    them (SNOWFLAKE_ID defaults and the hidden row id); a drawn key needs no look-up.

    `read_set`: what rows of INSERT … SELECT rest on; refused with Conflict when it no longer holds.
    """

    table: TableDef
    partition: Partition
    rows: Sequence[Row]
    drawn: tuple[int, ...] = ()
    conflict: ConflictRule | None = None
    returning: ReturningClause | None = None
    read_set: ReadSet | None = None


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
class PutRows:
    """Rows evaluated outside on a snapshot (UPDATE … WHERE, DELETE … WHERE): key → new row, None
    deletes.

    Refused with Conflict when the read set no longer holds; the writer evaluates again, at most 5
    times. `seen`: for each of `rows`, in order, the stored bytes and the row they hold; the read
    set names the table's own chain then, which stands for them, and no key comes twice.
    """

    table: TableDef
    partition: Partition
    rows: Sequence[tuple[bytes, Row | None]]
    read_set: ReadSet
    returning: ReturningClause | None = None
    seen: Sequence[tuple[bytes, Row]] | None = None


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """What a transaction wrote in one table: (primary key, seq of the row its snapshot showed, 0
    for none, new row or None).
    """

    table: TableDef
    rows: Sequence[tuple[bytes, Seq, Row | None]]


@dataclass(frozen=True, slots=True)
class CommitRows:
    """A transaction's net writes, all of one partition, as one command. Refused with Conflict when
    a row is no longer the one that was seen.

    The counts are what its statements answered; the outcome repeats them and the id.
    """

    partition: Partition
    transaction_id: str
    tables: Sequence[WrittenTable]
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


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
class PutView:
    """Meta: a new view (id 0, given here), or with the id of one its next version."""

    view: ViewDef


@dataclass(frozen=True, slots=True)
class DropViews:
    """Meta: forget these views, all at once; Conflict when a view that stays rests on one."""

    views: tuple[TableId, ...]


@dataclass(frozen=True, slots=True)
class PutNamespace:
    """Meta: the namespace's options from now on."""

    name: str
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """Meta: the outcome kept under the request id it comes with; Conflict when there is none."""


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
class BuildIndex:
    """Data group: entries of index `index` for the next rows of `table`, all partitions; `after`
    is where the last step ended, empty at first.

    The outcome's one row is where this step ended, as hex, or None when no row is left.
    """

    table: TableDef
    index: int
    after: bytes = b""
    rows_max: int = 100


@dataclass(frozen=True, slots=True)
class CheckRows:
    """Data group: do the next rows of `table`, all partitions, keep what is new in its definition?
    `columns` (ids) must not be NULL, `checks` (names) must hold; `after` is where the last step
    ended, empty at first.

    The outcome's one row is where this step ended, as hex, or None when no row is left.
    """

    table: TableDef
    columns: frozenset[int]
    checks: frozenset[str]
    after: bytes = b""
    rows_max: int = 250


@dataclass(frozen=True, slots=True)
class PurgeIndexes:
    """Data group: delete up to `keys_max` entries of indexes that `table` no longer has; affected 0
    means none are left.
    """

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
class PutNode:
    """Meta: a node joins (`join`), or a node of the cluster says who and where it is. Empty `uuid`
    and `http` are not known yet, and change nothing that is.

    Refused when another disk says it is a node that was not removed.
    """

    node: NodeId
    rpc: str
    uuid: str = ""
    http: str = ""
    join: bool = False


@dataclass(frozen=True, slots=True)
class ActivateNode:
    """Meta: a joining node's catalog is current; it may hold members of groups."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Meta: from now on the node's leaders and members go to others; refused when too few nodes
    would be left for the voters that groups have.
    """

    node: NodeId


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """Meta: the node is none of the cluster's any more; refused while it is to hold members, unless
    it is `dead`: then groups are short of a voter until another node takes its place.
    """

    node: NodeId
    dead: bool = False


@dataclass(frozen=True, slots=True)
class PutMembers:
    """Meta: the voters these groups are meant to have, the preferred leader first."""

    members: Mapping[GroupId, tuple[NodeId, ...]]


@dataclass(frozen=True, slots=True)
class PutReplication:
    """Meta: how many voters a group is meant to have: 1, 3 or 5."""

    voters: int


NodeWork = PutNode | ActivateNode | DrainNode | RemoveNode | PutMembers | PutReplication


@dataclass(frozen=True, slots=True)
class PutUser:
    """Meta: create (`create`) or change a user; None fields stay as they are; every change bumps
    the epoch. `sign_out` makes tokens of an outside issuer void that are older than now.
    `reuse` lets the name of a dropped user be taken, with the rows kept under it.
    """

    name: str
    create: bool
    password_hash: str | None = None
    role: str | None = None
    email: str | None = None
    if_not_exists: bool = False
    identity: Identity | None = None
    reuse: bool = False
    sign_out: bool = False


@dataclass(frozen=True, slots=True)
class DropUser:
    """Meta: nobody signs in by this name any more; the name stays taken (see PutUser.reuse)."""

    name: str
    if_exists: bool


@dataclass(frozen=True, slots=True)
class PutAudit:
    """Meta: append entries to the audit log, in this order."""

    entries: tuple[AuditEntry, ...]


@dataclass(frozen=True, slots=True)
class TrimAudit:
    """Meta: remove the oldest entries: all from before `before_ms`, and those beyond the newest
    `entries_max`; at most `keys_max` of them. Affected 0: nothing is left to remove.
    """

    before_ms: int
    entries_max: int
    keys_max: int = 2000


MetaWork = (
    CreateNamespace
    | DropNamespace
    | DefineTable
    | ActivateTable
    | RecallRequest
    | PutView
    | DropViews
    | PutNamespace
    | DropTable
    | PutPlacement
    | NodeWork
    | MoveWork
    | PutUser
    | DropUser
    | PutAudit
    | TrimAudit
)

RowWork = InsertRows | ChangeKeys | PutRows | CommitRows
"""It decides on rows, and changes no schema, slot or catalog."""

UpkeepWork = (
    ExpireRows
    | TrimBefore
    | PutFence
    | PurgeTable
    | BuildIndex
    | CheckRows
    | PurgeIndexes
    | OpenSlots
    | SlotWork
)
"""Of a data group, and no statement of a client."""

Work = RowWork | UpkeepWork | MetaWork


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
