"""Versioned bytes of catalog records, fences and request records.

Each is msgpack of a list that begins with its format version, then plain values: no class names,
and enums by the values that `model` gives them. A new field goes to the end under a new version;
old versions stay readable (I12).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from kalamdb.model import codec
from kalamdb.model.catalog import (
    Identity,
    Namespace,
    NodeRecord,
    NodeState,
    Placement,
    User,
    ViewDef,
)
from kalamdb.model.ids import GroupId, NodeId, Slot, TableId
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
USER_VERSION = 2  # identity, sign-out, drop; a user with none of them is written as of 1


class RecordKind(IntEnum):
    """The byte after the family in a CATALOG key."""

    VERSION = 1  # u64: grows by one with every command that changes the catalog
    PLACEMENT = 2
    TABLE_ID = 3  # u64: the newest table id ever given
    NAMESPACE = 4
    TABLE = 5
    USER = 6
    REVISION = 7  # of an active table: the definition that is to replace it
    TABLE_HISTORY = 8  # a definition that was replaced, by table and version
    VIEW = 9
    NODE = 10
    MEMBERS = 11  # by group: the voters it is meant to have, instead of the placement's
    REPLICATION = 12  # how many voters groups are meant to have
    MOVE = 32  # of a slot, while it is in flight
    MOVE_EPOCH = 33  # u64: the newest epoch ever given to a move


class TableState(IntEnum):
    """How far a definition is in force; the number is what a TABLE record holds."""

    ACTIVE = 1
    PENDING = 2


class FenceState(IntEnum):
    ACTIVE = 1
    DROPPED = 2
    PURGED = 3  # dropped, and no key of it is left


@dataclass(frozen=True, slots=True)
class Fence:
    """What a data group knows of a table."""

    table: TableDef
    state: FenceState


@dataclass(frozen=True, slots=True)
class Replaced:
    """A definition that was in force from `since_ms` until `until_ms`."""

    table: TableDef
    since_ms: int
    until_ms: int


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


def _is_later(unique: Unique) -> bool:
    """Has it what version 1 could not say?"""
    return unique.by_index or unique.state is not IndexState.READY


def _table_version(table: TableDef) -> int:
    plain = (
        all(column.initial is None for column in table.columns)
        and not any(map(_is_later, table.uniques))
        and not table.indexes
    )
    return VERSION if plain else TABLE_VERSION


def _table_out(table: TableDef, version: int) -> list[Any]:
    shown: list[Any] = [
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
        shown.append({number: value for number, value in initials.items() if value is not None})
        shown.append([[u.id, u.by_index, u.state.value] for u in table.uniques if _is_later(u)])
        shown.append([[i.id, i.columns, i.name, i.state.value] for i in table.indexes])
    return shown


def _table_in(raw: list[Any]) -> TableDef:
    number, namespace, name, kind, columns, primary_key, uniques, checks, options, *rest = raw
    version, next_column_id, next_index_id, created_ms, *later = rest
    initials: dict[int, object] = later[0] if later else {}
    uniques_later: list[Any] = later[1] if later else []
    indexes: list[Any] = later[2] if later else []
    made = [_column_in(column) for column in columns]
    return TableDef(
        TableId(number),
        namespace,
        name,
        TableKind(kind),
        tuple(replace(column, initial=initials.get(column.id)) for column in made),
        tuple(primary_key),
        tuple(_unique_in(unique, uniques_later) for unique in uniques),
        tuple(Check(*check) for check in checks),
        _options_in(options),
        version,
        next_column_id,
        next_index_id,
        created_ms,
        tuple(map(_index_in, indexes)),
    )


def _unique_in(raw: list[Any], later: list[Any]) -> Unique:
    number, columns, name = raw
    for other, by_index, state in later:
        if other == number:
            return Unique(number, tuple(columns), name, by_index, IndexState(state))
    return Unique(number, tuple(columns), name)


def _index_in(raw: list[Any]) -> Index:
    number, columns, name, state = raw
    return Index(number, tuple(columns), name, IndexState(state))


def encode_table(table: TableDef, state: TableState) -> bytes:
    version = _table_version(table)
    return codec.pack([version, state, _table_out(table, version)])


def decode_table(raw: bytes) -> tuple[TableDef, TableState]:
    state, table = _fields(raw, "table", TABLE_VERSION)
    return _table_in(table), TableState(state)


def encode_replaced(replaced: Replaced) -> bytes:
    version = _table_version(replaced.table)
    table = _table_out(replaced.table, version)
    return codec.pack([version, replaced.since_ms, replaced.until_ms, table])


def decode_replaced(raw: bytes) -> Replaced:
    since_ms, until_ms, table = _fields(raw, "table history", TABLE_VERSION)
    return Replaced(_table_in(table), since_ms, until_ms)


def encode_view(view: ViewDef) -> bytes:
    return codec.pack(
        [
            VERSION,
            view.id,
            view.namespace,
            view.name,
            view.columns,
            view.sql,
            view.home,
            sorted(view.tables.items()),
            view.views,
            view.version,
            view.created_ms,
        ]
    )


def decode_view(raw: bytes) -> ViewDef:
    number, namespace, name, columns, sql, home, tables, views, version, created_ms = _fields(
        raw, "view"
    )
    return ViewDef(
        TableId(number),
        namespace,
        name,
        tuple(columns),
        sql,
        home,
        {TableId(table): young for table, young in tables},
        tuple(map(TableId, views)),
        version,
        created_ms,
    )


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
    identity = user.identity
    shown = [
        user.name,
        user.role.value,
        user.password_hash,
        user.email,
        user.epoch,
        user.created_ms,
        user.updated_ms,
    ]
    if identity is None and not user.signed_out_ms and user.dropped_ms is None:
        return codec.pack([VERSION, *shown])
    outside = None if identity is None else [identity.issuer, identity.subject]
    return codec.pack([USER_VERSION, *shown, outside, user.signed_out_ms, user.dropped_ms])


def decode_user(raw: bytes) -> User:
    name, role, password_hash, email, epoch, created_ms, updated_ms, *later = _fields(
        raw, "user", USER_VERSION
    )
    outside, signed_out_ms, dropped_ms = later or (None, 0, None)
    return User(
        name,
        Role(role),
        password_hash,
        email,
        epoch,
        created_ms,
        updated_ms,
        None if outside is None else Identity(*outside),
        signed_out_ms,
        dropped_ms,
    )


def encode_placement(placement: Placement) -> bytes:
    moved = sorted(placement.moved.items())
    fields = [VERSION, placement.cluster_id, placement.groups, placement.voters, moved]
    return codec.pack(fields)


def decode_placement(raw: bytes) -> Placement:
    cluster_id, groups, voters, moved = _fields(raw, "placement")
    moves = {Slot(slot): GroupId(group) for slot, group in moved}
    return Placement(cluster_id, groups, tuple(voters), moves)


# ---- nodes and members --------------------------------------------------------------------------


def encode_node(node: NodeRecord) -> bytes:
    state = node.state.value
    return codec.pack([VERSION, node.id, node.uuid, node.rpc, node.http, state, node.since_ms])


def decode_node(raw: bytes) -> NodeRecord:
    number, uuid, rpc, http, state, since_ms = _fields(raw, "node")
    return NodeRecord(NodeId(number), uuid, rpc, http, NodeState(state), since_ms)


def encode_members(voters: tuple[NodeId, ...]) -> bytes:
    return codec.pack([VERSION, *voters])


def decode_members(raw: bytes) -> tuple[NodeId, ...]:
    return tuple(map(NodeId, _fields(raw, "members")))


def encode_replication(voters: int) -> bytes:
    return codec.pack([VERSION, voters])


def decode_replication(raw: bytes) -> int:
    return _fields(raw, "replication")[0]


# ---- requests -------------------------------------------------------------------------


def encode_request(digest: bytes, outcome: bytes) -> bytes:
    return codec.pack([VERSION, digest, outcome])


def decode_request(raw: bytes) -> tuple[bytes, bytes]:
    """Hash of text and parameters, and the stored outcome's bytes."""
    digest, outcome = _fields(raw, "request")
    return digest, outcome
