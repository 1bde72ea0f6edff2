"""Batches of rows between nodes: what goes in comes out, in messages of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gather import wire
from kalamdb.errors import MalformedRequest
from kalamdb.far_reads import Freshness, RowsAsked
from kalamdb.model.ids import GroupId, Seq, TableId
from kalamdb.model.key_range import KeyRange, KeySource
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import INT

TABLE = TableDef(TableId(7), "app", "t", TableKind.USER, (Column(1, "id", INT),), (1,), version=3)
ROWS = st.lists(st.tuples(st.sampled_from([b"", b"alice", "ünal".encode()]), st.binary()))


def through(rows: Iterable[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    def messages(source: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
        while (batch := wire.next_batch(source)) is not None:
            yield from wire.parts(batch)
        yield wire.END

    sent = list(messages(iter(rows)))
    return [row for batch in wire.joined(sent) for row in wire.read_batch(batch)], sent


@given(ROWS)
def test_rows_come_as_they_went(rows: list[tuple[bytes, bytes]]) -> None:
    assert through(rows)[0] == rows


def test_messages_are_bounded_whatever_the_rows() -> None:
    rows = [(b"a", b"x" * size) for size in (1, 3 << 20, 0, wire.PART_MAX_BYTES, 5)]
    rows += [(b"b", b"y" * 100) for _ in range(3 * wire.BATCH_ROWS_MAX)]
    found, sent = through(rows)
    assert found == rows
    assert max(map(len, sent)) <= wire.PART_MAX_BYTES
    assert len(sent) > 8


def test_a_request_says_what_was_asked() -> None:
    keys = KeyRange(KeySource.INDEX, 4, b"a", b"b", 1, 2)
    asked = RowsAsked(TABLE, TABLE.partition_for(b"tu"), (keys,), (Seq(9), 5))  # type: ignore[arg-type]
    freshness = Freshness(True, {GroupId(2): Seq(77), GroupId(3): Seq(1)})
    request = wire.read_rows_request(wire.rows_request(GroupId(2), (asked,), freshness))
    assert (request.group, request.stale, request.at_least) == (2, True, 77)
    (one,) = request.asked
    assert (one.table, one.version, one.name, one.then) == (7, 3, "app.t", (9, 5))
    assert wire.asked_of(one) == (b"tu", (keys,))


@pytest.mark.parametrize("payload", [b"", b"\x93\x01\x02\x03", wire.pack([2, 1, [], False, 0])])
def test_what_is_no_request_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedRequest):
        wire.read_rows_request(payload)


def test_what_is_wanted_is_one_of_the_things_asked() -> None:
    assert wire.read_wanted(wire.wanted(1, ()), 2) == wire.Wanted(1, False, ())
    for message in (b"", wire.wanted(2, ()), wire.wanted(-1, ()), wire.pack([1])):
        with pytest.raises(MalformedRequest):
            wire.read_wanted(message, 2)
