"""Model test: whatever comes between, a client's rows become the table's, each seq once, in order.

A script of numbered moves is drawn: writes, steps, pages, a full or empty outlet, disconnects,
resumes, a change of leadership. What a move does in detail follows from its number alone, so a
failing script can be cut down.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalamdb.feed.predicate import judge
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
from kalamdb.model.ids import Seq
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

TINY = FeedLimits(
    slice_rows=2,
    page_bytes_max=150,
    replay=ReplayLimits(
        changes_max=2, size_max_bytes=300, txn_changes_max=3, txn_size_max_bytes=500
    ),
)
LARGE = FeedLimits()


class Story:
    """One client that comes, pages, falls behind, goes and resumes while others write."""

    def __init__(self, limits: FeedLimits, *, filtered: bool) -> None:
        self.group = MemoryGroup()
        self.limits = limits
        self.where = in_room("r") if filtered else None
        self.plan = plan(where=self.where, shape=f"filtered {filtered}")
        self.counter = 0
        self.client = Client()
        self.subscription: Subscription | None = None
        self.was_live = 0
        # Another subscriber of the same shape, so that feeds are shared.
        self.witness = Client()
        self.watching = self.open(FromNow(), self.witness)
        self.watching.step(0)

    def open(self, start: Start, client: Client) -> Subscription:
        return Subscription(
            "s",
            self.plan,
            ALICE,
            start,
            snapshot=self.group.snapshot,
            hub=self.group.hub,
            outlet=client,
            limits=self.limits,
        )

    # ---- moves ----------------------------------------------------------------------------------

    def write(self, dice: Random) -> None:
        """One to three transactions in one batch, over both tables, some longer than a round."""
        self.group.write(
            *(
                [self.one_write(dice) for _ in range(dice.choice([1, 1, 2, 3, 7]))]
                for _ in range(dice.choice([1, 1, 1, 3]))
            )
        )

    def one_write(self, dice: Random) -> Write:
        self.counter += 1
        number = dice.randrange(8)
        table = dice.choice([NOTES, NOTES, NOTES, OTHERS])
        if dice.random() < 0.25:
            return Write(number, None, table)
        # A body of its own, so that every version differs; sometimes NULL.
        body = str(self.counter) if dice.random() < 0.8 else None
        return Write(number, note(number, dice.choice(["r", "r", "s", None]), body), table)

    def subscribe(self, dice: Random) -> None:
        if self.subscription is None:
            self.client = Client()
            self.client.chained = self.where is None
            self.subscription = self.open(Whole(dice.randint(1, 4)), self.client)

    def step(self, dice: Random) -> None:
        """A step, and the next page when the client waits for one."""
        subscription = self.subscription
        if subscription is None:
            return
        if subscription.stage is Stage.WAITING:
            last = self.client.last_row
            assert last is not None
            subscription.next_page(Seq(last) if dice.random() < 0.5 else None, 0)
        self.client.take(subscription, subscription.step(0))

    def step_often(self, dice: Random) -> None:
        for _ in range(12):
            self.step(dice)

    def page_again(self, dice: Random) -> None:
        """Ask for rows the client has got already: the pages from there on come again."""
        if self.subscription is not None and self.subscription.stage is Stage.WAITING:
            after = min(dice.choice([0, 1024, 5 * 1024]), self.client.last_row or 0)
            self.subscription.next_page(Seq(after), 0)

    def give_room(self, dice: Random) -> None:
        self.client.room = dice.choice([0, 1, 2, 1_000_000])

    def disconnect(self, dice: Random) -> None:
        if self.subscription is not None:
            self.subscription.close()
            assert self.subscription.cursor >= self.client.cursor or not self.client.ready
            self.subscription = None

    def resume(self, dice: Random) -> None:
        """Come back with the cursor of the last frame, if all of a snapshot has come before."""
        if self.subscription is None and self.client.ready and self.client.cursor:
            start = Resume(Seq(self.client.cursor), 2, snapshot_if_expired=False)
            self.subscription = self.open(start, self.client)

    def lose_leadership(self, dice: Random) -> None:
        self.group.hub.close_all("another node leads")
        assert not self.group.hub.statistics().subscriptions
        if self.subscription is not None:
            assert self.client.end is not None
            assert self.subscription.stage is Stage.ENDED
            if self.client.ready:
                assert int(self.client.end.cursor) >= self.client.cursor
                self.client.cursor = int(self.client.end.cursor)
            self.subscription = None
        self.witness = Client()
        self.watching = self.open(FromNow(), self.witness)
        self.witness.take(self.watching, self.watching.step(0))

    # ---- what always holds ----------------------------------------------------------------------

    def check(self) -> None:
        subscription = self.subscription
        stage = None if subscription is None else subscription.stage
        assert self.group.snapshots_open == int(stage in (Stage.LOADING, Stage.WAITING))
        assert self.watching.stage is Stage.LIVE
        if stage is Stage.LIVE:
            self.was_live += 1
            self.check_rows()
            assert not self.client.open_txn, "a transaction without its end"

    def check_rows(self) -> None:
        wanted = {
            str(number): (row.get(2), row.get(3))
            for number, row in self.group.rows().items()
            if self.where is None or self.where(row, Seq(0))
        }
        have = {
            number: (row.get("room"), row.get("body")) for number, row in self.client.rows.items()
        }
        assert have == wanted

    def finish(self) -> None:
        """Left alone, the client has every row, and has seen every event from its first one on."""
        dice = Random(0)
        self.client.room = 1_000_000
        self.resume(dice)
        self.subscribe(dice)
        for _ in range(2000):
            if self.subscription is not None and self.subscription.stage is Stage.LIVE:
                break
            self.step(dice)
        assert self.subscription is not None
        assert self.subscription.stage is Stage.LIVE
        self.check()
        for client in (self.client, self.witness):
            if client.seen:
                assert client.seen == [
                    (kind.value, change.seq)
                    for change in self.group.log()
                    if (kind := judge(self.where, change)) and change.seq >= client.seen[0][1]
                ]


MOVES = {
    Story.write: 8,
    Story.step: 6,
    Story.step_often: 3,
    Story.subscribe: 3,
    Story.resume: 3,
    Story.give_room: 3,
    Story.disconnect: 1,
    Story.page_again: 1,
    Story.lose_leadership: 1,
}
scripts = st.lists(
    st.tuples(
        st.sampled_from([move for move, weight in MOVES.items() for _ in range(weight)]),
        st.integers(0, 999),
    ),
    min_size=30,
    max_size=90,
)


@pytest.mark.parametrize("limits", [LARGE, TINY], ids=["large", "tiny"])
@pytest.mark.parametrize("filtered", [False, True], ids=["all", "filtered"])
@settings(max_examples=150)
@given(script=scripts)
def test_any_interleaving(
    *, limits: FeedLimits, filtered: bool, script: list[tuple[Callable[[Story, Random], None], int]]
) -> None:
    story = Story(limits, filtered=filtered)
    for move, number in script:
        move(story, Random(number))
        story.check()
    story.finish()
