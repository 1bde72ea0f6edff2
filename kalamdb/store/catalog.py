"""The catalog as records of group 0, folded into a `CatalogView`.

    CATALOG | VERSION              u64
    CATALOG | PLACEMENT            the slot → group table
    CATALOG | MOVE | u16 slot      a move in flight    CATALOG | MOVE_EPOCH   u64, the newest
    CATALOG | TABLE_ID             u64, the newest table id
    CATALOG | NAMESPACE | name     CATALOG | TABLE | u32 id     CATALOG | USER | name
    CATALOG | REVISION | u32 id    the definition that is to replace the active one
    CATALOG | VIEW | u32 id
    CATALOG | TABLE_HISTORY | u32 id | u32 version              one that was replaced
    CATALOG | NODE | u32 id        CATALOG | MEMBERS | u16 group
    CATALOG | REPLICATION          how many voters groups are meant to have

`fold` is pure: the applied view follows from applied effects, the view decisions rest on from
decided ones.

Keeps: `default` is always there, is no record, and can be neither made nor dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from kalamdb.model import keys
from kalamdb.model.catalog import (
    DEFAULT_NAMESPACE,
    EMPTY_CATALOG,
    REPLICATION,
    CatalogView,
    Namespace,
    NodeRecord,
    Placement,
    User,
)
from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId, NodeId, Slot, TableId
from kalamdb.model.slot import Move
from kalamdb.store.catalog_codec import (
    RecordKind,
    TableState,
    decode_members,
    decode_namespace,
    decode_node,
    decode_placement,
    decode_replication,
    decode_table,
    decode_user,
    decode_view,
)
from kalamdb.store.kv import KeyReader, prefix_end
from kalamdb.store.slot_codec import decode_move

_T = TypeVar("_T")

RESERVED_USERS = frozenset(("system", "anonymous"))

FIRST_CATALOG = replace(
    EMPTY_CATALOG, namespaces={DEFAULT_NAMESPACE: Namespace(DEFAULT_NAMESPACE, 0)}
)

VERSION_KEY = keys.catalog(RecordKind.VERSION)
PLACEMENT_KEY = keys.catalog(RecordKind.PLACEMENT)
TABLE_ID_KEY = keys.catalog(RecordKind.TABLE_ID)
MOVE_EPOCH_KEY = keys.catalog(RecordKind.MOVE_EPOCH)
REPLICATION_KEY = keys.catalog(RecordKind.REPLICATION)


def namespace_key(name: str) -> bytes:
    return keys.catalog(RecordKind.NAMESPACE, keys.terminated(name.encode()))


def user_key(name: str) -> bytes:
    return keys.catalog(RecordKind.USER, keys.terminated(name.encode()))


def table_key(table: TableId) -> bytes:
    return keys.catalog(RecordKind.TABLE, keys.U32.pack(table))


def revision_key(table: TableId) -> bytes:
    return keys.catalog(RecordKind.REVISION, keys.U32.pack(table))


def history_key(table: TableId, version: int) -> bytes:
    return keys.catalog(RecordKind.TABLE_HISTORY, keys.U32.pack(table) + keys.U32.pack(version))


def view_key(view: TableId) -> bytes:
    return keys.catalog(RecordKind.VIEW, keys.U32.pack(view))


def node_key(node: NodeId) -> bytes:
    return keys.catalog(RecordKind.NODE, keys.U32.pack(node))


def move_key(slot: Slot) -> bytes:
    return keys.catalog(RecordKind.MOVE, keys.U16.pack(slot))


def members_key(group: GroupId) -> bytes:
    return keys.catalog(RecordKind.MEMBERS, keys.U16.pack(group))


def load(reader: KeyReader) -> CatalogView:
    """The catalog a group 0 store holds."""
    prefix = bytes([keys.Family.CATALOG])
    return fold(FIRST_CATALOG, reader.scan(prefix, prefix_end(prefix)))


def fold(view: CatalogView, effects: Iterable[Effect]) -> CatalogView:
    """The view after `effects`; the very same object when none of them is a catalog record."""
    records = [(key, value) for key, value in effects if key[0] == keys.Family.CATALOG]
    if not records:
        return view
    folding = _Folding(view)
    for key, value in records:
        folding.put(RecordKind(key[1]), key[2:], value)
    return folding.view()


class _Folding:
    """A view taken apart, to put records into."""

    def __init__(self, view: CatalogView) -> None:
        self._before = view
        self._version, self._placement = view.version, view.placement
        self._namespaces, self._users = dict(view.namespaces), dict(view.users)
        self._dropped = dict(view.dropped_users)
        self._active, self._pending = dict(view.tables_by_id), dict(view.pending)
        self._history = dict(view.history)
        self._views = {found.id: found for found in view.views.values()}
        self._moves = dict(view.moves)
        self._placed: list[_Placed] = []

    def put(self, kind: RecordKind, name: bytes, value: bytes | None) -> None:
        """`name` follows the kind in the key; `value` None: the record is gone."""
        match kind:
            case RecordKind.VERSION:
                self._version = keys.U64.unpack(value)[0] if value is not None else 0
            case RecordKind.PLACEMENT:
                self._placement = None if value is None else decode_placement(value)
            case RecordKind.TABLE_ID | RecordKind.MOVE_EPOCH:
                pass  # only decisions need it
            case RecordKind.MOVE:
                _put_move(self._moves, name, value)
            case RecordKind.NAMESPACE:
                _put(self._namespaces, _name(name), value, decode_namespace)
            case RecordKind.USER:
                _put_user(self._users, self._dropped, _name(name), value)
            case RecordKind.TABLE:
                table = TableId(keys.U32.unpack(name)[0])
                self._active.pop(table, None)
                self._pending.pop(table, None)
                if value is not None:
                    definition, state = decode_table(value)
                    of = self._active if state is TableState.ACTIVE else self._pending
                    of[table] = definition
            case RecordKind.REVISION:
                table = TableId(keys.U32.unpack(name)[0])
                self._pending.pop(table, None)
                if value is not None:
                    self._pending[table] = decode_table(value)[0]
            case RecordKind.TABLE_HISTORY:
                _put_replaced(self._history, name, value)
            case RecordKind.VIEW:
                view_id = TableId(keys.U32.unpack(name)[0])
                self._views.pop(view_id, None)
                if value is not None:
                    self._views[view_id] = decode_view(value)
            case RecordKind.NODE | RecordKind.MEMBERS | RecordKind.REPLICATION:
                self._placed.append((kind, name, value))

    def view(self) -> CatalogView:
        nodes, placement = _fold_nodes(self._before, self._placement, self._placed)
        return CatalogView(
            self._version,
            self._namespaces,
            {(table.namespace, table.name): table for table in self._active.values()},
            self._active,
            self._pending,
            self._users,
            placement,
            dropped_users=self._dropped,
            views={(found.namespace, found.name): found for found in self._views.values()},
            history=self._history,
            nodes=nodes,
            moves=self._moves,
        )


_Placed = tuple[RecordKind, bytes, bytes | None]


def _fold_nodes(
    view: CatalogView, placement: Placement | None, placed: Iterable[_Placed]
) -> tuple[Mapping[NodeId, NodeRecord], Placement | None]:
    """Nodes, and the placement with its members: they stand in records of their own."""
    before = view.placement
    nodes = dict(view.nodes)
    members = {} if before is None else dict(before.members)
    replication = REPLICATION if before is None else before.replication
    for kind, name, value in placed:
        if kind is RecordKind.REPLICATION:
            replication = REPLICATION if value is None else decode_replication(value)
        elif kind is RecordKind.MEMBERS:
            group = GroupId(keys.U16.unpack(name)[0])
            members.pop(group, None)
            if value is not None:
                members[group] = decode_members(value)
        else:
            node = NodeId(keys.U32.unpack(name)[0])
            nodes.pop(node, None)
            if value is not None:
                nodes[node] = decode_node(value)
    if placement is None or (placement.members, placement.replication) == (members, replication):
        return nodes, placement
    return nodes, replace(placement, members=members, replication=replication)


def _name(raw: bytes) -> str:
    return keys.split_terminated(raw, 0)[0].decode()


def _put(
    found: dict[str, _T], name: str, value: bytes | None, decode: Callable[[bytes], _T]
) -> None:
    if value is None:
        found.pop(name, None)
    else:
        found[name] = decode(value)


def _put_move(moves: dict[Slot, Move], name: bytes, value: bytes | None) -> None:
    slot = Slot(keys.U16.unpack(name)[0])
    moves.pop(slot, None)
    if value is not None:
        moves[slot] = decode_move(value)


def _put_replaced(
    history: dict[TableId, Mapping[int, bytes]], name: bytes, value: bytes | None
) -> None:
    table, version = TableId(keys.U32.unpack_from(name)[0]), keys.U32.unpack_from(name, 4)[0]
    versions = dict(history.pop(table, {}))
    versions.pop(version, None)
    if value is not None:
        versions[version] = value
    if versions:
        history[table] = versions


def _put_user(
    users: dict[str, User], dropped: dict[str, User], name: str, value: bytes | None
) -> None:
    """A name has one record: of a user, or of one that was dropped."""
    users.pop(name, None)
    dropped.pop(name, None)
    if value is not None:
        user = decode_user(value)
        (users if user.dropped_ms is None else dropped)[name] = user
