"""What KalamDB does not have is refused by its name, and never left out in silence."""

from __future__ import annotations

import pytest

from kalamdb.errors import KalamError, Unsupported
from kalamdb.sql.parse import parse
from tests.unit.sql.tables import bind, define

STATEMENTS = {
    "BEGIN ISOLATION LEVEL SERIALIZABLE": "ISOLATION LEVEL SERIALIZABLE",
    "COMMIT AND CHAIN": "COMMIT AND CHAIN",
    "PREPARE TRANSACTION 'x'": "PREPARE TRANSACTION",
    "CREATE VECTOR INDEX i ON t (a)": "CREATE VECTOR INDEX",
    "ALTER INDEX i RENAME TO j": "ALTER INDEX",
    "CREATE TEMP TABLE t (a INT)": "CREATE TEMP",
    "CREATE STORAGE s TYPE 's3'": "CREATE STORAGE",
    "CREATE TOPIC a.b": "CREATE TOPIC",
    "CREATE SCHEMA s": "CREATE SCHEMA",
    "CREATE DATABASE s": "CREATE DATABASE",
    "CREATE POLICY p ON t": "CREATE POLICY",
    "CREATE TYPE p AS ENUM ('a')": "CREATE TYPE",
    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'": "CREATE EXTERNAL",
    "CREATE MATERIALIZED VIEW v AS SELECT 1": "CREATE MATERIALIZED",
    "CREATE OR REPLACE TABLE t (a INT)": "CREATE OR REPLACE TABLE",
    "CREATE VIEW IF NOT EXISTS v AS SELECT 1": "CREATE VIEW IF NOT EXISTS",
    "DROP VIEW v, w": "DROP VIEW of several views",
    "ALTER VIEW v RENAME TO w": "ALTER VIEW",
    "ALTER TABLE t OWNER TO ann": "ALTER TABLE … OWNER",
    "ALTER TABLE t ADD PRIMARY KEY (a)": "ADD PRIMARY KEY",
    "ALTER TABLE t ADD INDEX (a)": "ADD INDEX",
    "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES b (c)": "FOREIGN KEY",
    "ALTER TABLE t ALTER a TYPE INT USING a::int": "ALTER COLUMN … TYPE … USING",
    "ALTER TABLE t CHANGE a b INT": "ALTER TABLE … CHANGE",
    "ALTER TABLE t SET SCHEMA s": "moving a table to another namespace",
    "ALTER TABLE t RENAME TO s.u": "RENAME TO another namespace",
    "ALTER TABLE t DROP PRIMARY KEY": "DROP PRIMARY KEY",
    "ALTER NAMESPACE n RENAME TO m": "renaming a namespace",
    "TRUNCATE TABLE t": "TRUNCATE",
    "MERGE INTO t USING u ON true": "MERGE",
    "COPY t TO 'x'": "COPY",
    "STORAGE FLUSH TABLE a.b": "STORAGE FLUSH",
    "STORAGE COMPACT ALL": "STORAGE COMPACT",
    "STORAGE CHECK local": "STORAGE CHECK",
    "BACKUP DATABASE TO 'x'": "BACKUP DATABASE",
    "RESTORE DATABASE FROM 'x'": "RESTORE DATABASE",
    "EXPORT USER DATA": "EXPORT USER",
    "CONSUME FROM a.b": "CONSUME",
    "ACK a.b": "ACK",
    "CLUSTER PURGE --UPTO 7": "CLUSTER PURGE",
    "CLUSTER TRIGGER-ELECTION": "CLUSTER TRIGGER ELECTION",
    "KILL JOB 'x'": "KILL JOB",
    "GRANT ALL ON t TO u": "GRANT",
    "VACUUM": "VACUUM",
    "ANALYZE t": "ANALYZE",
    "EXPLAIN ANALYZE SELECT 1": "EXPLAIN ANALYZE",
    "SHOW STORAGES": "SHOW STORAGES",
    "DROP TABLE a, b": "DROP TABLE of several tables",
    "PREPARE p AS SELECT 1": "PREPARE",
    "EXECUTE p": "EXECUTE of prepared statements",
    "CREATE TABLE t AS SELECT 1": "CREATE TABLE AS",
}
QUERIES = {
    "SELECT * FROM t FOR UPDATE": "FOR UPDATE",
    "SELECT * FROM t TABLESAMPLE BERNOULLI (10)": "TABLESAMPLE",
    "SELECT a INTO b FROM t": "SELECT INTO",
    "SELECT a FROM t FETCH FIRST 3 ROWS ONLY": "FETCH FIRST",
    "SELECT * FROM f(1)": "table functions",
    "SELECT * FROM generate_series(1, 2)": "table functions",
    "SELECT * FROM unnest(a)": "UNNEST in FROM",
    "SELECT * FROM t, LATERAL (SELECT 1) q": "LATERAL",
    "WITH a AS (INSERT INTO t VALUES (1)) SELECT 1": "INSERT inside a query",
    "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a": "WITH before INSERT",
    "WITH a AS MATERIALIZED (SELECT 1) SELECT * FROM a": "AS [NOT] MATERIALIZED",
    "SELECT * FROM a.b.c": "the three-part name a.b.c",
    "SELECT ?": "the placeholder ?",
    "SELECT :x": "this placeholder",
    "SELECT a SIMILAR TO 'b' FROM t": "SIMILAR TO",
    'SELECT a FROM t ORDER BY a COLLATE "C"': "COLLATE",
    "SELECT a BETWEEN SYMMETRIC 3 AND 1 FROM t": "BETWEEN SYMMETRIC",
    "SELECT B'01'": "bit string literals",
    "SELECT U&'a'": "U&'…' literals",
}
WRITES = {
    "INSERT OVERWRITE t VALUES (1)": "INSERT OVERWRITE",
    "INSERT OR REPLACE INTO t VALUES (1)": "INSERT OR",
    "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 1": "ON DUPLICATE KEY",
    "INSERT INTO t (a) OVERRIDING SYSTEM VALUE VALUES (1)": "INSERT … OVERRIDING",
    "INSERT INTO t SELECT * FROM all_users.a.b": "all_users in a statement that writes",
    "UPDATE t SET a = 1 FROM u WHERE true": "UPDATE … FROM",
    "UPDATE t, u SET a = 1 WHERE true": "UPDATE of a join",
    "UPDATE t SET (a, b) = (1, 2) WHERE true": "SET (a, b) = (…)",
    "UPDATE t SET a = 1 WHERE true LIMIT 1": "LIMIT in a statement that writes",
    "DELETE FROM t USING u WHERE true": "DELETE … USING",
    "DELETE FROM t WHERE true ORDER BY a": "ORDER in a statement that writes",
}
DEFINITIONS = {
    "a INT REFERENCES b (c)": "REFERENCES in a column definition",
    "a INT, FOREIGN KEY (a) REFERENCES b (c)": "FOREIGN KEY",
    "a INT COLLATE x": "COLLATE in a column definition",
    "a INT GENERATED ALWAYS AS (1 + 1) STORED": "GENERATED … AS (expression)",
    "a INT[]": "array types",
    "a INT UNSIGNED": "UNSIGNED",
    "a INT(11)": "arguments of type INT",
    "a POINT": "type POINT",
    "a TIMESTAMP(9)": "TIMESTAMP(9)",
    "a INT, UNIQUE (a) DEFERRABLE": "DEFERRABLE after a constraint",
    "a INT CHECK (a > (SELECT 1))": "a subquery in CHECK",
    "a INT CHECK (a > $1)": None,
    "a TEXT CHECK (a = CURRENT_USER)": "parameters, time and user in CHECK",
    "a TEXT CHECK (a ~ 'x')": None,
    "a TEXT DEFAULT lower(b)": "DEFAULT b (a bare word)",
    "a TEXT DEFAULT word": "DEFAULT word (a bare word)",
    "a DOUBLE DEFAULT random()": None,
}


