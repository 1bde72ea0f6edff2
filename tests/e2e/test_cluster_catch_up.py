"""A node that was away for a hundred thousand entries catches up while the others are at work."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.e2e.cluster_load import SETTLED_S, Load, Town, check, town
from tests.waiting import wait_until

ENTRIES = 100_000
STATEMENTS = 250
"""Of one request; each is an entry of its own, since none begins before the one before is done."""
GROUPS = 16
ENV = {"KALAMDB_DURABILITY": "os"}  # to have them soon


def entries(place: Town) -> int:
    """In the logs of all groups, as the furthest member has them."""
    furthest: dict[int, int] = {}
    for member in place.cluster.living:
        for log in member.raft():
            group = log["group"]
            furthest[group] = max(furthest.get(group, 0), log["commit_index"])
    return sum(furthest.values())


async def make_entries(place: Town, count: int) -> None:
    goal = entries(place) + count
    statements = ";".join(["INSERT INTO app.filler VALUES (1)"] * STATEMENTS)

    async def lane(name: str) -> None:
        client = place.at(place.cluster.front, name)
        while not enough.is_set():
            answer = await client.sql(statements)
            assert answer.status in (200, 503, 504), answer.body  # leaders move after a kill

    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for name in place.tenants.values():
            tasks.create_task(lane(name))  # one: what waits together goes into one entry
        await wait_until(
            lambda: entries(place) >= goal, what="the entries are there", timeout_s=4 * SETTLED_S
        )
        enough.set()


async def test_a_node_returns_a_hundred_thousand_entries_behind(tmp_path: Path) -> None:
    async with town(tmp_path / "cluster", groups=GROUPS, env=ENV) as place:
        cluster = place.cluster
        await place.root.ok("CREATE USER TABLE app.filler (n INT)")
        away = cluster.nodes[3]
        away.kill()
        before = entries(place)
        started_s = time.monotonic()
        await make_entries(place, ENTRIES)
        print(f"{entries(place) - before} entries in {time.monotonic() - started_s:.1f} s")
        load = Load(place, [cluster.front, cluster.nodes[1], cluster.nodes[2]])
        async with load.running():
            await load.wait_acked(10)
            level = cluster.level_with()
            started_s = time.monotonic()
            away.spawn()
            await wait_until(lambda: level(3), what="it has all of that", timeout_s=SETTLED_S)
            print(f"caught up {time.monotonic() - started_s:.1f} s after its start")
            await load.wait_acked(10)
        await check(load)
