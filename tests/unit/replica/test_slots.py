"""A replica while slots move: reads, streams, images, purges in steps."""

from __future__ import annotations

import asyncio

import pytest

from kalamdb.errors import Conflict, Moved, NotLeader
from kalamdb.model import keys
from kalamdb.model.ids import GroupId, Slot, slot_of
from kalamdb.model.slot import SlotHead, SlotPiece
from kalamdb.model.slot_work import ImportBegin, ImportChunk, SlotFreeze, SlotPurge, SlotThaw
from kalamdb.replica.replica import Replica
from kalamdb.replica.slot_image import image_stream
from kalamdb.store.memory import MemoryStore
from kalamdb.store.slot_codec import SlotRecord, SlotState
from kalamdb.store.slots import SlotTable, serving
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    HandLog,
    ListSink,
    World,
    insert,
    message,
    message_table,
    pk_of,
)

TABLE = message_table()
SLOT = slot_of(ALICE)
ONE, TWO = GroupId(1), GroupId(2)


class Meta:
    """Says yes or no, and counts how often it was asked."""

    def __init__(self) -> None:
        self.allows = True
        self.asked: list[tuple[Slot, int]] = []

    async def __call__(self, slot: Slot, epoch: int) -> bool:
        self.asked.append((slot, epoch))
        return self.allows


def made(meta: Meta | None = None) -> World:
    world = World(meta_allows=meta)
    world.add(TABLE)
    for number in range(5):
        world.do(insert(TABLE, message(number)))
        world.do(insert(TABLE, message(number), partition=BOB))
    return world


# ---- reads ---------------------------------------------------------------------------------------


async def test_a_frozen_slot_is_read_as_long_as_meta_allows() -> None:
    meta = Meta()
    world = made(meta)
    replica = world.replica
    assert replica.barrier(ALICE) is None
    world.do(SlotFreeze(SLOT, 2, TWO))
    assert replica.barrier(BOB) is None
    barrier = replica.barrier(ALICE)
    assert barrier is not None
    await barrier
    assert world.row(TABLE, 1) == message(1)
    assert meta.asked == [(SLOT, 2)]
    meta.allows = False
    barrier = replica.barrier(ALICE)
    assert barrier is not None
    with pytest.raises(Moved):
        await barrier
    world.do(SlotThaw(SLOT, 2))
    assert replica.barrier(ALICE) is None


async def test_leadership_is_confirmed_before_meta_is_asked() -> None:
    meta = Meta()
    world = made(meta)
    world.do(SlotFreeze(SLOT, 2, TWO))
    world.log.sole = False
    barrier = world.replica.barrier(ALICE)
    assert barrier is not None
    waiting = asyncio.ensure_future(barrier)
    await asyncio.sleep(0)
    assert not meta.asked
    world.log.confirm()
    await waiting
    assert meta.asked


async def test_without_the_hook_a_frozen_slot_is_not_read() -> None:
    world = made()
    world.do(SlotFreeze(SLOT, 2, TWO))
    barrier = world.replica.barrier(ALICE)
    assert barrier is not None
    with pytest.raises(Moved):
        await barrier


async def test_a_slot_that_is_given_up_is_not_read() -> None:
    world = made(Meta())
    assert world.row(TABLE, 1) is not None
    assert world.replica.last_change(TABLE, ALICE)
    world.do(SlotFreeze(SLOT, 2, TWO))
    world.do(SlotPurge(SLOT, 2))
    replica = world.replica
    for read in (
        lambda: replica.get(TABLE, ALICE, pk_of(TABLE, 1)),
        lambda: replica.get(message_table(99), ALICE, b""),
        lambda: replica.last_change(TABLE, ALICE),
        lambda: replica.snapshot(ALICE),
    ):
        with pytest.raises(Moved):
            read()
    with replica.snapshot() as snapshot:
        assert {partition for partition, _, _ in snapshot.scan_table(TABLE)} == {BOB}
    with pytest.raises(NotLeader):
        World(slots=()).replica.get(TABLE, ALICE, pk_of(TABLE, 1))


