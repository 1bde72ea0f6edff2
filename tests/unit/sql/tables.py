"""Tables, rows and an engine for the tests of the SQL package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import datafusion
import pyarrow as pa

from kalamdb.lib.clock import SystemIds
from kalamdb.model.catalog import CatalogView, Namespace
from kalamdb.model.change import Row
from kalamdb.model.ids import TableId
from kalamdb.model.principal import Principal, Role
from kalamdb.model.table import DELETED_COLUMN, SEQ_COLUMN, TableDef
from kalamdb.model.types import ColumnType, Kind
from kalamdb.query.arithmetic import Arithmetic
from kalamdb.sql import analyze, ddl, parse
from kalamdb.sql.bound import Bound, Env, ScanSelect
from kalamdb.sql.statement import CreateTable, Delete, Insert, Select, Update

NOW_MS = 1_700_000_000_123
MESSAGES = """CREATE USER TABLE messages (
  id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), room TEXT NOT NULL,
  author TEXT DEFAULT CURRENT_USER, body TEXT,
  created TIMESTAMP DEFAULT NOW(), price DECIMAL(10,2), likes INT DEFAULT 0,
  UNIQUE (room, author), CHECK (likes >= 0))"""
PAIR = """CREATE SHARED TABLE pair (a INT, b TEXT, c TEXT, PRIMARY KEY (a, b))
  WITH (ACCESS_LEVEL = 'public')"""
LOGS = "CREATE TABLE logs (line TEXT)"
EVENTS = "CREATE STREAM TABLE events (kind TEXT, at TIMESTAMP) WITH (TTL_SECONDS = 60)"
KINDS = """CREATE USER TABLE kinds (
  id INT PRIMARY KEY, small SMALLINT, i INT, n BIGINT, f DOUBLE, r REAL,
  d DECIMAL(10,2), s TEXT, t TEXT, b BOOLEAN, ts TIMESTAMP, tz DATETIME,
  day DATE, tm TIME, u UUID,
  raw BYTES, j JSON, e EMBEDDING(2))"""
ALL = (MESSAGES, PAIR, LOGS, EVENTS, KINDS)


def define(sql: str, namespace: str = "chat") -> TableDef:
    (statement,) = parse.parse(sql)
    assert isinstance(statement, CreateTable)
    return ddl.table_definition(statement, namespace, NOW_MS)


def catalog(*definitions: str) -> CatalogView:
    tables = [
        replace(define(sql), id=TableId(number)) for number, sql in enumerate(definitions or ALL, 1)
    ]
    return CatalogView(
        7,
        {name: Namespace(name, 0) for name in ("chat", "default", "other")},
        {(table.namespace, table.name): table for table in tables},
        {table.id: table for table in tables},
        {},
        {},
        None,
    )


CATALOG = catalog()


def bind(sql: str, view: CatalogView = CATALOG, namespace: str = "chat") -> Bound:
    (statement,) = parse.parse(sql)
    assert isinstance(statement, (Select, Insert, Update, Delete))
    return analyze.bind(statement, view, namespace)


def env(*params: Any, user: str = "alice", role: Role = Role.USER) -> Env:
    return Env(Principal.of(user, role), NOW_MS, SystemIds(), list(params))


def table(name: str, view: CatalogView = CATALOG) -> TableDef:
    return view.table("chat", name)


# ---- the engine ----------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1)
_ARROW: dict[Kind, pa.DataType] = {
    Kind.BOOLEAN: pa.bool_(),
    Kind.SMALLINT: pa.int16(),
    Kind.INT: pa.int32(),
    Kind.BIGINT: pa.int64(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.TEXT: pa.utf8(),
    Kind.BYTES: pa.binary(),
    Kind.JSON: pa.utf8(),
    Kind.FILE: pa.utf8(),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.DATETIME: pa.timestamp("us", "UTC"),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.time64("us"),
    Kind.UUID: pa.utf8(),  # as query workers have them
}


def arrow_type(column: ColumnType) -> pa.DataType:
    if column.kind is Kind.DECIMAL:
        return pa.decimal128(column.precision, column.scale)
    if column.kind is Kind.EMBEDDING:
        return pa.list_(pa.float32(), column.size)
    return _ARROW[column.kind]


def arrow_value(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    match kind:
        case Kind.DECIMAL:
            return Decimal(value)
        case Kind.TIMESTAMP:
            return _EPOCH + timedelta(microseconds=value)
        case Kind.DATETIME:
            return _EPOCH.replace(tzinfo=UTC) + timedelta(microseconds=value)
        case Kind.DATE:
            return date(1970, 1, 1) + timedelta(days=value)
        case Kind.TIME:
            return (datetime.min + timedelta(microseconds=value)).time()
        case Kind.UUID:
            return str(UUID(bytes=value))
        case Kind.EMBEDDING:
            return None
        case _:
            return value


def rows_of(answer: pa.Table) -> list[list[Any]]:
    return [list(row) for row in zip(*(column.to_pylist() for column in answer), strict=True)]


def run(
    scan: ScanSelect, environment: Env, stored: Mapping[str, Sequence[tuple[Row, int]]]
) -> pa.Table:
    """What the engine answers over `stored` rows (table name → rows with their seqs)."""
    session = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    for source in scan.tables:
        rows = stored.get(source.table.name, ())
        arrays = []
        for column in source.columns:
            if column.name == SEQ_COLUMN:
                values: list[Any] = [seq for _, seq in rows]
            elif column.name == DELETED_COLUMN:
                values = [False for _ in rows]
            else:
                values = [arrow_value(row.get(column.id), column.type.kind) for row, _ in rows]
            arrays.append(pa.array(values, arrow_type(column.type)))
        schema = pa.schema([(column.name, arrow_type(column.type)) for column in source.columns])
        batch = pa.record_batch(arrays, schema=schema)
        session.register_record_batches(source.alias, [[batch]])
    text = scan.render(environment)
    return Arithmetic().start(
        session.register_udf, text, lambda text: session.sql(text).to_arrow_table(), ()
    )
