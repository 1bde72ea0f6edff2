"""Chunks of rows between server and worker."""

from __future__ import annotations

from array import array

import pytest

from kalamdb.model import codec
from kalamdb.model.ids import Seq
from kalamdb.query import wire
from kalamdb.query.wire import ChunkKind


def unpacked(head: bytes, bodies: bytes) -> tuple[list[int], list[dict[int, object]]]:
    kind, count, size = wire.CHUNK_HEAD.unpack_from(head)
    lengths = array("I")
    lengths.frombytes(head[wire.CHUNK_HEAD.size :])
    assert (ChunkKind(kind), count, size) == (ChunkKind.ROWS, len(lengths), len(bodies))
    return codec.decode_rows(memoryview(bodies), lengths)


def test_chunks_hold_the_rows_in_order() -> None:
    rows = [{1: number, 2: "x" * (number % 5)} for number in range(10_000)]
    stored = [(b"", codec.encode_row(Seq(7 + number), row)) for number, row in enumerate(rows)]
    chunks = list(wire.chunks(stored))
    assert len(chunks) < 12
    found = [unpacked(*chunk) for chunk in chunks]
    assert [row for _, part in found for row in part] == rows
    assert [seq for seqs, _ in found for seq in seqs] == list(range(7, 10_007))
    assert list(wire.chunks([])) == []


def test_chunks_of_large_rows_stay_small() -> None:
    small = [(b"", codec.encode_row(Seq(1), {1: 1}))] * 5000
    large = [(b"", codec.encode_row(Seq(1), {1: "x" * 300_000}))] * 60
    stored = small + large + small
    sizes = [len(bodies) for _, bodies in wire.chunks(stored)]
    assert max(sizes) < wire.CHUNK_SIZE_MAX_BYTES + 300_100
    assert sum(sizes) == sum(len(raw) for _, raw in stored)


def test_a_tombstone_or_another_format_is_no_row() -> None:
    with pytest.raises(ValueError, match="tombstone"):
        codec.decode_rows(memoryview(codec.encode_tombstone(Seq(1))), [10])
    strange = bytearray(codec.encode_row(Seq(1), {}))
    strange[0] = 99
    with pytest.raises(codec.UnknownVersion):
        codec.decode_rows(memoryview(strange), [len(strange)])


def test_frames_come_back() -> None:
    query = wire.Query("SELECT 1", (), (), ordered=True, values=False, rows_max=1, size_max_bytes=2)
    assert wire.decode_query(wire.encode_frame(query)[wire.FRAME_HEAD.size :]) == query
    for answer in (
        wire.Ready(),
        wire.Missing((1, 2)),
        wire.Rows(2, b"[1],[2]"),
        wire.Done(2, 3),
        wire.Failed(wire.Failure.PANIC, "why"),
    ):
        assert wire.decode_answer(wire.encode_frame(answer)[wire.FRAME_HEAD.size :]) == answer
