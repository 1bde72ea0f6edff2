"""kill -9 of one, of two, of all under load: nothing acknowledged is lost or done twice, and what
is left answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.cluster_load import Load, Town, check, town

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED_WITHIN_S = 20.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with town(tmp_path_factory.mktemp("kills") / "cluster", groups=4) as place:
        yield place


async def test_a_leader_is_killed(place: Town) -> None:
    cluster = place.cluster
    load = Load(place, cluster.servers)
    async with load.running():
        await load.wait_acked(20)
        leader = await cluster.wait_led(1)
        cluster.nodes[leader].kill()
        await cluster.wait_led(1, by_other_than=leader)
        await load.wait_acked(20)
        await cluster.restart(leader)
        await load.wait_acked(20)
    await check(load)


async def test_a_follower_is_killed(place: Town) -> None:
    cluster = place.cluster
    led = set(cluster.leaders().values())
    load = Load(place, cluster.servers)
    async with load.running():
        await load.wait_acked(20)
        follower = min(cluster.nodes.keys() - led, default=await cluster.wait_led(2))
        cluster.nodes[follower].kill()
        await load.wait_acked(20)
        await cluster.restart(follower)
        await load.wait_acked(20)
    await check(load)


async def test_two_of_three_are_killed(place: Town) -> None:
    cluster = place.cluster
    load = Load(place, cluster.servers)
    async with load.running():
        await load.wait_acked(20)
        cluster.nodes[1].kill()
        cluster.nodes[2].kill()
        tenant = place.tenants[1]
        for server in (cluster.nodes[3], cluster.front):
            client = place.at(server, tenant)
            for sql in (
                "INSERT INTO app.register VALUES (2, 0)",
                "SELECT v FROM app.register WHERE id = 1",
                "SELECT count(*) FROM app.log",
                "CREATE NAMESPACE other",
            ):
                asked_s = time.monotonic()
                async with asyncio.timeout(REFUSED_WITHIN_S):
                    answer = await client.sql(sql)
                assert answer.status in (503, 504, 403), (server.url, sql, answer.body)
                print(server.url, sql, answer.status, answer.code, time.monotonic() - asked_s)
        await cluster.restart(1)
        await load.wait_acked(20)
        await cluster.restart(2)
        await load.wait_acked(20)
    await check(load)


async def test_all_are_killed_at_once(place: Town) -> None:
    cluster = place.cluster
    load = Load(place, cluster.servers)
    async with load.running():
        await load.wait_acked(40)
        for server in cluster.servers:
            server.kill()
        await cluster.start()
        await load.wait_acked(40)
    await check(load)
