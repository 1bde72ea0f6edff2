"""Frames: cut anywhere they are the same; what is none breaks the link and holds no memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.rpc import frames
from cluster.rpc.frames import FRAME_BYTES_MAX, BrokenFrame, Splitter


def heard_by(splitter: Splitter, chunks: list[bytes]) -> list[tuple[int, bytes]]:
    heard: list[tuple[int, bytes]] = []

    def hear(kind: int, data: bytes, start: int, end: int) -> None:
        heard.append((kind, data[start:end]))

    for chunk in chunks:
        splitter.feed(chunk, hear)
    return heard


BODIES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8)


@given(BODIES, st.lists(st.integers(1, 30), min_size=1))
def test_frames_are_the_same_however_they_are_cut(
    bodies: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(frames.HEAD.pack(1 + len(body), kind) + body for kind, body in bodies)
    chunks: list[bytes] = []
    at = 0
    while at < len(data):
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(data[at : at + size])
        at += size
    splitter = Splitter()
    assert heard_by(splitter, chunks) == bodies
    assert splitter.held_bytes == 0


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_random_bytes_break_the_link_or_wait(chunks: list[bytes]) -> None:
    splitter = Splitter()
    try:
        heard_by(splitter, chunks)
    except BrokenFrame:
        return
    assert splitter.held_bytes <= sum(map(len, chunks))


@pytest.mark.parametrize("length", [0, FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_length_is_refused_before_anything_is_held(length: int) -> None:
    splitter = Splitter()
    with pytest.raises(BrokenFrame, match="claims"):
        heard_by(splitter, [length.to_bytes(4, "big") + b"\x01" + b"x" * 1000])
    assert splitter.held_bytes == 0


def test_the_largest_frame_comes_through_in_pieces() -> None:
    body = bytes(FRAME_BYTES_MAX - 1)
    data = frames.raft_head(len(body)) + body
    chunks = [data[at : at + 250_000] for at in range(0, len(data), 250_000)]
    assert heard_by(Splitter(), chunks) == [(frames.RAFT, body)]


def test_heads_are_read_as_they_were_written() -> None:
    data = frames.method_head(frames.CALL, 77, b"sql", 5) + b"hello"
    [(kind, body)] = heard_by(Splitter(), [data])
    assert kind == frames.CALL
    assert frames.read_id(body, 0, len(body)) == 77
    method, begins = frames.read_method(body, 0, len(body))
    assert (method, body[begins:]) == (b"sql", b"hello")
    [(kind, body)] = heard_by(Splitter(), [frames.credit_frame(9, 123)])
    assert (kind, frames.read_credit(body, 0, len(body))) == (frames.CREDIT, 123)


@given(st.binary(max_size=30))
def test_short_bodies_are_broken_frames(body: bytes) -> None:
    for read in (frames.read_id, frames.read_method, frames.read_credit):
        try:
            read(body, 0, len(body))
        except BrokenFrame:
            assert len(body) < 300
