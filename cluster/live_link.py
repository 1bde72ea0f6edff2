"""The stream of live queries from this process to one node: who has a number on it, and its feeds.

What comes is dispatched at once and never waited for: a client that is slow leaves its feed, the
others go on.

Keeps: a number is drawn once; a feed hands out nothing that does not follow what it handed out
before: when it would have to, all its members ask for places again, from their own cursors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Protocol, assert_never

from cluster import live_wire as wire
from cluster.rpc.faults import decode_fault
from cluster.rpc.port import Rpc, RpcStream
from kalamdb.edge.ws.relay_feed import RelayFeed
from kalamdb.edge.ws.relayed import Message, RelayedSubscription, Taken
from kalamdb.errors import KalamError, Unavailable
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import EndReason
from kalamdb.feed.subscription import Events
from kalamdb.model.ids import Seq
from kalamdb.sql.bound import LivePlan

SAID_MAX = 1_000_000
"""Messages that may wait for the node; each client has few."""


class Guest(Protocol):
    """Who has a number on a link."""

    def message(self, number: int) -> Sequence[wire.Said]:
        """What asks for its place; nothing when it wants none any more."""
        ...

    def stepped(self, step: wire.Step, feed: RelayFeed | None) -> bool:
        """False: what came does not follow what came before."""
        ...

    def touched(self) -> None: ...

    def lost(self, fault: Unavailable) -> None:
        """It has no place there any more, or got none."""
        ...

    def ended(self, reason: EndReason, detail: str) -> None: ...

    def failed(self, fault: KalamError) -> None: ...


class Link:
    """One node's stream. `over(link)` is called once, when it has ended."""

    def __init__(self, rpc: Rpc, node: int, over: Callable[[Link], None]) -> None:
        self.node = node
        self.guests: dict[int, Guest] = {}
        self.feeds: dict[int, RelayFeed] = {}
        self.events = 0
        self._rpc = rpc
        self._over = over
        self._numbers = count(1)
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._stream: RpcStream | None = None
        self._ended = False

    async def run(self) -> None:
        """Until the stream ends; nobody has a number then."""
        fault = Unavailable(f"node {self.node} has ended the stream of live queries")
        try:
            self._stream = await self._rpc.open(self.node, wire.METHOD, b"")
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(self._stream))
                while (data := await self._stream.receive()) is not None:
                    self._heard(data)
                writer.cancel()
        except* KalamError as group:
            found = group.exceptions[0]
            fault = found if isinstance(found, Unavailable) else Unavailable(str(found))
        finally:
            self._end(fault)

    # ---- what this process says -----------------------------------------------------------------

    def admit(self, guest: Guest) -> int:
        """Ask for a place."""
        number = next(self._numbers)
        self.guests[number] = guest
        for message in guest.message(number):
            self.say(message)
        return number

    def dismiss(self, number: int) -> None:
        """It wants its place no more; one that has none is no error."""
        if self.guests.pop(number, None) is not None:
            self.say(wire.Leave(number, 0))

    def say(self, message: wire.Said) -> None:
        data = wire.control(message)
        stream = self._stream
        if stream is not None and not self._waiting and stream.push(data):
            return
        if len(self._waiting) >= SAID_MAX and stream is not None:
            stream.abort(Unavailable("too much waits for the node"))
            return
        self._waiting.append(data)
        self._wake.set()

    async def _write(self, stream: RpcStream) -> None:
        while True:
            while self._waiting:
                await stream.send(self._waiting[0])
                self._waiting.popleft()
            self._wake.clear()
            await self._wake.wait()

    # ---- what the node says ---------------------------------------------------------------------

    def _heard(self, data: bytes) -> None:
        try:
            self._dispatch(wire.read_answer(data))
        except ValueError as fault:
            raise Unavailable(f"node {self.node} sent what is no message: {fault}") from None

    def _dispatch(self, answer: wire.Answer) -> None:
        match answer:
            case wire.Event(number, seq, prev_seq, after, body):
                feed = self.feeds.get(number)
                self.events += 1
                if feed is not None and not feed.event(FeedEvent(seq, body, prev_seq), after):
                    self._broken(feed)
            case wire.Part(number, cursor, body):
                feed = self.feeds.get(number)
                if feed is not None and not feed.part(body, cursor):
                    self._broken(feed)
            case wire.Step():
                self._stepped(answer)
            case wire.Merged():
                self._merged(answer)
            case wire.Moved(number, cursor):
                feed = self.feeds.get(number)
                if feed is not None and not feed.passed(_like(feed.cursor, cursor)):
                    self._broken(feed)
            case wire.Ended():
                self._ended_there(answer)
            case wire.Failed(number, fault):
                self._failed(number, decode_fault(fault))
            case wire.Touched(number, _):
                guest = self.guests.get(number)
                if guest is not None:
                    guest.touched()
                    self.say(wire.More(number))
            case _:
                assert_never(answer)

    def _stepped(self, step: wire.Step) -> None:
        guest = self.guests.get(step.number)
        feed = None
        if step.feed:
            self.guests.pop(step.number, None)
            feed = self._feed(step.feed, step.cursor or "0", step.joined)
        if guest is not None and not guest.stepped(step, feed):
            self.dismiss(step.number)
            guest.lost(Unavailable("what another node sent does not follow"))
        if feed is not None and not feed.members:
            self._emptied(feed)

    def _feed(self, number: int, cursor: str, joined: int) -> RelayFeed:
        """The feed with that number, which stands at `cursor` now."""
        feed = self.feeds.get(number)
        if feed is None:
            place = Seq(int(cursor)) if cursor.isdigit() else cursor
            feed = self.feeds[number] = RelayFeed(number, place, self._emptied)
        elif not feed.passed(_like(feed.cursor, cursor)):
            self._broken(feed)
            feed = self.feeds[number] = RelayFeed(number, _like(feed.cursor, cursor), self._emptied)
        feed.joined = max(feed.joined, joined)
        return feed

    def _merged(self, merged: wire.Merged) -> None:
        gone = self.feeds.pop(merged.number, None)
        feed = self._feed(merged.feed, merged.cursor, merged.joined)
        if gone is not None:
            gone.merge(feed)
        if not feed.members:
            self._emptied(feed)

    def _emptied(self, feed: RelayFeed) -> None:
        """Nobody here follows it. The node knows better when somebody is about to join it."""
        if self.feeds.get(feed.number) is feed:
            del self.feeds[feed.number]
        self.say(wire.Leave(feed.number, feed.joined))

    def _broken(self, feed: RelayFeed) -> None:
        self.feeds.pop(feed.number, None)
        self.say(wire.Leave(feed.number, feed.joined))
        feed.lost()

    def _ended_there(self, ended: wire.Ended) -> None:
        reason = EndReason(ended.reason)
        away = reason in (EndReason.LEADERSHIP_LOST, EndReason.SLOT_MOVED)
        feed = self.feeds.pop(ended.number, None)
        if feed is not None:
            if away:
                feed.lost()
            else:
                feed.ended(reason, ended.detail)
        guest = self.guests.pop(ended.number, None)
        if guest is not None:
            if away:
                guest.lost(Unavailable(ended.detail))
            else:
                guest.ended(reason, ended.detail)

    def _failed(self, number: int, fault: KalamError) -> None:
        feed = self.feeds.pop(number, None)
        if feed is not None:
            if isinstance(fault, Unavailable):
                feed.lost()
            else:
                feed.failed(fault)
        guest = self.guests.pop(number, None)
        if guest is not None:
            guest.failed(fault)

    def _end(self, fault: Unavailable) -> None:
        if self._ended:
            return
        self._ended = True
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()
        self._waiting.clear()
        self._over(self)
        feeds, self.feeds = self.feeds, {}
        guests, self.guests = self.guests, {}
        for feed in feeds.values():
            feed.lost()
        for guest in guests.values():
            guest.lost(fault)


