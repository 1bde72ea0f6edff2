"""One live query: snapshot → catch-up → live. A state machine to be stepped; it has no I/O.

1. NEW: the first step takes a snapshot at Seq *s*. Without a snapshot wanted it joins the hub at
   once; a resume goes to 4 with the client's cursor as its position.
2. LOADING: each step scans a slice of the snapshot and, when a page is full, gives it out.
3. WAITING: the client asks for the next page when it wants it. The snapshot is held for a limited
   time.
4. CATCH_UP: each step takes a new snapshot and gives out the changes after its position, a bounded
   number. The step that gives the last of them joins the hub in the same synchronous piece: nothing
   can come between.
5. LIVE: the hub pushes. An event its outlet has no room for takes it back to 4, from its exact
   position.

Invariants: every change of its chain after `position` is still to be given out and none at or below
it; what a step gives is queued before anything else runs. A snapshot is held in LOADING and WAITING
only. Whatever a client is shown as a cursor is the seq of a change of its own chain, or what it
came with: nothing of it moves when others of the group write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from kalamdb.errors import CursorExpired, KalamError, QueryFailed
from kalamdb.feed.events import FeedEvent, Renderer, event_prefix
from kalamdb.feed.hub import FILTER_FAULTS, Hub, Push, StreamEnd
from kalamdb.feed.loading import Load, Newest, Page, Whole
from kalamdb.feed.predicate import completed, judge
from kalamdb.feed.replay import Replay, ReplayLimits
from kalamdb.feed.result import ResultCursor
from kalamdb.model import keys
from kalamdb.model.ids import Partition, Seq
from kalamdb.ports import Snapshot
from kalamdb.sql.bound import LivePlan


@dataclass(frozen=True, slots=True)
class FromNow:
    """No snapshot: only what changes from now on."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Changes after `cursor`. `snapshot_if_expired`: a whole snapshot when they cannot be replayed.

    A cursor of zero stands before everything: what it missed is the whole table. `goes_on`: the
    subscription was somewhere else until now, and nothing is said of its beginning here; zero
    stands before the first change then, and `cut` says that it was inside a transaction.
    """

    cursor: Seq
    batch_rows: int
    snapshot_if_expired: bool
    goes_on: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ResumeResult:
    """What makes the result at `cursor` the one of now; else as `Resume`."""

    cursor: ResultCursor
    batch_rows: int
    snapshot_if_expired: bool
    goes_on: bool = False


Start = FromNow | Whole | Newest | Resume | ResumeResult


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Bounds of one step, of a page (whatever the client asked for) and of holding a snapshot."""

    slice_rows: int = 256
    page_bytes_max: int = 512 << 10
    snapshot_hold_s: float = 60.0
    replay: ReplayLimits = field(default_factory=ReplayLimits)


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is in force. `reset`: the client's cursor was of no use; the rows it had are void.

    `page` is that of the first rows, but with no cursor while they are still to be given out.
    """

    page: Page
    reset: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of the snapshot: each row is a JSON object."""

    rows: tuple[bytes, ...]
    page: Page


