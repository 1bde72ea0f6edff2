"""kill -9 under load, with a ledger: nothing acknowledged is lost, nothing appears twice."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.server import Client, Server, running
from tests.waiting import wait_until

WRITERS = 16
KILLS = 4
ACKED_BETWEEN = 400


class Ledger:
    """What each writer tried, and what it was told."""

    def __init__(self) -> None:
        self.acked: dict[int, str] = {}
        self.unknown: dict[int, str] = {}
        self.next_id = 0

    def draw(self) -> tuple[int, str]:
        self.next_id += 1
        return self.next_id, f"row {self.next_id}"


async def write_until(stop: asyncio.Event, client: Client, ledger: Ledger) -> None:
    while not stop.is_set():
        number, body = ledger.draw()
        ledger.unknown[number] = body
        try:
            answer = await client.sql(
                "INSERT INTO app.notes (id, body) VALUES ($1, $2)", [number, body]
            )
        except (aiohttp.ClientError, ConnectionError):
            return
        if answer.status == 200:
            ledger.acked[number] = ledger.unknown.pop(number)
        elif answer.status == 503:
            del ledger.unknown[number]


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    ledger = Ledger()
    async with running(tmp_path / "data") as server:
        async with aiohttp.ClientSession() as http:
            root = await server.login(http)
            await root.ok("CREATE NAMESPACE app")
            await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        for _ in range(KILLS):
            await load_and_kill(server, ledger)
            await server.start()
            await check(server, ledger)
    assert len(ledger.acked) >= KILLS * ACKED_BETWEEN


async def load_and_kill(server: Server, ledger: Ledger) -> None:
    stop = asyncio.Event()
    goal = len(ledger.acked) + ACKED_BETWEEN
    async with aiohttp.ClientSession() as http:
        client = await server.login(http)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(write_until(stop, client, ledger))
            await wait_until(
                lambda: len(ledger.acked) >= goal, what="enough acknowledged", timeout_s=60
            )
            server.kill()
            stop.set()


async def check(server: Server, ledger: Ledger) -> None:
    async with aiohttp.ClientSession() as http:
        client = await server.login(http)
        answer = await client.ok("SELECT id, body FROM app.notes")
    found: dict[Any, Any] = dict(answer.rows)
    assert len(found) == len(answer.rows), "a primary key is there twice"
    lost = {number for number, body in ledger.acked.items() if found.get(number) != body}
    assert not lost, f"acknowledged and lost: {sorted(lost)[:10]}"
    known = ledger.acked.keys() | ledger.unknown.keys()
    assert found.keys() <= known, "a row nobody wrote"


async def test_a_retry_with_its_request_id_is_done_once(tmp_path: Path) -> None:
    insert = "INSERT INTO app.log (body) VALUES ($1)"
    async with running(tmp_path / "data") as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.log (body TEXT)")
        await root.ok(insert, ["before the kill"], request_id="once")
        server.kill()
        with contextlib.suppress(aiohttp.ClientError):
            await root.sql(insert, ["before the kill"], request_id="once")
        await server.start()
        again = await root.ok(insert, ["before the kill"], request_id="once")
        assert again.body["results"][0]["row_count"] == 1
        assert (await root.ok("SELECT count(*) FROM app.log")).rows == [["1"]]
        other = await root.sql(insert, ["another text"], request_id="once")
        assert (other.status, other.code) == (422, "REQUEST_ID_REUSED")
