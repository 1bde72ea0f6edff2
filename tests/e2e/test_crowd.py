"""A thousand subscribers on real sockets, each of which sees every row once, in order."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import aiohttp

from tests.e2e.server import Client, running

SUBSCRIBERS = 1000
ROWS = 20


async def subscriber(client: Client, ready: asyncio.Semaphore) -> list[str]:
    """The ids a subscriber received, until it has them all."""
    seen: list[str] = []
    async with client.websocket() as ws:
        protocol = {"serialization": "json", "compression": "none"}
        await ws.send_json(
            {"type": "authenticate", "method": "jwt", "token": client.token, "protocol": protocol}
        )
        await ws.send_json(
            {
                "type": "subscribe",
                "subscription": {"id": "s", "sql": "SELECT id, body FROM app.notes", "options": {}},
            }
        )
        prev_seq = "0"
        async for message in ws:
            frame = message.json()
            assert frame["type"] not in ("error", "auth_error"), frame
            if frame["type"] == "initial_data_batch":
                assert frame["rows"] == []
                ready.release()
            if frame["type"] == "change":
                assert frame["prev_seq"] == prev_seq
                prev_seq = frame["seq"]
                seen.extend(row["id"] for row in frame["rows"])
                if len(seen) == ROWS:
                    return seen
    raise AssertionError("the socket closed early")


async def test_a_thousand_subscribers_see_each_row_once_in_order(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    ready = asyncio.Semaphore(0)
    limit = aiohttp.TCPConnector(limit=0)
    async with (
        running(tmp_path / "data") as server,
        aiohttp.ClientSession(connector=limit) as http,
    ):
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT)")
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            crowd = [tasks.create_task(subscriber(root, ready)) for _ in range(SUBSCRIBERS)]
            for _ in range(SUBSCRIBERS):
                await ready.acquire()
            for number in range(ROWS):
                await root.ok("INSERT INTO app.notes VALUES ($1, 'hello')", [number])
        expected = [str(number) for number in range(ROWS)]
        assert all(task.result() == expected for task in crowd)
