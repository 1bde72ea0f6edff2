"""Queries under way: listed, stopped wherever they wait, noted when slow."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kalamdb.errors import QueryFailed, QueryKilled
from kalamdb.lib.clock import SystemClock
from kalamdb.model.principal import Principal, Role
from kalamdb.query import scan
from kalamdb.query.engine_pool import EnginePool, PoolSettings, Stopped
from kalamdb.query.running import RunningQueries, RunningQuery
from kalamdb.query.scan import ScanLimits
from tests.unit.query.world import MESSAGES, FakeGroups, env, message, scan_plan, tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = Principal.of("alice", Role.USER)
ENDLESS = "SELECT count(*) FROM t0 a, t0 b, t0 c, t0 d WHERE a.id + b.id * c.id - d.id = -1"


class Clock:
    """Moves by hand."""

    now_s = 100.0

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


async def until_state(running: RunningQueries, state: str) -> RunningQuery:
    async with asyncio.timeout(10):
        while True:
            for query in running.listed():
                if query.state == state:
                    return query
            await asyncio.sleep(0)


async def test_a_stopped_query_ends_with_its_worker(pool: EnginePool, groups: FakeGroups) -> None:
    running = RunningQueries(SystemClock(), node=7)
    groups.put(MESSAGES, tenant(), *map(message, range(3_000)))

    async def ask() -> None:
        with running.track(ALICE, "Select", "SELECT 'secret' FROM t WHERE id = 17"):
            plan = scan_plan(ENDLESS, MESSAGES)
            await scan.select(plan, env(), groups, pool, ScanLimits())

    before = pool.statistics()
    asked = asyncio.ensure_future(ask())
    query = await until_state(running, "running")
    assert query.id == "q7-1"
    async with asyncio.timeout(10):
        while not pool.statistics().busy:
            await asyncio.sleep(0)
    running.stop(query)
    with pytest.raises(QueryKilled, match="q7-1"):
        await asked
    after = pool.statistics()
    assert (after.killed, after.timed_out) == (before.killed + 1, before.timed_out)
    assert running.listed() == []
    assert running.statistics().killed_total == 1
    groups.rows.clear()
    plan = scan_plan("SELECT count(*) FROM t0", MESSAGES)
    assert (await scan.select(plan, env(), groups, pool, ScanLimits())).rows_json == b'[["0"]]'
    assert all(snapshot.closed for snapshot in groups.snapshots)


async def test_one_in_the_line_and_one_in_a_thread_stop_too(groups: FakeGroups) -> None:
    pool = EnginePool(PoolSettings(workers_max=1))
    running = RunningQueries(SystemClock())
    gave_up = threading.Event()

    def work(stopped: Stopped) -> None:
        while True:
            try:
                stopped()
            except BaseException:
                gave_up.set()
                raise

    async def look() -> None:
        with running.track(ALICE, "Update", "UPDATE"):
            await pool.look(work, lambda: None)

    asked = asyncio.ensure_future(look())
    running.stop(await until_state(running, "running"))
    with pytest.raises(QueryKilled):
        await asked
    assert await asyncio.to_thread(gave_up.wait, 10)
    # Stopped between two reads: the next one does not begin.
    with pytest.raises(QueryKilled), running.track(ALICE, "Update", "UPDATE") as query:
        running.stop(query)
        await pool.look(work, lambda: None)
    await pool.close()


async def test_slow_ones_are_noted_without_their_literals() -> None:
    clock = Clock()
    running = RunningQueries(clock, slow_s=1.0)
    with running.track(ALICE, "Select", "SELECT 'x' FROM t"):
        clock.now_s += 0.9
    assert running.slow() == []
    with running.track(ALICE, "Select", "SELECT 'x' FROM t WHERE n = 5 AND id = $1") as query:
        query.row_count = 3
        clock.now_s += 1.5
    with pytest.raises(QueryFailed), running.track(ALICE.act_as("bob"), "Delete", "DELETE"):
        clock.now_s += 2
        raise QueryFailed("division by zero")
    first, second = running.slow()
    assert (first.took_ms, first.row_count, first.outcome) == (1500, 3, "done")
    assert first.query == "SELECT ? FROM t WHERE n = ? AND id = $1"
    assert (second.user, second.actor, second.outcome) == ("bob", "alice", "QueryFailed")