@pytest.mark.parametrize(("text", "construct"), {**STATEMENTS, **QUERIES, **WRITES}.items())
def test_statements_and_clauses(text: str, construct: str) -> None:
    with pytest.raises(Unsupported) as caught:
        parse(text)
    assert caught.value.construct == construct
    assert construct in str(caught.value)


@pytest.mark.parametrize(("body", "construct"), DEFINITIONS.items())
def test_definitions(body: str, construct: str | None) -> None:
    with pytest.raises(Unsupported) as caught:
        define(f"CREATE TABLE t ({body})")
    assert construct is None or caught.value.construct == construct


@pytest.mark.parametrize("tail", ["USING x", "PARTITION BY (a)", "ENGINE = x", "TABLESPACE x"])
def test_clauses_after_a_table(tail: str) -> None:
    with pytest.raises(Unsupported):
        parse(f"CREATE TABLE t (a INT) {tail}")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM t ONLY",
        "SELECT a FROM t CONNECT BY a",
        "SELECT a FROM t CLUSTER BY a",
        "SELECT a FROM t SORT BY a",
        "SELECT a FROM t UNION BY NAME SELECT 1",
        "SELECT * FROM t PIVOT (sum(a) FOR b IN (1))",
        "SELECT * FROM t FOR SYSTEM_TIME AS OF '2024-01-01'",
        "SELECT AS STRUCT 1",
        "SELECT TOP 3 a FROM t",
        "SELECT * FROM t ASOF JOIN u ON a = b",
        "SELECT * FROM t VERSION AS OF 3",
        "SELECT a FROM t LIMIT 5 BY a",
        "SELECT * FROM t LEFT JOIN LATERAL (SELECT 1) x ON true",
    ],
)
def test_other_dialects_are_not_read_halfway(text: str) -> None:
    with pytest.raises(KalamError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("INSERT INTO pair VALUES ((SELECT 1), 'x', 'y')", "a subquery in VALUES"),
        ("INSERT INTO pair VALUES (1, 'x', md5('y'))", None),
        ("INSERT INTO logs VALUES ('a') RETURNING line ~ 'x'", None),
        ("INSERT INTO logs VALUES ('a') RETURNING $1", None),
        ("INSERT INTO logs VALUES ('a') RETURNING now()", None),
        (
            "INSERT INTO pair VALUES (1, 'x', 'y') ON CONFLICT (a, b) DO UPDATE SET c = md5('y')",
            None,
        ),
        ("UPDATE pair SET c = 'x' WHERE a = 1 RETURNING upper(c) || $1", None),
    ],
)
def test_what_no_path_computes(text: str, construct: str | None) -> None:
    with pytest.raises(Unsupported) as caught:
        bind(text)
    assert construct is None or caught.value.construct == construct
