"""Requests and streams between nodes, over links without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cluster.rpc import calls
from cluster.rpc.frames import MESSAGE_BYTES_MAX
from cluster.rpc.port import STREAM_WINDOW_BYTES, Peer, RpcStream
from kalamdb.errors import (
    Indeterminate,
    KalamError,
    LimitReached,
    NotLeader,
    Overloaded,
    Unavailable,
)
from tests.loopback import Loopback
from tests.waiting import wait_until


async def echo(peer: Peer, payload: bytes) -> bytes:
    return payload


async def echo_later(peer: Peer, payload: bytes) -> bytes:
    await asyncio.sleep(0)
    return payload


@pytest.mark.parametrize("handler", [echo, echo_later])
async def test_a_call_is_answered(handler: object) -> None:
    async with Loopback(1, 2) as net:
        net[2].on_call("echo", handler)  # type: ignore[arg-type]
        assert await net[1].call(2, "echo", b"hello", 1.0) == b"hello"
        many = [net[1].call(2, "echo", str(i).encode(), 1.0) for i in range(300)]
        assert await asyncio.gather(*many) == [str(i).encode() for i in range(300)]


async def test_both_sides_ask_at_the_same_time() -> None:
    async with Loopback(1, 2, -1) as net:
        for node in (1, 2):
            net[node].on_call("echo", echo_later)
        answers = await asyncio.gather(
            *(net[a].call(b, "echo", b"x", 1.0) for a, b in [(1, 2), (2, 1), (-1, 1), (-1, 2)])
        )
        assert answers == [b"x"] * 4
        with pytest.raises(Unavailable):
            await net[1].call(-1, "echo", b"x", 1.0)


async def test_errors_arrive_as_they_were_raised() -> None:
    async def refuse(peer: Peer, payload: bytes) -> bytes:
        raise NotLeader(3, 2)

    async def broken(peer: Peer, payload: bytes) -> bytes:
        raise ZeroDivisionError

    async with Loopback(1, 2) as net:
        net[2].on_call("refuse", refuse)
        net[2].on_call("broken", broken)
        with pytest.raises(NotLeader) as refused:
            await net[1].call(2, "refuse", b"", 1.0)
        assert (refused.value.group, refused.value.leader) == (3, 2)
        for method in ("broken", "unheard of"):
            with pytest.raises(KalamError) as bug:
                await net[1].call(2, method, b"", 1.0)
            assert type(bug.value) is KalamError


async def test_what_did_not_leave_is_unavailable_and_what_left_is_indeterminate() -> None:
    never = asyncio.Event()
    cancelled: list[bytes] = []

    async def wait(peer: Peer, payload: bytes) -> bytes:
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.append(payload)
            raise
        return b""

    async with Loopback(1, 2) as net:
        net[2].on_call("wait", wait)
        with pytest.raises(Indeterminate, match=r"within 0.01 s"):
            await net[1].call(2, "wait", b"late", 0.01)
        await wait_until(lambda: cancelled == [b"late"], what="the handler is cancelled")
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(net[1].call(2, "wait", b"given up", 9.0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asked.cancel()
        await wait_until(lambda: cancelled[1:] == [b"given up"], what="the handler is cancelled")
        broken = asyncio.gather(net[1].call(2, "wait", b"cut", 9.0), return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        net.cut(1, 2)
        [error] = await broken
        assert isinstance(error, Indeterminate)
        assert "broke" in str(error)
        await wait_until(lambda: cancelled[2:] == [b"cut"], what="the handler is cancelled")
        assert not net[1].connected(2)
        with pytest.raises(Unavailable):
            await net[1].call(2, "wait", b"", 9.0)
        net.mend(1, 2)
        assert net[1].connected(2)


async def test_an_ask_is_answered_by_bytes_or_by_pieces() -> None:
    async def count(peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        if payload == b"0":
            return b"none"

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(int(payload)):
                yield str(number).encode() * 1000

        return pieces()

    async with Loopback(1, 2) as net:
        net[2].on_ask("count", count)
        assert await net[1].ask(2, "count", b"0", 1.0) == b"none"
        answer = await net[1].ask(2, "count", b"5000", 1.0)
        assert not isinstance(answer, bytes)
        got = [piece async for piece in answer]
        assert got == [str(number).encode() * 1000 for number in range(5000)]


async def test_an_answer_that_nobody_reads_stops_within_its_window_and_ends_when_given_up() -> None:
    made: list[int] = []
    closed: list[bool] = []

    async def endless(peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    made.append(1)
                    yield bytes(10_000)
            finally:
                closed.append(True)

        return pieces()

    async with Loopback(1, 2) as net:
        net[2].on_ask("endless", endless)
        answer = await net[1].ask(2, "endless", b"", 1.0)
        assert not isinstance(answer, bytes)
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(made) * 10_000 < STREAM_WINDOW_BYTES + 30_000
        assert len(await anext(answer)) == 10_000
        await answer.aclose()  # type: ignore[attr-defined]
        await wait_until(lambda: bool(closed), what="the pieces are closed")


async def test_a_stream_talks_in_both_directions() -> None:
    async def shout(peer: Peer, payload: bytes, stream: RpcStream) -> None:
        await stream.send(b"welcome " + payload)
        while (data := await stream.receive()) is not None:
            await stream.send(data.upper())

    async with Loopback(1, 2) as net:
        net[2].on_stream("shout", shout)
        stream = await net[1].open(2, "shout", b"one")
        assert await stream.receive() == b"welcome one"
        for word in (b"a", b"bc", b"x" * 2_000_000):
            await stream.send(word)
            assert await stream.receive() == word.upper()
        stream.end()
        assert await stream.receive() is None
        assert not stream.push(b"more")
        assert not await stream.room()


async def test_a_stream_ends_with_the_error_of_its_handler_or_with_the_link() -> None:
    async def fail(peer: Peer, payload: bytes, stream: RpcStream) -> None:
        if payload == b"now":
            raise NotLeader(1, 3)
        with pytest.raises(Unavailable):
            await stream.receive()
        seen.append(True)

    seen: list[bool] = []
    async with Loopback(1, 2) as net:
        net[2].on_stream("fail", fail)
        stream = await net[1].open(2, "fail", b"now")
        with pytest.raises(NotLeader):
            await stream.receive()
        for end in ("abort", "cut"):
            stream = await net[1].open(2, "fail", b"later")
            await asyncio.sleep(0)
            if end == "cut":
                net.cut(1, 2)
            else:
                stream.abort()
                stream.abort()
            with pytest.raises(Unavailable):
                await stream.receive()
        await wait_until(lambda: len(seen) == 2, what="both handlers saw it")


async def test_requests_and_streams_of_a_link_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(peer: Peer, payload: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def talk(peer: Peer, payload: bytes, stream: RpcStream) -> None:
        await stream.receive()

    monkeypatch.setattr(calls, "REQUESTS_MAX", 3)
    monkeypatch.setattr(calls, "STREAMS_MAX", 2)
    monkeypatch.setattr(calls, "ANSWERS_MAX", 4)
    monkeypatch.setattr(calls, "ACCEPTED_MAX", 4)
    async with Loopback(1, 2) as net:
        net[2].on_call("wait", wait)
        net[2].on_stream("talk", talk)
        streams = [await net[1].open(2, "talk", b"") for _ in range(2)]
        with pytest.raises(Overloaded, match="in streams"):
            await net[1].open(2, "talk", b"")
        for stream in streams:
            stream.abort()
        await net[1].open(2, "talk", b"")
        statistics = net[2].links[1].calls.statistics
        await asyncio.sleep(0)
        await wait_until(lambda: statistics().answering == 1, what="the first two have ended")
        asked = asyncio.gather(
            *(net[1].call(2, "wait", b"", 9.0) for _ in range(3)), return_exceptions=True
        )
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="node 2, in requests"):
            await net[1].call(2, "wait", b"", 9.0)
        # Who does not keep to the bound is refused by the other side.
        monkeypatch.setattr(calls, "REQUESTS_MAX", 9)
        monkeypatch.setattr(calls, "STREAMS_MAX", 9)
        with pytest.raises(Overloaded, match="a node, in requests of one link"):
            await net[1].call(2, "wait", b"", 9.0)
        monkeypatch.setattr(calls, "ANSWERS_MAX", 99)
        more = [await net[1].open(2, "talk", b"") for _ in range(4)]
        with pytest.raises(Overloaded, match="a node, in streams of one link"):
            await more[-1].receive()
        net.cut(1, 2)
        assert [type(each) for each in await asked] == [Indeterminate] * 3


async def test_bytes_of_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "REQUEST_BYTES_MAX", 1000)
    async with Loopback(1, 2) as net:
        net[2].on_call("echo", echo_later)
        first = asyncio.gather(net[1].call(2, "echo", bytes(900), 9.0))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="in bytes of requests"):
            await net[1].call(2, "echo", bytes(101), 9.0)
        assert await first == [bytes(900)]
        assert await net[1].call(2, "echo", bytes(900), 9.0) == bytes(900)


async def test_what_no_frame_holds_is_refused_where_it_is() -> None:
    large = bytes(MESSAGE_BYTES_MAX + 1)

    async def grow(peer: Peer, payload: bytes) -> bytes:
        return large

    async def pour(peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            yield large

        return pieces()

    async with Loopback(1, 2) as net:
        net[2].on_call("grow", grow)
        net[2].on_ask("pour", pour)
        with pytest.raises(LimitReached, match="message between nodes"):
            await net[1].call(2, "grow", large, 1.0)
        with pytest.raises(LimitReached, match="answer between nodes"):
            await net[1].call(2, "grow", b"", 1.0)
        answer = await net[1].ask(2, "pour", b"", 1.0)
        assert not isinstance(answer, bytes)
        assert await anext(answer) == b"one"
        with pytest.raises(LimitReached):
            await anext(answer)


async def test_no_time_left_means_not_asked() -> None:
    async with Loopback(1, 2) as net:
        net[2].on_call("echo", echo)
        for timeout_s in (0.0, -1.0):
            with pytest.raises(Unavailable, match="no time"):
                await net[1].call(2, "echo", b"", timeout_s)


async def test_pieces_that_fail_or_do_not_come() -> None:
    async def answer(peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            match payload:
                case b"refuse":
                    raise NotLeader(1, 2)
                case b"break":
                    raise ZeroDivisionError
                case _:
                    await asyncio.Event().wait()

        return pieces()

    async with Loopback(1, 2) as net:
        net[2].on_ask("answer", answer)
        for payload, expected in (
            (b"refuse", NotLeader),
            (b"break", KalamError),
            (b"hang", Unavailable),
        ):
            pieces = await net[1].ask(2, "answer", payload, 0.02)
            assert not isinstance(pieces, bytes)
            assert await anext(pieces) == b"one"
            with pytest.raises(expected) as failed:
                await anext(pieces)
            assert type(failed.value) is expected
        pieces = await net[1].ask(2, "answer", b"hang", 5.0)
        assert not isinstance(pieces, bytes)
        assert await anext(pieces) == b"one"
        net.cut(1, 2)
        with pytest.raises(Unavailable, match="broke"):
            await anext(pieces)


async def test_a_caller_that_leaves_as_its_answer_begins_ends_the_answer() -> None:
    closed: list[bool] = []

    async def endless(peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1000)
            finally:
                closed.append(True)

        return pieces()

    async with Loopback(1, 2) as net:
        net[2].on_ask("endless", endless)
        for turns in range(1, 8):
            async with asyncio.TaskGroup() as tasks:
                asked = tasks.create_task(net[1].ask(2, "endless", b"", 9.0))
                for _ in range(turns):
                    await asyncio.sleep(0)
                done = asked.done()
                asked.cancel()
            if done:
                answer = asked.result()
                assert not isinstance(answer, bytes)
                await answer.aclose()  # type: ignore[attr-defined]
            statistics = net[2].links[1].calls.statistics
            await wait_until(
                lambda statistics=statistics: statistics().answering == statistics().streams == 0,
                what="nothing of it is left",
            )
        assert closed


async def test_a_handler_that_ends_by_a_stray_cancellation_answers() -> None:
    async def stray(peer: Peer, payload: bytes) -> bytes:
        if payload:
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    async with Loopback(1, 2) as net:
        net[2].on_call("stray", stray)
        for payload in (b"", b"later"):
            with pytest.raises(Indeterminate, match="cancelled"):
                await net[1].call(2, "stray", payload, 5.0)


async def test_timeouts_inside_handlers_cancel_the_right_task() -> None:
    async def impatient(peer: Peer, payload: bytes) -> bytes:
        assert asyncio.current_task() is not None
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return b"late"
        return b""

    async with Loopback(1, 2) as net:
        net[2].on_call("impatient", impatient)
        many = (net[1].call(2, "impatient", b"", 5.0) for _ in range(100))
        assert await asyncio.gather(*many) == [b"late"] * 100
