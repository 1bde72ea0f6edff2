"""Sentences of the real engine, told apart: an error has one code, whoever found it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kalamdb.query.refusals import refused
from tests.small_node import SmallNode, small_node

# A text is cast as a column, so that the engine meets it in a row, and as a literal, so that it
# meets it in the plan.
SQLSTATES = [
    ("1 / z", "22012"),
    ("1 % z", "22012"),
    ("1 / 0", "22012"),
    ("1.00::DECIMAL(4, 2) / z", "22012"),
    ("sum(1 / z)", "22012"),
    *(
        (f"{text}::{kind}", "22P02")
        for text in ("s", "'x'")
        for kind in (
            "SMALLINT", "INT", "BIGINT", "DOUBLE", "REAL", "DATE", "TIMESTAMP", "TIME", "BOOLEAN",
            "DECIMAL(4, 2)",
        )
    ),
    ("CAST(s AS INT)", "22P02"),
    ("DATE '2026-99-01'", "22P02"),
    ("'2026-02-30'::DATE", "22P02"),
    ("'x'::INTERVAL", "22P02"),
    ("to_timestamp(s)", "22P02"),
    (f"'{'x' * 600}'::INT", "22P02"),
    ("'Divide by zero error'::INT", "22P02"),
    ("'Divide by zero error Correlated scalar subquery must be aggregated'::INT", "22P02"),
    ("(z + 100000)::SMALLINT", "22003"),
    ("99999999999::INT", "22003"),
    ("1e300::INT", "22003"),
    ("12345::DECIMAL(4, 2)", "22003"),
    ("factorial(50)", "22003"),
    ("split_part(s, ',', 0)", "22000"),
]  # fmt: skip


@asynccontextmanager
async def one_row() -> AsyncIterator[SmallNode]:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.t (id INT PRIMARY KEY, z INT, s TEXT)"
        )
        await node.ok("ann", "INSERT INTO app.t VALUES (1, 0, 'x')")
        yield node


async def test_of_the_engine() -> None:
    async with one_row() as node:
        for expression, sqlstate in SQLSTATES:
            status, body = await node.sql("ann", f"SELECT {expression} FROM app.t")
            assert status == 400, (expression, body)
            said = body["error"]["sqlstate"], body["error"]["code"]
            assert said == (sqlstate, "SQL_EXECUTION_ERROR"), (expression, body)


async def test_both_paths_say_the_same() -> None:
    conditions = [("1 / z = 1", "22012"), ("s::INT = 1", "22P02"), ("'x'::INT = 1", "22P02")]
    async with one_row() as node:
        for condition, sqlstate in conditions:
            said: list[str] = []
            # By key nothing needs the engine; a subquery does.
            for source in ("app.t", "(SELECT * FROM app.t) AS t"):
                sql = f"SELECT id FROM {source} WHERE id = 1 AND {condition}"
                status, body = await node.sql("ann", sql)
                assert (status, body["error"]["sqlstate"]) == (400, sqlstate), body
                said.append(body["error"]["message"])
            assert said[0] == said[1]


def test_a_sentence_no_row_knows_is_passed_on() -> None:
    assert str(refused("a sentence of tomorrow")) == "a sentence of tomorrow"
