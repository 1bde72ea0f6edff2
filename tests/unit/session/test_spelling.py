"""Columns of one name in places where the engine has an opinion, and signs and names it spells
otherwise.
"""

from __future__ import annotations

import pytest

from kalamdb import VERSION
from kalamdb.errors import KalamError
from kalamdb.model.principal import Role
from kalamdb.sql.parse import parse
from tests.small_node import SmallNode, small_node


async def rows(node: SmallNode, sql: str) -> list[list[object]]:
    [result] = await node.ok("ann", sql)
    found: list[list[object]] = result["rows"]
    return found


async def test_every_branch_of_a_union_may_name_columns_twice() -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.p (id INT PRIMARY KEY, v INT)"
        )
        await node.ok("ann", "INSERT INTO app.p VALUES (1, 2)")
        for sql, expected in (
            ("SELECT id, v FROM app.p UNION ALL SELECT id AS x, v AS x FROM app.p", [[1, 2]] * 2),
            ("SELECT id, id FROM app.p UNION SELECT v, v FROM app.p ORDER BY 1", [[1, 1], [2, 2]]),
            ("SELECT id, id FROM app.p EXCEPT SELECT CASE WHEN true THEN v END, v FROM app.p",
             [[1, 1]]),
            ("WITH c AS (SELECT 1 UNION SELECT 2) SELECT v, v FROM app.p INTERSECT"
             " SELECT v, v FROM app.p UNION ALL SELECT id, id FROM app.p ORDER BY 1",
             [[1, 1], [2, 2]]),
        ):  # fmt: skip
            assert await rows(node, sql) == expected, sql
        for sql in (
            "SELECT *, * FROM app.p",
            "SELECT p.*, p.* FROM app.p",
            "SELECT * FROM (SELECT id, id FROM app.p) s",
            "SELECT id FROM (SELECT id, v + 1 AS id FROM app.p) s",
            "WITH c AS (SELECT id, id FROM app.p) SELECT 1 FROM c",
        ):
            status, body = await node.sql("ann", sql)
            assert (status, body["error"]["sqlstate"]) == (400, "42601"), sql
            assert body["error"]["message"] == (
                "column id is there twice in one SELECT list: give one another name"
            )


async def test_what_does_not_match() -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.p (id INT PRIMARY KEY, t TEXT, CHECK (t !~~ 'z%'))",
        )
        await node.ok("ann", "INSERT INTO app.p VALUES (1, 'tea')")
        signs = "t !~ '^t', t !~ '^x', t !~* '^T', t !~~ 'x%', t !~~* 'T%', NOT t ~ '^t'"
        assert await rows(node, f"SELECT {signs} FROM app.p") == [
            [False, True, False, True, False, False]
        ]
        # By key, compiled, and by the engine.
        assert await rows(node, "SELECT id FROM app.p WHERE id = 1 AND t !~~ 'x%'") == [[1]]
        assert await rows(node, "SELECT count(*) FROM app.p WHERE t !~~ 't%'") == [["0"]]
        status, body = await node.sql("ann", "INSERT INTO app.p VALUES (2, 'zoo')")
        assert (status, body["error"]["sqlstate"]) == (400, "23514")
        await node.setup("ALTER TABLE app.p ADD COLUMN more INT")  # the CHECK is read again
        await node.ok("ann", "INSERT INTO app.p VALUES (3, 'pot', 1)")


async def test_the_version_is_that_of_kalamdb() -> None:
    async with small_node() as node:
        assert await rows(node, "SELECT version(), VERSION ( ) AS v") == [
            [f"KalamDB {VERSION}"] * 2
        ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1_000", "'1_000' is neither a number nor a name"),
        ("1abc", "'1abc'"),
        ("1.5x + 2", "'1.5x'"),
        ("2AND 1", "'2AND'"),
        ("$1a", "'1a'"),
        ("|/ 4", "operator |/; write sqrt(x)"),
        ("||/ 27", "operator ||/; write cbrt(x)"),
        ("!! 4", "operator !"),
        ("! true", "operator !"),
        ("a ! b", "operator !"),
        ("@ -4", "operator @; write abs(x)"),
        ("@x", "operator @; write abs(x)"),
        ("a && b", "operator &&"),
        ("a ^@ b", "operator ^@; write starts_with(a, b)"),
        ("a #> b", "operator #>"),
        ("a #>> b", "operator #>>"),
        ("a @@ b", "operator @@"),
        ("a ?| b", "operator ?|"),
        ("a <<->> b", "operator <<->>"),
    ],
)
def test_signs_and_numbers_are_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(KalamError) as refused:
        parse(f"SELECT {text} FROM t")
    assert said in str(refused.value)


async def test_default_is_a_namespace_without_quotes() -> None:
    async with small_node() as node:
        for sql in (
            "CREATE TABLE default.d (id INT PRIMARY KEY, v INT DEFAULT 3)",
            "INSERT INTO default.d (id, v) VALUES (1, DEFAULT)",
            "SELECT default.d.id FROM default.d",
            "UPDATE default.d SET v = DEFAULT WHERE default.d.id = 1 RETURNING default.d.v",
            "DESCRIBE default.d",
            "ALTER TABLE default.d ADD COLUMN x INT DEFAULT 4",
            "CREATE INDEX i ON default.d (v)",
            "DROP INDEX default.i",
            "CREATE VIEW default.w AS SELECT id FROM default.d",
            "SHOW CREATE VIEW default.w",
            "DROP VIEW default.w",
            "USE default",
            "SET NAMESPACE default",
            "SHOW TABLES IN default",
            "DELETE FROM default.d WHERE id = 1",
            "DROP TABLE default.d",
        ):
            await node.ok("root", sql, role=Role.DBA)
        for sql in ("CREATE TABLE default (id INT PRIMARY KEY)", "INSERT INTO default VALUES (1)"):
            status, body = await node.sql("root", sql, role=Role.DBA)
            assert (status, body["error"]["sqlstate"]) == (400, "42601")
