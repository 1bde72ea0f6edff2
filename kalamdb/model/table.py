"""Table definitions: columns, keys, constraints, options; versioned by schema number.

Table kinds differ by data on `TableDef` (scope, TTL), not by class. Columns have ids that are never
reused; rows are stored by column id, so adding and dropping columns rewrites nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from kalamdb.model.ids import Partition, TableId, shared_partition
from kalamdb.model.types import BIGINT, BOOLEAN, ColumnType

SEQ_COLUMN = "_seq"
DELETED_COLUMN = "_deleted"
# Hidden primary key of a table declared without one; drawn from the group's seq counter.
ROW_ID_COLUMN = "_row_id"
SEQ_COLUMN_ID = -1
DELETED_COLUMN_ID = -2
ROW_ID_COLUMN_ID = 0
# What a read of `all_users.namespace.table` adds: whose row it is. No table stores it.
USER_ID_COLUMN = "_user_id"
USER_ID_COLUMN_ID = -3

RESERVED_COLUMNS = frozenset(
    (
        "_seq",
        "_deleted",
        "_id",
        "_row_id",
        "_rowid",
        "_key",
        "_updated",
        "_created",
        "_timestamp",
        "_version",
        "_hash",
    )
)
# In the engine, stands between a result column's name and a number that tells it from another one
# of that name.
SAME_NAME = "\x1f"
COLUMNS_MAX = 1000
NAME_LENGTH_MAX = 64


class TableKind(Enum):
    USER = "user"  # each row belongs to a tenant
    SHARED = "shared"  # one set of rows for all
    STREAM = "stream"  # like USER, with a TTL, and never cold


class AccessLevel(Enum):
    """Who reads and writes a SHARED table."""

    PUBLIC = "Public"
    PRIVATE = "Private"
    RESTRICTED = "Restricted"
    DBA = "Dba"


class DefaultKind(Enum):
    LITERAL = "literal"
    SNOWFLAKE_ID = "SNOWFLAKE_ID"
    UUID_V7 = "UUID_V7"
    ULID = "ULID"
    NOW = "NOW"
    CURRENT_USER = "CURRENT_USER"


@dataclass(frozen=True, slots=True)
class Default:
    """What a column gets when an INSERT leaves it out. `value` (stored form) is for LITERAL
    only.
    """

    kind: DefaultKind
    value: object = None


@dataclass(frozen=True, slots=True)
class Column:
    """`initial` (stored form) is what rows written before the column was added read as; a column
    that has one stores NULL as NULL, not by leaving it out.
    """

    id: int
    name: str
    type: ColumnType
    nullable: bool = True
    default: Default | None = None
    initial: object = None


class IndexState(Enum):
    """Writes maintain an index in both states; only a READY one is read."""

    BUILDING = "building"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Unique:
    """UNIQUE over columns (by id); per tenant in USER tables. `id` is its index number.

    `by_index`: made by CREATE UNIQUE INDEX, and dropped by DROP INDEX.
    """

    id: int
    columns: tuple[int, ...]
    name: str
    by_index: bool = False
    state: IndexState = IndexState.READY


@dataclass(frozen=True, slots=True)
class Index:
    """An index over columns (by id); its entries are (values…, primary key) per partition."""

    id: int
    columns: tuple[int, ...]
    name: str
    state: IndexState = IndexState.READY


@dataclass(frozen=True, slots=True)
class Check:
    """A CHECK constraint; `sql` is its normalised expression text."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    rows: int | None = None
    interval_s: int | None = None


@dataclass(frozen=True, slots=True)
class TableOptions:
    access_level: AccessLevel = AccessLevel.PRIVATE
    ttl_s: int | None = None
    storage_id: str = "local"
    use_user_storage: bool = False
    flush_policy: FlushPolicy | None = None
    compression: str = "zstd"
    history_retention_h: int | None = None
    history_full: bool = False


