"""Live queries of clients at one process over groups that another leads."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from kalamdb.edge.ws.protocol import NextBatch, Options
from kalamdb.edge.ws.relay_feed import RelayFeed
from kalamdb.feed.events import FeedEvent
from kalamdb.model.ids import Seq, Slot, slot_of
from tests.unit.cluster_live.world import ROUTER, TINY, Viewer, World, opened
from tests.unit.edge_ws.house import ALL, IN_R
from tests.unit.feed.group import ALICE, Write, note
from tests.waiting import wait_until


async def test_a_client_of_a_router_gets_rows_and_changes() -> None:
    async with opened() as world:
        world.group.write([Write(1, note(1, "r", "one"))])
        viewer = world.viewer(ROUTER, ALL, chained=True)
        await viewer.subscribe(Options())
        await world.settle("the first rows")
        world.group.write([Write(2, note(2, "s", "two"))], [Write(1, None)])
        await world.settle("the changes")
        assert viewer.events == 2


async def test_clients_of_one_process_share_a_feed() -> None:
    async with opened() as world:
        viewers = [world.viewer(ROUTER, ALL, chained=True) for _ in range(20)]
        for viewer in viewers:
            await viewer.subscribe(Options())
        await world.settle("all have begun")
        host = world.sites[1].host
        assert host is not None
        await wait_until(lambda: host.statistics().subscriptions == 1, what="one feed is left")
        world.group.write([Write(1, note(1))])
        await world.settle("all got the change")
        assert host.statistics().events == 1
        assert world.group.hubs[1].statistics().subscriptions == 1


@pytest.mark.parametrize("at", [ROUTER, 1, 2, 3])
async def test_a_change_of_leadership_is_not_seen(at: int) -> None:
    async with opened() as world:
        world.group.write([Write(1, note(1, "r"))])
        for sql in (ALL, IN_R):
            await world.viewer(at, sql, chained=sql == ALL).subscribe(Options())
            await world.viewer(at, sql, chained=sql == ALL).subscribe(None)
        await wait_until(lambda: all(_acked(one) for one in world.viewers), what="acks")
        for number, leader in enumerate((2, None, 3, 1, 2), 2):
            world.group.lead(leader)
            world.group.write([Write(number, note(number, "r", str(number)))])
        await world.settle("everything")
        assert all(viewer.acks == 1 and not viewer.errors for viewer in world.viewers)
        assert all(viewer.events == 5 for viewer in world.viewers if not viewer.is_whole)


def _acked(viewer: Viewer) -> bool:
    viewer.read()
    return viewer.acks > 0


@pytest.mark.parametrize("at", [ROUTER, 1])
async def test_a_slot_that_moves_is_not_seen(at: int) -> None:
    async with opened() as world:
        viewer = world.viewer(at, ALL, chained=True)
        await viewer.subscribe(Options())
        world.group.write([Write(1, note(1))])
        await world.settle("the change")
        hub = world.group.hubs[1]
        hub.close_slots({Slot(slot_of(ALICE) + 1)}, "another slot")
        assert hub.statistics().subscriptions == 1
        hub.close_slots({slot_of(ALICE)}, "the slot has moved")
        assert hub.statistics().subscriptions == 0
        world.group.write([Write(2, note(2))])
        await world.settle("what came after the cut")
        assert viewer.acks == 1
        assert not viewer.errors


async def test_a_query_ends_with_its_cursor_when_nobody_leads_for_too_long() -> None:
    async with opened(wait_s=0.05) as world:
        viewer = world.viewer(ROUTER, ALL, chained=True)
        await viewer.subscribe(Options())
        world.group.write([Write(1, note(1))])
        await world.settle("the change")
        world.group.lead(None)
        await wait_until(lambda: _read(viewer) and bool(viewer.errors), what="the end")
        (error,) = viewer.errors
        assert error["code"] == "NOT_LEADER"
        assert error["seq"] == str(viewer.cursor)
        viewer.errors.clear()
        world.group.lead(2)
        world.group.write([Write(2, note(2))])
        await viewer.resume()
        await world.settle("it goes on from there")


async def test_what_does_not_follow_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as world:
        viewers = [world.viewer(ROUTER, ALL, chained=True) for _ in range(2)]
        for viewer in viewers:
            await viewer.subscribe(Options())
        await world.settle("all have begun")
        (link,) = world.sites[ROUTER].relay.links()
        taken = RelayFeed.event

        def after_a_loss(feed: RelayFeed, event: FeedEvent, after: Seq) -> bool:
            monkeypatch.setattr(RelayFeed, "event", taken)
            assert not taken(feed, event, Seq(after - 1))
            return False

        world.group.write([Write(3, note(3))])
        await world.settle("a change")
        monkeypatch.setattr(RelayFeed, "event", after_a_loss)
        world.group.write([Write(1, note(1))])
        await world.settle("the change came all the same")
        world.group.write([Write(2, note(2))])
        await world.settle("and the next")
        assert all(viewer.acks == 1 for viewer in viewers)
        assert link.feeds, "they share a feed again"


async def test_who_joins_while_the_last_one_leaves_goes_on() -> None:
    async with opened() as world:
        first = world.viewer(ROUTER, ALL, chained=True)
        await first.subscribe(Options())
        await world.settle("the first has begun")
        host = world.sites[1].host
        assert host is not None
        world.net.hold(1, ROUTER)  # the edge does not hear yet that the second has joined
        second = world.viewer(ROUTER, ALL, chained=True)
        await second.subscribe(None)
        await wait_until(lambda: host.statistics().feeds == 1, what="a feed")
        await turns()
        first.close()
        world.viewers.remove(first)
        await turns()
        world.net.release(1, ROUTER)
        await wait_until(lambda: _read(second) and second.acks == 1, what="it has begun")
        world.group.write([Write(1, note(1))])
        await wait_until(lambda: _read(second) and second.events == 1, what="the change")


async def test_those_beside_a_feed_that_was_behind_join_it() -> None:
    async with opened(feed=TINY) as world:
        first = world.viewer(ROUTER, ALL, limit_bytes=1 << 26, chained=True)
        await first.subscribe(Options())
        await world.settle("the first has begun")
        host = world.sites[1].host
        assert host is not None
        world.net.hold(1, ROUTER)
        for number in range(30):
            world.group.write([Write(number, note(number, "r", f"{number}" * 50_000))])
        assert host.statistics().fallen
        second = world.viewer(ROUTER, ALL, chained=True)
        await second.subscribe(None)
        await turns()
        world.net.release(1, ROUTER)
        await wait_until(lambda: _read(second) and second.acks == 1, what="it has begun")
        await world.settle("everything")
        await wait_until(lambda: host.statistics().subscriptions == 1, what="one feed is left")
        world.group.write([Write(1, None)])
        await wait_until(lambda: _read(second) and second.events > 0, what="the change")
        await world.settle("all of it")


async def test_a_page_asked_for_after_void_rows_is_the_next_one() -> None:
    async with opened(feed=TINY) as world:
        for number in range(9):
            world.group.write([Write(number, note(number, "r", "x" * 40))])
        viewer = world.viewer(ROUTER, ALL, chained=True)
        viewer.pages_by_itself = False
        await viewer.subscribe(Options())
        await wait_until(lambda: _read(viewer) and viewer.last_row is not None, what="a page")
        for pages in (2, 3):
            viewer.next_page()
            await wait_until(partial(_has_rows, viewer, pages), what="a page")
        void = viewer.last_row
        world.group.lead(2)
        await wait_until(lambda: _is_waiting(world), what="the first rows again")
        viewer.streams.next_batch(NextBatch("v", void))  # sent before it knew
        viewer.pages_by_itself = True
        await wait_until(lambda: _read(viewer) and viewer.acks == 2, what="it begins anew")
        await world.settle("all rows")


def _is_waiting(world: World) -> bool:
    host = world.sites[2].host
    assert host is not None
    return host.statistics().subscriptions == 1


def _has_rows(viewer: Viewer, count: int) -> bool:
    viewer.read()
    return len(viewer.rows) >= count


def _read(viewer: Viewer) -> bool:
    viewer.read()
    return True


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)
