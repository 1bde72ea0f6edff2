"""Texts become statements; what is wrong with a text is said with its place."""

from __future__ import annotations

import pytest

from kalamdb.errors import (
    BatchInvalid,
    EmptySql,
    InvalidStatement,
    KalamError,
    LimitReached,
    SyntaxInvalid,
    TextTooLong,
)
from kalamdb.model.principal import Role
from kalamdb.sql import statement as s
from kalamdb.sql.dialect import CHAIN_MAX, DEPTH_MAX
from kalamdb.sql.parse import STATEMENTS_MAX, TEXT_MAX_BYTES, StatementCache, parse
from kalamdb.sql.syntax import Constant, DefaultWord, InsertSyntax, Param


def one(text: str) -> s.Statement:
    (statement,) = parse(text)
    return statement


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE NAMESPACE Chat", s.CreateNamespace("chat", False)),
        ("create namespace if not exists chat;", s.CreateNamespace("chat", True)),
        ("DROP NAMESPACE chat", s.DropNamespace("chat", False, False)),
        ("DROP NAMESPACE IF EXISTS chat CASCADE", s.DropNamespace("chat", True, True)),
        ("USE chat", s.UseNamespace("chat")),
        ("USE NAMESPACE chat", s.UseNamespace("chat")),
        ("SET NAMESPACE chat", s.UseNamespace("chat")),
        ("SET search_path TO chat", s.UseNamespace("chat")),
        ("SET search_path = 'chat'", s.UseNamespace("chat")),
        ("SET consistency = 'stale'", s.SetOption("consistency", "stale")),
        ("SET consistency TO strong", s.SetOption("consistency", "strong")),
        ("SHOW NAMESPACES", s.ShowNamespaces()),
        ("SHOW TABLES", s.ShowTables(None)),
        ("SHOW TABLES IN chat", s.ShowTables("chat")),
        ("SHOW TABLES IN NAMESPACE chat", s.ShowTables("chat")),
        ("DESCRIBE TABLE chat.t", s.DescribeTable(s.TableName("chat", "t"))),
        ("DESC t", s.DescribeTable(s.TableName(None, "t"))),
        ("DROP TABLE t", s.DropTable(s.TableName(None, "t"), False)),
        ("DROP USER TABLE IF EXISTS chat.t", s.DropTable(s.TableName("chat", "t"), True)),
        (
            "CREATE USER Bob WITH PASSWORD 'x''y' ROLE developer EMAIL 'b@x'",
            s.CreateUser("Bob", "x'y", Role.SERVICE, "b@x"),
        ),
        ("CREATE USER 'bob' WITH INTERNAL ROLE dba", s.CreateUser("bob", None, Role.DBA, None)),
        ("ALTER USER bob SET PASSWORD 'p'", s.AlterUser("bob", password="p")),
        ("ALTER USER bob SET ROLE viewer", s.AlterUser("bob", role=Role.USER)),
        ("ALTER USER bob SET EMAIL 'e'", s.AlterUser("bob", email="e")),
        ("DROP USER IF EXISTS 'bob'", s.DropUser("bob", True)),
    ],
)
def test_statements_of_its_own(text: str, expected: s.Statement) -> None:
    assert one(text) == expected


def test_execute_as_takes_the_word_user_or_not() -> None:
    for text in ("EXECUTE AS 'Bob' (SELECT 1)", "EXECUTE AS USER 'Bob' ( SELECT 1 )"):
        found = one(text)
        assert isinstance(found, s.ExecuteAs)
        assert found.user == "Bob"
        assert isinstance(found.inner, s.Select)


@pytest.mark.parametrize(
    "text",
    [
        "EXECUTE AS 'b' (SELECT 1) x",
        "EXECUTE AS 'b' (SELECT 1; SELECT 2)",
        "EXECUTE AS 'b' SELECT 1",
        "EXECUTE AS 'b' ()",
        "EXECUTE AS '' (SELECT 1)",
    ],
)
def test_execute_as_holds_exactly_one_statement(text: str) -> None:
    with pytest.raises(SyntaxInvalid):
        parse(text)


