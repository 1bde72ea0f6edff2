"""`system` tables that are read from the catalog: users, namespaces, tables, indexes, types.

Every function takes one view of the catalog and gives rows in the order of `sql/virtual.py`. A
column that this server keeps nothing for is NULL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from kalamdb.model.catalog import CatalogView, User
from kalamdb.model.table import Column, Default, DefaultKind, TableDef
from kalamdb.model.types import ColumnType, Kind
from kalamdb.query.system import Values
from kalamdb.sql.virtual import VIRTUAL_TABLES, VirtualTable

MASK = "***"
SYSTEM_KIND = "system"


def json_text(value: object) -> str:
    return orjson.dumps(value).decode()


def stored_tables(catalog: CatalogView) -> list[TableDef]:
    """By namespace and name."""
    return [table for _, table in sorted(catalog.tables.items())]


def kind_of(table: TableDef) -> str:
    return SYSTEM_KIND if isinstance(table, VirtualTable) else table.kind.value


def options_of(table: TableDef) -> dict[str, Any]:
    """Options as JSON, tagged by the table's kind."""
    options = table.options
    shown: dict[str, Any] = {"table_type": kind_of(table).upper()}
    if isinstance(table, VirtualTable):
        return shown
    if options.ttl_s is not None:
        shown["ttl_seconds"] = options.ttl_s
        return shown
    shown["storage_id"] = options.storage_id
    if not table.is_tenant_scoped:
        shown["access_level"] = options.access_level.value
    return shown


def default_text(default: Default) -> str:
    if default.kind is DefaultKind.LITERAL:
        return str(default.value)
    return f"{default.kind.value}()"


def key_position(table: TableDef, column: Column) -> int | None:
    """1-based place in the primary key."""
    key = table.primary_key
    return key.index(column.id) + 1 if column.id in key else None


# ---- users and namespaces -----------------------------------------------------------------------


def users(catalog: CatalogView) -> Iterator[Values]:
    for user in sorted(catalog.users.values(), key=lambda each: each.name):
        yield _user(user)
    for user in sorted(catalog.dropped_users.values(), key=lambda each: each.name):
        yield _user(user)


def _user(user: User) -> Values:
    identity = user.identity
    outside = (
        None
        if identity is None
        else json_text({"issuer": identity.issuer, "subject": identity.subject})
    )
    return (
        user.name,
        MASK,
        user.role.value,
        user.email,
        user.auth_type.value,
        outside,
        None,
        None,
        None,
        None,
        None,
        user.created_ms * 1000,
        user.updated_ms * 1000,
        None,
        None if user.dropped_ms is None else user.dropped_ms * 1000,
    )


def namespaces(catalog: CatalogView) -> Iterator[Values]:
    counts: dict[str, int] = {}
    for namespace, _ in catalog.tables:
        counts[namespace] = counts.get(namespace, 0) + 1
    for namespace in sorted(catalog.namespaces.values(), key=lambda each: each.name):
        yield (
            namespace.name,
            namespace.name,
            namespace.created_ms * 1000,
            json_text(dict(namespace.options)) if namespace.options else None,
            counts.get(namespace.name, 0),
        )


# ---- tables -------------------------------------------------------------------------------------


def schemas(catalog: CatalogView) -> Iterator[Values]:
    for table in stored_tables(catalog):
        shared = not table.is_tenant_scoped
        yield (
            f"{table.namespace}:{table.name}",
            table.name,
            table.namespace,
            table.kind.value,
            table.created_ms * 1000,
            table.version,
            json_text([_column(table, column, at) for at, column in enumerate(table.readable, 1)]),
            None,
            None,
            json_text(options_of(table)),
            table.options.access_level.value if shared else None,
            True,
            table.options.storage_id,
            table.options.use_user_storage,
            json_text([_index(table, entry) for entry in index_entries(table)]),
        )


def _column(table: TableDef, column: Column, position: int) -> dict[str, Any]:
    return {
        "column_id": column.id,
        "column_name": column.name,
        "column_comment": None,
        "data_type": column.type.label,
        "default_value": _default(column.default),
        "ordinal_position": position,
        "is_nullable": column.nullable,
        "is_primary_key": column.id in table.primary_key,
        "is_partition_key": False,
    }


def _default(default: Default | None) -> object:
    if default is None:
        return "None"
    if default.kind is DefaultKind.LITERAL:
        value = default.value
        return {"Literal": list(value) if isinstance(value, bytes) else value}
    return {"FunctionCall": {"name": default.kind.value, "args": []}}


