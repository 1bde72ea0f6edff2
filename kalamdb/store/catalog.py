"""The catalog as records of group 0, folded into a `CatalogView`.

    CATALOG | VERSION              u64
    CATALOG | PLACEMENT            the slot → group table
    CATALOG | TABLE_ID             u64, the newest table id
    CATALOG | NAMESPACE | name     CATALOG | TABLE | u32 id     CATALOG | USER | name

`fold` is pure: the applied view follows from applied effects, the view decisions rest on from
decided ones.

Keeps: `default` is always there, is no record, and can be neither made nor dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from kalamdb.model import keys
from kalamdb.model.catalog import DEFAULT_NAMESPACE, EMPTY_CATALOG, CatalogView, Namespace
from kalamdb.model.command import Effect
from kalamdb.model.ids import TableId
from kalamdb.store.catalog_codec import (
    RecordKind,
    TableState,
    decode_namespace,
    decode_placement,
    decode_table,
    decode_user,
)
from kalamdb.store.kv import KeyReader, prefix_end

_T = TypeVar("_T")

RESERVED_NAMESPACES = frozenset(
    (
        "system",
        "sys",
        "root",
        "kalamdb",
        "kalam",
        "main",
        "default",
        "sql",
        "admin",
        "internal",
        "information_schema",
        "pg_catalog",
        "datafusion",
    )
)
RESERVED_USERS = frozenset(("system", "anonymous"))

FIRST_CATALOG = replace(
    EMPTY_CATALOG, namespaces={DEFAULT_NAMESPACE: Namespace(DEFAULT_NAMESPACE, 0)}
)

VERSION_KEY = keys.catalog(RecordKind.VERSION)
PLACEMENT_KEY = keys.catalog(RecordKind.PLACEMENT)
TABLE_ID_KEY = keys.catalog(RecordKind.TABLE_ID)


def namespace_key(name: str) -> bytes:
    return keys.catalog(RecordKind.NAMESPACE, keys.terminated(name.encode()))


def user_key(name: str) -> bytes:
    return keys.catalog(RecordKind.USER, keys.terminated(name.encode()))


def table_key(table: TableId) -> bytes:
    return keys.catalog(RecordKind.TABLE, keys.U32.pack(table))


def load(reader: KeyReader) -> CatalogView:
    """The catalog a group 0 store holds."""
    prefix = bytes([keys.Family.CATALOG])
    return fold(FIRST_CATALOG, reader.scan(prefix, prefix_end(prefix)))


def fold(view: CatalogView, effects: Iterable[Effect]) -> CatalogView:
    """The view after `effects`; the very same object when none of them is a catalog record."""
    version, placement = view.version, view.placement
    namespaces, users = dict(view.namespaces), dict(view.users)
    active, pending = dict(view.tables_by_id), dict(view.pending)
    touched = False
    for key, value in effects:
        if key[0] != keys.Family.CATALOG:
            continue
        touched = True
        name = key[2:]
        match RecordKind(key[1]):
            case RecordKind.VERSION:
                version = keys.U64.unpack(value)[0] if value is not None else 0
            case RecordKind.PLACEMENT:
                placement = None if value is None else decode_placement(value)
            case RecordKind.TABLE_ID:
                pass  # only decisions need it
            case RecordKind.NAMESPACE:
                _put(namespaces, _name(name), value, decode_namespace)
            case RecordKind.USER:
                _put(users, _name(name), value, decode_user)
            case RecordKind.TABLE:
                table = TableId(keys.U32.unpack(name)[0])
                active.pop(table, None)
                pending.pop(table, None)
                if value is not None:
                    definition, state = decode_table(value)
                    (active if state is TableState.ACTIVE else pending)[table] = definition
    if not touched:
        return view
    by_name = {(table.namespace, table.name): table for table in active.values()}
    return CatalogView(version, namespaces, by_name, active, pending, users, placement)


def _name(raw: bytes) -> str:
    return keys.split_terminated(raw, 0)[0].decode()


def _put(
    found: dict[str, _T], name: str, value: bytes | None, decode: Callable[[bytes], _T]
) -> None:
    if value is None:
        found.pop(name, None)
    else:
        found[name] = decode(value)