def test_execute_as_does_not_nest() -> None:
    with pytest.raises(InvalidStatement):
        parse("EXECUTE AS 'a' (EXECUTE AS 'b' (SELECT 1))")


def test_explain_holds_a_data_statement() -> None:
    found = one("EXPLAIN DELETE FROM t WHERE true")
    assert isinstance(found, s.Explain)
    assert isinstance(found.inner, s.Delete)
    with pytest.raises(InvalidStatement):
        parse("EXPLAIN SHOW TABLES")


def test_a_select_knows_its_stored_tables_and_not_its_ctes() -> None:
    found = one(
        "WITH m AS (SELECT * FROM chat.m), n AS (SELECT * FROM m JOIN all_users.chat.k ON true) "
        'SELECT * FROM n, (SELECT * FROM "Deep") d WHERE x IN (SELECT y FROM sub)'
    )
    assert isinstance(found, s.Select)
    assert set(found.tables) == {
        s.TableName("chat", "m"),
        s.TableName("chat", "k", all_users=True),
        s.TableName(None, "deep"),
        s.TableName(None, "sub"),
    }


def test_a_cte_sees_itself_only_when_recursive() -> None:
    plain = one("WITH t AS (SELECT * FROM t) SELECT * FROM t")
    recursive = one("WITH RECURSIVE t AS (SELECT 1 UNION SELECT * FROM t) SELECT * FROM t")
    assert isinstance(plain, s.Select)
    assert isinstance(recursive, s.Select)
    assert plain.tables == (s.TableName(None, "t"),)
    assert recursive.tables == ()


def test_subscribe_to_a_table_is_a_select() -> None:
    found = one("SUBSCRIBE TO chat.m WHERE id > 1 OPTIONS (last_rows = 5, from = '77')")
    assert isinstance(found, s.SubscribeTo)
    assert found.query == "SELECT * FROM chat.m WHERE id > 1"
    assert dict(found.options) == {"last_rows": 5, "from": 77}
    assert found.select.tables == (s.TableName("chat", "m"),)
    again = one("SUBSCRIBE TO SELECT a FROM chat.m")
    assert isinstance(again, s.SubscribeTo)
    assert again.query == "SELECT a FROM chat.m"


def test_values_become_constants_parameters_and_defaults() -> None:
    found = one("INSERT INTO t (a, b, c, d, e) VALUES ($1, -2, 'it''s', DEFAULT, NULL)")
    assert isinstance(found, s.Insert)
    syntax: InsertSyntax = found.tree
    assert syntax.rows == (
        (Param(0), Constant(-2), Constant("it's"), DefaultWord(), Constant(None)),
    )
    assert syntax.parameters == 1


def test_a_text_holds_many_statements() -> None:
    found = parse("-- first\nSELECT 1; /* ; */ INSERT INTO t VALUES (';');; USE x;")
    assert [type(each).__name__ for each in found] == ["Select", "Insert", "UseNamespace"]


def test_the_failing_statement_of_a_batch_is_numbered() -> None:
    with pytest.raises(KalamError) as caught:
        parse("SELECT 1; SELEC 2")
    assert caught.value.__dict__["statement"] == 2


@pytest.mark.parametrize("text", ["", "  ", ";;", "-- only a comment"])
def test_no_statement(text: str) -> None:
    with pytest.raises(EmptySql):
        parse(text)


@pytest.mark.parametrize("text", ["SELECT 'open", 'SELECT "open', "SELECT 1 /* open"])
def test_open_quotes(text: str) -> None:
    with pytest.raises(BatchInvalid):
        parse(text)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("SELEC 1", 1, 1),
        ("SELECT 1,\n  FROM t WHERE x ==== 2", 2, None),
        ("USE chat more", 1, 10),
        ("CREATE NAMESPACE 5", 1, 18),
        ("INSERT INTO t\n(a) VALUE (1)", 2, 5),
        ("SELECT a b c FROM t", 1, 12),
        ("UPDATE t SET a 5 WHERE true", 1, 16),
        ("SELECT $x", 1, 8),
        ("SELECT $0", 1, 8),
        ("SELECT $ 1", 1, 8),
        ("SELECT \x00", 1, 8),
        ("SELECT '\ud800'", 1, 9),
        ("CREATE TABLE t (a INT,)", 1, 23),
        ("CREATE TABLE t (a INT) WITH (TTL_SECONDS = x.y)", 1, None),
    ],
)
def test_a_syntax_error_says_where(text: str, line: int, column: int | None) -> None:
    with pytest.raises(SyntaxInvalid) as caught:
        parse(text)
    assert caught.value.line == line
    assert column is None or caught.value.column == column


