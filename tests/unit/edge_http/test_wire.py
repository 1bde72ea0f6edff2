"""HTTP as bytes: what both fronts must do alike with any client."""

from __future__ import annotations

import asyncio
import contextvars
import gzip
import json
from collections.abc import AsyncGenerator

import pytest

from kalamdb.errors import QueryTimeout
from kalamdb.session.run import SqlRequest
from tests.unit.edge_http.wire import Gate, Wire, connected, head, request
from tests.unit.edge_http.world import ANSWER, World, changed, opened
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("each_front")

BODY = b'{"sql":"SELECT 1"}'
CHUNKED = {"Content-Length": None, "Transfer-Encoding": "chunked"}


@pytest.fixture
async def world(each_front: bool) -> AsyncGenerator[World, None]:
    async with opened() as made:
        yield made


async def echo(asked: SqlRequest) -> bytes:
    return json.dumps({"sql": asked.sql}).encode()


async def echo_later(asked: SqlRequest) -> bytes:
    await asyncio.sleep(0)
    return await echo(asked)


async def answers(wire: Wire, count: int) -> list[str]:
    return [(await wire.response()).json["sql"] for _ in range(count)]


# ── order ────────────────────────────────────────────────────────────────────────────────────────


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    async def mixed(asked: SqlRequest) -> bytes:
        return await (echo if int(asked.sql) % 3 else echo_later)(asked)

    world.session.act = mixed
    numbers = [str(number) for number in range(300)]
    async with connected(world) as wire:
        await wire.send(b"".join(request(world, number) for number in numbers))
        assert await answers(wire, 300) == numbers


async def test_requests_in_pieces_of_any_size(world: World) -> None:
    world.session.act = echo
    numbers = [str(number) for number in range(12)]
    whole = b"".join(request(world, number) for number in numbers)
    for size in (1, 7, 100, 399, 1000):
        async with connected(world) as wire:
            for at in range(0, len(whole), size):
                await wire.send(whole[at : at + size])
            assert await answers(wire, 12) == numbers


async def test_what_is_pipelined_behind_a_running_request_waits(world: World) -> None:
    gate = world.session.act = Gate()
    async with connected(world) as wire:
        await wire.send(b"".join(request(world, str(number)) for number in range(50)))
        await asyncio.wait_for(gate.entered.wait(), 5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(world.session.asked) == 1
        gate.opened.set()
        assert await answers(wire, 50) == [str(number) for number in range(50)]


async def test_a_client_may_not_pile_up_requests(world: World) -> None:
    gate = world.session.act = Gate()
    one = request(world, "SELECT " + "1" * 50_000)
    async with connected(world) as wire:
        wire.writer.transport.set_write_buffer_limits(high=1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1000:
                async with asyncio.timeout(0.3):
                    await wire.send(one)
                sent += 1
        assert sent < 300
        gate.opened.set()
        for _ in range(sent):
            assert (await wire.response()).status == 200


async def test_another_kind_of_request_in_between(world: World) -> None:
    world.session.act = echo_later
    health = head(world, 0, {"Content-Length": None}, first="GET /health HTTP/1.1")
    async with connected(world) as wire:
        await wire.send(request(world, "1") + health + request(world, "2") + request(world, "3"))
        assert (await wire.response()).json == {"sql": "1"}
        assert (await wire.response()).json["status"] == "healthy"
        assert await answers(wire, 2) == ["2", "3"]


# ── what a body may come as ──────────────────────────────────────────────────────────────────────


async def test_chunked_packed_and_announced_bodies(world: World) -> None:
    async with connected(world) as wire:
        await wire.send(request(world))
        assert (await wire.response()).body == ANSWER
        await wire.send(head(world, 0, CHUNKED) + b"5\r\n" + BODY[:5] + b"\r\n")
        await wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 5, BODY[5:]))
        assert (await wire.response()).status == 200
        packed = gzip.compress(BODY)
        await wire.send(head(world, len(packed), {"Content-Encoding": "gzip"}) + packed)
        assert (await wire.response()).status == 200
    async with connected(world) as wire:
        await wire.send(head(world, len(BODY), {"Expect": "100-continue"}))
        assert (await wire.response()).status == 100
        await wire.send(BODY)
        assert (await wire.response()).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "18, 18"},
        {"Content-Length": "+18"},
        {"Content-Length": "0x12"},
        {"Content-Length": "-18"},
        {"Content-Length": "99999999999999999999"},
        {"Content-Length": "18\r\nContent-Length: 18"},
        {"Content-Length": "18\r\nContent-Length: 3"},
        {"X": "a\r\n folded: yes"},
        {"X": "a\rb"},
        {"X": "a\nTransfer-Encoding: chunked"},
        {"X Y": "a"},
        {"X": "a\0b"},
        {"Host": None},
        {"Host": "a\r\nHost: b"},
    ],
)
async def test_what_two_readers_could_understand_differently(
    world: World, fields: dict[str, str | None]
) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with connected(world) as wire:
        await wire.send(head(world, len(BODY), fields) + BODY + hidden)
        response = await wire.response()
        assert response.status in (400, 413)
        assert response.headers["content-type"] == "application/json"
        if response.status == 400:
            assert await wire.ended() == b""
    assert world.session.asked == []


