"""A node that hangs, and nodes that are stopped in turn: the others go on, and whoever comes back
does not speak of the past.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.cluster_load import SETTLED_S, Asker, Load, Town, check, read_register, town
from tests.e2e.server import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANGS_S = 10.0
READS = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with town(tmp_path_factory.mktemp("pauses") / "cluster", groups=4) as place:
        yield place


async def test_a_leader_hangs_and_wakes(place: Town) -> None:
    cluster = place.cluster
    hanging = cluster.nodes[await cluster.wait_led(1)]
    load = Load(place, [server for server in cluster.servers if server is not hanging])
    led = [group for group, node in cluster.leaders().items() if node == hanging.node and group]
    async with load.running():
        await load.wait_acked(20)
        await asyncio.gather(*read_often(load, hanging))  # its connections stay
        hanging.pause()
        paused_s = time.monotonic()
        await load.wait_acked(5)
        took_s = time.monotonic() - paused_s
        assert took_s < HANGS_S, f"the others went on after {took_s:.1f} s"
        print(f"groups {led} hung, the others went on after {took_s:.2f} s")
        # These wait in the hanging node's socket and are the first it reads when it wakes.
        async with asyncio.TaskGroup() as tasks:
            for read in read_often(load, hanging):
                tasks.create_task(read)
            await wait_until(
                lambda: time.monotonic() > paused_s + HANGS_S,
                what="it hung long enough",
                timeout_s=2 * HANGS_S,
            )
            await load.wait_acked(20)
            hanging.resume()
        await asyncio.gather(*read_often(load, hanging))
        await load.wait_acked(10)
    await check(load)


def read_often(load: Load, server: Server) -> Iterator[Coroutine[Any, Any, None]]:
    """Every register, each several times."""
    for ledger in load.ledgers.values():
        asker = Asker(load.town, ledger.tenant, load.heard)
        for _ in range(READS):
            yield read_register(ledger, asker, server, load.heard)


async def test_a_rolling_restart_fails_no_request(place: Town) -> None:
    """Clients of a router see refusals at most (503), never an unknown outcome."""
    cluster = place.cluster
    load = Load(place, cluster.routers)
    async with load.running():
        await load.wait_acked(10)
        for node in cluster.nodes:
            code = await asyncio.to_thread(cluster.nodes[node].stop, SETTLED_S)
            assert code == 0, cluster.nodes[node].log.read_text()[-2000:]
            await load.wait_acked(10)
            await cluster.restart(node)
            await cluster.wait_level(node)
    await check(load)
    print(load.heard.counts)
    assert set(load.heard.counts) <= {"200", "503"}, load.heard.counts
    assert load.heard.counts["503"] <= load.heard.counts["200"] / 20
