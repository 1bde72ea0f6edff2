"""Small texts that ask for a lot: refused before the memory is taken, or left to the engine."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.sql.scope import TEXT_OPERATIONS_MAX, NoColumns, NotCompilable
from tests.small_node import SmallNode, small_node

LONG = "a" * 1_000_000


async def refusal(node: SmallNode, sql: str, params: list[Any] | None = None) -> str:
    status, body = await node.sql("alice", sql, params)
    assert status != 200
    return body["error"]["code"]


def balanced(terms: int) -> str:
    """`||` of so many, nested no deeper than it has to be."""
    return "body" if terms == 1 else f"({balanced(terms // 2)} || {balanced(terms - terms // 2)})"


async def test_one_parameter_in_very_many_rows() -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.m (id INT PRIMARY KEY, body TEXT)"
        )
        for value in ("$1", "UPPER($1)"):
            rows = ", ".join(f"({number}, {value})" for number in range(900))
            found = await refusal(node, f"INSERT INTO app.m VALUES {rows}", [LONG])
            assert found == "STATEMENT_TOO_LARGE"
        await node.ok("alice", "INSERT INTO app.m VALUES (1, $1)", [LONG])
        where = f"id = 1 AND {balanced(1_000)} = 'x'"
        assert await refusal(node, f"DELETE FROM app.m WHERE {where}") == "SQL_EXECUTION_ERROR"


async def test_what_is_decided_is_counted_while_it_is() -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.m (id INT PRIMARY KEY, body TEXT)"
        )
        rows = ", ".join(f"({number}, '')" for number in range(100))
        await node.ok("alice", f"INSERT INTO app.m VALUES {rows}")
        where = ", ".join(map(str, range(100)))
        sql = f"UPDATE app.m SET body = $1 WHERE id IN ({where})"
        assert await refusal(node, sql, [LONG]) == "STATEMENT_TOO_LARGE"
        (result,) = await node.ok("alice", "SELECT body FROM app.m WHERE id = 7")
        assert result["rows"] == [[""]]


async def test_what_returning_gives_is_counted() -> None:
    """Twenty rows share one text, and each gives it ten times over: 200 MB of an answer."""
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.m (id INT PRIMARY KEY, body TEXT)"
        )
        for number in range(10):
            await node.ok("alice", f"INSERT INTO app.m VALUES ({number}, $1)", [LONG])
        before = await node.ok("alice", "SELECT count(*), max(length(body)) FROM app.m")
        rows = ", ".join(f"({number}, $1)" for number in range(100, 120))
        large = " || ".join(["body"] * 10)
        insert = f"INSERT INTO app.m VALUES {rows} RETURNING {large}"
        for sql, params in (
            (insert, [LONG]),
            (f"UPDATE app.m SET body = '' || body WHERE id < 7 RETURNING {large}", None),
            (f"DELETE FROM app.m WHERE true RETURNING {large}", None),
        ):
            assert await refusal(node, sql, params) == "RESULT_TOO_LARGE"
        inside = f"BEGIN; DELETE FROM app.m WHERE true RETURNING {large}; COMMIT"
        assert await refusal(node, inside) == "RESULT_TOO_LARGE"
        many = ", ".join(["body"] * 70)
        for sql in (f"SELECT {many}", f"SELECT id, {', '.join([large] * 7)}"):
            assert await refusal(node, f"{sql} FROM app.m WHERE id = 1") == "RESULT_TOO_LARGE"
        assert await node.ok("alice", "SELECT count(*), max(length(body)) FROM app.m") == before
        (small,) = await node.ok("alice", "DELETE FROM app.m WHERE true RETURNING id, body")
        assert len(small["rows"]) == 10


def test_text_functions_are_counted() -> None:
    names = NoColumns()
    for _ in range(TEXT_OPERATIONS_MAX):
        names.count_text_operation()
    with pytest.raises(NotCompilable):
        names.count_text_operation()
