"""One query of one tenant, kept current for its viewers.

It is *stale* from a change in what it reads until an evaluation whose snapshots were taken after
that change. A viewer that begins waits for an evaluation pinned after it asked, or takes the result
that is there when nothing has changed since. A viewer that is live has been given everything up to
`cursor`; its rows are the kept ones, so that there is one copy of them.

Keeps: a viewer's cursor never names rows it was not given; one evaluation at a time; the evaluation
that a change asks for is never dropped, only put off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from kalamdb.errors import CursorExpired, KalamError, SchemaChanged, Unavailable, UnknownTable
from kalamdb.feed.budget import Account
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import EndReason, StreamEnd
from kalamdb.feed.result import Result, ResultCursor
from kalamdb.feed.unit import unit
from kalamdb.model.ids import Partition
from kalamdb.model.table import TableKind
from kalamdb.sql.bound import ReevaluatedPlan

if TYPE_CHECKING:
    from kalamdb.feed.evaluations import Evaluations, Watchable

RETRY_S = 0.1


class Viewer(Protocol):
    """A subscription, as its result sees it."""

    @property
    def is_live(self) -> bool:
        """It has been given everything up to the result's cursor."""
        ...

    def arrived(self, result: Result) -> None:
        """The result it waits for."""
        ...

    def deliver(self, old: Result, new: Result, events: Sequence[FeedEvent]) -> None:
        """Make the old result the new one, if it is live; in one piece or not at all."""
        ...

    def end(self, end: StreamEnd) -> None: ...

    def fail(self, fault: KalamError) -> None: ...


PastDone = Callable[[Result | KalamError], None]
UnitDone = Callable[[Sequence[FeedEvent]], None]
Tell = Callable[[Viewer], None]


class _State(Enum):
    IDLE = 1
    TIMED = 2  # it will be in the line when it may
    QUEUED = 3
    RUNNING = 4


