"""Nodes that come, go, die and are replaced while everybody works; leaders and slots that move.

Nothing acknowledged is lost or doubled, nothing is refused but for a moment, and at the end all
members of a group hold the same.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp

from tests.e2e.cluster import Cluster, Member, Roster
from tests.e2e.cluster_load import Load, Town, check, town
from tests.e2e.cluster_watchers import Watcher, check_watchers, watching
from tests.e2e.contract import CHEAP_HASHES
from tests.waiting import wait_until

GROUPS = 4


async def join(place: Town, node: int) -> Member:
    """A new node, started and let in."""
    member = place.cluster.add(node)
    member.spawn()
    await place.root.ok(f"CLUSTER JOIN {node} '{member.rpc_address}'")
    await member.wait_healthy(60)
    return member


@contextlib.asynccontextmanager
async def plainly_begun(home: Path) -> AsyncIterator[Town]:
    """A node that ran by itself, and now knows that others may come."""
    cluster = Cluster(home, nodes=1, groups=GROUPS, env=CHEAP_HASHES)
    first = cluster.nodes[1]
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            first.plain = True
            await first.start()
            root = await first.login(http)
            await root.ok("CREATE NAMESPACE app; CREATE SHARED TABLE app.old (id INT PRIMARY KEY)")
            await root.ok("INSERT INTO app.old VALUES (1), (2)")
            assert first.stop() == 0
            first.plain = False
            await cluster.start()
            place = Town(cluster, http)
            await place.settle()
            yield place
    finally:
        cluster.close()


async def test_a_node_that_ran_alone_grows_to_three(tmp_path: Path) -> None:
    async with plainly_begun(tmp_path) as place:
        cluster = place.cluster
        load = Load(place, cluster.servers, groups=[1, 2])
        async with load.running():
            await load.wait_acked(5)
            await join(place, 2)
            await join(place, 3)
            await cluster.wait_voters(3)
            await cluster.wait_even(3)
            await load.wait_acked(5)
        await check(load)
        for server in cluster.servers:
            found = await place.at(server).ok("SELECT id FROM app.old ORDER BY id")
            assert found.rows == [[1], [2]]


async def test_nodes_come_and_go(tmp_path: Path) -> None:
    env = {"KALAMDB_CLUSTER_REPLACE_AFTER_S": "4"}
    async with town(tmp_path, nodes=1, groups=GROUPS, env=env) as place:
        cluster = place.cluster
        load = Load(place, cluster.servers)
        async with load.running():
            await load.wait_acked(5)
            await join(place, 2)
            await load.wait_acked(5)
            assert all(each.voters == (1,) for each in cluster.rosters().values())
            await join(place, 3)
            await cluster.wait_voters(3)
            await cluster.wait_even(3)
            await load.wait_acked(5)
        await check(load)
        await five_nodes(place)
        await one_leaves(place)
        await one_dies(place)


async def five_nodes(place: Town) -> None:
    """Two more, and everybody is served by them, whatever groups they have."""
    cluster = place.cluster
    watchers = [Watcher(place, name, [cluster.front]) for name in place.tenants.values()]
    load = Load(place, cluster.servers)
    async with watching(watchers):
        async with load.running():
            new = [await join(place, 4), await join(place, 5)]
            await cluster.wait_rosters(held_alike(5), "members are spread")
            await cluster.wait_even(5)
            await load.wait_acked(5)
        await check(load)
        watchers_there = [Watcher(place, place.tenants[group], new) for group in place.tenants]
        load = Load(place, new)
        async with watching(watchers_there):
            async with load.running():
                await load.wait_acked(5)
            await check(load)
            await check_watchers(load, [*watchers, *watchers_there])


def held_alike(nodes: int) -> Callable[[dict[int, Roster]], bool]:
    def alike(rosters: dict[int, Roster]) -> bool:
        held = Counter(node for each in rosters.values() for node in each.voters)
        counts = [*held.values(), *[0] * (nodes - len(held))]
        whole = all(len(each.voters) == 3 for each in rosters.values())
        copied = all(not each.learners for group, each in rosters.items() if group)
        return whole and copied and max(counts) - min(counts) <= 1

    return alike


async def one_leaves(place: Town) -> None:
    """Node 1, which was there first."""
    cluster = place.cluster
    load = Load(place, [*cluster.servers[1:], cluster.front])
    async with load.running():
        await place.root.ok("CLUSTER LEAVE 1")
        answer = await place.root.sql("CLUSTER REMOVE 1")
        assert answer.status == 400, answer.body
        await cluster.wait_rosters(
            lambda rosters: all(1 not in each.voters for each in rosters.values()), "node 1 left"
        )
        await wait_until(
            lambda: {log["group"] for log in cluster.nodes[1].raft()} == {0},
            what="node 1 holds nothing",
            timeout_s=60,
        )
        await place.root.ok("CLUSTER REMOVE 1")
        leaving = cluster.nodes.pop(1)
        assert leaving.stop() == 0
        await cluster.wait_rosters(
            lambda rosters: all(
                1 not in (*each.voters, *each.learners) for each in rosters.values()
            ),
            "node 1 is forgotten",
        )
        await cluster.wait_even(4)
        await load.wait_acked(5)
    await check(load)


async def one_dies(place: Town) -> None:
    """Its members are made elsewhere, without being asked."""
    cluster = place.cluster
    dead = cluster.nodes.pop(5)
    dead.kill()
    load = Load(place, cluster.servers)
    async with load.running():
        await cluster.wait_rosters(
            lambda rosters: all(each.voters == (2, 3, 4) for each in rosters.values()),
            "the dead node is replaced",
        )
        await load.wait_acked(5)
    await check(load)
    listed = await place.root.ok("SELECT node_id, connected, members FROM system.cluster")
    assert listed.rows == [[2, True, 5], [3, True, 5], [4, True, 5], [5, False, 0]]