def taken_of(step: wire.Step, *, by_row: bool) -> Taken:
    """What a step gave; `by_row`: its cursors are seqs."""
    outputs: list[Message | Events] = []
    events: list[FeedEvent] = []
    for output in step.outputs:
        match output:
            case wire.Change(seq, prev_seq, body):
                events.append(FeedEvent(Seq(seq), body, Seq(prev_seq)))
            case wire.Ack(payload) | wire.PageOf(payload) | wire.At(payload):
                if events:
                    outputs.append(Events(tuple(events)))
                    events = []
                outputs.append(Message(payload))
    if events:
        outputs.append(Events(tuple(events)))
    cursor = None if step.cursor is None else (Seq(int(step.cursor)) if by_row else step.cursor)
    return Taken(outputs, cursor, step.more, step.waiting)


def subscribe_message(
    number: int, stream: RelayedSubscription, shape: Callable[[RelayedSubscription], int]
) -> wire.Subscribe:
    """What asks for the place of a live query, where its client is now."""
    start, reset = stream.wish()
    asked = stream.asked
    params, json = wire.params_message(asked.params)
    return wire.Subscribe(
        number,
        asked.sql,
        params,
        json,
        wire.who_of(asked.principal),
        wire.start_message(start),
        shape(stream),
        reset,
    )


def is_by_row(stream: RelayedSubscription) -> bool:
    return isinstance(stream.plan, LivePlan)


def _like(known: Seq | str, cursor: str) -> Seq | str:
    return Seq(int(cursor)) if isinstance(known, int) else cursor