def tables(catalog: CatalogView) -> Iterator[Values]:
    for table in (*stored_tables(catalog), *VIRTUAL_TABLES.values()):
        yield (table.namespace, table.name, *definition_facts(table))


def definition_facts(table: TableDef) -> Values:
    """Kind, storage, version, options, comment and last change (nobody keeps them), creation."""
    return (
        kind_of(table),
        None if isinstance(table, VirtualTable) else table.options.storage_id,
        table.version,
        json_text(options_of(table)),
        None,
        None,
        table.created_ms * 1000,
    )


def columns(catalog: CatalogView) -> Iterator[Values]:
    for table in (*stored_tables(catalog), *VIRTUAL_TABLES.values()):
        for position, column in enumerate(table.readable, 1):
            yield (
                table.namespace,
                table.name,
                table.version,
                column.id,
                column.name,
                None,
                column.type.sql,
                None if column.default is None else default_text(column.default),
                position,
                column.nullable,
                column.id in table.primary_key,
                key_position(table, column),
            )


def views(catalog: CatalogView) -> Iterator[Values]:
    for _, view in sorted(catalog.views.items()):
        yield view.namespace, view.name, view.sql, view.created_ms * 1000


# ---- indexes ------------------------------------------------------------------------------------

IndexEntry = tuple[str, bool, tuple[int, ...], str, str | None]
"""Name, unique, columns by id, state, and the constraint it serves."""


def index_entries(table: TableDef) -> Iterator[IndexEntry]:
    """What keeps rows in order or apart: the primary key, UNIQUEs, indexes."""
    if not table.has_hidden_key and table.primary_key:
        name = f"{table.name}_pkey"
        yield name, True, table.primary_key, "ready", name
    for unique in table.uniques:
        constraint = None if unique.by_index else unique.name
        yield unique.name, True, unique.columns, unique.state.value, constraint
    for index in table.indexes:
        yield index.name, False, index.columns, index.state.value, None


def _index(table: TableDef, entry: IndexEntry) -> dict[str, Any]:
    name, unique, column_ids, state, _ = entry
    return {
        "index_name": name,
        "is_unique": unique,
        "columns": names_of(table, column_ids),
        "state": state,
    }


def names_of(table: TableDef, column_ids: tuple[int, ...]) -> list[str]:
    return [table.by_id[column_id].name for column_id in column_ids]


def indexes_of(table: TableDef) -> Iterator[Values]:
    for name, unique, column_ids, state, constraint in index_entries(table):
        listed = json_text(names_of(table, column_ids))
        yield (table.namespace, table.name, name, unique, listed, state, constraint)


def indexes(catalog: CatalogView) -> Iterator[Values]:
    for table in stored_tables(catalog):
        yield from indexes_of(catalog.pending.get(table.id, table))  # one being built is pending


# ---- types --------------------------------------------------------------------------------------

_DESCRIBED: Mapping[Kind, str] = {
    Kind.BOOLEAN: "true or false",
    Kind.SMALLINT: "whole number of 16 bits",
    Kind.INT: "whole number of 32 bits",
    Kind.BIGINT: "whole number of 64 bits; a string in JSON",
    Kind.FLOAT: "floating point number of 32 bits",
    Kind.DOUBLE: "floating point number of 64 bits",
    Kind.DECIMAL: "exact number of up to 38 digits; a string in JSON",
    Kind.TEXT: "text in UTF-8",
    Kind.BYTES: "bytes; an array of numbers in JSON",
    Kind.JSON: "JSON text",
    Kind.TIMESTAMP: "moment without a time zone, in microseconds",
    Kind.DATETIME: "moment in UTC, in microseconds",
    Kind.DATE: "day",
    Kind.TIME: "time of day, in microseconds",
    Kind.UUID: "UUID",
    Kind.EMBEDDING: "vector of 32-bit floating point numbers",
    Kind.FILE: "reference to a file",
}
_PARAMETERS = {
    Kind.DECIMAL: ColumnType(Kind.DECIMAL, precision=38, scale=10),
    Kind.EMBEDDING: ColumnType(Kind.EMBEDDING, size=384),
}


def datatypes(catalog: CatalogView) -> Iterator[Values]:
    for kind in Kind:
        column_type = _PARAMETERS.get(kind) or ColumnType(kind)
        yield column_type.arrow, kind.value, column_type.sql, _DESCRIBED[kind]
