"""A definition as the statements that would make it: SHOW CREATE TABLE, SHOW CREATE VIEW.

Keeps: what comes out can be sent as it is, and makes a table of the same columns, constraints,
options and indexes; only ids, versions and what older rows read as are not in it.
"""

from __future__ import annotations

from typing import Any

from kalamdb.model.catalog import ViewDef
from kalamdb.model.table import Column, Default, DefaultKind, TableDef, TableKind, TableOptions
from kalamdb.model.types import Kind
from kalamdb.model.values import encoder
from kalamdb.sql.literals import quoted, text_literal

_PLAIN = TableOptions()


def create_table_text(table: TableDef) -> str:
    """CREATE TABLE, and after it a CREATE INDEX for each index, each ended by `;`."""
    names = {column.id: quoted(column.name) for column in table.columns}
    lines = [_column(column) for column in table.columns]
    if not table.has_hidden_key:
        lines.append(f"PRIMARY KEY ({_listed(names, table.primary_key)})")
    lines += [
        f"CONSTRAINT {quoted(unique.name)} UNIQUE ({_listed(names, unique.columns)})"
        for unique in table.uniques
        if not unique.by_index
    ]
    lines += [f"CONSTRAINT {quoted(check.name)} CHECK ({check.sql})" for check in table.checks]
    where = f"{quoted(table.namespace)}.{quoted(table.name)}"
    made = f"CREATE {table.kind.name} TABLE {where} (\n  " + ",\n  ".join(lines) + "\n)"
    options = _options(table)
    if options:
        made += " WITH (" + ", ".join(f"{key} = {value}" for key, value in options.items()) + ")"
    indexes = [
        f"CREATE {'UNIQUE ' if unique else ''}INDEX {quoted(index.name)} ON {where}"
        f" ({_listed(names, index.columns)})"
        for unique, found in (
            (True, [one for one in table.uniques if one.by_index]),
            (False, table.indexes),
        )
        for index in found
    ]
    return ";\n".join([made, *indexes]) + ";"


def create_view_text(view: ViewDef) -> str:
    columns = ", ".join(map(quoted, view.columns))
    where = f"{quoted(view.namespace)}.{quoted(view.name)}"
    return f"CREATE VIEW {where} ({columns}) AS {view.sql};"


def default_text(default: Default, column: Column) -> str:
    """As DEFAULT is written."""
    if default.kind is not DefaultKind.LITERAL:
        return f"{default.kind.value}()"
    value: Any = default.value
    match column.type.kind:
        case Kind.BOOLEAN:
            return "TRUE" if value else "FALSE"
        case Kind.SMALLINT | Kind.INT | Kind.BIGINT | Kind.FLOAT | Kind.DOUBLE | Kind.DECIMAL:
            return str(value)
        case Kind.BYTES:
            return text_literal("\\x" + value.hex())
        case _:
            encode = encoder(column.type)
            shown = value if encode is None else encode(value)
            return text_literal(shown) if isinstance(shown, str) else _moment(shown)


def _moment(shown: object) -> str:
    """Times are numbers, vectors lists of numbers."""
    if isinstance(shown, list):
        return "'[" + ",".join(str(part) for part in shown) + "]'"  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    return str(shown)


def _column(column: Column) -> str:
    parts = [quoted(column.name), column.type.sql]
    if not column.nullable:
        parts.append("NOT NULL")
    if column.default is not None:
        parts.append(f"DEFAULT {default_text(column.default, column)}")
    return " ".join(parts)


def _listed(names: dict[int, str], columns: tuple[int, ...]) -> str:
    return ", ".join(names[column] for column in columns)


def _options(table: TableDef) -> dict[str, str]:
    options = table.options
    found: dict[str, str] = {}
    if table.kind is TableKind.STREAM:
        found["TTL_SECONDS"] = str(options.ttl_s)
        return found
    if table.kind is TableKind.SHARED:
        found["ACCESS_LEVEL"] = text_literal(options.access_level.name)
    if options.storage_id != _PLAIN.storage_id:
        found["STORAGE_ID"] = text_literal(options.storage_id)
    if options.use_user_storage:
        found["USE_USER_STORAGE"] = "TRUE"
    policy = options.flush_policy
    if policy is not None:
        parts = [("rows", policy.rows), ("interval", policy.interval_s)]
        text = ",".join(f"{name}:{number}" for name, number in parts if number is not None)
        found["FLUSH_POLICY"] = text_literal(text)
    if options.compression != _PLAIN.compression:
        found["COMPRESSION"] = text_literal(options.compression)
    if options.history_full:
        found["HISTORY"] = text_literal("full")
    if options.history_retention_h is not None:
        found["HISTORY_RETENTION_HOURS"] = str(options.history_retention_h)
    return found
