"""kill -9 of one, of two, of all under load: nothing acknowledged is lost or done twice, and what
is left answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.cluster_load import Load, Town, check, town
from tests.e2e.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED_WITHIN_S = 20.0
AT_ONCE_S = 5.0  # once it is known that meta has no leader; the machine may be busy
STATEMENTS = (
    "INSERT INTO app.register VALUES (2, 0) ON CONFLICT DO NOTHING",
    "SELECT v FROM app.register WHERE id = 1",
    "SELECT count(*) FROM app.log",
    "CREATE NAMESPACE other",
)


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
        for within_s in (REFUSED_WITHIN_S, AT_ONCE_S):
            for server in (cluster.nodes[3], cluster.front):
                await check_refused(place, server, within_s)
        await cluster.restart(1)
        await load.wait_acked(20)
        await cluster.restart(2)
        await load.wait_acked(20)
    await check(load)


async def check_refused(place: Town, server: Server, within_s: float) -> None:
    """Without a majority a statement is refused, or its outcome unknown, in a bounded time."""
    for sql in STATEMENTS:
        client = place.at(server, "root" if sql.startswith("CREATE") else place.tenants[1])
        async with asyncio.timeout(within_s):
            answer = await client.sql(sql)
        assert answer.status in (503, 504), (server.url, sql, answer.body)


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
