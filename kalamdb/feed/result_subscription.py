"""One live query that is evaluated anew: its rows, then units of differences. To be stepped.

1. NEW: the first step asks for the result of now. While it is evaluated there is nothing to step
   (EVALUATING); it comes by `arrived`.
2. Rows are given out in pages (LOADING, WAITING) of that one result; a resume has the result of its
   cursor put together instead.
3. CATCH_UP: what makes the result it has given out the newest one is given out as a unit, in steps;
   again, until there is nothing newer.
4. LIVE: units are delivered whole. One that finds no room takes it back to 3: changes since then
   come as one difference.

Invariants: what it has given out is a whole result, or a whole result and the beginning of one
unit, whose end it gives out before anything else; its cursor names the last whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kalamdb.errors import CursorExpired, KalamError, Unsupported
from kalamdb.feed.events import FeedEvent, event_prefix
from kalamdb.feed.hub import StreamEnd
from kalamdb.feed.live_result import LiveResult, Viewer
from kalamdb.feed.loading import Newest, Page, Whole
from kalamdb.feed.result import Result, ResultCursor
from kalamdb.feed.subscription import (
    Accepted,
    Events,
    FeedLimits,
    FromNow,
    Output,
    Position,
    Resume,
    ResumeResult,
    Rows,
    Stage,
    Start,
)
from kalamdb.model.catalog import ViewDef
from kalamdb.model.ids import Seq
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import OutputColumn, ReevaluatedPlan

_STEPPED = frozenset((Stage.NEW, Stage.LOADING, Stage.CATCH_UP, Stage.ARRIVED))


class PushAll(Protocol):
    """Takes all events for the subscription with this prefix, or none (False): there is no room."""

    def __call__(self, prefix: bytes, events: Sequence[FeedEvent], /) -> bool: ...


class ResultOutlet(Protocol):
    """Where frames go, and who steps."""

    @property
    def push_all(self) -> PushAll: ...

    def behind(self, subscription: ResultSubscription) -> None:
        """It needs steps, when there is room."""
        ...

    def ended(self, subscription: ResultSubscription, end: StreamEnd) -> None:
        """It has ended; tell the client and forget it."""
        ...

    def failed(self, subscription: ResultSubscription, fault: KalamError) -> None:
        """It has ended with an error; tell the client, with its cursor, and forget it."""
        ...


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What was left of a unit when its stream ended, and the cursor at its end."""

    events: Sequence[FeedEvent]
    cursor: str


def check_start(start: Start) -> FromNow | Whole | Resume | ResumeResult:
    """Where a result may begin. Raises Unsupported."""
    if isinstance(start, Newest):
        raise Unsupported("last_rows of a query that is evaluated anew", "write ORDER BY … LIMIT")
    return start


def check_after(after: Seq | None) -> None:
    """Raises Unsupported: pages of a result cannot be begun elsewhere."""
    if after is not None:
        raise Unsupported(
            "last_seq_id in a query that is evaluated anew", "pages follow one another"
        )