def test_of_several_groups_each_slot_counts_once() -> None:
    def table(group: GroupId, record: SlotRecord | None) -> SlotTable:
        return SlotTable.of(group, {} if record is None else {SLOT: record})

    was, is_open = SlotRecord(1, SlotState.OPEN), SlotRecord(2, SlotState.OPEN)
    frozen, coming = SlotRecord(2, SlotState.FROZEN), SlotRecord(2, SlotState.IMPORTING)
    going, gone = SlotRecord(2, SlotState.PURGING), SlotRecord(2, SlotState.GONE)
    nothing, all_of_it = frozenset[Slot](), frozenset((SLOT,))
    for source, target, hidden in (
        (was, None, (nothing, nothing)),
        (frozen, coming, (nothing, all_of_it)),
        (frozen, is_open, (all_of_it, nothing)),
        (was, is_open, (all_of_it, nothing)),  # of different times
        (going, is_open, (all_of_it, nothing)),
        (gone, is_open, (nothing, nothing)),
    ):
        assert serving([table(ONE, source), table(TWO, target)]) == list(hidden)
    with pytest.raises(Exception, match="is being moved"):
        serving([table(ONE, going), table(TWO, coming)])
    assert serving([table(TWO, coming)], all_groups=False) == [all_of_it]


# ---- streams -------------------------------------------------------------------------------------


async def test_streams_end_at_the_cut_also_in_a_batch_that_goes_on() -> None:
    world = made()
    before = len(world.sink.changes)
    world.ask(insert(TABLE, message(10)))
    world.ask(SlotFreeze(SLOT, 2, TWO))
    world.ask(SlotThaw(SLOT, 2))
    world.ask(insert(TABLE, message(11)))
    world.log.turn()
    # One change before it ends, the one behind the thaw after.
    assert world.sink.closed_slots == [(SLOT, before + 1)]
    assert len(world.sink.changes) == before + 2


async def test_changes_in_an_image_are_none_that_happened() -> None:
    source, target = made(), World(group=2, slots=())
    target.add(TABLE)
    source.do(SlotFreeze(SLOT, 2, TWO))
    told = len(target.sink.changes)
    async for part in image_stream(source.replica.slot_image(SLOT, 2)):
        match part:
            case SlotHead():
                target.do(ImportBegin(SLOT, 2, ONE, 1, part))
            case SlotPiece():
                target.do(ImportChunk(SLOT, 2, 1, part))
    assert len(target.sink.changes) == told


# ---- images and purges ---------------------------------------------------------------------------


async def test_an_image_is_of_a_frozen_slot_only() -> None:
    world = made()
    for epoch in (1, 2):
        with pytest.raises(Conflict):
            world.replica.slot_image(SLOT, epoch)
    world.do(SlotFreeze(SLOT, 2, TWO))
    with pytest.raises(Conflict):
        world.replica.slot_image(SLOT, 3)
    world.replica.slot_image(SLOT, 2).close()


async def test_a_purge_goes_in_steps_and_says_when_it_is_over() -> None:
    world = made()
    replica = world.replica
    with pytest.raises(Conflict):
        await replica.purge_slot(SLOT, 2)
    world.do(SlotFreeze(SLOT, 2, TWO))
    world.do(SlotPurge(SLOT, 2))

    async def step() -> bool:
        task = asyncio.ensure_future(replica.purge_slot(SLOT, 2, keys_max=1))
        while not task.done():
            await asyncio.wait((task,), timeout=0.001)
            world.log.turn()
        return task.result()

    assert not await step()
    assert await step()
    assert await step()
    record = await replica.slot(SLOT)
    assert record is not None
    assert record.state is SlotState.GONE
    prefix = bytes([keys.Family.ROW])
    left = [key for key, _ in world.store.scan(prefix, keys.prefix_end(prefix))]
    assert len(left) == 5


async def test_a_member_that_starts_knows_its_slots() -> None:
    world = made()
    world.do(SlotFreeze(SLOT, 2, TWO))
    assert isinstance(world.store, MemoryStore)
    again = Replica(ONE, world.store, ListSink(), world.clock)
    HandLog(again)
    assert again.slots.frozen == {SLOT}
    assert again.slots.records[slot_of(BOB)].state is SlotState.OPEN
