"""A node speaks of itself: system tables, what runs, KILL, and results larger than its memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kalamdb.sql.virtual import VIRTUAL_TABLES
from tests.e2e.contract import FRONTS, Node, live, one_node
from tests.e2e.server import Answer, Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = 40_000
ROW_BYTES = 1_000
HEAVY = "SELECT count(*) FROM app.big a, app.big b, app.big c WHERE a.id + b.id * c.id = -1"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=FRONTS)
async def node(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Node]:
    env = {"KALAMDB_LOG_SLOW_QUERY_MS": "1", **request.param}
    async with one_node(tmp_path_factory.mktemp("oversight") / "data", env) as node:
        await node.root.ok("CREATE USER TABLE app.big (id INT PRIMARY KEY, body TEXT)")
        yield node


async def fill(client: Client, rows: int) -> None:
    for start in range(0, rows, 1000):
        values = ",".join(f"({number},$1)" for number in range(start, start + 1000))
        await client.ok(f"INSERT INTO app.big VALUES {values}", ["x" * ROW_BYTES])


async def test_every_table_of_the_list_has_rows_to_tell(node: Node) -> None:
    for namespace, name in VIRTUAL_TABLES:
        answer = await node.root.ok(f"SELECT * FROM {namespace}.{name}")
        listed = [column["name"] for column in answer.body["results"][0]["schema"]]
        known = [column.name for column in VIRTUAL_TABLES[namespace, name].columns]
        assert listed == known
    settings = {name: value for name, value, *_ in (await node.root.ok("SHOW ALL")).rows}
    assert settings["limits.max_result_rows"] == "100000"
    assert settings["auth.jwt_secret"] == "***"
    assert (await node.root.ok("SHOW limits.query_workers")).rows[0][1] == "2"
    groups = await node.root.ok("SELECT count(*) FROM system.cluster_groups WHERE state = 'leader'")
    assert groups.rows == [["9"]]
    for sql in ("SHOW ALL", "SHOW USERS", "SELECT * FROM system.settings"):
        refused = await (await node.user("nobody")).sql(sql)
        assert (refused.status, refused.code) == (403, "PERMISSION_DENIED")


async def running(client: Client) -> list[str]:
    rows = (await client.ok("SHOW QUERIES")).rows
    return [row[0] for row in rows if "app.big" in row[7]]


async def until_running(client: Client) -> str:
    while not (found := await running(client)):
        await asyncio.sleep(0)
    return found[0]


async def test_a_killed_query_stops(node: Node) -> None:
    alice, bob = await node.user("al-ice"), await node.user("bob")
    await fill(alice, 3_000)
    for killer in (alice, node.root):
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(alice.sql(HEAVY))
            query_id = await until_running(killer)
            assert await running(bob) == []
            refused = await bob.sql(f"KILL QUERY '{query_id}'")
            assert (refused.status, refused.body["error"]["sqlstate"]) == (400, "42704")
            await killer.ok(f"KILL QUERY '{query_id}'")
        answer: Answer = asked.result()
        assert (answer.status, answer.code) == (400, "QUERY_KILLED")
        assert answer.body["error"]["sqlstate"] == "57014"
    stats = dict((await node.root.ok("SELECT * FROM system.stats")).rows)
    assert stats["queries_running"] == "1"  # the question itself
    assert int(stats["queries_killed_total"]) >= 2
    slow = await node.root.ok(
        "SELECT query, outcome FROM system.slow_queries WHERE user_id = 'al-ice'"
        " AND outcome = 'QueryKilled'"
    )
    assert len(slow.rows) >= 2
    assert "-1" not in slow.rows[0][0]
    said = [line for line in node.server.log.read_text().splitlines() if '"KILL"' in line]
    assert [json.loads(line)["actor"] for line in said] == ["al-ice", "root"]


async def test_a_killed_live_query_is_told(node: Node) -> None:
    alice, bob = await node.user("al-ice"), await node.user("bob")
    async with live(alice) as they:
        await they.subscribe("with: colon and space", "SELECT id FROM app.big WHERE id < 3")
        await they.next("subscription_ack")
        ((live_id, connection_id, name, namespace, table, user, *_),) = (
            await alice.ok("SHOW LIVE QUERIES")
        ).rows
        assert (name, namespace, table, user) == ("with: colon and space", "app", "big", "al-ice")
        assert (await bob.ok("SHOW LIVE QUERIES")).rows == []
        assert (await bob.sql(f"KILL LIVE QUERY '{live_id}'")).status == 400
        await node.root.ok(f"KILL LIVE QUERY '{live_id}'")
        told = await they.next("error")
        assert told["code"] == "QUERY_KILLED"
        assert (await alice.ok("SHOW LIVE QUERIES")).rows == []
        assert [row[0] for row in (await alice.ok("SHOW CONNECTIONS")).rows] == [connection_id]
        await alice.ok(f"KILL CONNECTION '{connection_id}'")
        message = await they.ws.receive(10)
        assert they.ws.close_code == 1008, message
    async with asyncio.timeout(10):
        while (await alice.ok("SHOW CONNECTIONS")).rows:
            await asyncio.sleep(0)


async def test_a_killed_transaction_is_gone(node: Node) -> None:
    bob = await node.user("bob")
    begun = await bob.ok("BEGIN", transaction_id="new")
    transaction_id = begun.body["transaction_id"]
    listed = (await bob.ok("SHOW TRANSACTIONS")).rows
    assert [row[0] for row in listed] == [transaction_id]
    await node.root.ok(f"KILL TRANSACTION '{transaction_id}'")
    assert (await bob.ok("SHOW TRANSACTIONS")).rows == []
    assert (await bob.sql("SELECT 1", transaction_id=transaction_id)).status != 200


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def test_large_results_pass_through_in_pieces(node: Node) -> None:
    carol = await node.user("carol")
    await fill(carol, ROWS)
    server = node.server.process
    assert server is not None
    body = {"sql": "SELECT * FROM app.big WHERE id >= 0"}
    headers = {"Authorization": f"Bearer {carol.token}"}

    async def read_all() -> int:
        url = f"{carol.url}/v1/api/sql"
        async with carol.http.post(url, json=body, headers=headers) as response:
            assert response.status == 200
            size = 0
            async for piece in response.content.iter_chunked(1 << 16):
                size += len(piece)
            return size

    whole = (await carol.ok(body["sql"])).body["results"][0]
    assert (whole["row_count"], len(whole["rows"])) == (ROWS, ROWS)
    assert {row[0] for row in whole["rows"]} == set(range(ROWS))
    before_mb = memory_mb(server.pid)
    sizes = await asyncio.gather(*(read_all() for _ in range(6)))
    assert min(sizes) > ROWS * ROW_BYTES
    assert memory_mb(server.pid) - before_mb < 80, "six results of 40 MB"
    # A client that goes away in the middle gives everything back.
    async with carol.http.post(f"{carol.url}/v1/api/sql", json=body, headers=headers) as response:
        await response.content.readexactly(1000)
        response.close()
    stats = "SELECT metric_value FROM system.stats WHERE metric_name = 'query_held_bytes'"
    async with asyncio.timeout(10):
        while (await node.root.ok(stats)).rows != [["0"]]:
            await asyncio.sleep(0)
