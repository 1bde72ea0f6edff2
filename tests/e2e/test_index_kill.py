"""kill -9 in the middle of CREATE INDEX: the next start finishes it, and the index is whole."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.server import Client, Server, running

ROWS = 30_000
CHUNK = 1_000
THREADS = 300


async def load(client: Client) -> None:
    for first in range(0, ROWS, CHUNK):
        listed = range(first, first + CHUNK)
        values = ", ".join(f"({number}, {number % THREADS})" for number in listed)
        await client.ok(f"INSERT INTO app.chat VALUES {values}")


async def state(client: Client) -> str | None:
    shown = (await client.ok("SHOW INDEXES FROM app.chat")).body["results"][0]
    at = [column["name"] for column in shown["schema"]]
    rows: list[dict[str, Any]] = [dict(zip(at, row, strict=True)) for row in shown["rows"]]
    return next((row["state"] for row in rows if row["index_name"] == "by_thread"), None)


async def kill_while_it_is_built(server: Server, http: aiohttp.ClientSession) -> None:
    root, watcher = await server.login(http), await server.login(http)

    async def create() -> None:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            await root.sql("CREATE INDEX by_thread ON app.chat (thread)")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(create())
        while await state(watcher) is None:
            pass  # each look is a round trip
        server.kill()


async def test_the_next_start_finishes_it(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server:
        async with aiohttp.ClientSession() as http:
            root = await server.login(http)
            await root.ok("CREATE NAMESPACE app")
            await root.ok("CREATE USER TABLE app.chat (id INT PRIMARY KEY, thread INT)")
            await load(root)
            await kill_while_it_is_built(server, http)
        await server.start()
        async with aiohttp.ClientSession() as http:
            root = await server.login(http)
            assert await state(root) == "ready"
            query = "SELECT id FROM app.chat WHERE thread = $1 ORDER BY id DESC"
            plan = await root.ok(
                "EXPLAIN SELECT id FROM app.chat WHERE thread = 1 ORDER BY id DESC"
            )
            assert "by index by_thread" in plan.rows[0][0]
            for thread in range(0, THREADS, 7):
                found = [row[0] for row in (await root.ok(query, [thread])).rows]
                assert found == list(range(ROWS - THREADS + thread, -1, -THREADS))
