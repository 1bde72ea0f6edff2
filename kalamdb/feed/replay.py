"""Changes read from the log → events, a bounded number at a time.

`commit` stands on the last event of each transaction that the subscription sees; to know it, an
event is held back until the next one or the end of its transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalamdb.feed.events import FeedEvent, Renderer
from kalamdb.feed.predicate import ChangeKind
from kalamdb.model.change import Change
from kalamdb.model.ids import Seq


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """A round ends at the end of a transaction once one of the first two is met.

    A transaction beyond one of the last two is cut: its events come in several rounds.
    """

    changes_max: int = 128
    size_max_bytes: int = 64 << 10
    txn_changes_max: int = 4096
    txn_size_max_bytes: int = 1 << 20


class Replay:
    """One round. `seq` is the last change taken."""

    def __init__(self, render: Renderer, limits: ReplayLimits) -> None:
        self.seq = Seq(0)
        self._render = render
        self._limits = limits
        self._events: list[FeedEvent] = []
        self._held: tuple[ChangeKind, Change] | None = None
        self._size_bytes = 0
        self._changes = 0
        self._between = True  # two transactions, not inside one

    @property
    def is_full(self) -> bool:
        limits = self._limits
        if self._changes < limits.changes_max and self._size_bytes < limits.size_max_bytes:
            return False
        return (
            self._between
            or self._changes >= limits.txn_changes_max
            or self._size_bytes >= limits.txn_size_max_bytes
        )

    def take(self, kind: ChangeKind | None, change: Change) -> None:
        if kind is not None:
            self._release(commit=False)
            self._held = (kind, change)
        self.seq = change.seq
        self._changes += 1
        self._between = change.last_of_txn
        if change.last_of_txn:
            self._release(commit=True)

    def finish(self, *, commit: bool) -> list[FeedEvent]:
        """All events; `commit` says that nothing of the last transaction can follow."""
        self._release(commit=commit or self._between)
        return self._events

    def _release(self, *, commit: bool) -> None:
        held, self._held = self._held, None
        if held is not None:
            event = self._render.event(*held, commit=commit)
            self._events.append(event)
            self._size_bytes += len(event.tail)
