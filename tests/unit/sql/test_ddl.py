"""CREATE TABLE: what a definition means, and which definitions make no sense."""

from __future__ import annotations

import pytest

from kalamdb.errors import (
    InvalidDefinition,
    KalamError,
    SyntaxInvalid,
    TypeMismatch,
    UnknownColumn,
    Unsupported,
    ValueOutOfRange,
)
from kalamdb.model.table import (
    ROW_ID_COLUMN_ID,
    AccessLevel,
    Default,
    DefaultKind,
    FlushPolicy,
    TableKind,
    Unique,
)
from kalamdb.model.types import Kind
from kalamdb.sql.constraint import checks
from tests.unit.sql.tables import NOW_MS, define


def test_a_plain_table_is_shared_and_private() -> None:
    table = define("CREATE TABLE t (a INT PRIMARY KEY, B TEXT)")
    assert table.kind is TableKind.SHARED
    assert table.options.access_level is AccessLevel.PRIVATE
    assert (table.namespace, table.name, table.id) == ("chat", "t", 0)
    assert [column.name for column in table.columns] == ["a", "b"]
    assert [column.id for column in table.columns] == [1, 2]
    assert table.primary_key == (1,)
    assert not table.columns[0].nullable
    assert table.columns[1].nullable
    assert (table.next_column_id, table.created_ms) == (3, NOW_MS)


def test_a_namespace_can_be_named() -> None:
    assert define("CREATE TABLE other.t (a INT)").namespace == "other"


def test_without_a_primary_key_the_row_id_is_hidden() -> None:
    table = define("CREATE USER TABLE t (a INT)")
    assert table.primary_key == (ROW_ID_COLUMN_ID,)
    assert table.has_hidden_key
    assert [column.name for column in table.readable] == ["a", "_seq", "_deleted"]


def test_keys_of_several_columns_and_unique_constraints() -> None:
    table = define(
        "CREATE TABLE t (a INT, b TEXT, c UUID UNIQUE, d DATE, "
        "CONSTRAINT pk PRIMARY KEY (b, a), CONSTRAINT once UNIQUE (c, d), UNIQUE (c))"
    )
    assert table.primary_key == (2, 1)
    assert table.uniques == (Unique(1, (3,), "t_c_key"), Unique(2, (3, 4), "once"))
    assert table.next_index_id == 3


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        (f"{word}", kind)
        for words, kind in [
            ("BOOLEAN BOOL", Kind.BOOLEAN),
            ("SMALLINT INT2", Kind.SMALLINT),
            ("INT INTEGER INT4 MEDIUMINT SIGNED", Kind.INT),
            ("BIGINT INT8 INT64 SERIAL BIGSERIAL SERIAL4 SERIAL8 SMALLSERIAL SERIAL2", Kind.BIGINT),
            ("FLOAT REAL FLOAT4 FLOAT(24)", Kind.FLOAT),
            ("DOUBLE FLOAT8 FLOAT64 FLOAT(53)", Kind.DOUBLE),
            ("DECIMAL NUMERIC DECIMAL(10,2) NUMERIC(5)", Kind.DECIMAL),
            (
                "TEXT CHAR VARCHAR VARCHAR(5) NVARCHAR CLOB STRING LONGTEXT ENUM ENUM('a')",
                Kind.TEXT,
            ),
            ("BYTES BINARY VARBINARY BLOB BYTEA", Kind.BYTES),
            ("JSON JSONB", Kind.JSON),
            ("TIMESTAMP TIMESTAMP(3)", Kind.TIMESTAMP),
            ("DATETIME TIMESTAMPTZ", Kind.DATETIME),
            ("DATE", Kind.DATE),
            ("TIME TIME(6)", Kind.TIME),
            ("UUID", Kind.UUID),
            ("EMBEDDING(3)", Kind.EMBEDDING),
            ("FILE", Kind.FILE),
        ]
        for word in words.split()
    ],
)
def test_every_type_name(sql: str, kind: Kind) -> None:
    assert define(f"CREATE TABLE t (a {sql})").columns[0].type.kind is kind


def test_types_of_two_words_and_arguments() -> None:
    table = define(
        "CREATE TABLE t (a DOUBLE PRECISION, b CHARACTER VARYING(3), c TIMESTAMP WITH TIME ZONE, "
        "d TIMESTAMP WITHOUT TIME ZONE, e DECIMAL, f DECIMAL(7), g DECIMAL(7,3), h EMBEDDING(384))"
    )
    kinds = [column.type.kind for column in table.columns]
    assert kinds[:4] == [Kind.DOUBLE, Kind.TEXT, Kind.DATETIME, Kind.TIMESTAMP]
    scales = [(column.type.precision, column.type.scale) for column in table.columns[4:7]]
    assert scales == [(38, 10), (7, 0), (7, 3)]
    assert table.columns[7].type.size == 384


