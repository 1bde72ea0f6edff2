"""Snapshots: rows and changes at one seq, cursors that can be replayed and those that can't."""

from __future__ import annotations

import pytest

from kalamdb.errors import CursorExpired
from kalamdb.model import codec
from kalamdb.model.change import Op
from kalamdb.model.ids import Seq
from kalamdb.model.table import TableKind
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    World,
    delete,
    insert,
    message,
    message_table,
    pk_of,
    update,
)

TABLE = message_table()
STREAM = message_table(8, kind=TableKind.STREAM, ttl_s=60)


@pytest.fixture
async def world() -> World:
    made = World()
    made.add(TABLE, STREAM)
    return made


async def test_snapshot_stays_as_it_was(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    with world.replica.snapshot() as snapshot:
        world.do(update(TABLE, 1, {2: "later"}))
        world.do(insert(TABLE, message(2)))
        rows = [codec.decode_row(raw)[1] for _, raw in snapshot.scan(TABLE, ALICE)]
        assert rows == [message(1)]
        raw = snapshot.get(TABLE, ALICE, pk_of(TABLE, 1))
        assert raw is not None
        assert codec.row_seq(raw) == snapshot.seq == snapshot.last_change(TABLE, ALICE)
        assert list(snapshot.changes(TABLE, ALICE, snapshot.seq, Seq(1 << 62))) == []


async def test_scan_keeps_to_its_partition_and_orders_by_key(world: World) -> None:
    for number in (5, -3, 1):
        world.do(insert(TABLE, message(number)))
        world.do(insert(TABLE, message(number + 100), partition=BOB))
    with world.replica.snapshot() as snapshot:
        found = [pk for pk, _ in snapshot.scan(TABLE, ALICE)]
    assert found == [pk_of(TABLE, number) for number in (-3, 1, 5)]


async def test_scan_by_seq_both_ways(world: World) -> None:
    seqs = [world.do(insert(TABLE, message(n))).seq for n in range(4)]
    moved = world.do(update(TABLE, 0, {2: "moved"})).seq
    world.do(delete(TABLE, 2))
    with world.replica.snapshot() as snapshot:
        up = [codec.row_seq(raw) for raw in snapshot.scan_by_seq(TABLE, ALICE, seqs[0])]
        down = [
            codec.row_seq(raw)
            for raw in snapshot.scan_by_seq(TABLE, ALICE, Seq(0), newest_first=True)
        ]
    assert up == [seqs[1], seqs[3], moved]
    assert down == [moved, seqs[3], seqs[1]]


async def test_expired_rows_are_hidden_in_every_read(world: World) -> None:
    world.do(insert(STREAM, message(1)))
    world.clock.pass_s(30)
    young = world.do(insert(STREAM, message(2))).seq
    world.clock.pass_s(31)
    with world.replica.snapshot() as snapshot:
        assert [pk for pk, _ in snapshot.scan(STREAM, ALICE)] == [pk_of(STREAM, 2)]
        by_seq = snapshot.scan_by_seq(STREAM, ALICE, Seq(0))
        assert [codec.row_seq(raw) for raw in by_seq] == [young]
        assert snapshot.get(STREAM, ALICE, pk_of(STREAM, 1)) is None


async def test_changes_over_hours(world: World) -> None:
    seqs = []
    for number in range(6):
        seqs.append(world.do(insert(TABLE, message(number))).seq)
        world.clock.pass_s(1800)
    with world.replica.snapshot() as snapshot:
        for at, cursor in enumerate(seqs):
            found = [c.seq for c in snapshot.changes(TABLE, ALICE, cursor, snapshot.seq)]
            assert found == seqs[at + 1 :]
        some = [c.seq for c in snapshot.changes(TABLE, ALICE, seqs[0], seqs[3])]
        assert some == seqs[1:4]


async def test_images_are_those_of_the_change_not_of_today(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    world.do(update(TABLE, 1, {2: "b"}))
    world.do(delete(TABLE, 1))
    world.do(insert(TABLE, message(1, "c")))
    with world.replica.snapshot() as snapshot:
        found = list(snapshot.changes(TABLE, ALICE, Seq(0), snapshot.seq))
    assert [(c.op, c.before, c.after) for c in found] == [
        (Op.INSERT, None, message(1)),
        (Op.UPDATE, message(1), message(1, "b")),
        (Op.DELETE, message(1, "b"), None),
        (Op.INSERT, None, message(1, "c")),
    ]


async def test_cursor_ahead_of_the_group(world: World) -> None:
    last = world.do(insert(TABLE, message(1))).seq
    with world.replica.snapshot() as snapshot:
        with pytest.raises(CursorExpired) as expired:
            snapshot.changes(TABLE, ALICE, Seq(last + 1024), snapshot.seq)
        assert expired.value.reason == "ahead"
        assert list(snapshot.changes(TABLE, ALICE, last, snapshot.seq)) == []


async def test_last_change_of_a_chain_without_any(world: World) -> None:
    with world.replica.snapshot() as snapshot:
        assert snapshot.last_change(TABLE, BOB) == 0