class LiveResult:
    """A `feed.hub.Watcher` and a `feed.budget.Job`. Made by `Evaluations.open` only."""

    def __init__(
        self,
        evaluations: Evaluations,
        plan: ReevaluatedPlan,
        account: Account,
        query: int,
        whose: tuple[Partition, str],
    ) -> None:
        self.plan = plan
        self.tables = plan.tables
        self.account = account
        self.query = query
        self.whose = whose
        self.hubs: tuple[Watchable, ...] = ()
        self.viewers: dict[Viewer, None] = {}
        self.waiting: dict[Viewer, int] = {}  # for the evaluation with at least this number
        self._pasts: dict[Viewer, Callable[[], None]] = {}  # being put together; calls it off
        self.kept: Result | None = None
        self.cursor: ResultCursor | None = None
        self._evaluations = evaluations
        self._expires = any(table.kind is TableKind.STREAM for table in plan.tables)
        self._state = _State.IDLE
        self._stale = True
        self._pins = 0
        self._started_s = float("-inf")
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def is_quiet(self) -> bool:
        """Nothing has changed since its last evaluation, and nobody waits for one."""
        return self._state is _State.IDLE and not self._stale and not self.waiting

    # ---- the viewers' side ----------------------------------------------------------------------

    def want(self, viewer: Viewer) -> Result | None:
        """The result on rows at least as new as now; None: the viewer is told when it is there."""
        if self.kept is not None and not self._stale and not self._expires:
            return self.kept
        self.waiting[viewer] = self._pins + 1
        self._touch()
        return None

    def past(self, viewer: Viewer, cursor: ResultCursor, done: PastDone) -> None:
        """Put the result at `cursor` together for a viewer."""

        def found(past: Result | KalamError) -> None:
            self._pasts.pop(viewer, None)
            if viewer in self.viewers:
                done(past)

        self._pasts[viewer] = self._evaluations.past(self, cursor, found)

    def compare(self, old: Result, new: Result, done: UnitDone) -> None:
        """What makes `old` the other: at once when there is little to compare."""
        size = old.size_bytes + new.size_bytes
        if old.listing is new.listing or size <= self._evaluations.limits.inline_max_bytes:
            done(unit(old, new))
        else:
            self._evaluations.compare(size, lambda: unit(old, new), done)

    def hold(self, size_bytes: int) -> None:
        """A viewer keeps rows for pages to come, or no longer does. Raises Overloaded."""
        self._evaluations.hold(self.account, size_bytes)

    def leave(self, viewer: Viewer) -> None:
        self._evaluations.leave(self, viewer)

    def forget(self, viewer: Viewer) -> None:
        """It has left: what was to be done for it alone is not."""
        self.waiting.pop(viewer, None)
        withdraw = self._pasts.pop(viewer, None)
        if withdraw is not None:
            withdraw()

    # ---- the hub's side -------------------------------------------------------------------------

    def touched(self) -> None:
        self._touch()

    def end_watch(self, reason: EndReason, detail: str) -> None:
        self._finish(lambda viewer: viewer.end(StreamEnd(reason, detail, self._told)))

    # ---- evaluations ----------------------------------------------------------------------------

    @property
    def _told(self) -> str:
        return "0" if self.cursor is None else str(self.cursor)

    def _touch(self) -> None:
        self._stale = True
        if self._state is _State.IDLE and not self._closed:
            self._plan_next()

    def _plan_next(self, pause_s: float = 0.0) -> None:
        """Into the line as soon as rate, share and `pause_s` let it."""
        evaluations = self._evaluations
        now_s = evaluations.clock.monotonic_s()
        due_s = max(self._started_s + 1 / evaluations.limits.per_s, now_s + pause_s)
        owed_s = self.account.wait_s(now_s)
        if now_s + owed_s > due_s:
            evaluations.throttled += 1
            due_s = now_s + owed_s
        if due_s <= now_s:
            self._enqueue()
        else:
            self._state = _State.TIMED
            self._timer = asyncio.get_running_loop().call_later(due_s - now_s, self._enqueue)

    def _enqueue(self) -> None:
        self._timer = None
        if not self._closed:
            self._state = _State.QUEUED
            self._evaluations.enqueue(self)

    def put_off(self, wait_s: float) -> None:
        """Its turn came while the user had used up its share."""
        self._state = _State.IDLE
        if not self._closed:
            self._plan_next(wait_s)

    async def run(self) -> None:
        """One evaluation, and what follows from it."""
        if self._closed:
            return
        self._state = _State.RUNNING
        self._started_s = self._evaluations.clock.monotonic_s()
        try:
            await self._evaluate()
        except KalamError as fault:
            self._state = _State.IDLE
            self._failed(fault)
            return
        self._state = _State.IDLE
        self._failures = 0
        if not self._closed and (self._stale or self.waiting):
            self._plan_next()

    async def _evaluate(self) -> None:
        old = await self._before()
        number = 0

        def pinned() -> None:
            nonlocal number
            self._stale = False
            self._pins += 1
            number = self._pins

        new = await self._evaluations.now(self, pinned)
        events: Sequence[FeedEvent] = ()
        if old is not None:
            if new.cursor.digest == old.cursor.digest and new.listing.rows == old.listing.rows:
                self._evaluations.unchanged += 1
                new = Result(new.columns, old.listing, new.key, new.cursor, old.size_bytes)
            elif any(viewer.is_live for viewer in self.viewers):
                events = await self._evaluations.off_loop(
                    old.size_bytes + new.size_bytes, lambda: unit(old, new)
                )
        if self._closed:
            return
        self._keep(new)
        if old is not None:
            for viewer in list(self.viewers):
                viewer.deliver(old, new, events)
        for viewer, wanted in list(self.waiting.items()):
            if wanted <= number:
                del self.waiting[viewer]
                viewer.arrived(new)

    async def _before(self) -> Result | None:
        """The result that live viewers have; put together again when its rows were let go."""
        if self.kept is not None or self.cursor is None:
            return self.kept
        if not any(viewer.is_live for viewer in self.viewers):
            return None
        try:
            return await self._evaluations.then(self, self.cursor)
        except CursorExpired as fault:
            for viewer in [viewer for viewer in self.viewers if viewer.is_live]:
                viewer.fail(fault)
            return None

    def _failed(self, fault: KalamError) -> None:
        if self._closed:
            return
        detail = str(fault)
        match fault:
            case SchemaChanged():
                self.end_watch(EndReason.SCHEMA_CHANGED, self.tables[0].full_name)
            case UnknownTable():
                self.end_watch(EndReason.TABLE_DROPPED, detail)
            case Unavailable() if self._failures < self._evaluations.limits.retries_max:
                self._failures += 1
                self._stale = True
                self._plan_next(RETRY_S * 2**self._failures)
            case _:
                self.fail(fault)

    def broke(self) -> None:
        detail = "the server failed on this query; its log says why"
        self.end_watch(EndReason.BROKEN, detail)

    def fail(self, fault: KalamError) -> None:
        """End all its streams with an error."""
        self._finish(lambda viewer: viewer.fail(fault))

    def _finish(self, tell: Tell) -> None:
        viewers = list(self.viewers)
        self._evaluations.forget(self)
        for viewer in viewers:
            tell(viewer)

    # ---- rows -----------------------------------------------------------------------------------

    def _keep(self, new: Result) -> None:
        was = 0 if self.kept is None else self.kept.size_bytes
        self.kept = new
        self.cursor = new.cursor
        self._evaluations.kept(self, new.size_bytes - was)

    def let_go(self) -> bool:
        """Forget the rows, if they can be put together again; says whether it did."""
        if self.kept is None or self._state is _State.RUNNING:
            return False
        self._evaluations.kept_bytes -= self.kept.size_bytes
        self.kept = None
        return True

    def close(self) -> None:
        """Evaluate no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._evaluations.withdraw(self)
        self.waiting.clear()
        if self.kept is not None:
            self._evaluations.kept_bytes -= self.kept.size_bytes
            self.kept = None
