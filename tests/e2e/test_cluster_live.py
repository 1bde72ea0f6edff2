"""Live queries over a cluster outlive nodes and routers: every change once, in order, no gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.cluster import Cluster
from tests.e2e.cluster_load import SETTLED_S, Load, Town, check, town
from tests.e2e.cluster_watchers import (
    ResultWatcher,
    Watcher,
    check_watchers,
    wait_connected,
    watching,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WATCHERS = 3  # of each tenant, at each router


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with town(tmp_path_factory.mktemp("live") / "cluster", routers=2, groups=4) as place:
        yield place


def crowd(place: Town) -> list[Watcher]:
    first, second = place.cluster.routers
    ways = ([first, second], [second, first])
    of_tenants = [
        Watcher(place, name, way)
        for name in place.tenants.values()
        for way in ways
        for _ in range(WATCHERS)
    ]
    return [*of_tenants, *(ResultWatcher(place, "root", way) for way in ways)]


async def test_leaders_are_killed(place: Town) -> None:
    """Who is connected to a router stays connected, and misses nothing."""
    cluster = place.cluster
    watchers = crowd(place)
    load = Load(place, cluster.routers)
    async with watching(watchers):
        async with load.running():
            for group in (1, 2):
                await load.wait_acked(10)
                leader = await cluster.wait_led(group)
                cluster.nodes[leader].kill()
                await cluster.wait_led(group, by_other_than=leader)
                await load.wait_acked(10)
                await cluster.restart(leader)
                await cluster.wait_level(leader)
            await load.wait_acked(10)
        await check_watchers(load, watchers)
        assert [told for watcher in watchers for told in watcher.breaks] == []
    await check(load)


async def test_leaders_hand_over(place: Town) -> None:
    cluster = place.cluster
    watchers = crowd(place)
    load = Load(place, cluster.routers)
    async with watching(watchers):
        async with load.running():
            for node in cluster.nodes:
                await load.wait_acked(5)
                await place.root.ok(f"CLUSTER TRANSFER LEADER NODE {node}")
                await wait_until(
                    lambda node=node: leads_all(cluster, node),
                    what=f"node {node} leads all",
                    timeout_s=SETTLED_S,
                )
            await load.wait_acked(5)
        await check_watchers(load, watchers)
        assert [told for watcher in watchers for told in watcher.breaks] == []
    await check(load)


async def test_who_comes_while_leaders_move_is_let_in(place: Town) -> None:
    cluster = place.cluster
    load = Load(place, cluster.routers)
    async with load.running():
        for node in cluster.nodes:
            watchers = crowd(place)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(place.root.ok(f"CLUSTER TRANSFER LEADER NODE {node}"))
                async with watching(watchers):
                    await load.wait_acked(5)
    await check(load)


def leads_all(cluster: Cluster, node: int) -> bool:
    leaders = cluster.leaders()
    return len(leaders) == cluster.groups + 1 and set(leaders.values()) == {node}


async def test_a_router_is_killed_and_clients_go_on_at_another(place: Town) -> None:
    cluster = place.cluster
    watchers = crowd(place)
    first, second = cluster.routers
    load = Load(place, list(cluster.nodes.values()))
    async with watching(watchers):
        async with load.running():
            for router in (first, second):
                await load.wait_acked(10)
                router.kill()
                await load.wait_acked(10)
                await wait_connected(watchers)
                await router.start(SETTLED_S)
                await load.wait_acked(10)
        await check_watchers(load, watchers)
        assert all(watcher.breaks for watcher in watchers)
    await check(load)


async def test_everything_is_killed_and_clients_go_on(place: Town) -> None:
    cluster = place.cluster
    watchers = crowd(place)
    load = Load(place, cluster.servers)
    async with watching(watchers):
        async with load.running():
            await load.wait_acked(10)
            for server in cluster.servers:
                await asyncio.to_thread(server.kill)
            await cluster.start()
            await load.wait_acked(10)
        await wait_connected(watchers)
        await check_watchers(load, watchers)
    await check(load)