def test_defaults_are_stored_values_of_their_columns() -> None:
    table = define(
        """CREATE TABLE t (a BIGINT DEFAULT SNOWFLAKE_ID(), b TEXT DEFAULT 'x', c INT DEFAULT -5,
        d DECIMAL(5,2) DEFAULT 1.5, e BOOLEAN DEFAULT true, f TIMESTAMP DEFAULT NOW(),
        g TIMESTAMP DEFAULT '1970-01-01 00:00:01', h TEXT DEFAULT CURRENT_USER(),
        i UUID DEFAULT UUID_V7(), j TEXT DEFAULT ULID(), k INT DEFAULT 2 + 3 * 4,
        l TEXT DEFAULT 'a' || 'b' NOT NULL, m INT DEFAULT NULL, n DATE DEFAULT DATE '1970-01-02',
        o TIMESTAMP DEFAULT CURRENT_TIMESTAMP, p JSON DEFAULT '{}',
        q EMBEDDING(2) DEFAULT '[1,2]')"""
    )
    found = [column.default for column in table.columns]
    literal = DefaultKind.LITERAL
    assert found == [
        Default(DefaultKind.SNOWFLAKE_ID),
        Default(literal, "x"),
        Default(literal, -5),
        Default(literal, "1.50"),
        Default(literal, True),
        Default(DefaultKind.NOW),
        Default(literal, 1_000_000),
        Default(DefaultKind.CURRENT_USER),
        Default(DefaultKind.UUID_V7),
        Default(DefaultKind.ULID),
        Default(literal, 14),
        Default(literal, "ab"),
        None,
        Default(literal, 1),
        Default(DefaultKind.NOW),
        Default(literal, "{}"),
        Default(literal, b"\x00\x00\x80?\x00\x00\x00@"),
    ]
    assert not table.by_name["l"].nullable


def test_numbered_columns_draw_from_the_row_counter() -> None:
    table = define(
        "CREATE TABLE t (a SERIAL PRIMARY KEY, b BIGINT AUTO_INCREMENT, "
        "c BIGINT GENERATED BY DEFAULT AS IDENTITY)"
    )
    assert {column.default for column in table.columns} == {Default(DefaultKind.SNOWFLAKE_ID)}
    assert {column.type.kind for column in table.columns} == {Kind.BIGINT}


def test_options() -> None:
    table = define(
        "CREATE SHARED TABLE t (a INT) WITH (TYPE = 'shared', ACCESS_LEVEL = restricted, "
        "FLUSH_POLICY = 'rows:1000,interval:60', STORAGE_ID = 'local', COMPRESSION = 'snappy', "
        "HISTORY_RETENTION_HOURS = 48)"
    )
    assert table.options.access_level is AccessLevel.RESTRICTED
    assert table.options.flush_policy == FlushPolicy(1000, 60)
    assert table.options.compression == "snappy"
    assert table.options.history_retention_h == 48
    assert define("CREATE STREAM TABLE t (a INT) WITH (ttl_seconds = 9)").options.ttl_s == 9
    assert define("CREATE TABLE t (a INT) WITH (TYPE = USER)").kind is TableKind.USER


