"""How a subscription begins, pages, resumes and is told that it can't."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from kalamdb.errors import CursorExpired, QueryFailed
from kalamdb.feed.loading import Newest, Page, Whole
from kalamdb.feed.subscription import (
    Accepted,
    Events,
    FeedLimits,
    FromNow,
    Output,
    Position,
    Resume,
    Rows,
    Stage,
    Start,
    Subscription,
)
from kalamdb.model.change import Row
from kalamdb.model.ids import Seq, TenantId, tenant_partition
from kalamdb.sql.bound import LivePlan
from tests.unit.feed.client import Client
from tests.unit.feed.group import ALICE, OTHERS, MemoryGroup, Write, in_room, note, plan


def opened(
    group: MemoryGroup,
    start: Start,
    live: LivePlan | None = None,
    limits: FeedLimits | None = None,
    client: Client | None = None,
) -> Subscription:
    return Subscription(
        "s",
        live or plan(),
        ALICE,
        start,
        snapshot=group.snapshot,
        hub=group.hub,
        outlet=client or Client(),
        limits=limits or FeedLimits(),
    )


def filled(numbers: int, room: str | None = None) -> MemoryGroup:
    group = MemoryGroup()
    for number in range(numbers):
        group.write([Write(number, note(number, room))])
    return group


def ids(output: Output) -> list[str]:
    assert isinstance(output, Rows)
    return [orjson.loads(row)["id"] for row in output.rows]


def test_without_snapshot_it_is_live_at_once() -> None:
    group = filled(3)
    subscription = opened(group, FromNow())
    assert subscription.step(0) == [Accepted(Page(0, False, None, group.seq_last), reset=False)]
    assert subscription.stage is Stage.LIVE
    assert group.snapshots_open == 0


def test_pages_come_when_asked_for_and_changes_after_them() -> None:
    group = filled(5)
    at = group.seq_last
    client = Client()
    subscription = opened(group, Whole(2), client=client)
    accepted, rows = subscription.step(0)
    assert isinstance(accepted, Accepted)
    assert (accepted.page.has_more, accepted.page.status) == (True, "loading")
    assert accepted.page.seq is None
    assert ids(rows) == ["0", "1"]
    assert subscription.step(0) == []
    group.write([Write(1, None), Write(4, note(4, "r"))], [Write(9, note(9))])
    assert subscription.next_page(None, 0)
    assert not subscription.next_page(None, 0)
    (rows,) = subscription.step(0)
    assert ids(rows) == ["2", "3"]
    assert isinstance(rows, Rows)
    assert rows.page.status == "loading_batch"
    assert subscription.next_page(rows.page.last_row, 0)
    (rows,) = subscription.step(0)
    assert ids(rows) == ["4"]
    assert isinstance(rows, Rows)
    assert rows.page == Page(2, False, rows.page.last_row, at)
    (events,) = subscription.step(0)
    assert isinstance(events, Events)
    assert len(events.events) == 3
    assert subscription.stage is Stage.LIVE


def test_an_empty_snapshot_is_one_empty_page() -> None:
    group = MemoryGroup()
    accepted, rows = opened(group, Whole(10)).step(0)
    assert isinstance(accepted, Accepted)
    assert accepted.page.status == "ready"
    assert accepted.page.last_row is None
    assert ids(rows) == []


def test_a_page_ends_early_when_rows_are_large() -> None:
    group = MemoryGroup()
    group.write([Write(number, note(number, body="x" * 100)) for number in range(4)])
    subscription = opened(group, Whole(1000), limits=FeedLimits(page_bytes_max=400))
    _, rows = subscription.step(0)
    assert ids(rows) == ["0", "1"]
    assert isinstance(rows, Rows)
    assert rows.page.has_more


@pytest.mark.parametrize(
    ("rows", "expected"), [(0, []), (2, ["3", "4"]), (9, ["0", "1", "2", "3", "4"])]
)
@pytest.mark.parametrize("slice_rows", [1, 2, 5, 6, 100])
def test_the_newest_rows_come_in_ascending_order(
    rows: int, expected: list[str], slice_rows: int
) -> None:
    subscription = opened(filled(5), Newest(rows), limits=FeedLimits(slice_rows=slice_rows))
    outputs: list[Output] = []
    for _ in range(10):
        outputs += subscription.step(0)
    assert ids(outputs[1]) == expected
    assert isinstance(outputs[1], Rows)
    assert not outputs[1].page.has_more


def test_a_row_beyond_the_page_that_does_not_match_is_no_more() -> None:
    group = filled(2, "r")
    group.write([Write(7, note(7, "s"))])
    _, rows = opened(group, Whole(2), plan(where=in_room("r"))).step(0)
    assert isinstance(rows, Rows)
    assert not rows.page.has_more


ROWS_COME = [
    Whole(10),
    Whole(2),
    Newest(5),
    Resume(Seq(0), 10, snapshot_if_expired=False),
    Resume(Seq(1024), 10, snapshot_if_expired=True),  # before the floor
]


@pytest.mark.parametrize("start", ROWS_COME)
def test_the_acceptance_is_no_cursor_when_rows_come_after_it(start: Start) -> None:
    group = filled(5)
    group.floor = group.seq_last
    accepted, rows = opened(group, start).step(0)
    assert isinstance(accepted, Accepted)
    assert isinstance(rows, Rows)
    assert accepted.page == replace(rows.page, seq=None)


@pytest.mark.parametrize("start", ROWS_COME)
def test_who_is_cut_off_after_any_frame_and_resumes_misses_nothing(start: Start) -> None:
    group = filled(5)
    group.floor = group.seq_last
    frames = len(until_live(opened(group, start)))
    for cut in range(frames + 1):
        client = Client()
        subscription = opened(group, start, client=client)
        client.take(subscription, until_live(subscription)[:cut])
        subscription.close()
        resume = Resume(Seq(client.cursor), 10, snapshot_if_expired=False)
        subscription = opened(group, resume, client=client)
        client.take(subscription, until_live(subscription))
        assert sorted(client.rows) == ["0", "1", "2", "3", "4"], f"cut off after {cut}"
        subscription.close()


def until_live(subscription: Subscription) -> list[Output]:
    """Everything it gives to who asks for each page at once."""
    outputs: list[Output] = []
    while subscription.stage is not Stage.LIVE:
        outputs += subscription.step(0)
        subscription.next_page(None, 0)
    return outputs


def test_resume_replays_what_was_missed_deletes_too() -> None:
    group = filled(3)
    cursor = group.seq_last
    group.write([Write(0, None)], [Write(1, note(1, "r"))])
    group.write([Write(5, note(5))])
    client = Client()
    subscription = opened(group, Resume(cursor, 10, snapshot_if_expired=False), client=client)
    accepted, rows = subscription.step(0)
    assert isinstance(accepted, Accepted)
    assert accepted.page == Page(0, False, None, cursor)
    assert ids(rows) == []
    client.take(subscription, subscription.step(0))
    assert [kind for kind, _ in client.seen] == ["delete", "update", "insert"]
    assert subscription.stage is Stage.LIVE


def test_a_cursor_of_zero_is_a_whole_snapshot() -> None:
    accepted, rows = opened(filled(2), Resume(Seq(0), 10, snapshot_if_expired=False)).step(0)
    assert isinstance(accepted, Accepted)
    assert not accepted.reset
    assert ids(rows) == ["0", "1"]


@pytest.mark.parametrize(("ahead", "reason"), [(False, "expired"), (True, "ahead")])
def test_a_cursor_that_cannot_be_resumed(ahead: bool, reason: str) -> None:
    group = filled(3)
    cursor = Seq(group.seq_last + 1024) if ahead else Seq(1024)
    group.floor = Seq(0) if ahead else group.seq_last
    subscription = opened(group, Resume(cursor, 10, snapshot_if_expired=False))
    with pytest.raises(CursorExpired) as raised:
        subscription.step(0)
    assert raised.value.reason == reason
    assert group.snapshots_open == 0
    accepted, rows = opened(group, Resume(cursor, 10, snapshot_if_expired=True)).step(0)
    assert isinstance(accepted, Accepted)
    assert accepted.reset
    assert ids(rows) == ["0", "1", "2"]


def test_an_old_cursor_of_a_chain_without_changes_since_is_good() -> None:
    group = filled(1)
    cursor = group.seq_last
    group.floor = Seq(cursor + 10 * 1024)
    group.seq_last = Seq(cursor + 20 * 1024)  # others of the group wrote
    subscription = opened(group, Resume(cursor, 10, snapshot_if_expired=False))
    subscription.step(0)
    assert subscription.step(0) == []
    assert subscription.stage is Stage.LIVE


def test_changes_trimmed_while_catching_up_expire_the_cursor() -> None:
    group = filled(3)
    subscription = opened(group, Resume(Seq(1024 | 3), 10, snapshot_if_expired=False))
    subscription.step(0)
    group.floor = group.seq_last
    with pytest.raises(CursorExpired):
        subscription.step(0)


def test_a_snapshot_is_not_held_for_ever() -> None:
    group = filled(3)
    subscription = opened(group, Whole(1), limits=FeedLimits(snapshot_hold_s=60))
    subscription.step(100.0)
    subscription.check_hold(160.0)
    with pytest.raises(CursorExpired) as raised:
        subscription.next_page(None, 160.5)
    assert raised.value.reason == "snapshot"
    subscription.close()
    assert group.snapshots_open == 0


def test_a_filter_that_fails_on_a_stored_row_is_an_error() -> None:
    def fails(row: Row, seq: Seq) -> bool:
        return 1 // (row[1] - 1) > 0

    group = filled(3)
    live = plan(where=fails)
    with pytest.raises(QueryFailed):
        opened(group, Whole(10), live).step(0)
    subscription = opened(group, Resume(Seq(1), 10, snapshot_if_expired=False), live)
    subscription.step(0)
    with pytest.raises(QueryFailed):
        subscription.step(0)


def test_an_old_cursor_is_good_while_all_changes_after_it_are_kept() -> None:
    group = filled(2)
    cursor = group.seq_last
    group.write([Write(0, note(0), OTHERS)])
    group.floor = group.seq_last
    group.write([Write(7, note(7))])
    client = Client()
    subscription = opened(group, Resume(cursor, 10, snapshot_if_expired=False), client=client)
    client.take(subscription, until_live(subscription))
    assert list(client.rows) == ["7"]


def test_who_falls_behind_after_a_long_quiet_time_goes_on() -> None:
    group = filled(1)
    client = Client()
    subscription = opened(group, FromNow(), client=client)
    subscription.step(0)
    group.write([Write(0, note(0), OTHERS)])
    group.floor = group.seq_last
    client.room = 0
    group.write([Write(5, note(5))])
    client.room = 9
    client.take(subscription, until_live(subscription))
    assert list(client.rows) == ["5"]


@pytest.mark.parametrize("start", [FromNow(), Whole(2), Whole(9), Newest(5)])
@pytest.mark.parametrize("rows", [0, 3])
def test_no_cursor_tells_that_others_of_the_group_wrote(start: Start, rows: int) -> None:
    group = filled(rows)
    last = group.seq_last
    others_write(group)
    client = Client()
    subscription = opened(group, start, client=client)
    outputs = until_live(subscription)
    client.take(subscription, outputs)
    others_write(group)
    assert (client.cursor, subscription.cursor) == (last, last)
    assert subscription.untold() is None
    group.hub.close_all("another node leads")
    assert client.end is not None
    assert client.end.cursor == last


def test_an_expired_snapshot_does_not_tell_it_either() -> None:
    group = filled(3)
    last = group.seq_last
    others_write(group)
    subscription = opened(group, Whole(1))
    subscription.step(0)
    with pytest.raises(CursorExpired) as raised:
        subscription.check_hold(1000)
    assert raised.value.cursor == str(last)


def others_write(group: MemoryGroup) -> None:
    group.write([Write(1, note(1, str(group.seq_last)), OTHERS)])
    group.write([Write(1, note(1))], partition=tenant_partition(TenantId("bob")))


def test_a_position_is_told_once_and_only_when_changes_were_not_for_the_client() -> None:
    group = filled(1)
    client = Client()
    live = plan(where=in_room("r"))
    subscription = opened(group, FromNow(), live, client=client)
    subscription.step(0)
    assert subscription.untold() is None
    group.write([Write(1, note(1, "r"))])
    assert subscription.untold() is None, "the event said it"
    group.write([Write(2, note(2, "s"))])
    assert subscription.untold() == Position(group.seq_last)
    assert subscription.untold() is None
    other = opened(group, Resume(Seq(client.cursor), 10, snapshot_if_expired=False), live)
    assert other.untold() is None, "not live"
    until_live(other)
    assert other.untold() == Position(group.seq_last), "the replay passed it in silence"
    group.write([Write(3, note(3, "r"))])
    assert other.untold() is None