async def test_the_first_line_and_its_noise(world: World) -> None:
    for first, status in (
        ("POST /v1/api/sql HTTP/1.1", 200),
        ("POST /v1/api/sql?x=1 HTTP/1.1", 200),
        ("POST /v1/api/sqlx HTTP/1.1", 404),
        ("PUT /v1/api/sql HTTP/1.1", 405),
        ("post /v1/api/sql HTTP/1.1", 400),
    ):
        async with connected(world) as wire:
            await wire.send(head(world, len(BODY), first=first) + BODY)
            assert (await wire.response()).status == status, first
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\0\0\0\0\0", b"SSH-2.0-x\r\n"):
        async with connected(world) as wire:
            await wire.send(noise)
            assert (await wire.response()).status == 400
            assert await wire.ended() == b""


@pytest.mark.parametrize("extra", [{"X-Long": "x" * 20_000}, {f"X-{n}": "y" for n in range(200)}])
async def test_heads_have_a_limit(world: World, extra: dict[str, str]) -> None:
    async with connected(world) as wire:
        await wire.send(head(world, len(BODY), extra) + BODY)
        assert (await wire.response()).status == 400
    assert world.session.asked == []


async def test_many_and_long_heads_within_the_limit(world: World) -> None:
    for extra in ({f"X-{n}": "y" * 300 for n in range(100)}, {"X-Long": "x" * 16_000}):
        async with connected(world) as wire:
            await wire.send(head(world, len(BODY), extra) + BODY)
            assert (await wire.response()).status == 200


async def test_a_body_above_the_limit_is_refused_while_it_comes() -> None:
    async with opened(changed("limits", max_statement_bytes=2000, max_body_bytes=8000)) as world:
        async with connected(world) as wire:
            await wire.send(head(world, 8001))
            response = await wire.response()
            assert (response.status, response.json["error"]["code"]) == (413, "BODY_TOO_LARGE")
        async with connected(world) as wire:
            await wire.send(head(world, 0, CHUNKED) + b"2329\r\n" + b" " * 9001)
            assert (await wire.response()).status == 413
        async with connected(world) as wire:
            await wire.send(head(world, 8000) + BODY + b" " * (8000 - len(BODY)))
            assert (await wire.response()).status == 200


async def test_a_stranger_is_refused_before_the_body_comes(world: World) -> None:
    async with connected(world) as wire:
        await wire.send(head(world, 1_000_000, {"Authorization": "Bearer nonsense"}) + b"x")
        assert (await wire.response()).status == 401


# ── connections that end ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "Keep-Alive, x", True),
        ("1.1", "close", False),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
    ],
)
async def test_who_hangs_up(
    world: World, version: str, connection: str | None, stays: bool
) -> None:
    first = f"POST /v1/api/sql HTTP/{version}"
    one = head(world, len(BODY), {"Connection": connection}, first=first) + BODY
    async with connected(world) as wire:
        await wire.send(one)
        assert (await wire.response()).body == ANSWER
        if not stays:
            assert await wire.ended() == b""
            return
        await wire.send(one)
        assert (await wire.response()).body == ANSWER


async def test_an_idle_connection_is_closed() -> None:
    async with opened(changed("http", keepalive_s=0.1)) as world:
        async with connected(world) as wire:
            assert await wire.ended() == b""
        async with connected(world) as wire:
            await wire.send(request(world))
            assert (await wire.response()).status == 200
            assert await wire.ended() == b""
        gate = world.session.act = Gate()
        async with connected(world) as wire, asyncio.timeout(5):
            await wire.send(request(world))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await wire.reader.read(1)
            gate.opened.set()
            assert (await wire.response()).status == 200


@pytest.mark.parametrize("sent", [b"PO", b"POST /v1/api/sql HTTP/1.1\r\nHost: x\r\nX-A"])
async def test_a_slow_head(sent: bytes) -> None:
    async with opened(changed("http", header_timeout_s=0.2)) as world:
        for before in (b"", request(world)):
            async with connected(world) as wire:
                await wire.send(before)
                if before:
                    await wire.response()
                await wire.send(sent)
                await wire.send(b"S")
                response = await wire.response()
                assert response.status == 400
                assert "did not arrive" in response.json["message"]
                assert response.headers["connection"] == "close"
                assert await wire.ended() == b""


