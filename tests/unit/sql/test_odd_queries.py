"""Queries that nobody writes: each was once answered with an error of the server's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.small_node import SmallNode, small_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = [
    # a comparison the compiled path does not have, with a value that comes only when it runs
    ("SELECT 1 FROM app.t WHERE id = 3 AND e <> $1", [[0.5, -1]], "SQL_EXECUTION_ERROR"),
    ("UPDATE app.t SET n = 1 WHERE e IN ($1)", [[0.5, -1]], "SQL_EXECUTION_ERROR"),
    ("SELECT n FROM app.t WHERE id = 1 AND e BETWEEN $1 AND $1", ["[1, 2]"], "SQL_EXECUTION_ERROR"),
    # aliases that are no names
    ("SELECT n $1 FROM app.t WHERE id = 4", [1], "INVALID_SQL"),
    ("SELECT 1 AS $1", [1], "INVALID_SQL"),
    ("SELECT 1 FROM app.t $1", [1], "INVALID_SQL"),
    ("WITH $1 AS (SELECT 1) SELECT 1", [1], "INVALID_SQL"),
    # a list with an item that has no text of its own
    ("SELECT LIMIT FROM app.t WHERE id = 1 ORDER BY id * 5", None, "SQL_EXECUTION_ERROR"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node() -> AsyncIterator[SmallNode]:
    pool = EnginePool(PoolSettings(workers_max=1))
    async with small_node(pool=pool) as made:
        await made.setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.t (id INT PRIMARY KEY, n INT, e EMBEDDING(2))",
        )
        await made.ok("alice", "INSERT INTO app.t VALUES (1, 2, '[1, 2]'), (3, 4, '[1, 2]')")
        yield made
    await pool.close()


@pytest.mark.parametrize(("sql", "params", "code"), REFUSED, ids=[sql for sql, *_ in REFUSED])
async def test_it_is_refused(node: SmallNode, sql: str, params: list[object], code: str) -> None:
    status, body = await node.sql("alice", sql, params)
    assert (status, body["error"]["code"]) == (400, code), body
