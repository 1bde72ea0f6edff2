"""`information_schema`: what the SQL standard has to say of namespaces, tables and constraints.

Rows are made for one principal: it sees the tables it may read and the namespaces that hold one,
and nothing that tells of others (no counts, no names). Roles dba and system see everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kalamdb.model.catalog import DEFAULT_NAMESPACE, CatalogView, ViewDef
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import Column, TableDef
from kalamdb.model.types import ColumnType, Kind
from kalamdb.query.system import Values
from kalamdb.session.permissions import may_read
from kalamdb.session.system_catalog import (
    default_text,
    definition_facts,
    key_position,
    names_of,
    stored_tables,
)
from kalamdb.sql.virtual import (
    CATALOG_NAME,
    PG_CATALOG,
    VIRTUAL_BY_ID,
    VIRTUAL_TABLES,
    VirtualTable,
)

_OWNER = "root"


def visible_tables(catalog: CatalogView, principal: Principal) -> Iterator[TableDef]:
    """Stored tables, then virtual ones, that `principal` may read."""
    for table in (*stored_tables(catalog), *VIRTUAL_TABLES.values()):
        if may_read(principal, table):
            yield table


def visible_stored(catalog: CatalogView, principal: Principal) -> Iterator[TableDef]:
    for table in stored_tables(catalog):
        if may_read(principal, table):
            yield table


def visible_views(catalog: CatalogView, principal: Principal) -> Iterator[ViewDef]:
    """Views all of whose tables `principal` may read."""
    for _, view in sorted(catalog.views.items()):
        if may_read_view(catalog, principal, view):
            yield view


def may_read_view(catalog: CatalogView, principal: Principal, view: ViewDef) -> bool:
    by_id = {each.id: each for each in catalog.views.values()}
    waiting, seen = [view], {view.id}
    while waiting:
        found = waiting.pop()
        for table_id in found.tables:
            table = catalog.tables_by_id.get(table_id) or VIRTUAL_BY_ID.get(table_id)
            if table is None or not may_read(principal, table):
                return False
        for view_id in found.views:
            inner = by_id.get(view_id)
            if inner is None:
                return False
            if view_id not in seen:
                seen.add(view_id)
                waiting.append(inner)
    return True


def visible_namespaces(catalog: CatalogView, principal: Principal) -> list[str]:
    found = {table.namespace for table in visible_tables(catalog, principal)}
    found.update(view.namespace for view in visible_views(catalog, principal))
    found.add(DEFAULT_NAMESPACE)
    if principal.role.at_least(Role.DBA):
        found.update(catalog.namespaces)
    return sorted(found)


def schemata(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for namespace in visible_namespaces(catalog, principal):
        yield (CATALOG_NAME, namespace, _OWNER, None, None, None, None)


def tables(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for table in visible_tables(catalog, principal):
        stored = not isinstance(table, VirtualTable)
        yield (
            CATALOG_NAME,
            table.namespace,
            table.name,
            "BASE TABLE" if stored else "VIEW",
            *(None,) * 5,
            "YES" if stored else "NO",
            "NO",
            None,
            table.namespace,
            *definition_facts(table),
        )

    for view in visible_views(catalog, principal):
        yield (
            CATALOG_NAME,
            view.namespace,
            view.name,
            "VIEW",
            *(None,) * 5,
            "NO",
            "NO",
            None,
            view.namespace,
            "view",
            None,
            view.version,
            None,
            None,
            None,
            view.created_ms * 1000,
        )


def views(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for view in visible_views(catalog, principal):
        place = (CATALOG_NAME, view.namespace, view.name)
        yield (*place, view.sql, "NONE", "NO", "NO", "NO", "NO", "NO")


# ---- columns ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Named:
    """A type in the words of the standard. `digits` are precision, radix and scale."""

    data_type: str
    udt_name: str
    digits: tuple[int, int, int | None] | None = None
    moment_precision: int | None = None


_NAMES: Mapping[Kind, _Named] = {
    Kind.BOOLEAN: _Named("boolean", "bool"),
    Kind.SMALLINT: _Named("smallint", "int2", (16, 2, 0)),
    Kind.INT: _Named("integer", "int4", (32, 2, 0)),
    Kind.BIGINT: _Named("bigint", "int8", (64, 2, 0)),
    Kind.FLOAT: _Named("real", "float4", (24, 2, None)),
    Kind.DOUBLE: _Named("double precision", "float8", (53, 2, None)),
    Kind.TEXT: _Named("text", "text"),
    Kind.FILE: _Named("text", "text"),
    Kind.BYTES: _Named("bytea", "bytea"),
    Kind.JSON: _Named("json", "json"),
    Kind.TIMESTAMP: _Named("timestamp without time zone", "timestamp", None, 6),
    Kind.DATETIME: _Named("timestamp with time zone", "timestamptz", None, 6),
    Kind.DATE: _Named("date", "date", None, 0),
    Kind.TIME: _Named("time without time zone", "time", None, 6),
    Kind.UUID: _Named("uuid", "uuid"),
    Kind.EMBEDDING: _Named("ARRAY", "_float4"),
}


def _named(column_type: ColumnType) -> _Named:
    if column_type.kind is Kind.DECIMAL:
        return _Named("numeric", "numeric", (column_type.precision, 10, column_type.scale))
    return _NAMES[column_type.kind]


def columns(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for table in visible_tables(catalog, principal):
        for position, column in enumerate(table.readable, 1):
            yield _column(table, column, position)


def _column(table: TableDef, column: Column, position: int) -> Values:
    named = _named(column.type)
    default = None if column.default is None else default_text(column.default)
    own = column.id > 0 and not isinstance(table, VirtualTable)
    key = key_position(table, column)
    none = (None,)
    return (
        CATALOG_NAME,
        table.namespace,
        table.name,
        column.name,
        position,
        default,
        "YES" if column.nullable and key is None else "NO",
        named.data_type,
        None,
        1 << 30 if named.data_type == "text" else None,
        *(named.digits or none * 3),
        named.moment_precision,
        *none * 11,  # intervals, character sets, collations, domains
        CATALOG_NAME,
        PG_CATALOG,
        named.udt_name,
        *none * 4,
        str(position),
        "NO",
        "NO",
        *none * 5,
        "NO",
        "NEVER" if own else "ALWAYS",
        None,
        "YES" if own else "NO",
        column.type.sql,
        table.namespace,
        table.version,
        column.id,
        None,
        default,
        key is not None,
        key,
    )


# ---- constraints --------------------------------------------------------------------------------

_Constraint = tuple[TableDef, str, str, tuple[int, ...]]
"""Table, name, kind, and its columns by id."""


def _keys(catalog: CatalogView, principal: Principal) -> Iterator[_Constraint]:
    for table in visible_stored(catalog, principal):
        if not table.has_hidden_key:
            yield table, f"{table.name}_pkey", "PRIMARY KEY", table.primary_key
        for unique in table.uniques:
            if not unique.by_index:
                yield table, unique.name, "UNIQUE", unique.columns


def _constraints(catalog: CatalogView, principal: Principal) -> Iterator[_Constraint]:
    yield from _keys(catalog, principal)
    for table in visible_stored(catalog, principal):
        for check in table.checks:
            yield table, check.name, "CHECK", ()


def table_constraints(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for table, name, kind, _ in _constraints(catalog, principal):
        place = (CATALOG_NAME, table.namespace)
        nulls = "YES" if kind == "UNIQUE" else None
        yield (*place, name, *place, table.name, kind, "NO", "NO", "YES", nulls)


def key_column_usage(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for table, name, _, column_ids in _keys(catalog, principal):
        place = (CATALOG_NAME, table.namespace)
        for position, column in enumerate(names_of(table, column_ids), 1):
            yield (*place, name, *place, table.name, column, position, None)


def constraint_column_usage(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for table, name, _, column_ids in _keys(catalog, principal):
        place = (CATALOG_NAME, table.namespace)
        for column in names_of(table, column_ids):
            yield (*place, table.name, column, *place, name)


def check_constraints(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    for table in visible_stored(catalog, principal):
        for check in table.checks:
            yield (CATALOG_NAME, table.namespace, check.name, check.sql)


def nothing(catalog: CatalogView, principal: Principal) -> Iterator[Values]:
    """There are no foreign keys."""
    yield from ()
