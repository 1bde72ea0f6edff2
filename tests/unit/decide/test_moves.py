"""What meta decides on slot moves: one record per move, which ends in one way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.errors import Conflict, InvalidStatement, Unavailable
from kalamdb.model.ids import GroupId, Slot
from kalamdb.model.slot import Move, MoveState
from kalamdb.model.slot_work import AbortMove, BeginMove, EndMove, FinishMove
from kalamdb.model.work import (
    ActivateTable,
    CreateNamespace,
    DefineTable,
    PutPlacement,
    PutReplication,
)
from tests.unit.replica.harness import START_MS, World, message_table

SLOT = Slot(5)
ONE, TWO = GroupId(1), GroupId(2)
TABLE = message_table(1)


def meta() -> World:
    world = World(group=0)
    world.do(PutPlacement(2, (1,), "test"))
    world.do(CreateNamespace("chat", True))
    world.do(DefineTable(TABLE, False))
    world.do(ActivateTable(TABLE.id, 1))
    return world


def begin(world: World, slot: Slot = SLOT, source: GroupId = ONE, target: GroupId = TWO) -> int:
    outcome = world.do(BeginMove(slot, source, target))
    assert outcome.rows is not None
    epoch = outcome.rows[0][0]
    assert isinstance(epoch, int)
    return epoch


def owner(world: World, slot: Slot = SLOT) -> GroupId:
    placement = world.replica.catalog.placement
    assert placement is not None
    return placement.group_of(slot)


async def test_a_move_flips_the_placement_when_it_is_finished() -> None:
    world = meta()
    epoch = begin(world)
    assert epoch == 2
    assert world.replica.catalog.moves == {
        SLOT: Move(SLOT, ONE, TWO, epoch, MoveState.MOVING, START_MS)
    }
    assert owner(world) == ONE
    with pytest.raises(Conflict):
        world.do(EndMove(SLOT, epoch))
    world.do(FinishMove(SLOT, epoch, ((TABLE.id, 1),)))
    assert owner(world) == TWO
    assert world.do(FinishMove(SLOT, epoch, ())).affected == 0
    with pytest.raises(Conflict):
        world.do(AbortMove(SLOT, epoch))
    world.do(EndMove(SLOT, epoch))
    assert world.replica.catalog.moves == {}
    assert world.do(EndMove(SLOT, epoch)).affected == 0
    assert begin(world, source=TWO, target=ONE) == epoch + 1


async def test_an_aborted_move_is_never_finished() -> None:
    world = meta()
    epoch = begin(world)
    world.do(AbortMove(SLOT, epoch))
    assert world.do(AbortMove(SLOT, epoch)).affected == 0
    with pytest.raises(Conflict):
        world.do(FinishMove(SLOT, epoch, ()))
    assert owner(world) == ONE
    world.do(EndMove(SLOT, epoch))
    for late in (FinishMove(SLOT, epoch, ()), AbortMove(SLOT, epoch)):
        with pytest.raises(Conflict):
            world.do(late)
    assert begin(world) == epoch + 1


async def test_what_cannot_be_moved() -> None:
    world = meta()
    for refused in (
        BeginMove(Slot(4096), ONE, TWO),
        BeginMove(SLOT, ONE, ONE),
        BeginMove(SLOT, ONE, GroupId(3)),
        BeginMove(SLOT, ONE, GroupId(0)),
    ):
        with pytest.raises(InvalidStatement):
            world.do(refused)
    with pytest.raises(Conflict):
        world.do(BeginMove(SLOT, TWO, ONE))
    begin(world)
    with pytest.raises(Conflict):
        begin(world)
    with pytest.raises(Unavailable):
        World(group=0).do(BeginMove(SLOT, ONE, TWO))


async def test_definitions_are_at_rest_when_a_move_is_finished() -> None:
    world = meta()
    epoch = begin(world)
    second = replace(TABLE, version=2, name="other")
    world.do(DefineTable(second, False))
    for tables in (((TABLE.id, 1),), ((TABLE.id, 2),)):
        with pytest.raises(Conflict):
            world.do(FinishMove(SLOT, epoch, tables))
    world.do(ActivateTable(TABLE.id, 2))
    with pytest.raises(Conflict):
        world.do(FinishMove(SLOT, epoch, ((TABLE.id, 1),)))
    world.do(FinishMove(SLOT, epoch, ((TABLE.id, 2),)))


async def test_moves_and_members_keep_out_of_each_others_way() -> None:
    world = meta()
    world.do(PutReplication(5))
    world.do(FinishMove(SLOT, begin(world), ()))
    world.log.lose()
    world.log.elect(2)
    placement = world.replica.catalog.placement
    assert placement is not None
    assert (placement.replication, placement.moved) == (5, {SLOT: TWO})
    assert world.replica.catalog.moves[SLOT].state is MoveState.OPENED
