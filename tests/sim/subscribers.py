"""Subscribers: each follows one partition through leader changes and crashes, from its own cursor.

1. Begin with a snapshot, once; then frames.
2. A transaction's frames count when the last of them is here: until then the cursor stands before
   it.
3. Whenever the stream ends (told, broken, or by a whim), resume at some member from the cursor.

Keeps: messages of a stream that was given up are not heard any more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kalamdb.errors import KalamError
from kalamdb.model.change import Change
from kalamdb.model.ids import Seq
from tests.sim import calls
from tests.sim.calls import DELAY_S, Lost, Refused
from tests.sim.clients import Desk, Hints, Mix, Place
from tests.sim.history import Began, Expired, Frame, Resumed, Subscription
from tests.sim.member import Member
from tests.sim.schema import elements_of

POSITIONS_EVERY_S = 0.4
AWAY_SHARE = 0.1  # comes back only after seconds

FOLLOWER = Mix((0, 0, 0, 1), 0.7, 2.0)


class _Session:
    """The client's end of one stream; messages arrive in order."""

    def __init__(self, desk: Desk, subscription: Subscription) -> None:
        self._desk = desk
        self._subscription = subscription
        self._last_at_s = 0.0
        self._frames: list[Frame] = []
        self.over = False

    def deliver(self, message: object) -> None:
        """On the member: send it."""
        timeline = self._desk.timeline
        at_s = max(timeline.now_s + self._desk.dice.uniform(*DELAY_S), self._last_at_s + 1e-6)
        self._last_at_s = at_s
        timeline.at(at_s, partial(self._hear, message))

    def _hear(self, message: object) -> None:
        if self.over:
            return
        subscription = self._subscription
        match message:
            case Change():
                self._frames.append(frame_of(message))
                if message.last_of_txn:
                    subscription.seen += self._frames
                    subscription.cursor = message.seq
                    self._frames = []
            case int():
                if not self._frames:
                    assert subscription.cursor is not None
                    subscription.cursor = max(subscription.cursor, Seq(message))
            case str():
                self.over = True
            case Began() | Resumed() | Expired():
                subscription.seen.append(message)
                if isinstance(message, Began):
                    subscription.cursor = message.seq
                if isinstance(message, Expired):
                    subscription.cursor = None
                    self.over = True
            case _:
                raise AssertionError(message)


def frame_of(change: Change) -> Frame:
    after = None if change.after is None else elements_of(change.after)
    return Frame(change.seq, change.prev_seq, change.op, change.key, after, change.last_of_txn)


async def subscribe(desk: Desk, place: Place, subscription: Subscription) -> None:
    """Follow until the run ends."""
    hints = Hints(desk, FOLLOWER)
    while True:
        member = hints.pick(place.group)
        session = _Session(desk, subscription)
        try:
            await desk.calls.call(member, _opening(place, subscription.cursor, session.deliver))
        except (KalamError, Refused, Lost):
            session.over = True
            hints.learn(place.group, member, good=False)
            await desk.calls.pause(desk.dice.uniform(0.02, 0.3))
            continue
        hints.learn(place.group, member, good=True)
        life = member.life
        until_s = desk.timeline.now_s + desk.dice.expovariate(0.3)
        while not (session.over or life.ended):
            await desk.calls.pause(0.05)
            if desk.timeline.now_s > until_s and not desk.closed:
                break
        session.over = True
        away_s = desk.dice.uniform(0.0, 0.2)
        if desk.dice.random() < AWAY_SHARE and not desk.closed:
            away_s = desk.dice.uniform(1.0, 8.0)
        await desk.calls.pause(away_s)


def _opening(place: Place, cursor: Seq | None, deliver: Callable[[object], None]):
    async def open_stream(member: Member) -> None:
        group, partition = place.group, place.partition
        if cursor is None:
            await calls.begin_stream(member, group, partition, deliver)
        else:
            await calls.resume_stream(member, group, partition, cursor, deliver)

    return open_stream


def tell_positions_later(member: Member) -> None:
    """The member's regular position frames, for as long as this process lives."""
    member.loop.call_later(POSITIONS_EVERY_S, _tell_positions, member)


def _tell_positions(member: Member) -> None:
    for group, sink in member.sinks.items():
        sink.tell_positions(member.replicas[group].seq_last)
    tell_positions_later(member)