class ResultSubscription:
    """Implements `live_result.Viewer`. Its owner steps it while `wants_step`, and closes it."""

    def __init__(
        self,
        subscription_id: str,
        open_result: Callable[[Viewer], LiveResult],
        start: Start,
        *,
        outlet: ResultOutlet,
        limits: FeedLimits,
        prefix: bytes | None = None,
    ) -> None:
        """Raises Unsupported, SubscriptionLimit, Unavailable."""
        self.id = subscription_id
        self.prefix = event_prefix(subscription_id) if prefix is None else prefix
        self.stage = Stage.NEW
        self._resuming = str(start.cursor) if isinstance(start, ResumeResult) else "0"
        self.begun = isinstance(start, ResumeResult) and start.goes_on  # its beginning was told
        self.unfinished: Unfinished | None = None  # once it has ended
        self.start = check_start(start)
        self._outlet = outlet
        self._limits = limits
        self._given: Result | None = None  # all of it was given out; None while LIVE
        self._loading: Result | None = None
        self._loaded = self._page = 0
        self._batch_rows = 0
        self._opened_s = 0.0
        self._held_bytes = 0
        self._reset = False
        self._arrived: Result | None = None
        self._past: Result | KalamError | None = None
        self._target: Result | None = None  # where the unit being given out leads
        self._unit: Sequence[FeedEvent] = ()
        self._unit_at = 0
        self._told = "0"
        self._result = open_result(self)

    # ---- the owner's side -----------------------------------------------------------------------

    @property
    def plan(self) -> ReevaluatedPlan:
        return self._result.plan

    @property
    def tables(self) -> tuple[TableDef, ...]:
        return self._result.tables

    @property
    def views(self) -> tuple[ViewDef, ...]:
        return self._result.plan.scan.views

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        """Of the result; known once it is accepted."""
        found = self._loading or self._given or self._result.kept
        return () if found is None else found.columns

    @property
    def ordered(self) -> bool:
        return self._result.plan.ordered

    @property
    def key(self) -> tuple[str, ...] | None:
        """Names of the columns that tell rows apart; known once it is accepted."""
        found = self._loading or self._given or self._result.kept
        return None if found is None else found.key

    @property
    def wants_step(self) -> bool:
        return self.stage in _STEPPED

    @property
    def is_live(self) -> bool:
        return self.stage is Stage.LIVE

    @property
    def in_unit(self) -> bool:
        """A unit is being given out, and its end is still to come."""
        return self._target is not None

    @property
    def loaded(self) -> bool:
        """The rows it began with were given out: its cursor says where it is."""
        return self.cursor != "0"

    @property
    def cursor(self) -> str:
        """The last result that was given out whole (or queued at the outlet); "0": none."""
        if self.stage is Stage.LIVE:
            return str(self._result.cursor)
        if self._given is None:
            return self._resuming if self.begun else "0"
        return str(self._given.cursor)

    def step(self, now_s: float) -> list[Output]:
        """Do a bounded piece of work; queue what it gives before anything else runs.

        Raises: KalamError (CursorExpired …); close it then.
        """
        match self.stage:
            case Stage.NEW:
                found = self._result.want(self)
                if found is None:
                    self.stage = Stage.EVALUATING
                    return []
                return self._begin(found, now_s)
            case Stage.ARRIVED:
                found, self._arrived = self._arrived, None
                assert found is not None
                return self._begin(found, now_s)
            case Stage.LOADING:
                self.check_hold(now_s)
                return self._next_rows()
            case Stage.CATCH_UP:
                return self._catch_up()
            case Stage.WAITING | Stage.LIVE | Stage.ENDED | Stage.EVALUATING:
                return []

    def next_page(self, after: Seq | None, now_s: float) -> bool:
        """The client wants the next page. False: none is due. Raises Unsupported, CursorExpired."""
        check_after(after)
        if self.stage is not Stage.WAITING:
            return False
        self.check_hold(now_s)
        self.stage = Stage.LOADING
        return True

    def check_hold(self, now_s: float) -> None:
        """Raises CursorExpired when pages were not fetched in time."""
        held = self._loading is not None
        if held and now_s - self._opened_s > self._limits.snapshot_hold_s:
            raise CursorExpired("0", "snapshot")

    def untold(self) -> Position | None:
        """While LIVE: the cursor, if evaluations that changed nothing have moved it on."""
        if self.stage is not Stage.LIVE or self.cursor == self._told:
            return None
        self._told = self.cursor
        return Position(self._told)

    def close(self) -> None:
        """Release everything; may be called again."""
        self.stage = Stage.ENDED
        self._given = self._loading = self._arrived = self._target = self._past = None
        self._unit = ()
        self._let_go()
        self._result.leave(self)

    # ---- the result's side ----------------------------------------------------------------------

    def arrived(self, result: Result) -> None:
        if self.stage is Stage.EVALUATING:
            self._arrived = result
            if self._given is None:
                self.stage = Stage.ARRIVED
            else:
                self.stage = Stage.CATCH_UP
            self._outlet.behind(self)

    def deliver(self, old: Result, new: Result, events: Sequence[FeedEvent]) -> None:
        if self.stage is not Stage.LIVE or not events:
            return
        if self._outlet.push_all(self.prefix, events):
            self._told = str(new.cursor)
            return
        self._given = old
        self._unit, self._unit_at, self._target = events, 0, new
        self.stage = Stage.CATCH_UP
        self._outlet.behind(self)

    def end(self, end: StreamEnd) -> None:
        told = StreamEnd(end.reason, end.detail, self.cursor)
        self._keep_unfinished()
        self.close()
        self._outlet.ended(self, told)

    def fail(self, fault: KalamError) -> None:
        if self.stage is not Stage.ENDED:
            self._keep_unfinished()
            self._outlet.failed(self, fault)

    def _keep_unfinished(self) -> None:
        if self._target is not None:
            self.unfinished = Unfinished(self._unit[self._unit_at :], str(self._target.cursor))

    def _hold(self, result: Result) -> None:
        """Rows that wait for the client to ask are counted. Raises Overloaded."""
        if not self._held_bytes:
            self._result.hold(result.size_bytes)
            self._held_bytes = result.size_bytes

    def _let_go(self) -> None:
        self._result.hold(-self._held_bytes)
        self._held_bytes = 0

    # ---- steps ----------------------------------------------------------------------------------

    def _begin(self, now: Result, now_s: float) -> list[Output]:
        match self.start:
            case FromNow():
                self._told = str(now.cursor)
                self.begun = True
                self._follow(now)
                return [Accepted(Page(0, False, None, self._told), reset=False)]
            case ResumeResult(cursor) as resume:
                return self._resume(resume, cursor, now, now_s)
            case Resume(cursor, batch_rows, snapshot_if_expired):
                if cursor and not snapshot_if_expired:
                    raise CursorExpired(str(cursor), "foreign")
                self._reset = cursor > 0
                return self._load(now, batch_rows, now_s)
            case Whole(batch_rows):
                return self._load(now, batch_rows, now_s)

    def _resume(
        self, resume: ResumeResult, cursor: ResultCursor, now: Result, now_s: float
    ) -> list[Output]:
        past, self._past = self._past, None
        if str(cursor) == str(now.cursor):
            past = now
        elif cursor.query != now.cursor.query:
            past = CursorExpired(str(cursor), "foreign")
        elif past is None:
            self._arrived = now
            self.stage = Stage.EVALUATING
            self._result.past(self, cursor, self._past_arrived)
            return []
        if isinstance(past, Result):
            self._told = str(past.cursor)
            page = Page(0, False, None, self._told)
            self.begun = True
            self._follow(past)
            if resume.goes_on:
                return []
            return [Accepted(page, reset=False), Rows((), page)]
        if not (resume.snapshot_if_expired and isinstance(past, CursorExpired)):
            raise past
        self._reset = True
        return self._load(now, resume.batch_rows, now_s)

    def _past_arrived(self, found: Result | KalamError) -> None:
        if self.stage is Stage.EVALUATING:
            self._past = found
            self.stage = Stage.ARRIVED
            self._outlet.behind(self)

    def _follow(self, given: Result) -> None:
        """All of `given` was given out: go on from there."""
        if given is self._result.kept:
            self._given = None
            self.stage = Stage.LIVE
        else:
            self._given = given
            self.stage = Stage.CATCH_UP

    def _load(self, now: Result, batch_rows: int, now_s: float) -> list[Output]:
        self._resuming = "0"
        self._loading = now
        self._batch_rows = batch_rows
        self._opened_s = now_s
        return self._next_rows()

    def _next_rows(self) -> list[Output]:
        result = self._loading
        assert result is not None
        rows = result.listing.rows
        first = stop = self._loaded
        size = 0
        while stop < len(rows) and stop - first < self._batch_rows:
            size += len(rows[stop])
            if size > self._limits.page_bytes_max and stop > first:
                break
            stop += 1
        self._loaded = stop
        more = stop < len(rows)
        page = Page(self._page, more, None, None if more else str(result.cursor))
        out: list[Output] = [Rows(tuple(rows[first:stop]), page)]
        if self._page == 0:
            self.begun = True
            out.insert(0, Accepted(Page(0, more, None, None), reset=self._reset))
        self._page += 1
        if more:
            self._hold(result)
            self.stage = Stage.WAITING
        else:
            self._let_go()
            self._loading = None
            self._told = str(result.cursor)
            # Live with the next step only: until then the page may still be on its way out.
            self._given = result
            self.stage = Stage.CATCH_UP
        return out

    def _catch_up(self) -> list[Output]:
        self._arrived = None
        if self._target is not None:
            return self._rest_of_unit()
        given = self._given
        assert given is not None
        now = self._result.kept or self._result.want(self)
        if now is None:
            self.stage = Stage.EVALUATING
            return []
        if now is given or now.listing is given.listing:
            self._follow(now)
            return []
        self.stage = Stage.EVALUATING
        self._result.compare(given, now, lambda events: self._compared(now, events))
        return []

    def _compared(self, target: Result, events: Sequence[FeedEvent]) -> None:
        if self.stage is Stage.EVALUATING:
            self._unit, self._unit_at, self._target = events, 0, target
            self.stage = Stage.CATCH_UP
            self._outlet.behind(self)

    def _rest_of_unit(self) -> list[Output]:
        """The next frames of the unit; at its end the client has the result it leads to."""
        first = stop = self._unit_at
        size = 0
        while stop < len(self._unit) and size < self._limits.replay.size_max_bytes:
            size += len(self._unit[stop].tail)
            stop += 1
        events = tuple(self._unit[first:stop])
        self._unit_at = stop
        if stop == len(self._unit):
            target, self._target, self._unit = self._target, None, ()
            assert target is not None
            if events:
                self._told = str(target.cursor)
            self._follow(target)
        return [Events(events)] if events else []
