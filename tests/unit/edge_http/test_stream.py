"""Answers that come in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from kalamdb.errors import QueryTimeout
from kalamdb.session.run import SqlRequest
from tests.unit.edge_http.wire import Pieces, connected, head, request
from tests.unit.edge_http.world import World, changed, opened
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("each_front")

BODY = b'{"sql":"SELECT 1"}'


@pytest.fixture
async def world(each_front: bool) -> AsyncGenerator[World, None]:
    async with opened() as made:
        yield made


def streams(
    world: World, *pieces: bytes | Exception | asyncio.Event, later: bool = False
) -> Pieces:
    stream = Pieces(list(pieces))

    async def act(asked: SqlRequest) -> Pieces:
        if later:
            await asyncio.sleep(0)
        return stream

    world.session.act = act
    return stream


@pytest.mark.parametrize("later", [False, True])
async def test_pieces_come_as_chunks_and_the_next_request_after_them(
    world: World, later: bool
) -> None:
    stream = streams(world, b'{"a"', b"", b":", b"1" * 200_000, b"}", later=later)
    async with connected(world) as wire:
        await wire.send(request(world) * 2)
        for _ in range(2):
            response = await wire.response()
            assert response.status == 200
            assert response.headers["content-type"] == "application/json"
            assert response.body == b'{"a":' + b"1" * 200_000 + b"}"
    await wait_until(lambda: stream.closed == 2, what="both are closed")
    text = await (await world.http.get("/metrics")).text()
    assert "kalamdb_sql_http_requests_total 2.0" in text
    assert "kalamdb_sql_http_failed_total 0.0" in text


async def test_to_http_1_0_the_end_is_the_end_of_the_connection(world: World) -> None:
    stream = streams(world, b"abc", b"def")
    async with connected(world) as wire:
        await wire.send(head(world, len(BODY), first="POST /v1/api/sql HTTP/1.0") + BODY)
        response = await wire.response()
        assert "transfer-encoding" not in response.headers
        assert await wire.ended() == b"abcdef"
    assert stream.closed


async def test_headers_for_pages_of_other_origins() -> None:
    async with opened(changed("http", cors_origins=("https://a.example",))) as world:
        streams(world, b"abc")
        async with connected(world) as wire:
            await wire.send(request(world, headers={"Origin": "https://a.example"}))
            response = await wire.response()
            assert response.headers["access-control-allow-origin"] == "https://a.example"


async def test_no_piece_is_made_before_the_last_one_is_taken(world: World) -> None:
    stream = streams(world, *([b"x" * 100_000] * 500))
    async with connected(world) as wire:
        await wire.send(request(world))
        for _ in range(5000):
            await asyncio.sleep(0)
        assert 1 <= stream.given < 300
        assert len((await wire.response()).body) == 50_000_000
    assert stream.closed


async def test_who_goes_away_ends_the_stream(world: World) -> None:
    stream = streams(world, b"x" * 10, asyncio.Event())
    async with connected(world) as wire:
        await wire.send(request(world))
        await wait_until(lambda: stream.given == 1, what="the first piece")
    await wait_until(lambda: stream.closed == 1, what="the stream is closed")
    stream = streams(world, *([b"x" * 100_000] * 500))
    async with connected(world) as wire:
        await wire.send(request(world))
        await wait_until(lambda: stream.given > 0, what="the first piece")
    await wait_until(lambda: stream.closed == 1, what="the stream is closed")


@pytest.mark.parametrize("error", [QueryTimeout(1), RuntimeError("a bug")])
async def test_a_stream_that_fails_is_cut(world: World, error: Exception) -> None:
    stream = streams(world, b"[1,", error)
    async with connected(world) as wire:
        await wire.send(request(world))
        said = await wire.ended()
        assert not said.endswith(b"0\r\n\r\n")
    assert stream.closed
    text = await (await world.http.get("/metrics")).text()
    assert "kalamdb_sql_http_failed_total 1.0" in text


async def test_a_stop_cuts_a_stream_that_does_not_end() -> None:
    async with opened(changed("server", shutdown_timeout_s=0.2)) as world:
        stream = streams(world, b"x", asyncio.Event())
        async with connected(world) as wire:
            await wire.send(request(world))
            await wait_until(lambda: stream.given == 1, what="the first piece")
            async with asyncio.timeout(5):
                await world.http.server.close()
            assert stream.closed
