"""How new reads are over real nodes and routers, and what goes on seen from any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.cluster_load import Town, town

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    home = tmp_path_factory.mktemp("reads") / "cluster"
    async with town(home, routers=1, env={"KALAMDB_CLUSTER_BALANCE_INTERVAL_S": "3600"}) as place:
        yield place


async def test_min_cursor_reads_ones_own_writes_anywhere(place: Town) -> None:
    edges, name = place.cluster.servers, place.tenants[1]
    for turn in range(1, 6):
        for writer in edges:
            written = await place.at(writer, name).ok(
                f"UPDATE app.register SET v = {turn} WHERE id = 1"
            )
            cursor = written.body["results"][0]["cursor"]
            for how in ("stale", "linearizable"):
                for reader in edges:
                    found = await place.at(reader, name).ok(
                        "SELECT v FROM app.register WHERE id = 1",
                        consistency=how,
                        min_cursor=cursor,
                    )
                    assert found.rows == [[turn]]
                    assert int(found.body["results"][0]["cursor"]) >= int(cursor)
    ahead = str(int(cursor) + (10_000_000 << 22))
    refused = await place.at(edges[0], name).sql("SELECT v FROM app.register", min_cursor=ahead)
    assert (refused.status, refused.body["error"]["code"]) == (410, "CURSOR_EXPIRED")


async def test_what_goes_on_is_seen_and_ended_from_any_node(place: Town) -> None:
    edges, name = place.cluster.servers, place.tenants[2]
    begun = await place.at(edges[0], name).ok(
        "BEGIN; SELECT v FROM app.register", transaction_id="new"
    )
    named = begun.body["transaction_id"]
    for server in edges:
        (row,) = (await place.at(server, name).ok("SHOW TRANSACTIONS")).rows
        assert row[0] == named
        told = await place.at(server).ok("SELECT transaction_id, node_id FROM system.transactions")
        assert told.rows == [[named, row[-1]]]
    await place.at(edges[-1], name).ok(f"KILL TRANSACTION '{named}'")
    async with asyncio.timeout(10):
        ended = await place.at(edges[0], name).sql("SELECT 1", transaction_id=named)
    assert ended.status != 200
