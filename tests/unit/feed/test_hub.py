"""What the hub does for subscriptions that share, that fail, and whose table or leader goes."""

from __future__ import annotations

import orjson

from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import EndReason
from kalamdb.feed.replay import ReplayLimits
from kalamdb.feed.subscription import (
    FeedLimits,
    FromNow,
    Resume,
    Stage,
    Start,
    Subscription,
    Whole,
)
from kalamdb.model import keys
from kalamdb.model.change import Row
from kalamdb.model.ids import Seq
from kalamdb.sql.bound import LivePlan
from tests.unit.feed.client import Client
from tests.unit.feed.group import (
    ALICE,
    NOTES,
    OTHERS,
    MemoryGroup,
    Write,
    in_room,
    note,
    plan,
)


def follow(
    group: MemoryGroup,
    client: Client,
    live: LivePlan | None = None,
    start: Start | None = None,
    limits: FeedLimits | None = None,
) -> Subscription:
    """A subscription, stepped until it is live or waits for the client."""
    subscription = Subscription(
        "s",
        live or plan(),
        ALICE,
        start or FromNow(),
        snapshot=group.snapshot,
        hub=group.hub,
        outlet=client,
        limits=limits or FeedLimits(),
    )
    while subscription.wants_step:
        client.take(subscription, subscription.step(0))
    return subscription


