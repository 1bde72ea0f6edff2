"""Large results: where they are kept, who waits for room, and what a worker puts where."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from kalamdb.errors import LimitReached, Overloaded, ResultTooLarge
from kalamdb.query import scan
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.query.held import HeldResult, Room, new_file
from kalamdb.query.scan import HELD_ABOVE_BYTES, ScanLimits
from kalamdb.session.answers import ENVELOPE_HEAD
from kalamdb.session.stream import HeldAnswer, ResultStream, enveloped
from tests.unit.query.world import MESSAGES, FakeGroups, env, message, scan_plan, tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = "SELECT id, body FROM t0"


def fill(groups: FakeGroups, rows: int) -> None:
    body = 'é"\\\n' * 100
    groups.put(MESSAGES, tenant(), *(message(number, body=body) for number in range(rows)))


def held_of(data: bytes, room: Room) -> HeldResult:
    file = new_file()
    os.write(file, data)
    return HeldResult(file, room.take(len(data), "alice"))


async def test_a_large_result_is_held_and_equal(warm: EnginePool, groups: FakeGroups) -> None:
    fill(groups, 5_000)
    plan = scan_plan(ALL, MESSAGES)
    whole = await scan.select(plan, env(), groups, warm, ScanLimits())
    large = await scan.select(plan, env(), groups, warm, ScanLimits(), hold=True)
    assert large.held is not None
    assert large.rows_json == b"[]"
    assert warm.statistics().held_bytes == large.held.size_bytes > HELD_ABOVE_BYTES
    data = large.held.read(0, large.held.size_bytes)
    assert b"[" + data + b"]" == whole.rows_json
    assert large.row_count == whole.row_count == 5_000
    large.held.close()
    large.held.close()
    assert warm.statistics().held_bytes == 0


async def test_a_small_result_is_not_held(warm: EnginePool, groups: FakeGroups) -> None:
    fill(groups, 100)
    plan = scan_plan(ALL, MESSAGES)
    small = await scan.select(plan, env(), groups, warm, ScanLimits(), hold=True)
    assert small.held is None
    assert len(orjson.loads(small.rows_json)) == 100
    assert warm.statistics().held_bytes == 0


async def test_a_result_over_its_limit_holds_nothing(warm: EnginePool, groups: FakeGroups) -> None:
    fill(groups, 5_000)
    plan = scan_plan(ALL, MESSAGES)
    for limits in (ScanLimits(4_999, 1 << 30), ScanLimits(5_000, 1 << 20)):
        with pytest.raises(ResultTooLarge):
            await scan.select(plan, env(), groups, warm, limits, hold=True)
        assert warm.statistics().held_bytes == 0
    assert (await scan.select(plan, env(), groups, warm, ScanLimits())).row_count == 5_000


async def test_room_is_shared_by_users_and_nobody_waits_for_it() -> None:
    room = Room(100)
    first = room.take(30, "alice")
    with pytest.raises(LimitReached, match="30 bytes of your other results"):
        room.take(21, "alice")
    second = room.take(20, "alice")
    alone = room.take(50, "bob")
    with pytest.raises(Overloaded):
        room.take(1, "carol")
    room.give_back(alone)
    room.give_back(first)
    room.give_back(second)
    assert room.held_bytes == 0
    whole = room.take(100, "alice")  # one result alone may take all there is
    room.give_back(whole)
    with pytest.raises(Overloaded):
        room.take(101, "alice")
    assert room.held_bytes == 0


async def test_slow_readers_keep_nobody_waiting(groups: FakeGroups) -> None:
    """Results of one user wait to be read: the others' go on, and what is refused holds nothing."""
    fill(groups, 2_000)
    plan = scan_plan(ALL, MESSAGES)
    count = scan_plan("SELECT count(*) FROM t0", MESSAGES)
    pool = EnginePool(PoolSettings(held_max_bytes=3 << 20, timeout_s=20))
    limits = ScanLimits(100_000, 3 << 20)
    try:
        first = await scan.select(plan, env(), groups, pool, limits, hold=True)
        assert first.held is not None
        assert first.held.size_bytes > 1 << 20
        with pytest.raises(LimitReached, match="held_results_bytes"):
            await scan.select(plan, env(), groups, pool, limits, hold=True)
        other = await scan.select(plan, env("bob"), groups, pool, limits, hold=True)
        assert other.held is None, "bob has no rows"
        small = await scan.select(count, env(), groups, pool, limits, hold=True)
        assert small.rows_json == b'[["2000"]]'
        assert pool.statistics().held_bytes == first.held.size_bytes
        first.held.close()
        again = await scan.select(plan, env(), groups, pool, limits, hold=True)
        assert again.held is not None
        again.held.close()
        assert pool.statistics().held_bytes == 0
    finally:
        await pool.close()


async def test_whoever_trickles_loses_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalamdb.session.stream.RATE_MIN_BYTES_PER_S", 1 << 40)
    room = Room(1 << 30)
    stream = ResultStream(HeldAnswer(b"", held_of(b"x" * 400_000, room), b""), 0.03)
    pieces = stream.__aiter__()
    loop = asyncio.get_running_loop()
    with pytest.raises(LimitReached, match="slower than"):
        async for _ in pieces:
            until_s = loop.time() + 0.015
            while loop.time() < until_s:  # less than a stall
                await asyncio.sleep(0)
    assert room.held_bytes == 0
    await stream.aclose()


async def test_a_stream_is_the_envelope_in_pieces() -> None:
    room = Room(1 << 30)
    data = b",".join(b"[%d]" % number for number in range(100_000))
    answer = HeldAnswer(b'{"rows":[', held_of(data, room), b"]}")
    stream = enveloped([answer], 1.5, 30.0)
    assert isinstance(stream, ResultStream)
    pieces = [piece async for piece in stream]
    assert len(pieces) > 3
    assert pieces[0].startswith(ENVELOPE_HEAD)
    assert len(orjson.loads(b"".join(pieces))["results"][0]["rows"]) == 100_000
    assert room.held_bytes == 0
    await stream.aclose()


async def test_whoever_stops_reading_loses_the_result() -> None:
    room = Room(1 << 30)
    stream = ResultStream(HeldAnswer(b"", held_of(b"x" * 400_000, room), b""), 0.02)
    pieces = stream.__aiter__()
    await pieces.__anext__()
    async with asyncio.timeout(5):
        while room.held_bytes:
            await asyncio.sleep(0)
    with pytest.raises(LimitReached, match="nothing of the result was read"):
        await pieces.__anext__()
    await stream.aclose()


async def test_a_result_nobody_closed_gives_back_its_room() -> None:
    room = Room(1 << 30)
    held = held_of(b"x" * 1000, room)
    assert room.held_bytes == 1000
    del held
    await asyncio.sleep(0)
    assert room.held_bytes == 0


async def test_a_stream_that_is_given_up_holds_nothing() -> None:
    room = Room(1 << 30)
    stream = ResultStream(HeldAnswer(b"", held_of(b"x" * 400_000, room), b""), 30.0)
    await stream.__aiter__().__anext__()
    await stream.aclose()
    assert room.held_bytes == 0
