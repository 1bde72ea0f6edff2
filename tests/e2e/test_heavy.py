"""Queries that would never end, of many users at once: they are ended for real, the others are
served meanwhile, and nothing of them is left in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.contract import Node, one_node
from tests.e2e.server import Answer, Client
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
WORKERS = 2
QUERY_S = 2.0
QUERY_MIB = 128
ROWS = 2_000
ENV = {
    "KALAMDB_LIMITS_QUERY_TIMEOUT_S": str(QUERY_S),
    "KALAMDB_LIMITS_QUERY_MEMORY_BYTES": str(QUERY_MIB * MIB),
    "KALAMDB_LIMITS_QUERY_WORKERS": str(WORKERS),
}
ENDLESS = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
HEAVY = (
    ENDLESS,
    "SELECT count(*) FROM app.big a, app.big b, app.big c WHERE a.n + b.n + c.n = -1",
    "SELECT a.txt || b.txt AS x FROM app.big a CROSS JOIN app.big b ORDER BY x DESC",
    "SELECT sum(length(repeat(a.txt, 100000))) FROM app.big a, app.big b",
    "SELECT count(*) FROM app.big a, app.big b WHERE repeat(a.txt || b.txt, 100) ~ '(x+x+)+y'",
    "SELECT length(repeat('x', 2000000000))",
    "SELECT array_agg(a.txt || b.txt) FROM app.big a, app.big b",
    "SELECT count(DISTINCT a.txt || b.txt) FROM app.big a, app.big b",
)
# How a heavy query may end. It had its time, it had its memory, or it gave way to the others.
ENDS = {
    "QUERY_TIMEOUT",
    "QUERY_MEMORY_EXCEEDED",
    "RESULT_TOO_LARGE",
    "OVERLOADED",
    "SQL_EXECUTION_ERROR",
    "CLUSTER_UNAVAILABLE",
}
USERS = 4
LOOKS = 400
# Slower than when nobody else is there by no more than this; both cores are full of queries.
FACTOR, FLOOR_S = 30, 0.25


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    async with one_node(tmp_path_factory.mktemp("heavy") / "data", ENV) as node:
        await node.root.ok("CREATE USER TABLE app.big (id INT PRIMARY KEY, n INT, txt TEXT)")
        for user in range(USERS):
            client = await node.user(f"heavy{user}")
            for first in range(0, ROWS, 500):
                values = ", ".join(f"({n}, {n % 7}, 'xxxx{n}')" for n in range(first, first + 500))
                await client.ok(f"INSERT INTO app.big VALUES {values}")
        await node.user("light")
        yield node


def workers_of(server_pid: int) -> list[int]:
    children = Path(f"/proc/{server_pid}/task/{server_pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def rss_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


async def light_work(client: Client, numbers: itertools.count[int]) -> float:
    """Point reads and inserts of a few connections at once; the time of the slowest percent."""
    took: list[float] = []

    async def one_lane() -> None:
        for _ in range(LOOKS // 4):
            number = next(numbers)
            for sql in (
                f"INSERT INTO app.big VALUES ({number}, 1, 'a')",
                f"SELECT txt FROM app.big WHERE id = {number}",
            ):
                started = time.perf_counter()
                await client.ok(sql)
                took.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(one_lane())
    return sorted(took)[len(took) * 99 // 100]


async def until(
    done: Callable[[], bool], client: Client, queries: itertools.cycle[str]
) -> set[str]:
    """One heavy query after another; how they ended."""
    ends: set[str] = set()
    while not done():
        started = time.monotonic()
        answer = await client.sql(next(queries))
        assert answer.status in (400, 503), answer.body
        ends.add(answer.code)
        assert time.monotonic() - started < 12 * QUERY_S, "a query outlived its time"
    return ends


async def test_others_are_served(node: Node) -> None:
    assert node.server.process is not None
    pid = node.server.process.pid
    light, numbers = await node.user("light"), itertools.count()
    await light_work(light, numbers)  # warms up
    quiet_s = await light_work(light, numbers)
    rss_before_mib = rss_mib(pid)

    finished = asyncio.Event()
    queries: itertools.cycle[str] = itertools.cycle(HEAVY)
    most_mib, most_workers = 0.0, 0

    async def watch() -> None:
        nonlocal most_mib, most_workers
        while not finished.is_set():
            workers = workers_of(pid)
            most_workers = max(most_workers, len(workers))
            most_mib = max(most_mib, max(map(rss_mib, workers), default=0.0))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await finished.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        crowd = [
            group.create_task(until(finished.is_set, node.users[f"heavy{user}"], queries))
            for user in range(USERS)
        ]
        busy_s: list[float] = []
        started = time.monotonic()
        while time.monotonic() - started < 4 * QUERY_S:
            busy_s.append(await light_work(light, numbers))
        finished.set()
    ends = set[str]().union(*(task.result() for task in crowd))
    assert ends <= ENDS, ends
    assert "QUERY_TIMEOUT" in ends
    told = f"p99 {quiet_s * 1000:.1f} ms quiet, {[f'{s * 1000:.0f}' for s in busy_s]} ms busy"
    assert min(busy_s) < max(FACTOR * quiet_s, FLOOR_S), told
    # A worker that is being ended and its successor may overlap.
    assert most_workers <= 2 * WORKERS + 1
    # What the query may take and the engine itself, with what it needs to notice.
    assert most_mib < QUERY_MIB + 700, most_mib
    grown_mib = rss_mib(pid) - rss_before_mib
    assert grown_mib < 80, f"the server grew by {grown_mib:.0f} MiB"
    print(told, f"workers {most_workers}, {most_mib:.0f} MiB; grown {grown_mib:.0f} MiB; {ends}")


async def test_nothing_runs_on(node: Node) -> None:
    """After the last answer the processors are free again."""
    assert node.server.process is not None
    pid = node.server.process.pid

    def idle() -> bool:
        return all(state_of(worker) != "R" for worker in workers_of(pid))

    await wait_until(idle, what="no worker runs", timeout_s=3 * QUERY_S)
    assert (await node.root.ok("SHOW QUERIES")).status == 200
    answer = await node.users["heavy0"].ok("SELECT count(*) AS n FROM app.big")
    assert answer.rows == [[str(ROWS)]]


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


async def test_kill_ends_it(node: Node) -> None:
    client = node.users["heavy1"]
    async with asyncio.TaskGroup() as group:
        started = time.monotonic()
        running = group.create_task(client.sql(ENDLESS))
        listed = await listed_query(node.root)
        killed = await node.users["heavy1"].ok(f"KILL QUERY '{listed}'")
        assert killed.status == 200
        answer: Answer = await running
    assert (answer.status, answer.code) == (400, "QUERY_KILLED"), answer.body
    assert time.monotonic() - started < QUERY_S
    again = await client.sql(f"KILL QUERY '{listed}'")
    assert again.status == 400


async def listed_query(root: Client) -> str:
    """The id of the endless query, once it is there."""
    async with asyncio.timeout(10):
        while True:
            for row in (await root.ok("SHOW QUERIES")).rows:
                if "RECURSIVE" in row[7]:
                    return row[0]
