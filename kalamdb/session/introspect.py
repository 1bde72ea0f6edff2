"""SHOW and DESCRIBE: what the catalog says of itself, as row results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from kalamdb.lib.clock import Ids
from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import Column, Default, DefaultKind, TableDef
from kalamdb.model.types import BIGINT, BOOLEAN, INT, TEXT, TIMESTAMP
from kalamdb.session import answers
from kalamdb.sql.bound import OutputColumn
from kalamdb.sql.statement import SubscribeTo, TableName


def _result(output: Sequence[OutputColumn], rows: Sequence[Sequence[Any]], user: str) -> bytes:
    return answers.rows(answers.schema(output), orjson.dumps(rows), len(rows), user, "0")


def text_rows(column: str, lines: Sequence[str], user: str) -> bytes:
    """One text column, a row per line."""
    return _result([OutputColumn(column, TEXT)], [[line] for line in lines], user)


def namespaces(catalog: CatalogView, user: str) -> bytes:
    counts: dict[str, int] = {}
    for namespace, _ in catalog.tables:
        counts[namespace] = counts.get(namespace, 0) + 1
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
            counts.get(namespace.name, 0),
        ]
        for namespace in sorted(catalog.namespaces.values(), key=lambda each: each.name)
    ]
    return _result(output, rows, user)


def tables(catalog: CatalogView, namespace: str | None, user: str) -> bytes:
    output = [
        OutputColumn("namespace_id", TEXT),
        OutputColumn("table_name", TEXT),
        OutputColumn("table_type", TEXT),
        OutputColumn("schema_version", INT),
        OutputColumn("options", TEXT),
        OutputColumn("created_at", TIMESTAMP),
    ]
    found = sorted(catalog.tables.items())
    rows = [
        [
            table.namespace,
            table.name,
            table.kind.value,
            table.version,
            orjson.dumps(_options(table)).decode(),
            table.created_ms * 1000,
        ]
        for (inside, _), table in found
        if namespace is None or inside == namespace
    ]
    return _result(output, rows, user)


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


def describe(catalog: CatalogView, name: TableName, namespace: str, user: str) -> bytes:
    table = catalog.table(name.namespace or namespace, name.name)
    output = [
        OutputColumn("column_name", TEXT),
        OutputColumn("ordinal_position", INT),
        OutputColumn("column_id", BIGINT),
        OutputColumn("data_type", TEXT),
        OutputColumn("is_nullable", BOOLEAN),
        OutputColumn("is_primary_key", BOOLEAN),
        OutputColumn("column_default", TEXT),
        OutputColumn("column_comment", TEXT),
        OutputColumn("schema_version", INT),
    ]
    rows = [
        _described(table, column, position) for position, column in enumerate(table.readable, 1)
    ]
    return _result(output, rows, user)


def _described(table: TableDef, column: Column, position: int) -> list[Any]:
    return [
        column.name,
        position,
        str(column.id),
        column.type.sql,
        column.nullable,
        column.id in table.primary_key,
        None if column.default is None else _default(column.default),
        None,
        table.version,
    ]


def _default(default: Default) -> str:
    if default.kind is DefaultKind.LITERAL:
        return str(default.value)
    return f"{default.kind.value}()"


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
    return _result(output, [row], user)
