"""What runs on a node for one subscription, feed or watch of an edge elsewhere.

`Hosted` is the outlet of a subscription of `kalamdb.feed`. Until it is live its steps are paced by
the edge and go out one message each; once it is live its events go out by themselves, and it
catches up by itself when the stream was full.

Keeps: `told` is the cursor the edge has heard of, so that each event names the one before it; units
of results are begun only when their end follows in the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, assert_never

from cluster import live_wire as wire
from kalamdb.edge.ws.local import Live, payload_of
from kalamdb.errors import KalamError, UnknownTable
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import EndReason, Hub, StreamEnd
from kalamdb.feed.result_subscription import ResultSubscription
from kalamdb.feed.subscription import Accepted, Events, Output, Position, Rows, Stage
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import Seq, TableId
from kalamdb.model.table import TableDef

_NOT_LAST = b'"commit":false}'


class Carrier(Protocol):
    """The stream to the edge."""

    def push(self, message: bytes) -> bool:
        """Without waiting; False: there is no room, or something waits before it."""
        ...

    def emit(self, message: bytes) -> None:
        """In any case, once there is room."""
        ...

    def step_soon(self, hosted: Hosted) -> None: ...

    def joined(self, hosted: Hosted) -> Hosted:
        """It is live; the feed that it is part of from now on."""
        ...

    def live_again(self, hosted: Hosted) -> None:
        """It had been behind."""
        ...

    def forget(self, hosted: Hosted) -> None: ...

    def failed(self, number: int, fault: KalamError) -> None: ...

    def fell(self) -> None:
        """There was no room for an event."""
        ...


class Hosted:
    """A subscription, and the feed it becomes. `key` names what feeds share; `joined`: how many
    ever joined it.
    """

    def __init__(self, carrier: Carrier, number: int, *, anew: bool) -> None:
        """`anew`: rows were told at the edge before, which are void."""
        self.number = number
        self.key = b""
        self.joined = 0
        self.told: Seq | str = Seq(0)
        self.live: Live | None = None
        self._carrier = carrier
        self._anew = anew
        self._credit = True  # the edge waits for a step
        self._was_live = False

    # ---- the stream's side ----------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        return self.live is not None and self.live.stage is Stage.LIVE

    def begin(self, live: Live, key: bytes) -> None:
        self.live = live
        self.key = key

    def more(self) -> None:
        """The edge wants a step."""
        self._credit = True
        self._carrier.step_soon(self)

    def next_page(self, after: Seq | None, now_s: float) -> None:
        try:
            if self.live is not None and self.live.next_page(after, now_s):
                self.more()
        except KalamError as fault:
            self.fail(fault)

    def advance(self, now_s: float) -> None:
        """One bounded step."""
        live = self.live
        if live is None or live.stage is Stage.ENDED:
            return
        try:
            if self._was_live:
                self._hand_out(live, live.step(now_s))
            else:
                self._paced_step(live, now_s)
        except KalamError as fault:
            self.fail(fault)

    def check_hold(self, now_s: float) -> None:
        if self.live is not None:
            try:
                self.live.check_hold(now_s)
            except KalamError as fault:
                self.fail(fault)

    def tell_position(self) -> None:
        passed = None if self.live is None or not self._was_live else self.live.untold()
        if passed is not None:
            self._pass(passed.seq)

    def stands_at(self) -> Seq | str:
        """Where it and all that are live beside it stand; it counts as told."""
        assert self.live is not None
        self.told = self.live.cursor
        return self.told

    def fail(self, fault: KalamError) -> None:
        self._carrier.failed(self.number, fault)
        self.close()

    def close(self) -> None:
        if self.live is not None:
            self.live.close()
        self._carrier.forget(self)

    # ---- the subscription's side ----------------------------------------------------------------

    def push(self, prefix: bytes, event: FeedEvent, /) -> bool:
        seq, told = event.seq, self.told
        head = wire.EVENT_HEAD.pack(wire.EVENT, self.number, seq, event.prev_seq, told)
        if self._carrier.push(head + event.tail):
            self.told = seq
            return True
        self._carrier.fell()
        return False

    def push_all(self, prefix: bytes, events: Sequence[FeedEvent], /) -> bool:
        # The result has its new cursor already.
        assert self.live is not None
        messages = self._parts(events, str(self.live.cursor))
        if not self._carrier.push(messages[0]):
            self._carrier.fell()
            return False
        for message in messages[1:]:
            self._carrier.emit(message)
        return True

    def behind(self, subscription: Live) -> None:
        if self._was_live or self._credit:
            self._carrier.step_soon(self)

    def ended(self, subscription: Live, end: StreamEnd) -> None:
        message = wire.Ended(self.number, end.reason.value, end.detail, str(end.cursor))
        self._carrier.emit(wire.control(message))
        self.close()

    def failed(self, subscription: Live, fault: KalamError) -> None:
        self.fail(fault)

    # ---- steps ----------------------------------------------------------------------------------

    def _paced_step(self, live: Live, now_s: float) -> None:
        outputs = list(live.step(now_s))
        while live.wants_step and self._goes_on(live, outputs):
            outputs += live.step(now_s)
        if live.stage is Stage.LIVE:
            self._become_live(live, outputs)
        elif outputs:
            # One that waits for an evaluation goes on by itself once that is there.
            self._credit = live.stage is Stage.EVALUATING
            self._tell(live, outputs, feed=0, joined=0)
        elif live.wants_step:
            self._carrier.step_soon(self)

    @staticmethod
    def _goes_on(live: Live, outputs: Sequence[Output]) -> bool:
        """Before it has given rows, and as long as a unit is not whole."""
        if isinstance(live, ResultSubscription) and live.in_unit:
            return True
        began = bool(outputs) and not any(
            isinstance(output, Events) or (isinstance(output, Rows) and output.rows)
            for output in outputs
        )
        return began and live.stage is Stage.CATCH_UP

    def _become_live(self, live: Live, outputs: Sequence[Output]) -> None:
        self._was_live = True
        self.joined = 1
        feed = self._carrier.joined(self)
        if feed is not self:
            feed.joined += 1
        feed.told = live.cursor
        self._tell(live, outputs, feed=feed.number, joined=feed.joined)
        if feed is not self:
            self.close()

    def _tell(self, live: Live, outputs: Sequence[Output], *, feed: int, joined: int) -> None:
        made: list[wire.Ack | wire.PageOf | wire.At | wire.Change] = []
        for output in outputs:
            match output:
                case Accepted():
                    made.append(wire.Ack(payload_of("", live, output, reset=self._anew)))
                case Rows():
                    made.append(wire.PageOf(payload_of("", live, output, reset=False)))
                case Position():
                    made.append(wire.At(payload_of("", live, output, reset=False)))
                case Events(events):
                    made += [wire.Change(one.seq, one.prev_seq, one.tail) for one in events]
                case _:
                    assert_never(output)
        cursor = str(live.cursor) if live.loaded else None
        waiting = live.stage is Stage.WAITING
        step = wire.Step(self.number, made, cursor, live.wants_step, waiting, feed, joined)
        self._carrier.emit(wire.control(step))

    def _hand_out(self, live: Live, outputs: Sequence[Output]) -> None:
        """What a feed that was behind gives until it is live again."""
        for output in outputs:
            match output:
                case Events(events) if isinstance(live, ResultSubscription):
                    for message in self._parts(events, str(live.cursor)):
                        self._carrier.emit(message)
                case Events(events):
                    for event in events:
                        head = wire.EVENT_HEAD.pack(
                            wire.EVENT, self.number, event.seq, event.prev_seq, self.told
                        )
                        self._carrier.emit(head + event.tail)
                        self.told = event.seq
                case Position(seq):
                    self._pass(seq)
                case Accepted() | Rows():
                    raise AssertionError("it began before it was live")
                case _:
                    assert_never(output)
        if live.stage is Stage.LIVE:
            self._carrier.live_again(self)
        elif live.wants_step:
            self._carrier.step_soon(self)

    def _parts(self, events: Sequence[FeedEvent], cursor: str) -> list[bytes]:
        made: list[bytes] = []
        for event in events:
            last = not event.tail.endswith(_NOT_LAST)
            made.append(wire.part_message(self.number, cursor if last else None, event.tail))
            if last:
                self.told = cursor
        return made

    def _pass(self, cursor: Seq | str) -> None:
        self.told = cursor
        self._carrier.emit(wire.control(wire.Moved(self.number, str(cursor))))


class HostedWatch:
    """A `feed.hub.Watcher` for one at an edge: says that something changed, at most once until the
    edge has heard it.
    """

    def __init__(
        self,
        asked: wire.Watch,
        hub: Hub,
        catalog: CatalogView,
        emit: Callable[[bytes], None],
        forget: Callable[[int], object],
    ) -> None:
        """Raises UnknownTable."""
        self.number = asked.number
        self._tables = tuple(_as_of(catalog, *one) for one in asked.rests_on)
        self._hub = hub
        self._emit = emit
        self._forget = forget
        self._heard = True
        self._dirty = False
        hub.watch(self, asked.chains, [TableId(table) for table in asked.tables])

    @property
    def tables(self) -> Sequence[TableDef]:
        return self._tables

    def touched(self) -> None:
        if not self._heard:
            self._dirty = True
            return
        self._heard = self._dirty = False
        self._emit(wire.control(wire.Touched(self.number, self._hub.seq_last)))

    def more(self) -> None:
        """The edge has heard it."""
        self._heard = True
        if self._dirty:
            self.touched()

    def end_watch(self, reason: EndReason, detail: str) -> None:
        self._emit(wire.control(wire.Ended(self.number, reason.value, detail, "")))
        self._forget(self.number)

    def close(self) -> None:
        self._hub.unwatch(self)


def _as_of(catalog: CatalogView, table_id: int, version: int) -> TableDef:
    table = catalog.tables_by_id.get(TableId(table_id))
    if table is None:
        raise UnknownTable(f"number {table_id}", None)
    return replace(table, version=version)
