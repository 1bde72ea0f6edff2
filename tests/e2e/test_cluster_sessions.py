"""Transactions over edges, large results through a router, reads that may be old, and what a
cluster tells of itself.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.cluster_load import SETTLED_S, Town, town
from tests.e2e.contract import live
from tests.e2e.server import Client, Server
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
ROWS, ROW_BYTES = 20_000, 2_000  # a result of 40 MB
RESULTS = 2
ENV = {"KALAMDB_LIMITS_STALE_WAIT_S": "1"}
ENDLESS = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with town(tmp_path_factory.mktemp("sessions") / "cluster", routers=2, env=ENV) as place:
        await place.root.ok("CREATE USER TABLE app.account (id INT PRIMARY KEY, n INT)")
        yield place


def edges(place: Town) -> list[Server]:
    return place.cluster.servers


# ---- transactions -------------------------------------------------------------------------------


async def test_a_transaction_by_id_goes_on_at_any_edge(place: Town) -> None:
    alice, bob = place.tenants[1], place.tenants[2]
    await place.at(edges(place)[0], alice).ok("INSERT INTO app.account VALUES (1, 100), (2, 0)")
    for round_, server in enumerate(edges(place)):
        turn = itertools.cycle([*edges(place)[round_ + 1 :], *edges(place)[: round_ + 1]])
        begun = await place.at(server, alice).ok(
            "BEGIN; UPDATE app.account SET n = n - 10 WHERE id = 1", transaction_id="new"
        )
        name = begun.body["transaction_id"]
        for _ in edges(place):
            await place.at(next(turn), alice).ok(
                "UPDATE app.account SET n = n + 2 WHERE id = 2", transaction_id=name
            )
        look = "SELECT n FROM app.account ORDER BY id"
        inside = await place.at(next(turn), alice).ok(look, transaction_id=name)
        assert inside.rows == [[90 - 10 * round_], [10 + 10 * round_]]
        outside = await place.at(next(turn), alice).ok(look)
        assert outside.rows == [[100 - 10 * round_], [10 * round_]]
        stranger = await place.at(next(turn), bob).sql("COMMIT", transaction_id=name)
        assert (stranger.status, stranger.code) == (404, "UNKNOWN_TRANSACTION")
        for _ in edges(place):
            done = await place.at(next(turn), alice).ok(
                "COMMIT", transaction_id=name, request_id=f"commit {round_}"
            )
            assert done.body["results"][0]["message"] == f"transaction {name} committed"
        ended = await place.at(next(turn), alice).sql(look, transaction_id=name)
        assert (ended.status, ended.code) == (404, "UNKNOWN_TRANSACTION")
    assert (await place.at(edges(place)[0], alice).ok(look)).rows == [[50], [50]]


async def test_of_two_transactions_that_write_a_row_one_commits(place: Town) -> None:
    alice = place.tenants[3]
    await place.at(edges(place)[0], alice).ok("INSERT INTO app.account VALUES (1, 0)")
    names: list[str] = []
    for server in edges(place):
        begun = await place.at(server, alice).ok(
            "BEGIN; UPDATE app.account SET n = n + 1 WHERE id = 1", transaction_id="new"
        )
        names.append(begun.body["transaction_id"])
    answers = await asyncio.gather(
        *(
            place.at(server, alice).sql("COMMIT", transaction_id=name)
            for server, name in zip(reversed(edges(place)), names, strict=True)
        )
    )
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    assert (await place.at(edges(place)[1], alice).ok("SELECT n FROM app.account")).rows == [[1]]


async def test_a_transaction_over_a_websocket(place: Town) -> None:
    for number, server in enumerate(edges(place)):
        alice = place.at(server, place.tenants[4 + number % 4])
        await alice.ok(f"INSERT INTO app.account VALUES ({number}, 5)")
        async with live(alice) as they:
            for sql in (
                "BEGIN",
                f"UPDATE app.account SET n = n + 1 WHERE id = {number}",
                f"INSERT INTO app.account VALUES ({number + 100}, 0)",
                "COMMIT",
            ):
                await they.say("query", id=sql, sql=sql)
                result = await they.next("result")
                assert (result["id"], result["status"]) == (sql, "success"), result
            for sql in ("BEGIN", f"DELETE FROM app.account WHERE id = {number}"):
                await they.say("query", id=sql, sql=sql)
                assert (await they.next("result"))["status"] == "success"
        # What the connection left open went with it.
        sql = f"SELECT n FROM app.account WHERE id IN ({number}, {number + 100}) ORDER BY id"
        for other in edges(place):
            client = Client(place.http, other.url, alice.token)
            assert (await client.ok(sql)).rows == [[6], [0]]


# ---- large results ------------------------------------------------------------------------------


def rss_mib(server: Server) -> float:
    assert server.process is not None
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


async def test_a_large_result_passes_through_a_router_in_pieces(place: Town) -> None:
    await place.root.ok("CREATE USER TABLE app.big (id INT PRIMARY KEY, txt TEXT)")
    router, alice = place.cluster.routers[0], place.tenants[5]
    client = place.at(router, alice)
    for first in range(0, ROWS, 400):
        values = ", ".join(f"({n}, '{n:0{ROW_BYTES}}')" for n in range(first, first + 400))
        await client.ok(f"INSERT INTO app.big VALUES {values}")
    body = {"sql": "SELECT id, txt FROM app.big"}
    headers = {"Authorization": f"Bearer {client.token}"}
    most_mib = before_mib = rss_mib(router)

    async def read() -> bytes:
        nonlocal most_mib
        pieces: list[bytes] = []
        async with client.http.post(
            f"{client.url}/v1/api/sql", json=body, headers=headers
        ) as response:
            assert response.status == 200
            async for piece in response.content.iter_chunked(1 << 18):
                pieces.append(piece)
                most_mib = max(most_mib, rss_mib(router))
        return b"".join(pieces)

    async with asyncio.timeout(SETTLED_S):
        results = await asyncio.gather(*(read() for _ in range(RESULTS)))
    for result in results:
        assert len(result) > ROWS * ROW_BYTES
    rows = json.loads(results[0])["results"][0]["rows"]
    assert {row[0] for row in rows} == set(range(ROWS))
    assert most_mib - before_mib < 30, "two results of 40 MB"
    # A client that goes away in the middle leaves nothing behind at the node.
    async with client.http.post(f"{client.url}/v1/api/sql", json=body, headers=headers) as response:
        await response.content.readexactly(1000)
        response.close()
    held = "SELECT metric_value FROM system.stats WHERE metric_name = 'query_held_bytes'"
    async with asyncio.timeout(SETTLED_S):
        for node in place.cluster.nodes.values():
            while (await place.at(node).ok(held)).rows != [["0"]]:
                await asyncio.sleep(0)


# ---- how new a read is --------------------------------------------------------------------------


async def test_a_stale_read_with_min_cursor_sees_what_was_written(place: Town) -> None:
    alice = place.tenants[8]
    for round_, server in enumerate(edges(place) * 4):
        written = await place.at(server, alice).ok(f"INSERT INTO app.account VALUES ({round_}, 1)")
        cursor = written.body["results"][0]["cursor"]
        for other in edges(place):
            read = await place.at(other, alice).ok(
                "SELECT count(*) FROM app.account", consistency="stale", min_cursor=cursor
            )
            assert read.rows == [[str(round_ + 1)]]
            assert int(read.body["results"][0]["cursor"]) >= int(cursor)
            usual = await place.at(other, alice).ok("SELECT count(*) FROM app.account")
            assert usual.rows == [[str(round_ + 1)]]
    ahead = str(int(cursor) + (3600_000 << 22))
    missed = await place.at(edges(place)[0], alice).sql(
        "SELECT count(*) FROM app.account", consistency="stale", min_cursor=ahead
    )
    assert missed.status in (410, 503), missed.body


# ---- what goes on -------------------------------------------------------------------------------


async def test_queries_are_shown_and_killed_from_any_edge(place: Town) -> None:
    alice = place.tenants[7]
    for server in edges(place):
        for other in edges(place):
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(place.at(server, alice).sql(ENDLESS))
                name = await shown_query(place, other, alice)
                await place.at(other).ok(f"KILL QUERY '{name}'")
                ended = await running
            assert ended.code == "QUERY_KILLED", ended.body
    unknown = await place.at(edges(place)[-1]).sql("KILL QUERY 'q9-99'")
    assert unknown.body["error"]["sqlstate"] == "42704"


async def shown_query(place: Town, server: Server, user: str) -> str:
    """The id of the query that `user` runs, as it is shown at `server`."""
    async with asyncio.timeout(SETTLED_S):
        while True:
            told = await place.at(server).ok(
                f"SELECT query_id FROM system.queries WHERE user_id = '{user}'"
            )
            if told.rows:
                return told.rows[0][0]


async def test_every_edge_tells_of_the_whole_cluster(place: Town) -> None:
    cluster = place.cluster
    await wait_until(
        lambda: len(cluster.leaders()) == cluster.groups + 1,
        what="every group is led",
        timeout_s=SETTLED_S,
    )
    for server in edges(place):
        client = place.at(server)
        nodes = await client.ok("SELECT node_id, connected, uuid FROM system.cluster ORDER BY 1")
        assert [row[:2] for row in nodes.rows] == [["1", True], ["2", True], ["3", True]]
        assert len({row[2] for row in nodes.rows}) == 3
        groups = await client.ok(
            "SELECT group_id, count(*) FROM system.cluster_groups GROUP BY 1 ORDER BY 1"
        )
        assert groups.rows == [[str(group), "3"] for group in range(cluster.groups + 1)]
        links = await client.ok(
            "SELECT count(DISTINCT node_id) FROM system.cluster_links"
            " WHERE peer_node_id IS NOT NULL"
        )
        assert links.rows == [["3"]]
        assert (await client.ok("SELECT count(*) FROM system.cluster_moves")).status == 200
        refused = await place.at(server, place.tenants[1]).sql("SELECT * FROM system.cluster")
        assert refused.status == 403