# ---- limits --------------------------------------------------------------------------------------


def test_a_text_has_a_size() -> None:
    with pytest.raises(TextTooLong):
        parse("SELECT '" + "é" * (TEXT_MAX_BYTES // 2) + "'")


def test_a_text_has_a_number_of_statements() -> None:
    with pytest.raises(LimitReached):
        parse("SELECT 1;" * (STATEMENTS_MAX + 1))


def test_a_query_has_a_number_of_tokens() -> None:
    with pytest.raises(LimitReached):
        parse("SELECT " + "1+" * 20_000 + "1")


DEEP = 10_000


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "(" * DEEP + "1" + ")" * DEEP,
        "SELECT " + "(" * DEEP,
        "SELECT " + "NOT " * DEEP + "true",
        "SELECT " + "- " * DEEP + "1",
        "SELECT " + "CASE WHEN " * DEEP + "1",
        "SELECT " + "[" * DEEP,
        "SELECT " + "f(" * DEEP,
        "SELECT " + "INTERVAL " * DEEP + "'1'",
        "SELECT * FROM " + "(SELECT * FROM " * DEEP + "t",
        "SELECT * " + "FROM " * DEEP + "t",
        "SELECT CAST(a AS " + "ARRAY<" * DEEP,
        "SELECT * FROM a" + " JOIN b" * 1000,
        "SELECT a" + "[1]" * 5000,
        "DELETE FROM t WHERE " + "(" * DEEP,
        "INSERT INTO t VALUES (" + "(" * DEEP,
        "CREATE TABLE t (a INT CHECK (" + "(" * DEEP,
        "EXECUTE AS 'a' (" * DEEP,
        "EXPLAIN " * DEEP,
        "SELECT a" + " -> b" * 5000,
        "SELECT x" + " BETWEEN 1 AND x" * 3000,
        "SELECT " + "a AND (" * 200 + "a" + ")" * 200,
    ],
    ids=lambda text: text[:24],
)
def test_deep_nesting_is_an_error_and_quick(text: str) -> None:
    with pytest.raises(KalamError):
        parse(text)


def test_the_depth_is_exact() -> None:
    assert parse("SELECT " + "(" * (DEPTH_MAX - 10) + "1" + ")" * (DEPTH_MAX - 10))
    for text in ("(" * (DEPTH_MAX + 1), "NOT " * CHAIN_MAX, "CASE " * (DEPTH_MAX + 1)):
        with pytest.raises(SyntaxInvalid) as caught:
            parse("SELECT " + text)
        assert "deeply" in caught.value.detail


def test_long_chains_are_no_nesting() -> None:
    (found,) = parse("SELECT * FROM t WHERE " + " OR ".join(f"a = {n}" for n in range(3000)))
    assert isinstance(found, s.Select)


# ---- the cache -----------------------------------------------------------------------------------


def test_a_repeated_text_is_read_once() -> None:
    assert parse("SELECT 12345 AS cached") is parse("SELECT 12345 AS cached")


def test_the_cache_is_bounded_by_count_and_by_characters() -> None:
    statements = (s.ShowNamespaces(),)
    cache = StatementCache(entries_max=3, text_max=10, total_max=20)
    cache.put("x" * 11, statements)
    assert len(cache) == 0
    for text in ("a", "b", "c"):
        cache.put(text, statements)
    assert cache.get("a") is statements
    cache.put("d", statements)
    assert cache.get("b") is None
    assert cache.get("a") is statements
    cache.put("0123456789", statements)
    cache.put("9876543210", statements)
    assert cache.characters <= 20
    assert cache.get("9876543210") is statements
