"""Token buckets by key: how often something may happen, and when to come back.

Keeps: a bounded number of keys; the one that was idle longest is forgotten first, which at worst
fills its bucket again.
"""

from __future__ import annotations

from kalamdb.lib.clock import Clock

KEYS_MAX = 20_000


class Buckets:
    """One bucket per key, filled at `rate_per_s` up to `burst`."""

    def __init__(
        self, clock: Clock, rate_per_s: float, burst: float, keys_max: int = KEYS_MAX
    ) -> None:
        self._clock = clock
        self._rate_per_s = rate_per_s
        self._burst = max(burst, 1.0)
        self._keys_max = keys_max
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """Take one. 0.0: granted; else the seconds until one is there (nothing was taken)."""
        now_s = self._clock.monotonic_s()
        held, then_s = self._buckets.pop(key, (self._burst, now_s))
        held = min(self._burst, held + (now_s - then_s) * self._rate_per_s)
        granted = held >= 1.0
        if len(self._buckets) >= self._keys_max:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = (held - 1.0 if granted else held, now_s)
        return 0.0 if granted else (1.0 - held) / self._rate_per_s

    def __len__(self) -> int:
        return len(self._buckets)
