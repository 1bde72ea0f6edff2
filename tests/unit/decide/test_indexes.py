"""Index entries: they follow their rows, are built while rows are written, and leave in steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kalamdb.errors import Conflict, IndexNotUnique, LimitReached, UniqueViolation
from kalamdb.model import codec, keys
from kalamdb.model.command import Effect
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.keys import Family
from kalamdb.model.table import Index, IndexState, TableDef, TableKind, Unique
from kalamdb.model.work import (
    BuildIndex,
    ConflictRule,
    ExpireRows,
    PurgeIndexes,
    PurgeTable,
    PutFence,
)
from kalamdb.store.rows import expired_upto
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

STARS = Index(2, (4,), "stars")
BOTH = Index(3, (3, 4), "mail_stars")
TABLE = message_table(indexes=(STARS, BOTH), next_index_id=4)
STREAM = message_table(
    8, kind=TableKind.STREAM, ttl_s=60, uniques=(), indexes=(STARS,), next_index_id=4
)
PLAIN = message_table(9, uniques=())


@pytest.fixture
async def world() -> World:
    made = World()
    made.add(TABLE, STREAM, PLAIN)
    return made


def entries(world: World, table: TableDef, family: Family = Family.INDEX) -> dict[bytes, bytes]:
    prefix = bytes([family]) + keys.U32.pack(table.id)
    return dict(world.store.scan(prefix, keys.prefix_end(prefix)))


def entry(
    table: TableDef, index: Index, values: list[Any], key: int, at: Partition = ALICE
) -> bytes:
    types = [table.by_id[column].type for column in index.columns]
    values_key = keys.encode_key(types, values)
    return keys.index(table.id, index.id, at, values_key, pk_of(table, key))


def stars(key: int, count: int | None, mail: str | None = None) -> dict[int, Any]:
    row = message(key, mail=mail)
    return row if count is None else row | {4: count}


async def test_entries_follow_their_row(world: World) -> None:
    world.do(insert(TABLE, stars(1, 5), stars(2, None, "m")))
    world.do(insert(TABLE, stars(1, 5), partition=BOB))
    assert set(entries(world, TABLE)) == {
        entry(TABLE, STARS, [5], 1),
        entry(TABLE, BOTH, [None, 5], 1),
        entry(TABLE, STARS, [None], 2),
        entry(TABLE, BOTH, ["m", None], 2),
        entry(TABLE, STARS, [5], 1, BOB),
        entry(TABLE, BOTH, [None, 5], 1, BOB),
    }
    world.do(update(TABLE, 1, {4: 6}))
    world.do(delete(TABLE, 2))
    assert set(entries(world, TABLE)) == {
        entry(TABLE, STARS, [6], 1),
        entry(TABLE, BOTH, [None, 6], 1),
        entry(TABLE, STARS, [5], 1, BOB),
        entry(TABLE, BOTH, [None, 5], 1, BOB),
    }


def effects_of(world: World, family: Family) -> list[Effect]:
    newest = codec.decode_entry(world.log.entries[-1].payload)
    return [e for command in newest.commands for e in command.effects if e[0][0] == family]


async def test_what_does_not_change_is_not_put(world: World) -> None:
    world.do(insert(TABLE, stars(1, 5, "m")))
    world.do(update(TABLE, 1, {2: "other"}))
    assert effects_of(world, Family.INDEX) == effects_of(world, Family.UNIQUE) == []
    world.do(update(TABLE, 1, {4: 6}))
    assert [value for _, value in effects_of(world, Family.INDEX)] == [None, b""] * 2
    assert effects_of(world, Family.UNIQUE) == []
    world.do(insert(TABLE, stars(1, 6, "m"), conflict=ConflictRule(assign=lambda old, new: new)))
    assert effects_of(world, Family.INDEX) == effects_of(world, Family.UNIQUE) == []


async def test_expired_rows_take_their_entries_with_them(world: World) -> None:
    world.do(insert(STREAM, stars(1, 5), stars(2, 5)))
    world.clock.pass_s(100)
    world.do(insert(STREAM, stars(1, 7)))  # meets an expired row
    assert set(entries(world, STREAM)) == {
        entry(STREAM, STARS, [7], 1),
        entry(STREAM, STARS, [5], 2),
    }
    upto = expired_upto(STREAM, world.clock.now_ms, world.replica.group)
    world.do(ExpireRows(STREAM, upto))
    assert set(entries(world, STREAM)) == {entry(STREAM, STARS, [7], 1)}


async def test_long_values_are_refused_and_leave_no_trace(world: World) -> None:
    index = Index(5, (2,), "body")
    table = replace(PLAIN, indexes=(index,), version=2, next_index_id=6)
    world.do(insert(PLAIN, message(1, "x" * 5000)))
    world.do(PutFence(table))
    before = world.replica.digest()
    with pytest.raises(LimitReached) as refused:
        world.do(insert(table, message(2, "x" * 2046)))
    assert refused.value.limit == "index_key_bytes"
    assert world.replica.digest() == before
    with pytest.raises(LimitReached):
        world.do(BuildIndex(table, 5))
    world.do(insert(table, message(2, "x" * 2045)))
    world.do(update(table, 1, {4: 1}))  # a long value from before stays, and may leave
    world.do(delete(table, 1))
    assert len(entries(world, table)) == 1


# ---- building -----------------------------------------------------------------------------------


def built(world: World, table: TableDef, number: int, rows_max: int = 2) -> int:
    """All steps; how many there were."""
    steps, after = 1, b""
    while True:
        outcome = world.do(BuildIndex(table, number, after, rows_max))
        assert outcome.rows is not None
        if outcome.rows[0][0] is None:
            return steps
        after = bytes.fromhex(str(outcome.rows[0][0]))
        steps += 1


def building(index: Index | Unique) -> TableDef:
    """PLAIN with one more index."""
    made = replace(index, state=IndexState.BUILDING)
    changed = replace(PLAIN, version=PLAIN.version + 1, next_index_id=index.id + 1)
    if isinstance(made, Index):
        return replace(changed, indexes=(made,))
    return replace(changed, uniques=(made,))


async def test_build_goes_through_all_partitions_in_steps(world: World) -> None:
    for number in range(5):
        world.do(insert(PLAIN, stars(number, number)))
        world.do(insert(PLAIN, stars(number, 9), partition=BOB))
    world.do(delete(PLAIN, 3))
    table = building(STARS)
    world.do(PutFence(table))
    assert entries(world, table) == {}
    assert built(world, table, STARS.id) == 6  # ten rows, one of them a tombstone
    wanted = {entry(table, STARS, [number], number) for number in (0, 1, 2, 4)}
    wanted |= {entry(table, STARS, [9], number, BOB) for number in range(5)}
    assert set(entries(world, table)) == wanted


async def test_build_sees_what_is_decided_and_not_applied(world: World) -> None:
    world.do(insert(PLAIN, stars(1, 1), stars(2, 2), stars(3, 3)))
    table = building(STARS)
    world.do(PutFence(table))
    asked = [
        world.ask(update(table, 1, {4: 10})),
        world.ask(delete(table, 2)),
        world.ask(insert(table, stars(4, 4))),
        world.ask(BuildIndex(table, STARS.id)),
        world.ask(update(table, 3, {4: 30})),
    ]
    world.log.turn()
    assert [one.exception() for one in asked] == [None] * 5
    assert set(entries(world, table)) == {
        entry(table, STARS, [10], 1),
        entry(table, STARS, [30], 3),
        entry(table, STARS, [4], 4),
    }


async def test_build_waits_for_its_fence(world: World) -> None:
    table = building(STARS)
    with pytest.raises(Conflict):
        world.do(BuildIndex(PLAIN, STARS.id))  # no such index in force
    fence = world.ask(PutFence(table))
    early = world.ask(BuildIndex(table, STARS.id))
    world.log.turn()
    assert fence.exception() is None
    assert isinstance(early.exception(), Conflict)


MAIL = Unique(2, (3,), "mail", by_index=True)


async def test_unique_build_finds_equal_values(world: World) -> None:
    world.do(insert(PLAIN, message(1, mail="a"), message(2, mail="b"), message(3)))
    world.do(insert(PLAIN, message(1, mail="a"), partition=BOB))
    table = building(MAIL)
    world.do(PutFence(table))
    built(world, table, MAIL.id)
    assert len(entries(world, table, Family.UNIQUE)) == 3
    world.do(delete(table, 1))
    with pytest.raises(UniqueViolation):
        world.do(insert(table, message(9, mail="b")))
    world.do(insert(table, message(9, mail="a")))


async def test_a_row_that_came_first_keeps_the_entry(world: World) -> None:
    """Rows from before the index share a value with a row written while it is built."""
    world.do(insert(PLAIN, message(1, mail="a"), message(2, mail="b")))
    table = building(MAIL)
    world.do(PutFence(table))
    world.do(insert(table, message(3, mail="a")))  # nobody has looked at row 1 yet
    world.do(update(table, 1, {2: "other"}))
    with pytest.raises(IndexNotUnique) as refused:
        built(world, table, MAIL.id)
    assert refused.value.index == "mail"
    assert "a" not in str(refused.value).replace("was", "").replace("have", "").split()
    world.do(delete(table, 1))  # not its entry: that of row 3 stays
    with pytest.raises(UniqueViolation):
        world.do(insert(table, message(4, mail="a")))
    built(world, table, MAIL.id)
    with pytest.raises(UniqueViolation):
        world.do(insert(table, message(4, mail="a")))


# ---- leaving ------------------------------------------------------------------------------------


async def test_entries_of_a_dropped_index_leave_in_steps(world: World) -> None:
    world.do(insert(TABLE, *(stars(number, number, f"m{number}") for number in range(5))))
    kept = entries(world, TABLE, Family.UNIQUE)
    assert world.do(PurgeIndexes(TABLE.id)).affected == 0
    table = replace(TABLE, indexes=(BOTH,), version=2)
    dropping = world.ask(PutFence(table))
    early = world.ask(PurgeIndexes(TABLE.id))  # the drop is not applied
    world.log.turn()
    assert (dropping.exception(), early.result().affected) == (None, 0)
    removed = [world.do(PurgeIndexes(TABLE.id, 2)).affected for _ in range(4)]
    assert removed == [2, 2, 1, 0]
    assert {keys.index_of(key) for key in entries(world, TABLE)} == {BOTH.id}
    assert len(entries(world, TABLE)) == 5
    assert entries(world, TABLE, Family.UNIQUE) == kept
    world.do(PutFence(replace(table, uniques=(), indexes=(), version=3)))
    assert world.do(PurgeIndexes(TABLE.id)).affected == 10
    assert entries(world, TABLE) == entries(world, TABLE, Family.UNIQUE) == {}


async def test_a_dropped_table_leaves_no_entry(world: World) -> None:
    world.do(insert(TABLE, stars(1, 1, "m")))
    world.do(PutFence(TABLE, dropped=True))
    assert world.do(PurgeIndexes(TABLE.id)).affected == 0
    while world.do(PurgeTable(TABLE.id)).affected:
        pass
    assert entries(world, TABLE) == entries(world, TABLE, Family.UNIQUE) == {}


async def test_an_image_has_the_entries(world: World) -> None:
    world.do(insert(TABLE, stars(1, 1)))
    pairs = [pair for chunk in world.replica.image_chunks() for pair in chunk]
    assert set(entries(world, TABLE)) <= {key for key, _ in pairs}
    assert Seq(0) < world.replica.seq_last
