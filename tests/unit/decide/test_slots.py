"""What the two groups of a slot move decide: which command fits which state, and what it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.decide.slots import numbers_from
from kalamdb.errors import Conflict, Moved, NotLeader, RequestIdReused, Unavailable
from kalamdb.model import keys
from kalamdb.model.ids import (
    GroupId,
    Seq,
    Slot,
    TenantId,
    shared_partition,
    slot_of,
    tenant_partition,
)
from kalamdb.model.slot import SlotHead, SlotPiece
from kalamdb.model.slot_work import (
    ImportBegin,
    ImportChunk,
    ImportClear,
    SlotFreeze,
    SlotOpen,
    SlotPurge,
    SlotThaw,
)
from kalamdb.model.table import TableKind
from kalamdb.model.work import OpenSlots, PutRows, ReadSet, TrimBefore
from kalamdb.store.changes import trimmed
from kalamdb.store.kv import prefix_end
from kalamdb.store.slot_codec import ArrivalState, SlotRecord, SlotState
from kalamdb.store.slot_keys import (
    BY_CHAIN,
    BY_HOUR,
    BY_INDEX,
    BY_SLOT,
    OF_THE_GROUP,
    UNUSED,
    slot_digest,
)
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    START_MS,
    World,
    delete,
    insert,
    message,
    message_table,
    pk_of,
    tag,
    update,
)

TABLE = message_table()
STREAM = message_table(8, kind=TableKind.STREAM, ttl_s=3600, uniques=())
SHARED = message_table(9, kind=TableKind.SHARED)
SLOT = slot_of(ALICE)
ONE, TWO = GroupId(1), GroupId(2)


def two() -> tuple[World, World]:
    source, target = World(group=1), World(group=2, slots=())
    for world in (source, target):
        world.add(TABLE, STREAM, SHARED)
    return source, target


def record(world: World, slot: Slot = SLOT) -> SlotRecord | None:
    return world.replica.slots.records.get(slot)


def frozen(epoch: int = 2) -> tuple[World, World]:
    source, target = two()
    for number in range(20):
        source.do(insert(TABLE, message(number, mail=f"m{number}")))
    source.do(update(TABLE, 3, {2: "changed"}))
    source.do(delete(TABLE, 4))
    source.do(insert(STREAM, message(1)))
    source.do(insert(TABLE, message(90), partition=BOB))
    source.do(insert(TABLE, message(50)), tag("kept"))
    source.do(SlotFreeze(SLOT, epoch, TWO))
    return source, target


def carry(source: World, target: World, *, attempt: int = 1, epoch: int = 2) -> SlotHead:
    image = source.replica.slot_image(SLOT, epoch)
    head = image.head()
    target.do(ImportBegin(SLOT, epoch, ONE, attempt, head))
    for piece in image.pieces():
        target.do(ImportChunk(SLOT, epoch, attempt, piece))
    image.close()
    return head


def moved() -> tuple[World, World]:
    source, target = frozen()
    head = carry(source, target)
    target.do(SlotOpen(SLOT, 2, head.cut))
    return source, target


def slot_key_count(world: World) -> int:
    """By families, not by the walk."""
    found = 0
    for family, at in ((keys.Family.ROW, 5), (keys.Family.LAST, 5), (keys.Family.CHANGE, 9)):
        prefix = bytes([family])
        for key, _ in world.store.scan(prefix, prefix_end(prefix)):
            partition, _ = keys.split_terminated(key, at)
            found += slot_of(partition) == SLOT  # type: ignore[arg-type]
    return found


# ---- freeze and thaw -----------------------------------------------------------------------------


async def test_a_frozen_slot_takes_no_write_and_says_where_it_goes() -> None:
    source, _ = frozen()
    for work in (insert(TABLE, message(70)), update(TABLE, 3, {2: "x"}), delete(TABLE, 3)):
        with pytest.raises(Moved) as refused:
            source.do(work)
        assert (refused.value.slot, refused.value.epoch, refused.value.group) == (SLOT, 2, TWO)
    source.do(insert(TABLE, message(91), partition=BOB))  # the others' slots are open


async def test_the_cut_is_the_last_number_decided_and_the_freeze_is_repeated() -> None:
    source, _ = two()
    source.ask(insert(TABLE, message(1)))
    asked = source.ask(SlotFreeze(SLOT, 2, TWO))
    last = source.replica._sequencer.seq_last  # pyright: ignore[reportPrivateUsage]
    source.log.turn()
    assert asked.result().rows == ((str(last),),)
    again = source.do(SlotFreeze(SLOT, 2, TWO))
    assert (again.affected, again.rows) == (0, ((str(last),),))
    made = record(source)
    assert made is not None
    assert (made.state, made.cut, made.peer) == (SlotState.FROZEN, last, TWO)


@pytest.mark.parametrize("epoch", [0, 1])
async def test_a_late_freeze_is_refused(epoch: int) -> None:
    source, _ = two()
    with pytest.raises(Conflict):
        source.do(SlotFreeze(SLOT, epoch, TWO))


async def test_a_thaw_overtakes_its_freeze() -> None:
    source, _ = two()
    assert source.do(SlotThaw(SLOT, 2)).affected == 1
    with pytest.raises(Conflict):
        source.do(SlotFreeze(SLOT, 2, TWO))
    source.do(SlotFreeze(SLOT, 3, TWO))
    with pytest.raises(Conflict):
        source.do(SlotThaw(SLOT, 2))
    assert source.do(SlotThaw(SLOT, 3)).affected == 1
    assert source.do(SlotThaw(SLOT, 3)).affected == 0
    source.do(insert(TABLE, message(71)))


async def test_a_slot_that_was_never_here_is_nobodys_answer() -> None:
    _, target = two()
    with pytest.raises(NotLeader):
        target.do(insert(TABLE, message(1)))
    with pytest.raises(Conflict):
        target.do(SlotFreeze(SLOT, 2, ONE))


# ---- the image -----------------------------------------------------------------------------------


async def test_a_move_carries_all_of_it() -> None:
    source, target = moved()
    digest = slot_digest(source.store, SLOT)
    assert slot_digest(target.store, SLOT) == digest
    assert target.rows(TABLE) == source.rows(TABLE)
    assert target.row(TABLE, 90, partition=ALICE) is None
    with pytest.raises(NotLeader):
        target.replica.get(TABLE, BOB, pk_of(TABLE, 90))
    # Request ids answer as they did; the chain goes on where it was.
    assert target.do(insert(TABLE, message(50)), tag("kept")).affected == 1
    with pytest.raises(RequestIdReused):
        target.do(insert(TABLE, message(50)), tag("kept", b"other"))
    last = source.replica.last_change(TABLE, ALICE)
    outcome = target.do(insert(TABLE, message(51)))
    assert outcome.seq > last
    with target.replica.snapshot(ALICE) as snapshot:
        changes = list(snapshot.changes(TABLE, ALICE, last, snapshot.seq))
    assert [change.prev_seq for change in changes] == [last]


async def test_every_family_is_told_apart() -> None:
    groups = (BY_CHAIN, BY_INDEX, BY_HOUR, BY_SLOT, OF_THE_GROUP, UNUSED, (keys.Family.LAST,))
    known = [family for group in groups for family in group]
    assert sorted(known) == sorted(keys.Family)


async def test_pieces_come_in_order_and_may_come_twice() -> None:
    source, target = frozen()
    image = source.replica.slot_image(SLOT, 2)
    head = image.head()
    pairs = [pair for piece in image.pieces() for pair in piece.pairs]
    first = SlotPiece(b"", pairs[0][0], (pairs[0],), 0)
    second = SlotPiece(pairs[0][0], pairs[1][0], (pairs[1],), 0)
    target.do(ImportBegin(SLOT, 2, ONE, 1, head))
    with pytest.raises(Conflict):
        target.do(ImportChunk(SLOT, 2, 1, second))
    assert target.do(ImportChunk(SLOT, 2, 1, first)).affected == 1
    assert target.do(ImportChunk(SLOT, 2, 1, first)).affected == 0
    for late in (ImportChunk(SLOT, 2, 2, second), ImportChunk(SLOT, 3, 1, second)):
        with pytest.raises(Conflict):
            target.do(late)
    with pytest.raises(Conflict):
        target.do(SlotOpen(SLOT, 2, head.cut))
    last = SlotPiece(pairs[0][0], pairs[0][0], (), 1, last=True)
    assert target.do(ImportChunk(SLOT, 2, 1, last)).affected == 1
    with pytest.raises(Conflict):
        target.do(ImportChunk(SLOT, 2, 1, second))
    with pytest.raises(Conflict):
        target.do(SlotOpen(SLOT, 2, Seq(head.cut + 1)))


async def test_an_image_begins_only_where_nothing_is_left() -> None:
    source, target = frozen()
    head = carry(source, target)
    with pytest.raises(Conflict):
        target.do(ImportBegin(SLOT, 2, ONE, 2, replace(head, index=head.index + 1)))
    with pytest.raises(Conflict):
        target.do(ImportClear(SLOT, 2, 1))  # who has not seen that it is complete
    target.do(ImportClear(SLOT, 2, 1, complete=True))
    with pytest.raises(Conflict):
        target.do(SlotOpen(SLOT, 2, head.cut))
    with pytest.raises(Conflict):
        target.do(ImportBegin(SLOT, 2, ONE, 2, head))
    await purge(target, attempt=1)
    assert slot_key_count(target) == 0
    for attempt in (1, 3):
        with pytest.raises(Conflict):
            target.do(ImportBegin(SLOT, 2, ONE, attempt, replace(head, index=0)))
    carry(source, target, attempt=2)
    arrived = record(target)
    assert arrived is not None
    assert arrived.arrival is not None
    assert arrived.arrival.state is ArrivalState.COMPLETE


async def purge(world: World, *, epoch: int = 2, attempt: int | None = None) -> None:
    import asyncio

    task = asyncio.ensure_future(world.replica.purge_slot(SLOT, epoch, attempt=attempt))
    while not task.done():
        await asyncio.wait((task,), timeout=0.001)
        world.log.turn()
    assert task.result()


async def test_what_another_epoch_asks_comes_too_late() -> None:
    source, target = moved()
    for late in (
        SlotPurge(SLOT, 2),
        SlotPurge(SLOT, 1),
        SlotThaw(SLOT, 1),
        SlotFreeze(SLOT, 2, ONE),
        ImportBegin(SLOT, 2, ONE, 1, SlotHead(1, Seq(1), Seq(0), (), (), 0)),
    ):
        with pytest.raises(Conflict):
            target.do(late)
    assert target.do(SlotOpen(SLOT, 2, Seq(0))).affected == 0
    assert record(target) == SlotRecord(2, SlotState.OPEN)
    source.do(SlotPurge(SLOT, 2))
    await purge(source)
    assert slot_key_count(source) == 0
    gone = record(source)
    assert gone is not None
    assert gone.state is SlotState.GONE
    for late in (SlotFreeze(SLOT, 3, TWO), SlotThaw(SLOT, 2)):
        with pytest.raises(Conflict):
            source.do(late)
    with pytest.raises(Moved) as refused:
        source.do(insert(TABLE, message(1)))
    assert refused.value.group == TWO
    assert source.do(OpenSlots((SLOT,), 1)).affected == 0
    with pytest.raises(Conflict):  # it was here, and went with this epoch
        source.do(ImportBegin(SLOT, 2, TWO, 1, SlotHead(1, Seq(1), Seq(0), (), (), 0)))


async def test_there_and_back() -> None:
    source, target = moved()
    source.do(SlotPurge(SLOT, 2))
    await purge(source)
    target.do(insert(TABLE, message(60)))
    target.do(SlotFreeze(SLOT, 3, ONE))
    image = target.replica.slot_image(SLOT, 3)
    head = image.head()
    assert dict(head.components) == {ONE: record_cut(source, target)}
    source.do(ImportBegin(SLOT, 3, TWO, 1, head))
    for piece in image.pieces():
        source.do(ImportChunk(SLOT, 3, 1, piece))
    image.close()
    source.do(SlotOpen(SLOT, 3, head.cut))
    assert source.do(insert(TABLE, message(61))).seq > head.cut
    assert source.row(TABLE, 60) is not None
    assert source.store.get(keys.component(ONE)) is None  # its own: the floor itself says
    assert trimmed(source.store, ONE).keys() == {ONE, TWO}


def record_cut(source: World, target: World) -> Seq:
    bound = dict(trimmed_bounds(target))
    return bound[ONE]


def trimmed_bounds(world: World) -> list[tuple[GroupId, Seq]]:
    from kalamdb.store.changes import components

    return components(world.store)


async def test_it_opens_above_the_cut_and_above_its_own_numbers() -> None:
    source, target = two()
    source.clock.now_ms = START_MS + 5_000_000  # far ahead of the target's
    source.do(insert(TABLE, message(1)))
    source.do(SlotFreeze(SLOT, 2, TWO))
    head = carry(source, target)
    target.do(SlotOpen(SLOT, 2, head.cut))
    assert target.replica.seq_last > head.cut
    assert target.replica.seq_last & 1023 == 2
    assert numbers_from(Seq(5 << 10 | 1), TWO) == 5 << 10 | 2
    assert numbers_from(Seq(5 << 10 | 2), TWO) == 5 << 10 | 2
    assert numbers_from(Seq(5 << 10 | 3), TWO) == 6 << 10 | 2


async def test_the_floor_is_the_larger_one_and_at_most_the_cut() -> None:
    source, target = frozen()
    hour = (START_MS - 1_704_067_200_000) // 3_600_000
    source.clock.now_ms += 7_200_000
    source.do(insert(TABLE, message(92), partition=BOB))
    source.do(TrimBefore(hour + 2))
    head = carry(source, target)
    assert head.floor > head.cut
    target.do(SlotOpen(SLOT, 2, head.cut))
    assert trimmed(target.store, TWO) == {TWO: head.cut, ONE: head.cut}


async def test_rows_of_a_dropped_table_do_not_come() -> None:
    from kalamdb.model.work import PutFence

    source, target = frozen()
    target.do(PutFence(replace(TABLE, version=2), dropped=True))
    carry(source, target)
    prefix = keys.table_rows(TABLE.id)
    assert not list(target.store.scan(prefix, prefix_end(prefix)))


# ---- what else is decided meanwhile --------------------------------------------------------------


async def test_a_read_set_names_the_slot() -> None:
    source, _ = two()
    source.do(insert(TABLE, message(1)))
    last = source.replica.last_change(TABLE, ALICE)
    work = PutRows(
        TABLE,
        ALICE,
        [(pk_of(TABLE, 1), {1: 1, 2: "new"})],
        ReadSet(tables={(TABLE.id, ALICE): last}, slots={SLOT: 1}),
    )
    source.do(SlotThaw(SLOT, 5))  # another epoch, the same rows
    with pytest.raises(Conflict):
        source.do(work)
    again = replace(work, read_set=replace(work.read_set, slots={SLOT: 5}))
    assert source.do(again).affected == 1


async def test_a_transaction_does_not_outlive_the_freeze() -> None:
    source, _ = two()
    source.do(insert(TABLE, message(1)))
    transaction = source.replica.open_transaction(ALICE)
    source.do(SlotFreeze(SLOT, 2, TWO))
    assert transaction.lost
    with pytest.raises(Unavailable):
        transaction.snapshot()
    transaction.close()
    with pytest.raises(Moved):
        source.replica.open_transaction(ALICE)


async def test_request_ids_stand_with_what_they_wrote() -> None:
    """A tenant's write of a SHARED table goes with the table."""
    source, target = two()
    shared = shared_partition(SHARED.id)
    slot = slot_of(shared)
    source.do(insert(SHARED, message(1), partition=shared), tag("of-shared"))
    source.do(SlotFreeze(slot, 2, TWO))
    with pytest.raises(Moved):
        source.replica.recall(tag("of-shared-2"))
    image = source.replica.slot_image(slot, 2)
    head = image.head()
    target.do(ImportBegin(slot, 2, ONE, 1, head))
    for piece in image.pieces():
        target.do(ImportChunk(slot, 2, 1, piece))
    target.do(SlotOpen(slot, 2, head.cut))
    image.close()
    again = target.do(insert(SHARED, message(1), partition=shared), tag("of-shared"))
    assert again.affected == 1
    found = target.replica.recall(tag("of-shared"))
    assert found is not None
    assert (await found).seq == again.seq


async def test_trims_and_expiry_leave_a_slot_alone_that_moves() -> None:
    from kalamdb.model.work import ExpireRows

    source, _ = frozen()
    before = slot_digest(source.store, SLOT)
    source.clock.now_ms += 5 * 3_600_000
    source.do(insert(TABLE, message(93), partition=BOB))
    hour = (source.clock.now_ms - 1_704_067_200_000) // 3_600_000
    for _ in range(4):
        source.do(TrimBefore(hour))
        source.do(ExpireRows(STREAM, source.replica.seq_last))
    assert slot_digest(source.store, SLOT) == before
    source.do(SlotThaw(SLOT, 2))
    assert source.do(TrimBefore(hour)).affected > 0
    assert source.do(ExpireRows(STREAM, source.replica.seq_last)).affected == 1


async def test_carol_of_another_slot_notices_nothing() -> None:
    source, _ = frozen()
    carol = tenant_partition(TenantId("carol"))
    assert source.do(insert(TABLE, message(1), partition=carol)).affected == 1
