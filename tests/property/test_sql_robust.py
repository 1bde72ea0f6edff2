"""Whatever is sent: an answer or a clear refusal, in time; what is refused leaves no trace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import orjson
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from kalamdb.edge.faults import FAULTS
from kalamdb.model.principal import Role
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.property import grammar
from tests.property.grammar import Request
from tests.small_node import SmallNode, small_node

CODES = {(fault.status, fault.code) for fault in FAULTS.values() if fault.status != 500}
LATER = re.compile(r"Statement (\d+) failed")
TIMEOUT_S = 20
SEEDS = st.integers(0, (1 << 32) - 1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    found = EnginePool(PoolSettings(timeout_s=5))
    yield found
    await found.close()


def digests(node: SmallNode) -> list[str]:
    return [replica.digest() for replica in node.replicas.values()]


async def checked(node: SmallNode, request: Request, role: Role = Role.USER) -> int:
    """Send it, check the answer; gives the status."""
    before = digests(node)
    async with asyncio.timeout(TIMEOUT_S):
        status, raw = await node.raw(
            "alice",
            request.sql,
            request.params,
            role=role,
            namespace=request.namespace,
            request_id=request.request_id,
        )
    body = orjson.loads(raw)
    if status == 200:
        for result in body["results"]:
            if "rows" in result:
                assert result["row_count"] == len(result["rows"])
                assert {len(row) for row in result["rows"]} <= {len(result["schema"])}
        return status
    error = body["error"]
    assert (status, error["code"]) in CODES, body
    assert error["message"]
    later = LATER.match(error["message"])
    if later is None or later[1] == "1":
        assert digests(node) == before, "a refused statement left a trace"
    return status


@settings(max_examples=40)
@given(seeds=st.lists(SEEDS, min_size=30, max_size=60))
async def test_nearly_statements(pool: EnginePool, seeds: list[int]) -> None:
    async with small_node(pool=pool) as node:
        await node.setup(*grammar.DDL)
        for seed in seeds:
            # Some that are right, so that there are rows for the others to be wrong about.
            made = grammar.request(seed) if seed % 3 == 0 else grammar.broken(seed)
            await checked(node, made)


@settings(max_examples=15)
@given(seeds=st.lists(SEEDS, min_size=30, max_size=60))
async def test_right_statements(pool: EnginePool, seeds: list[int]) -> None:
    async with small_node(pool=pool) as node:
        await node.setup(*grammar.DDL)
        answered = [await checked(node, grammar.request(seed)) for seed in seeds]
        if len(seeds) >= 30:
            assert answered.count(200) > len(seeds) / 4, "the grammar says little that is right"


DEEP = 10_000
MONSTERS = {
    "parentheses": "SELECT " + "(" * DEEP + "1" + ")" * DEEP,
    "parentheses in WHERE": f"SELECT id FROM app.notes WHERE {'(' * DEEP}id = 1{')' * DEEP}",
    "a sum": f"SELECT id FROM app.notes WHERE id = 1 AND n = {'1 + ' * 9000}1",
    "NOT": "SELECT " + "NOT " * DEEP + "true",
    "minus": "SELECT " + "- " * DEEP + "1",
    "CASE": "SELECT " + "CASE WHEN true THEN " * 3000 + "1" + " END" * 3000,
    "subqueries": "SELECT * FROM (" * 1000 + "SELECT 1" + ")" * 1000,
    "IN": f"SELECT id FROM app.notes WHERE id IN ({','.join(map(str, range(50_000)))})",
    "digits": f"INSERT INTO app.notes (id, txt) VALUES (1, {'9' * 5000})",
    "a far key": f"SELECT id FROM app.notes WHERE id = {'9' * 5000}",
    "an exponent": "INSERT INTO app.pairs VALUES ('a', 1, 1e999999999)",
    "a small exponent": "INSERT INTO app.pairs VALUES ('a', 1, 1e-99999999999999999999)",
    "AND": "DELETE FROM app.notes WHERE " + "id = 1 AND " * DEEP + "true",
    "||": "UPDATE app.notes SET txt = " + "'a' || " * 5000 + "'b' WHERE id = 1",
    "calls": f"UPDATE app.notes SET n = {'abs(' * 3000}n{')' * 3000} WHERE id = 1",
    "brackets": "SELECT " + "[" * 3000 + "1" + "]" * 3000,
    "comments": "SELECT 1 " + "/*" * DEEP + "*/" * DEEP,
    "an open comment": "SELECT 1 " + "/*" * DEEP,
    "EXECUTE AS": "EXECUTE AS 'a' (" * 2000 + "SELECT 1" + ")" * 2000,
    "EXPLAIN": "EXPLAIN " * 2000 + "SELECT 1",
    "parameter 0": "SELECT $0",
    "a far parameter": "SELECT id FROM app.notes WHERE id = $99999999999999999999",
    "semicolons": ";" * 100_000,
    "many statements": "SELECT 1;" * 2000,
    "dots": "SELECT " + "a." * 5000 + "b",
    "casts": "SELECT 1" + "::int" * 5000,
    "a long name": f'SELECT "{"a" * 100_000}" FROM app.notes',
    "wild LIKE": f"DELETE FROM app.notes WHERE id = 1 AND txt LIKE '{'%a' * 2000}b'",
    "a wild regex": "UPDATE app.notes SET n = 1 WHERE id = 1 AND txt ~ '^(a+)+$'",
    "the least integer": "UPDATE app.notes SET n = abs(-9223372036854775808) WHERE id = 1",
    "overflow": "UPDATE app.notes SET n = 9223372036854775807 + n WHERE id = 1",
    "division": "UPDATE app.notes SET n = n / 0 WHERE id = 1",
    "half a surrogate": "SELECT '\ud800'",
    "NUL": "INSERT INTO app.notes (id, txt) VALUES (2, 'a\0b')",
    "memory": "SELECT repeat('x', 2000000000)",
    "memory of an update": "UPDATE app.notes SET txt = lpad('x', 2000000000, 'y') WHERE id = 1",
    "many columns": f"CREATE USER TABLE app.x ({','.join(f'c{i} INT' for i in range(2000))})",
    "a deep CHECK": f"CREATE USER TABLE app.x (id INT, CHECK ({'(' * 3000}id > 1{')' * 3000}))",
    "a deep default": f"CREATE USER TABLE app.x (id INT DEFAULT {'(' * 5000}1{')' * 5000})",
}


@pytest.mark.parametrize("name", MONSTERS)
async def test_monsters(pool: EnginePool, name: str) -> None:
    async with small_node(pool=pool) as node:
        await node.setup(*grammar.DDL)
        await node.ok("alice", f"INSERT INTO app.notes (id, txt) VALUES (1, '{'a' * 500}')")
        started_s = asyncio.get_running_loop().time()
        await checked(node, Request(MONSTERS[name]))
        await checked(node, Request(MONSTERS[name]), Role.SYSTEM)
        assert asyncio.get_running_loop().time() - started_s < TIMEOUT_S
        assert await node.ok("alice", "SELECT id FROM app.notes WHERE id = 1")


async def test_a_deep_parameter_is_refused(pool: EnginePool) -> None:
    deep = orjson.loads("[" * 1000 + "]" * 1000)
    async with small_node(pool=pool) as node:
        await node.setup(*grammar.DDL)
        for request_id in (None, "r"):
            made = Request("INSERT INTO app.notes (id, txt) VALUES (1, $1)", [deep], request_id)
            assert await checked(node, made) == 400


async def test_a_query_without_end_is_stopped() -> None:
    endless = (
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    )
    pool = EnginePool(PoolSettings(timeout_s=0.5))
    async with small_node(pool=pool) as node:
        status, body = await node.sql("alice", endless)
        assert (status, body["error"]["code"]) == (400, "QUERY_TIMEOUT")
        assert await node.ok("alice", "SELECT count(*) FROM (SELECT 1) x")
    await pool.close()
