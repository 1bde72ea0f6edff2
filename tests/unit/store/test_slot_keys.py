"""The walk over a slot finds whatever an interrupted import or purge has left of it."""

from __future__ import annotations

import pytest

from kalamdb.model.ids import HOUR_MS, GroupId, Seq, slot_of
from kalamdb.model.work import ChangeKeys
from kalamdb.store.kv import Mark
from kalamdb.store.memory import MemoryStore
from kalamdb.store.slot_keys import SlotWalk
from tests.unit.replica.harness import ALICE, World, insert, message, message_table, pk_of

TABLE = message_table()
SLOT = slot_of(ALICE)
Pairs = list[tuple[bytes, bytes]]


def whole(*, hours: int = 4) -> World:
    """Rows, changes and history of several hours, several changes in each."""
    world = World()
    world.add(TABLE)
    for hour in range(hours):
        for number in range(3):
            world.do(insert(TABLE, message(hour * 10 + number)))
        pk = pk_of(TABLE, hour * 10)
        world.do(ChangeKeys(TABLE, ALICE, [pk], lambda row: {**row, 2: "again"}))
        world.clock.now_ms += HOUR_MS
    return world


def left(pairs: Pairs) -> Pairs:
    """What the walk finds where only these keys are."""
    store = MemoryStore(GroupId(2))
    store.write(pairs, Mark(2, 1, Seq(0)))
    return list(SlotWalk(store, SLOT).pairs())


def image(world: World) -> Pairs:
    return list(SlotWalk(world.store, SLOT).pairs(dropped=False))


@pytest.mark.parametrize("hours", [1, 4])
async def test_every_part_of_an_image_is_found(hours: int) -> None:
    found = image(whole(hours=hours))
    for count in range(1, len(found) + 1):
        assert sorted(left(found[:count])) == sorted(found[:count])


@pytest.mark.parametrize("hours", [1, 4])
async def test_what_a_purge_has_left_is_found(hours: int) -> None:
    """Also where the first changes of an hour are gone: the walk ends."""
    found = list(SlotWalk(whole(hours=hours).store, SLOT).pairs())
    for count in range(len(found)):
        assert sorted(left(found[count:])) == sorted(found[count:])


async def test_a_purge_and_an_image_have_the_same_keys() -> None:
    world = whole()
    assert sorted(image(world)) == sorted(SlotWalk(world.store, SLOT).pairs())
