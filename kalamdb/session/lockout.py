"""Failed sign-ins, by user and by user and address: after so many the next ones are refused.

1. So many failures in a row from one address lock the user *for that address*.
2. Ten times as many from anywhere lock the user for every address it never signed in from.

So whoever guesses is stopped, and who knows the password and has been here before is not: nobody
can lock others out by failing for them, but for addresses they have not used since this node
started. An address is an IPv4 address or an IPv6 /64.

Keeps: in memory and bounded; nothing is written for a failure. Names that no user has are counted
alike, so a lock tells nothing about who exists. A success forgets the failures of its address only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from kalamdb.lib.clock import Clock

ENTRIES_MAX = 50_000
ANYWHERE_FACTOR = 10
HOMES_MAX = 8  # addresses remembered of one user
_ANYWHERE = None

Key = tuple[str, str | None]


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_s: float = 0.0


class Lockout:
    """`failures_max` failures in a row lock for `lock_s` after the last of them."""

    def __init__(
        self, clock: Clock, failures_max: int, lock_s: float, entries_max: int = ENTRIES_MAX
    ) -> None:
        self._clock = clock
        self._failures_max = failures_max
        self._lock_s = lock_s
        self._entries_max = entries_max
        self._failures: OrderedDict[Key, _Failures] = OrderedDict()
        self._homes: OrderedDict[str, list[str]] = OrderedDict()

    def locked_s(self, name: str, address: str) -> int:
        """Whole seconds `name` stays locked for `address`; 0 when it is not."""
        here_s = self._left_s((name, address), self._failures_max)
        if here_s or address in self._homes.get(name, ()):
            return here_s
        return self._left_s((name, _ANYWHERE), self._failures_max * ANYWHERE_FACTOR)

    def _left_s(self, key: Key, failures_max: int) -> int:
        found = self._failures.get(key)
        if found is None:
            return 0
        left_s = found.last_s + self._lock_s - self._clock.monotonic_s()
        if left_s <= 0:
            del self._failures[key]
            return 0
        return math.ceil(left_s) if found.count >= failures_max else 0

    def failed(self, name: str, address: str) -> None:
        for key in ((name, address), (name, _ANYWHERE)):
            found = self._failures.pop(key, None) or _Failures()
            found.count += 1
            found.last_s = self._clock.monotonic_s()
            if len(self._failures) >= self._entries_max:
                self._failures.popitem(last=False)
            self._failures[key] = found

    def succeeded(self, name: str, address: str) -> None:
        self._failures.pop((name, address), None)
        homes = self._homes.pop(name, [])
        if address in homes:
            homes.remove(address)
        if len(self._homes) >= self._entries_max:
            self._homes.popitem(last=False)
        self._homes[name] = [*homes[-(HOMES_MAX - 1) :], address]

    def __len__(self) -> int:
        return len(self._failures)
