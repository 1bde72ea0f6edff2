"""A log that hands entries over late: it keeps a payload back, and may append it under a later
term.

The log promises to append an entry in the very tick and term in which it was decided. Apply must
not depend on it: an entry that names another term than its Raft entry's is void on every member
(core.md §1).
"""

from __future__ import annotations

from random import Random


class HeldAppends:
    """Implements `member.LateAppends`. With `share` 0 it does nothing."""

    def __init__(self, dice: Random, *, share: float) -> None:
        self._dice = dice
        self._share = share
        self._held: dict[int, tuple[int, int, list[bytes]]] = {}  # group → node, term, payloads

    def swap(self, group: int, node: int, term: int, payload: bytes | None) -> bytes | None:
        if self._share == 0.0:
            return payload
        held = self._held.get(group)
        if held is None:
            if payload is None or self._dice.random() >= self._share:
                return payload
            self._held[group] = (node, term, [payload])
            return None
        holder, held_term, payloads = held
        if (holder, held_term) == (node, term):
            if payload is not None:
                payloads.append(payload)
            if self._dice.random() < 0.85:
                return None
        elif payload is not None or term < held_term:
            return payload
        # Its own leadership goes on, or another one gets them: in the order they were decided.
        first = payloads.pop(0)
        if not payloads:
            del self._held[group]
        return first
