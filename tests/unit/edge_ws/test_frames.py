"""Frames are valid RFC 6455 and valid gzip, made once for all who want the same bytes."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.edge.ws.frames import (
    GZIP_MIN_BYTES,
    deflated,
    event_frame,
    gzip_member,
    message_frame,
    text_frame,
)
from kalamdb.edge.ws.outbox import SOCKETS_PER_TURN, Flusher, Outbox
from kalamdb.feed.events import FeedEvent
from kalamdb.model.ids import Seq


def unframed(frame: bytes) -> tuple[int, bytes]:
    """Opcode and payload of one unmasked, final frame that is all of `frame`."""
    assert frame[0] & 0xF0 == 0x80
    size, at = frame[1], 2
    if size == 126:
        size, at = int.from_bytes(frame[2:4], "big"), 4
        assert size >= 126
    elif size == 127:
        size, at = int.from_bytes(frame[2:10], "big"), 10
        assert size >= 1 << 16
    assert len(frame) == at + size
    return frame[0] & 0x0F, frame[at:]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_head_for_every_length(size: int) -> None:
    assert unframed(text_frame(b"x" * size)) == (1, b"x" * size)


@given(prefix=st.binary(max_size=400), tail=st.binary(max_size=4000))
def test_gzip_member_of_two_parts(prefix: bytes, tail: bytes) -> None:
    member = gzip_member(prefix, tail, deflated(tail))
    assert gzip.decompress(member) == prefix + tail
    reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert reader.decompress(member) == prefix + tail
    assert reader.eof
    assert reader.unused_data == b""


def test_gzip_member_with_the_longest_prefix() -> None:
    prefix = b"p" * 0xFFFF
    assert gzip.decompress(gzip_member(prefix, b"tail", deflated(b"tail"))) == prefix + b"tail"


@pytest.mark.parametrize(("size", "opcode"), [(GZIP_MIN_BYTES - 1, 1), (GZIP_MIN_BYTES, 2)])
def test_packing_begins_at_the_limit(size: int, opcode: int) -> None:
    prefix = b'{"a":1,'
    event = FeedEvent(Seq(1), b"x" * (size - len(prefix)))
    kind, payload = unframed(event_frame(prefix, event, packed=True))
    assert kind == opcode
    plain = payload if kind == 1 else gzip.decompress(payload)
    assert plain == prefix + event.tail
    kind, payload = unframed(message_frame(b"x" * size, packed=True))
    assert kind == opcode
    assert unframed(event_frame(prefix, event, packed=False)) == (1, prefix + event.tail)


def test_what_does_not_shrink_stays_text() -> None:
    noise = b"".join(zlib.crc32(at.to_bytes(4, "big")).to_bytes(4, "big") for at in range(200))
    assert unframed(event_frame(b"", FeedEvent(Seq(1), noise), packed=True))[0] == 1


class Wire:
    """A transport that keeps what is written, and may be stuck."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.stuck = False
        self.closing = False
        self.buffered = 0

    def write(self, data: bytes, /) -> None:
        self.writes.append(data)
        if self.stuck:
            self.buffered += len(data)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.buffered


class Turns:
    """A loop that runs callbacks one by one when asked to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


def flusher(turns: Turns) -> Flusher:
    return Flusher(turns)  # pyright: ignore[reportArgumentType]


def test_frames_of_a_tick_leave_in_one_write_and_in_order() -> None:
    turns, wire = Turns(), Wire()
    outbox = Outbox(wire, flusher(turns), 1000)
    outbox.send(b"first")
    prefix = outbox.prefix(b"p")
    assert outbox.push(prefix, FeedEvent(Seq(1), b"second"))
    outbox.send(b"third")
    assert wire.writes == []
    turns.run()
    assert wire.writes == [
        text_frame(b"first") + text_frame(prefix + b"second") + text_frame(b"third")
    ]
    turns.run()
    assert len(wire.writes) == 1


def test_an_event_is_framed_once_for_the_same_prefix() -> None:
    turns = Turns()
    common = flusher(turns)
    wires = [Wire() for _ in range(3)]
    event = FeedEvent(Seq(1), b"y" * 600)
    plain, packed, also_packed = (Outbox(wire, common, 10_000) for wire in wires)
    plain.packed = False
    for outbox in (plain, packed, also_packed):
        assert outbox.push(outbox.prefix(b"p,"), event)
    turns.run()
    assert len(event.frames) == 2
    assert wires[1].writes[0] is wires[2].writes[0]
    assert unframed(wires[0].writes[0]) == (1, b"p," + event.tail)
    kind, payload = unframed(wires[1].writes[0])
    assert (kind, gzip.decompress(payload)) == (2, b"p, " + event.tail)


def test_a_full_outbox_refuses_until_the_transport_has_drained() -> None:
    turns, wire = Turns(), Wire()
    outbox = Outbox(wire, flusher(turns), 100)
    wire.stuck = True
    event = FeedEvent(Seq(1), b"z" * 38)  # 40 bytes as a frame
    assert outbox.push(b"", event)
    assert outbox.push(b"", event)
    assert not outbox.push(b"", event)
    turns.run()
    assert outbox.waiting_bytes == 80
    assert not outbox.push(b"", event)
    wire.buffered = 0
    assert outbox.push(b"", event)
    outbox.send(b"what must be said is said")
    turns.run()
    assert len(wire.writes) == 2


def test_a_large_crowd_is_written_to_in_several_turns() -> None:
    turns = Turns()
    common = flusher(turns)
    wires = [Wire() for _ in range(SOCKETS_PER_TURN + 1)]
    outboxes = [Outbox(wire, common, 1000) for wire in wires]
    event = FeedEvent(Seq(1), b"a")
    for outbox in outboxes:
        assert outbox.push(b"", event)
    turns.run()
    assert [len(wire.writes) for wire in wires] == [1] * SOCKETS_PER_TURN + [0]
    assert outboxes[-1].push(b"", FeedEvent(Seq(2), b"b"))
    turns.run()
    assert wires[-1].writes == [text_frame(b"a") + text_frame(b"b")]
    assert common.frames == SOCKETS_PER_TURN + 2
    assert not turns.waiting


async def test_a_closing_transport_is_not_written_to() -> None:
    wire = Wire()
    outbox = Outbox(wire, Flusher(asyncio.get_running_loop()), 1000)
    outbox.send(b"late")
    wire.closing = True
    outbox.flush()
    assert wire.writes == []
