"""Failed sign-ins by user name: after so many in a row the name is locked for a while.

Keeps: in memory and bounded; nothing is written for a failure. Names that no user has are counted
alike, so a lock tells nothing about who exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kalamdb.lib.clock import Clock

NAMES_MAX = 10_000


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_s: float = 0.0


class Lockout:
    """`failures_max` failures in a row lock a name for `lock_s` after the last of them."""

    def __init__(
        self, clock: Clock, failures_max: int, lock_s: float, names_max: int = NAMES_MAX
    ) -> None:
        self._clock = clock
        self._failures_max = failures_max
        self._lock_s = lock_s
        self._names_max = names_max
        self._failures: dict[str, _Failures] = {}

    def locked_s(self, name: str) -> int:
        """Whole seconds the name stays locked; 0 when it is not."""
        found = self._failures.get(name)
        if found is None:
            return 0
        left_s = found.last_s + self._lock_s - self._clock.monotonic_s()
        if left_s <= 0:
            del self._failures[name]
            return 0
        return math.ceil(left_s) if found.count >= self._failures_max else 0

    def failed(self, name: str) -> None:
        found = self._failures.pop(name, None) or _Failures()
        found.count += 1
        found.last_s = self._clock.monotonic_s()
        if len(self._failures) >= self._names_max:
            del self._failures[next(iter(self._failures))]
        self._failures[name] = found

    def succeeded(self, name: str) -> None:
        self._failures.pop(name, None)
