"""Two ways to the same rows agree: by primary key without the query engine, and through it.

A statement that names its row by key is answered by one get, with expressions compiled by
`sql/expression.py`; the same statement over a subquery goes to DataFusion. What they say must be
the same: values, types, column names, and whether there is an answer at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kalamdb.model.principal import Role
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.property import grammar
from tests.property.grammar import NOTES, PAIRS, Table, Writer
from tests.small_node import SmallNode, small_node

SEEDS = st.lists(st.integers(0, (1 << 32) - 1), min_size=10, max_size=40)
SHORT = (Phase.generate,)
EVERY = {
    "b": ("BOOLEAN", [True, False]),
    "s": ("SMALLINT", [-32768, 0, 32767]),
    "i": ("INT", [-(1 << 31), -1, 0, (1 << 31) - 1]),
    "n": ("BIGINT", [-(1 << 63), "9007199254740993", (1 << 63) - 1]),
    "f": ("FLOAT", [0.1, -3.5, 1e-40, 3.4e38]),
    "d": ("DOUBLE", [0.1, -1.7e308, 5e-324, 1e21]),
    "c": ("DECIMAL(38, 4)", ["9" * 34 + ".9999", "-0.0001", "12.34", "0"]),
    "w": ("DECIMAL(5, 0)", ["-99999", "0", "7"]),
    "t": ("TEXT", ["", "a", "é\u0301 𝄞", "a'b\\\n\t", "x" * 300]),
    "y": ("BYTES", [[], [0, 255, 65]]),
    "j": ("JSON", [{"a": [1, None, "é"]}, "[]", '"text"']),
    "ts": ("TIMESTAMP", ["1969-12-31T23:59:59.999999", "2026-01-02T03:04:05.000006", 0]),
    "dt": ("DATETIME", ["2026-01-02T03:04:05+02:00", "0001-01-01T00:00:00Z", 1]),
    "da": ("DATE", ["1969-12-31", "2026-02-28", 0]),
    "ti": ("TIME", ["00:00:00", "23:59:59.999999"]),
    "u": ("UUID", ["00010203-0405-0607-0809-0a0b0c0d0e0f", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    "e": ("EMBEDDING(2)", [[0.5, -1], "[1e-3, 3e10]"]),
}
NO_KEY = {"j", "e"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    """Keeps no table: the nodes of these tests use the same seqs for other rows."""
    found = EnginePool(PoolSettings(workers_max=1, kept_max_bytes=0))
    yield found
    await found.close()


async def path_of(node: SmallNode, sql: str) -> str:
    (result,) = await node.ok("root", f"EXPLAIN {sql}", role=Role.SYSTEM)
    return result["rows"][0][0]


async def both(
    node: SmallNode, by_key: str, by_scan: str, params: list[Any]
) -> tuple[tuple[int, Any], tuple[int, Any]]:
    """(status, schema and rows) of each way."""
    answers: list[tuple[int, Any]] = []
    for sql in (by_key, by_scan):
        status, body = await node.sql("alice", sql, params)
        found = [(r["schema"], r["rows"]) for r in body["results"]] if status == 200 else body
        answers.append((status, found))
    return answers[0], answers[1]


async def test_rows_of_every_type(pool: EnginePool) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in EVERY.items())
    places = ", ".join(f"${number}" for number in range(1, len(EVERY) + 2))
    async with small_node(pool=pool) as node:
        table = f"CREATE USER TABLE app.every (id INT PRIMARY KEY, {columns})"
        await node.setup("CREATE NAMESPACE app", table)
        longest = max(len(values) for _, values in EVERY.values())
        for number in range(longest):
            values = [values[number % len(values)] for _, values in EVERY.values()]
            sql = f"INSERT INTO app.every VALUES ({places})"
            await node.ok("alice", sql, [number, *values])
        await node.ok("alice", "INSERT INTO app.every (id) VALUES (100)")
        for what in ("*", *EVERY, *(f"{name} IS NULL" for name in EVERY)):
            by_key = f"SELECT {what} FROM app.every WHERE id = $1"
            by_scan = f"SELECT {what} FROM (SELECT * FROM app.every) every WHERE id = $1"
            assert (await path_of(node, by_key)).startswith("point read")
            assert "point" not in await path_of(node, by_scan)
            for key in (*range(longest), 100, 101, None):
                found, scanned = await both(node, by_key, by_scan, [key])
                assert found[0] == scanned[0] == 200
                assert rows_of(found) == rows_of(scanned), (what, key)


def rows_of(answer: tuple[int, Any]) -> list[Any]:
    """Names, types and rows; the flags of columns are lost in a subquery."""
    return [
        ([(column["name"], column["data_type"]) for column in schema], rows)
        for schema, rows in answer[1]
    ]


@pytest.mark.parametrize("name", [name for name in EVERY if name not in NO_KEY])
async def test_keys_of_every_type(pool: EnginePool, name: str) -> None:
    kind, values = EVERY[name]
    async with small_node(pool=pool) as node:
        table = f"CREATE USER TABLE app.k (k {kind} PRIMARY KEY, n INT)"
        await node.setup("CREATE NAMESPACE app", table)
        for number, value in enumerate(values):
            await node.ok("alice", "INSERT INTO app.k VALUES ($1, $2)", [value, number])
        (listed,) = await node.ok("alice", "SELECT k, n FROM app.k ORDER BY n")
        assert [row[1] for row in listed["rows"]] == list(range(len(values)))
        for number, value in enumerate(values):
            sent = listed["rows"][number][0]  # what a client was told, it may ask for
            (found,) = await node.ok("alice", "SELECT n FROM app.k WHERE k = $1", [sent])
            assert found["rows"] == [[number]]
            for where, param in (("k = $1", value), ("k = ANY($1)", [None, value, value])):
                by_scan = f"SELECT n FROM (SELECT * FROM app.k) x WHERE {where}"
                by_key = f"SELECT n FROM app.k WHERE {where}"
                answers = await both(node, by_key, by_scan, [param])
                assert answers[0][0] == answers[1][0] == 200, answers
                assert rows_of(answers[0]) == rows_of(answers[1]), value
            for again in (value, sent):
                status, body = await node.sql("alice", "INSERT INTO app.k VALUES ($1, 9)", [again])
                assert (status, body["error"]["sqlstate"]) == (400, "23505")
            update = "UPDATE app.k SET n = n + 10 WHERE k = $1 RETURNING n"
            (changed,) = await node.ok("alice", update, [sent])
            assert changed["rows"] == [[number + 10]]
            (gone,) = await node.ok("alice", "DELETE FROM app.k WHERE k = $1", [sent])
            assert gone["row_count"] == 1
        (left,) = await node.ok("alice", "SELECT count(*) FROM app.k")
        assert left["rows"] == [["0"]]


# ---- expressions ---------------------------------------------------------------------------------

ROWS = (
    "INSERT INTO app.notes VALUES (1, 'w', 3, 'a'), (2, 'O''Brien', -7, NULL), (3, '', 0, '%'),"
    " (4, NULL, 999999, 'b'), (7, 'é\u0301', 2, '1'), (0, '12', 1, '')",
    "INSERT INTO app.pairs VALUES ('a', 1, 0.5), ('', 0, -1e300), ('é\u0301', -1, NULL),"
    " ('b', 7, 3)",
)
KEYS = {
    NOTES: ["id = 1", "id = 2", "id = 3", "id = 4", "id = 7", "id = 0", "id = 99"],
    PAIRS: ["a = 'a' AND b = 1", "a = '' AND b = 0", "b = 7 AND a = 'b'", "a = 'x' AND b = 1"],
}


def anonymous(text: str) -> str:
    """Without what differs by user."""
    return text.replace("CURRENT_USER()", "'me'").replace("CURRENT_USER", "'me'")


@settings(max_examples=25, phases=SHORT)
@given(seeds=SEEDS)
async def test_expressions(pool: EnginePool, seeds: list[int]) -> None:
    async with small_node(pool=pool) as node:
        await node.setup(*grammar.DDL)
        for sql in ROWS:
            await node.ok("alice", sql)
        for seed in seeds:
            dice = Random(seed)
            table = dice.choice((NOTES, PAIRS))
            writer = Writer(dice, ("w",), "nobody")
            made = dice.choice((writer.int_of, writer.text_of, writer.condition))(table)
            key = dice.choice(KEYS[table])
            name = table.name.removeprefix("app.")
            by_key = f"SELECT {made} AS x FROM {table.name} WHERE {key}"
            by_scan = f"SELECT {made} AS x FROM (SELECT * FROM {table.name}) {name} WHERE {key}"
            found, scanned = await both(node, by_key, by_scan, writer.params)
            assert found[0] == scanned[0], (by_key, writer.params, found, scanned)
            if found[0] == 200:
                assert rows_of(found) == rows_of(scanned), (by_key, writer.params)


# ---- changes -------------------------------------------------------------------------------------


async def content(node: SmallNode, user: str, table: Table) -> Any:
    listed = ", ".join(table.columns)
    (found,) = await node.ok(user, f"SELECT {listed} FROM {table.name} ORDER BY {listed}")
    return found["rows"]


def change_of(dice: Random, table: Table) -> tuple[str, list[Any]]:
    """An UPDATE or DELETE up to its WHERE, and one more condition on the row."""
    writer = Writer(dice, ("w",), "nobody")
    if dice.random() < 0.3:
        text = f"DELETE FROM {table.name} WHERE "
    else:
        column = dice.choice([name for name in table.columns if name not in table.key])
        made = writer.int_of(table) if column in table.ints else writer.text_of(table)
        text = f"UPDATE {table.name} SET {column} = {made} WHERE "
    if dice.random() < 0.5:
        text += f"({writer.condition(table, 1)}) AND "
    return anonymous(text), writer.params


@settings(max_examples=20, phases=SHORT)
@given(seeds=SEEDS)
async def test_changes(pool: EnginePool, seeds: list[int]) -> None:
    """Three tenants make the same change: by key, by a scan, and by rows the engine finds."""
    async with small_node(pool=pool) as node:
        await node.setup(*grammar.DDL)
        for user in ("by key", "by scan", "by engine"):
            for sql in ROWS:
                await node.ok(user, sql)
        for seed in seeds:
            dice = Random(seed)
            table = dice.choice((NOTES, PAIRS))
            text, params = change_of(dice, table)
            key = dice.choice(KEYS[table])
            first = table.key[0]
            wheres = {
                "by key": key,
                "by scan": f"({key} OR false)",
                "by engine": f"{key} AND {first} IN (SELECT {first} FROM {table.name})",
            }
            answers = {
                user: await counted(node, user, text + where, params)
                for user, where in wheres.items()
            }
            assert len(set(answers.values())) == 1, (text, params, key, answers)
            contents = [await content(node, user, table) for user in wheres]
            assert contents[0] == contents[1] == contents[2], (text, params, key)


async def counted(node: SmallNode, user: str, sql: str, params: list[Any]) -> tuple[int, int]:
    """Status, and how many rows were changed."""
    status, body = await node.sql(user, sql, params)
    return status, body["results"][0]["row_count"] if status == 200 else 0
