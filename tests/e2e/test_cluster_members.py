"""Nodes that come, go, die and are replaced while everybody works; leaders and slots that move.

Nothing acknowledged is lost or doubled, nothing is refused but for a moment, and at the end all
members of a group hold the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp

from tests.e2e.cluster import Cluster, Member, Roster
from tests.e2e.cluster_load import Load, Town, check, rows, town
from tests.e2e.cluster_watchers import Watcher, check_watchers, watching
from tests.e2e.contract import CHEAP_HASHES
from tests.e2e.server import Answer, Client
from tests.waiting import wait_until

GROUPS = 4


async def join(place: Town, node: int) -> Member:
    """A new node, started and let in."""
    member = place.cluster.add(node)
    member.spawn()
    await place.root.ok(f"CLUSTER JOIN {node} '{member.rpc_address}'")
    await member.wait_healthy(60)
    async with asyncio.timeout(60):
        while await state_of(place, node) != "active":
            pass
    return member


async def state_of(place: Town, node: int) -> str:
    found = await rows(place.root, f"SELECT status FROM system.cluster WHERE node_id = {node}")
    return found[0][0]


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
        await join(place, 2)
        await join(place, 3)
        await cluster.wait_voters(3)
        await cluster.wait_even(3)
        for number, server in enumerate(cluster.servers, start=3):
            client = place.at(server)
            await client.ok(f"INSERT INTO app.old VALUES ({number})")
            found = await client.ok("SELECT id FROM app.old ORDER BY id")
            assert found.rows == [[n] for n in range(1, number + 1)]
        await cluster.wait_alike()


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
    load = Load(place, [cluster.front])
    async with watching(watchers):
        async with load.running():
            new = [await join(place, 4), await join(place, 5)]
            await cluster.wait_rosters(held_alike(5), "members are spread")
            await cluster.wait_even(5)
            await load.wait_acked(5)
        watchers_there = [Watcher(place, name, new) for name in place.tenants.values()]
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
    assert listed.rows == [["2", True, 5], ["3", True, 5], ["4", True, 5], ["5", False, 0]]
    # It comes back, gives up what was taken from it meanwhile, and gets its share.
    cluster.nodes[5] = dead
    await cluster.restart(5)
    await cluster.wait_rosters(held_alike(4), "members are spread again")
    await wait_until(lambda: holds_what_it_should(place, 5), what="nothing else", timeout_s=60)
    await check(load)


def holds_what_it_should(place: Town, node: int) -> bool:
    held = {log["group"] for log in place.cluster.nodes[node].raft()}
    rosters = place.cluster.rosters().items()
    return held == {0} | {group for group, each in rosters if node in each.voters}


async def fill(place: Town, tenant: str) -> None:
    """More than is kept of a log: who lacks all of it needs an image."""
    client = place.at(place.cluster.front, tenant)
    body = "x" * 1000
    values = ", ".join(f"({number}, '{body}')" for number in range(1000))
    for _ in range(10):
        await client.ok(f"INSERT INTO app.heap VALUES {values}")
    await place.root.ok("CLUSTER SNAPSHOT")
    group = place.cluster.group_of(tenant)
    logs = [log for member in place.cluster.living for log in member.raft()]
    assert any(log["group"] == group and log["first_index"] > 1 for log in logs), "nothing was cut"


async def count(place: Town, tenant: str) -> int:
    found = await place.at(place.cluster.front, tenant).ok("SELECT count(*) FROM app.heap")
    return int(found.rows[0][0])


async def test_dead_nodes_are_replaced(tmp_path: Path) -> None:
    async with town(tmp_path, groups=GROUPS) as place:
        cluster, tenant = place.cluster, place.tenants[1]
        await place.root.ok("CREATE USER TABLE app.heap (n INT, body TEXT)")
        await fill(place, tenant)
        load = Load(place, [cluster.front])
        async with load.running():
            await same_id_without_its_disk(place)
            await load.wait_acked(5)
        await check(load)
        assert await count(place, tenant) == 10_000
        load = Load(place, [cluster.front])
        async with load.running():
            await other_id_in_its_place(place)
            await load.wait_acked(5)
        await check(load)
        assert await count(place, tenant) == 10_000


async def same_id_without_its_disk(place: Town) -> None:
    cluster = place.cluster
    lost, others = cluster.nodes[3], [cluster.nodes[1], cluster.nodes[2]]
    lost.kill()
    lost.wipe()
    lost.spawn()  # as if nothing had happened
    refusal = "node 3 has another disk than before"
    for server in (*others, lost):
        await wait_until(
            lambda server=server: refusal in server.log.read_text(),
            what=f"{server.url} says why it is refused",
            timeout_s=30,
        )
    assert not lost.healthy()
    assert {log["role"] for log in lost.raft()} <= {"candidate", "follower", "learner"}
    for each in cluster.rosters().values():
        assert each.leader in (1, 2)
        assert each.voters == (1, 2, 3)
    lost.kill()
    lost.wipe()
    await place.root.ok("CLUSTER REMOVE 3")
    await cluster.wait_rosters(
        lambda rosters: all(each.voters == (1, 2) for each in rosters.values()), "node 3 is out"
    )
    lost.joins = True
    lost.spawn()
    await place.root.ok(f"CLUSTER JOIN 3 '{lost.rpc_address}'")
    await cluster.wait_voters(3)
    await cluster.wait_even(3)
    await lost.wait_healthy()


async def other_id_in_its_place(place: Town) -> None:
    cluster = place.cluster
    cluster.nodes[2].kill()
    del cluster.nodes[2]
    await join(place, 4)
    await place.root.ok("CLUSTER LEAVE 2")
    await cluster.wait_rosters(
        lambda rosters: all(each.voters == (1, 3, 4) for each in rosters.values()), "node 2 is out"
    )
    await place.root.ok("CLUSTER REMOVE 2")
    await cluster.wait_even(3)


async def test_leaders_are_where_they_are_meant(tmp_path: Path) -> None:
    async with town(tmp_path, groups=GROUPS) as place:
        cluster = place.cluster
        await cluster.wait_even(3, timeout_s=30)  # of itself, after the first start
        load = Load(place, cluster.servers)
        async with load.running():
            await load.wait_acked(5)
            assert cluster.nodes[2].stop() == 0
            await cluster.wait_led(1)
            await cluster.restart(2)
            await cluster.wait_even(3)
            await leaders_by_hand(place)
            await load.wait_acked(5)
        await check(load)
        await tables_over_the_router(place)


async def leaders_by_hand(place: Town) -> None:
    """Where somebody has put them they stay."""
    cluster, root = place.cluster, place.root
    for node in cluster.nodes:
        await retried(root, f"CLUSTER TRANSFER LEADER GROUP 1 TO {node}")
        assert await cluster.wait_led(1) == node
    await retried(root, "CLUSTER TRANSFER LEADER NODE 3")
    await cluster.wait_rosters(lambda rosters: led_by(rosters) == {3}, "node 3 leads everything")
    assert led_by(cluster.rosters()) == {3}
    acts = (await retried(root, "CLUSTER STEPDOWN NODE 3")).rows
    assert {(row[0], row[2]) for row in acts} == {("stepdown", True)}
    await cluster.wait_rosters(lambda rosters: 3 not in led_by(rosters), "node 3 leads nothing")
    refused = await root.sql("CLUSTER TRANSFER LEADER GROUP 1 TO 9")
    assert (refused.status, refused.code) == (400, "SQL_EXECUTION_ERROR")
    await retried(root, "CLUSTER REBALANCE LEADERS")
    await cluster.wait_even(3)
    acts = (await retried(root, "CLUSTER SNAPSHOT")).rows
    assert [(row[0], row[1], row[2]) for row in acts] == [
        ("snapshot", str(group), True) for group in range(GROUPS + 1)
    ]


def led_by(rosters: dict[int, Roster]) -> set[int]:
    return {each.leader for each in rosters.values()}


async def retried(client: Client, sql: str) -> Answer:
    """A statement that may meet a leader on its way."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.sql(sql)
            if answer.status == 200:
                ok = [row[2] for row in answer.body["results"][0].get("rows", ())]
                if all(ok):
                    return answer
            else:
                assert answer.status == 503, (sql, answer.body)
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])


