"""What goes out of sockets: frames wait for the end of the tick and leave in one write per socket.

`Flusher` (one per edge) writes to a limited number of sockets per turn of the loop, so that a
thousand writes do not stand before everybody else's work. `Outbox` (one per socket) counts what
waits in memory and refuses live events beyond its limit; what the server says otherwise is small
and paced by what the client says.

Invariants: frames leave in the order in which they were queued; the transport is written to by
`flush` only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from kalamdb.edge.ws.frames import event_frame, message_frame
from kalamdb.edge.ws.msgpack import packed_prefix
from kalamdb.feed.events import FeedEvent

SOCKETS_PER_TURN = 256


class Transport(Protocol):
    """The part of asyncio's transport that an outbox needs."""

    def write(self, data: bytes, /) -> None: ...

    def is_closing(self) -> bool: ...

    def get_write_buffer_size(self) -> int: ...


class Flusher:
    """Writes what outboxes hold, soon."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.frames = 0
        self.size_bytes = 0
        self._loop = loop
        self._waiting: deque[Outbox] = deque()
        self._scheduled = False

    def add(self, outbox: Outbox) -> None:
        self._waiting.append(outbox)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        for _ in range(min(SOCKETS_PER_TURN, len(waiting))):
            waiting.popleft().flush()
        if waiting:
            self._loop.call_soon(self._turn)
        else:
            self._scheduled = False


class Outbox:
    """The way out of one socket. `packed`: the client takes gzip; `msgpack`: it wants that, not
    JSON.
    """

    __slots__ = (
        "_flusher",
        "_limit",
        "_pending",
        "_queued",
        "_room",
        "_transport",
        "msgpack",
        "packed",
    )

    def __init__(self, transport: Transport, flusher: Flusher, limit_bytes: int) -> None:
        self.packed = True
        self.msgpack = False
        self._transport = transport
        self._flusher = flusher
        self._limit = limit_bytes
        self._room = limit_bytes
        self._pending: list[bytes] = []
        self._queued = False

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory for this socket."""
        return sum(map(len, self._pending)) + self._transport.get_write_buffer_size()

    @property
    def has_room(self) -> bool:
        return self._room > 0

    def prefix(self, prefix: bytes) -> bytes:
        """`prefix` as this socket's frames are kept under: packed and plain ones must not be mixed.

        The blank between two members of an object means nothing in JSON.
        """
        if self.msgpack:
            return packed_prefix(prefix, gzip=self.packed)
        return prefix + b" " if self.packed else prefix

    def push(self, prefix: bytes, event: FeedEvent, /) -> bool:
        """Queue a live event; False when it does not fit."""
        frame = event.frames.get(prefix)
        if frame is None:
            frame = event.frames[prefix] = event_frame(prefix, event, packed=self.packed)
        size = len(frame)
        if size > self._room:
            # The count is from the last write; the transport may have got rid of bytes since.
            self._room = self._limit - self.waiting_bytes
            if size > self._room:
                return False
        self._room -= size
        self._pending.append(frame)
        if not self._queued:
            self._queued = True
            self._flusher.add(self)
        return True

    def push_all(self, prefix: bytes, events: Sequence[FeedEvent], /) -> bool:
        """Queue live events as a whole; False, and none of them, when they do not fit."""
        frames: list[bytes] = []
        for event in events:
            frame = event.frames.get(prefix)
            if frame is None:
                frame = event.frames[prefix] = event_frame(prefix, event, packed=self.packed)
            frames.append(frame)
        size = sum(map(len, frames))
        if size > self._room:
            self._room = self._limit - self.waiting_bytes
            if size > self._room:
                return False
        for frame in frames:
            self.send_frame(frame)
        return True

    def send(self, payload: bytes) -> None:
        """Queue a message, given as JSON, whatever waits already."""
        self.send_frame(message_frame(payload, packed=self.packed, msgpack=self.msgpack))

    def send_json(self, payload: bytes, *, packed: bool | None = None) -> None:
        """Queue a message that is JSON for everybody: signing in, errors."""
        if packed is None:
            # A client that expects msgpack in binary frames reads JSON from text frames.
            packed = self.packed and not self.msgpack
        self.send_frame(message_frame(payload, packed=packed))

    def send_event(self, prefix: bytes, event: FeedEvent) -> None:
        """Queue an event of a replay, whatever waits already."""
        self.send_frame(event_frame(prefix, event, packed=self.packed))

    def send_frame(self, frame: bytes) -> None:
        self._room -= len(frame)
        self._pending.append(frame)
        if not self._queued:
            self._queued = True
            self._flusher.add(self)

    def flush(self) -> None:
        """Write what is queued."""
        self._queued = False
        pending = self._pending
        if not pending:
            return
        self._pending = []
        transport = self._transport
        if transport.is_closing():
            return
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        transport.write(data)
        self._room = self._limit - transport.get_write_buffer_size()
        self._flusher.frames += len(pending)
        self._flusher.size_bytes += len(data)
