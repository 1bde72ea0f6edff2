"""A replica as its node sees it: barriers, images, catalog callbacks, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kalamdb.errors import Indeterminate, NotLeader, SchemaChanged, Unavailable
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.work import CreateNamespace, PutFence
from kalamdb.replica.replica import Replica
from kalamdb.replica.writer import write_within
from kalamdb.store import image
from kalamdb.store.memory import MemoryStore
from tests.unit.replica.harness import (
    HandLog,
    ListSink,
    TestClock,
    World,
    insert,
    message,
    message_table,
)

TABLE = message_table()


async def test_barrier_is_free_alone_and_a_read_index_otherwise() -> None:
    world = World()
    assert world.replica.barrier() is None
    world.log.sole = False
    waiting = world.replica.barrier()
    assert waiting is not None
    world.log.confirm()
    assert await waiting == world.replica.applied().index
    world.log.lose()
    with pytest.raises(NotLeader):
        world.replica.barrier()


async def test_wait_leads() -> None:
    replica = Replica(GroupId(1), MemoryStore(GroupId(1)), ListSink(), TestClock())
    log = HandLog(replica)
    waiting = asyncio.ensure_future(replica.wait_leads())
    await asyncio.sleep(0)
    assert not waiting.done()
    log.elect(1)
    await waiting
    await replica.wait_leads()


async def test_point_read_checks_the_schema_version() -> None:
    world = World()
    assert world.row(TABLE, 1) is None  # never heard of it
    world.add(TABLE)
    world.do(insert(TABLE, message(1)))
    assert world.row(TABLE, 1) == message(1)
    world.do(PutFence(replace(TABLE, version=2)))
    with pytest.raises(SchemaChanged):
        world.row(TABLE, 1)


async def test_catalog_callback_sees_each_new_view() -> None:
    seen: list[CatalogView] = []
    world = World(group=0, on_catalog=seen.append)
    world.do(CreateNamespace("a", False))
    world.do(CreateNamespace("a", True))
    world.ask(CreateNamespace("b", False))
    world.ask(CreateNamespace("c", False))
    world.log.turn()
    assert [view.version for view in seen] == [1, 3]
    assert world.replica.catalog is seen[-1]


async def test_image_replaces_a_member_that_lags() -> None:
    world = World()
    world.add(TABLE)
    world.do(insert(TABLE, message(1)))

    async def pull(group: GroupId, source: int) -> AsyncIterator[image.Pairs]:
        assert (group, source) == (1, 2)
        for pairs in world.replica.image_chunks():
            yield pairs

    sink = ListSink()
    late = Replica(GroupId(1), MemoryStore(GroupId(1)), sink, TestClock(), pull_image=pull)
    HandLog(late)
    mark = await late.image(2)
    assert mark == world.replica.applied() == late.applied()
    assert late.digest() == world.replica.digest()
    assert sink.closed == ["an image was installed"]
    with pytest.raises(Unavailable):  # not newer than what is here
        await late.image(2)


async def test_image_without_a_way_to_pull() -> None:
    with pytest.raises(Unavailable):
        await World().replica.image(2)


async def test_deadline_says_what_is_known() -> None:
    world = World()
    world.add(TABLE)
    with pytest.raises(Indeterminate):
        await write_within(world.replica, insert(TABLE, message(1)), None, timeout_s=0.01)
    world.log.turn()
    assert world.row(TABLE, 1) == message(1)


async def test_statistics_add_up() -> None:
    world = World()
    world.add(TABLE)
    world.do(insert(TABLE, message(1)))
    world.ask(insert(TABLE, message(2)))
    found = world.replica.statistics()
    assert found.leads
    assert found.seq_last == world.replica.seq_last > Seq(0)
    assert (found.sequencer.queued, found.sequencer.in_flight) == (1, 1)
    assert found.machine.entries == 3
    assert world.log.kicked >= 4
