"""Versioned bytes of catalog records, fences, slots and request records.

Each is msgpack of a list that begins with its format version, then plain values: no class names,
and enums by the values that `model` gives them. A new field goes to the end under a new version;
old versions stay readable (I12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from kalamdb.model import codec
from kalamdb.model.catalog import Namespace, Placement, User
from kalamdb.model.ids import GroupId, Slot, TableId
from kalamdb.model.principal import Role
from kalamdb.model.table import (
    AccessLevel,
    Check,
    Column,
    Default,
    DefaultKind,
    FlushPolicy,
    Index,
    IndexState,
    TableDef,
    TableKind,
    TableOptions,
    Unique,
)
from kalamdb.model.types import ColumnType, Kind

VERSION = 1
TABLE_VERSION = 2  # initial values of columns, indexes; a table without them is written as of 1


class RecordKind(IntEnum):
    """The byte after the family in a CATALOG key."""

    VERSION = 1  # u64: grows by one with every command that changes the catalog
    PLACEMENT = 2
    TABLE_ID = 3  # u64: the newest table id ever given
    NAMESPACE = 4
    TABLE = 5
    USER = 6


class TableState(IntEnum):
    """How far a definition is in force; the number is what a TABLE record holds."""

    ACTIVE = 1
    PENDING = 2


class FenceState(IntEnum):
    ACTIVE = 1
    DROPPED = 2
    PURGED = 3  # dropped, and no key of it is left


class SlotState(IntEnum):
    IMPORTING = 1
    OPEN = 2
    FROZEN = 3
    PURGING = 4


@dataclass(frozen=True, slots=True)
class Fence:
    """What a data group knows of a table."""

    table: TableDef
    state: FenceState


@dataclass(frozen=True, slots=True)
class SlotRecord:
    epoch: int
    state: SlotState


def _fields(raw: bytes, what: str, newest: int = VERSION) -> list[Any]:
    found = codec.unpack(raw)
    if not 1 <= found[0] <= newest:
        raise codec.UnknownVersion(f"{what} format {found[0]} is not known")
    return found[1:]


# ---- tables and fences --------------------------------------------------------------------------


def _type_out(column_type: ColumnType) -> list[Any]:
    return [column_type.kind.value, column_type.precision, column_type.scale, column_type.size]


def _type_in(raw: list[Any]) -> ColumnType:
    return ColumnType(Kind(raw[0]), *raw[1:])


def _column_out(column: Column) -> list[Any]:
    default = column.default
    shown = None if default is None else [default.kind.value, default.value]
    return [column.id, column.name, _type_out(column.type), column.nullable, shown]


def _column_in(raw: list[Any]) -> Column:
    number, name, column_type, nullable, default = raw
    made = None if default is None else Default(DefaultKind(default[0]), default[1])
    return Column(number, name, _type_in(column_type), nullable, made)


def _options_out(options: TableOptions) -> list[Any]:
    policy = options.flush_policy
    return [
        options.access_level.value,
        options.ttl_s,
        options.storage_id,
        options.use_user_storage,
        None if policy is None else [policy.rows, policy.interval_s],
        options.compression,
        options.history_retention_h,
        options.history_full,
    ]


def _options_in(raw: list[Any]) -> TableOptions:
    level, ttl_s, storage_id, user_storage, policy, compression, retention_h, full = raw
    return TableOptions(
        AccessLevel(level),
        ttl_s,
        storage_id,
        user_storage,
        None if policy is None else FlushPolicy(*policy),
        compression,
        retention_h,
        full,
    )


def _table_version(table: TableDef) -> int:
    plain = (
        all(column.initial is None for column in table.columns)
        and not any(unique.by_index for unique in table.uniques)
        and not table.indexes
    )
    return VERSION if plain else TABLE_VERSION


def _table_out(table: TableDef, version: int) -> list[Any]:
    shown = [
        table.id,
        table.namespace,
        table.name,
        table.kind.value,
        [_column_out(column) for column in table.columns],
        table.primary_key,
        [[unique.id, unique.columns, unique.name] for unique in table.uniques],
        [[check.name, check.sql] for check in table.checks],
        _options_out(table.options),
        table.version,
        table.next_column_id,
        table.next_index_id,
        table.created_ms,
    ]
    if version >= TABLE_VERSION:
        initials = {column.id: column.initial for column in table.columns}
        by_index = [[u.id, u.state.value] for u in table.uniques if u.by_index]
        shown.append({number: value for number, value in initials.items() if value is not None})
        shown.append(by_index)
        shown.append([[i.id, i.columns, i.name, i.state.value] for i in table.indexes])
    return shown


def _table_in(raw: list[Any]) -> TableDef:
    number, namespace, name, kind, columns, primary_key, uniques, checks, options, *rest = raw
    version, next_column_id, next_index_id, created_ms, *later = rest
    initials, by_index, indexes = later or ({}, [], [])
    states = dict(by_index)
    made = [_column_in(column) for column in columns]
    return TableDef(
        TableId(number),
        namespace,
        name,
        TableKind(kind),
        tuple(replace(column, initial=initials.get(column.id)) for column in made),
        tuple(primary_key),
        tuple(_unique_in(unique, states) for unique in uniques),
        tuple(Check(*check) for check in checks),
        _options_in(options),
        version,
        next_column_id,
        next_index_id,
        created_ms,
        tuple(Index(i[0], tuple(i[1]), i[2], IndexState(i[3])) for i in indexes),
    )


def _unique_in(raw: list[Any], states: Mapping[int, str]) -> Unique:
    """`states` are of those made by an index."""
    number, columns, name = raw
    state = states.get(number)
    if state is None:
        return Unique(number, tuple(columns), name)
    return Unique(number, tuple(columns), name, by_index=True, state=IndexState(state))


def encode_table(table: TableDef, state: TableState) -> bytes:
    version = _table_version(table)
    return codec.pack([version, state, _table_out(table, version)])


def decode_table(raw: bytes) -> tuple[TableDef, TableState]:
    state, table = _fields(raw, "table", TABLE_VERSION)
    return _table_in(table), TableState(state)


def encode_fence(fence: Fence) -> bytes:
    version = _table_version(fence.table)
    return codec.pack([version, fence.state, _table_out(fence.table, version)])


def decode_fence(raw: bytes) -> Fence:
    state, table = _fields(raw, "fence", TABLE_VERSION)
    return Fence(_table_in(table), FenceState(state))


# ---- the rest of the catalog --------------------------------------------------------------------


def encode_namespace(namespace: Namespace) -> bytes:
    return codec.pack([VERSION, namespace.name, namespace.created_ms, namespace.options])


def decode_namespace(raw: bytes) -> Namespace:
    return Namespace(*_fields(raw, "namespace"))


def encode_user(user: User) -> bytes:
    return codec.pack(
        [
            VERSION,
            user.name,
            user.role.value,
            user.password_hash,
            user.email,
            user.epoch,
            user.created_ms,
            user.updated_ms,
        ]
    )


def decode_user(raw: bytes) -> User:
    name, role, *rest = _fields(raw, "user")
    return User(name, Role(role), *rest)


def encode_placement(placement: Placement) -> bytes:
    moved = sorted(placement.moved.items())
    fields = [VERSION, placement.cluster_id, placement.groups, placement.voters, moved]
    return codec.pack(fields)


def decode_placement(raw: bytes) -> Placement:
    cluster_id, groups, voters, moved = _fields(raw, "placement")
    moves = {Slot(slot): GroupId(group) for slot, group in moved}
    return Placement(cluster_id, groups, tuple(voters), moves)


# ---- slots and requests -------------------------------------------------------------------------


def encode_slot(record: SlotRecord) -> bytes:
    return codec.pack([VERSION, record.epoch, record.state])


def decode_slot(raw: bytes) -> SlotRecord:
    epoch, state = _fields(raw, "slot")
    return SlotRecord(epoch, SlotState(state))


def encode_request(digest: bytes, outcome: bytes) -> bytes:
    return codec.pack([VERSION, digest, outcome])


def decode_request(raw: bytes) -> tuple[bytes, bytes]:
    """Hash of text and parameters, and the stored outcome's bytes."""
    digest, outcome = _fields(raw, "request")
    return digest, outcome
