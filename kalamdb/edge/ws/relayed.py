"""A live query whose group another node leads: what its client has, and what is to come next.

1. NEW: the first step asks for a place at the leader (`Relays.attach`). What the leader's
   subscription gives comes by `took`, one step at a time; the next is asked for when the client has
   taken in the one before.
2. LIVE: it is a member of a `RelayFeed`, which all clients of this process share that follow the
   same thing. An event its outlet has no room for takes it out of the feed, at its exact position.
3. Whatever ends its place there (the leader is gone, the slot has moved, the link broke) takes it
   back to 1: it asks again, from what its client was given last. The client sees nothing of it.
   Before all first rows were given out they are begun anew, and the client is told with `reset`.

Invariants: what has come is given out before it asks again; its cursor names what was queued for
the client, no more and no less; a feed hands out events only if each follows the one before. There
is no I/O here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.local import Asked, Live, Plan
from kalamdb.edge.ws.relay_feed import COMMITTED, RelayFeed
from kalamdb.errors import KalamError, Unavailable
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import EndReason, Push, StreamEnd
from kalamdb.feed.loading import Newest
from kalamdb.feed.result import ResultCursor
from kalamdb.feed.result_subscription import PushAll, Unfinished, check_after, check_start
from kalamdb.feed.subscription import (
    Events,
    FromNow,
    Position,
    Resume,
    ResumeResult,
    Stage,
    Start,
    Subscription,
)
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.principal import Principal
from kalamdb.sql.bound import LivePlan, ReevaluatedPlan

BACKLOG_BYTES_MAX = 4 << 20
"""Units that wait for one slow client; beyond it they are asked for again as one difference."""
STEP_BYTES = 64 << 10
ROWS_DEFAULT = 1000
_STEPPED = frozenset((Stage.NEW, Stage.CATCH_UP, Stage.ARRIVED))


@dataclass(frozen=True, slots=True)
class Message:
    """A message as JSON, made for the subscription "" (`protocol.addressed`)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """What one step at the leader gave.

    `cursor` None: the first rows are not complete. `more`: it wants another step; `waiting`: the
    client has to ask for the next page.
    """

    outputs: Sequence[Message | Events]
    cursor: Seq | str | None
    more: bool
    waiting: bool


@dataclass(frozen=True, slots=True)
class Left:
    """Where a live query stood when it left another place."""

    begun: bool = False
    cursor: Seq | str | None = None
    cut: bool = False
    unfinished: Unfinished | None = None


def left_of(live: Live, cursor: Seq | str | None, *, begun: bool) -> Left:
    """Where a live query of this node stood when it ended here."""
    if isinstance(live, Subscription):
        return Left(begun, cursor, live.cut)
    return Left(begun, cursor, unfinished=live.unfinished)


class Relays(Protocol):
    """The groups that other nodes lead, as the sockets of this process see them."""

    def is_here(self, partition: Partition) -> bool:
        """This node leads the partition's group, as far as it knows."""
        ...

    def home(self, plan: Plan, principal: Principal) -> Partition:
        """The partition at whose leader a query runs. Raises Unavailable."""
        ...

    def attach(self, stream: RelayedSubscription, fault: Unavailable | None = None) -> None:
        """Find it a place, again and again for a limited time: `took`, `lost`, or its outlet's
        `ended`, `failed` or `returned` tell what became of it. `fault`: of the last try.
        """
        ...

    def more(self, stream: RelayedSubscription) -> None: ...

    def next_page(self, stream: RelayedSubscription, after: Seq | None) -> None: ...

    def leave(self, stream: RelayedSubscription) -> None:
        """It has ended, or goes on elsewhere; may be called again."""
        ...


class RelayedOutlet(Protocol):
    """Where frames go, and who steps."""

    @property
    def push(self) -> Push: ...

    @property
    def push_all(self) -> PushAll: ...

    def behind(self, subscription: RelayedSubscription) -> None: ...

    def give(self, subscription: RelayedSubscription, outputs: Sequence[Message | Events]) -> None:
        """Queue what a step gave, whatever waits."""
        ...

    def ended(self, subscription: RelayedSubscription, end: StreamEnd) -> None: ...

    def failed(self, subscription: RelayedSubscription, fault: KalamError) -> None: ...

    def returned(self, subscription: RelayedSubscription) -> None:
        """This node leads its group: go on with it here, or ask for a place again."""
        ...

    def bind_again(self, subscription: RelayedSubscription) -> bool:
        """The leader knows other definitions: bind anew. False: it has ended by that."""
        ...


