"""One stream of a link: what waits to be read, how much may be sent, and how it ends.

Each direction has a window: who sends may be STREAM_WINDOW_BYTES ahead of who reads, and by one
message more, so that a message of any size passes. A message counts MESSAGE_COST_BYTES beside its
length, so that empty ones are bounded too.

Keeps:
- A peer that sends beyond its window breaks the link.
- An end, or the error of the other side, is seen after all that was sent before. An abort by this
  side, one without an error, or the end of the link is seen at once: what was not read is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from cluster.rpc import frames
from cluster.rpc.faults import encode_fault
from cluster.rpc.port import STREAM_WINDOW_BYTES
from kalamdb.errors import KalamError, LimitReached, Unavailable

MESSAGE_COST_BYTES = 64


class Wire(Protocol):
    """What a stream asks of its link."""

    @property
    def paused(self) -> bool:
        """More is waiting to leave than should be."""
        ...

    def write(self, head: bytes, payload: bytes = b"") -> None: ...

    def forget(self, number: int) -> None:
        """Nothing that comes for the stream matters any more."""
        ...


class Stream:
    """One end; implements `RpcStream`."""

    def __init__(self, number: int, wire: Wire) -> None:
        self._number = number
        self._wire = wire
        self._inbox: deque[bytes] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._rooms: list[asyncio.Future[None]] = []
        self._credit_bytes = STREAM_WINDOW_BYTES  # what may still be sent
        self._taken_bytes = 0  # read here, and not credited yet
        self._ahead_bytes = 0  # come in, and not credited yet
        self._ended_here = False
        self._ended_there = False
        self._closed_there = False
        self._failure: KalamError | None = None

    # ---- what the owner of the stream calls --------------------------------------------------

    def push(self, data: bytes) -> bool:
        """Raises: LimitReached for a message that no frame holds."""
        check_size(data)
        if self._credit_bytes <= 0 or self._ended_here or self._wire.paused:
            return False
        self._credit_bytes -= len(data) + MESSAGE_COST_BYTES
        self._wire.write(frames.id_head(frames.DATA, self._number, len(data)), data)
        return True

    async def send(self, data: bytes) -> None:
        while not self.push(data):
            if not await self.room():
                raise self._failure or Unavailable("the stream is over")

    async def room(self) -> bool:
        while not self._ended_here:
            if self._credit_bytes > 0 and not self._wire.paused:
                return True
            waiter = asyncio.get_running_loop().create_future()
            self._rooms.append(waiter)
            try:
                await waiter
            finally:
                with suppress(ValueError):
                    self._rooms.remove(waiter)
        return False

    async def receive(self) -> bytes | None:
        while True:
            if self._inbox:
                return self._take()
            if self._failure is not None:
                raise self._failure
            if self._ended_there:
                return None
            assert self._arrival is None, "a stream has one reader"
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None

    def _take(self) -> bytes:
        data = self._inbox.popleft()
        self._taken_bytes += len(data) + MESSAGE_COST_BYTES
        if self._taken_bytes >= STREAM_WINDOW_BYTES // 2 and not self._ended_there:
            self._wire.write(frames.credit_frame(self._number, self._taken_bytes))
            self._ahead_bytes -= self._taken_bytes
            self._taken_bytes = 0
        return data

    def end(self) -> None:
        if not self._ended_here:
            self._ended_here = True
            self._wire.write(frames.id_head(frames.END, self._number))
            self._wake_rooms()

    def abort(self, error: KalamError | None = None) -> None:
        if self._failure is not None:
            return
        if self._closed_there:
            pass  # nobody would hear it
        elif error is None:
            self._wire.write(frames.id_head(frames.CANCEL, self._number))
        else:
            raw = encode_fault(error)
            self._wire.write(frames.id_head(frames.ERROR, self._number, len(raw)), raw)
        self.fail(error or Unavailable("the stream was given up"))

    # ---- what the link calls -----------------------------------------------------------------

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def close(self) -> None:
        """The handler has returned: over in both directions, after what was sent."""
        if self._failure is None:
            self._wire.write(frames.id_head(frames.CLOSE, self._number))
            self.fail(Unavailable("the stream is over"))

    def fail(self, error: KalamError, *, in_turn: bool = False) -> None:
        """Over, at once. `in_turn`: who reads gets what was sent before, and then the error."""
        if self._failure is None:
            self._failure = error
            self._ended_here = self._ended_there = True
            if not in_turn:
                self._inbox.clear()
            self._wire.forget(self._number)
            self._wake()

    def heard(self, data: bytes) -> None:
        if self._ended_there:
            raise frames.BrokenFrame("a stream goes on after its end")
        if self._ahead_bytes >= STREAM_WINDOW_BYTES:
            raise frames.BrokenFrame("a stream was sent beyond its window")
        self._ahead_bytes += len(data) + MESSAGE_COST_BYTES
        self._inbox.append(data)
        self._wake_reader()

    def credited(self, size_bytes: int) -> None:
        self._credit_bytes += size_bytes
        if self._credit_bytes > STREAM_WINDOW_BYTES:
            raise frames.BrokenFrame("a stream was credited beyond its window")
        self._wake_rooms()

    def ended(self, *, closed: bool) -> None:
        """Nothing more comes; `closed`: and nothing is heard there either."""
        self._ended_there = True
        if closed:
            self._ended_here = self._closed_there = True
            self._wire.forget(self._number)
        self._wake()

    @property
    def ready(self) -> bool:
        """`receive` would not wait."""
        return bool(self._inbox) or self._ended_there

    def unpaused(self) -> None:
        self._wake_rooms()

    def _wake(self) -> None:
        self._wake_reader()
        self._wake_rooms()

    def _wake_reader(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _wake_rooms(self) -> None:
        rooms, self._rooms = self._rooms, []
        for waiter in rooms:
            if not waiter.done():
                waiter.set_result(None)


class Pieces(AsyncIterator[bytes]):
    """The answer to an ask. Each piece comes within `timeout_s`, or Unavailable is raised."""

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s

    async def __anext__(self) -> bytes:
        try:
            # Most pieces are there already: no timer for those.
            if self._stream.ready:
                piece = await self._stream.receive()
            else:
                async with asyncio.timeout(self._timeout_s):
                    piece = await self._stream.receive()
        except TimeoutError:
            self._stream.abort()
            late = f"no piece of the answer came within {self._timeout_s:g} s"
            raise Unavailable(late) from None
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Give up what was not read."""
        self._stream.abort()


def check_size(data: bytes) -> None:
    """Raises: LimitReached for what no frame holds."""
    if len(data) > frames.MESSAGE_BYTES_MAX:
        raise LimitReached(
            "the size of a message between nodes",
            f"{len(data)} bytes, at most {frames.MESSAGE_BYTES_MAX} are sent at once",
        )
