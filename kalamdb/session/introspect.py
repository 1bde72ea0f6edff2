"""SHOW and DESCRIBE: what the catalog says of itself, as row results.

Keeps: lists and counts leave out what their reader may not read, as `information_schema` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from kalamdb.lib.clock import Ids
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.principal import Principal
from kalamdb.model.table import Column, Default, DefaultKind, TableDef
from kalamdb.model.types import BIGINT, BOOLEAN, INT, TEXT, TIMESTAMP
from kalamdb.model.values import encoder
from kalamdb.session import answers
from kalamdb.session.information_schema import (
    visible_namespaces,
    visible_stored,
    visible_views,
)
from kalamdb.sql.bound import OutputColumn
from kalamdb.sql.statement import SubscribeTo, TableName


def result(output: Sequence[OutputColumn], rows: Sequence[Sequence[Any]], user: str) -> bytes:
    return answers.rows(answers.schema(output), orjson.dumps(rows), len(rows), user, "0")


def text_rows(column: str, lines: Sequence[str], user: str) -> bytes:
    """One text column, a row per line."""
    return result([OutputColumn(column, TEXT)], [[line] for line in lines], user)


def namespaces(catalog: CatalogView, principal: Principal) -> bytes:
    visible = visible_namespaces(catalog, principal)
    counts = Counter(table.namespace for table in visible_stored(catalog, principal))
    output = [
        OutputColumn("namespace_id", TEXT, ("pk", "nn", "uq")),
        OutputColumn("name", TEXT),
        OutputColumn("created_at", TIMESTAMP),
        OutputColumn("options", TEXT),
        OutputColumn("table_count", INT),
    ]
    rows = [
        [
            namespace.name,
            namespace.name,
            namespace.created_ms * 1000,
            orjson.dumps(dict(namespace.options)).decode() if namespace.options else None,
            counts[namespace.name],
        ]
        for namespace in sorted(catalog.namespaces.values(), key=lambda each: each.name)
        if namespace.name in visible
    ]
    return result(output, rows, principal.user)


def tables(catalog: CatalogView, namespace: str | None, principal: Principal) -> bytes:
    output = [
        OutputColumn("namespace_id", TEXT),
        OutputColumn("table_name", TEXT),
        OutputColumn("table_type", TEXT),
        OutputColumn("schema_version", INT),
        OutputColumn("options", TEXT),
        OutputColumn("created_at", TIMESTAMP),
    ]
    rows = [
        [
            table.namespace,
            table.name,
            table.kind.value,
            table.version,
            orjson.dumps(_options(table)).decode(),
            table.created_ms * 1000,
        ]
        for table in visible_stored(catalog, principal)
        if namespace is None or table.namespace == namespace
    ]
    rows += [
        [
            view.namespace,
            view.name,
            "view",
            view.version,
            orjson.dumps({"table_type": "VIEW", "columns": view.columns}).decode(),
            view.created_ms * 1000,
        ]
        for view in visible_views(catalog, principal)
        if namespace is None or view.namespace == namespace
    ]
    rows.sort(key=lambda row: (row[0], row[1]))
    return result(output, rows, principal.user)


def _options(table: TableDef) -> dict[str, Any]:
    """Options as JSON, tagged by the table's kind."""
    options = table.options
    shown: dict[str, Any] = {"table_type": table.kind.name}
    if options.ttl_s is not None:
        shown["ttl_seconds"] = options.ttl_s
        return shown
    shown["storage_id"] = options.storage_id
    if not table.is_tenant_scoped:
        shown["access_level"] = options.access_level.value
    return shown


_DESCRIBED = (
    OutputColumn("column_name", TEXT),
    OutputColumn("ordinal_position", INT),
    OutputColumn("column_id", BIGINT),
    OutputColumn("data_type", TEXT),
    OutputColumn("is_nullable", BOOLEAN),
    OutputColumn("is_primary_key", BOOLEAN),
    OutputColumn("column_default", TEXT),
    OutputColumn("column_comment", TEXT),
    OutputColumn("schema_version", INT),
)


def described(table: TableDef, user: str) -> bytes:
    rows = [
        _described(table, column, position) for position, column in enumerate(table.readable, 1)
    ]
    return result(_DESCRIBED, rows, user)


def described_view(view: ViewDef, columns: Sequence[OutputColumn], user: str) -> bytes:
    """`columns` as the view gives them now, under whatever names."""
    rows = [
        [name, position, str(position), column.type.sql, True, False, None, None, view.version]
        for position, (name, column) in enumerate(zip(view.columns, columns, strict=False), 1)
    ]
    return result(_DESCRIBED, rows, user)


def history(versions: Sequence[tuple[TableDef, int]], user: str) -> bytes:
    """The columns of each version, with when (Unix ms) it came into force."""
    rows = [
        [*_described(table, column, position), since_ms * 1000]
        for table, since_ms in versions
        for position, column in enumerate(table.readable, 1)
    ]
    return result((*_DESCRIBED, OutputColumn("changed_at", TIMESTAMP)), rows, user)


def created(name: str, text: str, user: str) -> bytes:
    output = (OutputColumn("name", TEXT), OutputColumn("create_statement", TEXT))
    return result(output, [[name, text]], user)


def _described(table: TableDef, column: Column, position: int) -> list[Any]:
    return [
        column.name,
        position,
        str(column.id),
        column.type.sql,
        column.nullable,
        column.id in table.primary_key,
        None if column.default is None else _shown(column.default, column),
        None,
        table.version,
    ]


def _shown(default: Default, column: Column) -> str:
    if default.kind is not DefaultKind.LITERAL:
        return f"{default.kind.value}()"
    encode = encoder(column.type)
    value = default.value if encode is None else encode(default.value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def subscription(statement: SubscribeTo, ids: Ids, user: str) -> bytes:
    """The descriptor of SUBSCRIBE TO: what to send over the WebSocket."""
    name = statement.select.tables[0] if statement.select.tables else TableName(None, "query")
    identity = f"sub-{name.namespace or 'default'}-{name.name}-{ids.uuid4().hex}"
    descriptor = {"id": identity, "sql": statement.query, "options": dict(statement.options)}
    output = [
        OutputColumn("status", TEXT),
        OutputColumn("ws_url", TEXT),
        OutputColumn("subscription", TEXT),
        OutputColumn("message", TEXT),
    ]
    row = [
        "active",
        "/v1/ws",
        orjson.dumps(descriptor).decode(),
        "open a WebSocket at ws_url and send this subscription",
    ]
    return result(output, [row], user)
