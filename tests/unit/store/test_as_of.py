"""Rows as they were: against what a scan gave at that time, over random histories."""

from __future__ import annotations

import random

import pytest

from kalamdb.errors import CursorExpired
from kalamdb.model.ids import Partition, Seq, seq_ms
from kalamdb.model.table import TableKind
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    World,
    delete,
    insert,
    message,
    message_table,
    update,
)

TABLE = message_table()
STREAM = message_table(8, kind=TableKind.STREAM, ttl_s=60)
Rows = list[tuple[bytes, bytes]]


@pytest.mark.parametrize("seed", range(12))
async def test_the_rows_of_then_are_what_a_scan_gave_then(seed: int) -> None:
    dice = random.Random(seed)
    world = World()
    world.add(TABLE)
    live: set[int] = set()
    seen: list[tuple[Seq, Rows]] = []
    everybody: list[tuple[Seq, list[tuple[Partition, bytes, bytes]]]] = []
    for _ in range(60):
        number = dice.randrange(8)
        if number not in live:
            world.do(insert(TABLE, message(number)))
            live.add(number)
        elif dice.random() < 0.5:
            world.do(delete(TABLE, number))
            live.discard(number)
        else:
            world.do(update(TABLE, number, {2: f"text {dice.random()}"}))
        if dice.random() < 0.2:
            world.do(insert(TABLE, message(1000 + len(seen)), partition=BOB))
        with world.replica.snapshot() as snapshot:
            then = dice.choice((snapshot.seq, snapshot.last_change(TABLE, ALICE)))
            seen.append((then, list(snapshot.scan(TABLE, ALICE))))
            everybody.append((snapshot.seq, list(snapshot.scan_table(TABLE))))
    with world.replica.snapshot() as snapshot:
        assert list(snapshot.scan_as_of(TABLE, ALICE, Seq(0), 0)) == []
        for then, rows in seen:
            assert list(snapshot.scan_as_of(TABLE, ALICE, then, 0)) == rows
        for then, all_rows in everybody:
            assert list(snapshot.scan_table_as_of(TABLE, then, 0)) == all_rows


async def test_rows_that_had_expired_by_then_are_left_out() -> None:
    world = World()
    world.add(STREAM)
    world.do(insert(STREAM, message(1)))
    then = world.do(insert(STREAM, message(2))).seq
    with world.replica.snapshot() as snapshot:
        rows = list(snapshot.scan(STREAM, ALICE))
        assert list(snapshot.scan_as_of(STREAM, ALICE, then, 0)) == rows
        assert list(snapshot.scan_as_of(STREAM, ALICE, then, seq_ms(then) + 61_000)) == []


async def test_a_time_ahead_is_told_at_once() -> None:
    world = World()
    world.add(TABLE)
    with world.replica.snapshot() as snapshot, pytest.raises(CursorExpired):
        snapshot.scan_as_of(TABLE, ALICE, Seq(snapshot.seq + 1), 0)
