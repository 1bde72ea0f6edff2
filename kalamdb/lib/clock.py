"""Owned time and dice: the only place that reads a clock or a random source (invariant I13).

Everything else receives a `Clock` and an `Ids`, so a whole cluster can be replayed from one seed.
"""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...


class Ids(Protocol):
    def token(self, size_bytes: int) -> bytes:
        """Unpredictable bytes, for secrets and salts."""
        ...

    def uuid4(self) -> uuid.UUID: ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class SystemIds:
    """The machine's random source."""

    def token(self, size_bytes: int) -> bytes:
        return secrets.token_bytes(size_bytes)

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(bytes=secrets.token_bytes(16), version=4)


def uuid7(wall_ms: int, ids: Ids) -> uuid.UUID:
    """RFC 9562 version 7: 48 bits of milliseconds, then random bits."""
    dice = ids.token(10)
    raw = bytearray(wall_ms.to_bytes(6, "big") + dice)
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    return uuid.UUID(bytes=bytes(raw))


CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(wall_ms: int, ids: Ids) -> str:
    """26 characters of Crockford base 32: 48 bits of milliseconds, 80 random bits."""
    number = (wall_ms << 80) | int.from_bytes(ids.token(10), "big")
    return "".join(CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