def test_checks_are_functions_of_a_row() -> None:
    table = define(
        "CREATE TABLE t (a INT CHECK (a > 0), b VARCHAR(3), c ENUM('x','y'), "
        "CONSTRAINT sane CHECK (a < 100 OR b IS NULL))"
    )
    found = dict(checks(table))
    assert set(found) == {"t_b_length", "t_c_values", "t_check_3", "sane"}
    assert found["t_check_3"]({1: 1}) is True
    assert found["t_check_3"]({1: 0}) is False
    assert found["t_check_3"]({}) is None
    assert found["t_b_length"]({2: "abc"}) is True
    assert found["t_b_length"]({2: "abcd"}) is False
    assert found["t_c_values"]({3: "z"}) is False
    assert found["sane"]({1: 200}) is True
    assert found["sane"]({1: 200, 2: "q"}) is False
    assert checks(table) is checks(table)


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("CREATE TABLE t ()", SyntaxInvalid),
        ("CREATE TABLE t (UNIQUE (a))", InvalidDefinition),
        ("CREATE TABLE t (a INT, A TEXT)", InvalidDefinition),
        ("CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)", InvalidDefinition),
        ("CREATE TABLE t (a INT, PRIMARY KEY (a, a))", InvalidDefinition),
        ("CREATE TABLE t (a INT, PRIMARY KEY (b))", InvalidDefinition),
        ("CREATE TABLE t (a JSON PRIMARY KEY)", InvalidDefinition),
        ("CREATE TABLE t (a EMBEDDING(2) UNIQUE)", InvalidDefinition),
        ("CREATE TABLE t (a INT NULL PRIMARY KEY)", InvalidDefinition),
        ("CREATE TABLE t (a INT NULL NOT NULL)", InvalidDefinition),
        ("CREATE TABLE t (a INT DEFAULT 1 DEFAULT 2)", InvalidDefinition),
        ("CREATE TABLE t (a INT, UNIQUE (z))", InvalidDefinition),
        ("CREATE TABLE t (_seq INT)", InvalidDefinition),
        ("CREATE TABLE t (_x INT)", InvalidDefinition),
        ('CREATE TABLE t ("a b" INT)', InvalidDefinition),
        ('CREATE TABLE t ("1a" INT)', InvalidDefinition),
        ('CREATE TABLE t ("select" INT)', InvalidDefinition),
        (f"CREATE TABLE t ({'a' * 65} INT)", InvalidDefinition),
        ('CREATE TABLE "é" (a INT)', InvalidDefinition),
        ("CREATE TABLE system.t (a INT)", InvalidDefinition),
        ("CREATE TABLE pg_catalog.t (a INT)", InvalidDefinition),
        ("CREATE TABLE all_users.x.t (a INT)", InvalidDefinition),
        ("CREATE TABLE t (a DECIMAL(39,0))", InvalidDefinition),
        ("CREATE TABLE t (a DECIMAL(3,4))", InvalidDefinition),
        ("CREATE TABLE t (a EMBEDDING)", InvalidDefinition),
        ("CREATE TABLE t (a EMBEDDING(9000))", InvalidDefinition),
        ("CREATE TABLE t (a ENUM('x','x'))", InvalidDefinition),
        ("CREATE TABLE t (a INT AUTO_INCREMENT)", InvalidDefinition),
        ("CREATE TABLE t (a BIGSERIAL DEFAULT 5)", InvalidDefinition),
        ("CREATE TABLE t (a INT DEFAULT 'x')", TypeMismatch),
        ("CREATE TABLE t (a SMALLINT DEFAULT 70000)", ValueOutOfRange),
        ("CREATE TABLE t (a INT DEFAULT SNOWFLAKE_ID())", TypeMismatch),
        ("CREATE TABLE t (a INT DEFAULT NOW())", TypeMismatch),
        ("CREATE TABLE t (a INT DEFAULT CURRENT_USER)", TypeMismatch),
        ("CREATE TABLE t (a UUID DEFAULT ULID())", TypeMismatch),
        ("CREATE TABLE t (a EMBEDDING(2) DEFAULT '[1]')", TypeMismatch),
        ("CREATE TABLE t (a INT CHECK (z > 1))", UnknownColumn),
        ("CREATE TABLE t (a INT CHECK (_seq > 1))", InvalidDefinition),
        ("CREATE TABLE t (a DATE CHECK (a > 'x'))", TypeMismatch),
        ("CREATE TABLE t (a INT CHECK (a))", Unsupported),
        ("CREATE TABLE t (a INT, CONSTRAINT c CHECK (a > 0), CONSTRAINT c CHECK (a > 1))",
         InvalidDefinition),
        ("CREATE USER TABLE t (a INT) WITH (TYPE = 'SHARED')", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (TYPE = 'x')", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (NOPE = 1)", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (COMPRESSION = 'x')", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (COMPRESSION = 'zstd', compression = 'zstd')",
         InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (TTL_SECONDS = 5)", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (STORAGE_ID = 's3')", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (FLUSH_POLICY = 'rows:0')", InvalidDefinition),
        ("CREATE TABLE t (a INT) WITH (FLUSH_POLICY = 'often')", InvalidDefinition),
        ("CREATE USER TABLE t (a INT) WITH (ACCESS_LEVEL = 'public')", InvalidDefinition),
        ("CREATE STREAM TABLE t (a INT)", InvalidDefinition),
        ("CREATE STREAM TABLE t (a INT) WITH (TTL_SECONDS = 0)", InvalidDefinition),
        ("CREATE STREAM TABLE t (a INT) WITH (TTL_SECONDS = 'x')", InvalidDefinition),
        ("CREATE STREAM TABLE t (a INT UNIQUE) WITH (TTL_SECONDS = 5)", Unsupported),
        ("CREATE TABLE t (a INT) WITH (DELETED_RETENTION_HOURS = 5)", Unsupported),
    ],
)  # fmt: skip
def test_definitions_that_make_no_sense(sql: str, error: type[KalamError]) -> None:
    with pytest.raises(error):
        define(sql)


def test_a_table_has_a_number_of_columns() -> None:
    columns = ", ".join(f"c{number} INT" for number in range(1001))
    with pytest.raises(InvalidDefinition):
        define(f"CREATE TABLE t ({columns})")
