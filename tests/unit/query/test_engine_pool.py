"""Workers that run too long, take too much, are cancelled or lost; and the server that outlives
them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from kalamdb.errors import (
    KalamError,
    Overloaded,
    QueryFailed,
    QueryMemoryExceeded,
    QueryTimeout,
    Unavailable,
)
from kalamdb.query import engine_link, scan
from kalamdb.query.engine_pool import EnginePool, PoolSettings, Stopped
from kalamdb.query.scan import ScanLimits, ScanResult
from kalamdb.sql.bound import ScanSelect
from tests.unit.query.world import MESSAGES, FakeGroups, env, message, scan_plan, tenant
from tests.waiting import wait_until

MIB = 1 << 20
LIMITS = ScanLimits()
ENDLESS = "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r"
CROSS = "SELECT count(*) AS n FROM " + " CROSS JOIN ".join(
    f"generate_series(1, 3000) AS g{number}" for number in range(6)
)


@pytest_asyncio.fixture
async def duo() -> AsyncIterator[EnginePool]:
    found = EnginePool(
        PoolSettings(workers_max=2, queue_max=1, timeout_s=15, memory_max_bytes=96 * MIB)
    )
    yield found
    await found.close()


@asynccontextmanager
async def closing_pool(settings: PoolSettings) -> AsyncGenerator[EnginePool]:
    """A pool that leaves no process to the next test, however this one ends."""
    pool = EnginePool(settings)
    try:
        yield pool
    finally:
        await pool.close()


async def ask(pool: EnginePool, groups: FakeGroups, text: str) -> ScanResult:
    return await scan.select(
        ScanSelect((), lambda env: text, ordered=False), env(), groups, pool, LIMITS
    )


async def one(pool: EnginePool, groups: FakeGroups) -> bytes:
    return (await ask(pool, groups, "SELECT 1 AS one")).rows_json


def workers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "kalamdb.query.worker" in child.cmdline()
    ]


@pytest.mark.parametrize("text", [ENDLESS, CROSS], ids=["recursion", "cross join"])
async def test_work_is_limited(groups: FakeGroups, text: str) -> None:
    pool = EnginePool(PoolSettings(timeout_s=1.5))
    try:
        assert await one(pool, groups) == b'[["1"]]'
        before = {child.pid for child in workers()}
        # Which limit a cross join meets first depends on how fast the machine is.
        limits = (QueryTimeout,) if text is ENDLESS else (QueryTimeout, QueryMemoryExceeded)
        with pytest.raises(limits):
            await ask(pool, groups, text)
        assert await one(pool, groups) == b'[["1"]]'
        if text is ENDLESS:
            assert pool.statistics().timed_out == 1
            await wait_until(
                lambda: len({child.pid for child in workers()} - before) == 1,
                what="a worker in place of the killed one",
            )
    finally:
        await pool.close()
    assert workers() == []


@pytest.mark.parametrize(
    "text",
    [
        # Folded while planning: the engine's own bound never sees it.
        "SELECT repeat('x', 1000000000) AS x",
        "SELECT max(a.value) AS n FROM range(0, 50000000) AS a GROUP BY a.value % 30000000",
        "SELECT array_agg(repeat('x', 1000)) AS x FROM range(0, 10000000)",
    ],
    ids=["constant", "aggregate", "list"],
)
async def test_memory_is_limited(duo: EnginePool, groups: FakeGroups, text: str) -> None:
    with pytest.raises(QueryMemoryExceeded) as caught:
        await ask(duo, groups, text)
    assert caught.value.max_bytes == 96 * MIB
    assert await one(duo, groups) == b'[["1"]]'


async def test_a_cancelled_query_stops(duo: EnginePool, groups: FakeGroups) -> None:
    await one(duo, groups)
    await wait_until(lambda: len(workers()) == 2, what="both workers")
    before = {child.pid for child in workers()}
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ask(duo, groups, ENDLESS))
        await wait_until(lambda: duo.statistics().busy == 1, what="the query at a worker")
        await wait_until(
            lambda: max(child.cpu_times().user for child in workers()) > 0.5,
            what="the worker at work",
        )
        running.cancel()
    await wait_until(
        lambda: len({child.pid for child in workers()} - before) == 1, what="a new worker"
    )
    assert duo.statistics().busy == 0
    assert await one(duo, groups) == b'[["1"]]'


async def test_cancelled_while_rows_are_fed(duo: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(20_000)))
    fed: list[int] = []
    groups.on_snapshot = lambda snapshot: setattr(snapshot, "before_row", lambda: fed.append(1))
    plan = scan_plan("SELECT count(*) AS n FROM t0", MESSAGES)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(scan.select(plan, env(), groups, duo, LIMITS))
        await wait_until(lambda: len(fed) > 0, what="the first row")
        running.cancel()
    await wait_until(lambda: groups.snapshots[0].closed, what="the snapshot closed")
    again = await scan.select(plan, env(), groups, duo, LIMITS)
    assert again.rows_json == b'[["20000"]]'


@pytest.mark.parametrize("busy", [True, False])
async def test_a_lost_worker(duo: EnginePool, groups: FakeGroups, busy: bool) -> None:
    await one(duo, groups)
    await wait_until(lambda: len(workers()) == 2, what="a spare worker")
    if busy:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(failed(duo, groups, ENDLESS))
            await wait_until(lambda: duo.statistics().busy == 1, what="the query at a worker")
            for child in workers():
                os.kill(child.pid, signal.SIGKILL)
        lost = running.result()
        assert isinstance(lost, Unavailable)
        assert "signal 9" in str(lost)
    else:
        for child in workers():
            os.kill(child.pid, signal.SIGKILL)
    if await failed(duo, groups, "SELECT 1 AS one") is not None:  # nobody had noticed yet
        assert await one(duo, groups) == b'[["1"]]'


async def test_a_statement_that_breaks_the_engine(duo: EnginePool, groups: FakeGroups) -> None:
    await one(duo, groups)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(failed(duo, groups, ENDLESS))
        await wait_until(lambda: duo.statistics().busy == 1, what="the query at a worker")
        for child in workers():
            os.kill(child.pid, signal.SIGSEGV)
    assert isinstance(running.result(), QueryFailed)


async def test_the_line_is_bounded(duo: EnginePool, groups: FakeGroups) -> None:
    await one(duo, groups)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(ask(duo, groups, ENDLESS)) for _ in range(2)]
        await wait_until(lambda: duo.statistics().busy == 2, what="both workers busy")
        waiting = tasks.create_task(one(duo, groups))
        await wait_until(lambda: duo.statistics().waiting == 1, what="a query in line")
        with pytest.raises(Overloaded):
            await one(duo, groups)
        running[0].cancel()
        assert await waiting == b'[["1"]]'
        in_line = tasks.create_task(ask(duo, groups, ENDLESS))
        await asyncio.wait((in_line,), timeout=0.01)
        running[1].cancel()
        in_line.cancel()
    assert duo.statistics().waiting == 0


async def test_time_in_line_has_its_own_limit(groups: FakeGroups) -> None:
    settings = PoolSettings(workers_max=1, timeout_s=0.5)
    async with closing_pool(settings) as pool, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(failed(pool, groups, ENDLESS))
        await wait_until(lambda: pool.statistics().busy == 1, what="a worker that starts")
        (child,) = workers()
        child.suspend()  # never ready: the time of its query does not begin
        assert isinstance(await failed(pool, groups, "SELECT 1 AS one"), Overloaded)
        child.kill()
        assert isinstance(await running, Unavailable)


async def failed(pool: EnginePool, groups: FakeGroups, text: str) -> KalamError | None:
    try:
        await ask(pool, groups, text)
    except KalamError as error:
        return error
    return None


async def test_idle_workers_end(groups: FakeGroups) -> None:
    async with closing_pool(PoolSettings(idle_s=0.05)) as pool:
        for _ in range(2):
            assert await one(pool, groups) == b'[["1"]]'
            await wait_until(lambda: pool.statistics().workers == 0, what="the workers at rest")
            await wait_until(lambda: workers() == [], what="their processes gone")


async def test_closing_ends_everything(groups: FakeGroups) -> None:
    async with closing_pool(PoolSettings(workers_max=1)) as pool:
        await one(pool, groups)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(failed(pool, groups, ENDLESS))
            await wait_until(lambda: pool.statistics().busy == 1, what="the query at a worker")
            waiting = tasks.create_task(failed(pool, groups, ENDLESS))
            await wait_until(lambda: pool.statistics().waiting == 1, what="a query in line")
            await pool.close()
        assert isinstance(running.result(), Unavailable)
        assert isinstance(waiting.result(), Unavailable)
        assert workers() == []
        with pytest.raises(Unavailable):
            await one(pool, groups)


async def test_a_worker_that_cannot_start(
    duo: EnginePool, groups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_link, "environment", lambda partitions: {"PYTHONHOME": "/nowhere"})
    for _ in range(2):
        with pytest.raises(Unavailable, match="did not start"):
            await one(duo, groups)
    monkeypatch.undo()
    assert await one(duo, groups) == b'[["1"]]'


async def test_looking_in_a_thread_ends_with_its_caller(duo: EnginePool) -> None:
    closed: list[str] = []
    looked: list[int] = []

    def endless(stopped: Stopped) -> None:
        while True:
            looked.append(1)
            stopped()

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(duo.look(endless, lambda: closed.append("closed")))
        await wait_until(lambda: len(looked) > 0, what="a thread at work")
        assert closed == []
        running.cancel()
    await wait_until(lambda: closed == ["closed"], what="the thread through")
    assert await duo.look(lambda stopped: 7, lambda: None) == 7


SERVER = """
import asyncio, os, sys
import structlog
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
from kalamdb.query import change, scan
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.sql.bound import ScanSelect
from tests.unit.query.test_engine_pool import ENDLESS
from tests.unit.query.world import MESSAGES, FakeGroups, env, message, scan_plan, tenant
from tests.waiting import wait_until
import psutil

