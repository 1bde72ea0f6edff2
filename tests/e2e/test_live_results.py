"""Live queries of any shape over the wire: what they say, over a kill of the server, in msgpack."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.e2e.contract import Live, live, one_node
from tests.e2e.server import Client
from tests.property.result_client import ResultClient

DDL = (
    "CREATE USER TABLE app.msgs (id INT PRIMARY KEY, room TEXT, n BIGINT);"
    "CREATE SHARED TABLE app.rooms (name TEXT PRIMARY KEY, title TEXT)"
    " WITH (ACCESS_LEVEL = 'public')"
)
ROOMS = "SELECT room, count(*) AS c, max(n) AS top FROM app.msgs GROUP BY room"
TOP = "SELECT id, room, n FROM app.msgs ORDER BY n DESC, id LIMIT 3"
TITLES = "SELECT m.id, r.title FROM app.msgs m JOIN app.rooms r ON r.name = m.room"
QUERIES = {"rooms": ROOMS, "top": TOP, "titles": TITLES}


async def until(they: Live, client: ResultClient, fresh: list[dict[str, Any]]) -> None:
    """Take frames in until the client has these rows."""
    while not has(client, fresh):
        client.take(await they.next())


def has(client: ResultClient, fresh: list[dict[str, Any]]) -> bool:
    try:
        client.check(fresh)
    except AssertionError:
        return False
    return client.ready


async def rows_of(client: Client, sql: str) -> list[dict[str, Any]]:
    answer = await client.ok(sql)
    (result,) = answer.body["results"]
    names = [column["name"] for column in result["schema"]]
    return [dict(zip(names, row, strict=True)) for row in result["rows"]]


async def test_what_a_client_has_survives_a_kill(tmp_path: Path) -> None:
    async with one_node(tmp_path / "data") as node:
        await node.root.ok(DDL)
        alice = await node.user("alice")
        await alice.ok("INSERT INTO app.msgs VALUES (1, 'a', 5), (2, 'a', 3), (3, 'b', 9)")
        await node.root.ok("INSERT INTO app.rooms VALUES ('a', 'first')")
        clients = {name: ResultClient() for name in QUERIES}
        for name, sql in QUERIES.items():
            async with live(alice) as they:
                await they.subscribe(name, sql, {})
                await until(they, clients[name], await rows_of(alice, sql))
                await alice.ok("UPDATE app.msgs SET n = n + 10 WHERE id = 2")
                await alice.ok(f"INSERT INTO app.msgs VALUES ({10 + len(name)}, 'b', 1)")
                await until(they, clients[name], await rows_of(alice, sql))
        await alice.ok("DELETE FROM app.msgs WHERE id = 3")
        node.server.kill()
        node.server.spawn()
        await node.server.wait_healthy()
        await node.root.ok("UPDATE app.rooms SET title = 'renamed' WHERE name = 'a'")
        for name, sql in QUERIES.items():
            client = clients[name]
            async with live(alice) as they:
                await they.subscribe(name, sql, {"from": client.cursor})
                await until(they, client, await rows_of(alice, sql))
                assert client.resets == 0
                await alice.ok(f"INSERT INTO app.msgs VALUES ({20 + len(name)}, 'a', 99)")
                await until(they, client, await rows_of(alice, sql))


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_msgpack(tmp_path: Path, compression: str) -> None:
    async with one_node(tmp_path / "data") as node:
        await node.root.ok(DDL)
        alice = await node.user("alice")
        await alice.ok("INSERT INTO app.msgs VALUES (1, 'a', 9007199254740993)")
        headers = {"Authorization": f"Bearer {alice.token}"}
        url = f"{node.server.url}/v1/ws?serialization=msgpack&compression={compression}"
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(url, headers=headers) as ws,
        ):
            said = await ws.receive_json()
            assert said["protocol"] == {"serialization": "msgpack", "compression": compression}
            clients = {name: ResultClient() for name in ("rooms", "top")}
            for name in clients:
                wish = {"id": name, "sql": QUERIES[name], "options": {}}
                message = msgspec.msgpack.encode({"type": "subscribe", "subscription": wish})
                await ws.send_bytes(gzip.compress(message) if name == "top" else message)
            await take(ws, clients, alice)
            await alice.ok("INSERT INTO app.msgs VALUES (2, 'a', 7), (3, 'b', 8)")
            await take(ws, clients, alice)


async def take(
    ws: aiohttp.ClientWebSocketResponse, clients: dict[str, ResultClient], alice: Client
) -> None:
    fresh = {name: await rows_of(alice, QUERIES[name]) for name in clients}
    while not all(has(clients[name], fresh[name]) for name in clients):
        data = await ws.receive_bytes(timeout=10)
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        frame = msgspec.msgpack.decode(plain)
        clients[frame["subscription_id"]].take(frame)


@pytest.mark.parametrize(
    "change",
    ["CREATE OR REPLACE VIEW app.v AS SELECT id, n + 1 AS n FROM app.msgs", "DROP VIEW app.v"],
)
async def test_a_view_that_changes_ends_its_live_queries_at_once(
    tmp_path: Path, change: str
) -> None:
    settings = {"KALAMDB_WEBSOCKET_HEARTBEAT_INTERVAL_S": "600"}  # a heartbeat would find it, too
    async with one_node(tmp_path / "data", settings) as node:
        await node.root.ok(DDL)
        await node.root.ok("CREATE VIEW app.v AS SELECT id, n FROM app.msgs")
        await node.root.ok("CREATE VIEW app.other AS SELECT id, n FROM app.msgs")
        alice = await node.user("alice")
        async with live(alice) as they:
            for name in ("v", "other"):
                await they.subscribe(name, f"SELECT max(n) AS top FROM app.{name}", {})
                client = ResultClient()
                await until(they, client, [{"top": None}])
            await node.root.ok("CREATE VIEW app.third AS SELECT id FROM app.other")
            await node.root.ok(change)
            ended = await they.next("error")
            assert (ended["subscription_id"], ended["code"]) == ("v", "SCHEMA_CHANGED")
            await alice.ok("INSERT INTO app.msgs VALUES (1, 'a', 5)")
            await until(they, client, [{"top": "5"}])