class RelayedSubscription:
    """One live query of one client. Its owner steps it while `wants_step`, and closes it."""

    def __init__(
        self,
        subscription_id: str,
        asked: Asked,
        plan: Plan,
        start: Start,
        *,
        outlet: RelayedOutlet,
        relays: Relays,
        prefix: bytes,
        left: Left | None = None,
    ) -> None:
        """`left`: it was in another place before."""
        was = left or Left()
        if isinstance(plan, ReevaluatedPlan):
            check_start(start)
        self.id = subscription_id
        self.asked = asked
        self.plan = plan
        self.start = start
        self.prefix = prefix
        self.stage = Stage.NEW
        self.begun = was.begun
        self._outlet = outlet
        self._relays = relays
        self._cursor = was.cursor
        self._cut = was.cut
        self._came = was.cursor  # the cursor behind what is in the inbox
        self._told: Seq | str = Seq(0) if was.cursor is None else was.cursor
        self._inbox: deque[Taken] = deque()
        self._backlog: deque[Unfinished] = deque()
        self._backlog_bytes = 0
        self._attached = self._more = self._waiting = self._anew = False
        self._feed: RelayFeed | None = None
        self._fault: Unavailable | None = None  # why it has no place
        if was.unfinished is not None:
            self._backlog.append(was.unfinished)

    # ---- the owner's side -----------------------------------------------------------------------

    @property
    def wants_step(self) -> bool:
        return self.stage in _STEPPED

    @property
    def loaded(self) -> bool:
        """The rows it began with were given out: its cursor says where it is."""
        return self._cursor is not None or self._feed is not None

    @property
    def cursor(self) -> Seq | str:
        """Everything up to here was given out (or queued at the outlet); 0: it has to begin."""
        if self._feed is not None and not self._backlog:
            return self._feed.cursor
        if self._cursor is not None:
            return self._cursor
        return Seq(0) if isinstance(self.plan, LivePlan) else "0"

    def step(self, now_s: float) -> Sequence[Message | Events]:
        """What is to be queued now."""
        del now_s
        if self.stage not in _STEPPED:
            return ()
        outputs: Sequence[Message | Events] = ()
        if self._inbox:
            outputs = self._take(self._inbox.popleft())
        elif self._backlog:
            outputs = self._rest()
        elif not self._attached:
            self._attached = True
            self._more = self._waiting = False
            self._came = self._cursor
            fault, self._fault = self._fault, None
            self._relays.attach(self, fault)
        elif self._more:
            self._more = False
            self._relays.more(self)
        self._settle()
        return outputs

    def next_page(self, after: Seq | None, now_s: float) -> bool:
        """The client wants rows after `after`; they come by `took`. Raises Unsupported."""
        del now_s
        if isinstance(self.plan, ReevaluatedPlan):
            check_after(after)
        if self.stage is Stage.WAITING:
            self._waiting = False
            self.stage = Stage.EVALUATING
            # Rows were begun anew: the client may still name one of those that are void.
            self._relays.next_page(self, None if self._anew else after)
        return False

    def check_hold(self, now_s: float) -> None:
        """The leader's subscription looks at that."""

    def untold(self) -> Position | None:
        """While LIVE: the cursor, if changes that were not for the client have moved it on."""
        feed = self._feed
        if feed is None or self.stage is not Stage.LIVE or feed.cursor in (self._told, "0"):
            return None
        if feed.cursor == feed.event_seq and feed.event_seq:
            return None
        self._told = feed.cursor
        return Position(self._told)

    def close(self) -> None:
        """Release everything; may be called again."""
        self.stage = Stage.ENDED
        self._inbox.clear()
        self._backlog.clear()
        self._leave_feed()
        self._relays.leave(self)

    # ---- what it asks the leader for ------------------------------------------------------------

    def wish(self) -> tuple[Start, bool]:
        """Where it is to begin now, and whether rows that were told are void by that."""
        cursor = self._cursor
        match self.start:
            case FromNow() | Newest():
                rows, anew = ROWS_DEFAULT, False
            case Resume(_, rows, anew) | ResumeResult(_, rows, anew):
                pass
            case whole:
                rows, anew = whole.batch_rows, False
        if cursor is None:
            self._anew = self.begun
            return self.start, self.begun
        if isinstance(cursor, int):
            return Resume(cursor, rows, anew, goes_on=True, cut=self._cut), False
        return ResumeResult(ResultCursor.parse(cursor), rows, anew, goes_on=True), False

    # ---- the relay's side -----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.stage is not Stage.ENDED

    def took(self, taken: Taken, feed: RelayFeed | None = None) -> bool:
        """A step's outputs; with `feed` it is a member from now on. At once, if so: the feed's next
        event may be the next thing that comes. False: it does not follow what came before.
        """
        if self.stage is Stage.ENDED:
            return True
        if not self._follows(taken):
            return False
        self._came = taken.cursor
        self._inbox.append(taken)
        if feed is None:
            self._settle()
            self._outlet.behind(self)
            return True
        while self._inbox:
            self._outlet.give(self, self._take(self._inbox.popleft()))
        self._more = self._waiting = False
        self._feed = feed
        feed.members[self] = (self._outlet.push, self.prefix)
        self._settle()
        if self.wants_step:
            self._outlet.behind(self)
        return True

    def _follows(self, taken: Taken) -> bool:
        """Are its events those after what came before?"""
        at = self._came
        for output in taken.outputs:
            if isinstance(output, Message) or not isinstance(at, int):
                continue
            for event in output.events:
                if event.seq <= at or event.prev_seq < at:
                    return False
                at = event.seq
        return not isinstance(at, int) or not isinstance(taken.cursor, int) or taken.cursor >= at

    def lost(self) -> None:
        """Its place is gone; it asks for another once what has come is given out."""
        if self.stage is Stage.ENDED:
            return
        self._leave_feed()
        self._attached = self._more = self._waiting = False
        self._fault = Unavailable("the place of a live query was lost")
        self._settle()
        self._outlet.behind(self)

    def end(self, reason: EndReason, detail: str) -> None:
        self._outlet.ended(self, StreamEnd(reason, detail, self.cursor))

    def fail(self, fault: KalamError) -> None:
        self._outlet.failed(self, fault)

    def go_home(self) -> None:
        """Its group is led by this node."""
        self._outlet.returned(self)

    def bind_again(self) -> bool:
        return self._outlet.bind_again(self)

    # ---- the feed's side ------------------------------------------------------------------------

    def fell(self, after: Seq) -> None:
        """There was no room for an event; the feed has forgotten it."""
        self._feed = None
        self._cursor = after
        self._cut = True  # perhaps: the event may not have been the first of its transaction
        self._attached = False
        self._settle()
        self._outlet.behind(self)

    def deliver(self, unit: Sequence[FeedEvent], cursor: str) -> None:
        feed = self._feed
        assert feed is not None
        if not self._backlog and self._outlet.push_all(self.prefix, unit):
            self._told = cursor
            return
        if not self._backlog:
            self._cursor = feed.cursor
        size = sum(len(event.tail) for event in unit)
        if self._backlog and self._backlog_bytes + size > BACKLOG_BYTES_MAX:
            self._feed = None
            feed.leave(self)
            self._attached = False
        else:
            self._backlog.append(Unfinished(unit, cursor))
            self._backlog_bytes += size
        self._settle()
        self._outlet.behind(self)

    def changed_feed(self, feed: RelayFeed) -> None:
        self._feed = feed

    # ---- steps ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self.stage is Stage.ENDED:
            return
        if self._inbox:
            self.stage = Stage.ARRIVED
        elif self._backlog or not self._attached:
            self.stage = Stage.CATCH_UP
        elif self._feed is not None:
            self.stage = Stage.LIVE
        elif self._waiting:
            self.stage = Stage.WAITING
        elif self._more:
            self.stage = Stage.CATCH_UP
        else:
            self.stage = Stage.EVALUATING

    def _take(self, taken: Taken) -> Sequence[Message | Events]:
        """What a step gave, to be queued now. Units of results are queued as there is room."""
        self._more, self._waiting = taken.more, taken.waiting
        made: list[Message | Events] = []
        by_row = isinstance(self.plan, LivePlan)
        unit: list[FeedEvent] = []
        for output in taken.outputs:
            if isinstance(output, Message):
                self.begun = True
                self._cut = False
                self._told = taken.cursor or self._told
                made.append(Message(protocol.addressed(output.payload, self.id)))
            elif by_row:
                last = output.events[-1]
                self._cut = not last.tail.endswith(COMMITTED)
                self._told = last.seq
                made.append(output)
            else:
                unit += output.events
        if unit:
            assert isinstance(taken.cursor, str)
            self._backlog.append(Unfinished(unit, taken.cursor))
            self._backlog_bytes += sum(len(event.tail) for event in unit)
        else:
            self._cursor = taken.cursor
        if taken.cursor is not None:
            self._anew = False
        return made

    def _rest(self) -> Sequence[Message | Events]:
        """The next frames of the oldest unit that waits."""
        unit = self._backlog.popleft()
        stop = size = 0
        while stop < len(unit.events) and size < STEP_BYTES:
            size += len(unit.events[stop].tail)
            stop += 1
        self._backlog_bytes = max(0, self._backlog_bytes - size)
        if stop < len(unit.events):
            self._backlog.appendleft(Unfinished(unit.events[stop:], unit.cursor))
        else:
            self._cursor = self._told = unit.cursor
        return [Events(tuple(unit.events[:stop]))] if stop else []

    def _leave_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is None:
            return
        if not self._backlog:
            self._cursor = feed.cursor
            self._cut = feed.cut
        feed.leave(self)