async def main():
    pool = EnginePool(PoolSettings())
    assert pool.statistics().workers == 0
    groups = FakeGroups()
    groups.put(MESSAGES, tenant(), *map(message, range(10)))
    plan = scan_plan("SELECT count(*) AS n FROM t0", MESSAGES)
    result = await scan.select(plan, env(), groups, pool, scan.ScanLimits())
    print(result.rows_json.decode())
    print(sorted(name for name in sys.modules if name.split(".")[0] in ("datafusion", "pyarrow")))
    if sys.argv[1] == "close":
        await pool.close()
    else:
        await pool.close()
        pool = EnginePool(PoolSettings())
        endless = ScanSelect((), lambda env: ENDLESS, ordered=False)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(scan.select(endless, env(), groups, pool, scan.ScanLimits()))
            await wait_until(lambda: pool.statistics().busy == 1, what="the query at a worker")
            (child,) = psutil.Process().children()
            await wait_until(lambda: child.cpu_times().user > 0.7, what="the worker at work")
            print(child.pid, flush=True)
            os.kill(os.getpid(), 9)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


def serve(how: str, loop: str) -> list[str]:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SERVER, how, loop],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (0 if how == "close" else -signal.SIGKILL), done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_that_scans_does_not_load_the_engine(loop: str) -> None:
    assert serve("close", loop) == ['[["10"]]', "[]"]


async def test_workers_die_with_a_killed_server() -> None:
    *_, pids = serve("kill", "uvloop")
    await wait_until(lambda: not any(map(alive, map(int, pids.split()))), what="the workers gone")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
