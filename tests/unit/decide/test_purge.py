"""Expiry, trimming, purging: bounded steps, nothing visible changes but what had its time."""

from __future__ import annotations

import pytest

from kalamdb.errors import Conflict, CursorExpired
from kalamdb.model import keys
from kalamdb.model.change import Op
from kalamdb.model.ids import HOUR_MS, SEQ_EPOCH_MS, Seq, seq_at, seq_hour
from kalamdb.model.table import TableDef, TableKind
from kalamdb.model.work import ExpireRows, PurgeTable, PutFence, TrimBefore
from kalamdb.store.rows import expired_upto
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
OTHER_STREAM = message_table(9, kind=TableKind.STREAM, ttl_s=3600)


@pytest.fixture
async def world() -> World:
    made = World()
    made.add(TABLE, STREAM, OTHER_STREAM)
    return made


def family_keys(world: World, family: keys.Family) -> list[bytes]:
    prefix = bytes([family])
    return [key for key, _ in world.store.scan(prefix, bytes([family + 1]))]


def hour_now(world: World) -> int:
    return (world.clock.now_ms - SEQ_EPOCH_MS) // HOUR_MS


def changes(world: World, after: Seq, table: TableDef = TABLE) -> list[Seq]:
    with world.replica.snapshot() as snapshot:
        found = snapshot.changes(table, ALICE, after, snapshot.seq)
        return [change.seq for change in found]


# ---- TTL -----------------------------------------------------------------------------------------


async def test_expire_in_steps_over_hours_and_partitions(world: World) -> None:
    for number in range(3):
        world.do(insert(STREAM, message(number, mail=f"m{number}"), message(number + 50)))
        world.do(insert(STREAM, message(number), partition=BOB))
        world.do(insert(OTHER_STREAM, message(number)))
        world.clock.pass_s(3000)
    world.do(insert(STREAM, message(9)))
    world.sink.batches.clear()
    upto = expired_upto(STREAM, world.clock.now_ms, world.replica.group)
    steps = []
    while affected := world.do(ExpireRows(STREAM, upto, rows_max=4)).affected:
        steps.append(affected)
    assert steps == [4, 4, 1]
    assert {change.op for change in world.sink.changes} == {Op.EXPIRE}
    assert all(change.before is not None for change in world.sink.changes)
    assert len(family_keys(world, keys.Family.EXPIRY)) == 1 + 3
    assert len(family_keys(world, keys.Family.UNIQUE)) == 0
    assert world.rows(STREAM) == [message(9)]
    for batch in world.sink.batches:
        last = {change.partition: change for change in batch.changes}
        assert all(change.last_of_txn for change in last.values())


async def test_expiry_leaves_what_a_pending_write_superseded(world: World) -> None:
    world.do(insert(STREAM, message(1)))
    world.clock.pass_s(61)
    replaced = world.ask(insert(STREAM, message(1, "new")))
    upto = expired_upto(STREAM, world.clock.now_ms, world.replica.group)
    swept = world.ask(ExpireRows(STREAM, upto))
    world.log.turn()
    assert replaced.result().inserted == 1
    assert swept.result().affected == 0
    assert world.rows(STREAM) == [message(1, "new")]


async def test_rows_are_hidden_by_group_time_when_the_clock_is_behind(world: World) -> None:
    world.do(insert(STREAM, message(1)))
    world.clock.pass_s(120)
    world.do(insert(TABLE, message(1)))
    world.clock.pass_s(-119)
    assert world.row(STREAM, 1) is None
    assert world.rows(STREAM) == []


# ---- trimming ------------------------------------------------------------------------------------


async def test_floor_is_raised_before_anything_is_deleted(world: World) -> None:
    first = world.do(insert(TABLE, message(1))).seq
    world.clock.pass_s(2 * 3600)
    world.do(insert(TABLE, message(2)))
    trim = TrimBefore(hour_now(world))
    before = len(family_keys(world, keys.Family.CHANGE))
    assert world.do(trim).affected == 1
    assert len(family_keys(world, keys.Family.CHANGE)) == before
    with pytest.raises(CursorExpired) as expired:
        changes(world, Seq(first - 1))
    assert expired.value.reason == "expired"
    assert world.do(trim).affected == 1
    assert len(family_keys(world, keys.Family.CHANGE)) == before - 1
    assert world.do(trim).affected == 0


