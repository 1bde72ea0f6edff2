"""Transactions on a real node: over HTTP by id, over a WebSocket, and through kill -9."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.contract import FRONTS, Live, Node, one_node
from tests.e2e.server import Answer, Client, Server, running
from tests.waiting import wait_until

TABLE = "CREATE USER TABLE app.account (id INT PRIMARY KEY, n INT, pad TEXT)"


async def prepared(node: Node) -> Client:
    await node.root.ok(TABLE)
    alice = await node.user("alice")
    await alice.ok("INSERT INTO app.account (id, n) VALUES (1, 100), (2, 0)")
    return alice


class Talk:
    """SQL over one WebSocket."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.asked = 0

    async def ask(self, sql: str, **fields: Any) -> Answer:
        """The answer, in the form HTTP gives it."""
        self.asked += 1
        name = f"q{self.asked}"
        await self.live.say("query", id=name, sql=sql, **fields)
        result = await self.live.next("result")
        assert result["id"] == name
        return Answer(200 if result["status"] == "success" else 0, result)


async def signed_in(socket: aiohttp.ClientWebSocketResponse, client: Client) -> Talk:
    live = Live(socket)
    await live.say(
        "authenticate", method="jwt", token=client.token, protocol={"compression": "gzip"}
    )
    await live.next("auth_success")
    return Talk(live)


async def total(client: Client) -> int:
    return int((await client.ok("SELECT sum(n) FROM app.account")).rows[0][0])


@pytest.mark.parametrize("env", FRONTS)
async def test_over_http(tmp_path: Path, env: dict[str, str]) -> None:
    async with one_node(tmp_path / "data", env) as node:
        alice = await prepared(node)
        begun = await alice.ok(
            "BEGIN; UPDATE app.account SET n = n - 10 WHERE id = 1", transaction_id="new"
        )
        name = begun.body["transaction_id"]
        await alice.ok("UPDATE app.account SET n = n + $1 WHERE id = 2", [10], transaction_id=name)
        bob = await node.user("bob")
        stranger = await bob.sql("SELECT 1", transaction_id=name)
        assert (stranger.status, stranger.code) == (404, "UNKNOWN_TRANSACTION")
        own = await alice.ok("SELECT n FROM app.account ORDER BY id", transaction_id=name)
        assert own.rows == [[90], [10]]
        assert (await alice.ok("SELECT n FROM app.account ORDER BY id")).rows == [[100], [0]]
        await alice.ok("COMMIT", transaction_id=name, request_id="c1")
        again = await alice.ok("COMMIT", transaction_id=name, request_id="c1")
        assert again.body["results"][0]["message"] == f"transaction {name} committed"
        assert (await alice.ok("SELECT n FROM app.account ORDER BY id")).rows == [[90], [10]]
        unclosed = await alice.sql("BEGIN; DELETE FROM app.account WHERE id = 1")
        assert (unclosed.status, unclosed.code) == (400, "SQL_EXECUTION_ERROR")
        assert await total(alice) == 100


async def test_over_a_websocket(tmp_path: Path) -> None:
    async with one_node(tmp_path / "data") as node:
        alice = await prepared(node)
        async with alice.websocket() as first, alice.websocket() as second:
            talk, other = await signed_in(first, alice), await signed_in(second, alice)
            await other.live.subscribe("s", "SELECT id, n FROM app.account")
            await other.live.next("subscription_ack")
            begun = await talk.ask("BEGIN")
            assert begun.body["transaction_id"] in begun.body["results"][0]["message"]
            moved = await talk.ask(
                "UPDATE app.account SET n = n + $1 WHERE id = $2", params=[-25, 1]
            )
            assert moved.status == 200
            await talk.ask("UPDATE app.account SET n = n + 25 WHERE id = 2")
            assert (await talk.ask("SELECT n FROM app.account ORDER BY id")).rows == [[75], [25]]
            seen = await other.ask("SELECT n FROM app.account ORDER BY id")
            assert seen.rows == [[100], [0]]
            await talk.ask("COMMIT")
            changes = [await other.live.next("change") for _ in range(2)]
            assert [change["rows"][0]["n"] for change in changes] == [75, 25]
            # An error waits for ROLLBACK.
            await talk.ask("BEGIN; DELETE FROM app.account WHERE id = 1")
            assert (await talk.ask("SELECT nothing FROM app.account")).status == 0
            refused = await talk.ask("SELECT 1")
            assert refused.body["error"]["code"] == "TRANSACTION_ABORTED"
            await talk.ask("ROLLBACK")
            # What the connection leaves open goes with it.
            await talk.ask("BEGIN; DELETE FROM app.account WHERE id = 1")
        assert await total(alice) == 100


