"""A client's live connection to a simulated process: the product's streams, without the socket.

What the process writes reaches the client as bytes, in order, after a drawn time each; the client
reads frames out of them. What the client says is said to the streams by a call.

Keeps: nothing is heard of a connection that was given up, nor of one whose process has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.streams import LiveServices, Streams
from kalamdb.model.principal import Principal
from tests.sim.calls import DELAY_S
from tests.sim.timeline import Life, Loop

OUTBOX_BYTES = 1500  # what waits for a client that is slow
TICK_S = 0.5


class LiveSocket:
    """One connection at its process. `hear` is called at the client with each message."""

    def __init__(
        self, process: Any, services: LiveServices, hear: Callable[[dict[str, Any]], None]
    ) -> None:
        self._process = process
        self._timeline = process.world.timeline
        self._dice = process.world.dice
        self._life: Life = process.life
        self._loop: Loop = process.loop
        self._hear = hear
        self._last_at_s = 0.0
        self._underway_bytes = 0
        self._rest = b""
        self.closed = False
        self._room: list[asyncio.Future[None]] = []
        outbox = Outbox(self, Flusher(self._loop), OUTBOX_BYTES)
        outbox.packed = False
        self._streams = Streams(services, outbox, self._drained, self._loop.create_task)
        self._clock = services.clock
        self._loop.call_later(TICK_S, self._tick)

    async def subscribe(self, sql: str, principal: Principal, cursor: int | None) -> None:
        options = protocol.Options(batch_size=3)
        if cursor is not None:
            options = protocol.Options(batch_size=3, from_=str(cursor))
        await self._streams.subscribe(protocol.Wish("live", sql, options), principal)

    def next_batch(self, last: str | None) -> None:
        """At the client: it wants the next page."""
        self._timeline.after(self._dice.uniform(*DELAY_S), lambda: self._ask(last))

    def _ask(self, last: str | None) -> None:
        if not (self.closed or self._life.ended):
            message = protocol.NextBatch("live", last)
            self._loop.call_soon(self._streams.next_batch, message)

    def close(self) -> None:
        """At the client: it is gone."""
        if not self.closed:
            self.closed = True
            if not self._life.ended:
                self._loop.call_soon(self._streams.close)

    @property
    def lost(self) -> bool:
        return self.closed or self._life.ended

    def _tick(self) -> None:
        if not self.closed:
            self._streams.tick(self._clock.monotonic_s())
            self._loop.call_later(TICK_S, self._tick)

    # The outbox's transport.

    def write(self, data: bytes, /) -> None:
        at_s = max(self._timeline.now_s + self._dice.uniform(*DELAY_S), self._last_at_s + 1e-6)
        self._last_at_s = at_s
        self._underway_bytes += len(data)
        self._timeline.at(at_s, lambda: self._arrive(data))

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self._underway_bytes

    async def _drained(self) -> bool:
        while self._underway_bytes and not self.closed:
            waiting: asyncio.Future[None] = self._loop.create_future()
            self._room.append(waiting)
            await waiting
        return not self.closed

    def _arrive(self, data: bytes) -> None:
        self._underway_bytes -= len(data)
        if self.lost:
            return
        self._loop.call_soon(self._tell_room)
        self._rest += data
        while (message := self._frame()) is not None:
            self._hear(orjson.loads(message))

    def _tell_room(self) -> None:
        room, self._room = self._room, []
        for waiting in room:
            if not waiting.done():
                waiting.set_result(None)

    def _frame(self) -> bytes | None:
        """The next whole frame's payload: unmasked, unfragmented text."""
        data = self._rest
        if len(data) < 2:
            return None
        length, at = data[1], 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at + length:
            return None
        assert data[0] == 0x81, "a frame of text"
        self._rest = data[at + length :]
        return data[at : at + length]