async def tables_over_the_router(place: Town) -> None:
    """A router knows nothing of itself, and tells what the nodes tell."""
    for server in place.cluster.servers:
        client = place.at(server)
        nodes = (await client.ok("SELECT node_id, status, connected FROM system.cluster")).rows
        assert nodes == [[str(node), "active", True] for node in (1, 2, 3)]
        sql = "SELECT count(*), count(DISTINCT group_id) FROM system.cluster_groups"
        assert (await client.ok(sql)).rows == [[str(3 * (GROUPS + 1)), str(GROUPS + 1)]]
        assert (await client.ok("SELECT * FROM system.cluster_moves")).rows == []
        links = await client.ok("SELECT count(*) FROM system.cluster_links WHERE peer_node_id > 0")
        assert links.rows == [["6"]]
        listed = (await client.ok("CLUSTER LIST")).rows
        assert [row[0] for row in listed] == ["1", "2", "3"]


async def test_slots_move_while_they_are_written_to(tmp_path: Path) -> None:
    async with town(tmp_path, groups=GROUPS) as place:
        cluster = place.cluster
        watchers = [
            Watcher(place, name, [cluster.front if group % 2 else cluster.nodes[1]])
            for group, name in place.tenants.items()
        ]
        load = Load(place, cluster.servers)
        async with watching(watchers), contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(load.running())
            await load.wait_acked(5)
            for group, name in place.tenants.items():
                target = group % GROUPS + 1
                await retried(place.root, f"CLUSTER MOVE USER '{name}' TO GROUP {target}")
            await wait_moved(place)
            await load.wait_acked(5)
            for group, name in place.tenants.items():
                assert await moved_message(place, name, group % GROUPS + 1) == "is"
            for group in (2, 3):  # now group 1 has more than its share
                await retried(place.root, f"CLUSTER MOVE USER '{place.tenants[group]}' TO GROUP 1")
            await wait_moved(place)
            acts = (await place.root.ok("CLUSTER REBALANCE")).rows
            assert sum(row[0].startswith("move_slot") and row[2] for row in acts) == 2, acts
            await wait_moved(place)
            await load.wait_acked(5)
            await stack.aclose()
            await check(load)
            await check_watchers(load, watchers)
            assert not [each for watcher in watchers for each in watcher.breaks]


async def moved_message(place: Town, name: str, group: int) -> str:
    """is: the user's slot is there; goes: it is on its way now."""
    answer = await retried(place.root, f"CLUSTER MOVE USER '{name}' TO GROUP {group}")
    return answer.body["results"][0]["message"].split()[2]


async def wait_moved(place: Town) -> None:
    async with asyncio.timeout(90):
        while await rows(place.root, "SELECT slot, state FROM system.cluster_moves"):
            pass
