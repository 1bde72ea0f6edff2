"""ALTER TABLE: what comes of a definition, what it promises of older rows, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.errors import (
    AlreadyExists,
    InvalidDefinition,
    KalamError,
    StillNeeded,
    SyntaxInvalid,
    TypeMismatch,
    UnknownColumn,
    Unsupported,
)
from kalamdb.model.ids import TableId
from kalamdb.model.table import AccessLevel, DefaultKind, FlushPolicy, IndexState, TableDef
from kalamdb.model.types import BIGINT, Kind
from kalamdb.sql.alter import altered_table, unproven
from kalamdb.sql.constraint import checks
from kalamdb.sql.create_text import create_table_text
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import AlterTable
from tests.unit.sql.tables import NOW_MS, define

BASE = """CREATE USER TABLE m (id INT PRIMARY KEY, body TEXT, tag VARCHAR(5) UNIQUE,
    n INT NOT NULL DEFAULT 1, price DECIMAL(5,2),
    CONSTRAINT few CHECK (m.n < 10 AND body <> 'n'))"""


def made(sql: str = BASE) -> TableDef:
    return replace(define(sql), id=TableId(5))


def alter(changes: str, table: TableDef | None = None) -> TableDef:
    (statement,) = parse(f"ALTER TABLE chat.m {changes}")
    assert isinstance(statement, AlterTable)
    return altered_table(table or made(), statement.changes, NOW_MS)


def test_a_column_with_a_constant_is_what_older_rows_read() -> None:
    new = alter("ADD COLUMN stars SMALLINT NOT NULL DEFAULT 5, ADD at TIMESTAMP DEFAULT NOW()")
    stars, at = new.columns[-2:]
    assert (stars.id, stars.initial, stars.nullable) == (6, 5, False)
    assert (at.id, at.initial) == (7, NOW_MS * 1000)
    assert at.default is not None
    assert at.default.kind is DefaultKind.NOW
    assert (new.version, new.next_column_id) == (2, 8)
    assert new.complete({1: 1}) == {1: 1, 6: 5, 7: NOW_MS * 1000}
    assert new.complete({1: 1, 6: None}) == {1: 1, 6: None, 7: NOW_MS * 1000}
    proof = unproven(made(), new)
    assert (proof.columns, proof.checks, proof.indexes) == (frozenset(), frozenset(), ())


def test_a_change_that_changes_nothing_is_the_same_version() -> None:
    table = made()
    for changes in (
        "ALTER n SET NOT NULL",
        "ALTER n SET DEFAULT 1",
        "ALTER body DROP DEFAULT",
        "ALTER n TYPE INT",
        "ALTER tag TYPE VARCHAR(5)",
        "RENAME body TO body",
        "ADD COLUMN IF NOT EXISTS n TEXT",
        "DROP COLUMN IF EXISTS gone",
        "ADD UNIQUE (tag)",
        "ADD UNIQUE (id)",
        "SET (COMPRESSION = 'zstd')",
        "RESET (FLUSH_POLICY)",
        "RENAME TO m",
        "ALTER n DROP NOT NULL, ALTER n SET NOT NULL",
    ):
        assert alter(changes, table) is table, changes


def test_what_is_new_must_be_looked_for_in_older_rows() -> None:
    table = made()

    def proof(changes: str, old: TableDef = table) -> tuple[set[int], set[str], int]:
        found = unproven(old, alter(changes, old))
        return set(found.columns), set(found.checks), len(found.indexes)

    assert proof("ALTER body SET NOT NULL") == ({2}, set(), 0)
    assert proof("ADD c INT NOT NULL") == ({6}, set(), 0)
    assert proof("ADD CONSTRAINT pos CHECK (n > 0)") == (set(), {"pos"}, 0)
    assert proof("ADD c INT DEFAULT 3 CHECK (c > 2)") == (set(), set(), 0)
    assert proof("ADD c INT DEFAULT 1 CONSTRAINT big CHECK (c > 2)") == (set(), {"big"}, 0)
    assert proof("ADD c INT CHECK (c > 2)") == (set(), set(), 0)  # NULL is unknown
    assert proof("ADD c INT DEFAULT 1, ADD CONSTRAINT two CHECK (c < n)") == (set(), {"two"}, 0)
    assert proof("ADD UNIQUE (body, n)") == (set(), set(), 1)
    assert proof("ALTER tag TYPE VARCHAR(3)") == (set(), {"m_tag_length"}, 0)
    assert proof("ALTER tag TYPE TEXT") == (set(), set(), 0)
    assert proof("RENAME n TO number, RENAME TO mm") == (set(), set(), 0)
    assert proof("ALTER n DROP NOT NULL, DROP CONSTRAINT few") == (set(), set(), 0)
    # The same text over another column of the name is another promise.
    dropped = "DROP COLUMN n CASCADE, ADD COLUMN n INT DEFAULT 11"
    assert proof(f"{dropped}, ADD CONSTRAINT few CHECK (n < 10 AND body <> 'n')")[1] == {"few"}


def test_a_new_unique_is_built_before_it_is_ready() -> None:
    new = alter("ADD CONSTRAINT pair UNIQUE (body, n), ADD UNIQUE (n)")
    pair, plain = new.uniques[1:]
    assert (pair.id, pair.name, pair.state) == (2, "pair", IndexState.BUILDING)
    assert (plain.id, plain.name) == (3, "m_n_key")
    assert new.next_index_id == 4


def test_checks_follow_names() -> None:
    new = alter('RENAME COLUMN n TO number, RENAME TO other, RENAME body TO "Text"')
    assert [column.name for column in new.columns] == ["id", "text", "tag", "number", "price"]
    holds = dict(checks(new))
    assert holds["few"]({4: 9, 2: "x"}) is True
    assert holds["few"]({4: 10, 2: "x"}) is False
    assert holds["few"]({4: 1, 2: "n"}) is False
    again = alter("RENAME number TO n, RENAME text TO number", new)
    assert dict(checks(again))["few"]({4: 10, 2: "x"}) is False


def test_dropping_a_column_leaves_its_number_alone() -> None:
    new = alter("DROP COLUMN price, ADD COLUMN price INT")
    assert (new.by_name["price"].id, new.by_name["price"].type.kind) == (6, Kind.INT)
    tagless = alter("DROP COLUMN tag CASCADE")
    assert not tagless.uniques
    assert [check.name for check in tagless.checks] == ["few"]
    assert tagless.next_index_id == 2


def test_types_that_keep_every_stored_byte() -> None:
    new = alter(
        "ALTER id TYPE BIGINT, ALTER price SET DATA TYPE DECIMAL(9,2), MODIFY n BIGINT NULL"
    )
    assert new.by_name["id"].type == BIGINT
    assert (new.by_name["price"].type.precision, new.by_name["price"].type.scale) == (9, 2)
    assert new.by_name["n"].nullable
    longer = alter("ALTER tag TYPE VARCHAR(9)")
    assert dict(checks(longer))["m_tag_length"]({3: "x" * 9}) is True
    assert dict(checks(longer))["m_tag_length"]({3: "x" * 10}) is False
    assert len(longer.checks) == 2
    words = alter("ALTER body TYPE ENUM('a', 'b')")
    assert dict(checks(words))["m_body_values"]({2: "c"}) is False


def test_options() -> None:
    new = alter("SET TBLPROPERTIES (FLUSH_POLICY = 'rows:5', HISTORY = 'full')")
    assert new.options.flush_policy == FlushPolicy(rows=5)
    cleared = alter("SET (FLUSH_POLICY = NULL), RESET (HISTORY)", new)
    assert cleared.options == made().options
    shared = made("CREATE SHARED TABLE m (id INT PRIMARY KEY)")
    assert alter("SET ACCESS LEVEL PUBLIC", shared).options.access_level is AccessLevel.PUBLIC
    assert alter("SET ACCESS_LEVEL = 'dba'", shared).options.access_level is AccessLevel.DBA
    stream = made("CREATE STREAM TABLE m (id INT PRIMARY KEY) WITH (TTL_SECONDS = 5)")
    assert alter("SET (TTL_SECONDS = 9)", stream).options.ttl_s == 9


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ("ADD n INT", AlreadyExists),
        ("ADD _seq INT", InvalidDefinition),
        ("ADD COLUMN c INT PRIMARY KEY", Unsupported),
        ("ADD c SERIAL", Unsupported),
        ("ADD c BIGINT DEFAULT SNOWFLAKE_ID()", Unsupported),
        ("ADD c TEXT DEFAULT CURRENT_USER", Unsupported),
        ("ADD c INT DEFAULT 'x'", TypeMismatch),
        ("ADD c JSON UNIQUE", InvalidDefinition),
        ("ADD c INT FIRST", Unsupported),
        ("DROP COLUMN gone", UnknownColumn),
        ("DROP COLUMN id", InvalidDefinition),
        ("DROP COLUMN id CASCADE", InvalidDefinition),
        ("DROP COLUMN _seq", InvalidDefinition),
        ("DROP COLUMN n", StillNeeded),
        ("DROP COLUMN tag", StillNeeded),
        ("ALTER id DROP NOT NULL", InvalidDefinition),
        ("ALTER gone SET NOT NULL", UnknownColumn),
        ("ALTER n TYPE TEXT", Unsupported),
        ("ALTER n TYPE SMALLINT", Unsupported),
        ("ALTER price TYPE DECIMAL(9,3)", Unsupported),
        ("ALTER n TYPE SERIAL", Unsupported),
        ("ALTER n SET DEFAULT 'x'", TypeMismatch),
        ("RENAME n TO body", AlreadyExists),
        ("RENAME n TO _key", InvalidDefinition),
        ('RENAME n TO "select"', InvalidDefinition),
        ('RENAME TO "2"', InvalidDefinition),
        ("ADD CONSTRAINT few CHECK (n > 0)", AlreadyExists),
        ("ADD CONSTRAINT few UNIQUE (n)", AlreadyExists),
        ("ADD CHECK (gone > 0)", UnknownColumn),
        ("ADD CHECK (_seq > 0)", InvalidDefinition),
        ("DROP CONSTRAINT gone", InvalidDefinition),
        ("RENAME CONSTRAINT gone TO x", InvalidDefinition),
        ("RENAME CONSTRAINT few TO m_tag_key", AlreadyExists),
        ("SET (TYPE = 'SHARED')", Unsupported),
        ("SET (ACCESS_LEVEL = 'public')", InvalidDefinition),
        ("SET (GONE = 1)", InvalidDefinition),
        ("RESET (GONE)", InvalidDefinition),
        ("SET ACCESS LEVEL", SyntaxInvalid),
        ("ADD c INT,", SyntaxInvalid),
        ("", SyntaxInvalid),
        ("ALTER n SET", SyntaxInvalid),
    ],
)
def test_refused(changes: str, error: type[KalamError]) -> None:
    with pytest.raises(error):
        alter(changes)


def test_the_last_column_and_the_last_ttl_stay() -> None:
    with pytest.raises(InvalidDefinition):
        alter("DROP COLUMN a", made("CREATE USER TABLE m (a INT)"))
    stream = made("CREATE STREAM TABLE m (id INT PRIMARY KEY) WITH (TTL_SECONDS = 5)")
    with pytest.raises(InvalidDefinition):
        alter("SET (TTL_SECONDS = NULL)", stream)
    with pytest.raises(Unsupported):
        alter("ADD UNIQUE (id)", stream)


@pytest.mark.parametrize(
    "sql",
    [
        BASE,
        "CREATE SHARED TABLE m (a INT, b TEXT DEFAULT 'it''s') WITH (ACCESS_LEVEL = 'public')",
        "CREATE STREAM TABLE m (id TEXT PRIMARY KEY DEFAULT ULID()) WITH (TTL_SECONDS = 7)",
        """CREATE USER TABLE m (a INT, b UUID DEFAULT UUID_V7(), c BYTES DEFAULT '\\x00ff',
            d DATE DEFAULT '2024-02-29', e TIME DEFAULT '10:00', f TIMESTAMP DEFAULT '2024-01-01',
            g EMBEDDING(2) DEFAULT '[1, 2.5]', h BOOLEAN DEFAULT TRUE, i DOUBLE DEFAULT -1.5,
            j JSON DEFAULT '{"a": 1}', k DECIMAL(9,3) DEFAULT -2.5, l DATETIME DEFAULT NOW(),
            m BIGINT DEFAULT SNOWFLAKE_ID(), n TEXT DEFAULT CURRENT_USER, o ENUM('a', 'b'),
            u UUID DEFAULT '018f0000-0000-7000-8000-000000000001',
            PRIMARY KEY (a, b), UNIQUE (d, e))
            WITH (FLUSH_POLICY = 'rows:5,interval:9', COMPRESSION = 'none', HISTORY = 'full',
            HISTORY_RETENTION_HOURS = 5, USE_USER_STORAGE = TRUE)""",
    ],
)
def test_show_create_makes_the_same_table(sql: str) -> None:
    table = define(sql)
    text = create_table_text(table)
    assert define(text) == table, text