@dataclass(frozen=True)
class TableDef:
    """One version of a table's definition.

    `primary_key` lists column ids; it is (ROW_ID_COLUMN_ID,) for a table declared without one.
    `columns` are the user's, in order; system columns (`_seq`, `_deleted`) are not among them.
    """

    id: TableId
    namespace: str
    name: str
    kind: TableKind
    columns: tuple[Column, ...]
    primary_key: tuple[int, ...]
    uniques: tuple[Unique, ...] = ()
    checks: tuple[Check, ...] = ()
    options: TableOptions = field(default_factory=TableOptions)
    version: int = 1
    next_column_id: int = 1
    next_index_id: int = 1
    created_ms: int = 0
    indexes: tuple[Index, ...] = ()

    @cached_property
    def full_name(self) -> str:
        return f"{self.namespace}.{self.name}"

    @cached_property
    def by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def by_id(self) -> dict[int, Column]:
        """Columns by id, the hidden row id and the readable system columns among them."""
        known = {column.id: column for column in self.columns}
        known[SEQ_COLUMN_ID] = Column(SEQ_COLUMN_ID, SEQ_COLUMN, BIGINT, nullable=False)
        if self.has_tombstones:
            known[DELETED_COLUMN_ID] = Column(
                DELETED_COLUMN_ID, DELETED_COLUMN, BOOLEAN, nullable=False
            )
        if self.has_hidden_key:
            known[ROW_ID_COLUMN_ID] = Column(
                ROW_ID_COLUMN_ID, ROW_ID_COLUMN, BIGINT, nullable=False
            )
        return known

    @cached_property
    def initials(self) -> tuple[tuple[int, object], ...]:
        """Column ids with what rows from before them read as; nearly always empty."""
        return tuple(
            (column.id, column.initial) for column in self.columns if column.initial is not None
        )

    def complete(self, row: dict[int, Any]) -> dict[int, Any]:
        """A stored row with what it reads as in columns that are younger than it, in place."""
        for column_id, value in self.initials:
            row.setdefault(column_id, value)
        return row

    @cached_property
    def readable(self) -> tuple[Column, ...]:
        """What `SELECT *` returns: the user's columns, then `_seq` (and `_deleted`)."""
        system = [self.by_id[SEQ_COLUMN_ID]]
        if self.has_tombstones:
            system.append(self.by_id[DELETED_COLUMN_ID])
        return (*self.columns, *system)

    @cached_property
    def readable_by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.readable}

    @cached_property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.by_id[column_id] for column_id in self.primary_key)

    @cached_property
    def ready_uniques(self) -> tuple[Unique, ...]:
        """The UNIQUEs that hold of every row; one being built may find two with equal values."""
        return tuple(one for one in self.uniques if one.state is IndexState.READY)

    def flags(self, column: Column) -> tuple[str, ...]:
        """What a result schema says of a column that comes out unchanged: pk, nn, uq, in this
        order.
        """
        key = column.id in self.primary_key
        alone = key or any(unique.columns == (column.id,) for unique in self.ready_uniques)
        holds = (("pk", key), ("nn", key or not column.nullable), ("uq", alone))
        return tuple(flag for flag, is_set in holds if is_set)

    @property
    def has_hidden_key(self) -> bool:
        return self.primary_key == (ROW_ID_COLUMN_ID,)

    @property
    def is_tenant_scoped(self) -> bool:
        """Rows belong to tenants (USER, STREAM), not to everybody (SHARED)."""
        return self.kind is not TableKind.SHARED

    @property
    def has_tombstones(self) -> bool:
        """STREAM rows are deleted outright; they have no `_deleted` column."""
        return self.kind is not TableKind.STREAM

    @property
    def accepts_update(self) -> bool:
        return self.kind is not TableKind.STREAM

    def partition_for(self, tenant: Partition) -> Partition:
        """The partition a session of `tenant` reads and writes in this table."""
        return tenant if self.is_tenant_scoped else shared_partition(self.id)