class Recorder(Client):
    """A client that keeps the events themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[FeedEvent] = []

    def push(self, prefix: bytes, event: FeedEvent, /) -> bool:
        self.events.append(event)
        return super().push(prefix, event)


def test_subscriptions_of_one_shape_get_the_same_event() -> None:
    group = MemoryGroup()
    calls = 0

    def counted(row: Row, seq: Seq) -> bool:
        nonlocal calls
        calls += 1
        return True

    live = plan(where=counted)
    first, second, third = Recorder(), Recorder(), Recorder()
    for client in (first, second):
        follow(group, client, live)
    follow(group, third, plan(shape="another"))
    group.write([Write(1, note(1))])
    assert calls == 1
    assert first.events == second.events
    assert first.events[0] is not third.events[0]
    statistics = group.hub.statistics()
    assert (statistics.feeds, statistics.events, statistics.deliveries) == (2, 2, 3)


def test_a_chain_is_watched_while_somebody_is_live_on_it() -> None:
    group = MemoryGroup()
    chain = keys.chain(NOTES.id, ALICE)
    assert not group.hub.watches(chain)
    subscription = follow(group, Client())
    assert group.hub.watches(chain)
    assert not group.hub.watches(keys.chain(OTHERS.id, ALICE))
    subscription.close()
    assert not group.hub.watches(chain)
    assert group.hub.statistics().feeds == 0


SEEN = [
    # one after the other, then three in one transaction, then one whose last row is in another room
    [Write(1, note(1, "r"))],
    [Write(2, note(2, "r")), Write(3, note(3, "s")), Write(4, note(4, "r"))],
    [Write(5, note(5, "r")), Write(6, note(6, "s"))],
    # and one that ends in another table
    [Write(7, note(7, "r")), Write(8, note(8, "r")), Write(1, note(1), OTHERS)],
]
COMMITS = [True, False, True, True, False, True]


def test_commit_stands_on_the_last_row_of_a_transaction_that_is_seen() -> None:
    group = MemoryGroup()
    client = Client()
    follow(group, client, plan(where=in_room("r")))
    group.write(*SEEN)
    assert [commit for _, commit in client.commits] == COMMITS


def test_commit_is_the_same_when_replayed() -> None:
    group = MemoryGroup()
    follow(group, Client()).close()
    group.write([Write(9, note(9))])
    cursor = group.seq_last
    group.write(*SEEN)
    client = Client()
    start = Resume(cursor, 1000, snapshot_if_expired=False)
    follow(group, client, plan(where=in_room("r")), start)
    assert [commit for _, commit in client.commits] == COMMITS


def test_a_replay_round_ends_between_transactions() -> None:
    group = MemoryGroup()
    group.write([Write(9, note(9))])
    cursor = group.seq_last
    group.write(*([Write(number + 10 * at, note(1)) for number in range(3)] for at in range(4)))
    client = Client()
    subscription = Subscription(
        "s",
        plan(),
        ALICE,
        Resume(cursor, 10, snapshot_if_expired=False),
        snapshot=group.snapshot,
        hub=group.hub,
        outlet=client,
        limits=FeedLimits(replay=ReplayLimits(changes_max=2)),
    )
    seen = [len(client.seen)]
    while subscription.wants_step:
        client.take(subscription, subscription.step(0))
        seen.append(len(client.seen))
        assert not client.open_txn
    assert seen == [0, 0, 3, 6, 9, 12]


def test_a_filter_that_fails_ends_its_own_feed_only() -> None:
    group = MemoryGroup()
    broken, sound = Client(), Client()

    def fails(row: Row, seq: Seq) -> bool:
        return 1 // len(row[3]) > 0

    subscription = follow(group, broken, plan(where=fails, shape="broken"))
    follow(group, sound)
    group.write([Write(1, note(1, body="a"))])
    handed_out = group.seq_last
    group.write([Write(2, note(2, body=""))], [Write(3, note(3, body="c"))])
    assert broken.end is not None
    assert broken.end.reason is EndReason.FILTER_FAILED
    assert broken.end.cursor == handed_out
    assert subscription.stage is Stage.ENDED
    assert [kind for kind, _ in broken.seen] == ["insert"]
    assert len(sound.seen) == 3


def test_a_dropped_table_ends_its_subscriptions_live_or_loading() -> None:
    group = MemoryGroup()
    group.write([Write(number, note(number)) for number in range(3)])
    live, loading, other = Client(), Client(), Client()
    follow(group, live)
    follow(group, loading, start=Whole(1))
    follow(group, other, plan(OTHERS))
    assert group.snapshots_open == 1
    group.hub.close_table(NOTES.id)
    for client in (live, loading):
        assert client.end is not None
        assert client.end.reason is EndReason.TABLE_DROPPED
    assert other.end is None
    assert group.snapshots_open == 0
    assert group.hub.statistics().subscriptions == 1


def test_lost_leadership_ends_all_with_the_cursor_of_each() -> None:
    group = MemoryGroup()
    early, late, loading = Client(), Client(), Client()
    follow(group, early, plan(where=in_room("r")))
    group.write([Write(1, note(1))], [Write(1, note(1), OTHERS)])
    other = group.seq_last
    follow(group, late, plan(OTHERS))
    group.write([Write(2, note(2, "s"))])
    follow(group, loading, start=Whole(1))
    group.hub.close_all("another node leads")
    assert early.end is not None
    assert early.end.reason is EndReason.LEADERSHIP_LOST
    assert early.end.cursor == group.seq_last  # nothing up to there was for it
    assert late.end is not None
    assert late.end.cursor == other  # what the others of the group do is not told
    assert loading.end is not None
    assert loading.end.cursor == 0  # half a snapshot is no place to resume from


def test_an_event_nobody_watches_is_not_even_looked_at() -> None:
    group = MemoryGroup()
    follow(group, Client(), plan(OTHERS))
    group.write([Write(1, note(1))])
    assert group.hub.statistics().events == 0
    assert group.hub.seq_last == group.seq_last


def test_prefix_holds_any_id() -> None:
    client = Recorder()
    group = MemoryGroup()
    name = 'a "quoted" \\ näme\n'
    Subscription(
        name,
        plan(),
        ALICE,
        FromNow(),
        snapshot=group.snapshot,
        hub=group.hub,
        outlet=client,
        limits=FeedLimits(),
    ).step(0)
    group.write([Write(1, note(1))])
    subscription = next(iter(group.hub._members))  # pyright: ignore[reportPrivateUsage]
    frame = orjson.loads(subscription.prefix + client.events[0].tail)
    assert frame["subscription_id"] == name
