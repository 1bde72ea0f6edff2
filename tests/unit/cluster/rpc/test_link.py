"""One link without a socket: when it writes, when it pings, when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.rpc import frames
from cluster.rpc.calls import REQUESTS_PAUSE_BYTES, STREAMS_PAUSE_BYTES
from cluster.rpc.frames import Splitter, id_head, method_head
from cluster.rpc.handlers import Handlers
from cluster.rpc.handshake import Speaker
from cluster.rpc.link import BUFFER_BYTES_MAX, DEAD_AFTER_S, PING_AFTER_S, Link
from cluster.rpc.port import STREAM_WINDOW_BYTES, Peer, RpcStream
from cluster.rpc.workers import Workers
from kalamdb.errors import Overloaded, Unavailable
from kalamdb.lib.clock import SystemIds
from tests.unit.cluster.rpc.wires import KeptOwner, KeptTransport, SetClock, identity, joined
from tests.waiting import wait_until

SECRET = "of-the-tests 0123456789 abcdefghij"


@dataclass
class Scene:
    link: Link
    transport: KeptTransport
    owner: KeptOwner
    clock: SetClock
    handlers: Handlers

    def written(self) -> list[tuple[int, bytes]]:
        heard: list[tuple[int, bytes]] = []
        splitter = Splitter()
        for data in self.transport.writes:
            splitter.feed(
                data, lambda kind, all_, start, end: heard.append((kind, all_[start:end]))
            )
        self.transport.writes.clear()
        return heard

    async def hear(self, data: bytes) -> None:
        """As the loop calls it: outside of any task."""
        loop = asyncio.get_running_loop()
        heard = loop.create_future()

        def receive() -> None:
            try:
                self.link.data_received(data)
            finally:
                heard.set_result(None)

        loop.call_soon(receive)
        await heard

    def watch(self, after_s: float, *, late: bool = False) -> None:
        self.clock.now_s += after_s
        self.link.watch(self.clock.now_s, late=late)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    clock, handlers = SetClock(), Handlers()
    async with asyncio.TaskGroup() as tasks:
        workers = Workers(tasks.create_task)
        owner = KeptOwner(handlers, workers)
        speakers = tuple(
            Speaker(identity(node), SECRET, SystemIds(), lambda node, uuid: None) for node in (1, 2)
        )
        link = Link(speakers[1], None, owner, clock)
        transport = KeptTransport()
        joined(link, transport, (speakers[0], speakers[1]))
        yield Scene(link, transport, owner, clock, handlers)
        link.calls.cancel_all()
        link.close("the test is over")
        workers.close()


async def test_what_is_written_in_one_turn_leaves_at_once(scene: Scene) -> None:
    for number in range(5):
        scene.link.write(frames.raft_head(1), bytes([number]))
    assert scene.transport.writes == []
    await asyncio.sleep(0)
    assert len(scene.transport.writes) == 1
    assert [body for _, body in scene.written()] == [bytes([number]) for number in range(5)]


async def test_answers_to_what_came_together_leave_together(scene: Scene) -> None:
    async def echo(peer: Peer, payload: bytes) -> bytes:
        return payload

    scene.handlers.on_call("echo", echo)
    asked = [method_head(frames.CALL, n, b"echo", 1) + bytes([n]) for n in (1, 3, 5)]
    await scene.hear(b"".join(asked))
    assert len(scene.transport.writes) == 1
    answers = [frames.ID.pack(n) + bytes([n]) for n in (1, 3, 5)]
    assert scene.written() == [(frames.REPLY, answer) for answer in answers]


async def test_silence_is_asked_about_and_then_ends_the_link(scene: Scene) -> None:
    scene.watch(0)  # what came before was the handshake
    await asyncio.sleep(0)
    assert [kind for kind, _ in scene.written()] == [frames.PING]  # how long is the way?
    scene.watch(PING_AFTER_S / 2)
    await asyncio.sleep(0)
    assert scene.written() == []
    scene.watch(PING_AFTER_S / 2)
    await asyncio.sleep(0)
    [(kind, sent)] = scene.written()
    assert kind == frames.PING
    await scene.hear(id_head(frames.PONG, frames.ID.unpack(sent)[0]))
    assert scene.link.rtt_ms == pytest.approx(0.0, abs=0.01)
    scene.watch(2.9)
    scene.watch(DEAD_AFTER_S - 0.1)
    assert scene.owner.reasons == []
    scene.watch(0.2)
    assert scene.owner.reasons == ["it was silent for 3.1 s"]
    assert scene.transport.aborted
    assert scene.link.silent
    with pytest.raises(Unavailable):
        await scene.link.calls.call("echo", b"", 1.0)


async def test_silence_does_not_count_while_this_process_was_stopped(scene: Scene) -> None:
    scene.watch(0)  # what came before was the handshake
    scene.watch(60.0, late=True)
    assert scene.owner.reasons == []
    scene.watch(DEAD_AFTER_S)
    assert len(scene.owner.reasons) == 1


async def test_a_ping_is_answered(scene: Scene) -> None:
    await scene.hear(id_head(frames.PING, 12345))
    assert scene.written() == [(frames.PONG, frames.ID.pack(12345))]


async def test_a_peer_that_does_not_read_stops_streams_then_requests_then_the_link(
    scene: Scene,
) -> None:
    link, transport = scene.link, scene.transport
    transport.room_bytes = 0
    stream = link.calls.open("talk", b"")
    assert stream.push(b"x")
    link.write(frames.raft_head(STREAMS_PAUSE_BYTES), bytes(STREAMS_PAUSE_BYTES))
    await asyncio.sleep(0)
    assert link.paused
    assert not link.full
    assert not stream.push(b"x")
    waiting = asyncio.gather(stream.room())
    link.write(frames.raft_head(REQUESTS_PAUSE_BYTES), bytes(REQUESTS_PAUSE_BYTES))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await link.calls.call("sql", b"", 1.0)
    assert not waiting.done()
    transport.writes.clear()
    link.resume_writing()
    assert await waiting == [True]
    assert stream.push(b"x")
    for _ in range(3):
        link.write(frames.raft_head(15 << 20), bytes(15 << 20))
    await asyncio.sleep(0)
    assert transport.aborted
    assert link.overflowed
    assert f"{BUFFER_BYTES_MAX >> 20} MiB" in scene.owner.reasons[0]
    assert link.buffered_bytes <= 46 << 20


async def test_a_burst_of_one_turn_pauses_streams_only_for_that_turn(scene: Scene) -> None:
    stream = scene.link.calls.open("talk", b"")
    scene.link.write(frames.raft_head(5 << 20), bytes(5 << 20))
    assert not stream.push(b"x")
    assert await stream.room()
    assert stream.push(b"x")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x01",
        id_head(99, 1),
        frames.HEAD.pack(3, frames.REPLY) + b"ab",
        method_head(frames.CALL, 2, b"echo", 0),  # an id of this side
        frames.raft_head(6) + b"broken",
        frames.HEAD_METHOD.pack(10, frames.CALL, 1, 200),  # a method longer than its frame
    ],
)
async def test_what_is_no_frame_ends_the_link(scene: Scene, data: bytes) -> None:
    await scene.hear(data)
    assert len(scene.owner.reasons) == 1
    assert "no proper frames" in scene.owner.reasons[0]
    assert scene.transport.aborted


async def stubborn(peer: Peer, payload: bytes, stream: RpcStream) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("end", ["beyond its window", "after its end", "credited beyond"])
async def test_a_stream_that_breaks_its_word_ends_the_link(scene: Scene, end: str) -> None:
    scene.handlers.on_stream("stubborn", stubborn)
    piece = bytes(100_000)
    data = id_head(frames.DATA, 1, len(piece)) + piece
    await scene.hear(method_head(frames.OPEN, 1, b"stubborn", 0))
    match end:
        case "beyond its window":
            for _ in range(STREAM_WINDOW_BYTES // len(piece) + 1):
                await scene.hear(data)
            assert scene.owner.reasons == []
            await scene.hear(data)
        case "after its end":
            await scene.hear(id_head(frames.END, 1))
            await scene.hear(data)
        case _:
            await scene.hear(frames.credit_frame(1, 2))
    assert len(scene.owner.reasons) == 1


async def test_an_open_stream_whose_handler_does_not_listen_is_cancelled_in_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.rpc.calls.STREAM_GRACE_S", 0.01)
    ended: list[bool] = []

    async def deaf(peer: Peer, payload: bytes, stream: RpcStream) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    scene.handlers.on_stream("deaf", deaf)
    await scene.hear(method_head(frames.OPEN, 1, b"deaf", 0))
    await scene.hear(id_head(frames.CANCEL, 1))
    assert not ended
    await wait_until(lambda: bool(ended), what="the handler is cancelled")
    assert scene.link.calls.statistics().answering == 0


KINDS = st.integers(0, 16)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda n, rest: frames.ID.pack(n) + rest, st.integers(0, 6), st.binary(max_size=20)),
)


@given(st.lists(st.tuples(KINDS, BODIES), max_size=12))
async def test_no_frames_of_a_proven_peer_raise_anything(
    frames_: list[tuple[int, bytes]],
) -> None:
    clock, handlers = SetClock(), Handlers()
    handlers.on_stream("s", stubborn)
    async with asyncio.TaskGroup() as tasks:
        workers = Workers(tasks.create_task)
        owner = KeptOwner(handlers, workers)
        one, two = (
            Speaker(identity(node), SECRET, SystemIds(), lambda node, uuid: None) for node in (1, 2)
        )
        link, transport = Link(two, None, owner, clock), KeptTransport()
        joined(link, transport, (one, two))
        scene = Scene(link, transport, owner, clock, handlers)
        stream = link.calls.open("s", b"")
        for kind, body in frames_:
            await scene.hear(frames.HEAD.pack(1 + len(body), kind) + body)
        stream.abort()
        link.calls.cancel_all()
        link.close("the test is over")
        workers.close()