@dataclass(frozen=True, slots=True)
class Events:
    """Changes, in seq order."""

    events: tuple[FeedEvent, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to the cursor `seq` was given out, and no transaction is open."""

    seq: Seq | str


Output = Accepted | Rows | Events | Position


class Stage(Enum):
    NEW = 1
    LOADING = 2
    WAITING = 3
    CATCH_UP = 4
    LIVE = 5
    ENDED = 6
    EVALUATING = 7  # results only: an evaluation is waited for
    ARRIVED = 8  # … and is there


class Outlet(Protocol):
    """Where a subscription's frames go, and who steps it."""

    @property
    def push(self) -> Push: ...

    def behind(self, subscription: Subscription) -> None:
        """It needs steps again, when there is room."""
        ...

    def ended(self, subscription: Subscription, end: StreamEnd) -> None:
        """The hub ended it; tell the client and forget it."""
        ...


def _unknown() -> bool:
    return False


class Subscription:
    """One live query of one client. Its owner steps it while `wants_step`, and closes it."""

    def __init__(
        self,
        subscription_id: str,
        plan: LivePlan,
        partition: Partition,
        start: Start,
        *,
        snapshot: Callable[[], Snapshot],
        hub: Hub,
        outlet: Outlet,
        limits: FeedLimits,
        prefix: bytes | None = None,
        is_current: Callable[[], bool] = _unknown,
    ) -> None:
        """`snapshot` takes one of the group, at its position; `prefix` opens the change frames.
        `is_current`: does the group know no newer definition of the table, right now?
        """
        self.id = subscription_id
        self.plan = plan
        self.partition = partition
        self.chain = keys.chain(plan.table.id, partition)
        self.prefix = event_prefix(subscription_id) if prefix is None else prefix
        self.push = outlet.push
        self.position = start.cursor if isinstance(start, Resume) else Seq(0)
        self.stage = Stage.NEW
        goes_on = isinstance(start, Resume) and start.goes_on
        self.begun = goes_on  # its beginning was told
        self.loaded = goes_on  # the rows it began with were given out: its cursor says where it is
        self.start = start
        self._snapshot = snapshot
        self._is_current = is_current
        self._hub = hub
        self._outlet = outlet
        self._limits = limits
        self._render = Renderer(plan)
        self._load: Load | None = None
        self._reset = False
        self._told = Seq(0)  # the last cursor it gave; events of the hub have theirs
        # What was given out ended inside a transaction.
        self._cut = isinstance(start, Resume) and start.cut
        hub.enter(self)

    # ---- the owner's side -----------------------------------------------------------------------

    @property
    def cut(self) -> bool:
        """What it has given out may end inside a transaction."""
        return self._cut

    @property
    def wants_step(self) -> bool:
        return self.stage in (Stage.NEW, Stage.LOADING, Stage.CATCH_UP)

    @property
    def cursor(self) -> Seq:
        """Everything of its chain up to here was given out (or queued at the outlet)."""
        return self._hub.cursor(self)

    def step(self, now_s: float) -> list[Output]:
        """Do a bounded piece of work; queue what it gives before anything else runs.

        Raises: KalamError (CursorExpired, QueryFailed, ResultTooLarge, Unavailable …); close it
        then.
        """
        match self.stage:
            case Stage.NEW:
                return self._begin(now_s)
            case Stage.LOADING:
                self.check_hold(now_s)
                return self._load_slice()
            case Stage.CATCH_UP:
                return self._catch_up()
            case Stage.WAITING | Stage.LIVE | Stage.ENDED:
                return []
            case Stage.EVALUATING | Stage.ARRIVED:
                raise AssertionError("a stage of results")

    def next_page(self, after: Seq | None, now_s: float) -> bool:
        """The client wants rows after `after` (None: after those it was given). False: none is due.

        Raises CursorExpired when the snapshot was held too long.
        """
        load = self._load
        if self.stage is not Stage.WAITING or load is None:
            return False
        self.check_hold(now_s)
        if after is not None and after != load.last_row:
            load.restart(after)
        self.stage = Stage.LOADING
        return True

    def check_hold(self, now_s: float) -> None:
        """Raises CursorExpired when the snapshot has been held longer than `snapshot_hold_s`."""
        load = self._load
        if load is not None and now_s - load.opened_s > self._limits.snapshot_hold_s:
            raise CursorExpired(str(load.cursor), "snapshot")

    def untold(self) -> Position | None:
        """While LIVE: the cursor, if changes that were not for the client have moved it on.

        It counts as told then.
        """
        cursor = self.cursor
        if self.stage is not Stage.LIVE or cursor <= max(self._told, self._hub.event_seq(self)):
            return None
        self._told = cursor
        return Position(cursor)

    def close(self) -> None:
        """Release everything; may be called again."""
        self.stage = Stage.ENDED
        self._hub.leave(self)
        self._close_snapshot()

    # ---- the hub's side -------------------------------------------------------------------------

    def fall_behind(self) -> None:
        self.stage = Stage.CATCH_UP
        self._cut = (
            True  # perhaps: the refused event may not have been the first of its transaction
        )
        self._outlet.behind(self)

    def end(self, end: StreamEnd) -> None:
        self.close()
        self._outlet.ended(self, end)

    # ---- steps ----------------------------------------------------------------------------------

    def _begin(self, now_s: float) -> list[Output]:
        match self.start:
            case FromNow():
                with self._snapshot() as snapshot:
                    self._join(snapshot)
                self._told = self.position
                self.begun = self.loaded = True
                return [Accepted(Page(0, False, None, self.position), reset=False)]
            case Resume(cursor) as resume if (cursor or resume.goes_on) and self._can_replay(
                resume
            ):
                self.position = self._told = cursor
                self.stage = Stage.CATCH_UP
                self.begun = self.loaded = True
                if resume.goes_on:
                    return []
                page = Page(0, False, None, cursor)
                return [Accepted(page, reset=False), Rows((), page)]
            case Resume(cursor, batch_rows) as resume:
                self._reset = cursor > 0 or resume.goes_on
                wanted = Whole(batch_rows)
            case ResumeResult(cursor) as resume:
                if not resume.snapshot_if_expired:
                    raise CursorExpired(str(cursor), "foreign")
                self._reset = True
                wanted = Whole(resume.batch_rows)
            case (Whole() | Newest()) as wanted:
                pass
        snapshot = self._snapshot()
        # Asked after the snapshot was taken: an index that stands now stood in it.
        by_key = self.plan.ranges is not None and self._is_current()
        self._load = Load(
            self.plan,
            self.partition,
            self._render,
            wanted,
            snapshot=snapshot,
            opened_s=now_s,
            ranges=self.plan.ranges if by_key else None,
        )
        self.position = Seq(0)  # who is cut off while loading has to load again
        self.loaded = False
        self.stage = Stage.LOADING
        return self._load_slice()

    def _can_replay(self, resume: Resume) -> bool:
        """Raises CursorExpired when the changes are gone and no snapshot is wanted instead."""
        table, cursor = self.plan.table, resume.cursor
        with self._snapshot() as snapshot:
            try:
                if cursor > snapshot.seq:
                    raise CursorExpired(str(cursor), "ahead")
                if snapshot.last_change(table, self.partition) > cursor:
                    changes = snapshot.changes(table, self.partition, cursor, snapshot.seq)
                    next(iter(changes), None)
            except CursorExpired:
                if not resume.snapshot_if_expired:
                    raise
                return False
        return True

    def _load_slice(self) -> list[Output]:
        load = self._load
        assert load is not None
        try:
            found = load.scan(self._limits.slice_rows, self._limits.page_bytes_max)
        except FILTER_FAULTS as fault:
            raise _translated(fault) from fault
        if found is None:
            return []
        page, rows = found
        out: list[Output] = [Rows(rows, page)]
        if page.number == 0:
            self.begun = True
            out.insert(0, Accepted(replace(page, seq=None), reset=self._reset))
        if page.has_more:
            self.stage = Stage.WAITING
        else:
            self.loaded = True
            self.position = self._told = load.cursor
            self.stage = Stage.CATCH_UP
            self._close_snapshot()
        return out

    def _catch_up(self) -> list[Output]:
        table, partition, where = self.plan.table, self.partition, self.plan.where
        replay = Replay(self._render, self._limits.replay)
        complete = True
        with self._snapshot() as snapshot:
            if self.position > snapshot.seq:
                raise CursorExpired(str(self.position), "ahead")
            if snapshot.last_change(table, partition) > self.position:
                try:
                    for change in snapshot.changes(table, partition, self.position, snapshot.seq):
                        if replay.is_full:
                            complete = False
                            break
                        replay.take(judge(where, completed(change, table)), change)
                except FILTER_FAULTS as fault:
                    raise _translated(fault) from fault
            events = replay.finish(commit=complete)
            if complete:
                self._join(snapshot)
            else:
                self.position = replay.seq
        out: list[Output] = []
        if events:
            out.append(Events(tuple(events)))
            self._told = events[-1].seq
        elif complete and self._cut:
            out.append(Position(self.position))
            self._told = self.position
        self._cut = not complete
        return out

    def _join(self, snapshot: Snapshot) -> None:
        """It has all of its chain that is in the snapshot, which is the group as it is now."""
        last = snapshot.last_change(self.plan.table, self.partition)
        self._hub.join(self, max(self.position, last), snapshot.seq)
        self.stage = Stage.LIVE

    def _close_snapshot(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            load.close()


def _translated(fault: Exception) -> KalamError:
    return fault if isinstance(fault, KalamError) else QueryFailed(str(fault))
