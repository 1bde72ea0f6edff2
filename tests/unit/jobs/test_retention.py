"""Retention rounds over real replicas, with a log that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from kalamdb.errors import CursorExpired
from kalamdb.jobs.retention import Retention, RetentionSettings
from kalamdb.model import keys
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.table import TableDef, TableKind, TableOptions
from kalamdb.model.work import PutFence, Work
from kalamdb.store.catalog_codec import Fence
from tests.unit.replica.harness import ALICE, World, insert, message, message_table, tag

TABLE = message_table()
STREAM = message_table(8, kind=TableKind.STREAM, ttl_s=60)
DAY_S = 24 * 3600
HOUR_S = 3600


class Turning:
    """A replica whose log takes a turn with every write."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.group: GroupId = world.replica.group
        self.written: list[Work] = []

    @property
    def leads(self) -> bool:
        return self.world.replica.leads

    @property
    def seq_last(self) -> Seq:
        return self.world.replica.seq_last

    def fences(self) -> Iterator[Fence]:
        return self.world.replica.fences()

    def write(self, work: Work) -> asyncio.Future[Outcome]:
        self.written.append(work)
        asked = self.world.ask(work)
        self.world.log.turn()
        return asked

    def purge_old(self) -> int:
        return self.world.replica.purge_old()


def started(*tables: TableDef) -> tuple[World, Turning, Retention]:
    world = World()
    world.add(*tables)
    group = Turning(world)
    return world, group, Retention(lambda: [group], world.clock, RetentionSettings())


def left(world: World, family: keys.Family) -> int:
    return sum(1 for _ in world.store.scan(bytes([family]), bytes([family + 1])))


def can_resume(world: World, cursor: Seq) -> bool:
    with world.replica.snapshot() as snapshot:
        try:
            snapshot.changes(TABLE, ALICE, cursor, snapshot.seq)
        except CursorExpired:
            return False
    return True


async def test_stream_rows_leave_after_their_ttl() -> None:
    world, _, retention = started(TABLE, STREAM)
    world.do(insert(STREAM, message(1)))
    world.do(insert(TABLE, message(1)))
    await retention.round()
    assert left(world, keys.Family.ROW) == 2
    world.clock.pass_s(61)
    await retention.round()
    assert left(world, keys.Family.ROW) == 1
    assert retention.statistics().expired == 1


async def test_changes_and_request_ids_leave_after_a_day() -> None:
    world, _, retention = started(TABLE)
    first = world.do(insert(TABLE, message(1)), tag("a")).seq
    world.clock.pass_s(DAY_S - HOUR_S)
    second = world.do(insert(TABLE, message(2))).seq
    await retention.round()
    assert can_resume(world, Seq(first - 1))
    assert left(world, keys.Family.REQUEST) == 1
    world.clock.pass_s(2 * HOUR_S)
    await retention.round()
    assert not can_resume(world, Seq(first - 1))
    assert can_resume(world, Seq(second - 1))
    assert left(world, keys.Family.REQUEST) == left(world, keys.Family.REQUEST_HOUR) == 0
    assert left(world, keys.Family.CHANGE) == 1


async def test_a_table_may_ask_for_longer_history() -> None:
    longer = message_table(options=TableOptions(history_retention_h=48))
    world, _, retention = started(longer)
    first = world.do(insert(longer, message(1))).seq
    world.clock.pass_s(2 * DAY_S - HOUR_S)
    await retention.round()
    assert can_resume(world, Seq(first - 1))
    world.clock.pass_s(3 * HOUR_S)
    await retention.round()
    assert not can_resume(world, Seq(first - 1))


async def test_full_history_is_kept_and_request_ids_are_not() -> None:
    full = message_table(options=TableOptions(history_full=True))
    world, _, retention = started(full)
    first = world.do(insert(full, message(1)), tag("a")).seq
    world.clock.pass_s(30 * DAY_S)
    await retention.round()
    assert can_resume(world, Seq(first - 1))
    assert left(world, keys.Family.CHANGE) == 1
    assert left(world, keys.Family.REQUEST) == 0


async def test_dropped_tables_are_emptied_once() -> None:
    world, group, retention = started(TABLE, STREAM)
    world.do(insert(TABLE, message(1)))
    world.do(PutFence(TABLE, dropped=True))
    await retention.round()
    assert left(world, keys.Family.ROW) == 0
    group.written.clear()
    await retention.round()
    assert [type(work).__name__ for work in group.written] == ["ExpireRows", "TrimBefore"]


async def test_followers_and_lost_leaders_are_left_alone() -> None:
    world, group, retention = started(STREAM)
    world.log.lose()
    await retention.round()
    assert group.written == []
    world.log.elect(2)

    def losing(work: Work) -> asyncio.Future[Outcome]:
        world.log.lose()
        return world.ask(work)

    group.write = losing  # type: ignore[method-assign]
    await retention.round()
    assert retention.statistics().rounds == 2


async def test_idle_rounds_write_no_entries() -> None:
    world, _, retention = started(TABLE, STREAM)
    world.do(insert(TABLE, message(1)))
    world.clock.pass_s(3 * DAY_S)
    await retention.round()
    entries = len(world.log.entries)
    world.clock.pass_s(DAY_S)
    await retention.round()
    assert len(world.log.entries) == entries


@pytest.mark.parametrize("family", [keys.Family.CHANGE])
async def test_steps_are_bounded(family: keys.Family) -> None:
    world, group, _ = started(TABLE)
    for number in range(5):
        world.do(insert(TABLE, *(message(number * 1000 + n) for n in range(1000))))
    world.clock.pass_s(2 * DAY_S)
    settings = RetentionSettings(steps_max=2)
    await Retention(lambda: [group], world.clock, settings).round()
    assert left(world, family) == 5000 - 2000
