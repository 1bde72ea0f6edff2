"""Results too large to pass through the server: kept as they were encoded until a client took them.

A worker writes such a result into a file that is only memory (`memfd`) and is free again at once;
the server reads piece by piece what its client has room for, and never has the whole in its own
memory.

Keeps: all results that wait for their clients stay within `Room`, and those of one user within half
of it. Nobody waits for room: it is asked for when a result is there and known to be large, so small
results need none; one without room is given up. What workers write just now comes on top, one
result each. A result nobody closed gives back its memory when it is collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass

from kalamdb.errors import LimitReached, Overloaded

NAME = "query-result"


def new_file() -> int:
    """A file descriptor of an empty file in memory, not inherited."""
    return os.memfd_create(NAME, os.MFD_CLOEXEC)


class Room:
    """Bytes that large results may take together while they wait for their clients."""

    def __init__(self, size_max_bytes: int) -> None:
        self.size_max_bytes = size_max_bytes
        self.held_bytes = 0
        self._owned_bytes: dict[str, int] = {}

    def take(self, size_bytes: int, owner: str) -> Share:
        """A share of the room for one result of `owner`, who has up to half of it, or one result
        alone.

        Raises: LimitReached when the owner's other results take too much, Overloaded when those of
        all do.
        """
        owned_bytes = self._owned_bytes.get(owner, 0)
        if owned_bytes and owned_bytes + size_bytes > self.size_max_bytes // 2:
            raise LimitReached(
                "held_results_bytes",
                f"{owned_bytes} bytes of your other results wait to be read, and {size_bytes} "
                "more are too many; read those first, or close their connections",
            )
        if self.held_bytes + size_bytes > self.size_max_bytes:
            raise Overloaded("the memory of large results", self.size_max_bytes)
        self._add(owner, size_bytes)
        return Share(self, owner, size_bytes)

    def give_back(self, share: Share) -> None:
        """Once per share."""
        self._add(share.owner, -share.size_bytes)

    def _add(self, owner: str, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        owned_bytes = self._owned_bytes.pop(owner, 0) + size_bytes
        if owned_bytes:
            self._owned_bytes[owner] = owned_bytes


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the room, held until it is given back."""

    room: Room
    owner: str
    size_bytes: int


class HeldResult:
    """An encoded result in memory that is not the server's. Close it."""

    def __init__(self, file: int, share: Share) -> None:
        self.size_bytes = share.size_bytes
        self._loop = asyncio.get_running_loop()
        self._file: int | None = file
        self._share = share

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
        self._share.room.give_back(self._share)

    def __del__(self) -> None:
        # Whoever collects it may be another thread, or come after the loop.
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._give_back)