async def test_purge_waits_for_the_raised_floor_to_be_applied(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    world.clock.pass_s(2 * 3600)
    trim = TrimBefore(hour_now(world))
    raised, early = world.ask(trim), world.ask(trim)
    world.log.turn()
    assert raised.result().affected == 1
    assert early.result().affected == 0
    assert len(family_keys(world, keys.Family.CHANGE)) == 1


async def test_floor_is_the_first_seq_of_the_hour(world: World) -> None:
    old = world.do(insert(TABLE, message(1))).seq
    hour_ms = SEQ_EPOCH_MS + (hour_now(world) + 1) * HOUR_MS
    world.clock.now_ms = hour_ms
    young = world.do(insert(TABLE, message(2))).seq
    trim = TrimBefore(hour_now(world))
    while world.do(trim).affected:
        pass
    floor = Seq(seq_at(hour_ms, world.replica.group) - world.replica.group)
    assert seq_hour(old) < seq_hour(young)
    assert changes(world, floor) == [young]
    with pytest.raises(CursorExpired):
        changes(world, Seq(old - 1))


async def test_a_cursor_below_the_floor_is_good_while_nothing_after_it_is_trimmed(
    world: World,
) -> None:
    first, second = (world.do(insert(TABLE, message(number))).seq for number in (1, 2))
    world.clock.pass_s(3 * 3600)
    world.do(insert(TABLE, message(1), partition=BOB))
    while world.do(TrimBefore(hour_now(world))).affected:
        pass
    assert not family_keys(world, keys.Family.CHANGE)[1:], "all of it but Bob's is trimmed"
    assert changes(world, second) == []
    world.clock.pass_s(3 * 3600)
    later = [world.do(insert(TABLE, message(number))).seq for number in (3, 4)]
    assert changes(world, second) == later
    for cursor in (Seq(0), Seq(first - 1), first, Seq(second - 1)):
        with pytest.raises(CursorExpired) as expired:
            changes(world, cursor)
        assert expired.value.reason == "expired"


async def test_floor_of_an_idle_group_is_its_own_seq(world: World) -> None:
    """A cursor at the group's newest seq stays good however long nothing happens."""
    last = world.do(insert(TABLE, message(1))).seq
    world.clock.pass_s(48 * 3600)
    while world.do(TrimBefore(hour_now(world))).affected:
        pass
    assert changes(world, last) == []
    young = world.do(insert(TABLE, message(2))).seq
    assert changes(world, last) == [young]


async def test_history_and_tombstones_leave_with_their_change(world: World) -> None:
    world.do(insert(TABLE, message(1), message(2)))
    world.do(update(TABLE, 1, {2: "b"}))
    world.do(delete(TABLE, 2))
    world.clock.pass_s(2 * 3600)
    world.do(update(TABLE, 1, {2: "c"}))
    assert len(family_keys(world, keys.Family.HISTORY)) == 3
    while world.do(TrimBefore(hour_now(world))).affected:
        pass
    assert len(family_keys(world, keys.Family.HISTORY)) == 1  # what "c" superseded
    assert len(family_keys(world, keys.Family.ROW)) == 1
    assert len(family_keys(world, keys.Family.SEQ)) == 1
    assert world.rows(TABLE) == [message(1, "c")]
    world.do(insert(TABLE, message(2)))


async def test_tombstone_under_a_pending_insert_stays(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    world.do(delete(TABLE, 1))
    world.clock.pass_s(2 * 3600)
    world.do(TrimBefore(hour_now(world)))
    world.ask(insert(TABLE, message(1, "new")))
    world.ask(TrimBefore(hour_now(world)))  # raises the floor again, over the insert
    world.ask(TrimBefore(hour_now(world)))
    world.log.turn()
    assert world.rows(TABLE) == [message(1, "new")]


async def test_snapshot_taken_before_the_trim_still_reads(world: World) -> None:
    first = world.do(insert(TABLE, message(1))).seq
    world.clock.pass_s(2 * 3600)
    with world.replica.snapshot() as snapshot:
        while world.do(TrimBefore(hour_now(world))).affected:
            pass
        found = list(snapshot.changes(TABLE, ALICE, Seq(first - 1), snapshot.seq))
        assert [change.seq for change in found] == [first]


# ---- dropped tables ------------------------------------------------------------------------------


async def test_purge_of_a_dropped_table(world: World) -> None:
    for number in range(5):
        world.do(insert(STREAM, message(number, mail=f"m{number}")))
        world.do(insert(TABLE, message(number, mail=f"m{number}")))
    world.do(update(TABLE, 1, {2: "x"}))
    with pytest.raises(Conflict):
        world.do(PurgeTable(TABLE.id))
    for table in (TABLE, STREAM):
        world.do(PutFence(table, dropped=True))
        while world.do(PurgeTable(table.id, keys_max=4)).affected:
            pass
    left = {key[0] for key, _ in world.store.scan(b"\x00", b"\xff")}
    kept = {"META", "SLOT", "FENCE", "CHANGE"}
    assert {keys.Family(family).name for family in left} == kept
    assert [fence.state.name for fence in world.replica.fences()].count("PURGED") == 2


async def test_purge_waits_until_the_drop_is_applied(world: World) -> None:
    world.ask(insert(TABLE, message(1)))
    world.ask(PutFence(TABLE, dropped=True))
    early = world.ask(PurgeTable(TABLE.id))
    world.log.turn()
    assert isinstance(early.exception(), Conflict)
    assert world.do(PurgeTable(TABLE.id)).affected > 0
