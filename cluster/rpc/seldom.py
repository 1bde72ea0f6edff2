"""What would be logged at every attempt is logged once in a while."""

from __future__ import annotations

from kalamdb.lib.clock import Clock

AGAIN_S = 30.0
KEYS_MAX = 256


class Seldom:
    """Remembers when something was last said; at most KEYS_MAX things."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said_s: dict[str, float] = {}

    def is_due(self, key: str) -> bool:
        """True at most once in AGAIN_S for each key."""
        now_s = self._clock.monotonic_s()
        said_s = self._said_s.get(key)
        if said_s is not None and now_s - said_s < AGAIN_S:
            return False
        self._said_s.pop(key, None)
        if len(self._said_s) >= KEYS_MAX:
            del self._said_s[next(iter(self._said_s))]
        self._said_s[key] = now_s
        return True
