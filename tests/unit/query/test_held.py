"""Large results: where they are kept, who waits for room, and what a worker puts where."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from kalamdb.errors import LimitReached, Overloaded, ResultTooLarge, Unavailable
from kalamdb.query import scan
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.held import HeldResult, Room, Share, new_file
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
    room.taken_bytes += len(data)
    file = new_file()
    os.write(file, data)
    return HeldResult(file, len(data), Share(room, len(data)))


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


async def test_room_is_given_in_order() -> None:
    room = Room(100, 2)
    first = await room.take(60)
    second, third = (asyncio.ensure_future(room.take(size)) for size in (50, 10))
    await asyncio.sleep(0)
    assert [second.done(), third.done()] == [False, False], "the small one does not overtake"
    with pytest.raises(Overloaded):
        await room.take(1)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert (await third).size_bytes == 10
    first.shrink(20)
    assert room.taken_bytes == 30
    everything = asyncio.ensure_future(room.take(1_000))
    await asyncio.sleep(0)
    first.shrink(0)
    (await third).shrink(0)
    assert (await everything).size_bytes == 100, "as much as there is"
    late = asyncio.ensure_future(room.take(1))
    await asyncio.sleep(0)
    room.close()
    with pytest.raises(Unavailable):
        await late


async def test_a_stream_is_the_envelope_in_pieces() -> None:
    room = Room(1 << 30, 1)
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
    room = Room(1 << 30, 1)
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
    room = Room(1 << 30, 1)
    held = held_of(b"x" * 1000, room)
    assert room.held_bytes == 1000
    del held
    await asyncio.sleep(0)
    assert room.held_bytes == room.taken_bytes == 0


async def test_a_stream_that_is_given_up_holds_nothing() -> None:
    room = Room(1 << 30, 1)
    stream = ResultStream(HeldAnswer(b"", held_of(b"x" * 400_000, room), b""), 30.0)
    await stream.__aiter__().__anext__()
    await stream.aclose()
    assert room.held_bytes == room.taken_bytes == 0
