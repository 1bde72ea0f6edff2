"""Results too large to pass through the server: kept as they were encoded until a client took them.

A worker writes such a result into a file that is only memory (`memfd`) and is free again at once;
the server reads piece by piece what its client has room for, and never has the whole in its own
memory.

Keeps: all results under way together stay within `Room`; a query starts only when the largest
result it may give has room. A result nobody closed gives back its memory when it is collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from dataclasses import dataclass

from kalamdb.errors import Overloaded, Unavailable

NAME = "query-result"


def new_file() -> int:
    """A file descriptor of an empty file in memory, not inherited."""
    return os.memfd_create(NAME, os.MFD_CLOEXEC)


class Room:
    """Bytes that results under way may take together, given out in the order of asking.

    `held_bytes` of them are results that wait for their clients; the rest is for running queries.
    """

    def __init__(self, size_max_bytes: int, line_max: int) -> None:
        self.size_max_bytes = size_max_bytes
        self._line_max = line_max
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.taken_bytes = 0
        self.held_bytes = 0
        self._closed = False

    async def take(self, size_bytes: int) -> Share:
        """A share of the room; waits for it. Raises Overloaded, Unavailable."""
        size_bytes = min(size_bytes, self.size_max_bytes)
        if self._closed:
            raise Unavailable("the node is stopping")
        if self._line or self.taken_bytes + size_bytes > self.size_max_bytes:
            if len(self._line) >= self._line_max:
                raise Overloaded("the line of large results", self._line_max)
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (size_bytes, waiting)
            self._line.append(entry)
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                    self.give_back(size_bytes)
                elif entry in self._line:
                    self._line.remove(entry)
                    self._admit()
                raise
        else:
            self.taken_bytes += size_bytes
        return Share(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        self.taken_bytes -= size_bytes
        self._admit()

    def _admit(self) -> None:
        while self._line:
            size_bytes, waiting = self._line[0]
            if self.taken_bytes + size_bytes > self.size_max_bytes:
                return
            self._line.popleft()
            if not waiting.done():
                self.taken_bytes += size_bytes
                waiting.set_result(None)

    def close(self) -> None:
        """Those who wait fail with Unavailable."""
        self._closed = True
        while self._line:
            _, waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_exception(Unavailable("the node is stopping"))


@dataclass(slots=True)
class Share:
    """A part of the room, held until `shrink(0)`."""

    room: Room
    size_bytes: int

    def shrink(self, size_bytes: int) -> None:
        """Keep only as much as the result took."""
        if size_bytes < self.size_bytes:
            spare = self.size_bytes - size_bytes
            self.size_bytes = size_bytes
            self.room.give_back(spare)


class HeldResult:
    """An encoded result in memory that is not the server's. Close it."""

    def __init__(self, file: int, size_bytes: int, share: Share) -> None:
        self.size_bytes = size_bytes
        self._loop = asyncio.get_running_loop()
        self._file: int | None = file
        self._share = share
        share.shrink(size_bytes)
        share.room.held_bytes += size_bytes

    def read(self, at: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` bytes from `at`."""
        assert self._file is not None, "the result was closed"
        return os.pread(self._file, size_bytes, at)

    def close(self) -> None:
        """On the loop; a second time does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._give_back()

    def _give_back(self) -> None:
        self._share.room.held_bytes -= self.size_bytes
        self._share.shrink(0)

    def __del__(self) -> None:
        # Whoever collects it may be another thread, or come after the loop.
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._give_back)