async def test_a_slow_body() -> None:
    async with opened(changed("http", body_timeout_s=0.2)) as world:
        async with connected(world) as wire:
            await wire.send(head(world, len(BODY)) + BODY[:-1])
            response = await wire.response()
            assert (response.status, response.json["error"]["code"]) == (400, "INVALID_INPUT")
            assert "did not arrive" in response.json["error"]["message"]
            assert await wire.ended() == b""
        assert world.session.asked == []
        async with connected(world) as wire:
            await wire.send(request(world))
            assert (await wire.response()).status == 200
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await wire.reader.read(1)


async def test_who_takes_nothing_is_hung_up_on() -> None:
    async with opened(changed("http", body_timeout_s=0.2)) as world:
        world.session.answer = b"x" * 8_000_000
        async with connected(world) as wire:
            wire.writer.transport.pause_reading()  # pyright: ignore
            await wire.send(request(world) * 3)
            await wait_until(lambda: len(world.session.asked) > 0, what="it is asked")
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(10):
                    while True:
                        await wire.send(b"x")
                        await asyncio.sleep(0)


# ── clients that go away, sessions that go wrong ─────────────────────────────────────────────────


async def test_a_client_that_goes_away_cancels_its_query(world: World) -> None:
    gate = world.session.act = Gate()
    async with connected(world) as wire:
        await wire.send(request(world))
        await asyncio.wait_for(gate.entered.wait(), 5)
    await wait_until(lambda: gate.ended == ["cancelled"], what="the query is cancelled")
    assert (await world.http.get("/health")).status == 200


async def test_a_cancelled_wait_ends_the_connection_only(world: World) -> None:
    async def cancelled(asked: SqlRequest) -> bytes:
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if asked.sql == "later":
            asyncio.get_running_loop().call_soon(waiting.cancel)
        else:
            waiting.cancel()
        return await waiting

    world.session.act = cancelled
    for sql in ("now", "later"):
        async with connected(world) as wire:
            await wire.send(request(world, sql))
            assert await wire.ended() == b""
    world.session.act = echo
    async with connected(world) as wire:
        await wire.send(request(world, "1"))
        assert await answers(wire, 1) == ["1"]


async def test_timeouts_tasks_and_context_inside_a_session(world: World) -> None:
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")
    found: list[str] = []

    async def act(asked: SqlRequest) -> bytes:
        found.append(seen.get())
        seen.set(asked.sql)
        task = asyncio.current_task()
        assert task is not None
        if asked.sql == "never":
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                raise QueryTimeout(1) from None
        if asked.sql == "soon":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.get_running_loop().create_future()
        if asked.sql == "group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.sleep(0))
        assert asyncio.current_task() is task
        assert task.cancelling() == 0
        assert seen.get() == asked.sql
        return await echo(asked)

    world.session.act = act
    names = ["at once", "never", "soon", "group", "at once"]
    async with connected(world) as wire:
        await wire.send(b"".join(request(world, name) for name in names))
        statuses = [(await wire.response()).status for _ in names]
        assert statuses == [200, 400, 200, 200, 200]
        for name, status in zip(names, statuses, strict=True):
            await wire.send(request(world, name))
            assert (await wire.response()).status == status
    assert found == ["nothing"] * 10


async def test_both_count_the_same(world: World) -> None:
    async with connected(world) as wire:
        await wire.send(request(world) * 3 + head(world, 1) + b"{")
        await wire.send(head(world, 1, {"Authorization": "Bearer x"}) + b"{")
        assert [(await wire.response()).status for _ in range(5)] == [200, 200, 200, 400, 401]
    text = await (await world.http.get("/metrics")).text()
    assert "kalamdb_sql_http_requests_total 5.0" in text
    assert "kalamdb_sql_http_failed_total 2.0" in text


# ── the end of the node ──────────────────────────────────────────────────────────────────────────


async def test_a_stop_lets_requests_finish_and_closes_the_rest(world: World) -> None:
    gate = world.session.act = Gate()
    async with connected(world) as idle, connected(world) as busy, connected(world) as part:
        await part.send(head(world, len(BODY))[:50])
        await busy.send(request(world, "1") + request(world, "2"))
        await asyncio.wait_for(gate.entered.wait(), 5)
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(world.http.server.close())
            assert await idle.ended() == b""
            assert await part.ended() == b""
            assert not stopping.done()
            gate.opened.set()
            response = await busy.response()
            assert response.json == {"sql": "1"}
            assert response.headers["connection"] == "close"
            assert await busy.ended() == b""
    assert gate.ended == ["answered"]


async def test_a_stop_waits_no_longer_than_told() -> None:
    async with opened(changed("server", shutdown_timeout_s=0.2)) as world:
        gate = world.session.act = Gate()
        async with connected(world) as wire:
            await wire.send(request(world))
            await asyncio.wait_for(gate.entered.wait(), 5)
            async with asyncio.timeout(5):
                await world.http.server.close()
            assert gate.ended == ["cancelled"]
            assert await wire.ended() == b""