async def test_queries_are_answered_in_order(tmp_path: Path) -> None:
    async with one_node(tmp_path / "data") as node:
        alice = await prepared(node)
        await alice.ok(
            "INSERT INTO app.account (id, n, pad) VALUES ($1, 0, $2)", [3, "x" * 500_000]
        )
        async with alice.websocket() as socket:
            stranger = Live(socket)
            await stranger.say("query", id="early", sql="SELECT 1")
            early = await stranger.next("result")
            assert early["error"]["code"] == "MISSING_AUTHORIZATION"
            talk = await signed_in(socket, alice)
            for number in range(40):
                sql = "SELECT pad FROM app.account WHERE id = 3" if number % 5 else "SELECT nope"
                await talk.live.say("query", id=str(number), sql=sql)
            answers = [await talk.live.next("result") for _ in range(40)]
            ran = [a for a in answers if a.get("error", {}).get("code") != "OVERLOADED"]
            assert [int(a["id"]) for a in ran] == sorted(int(a["id"]) for a in ran)
            assert len(ran) >= 32
            assert len({a["id"] for a in answers}) == 40
            assert all(a["status"] == "error" for a in answers if int(a["id"]) % 5 == 0)


# ---- kill -9 ------------------------------------------------------------------------------------

ROWS = 8
PAD = "x" * 400_000  # the rows of one transaction take several entries of the log


async def transfer(client: Client, number: int) -> bool | None:
    """Rewrite all rows in one staged transaction; None: nobody knows."""
    updates = "".join(
        f"UPDATE app.account SET n = n + {sign}, pad = pad || '{number % 10}' WHERE id = {row};"
        for row, sign in ((row, 1 if row % 2 else -1) for row in range(ROWS))
    )
    try:
        answer = await client.sql(f"BEGIN; {updates} COMMIT", request_id=f"r{number}")
    except (aiohttp.ClientError, ConnectionError):
        return None
    return answer.status == 200


async def test_a_kill_leaves_whole_transactions(tmp_path: Path) -> None:
    """Each transfer changes every row by one: the rows always agree on how many there were."""
    async with running(tmp_path / "data") as server:
        async with aiohttp.ClientSession() as http:
            root = await server.login(http)
            await root.ok("CREATE NAMESPACE app")
            await root.ok(TABLE)
            for row in range(ROWS):
                await root.ok("INSERT INTO app.account (id, n, pad) VALUES ($1, 0, $2)", [row, PAD])
        acked = last = 0
        for _ in range(4):
            acked, last = await load_and_kill(server, acked, last)
            await server.start()
            done = await check(server)
            assert acked <= done <= last
            acked = done


async def load_and_kill(server: Server, acked: int, last: int) -> tuple[int, int]:
    """Transfers until the kill: how many were acknowledged, how many may have been done."""
    state = {"acked": acked, "last": max(acked, last)}

    async def run(client: Client) -> None:
        while True:
            state["last"] += 1
            done = await transfer(client, state["last"])
            if done is None:
                return
            assert done
            state["acked"] += 1

    async with aiohttp.ClientSession() as http:
        client = await server.login(http)
        state["last"] = acked
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run(client))
            await wait_until(
                lambda: state["acked"] >= acked + 3, what="some transfers", timeout_s=60
            )
            server.kill()
    return state["acked"], state["last"]


async def check(server: Server) -> int:
    async with aiohttp.ClientSession() as http:
        client = await server.login(http)
        rows = (await client.ok("SELECT id, n, length(pad) FROM app.account ORDER BY id")).rows
        done = {abs(n) for _, n, _ in rows}
        assert len(done) == 1, rows
        assert {int(json.loads(str(size))) - len(PAD) for *_, size in rows} == done
        return done.pop()
