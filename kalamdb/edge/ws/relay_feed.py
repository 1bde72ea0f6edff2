"""One live query of another node, handed out to all clients of this process that follow it.

Keeps: an event is handed out only if it follows the one before; units of results are handed out
whole. A member without room leaves, at its exact position, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kalamdb.errors import KalamError
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.hub import EndReason, Push
from kalamdb.model.ids import Seq

UNIT_BYTES_MAX = 64 << 20
"""A result is far smaller; beyond it what comes is no unit."""
COMMITTED = b'"commit":true}'
"""So ends the last event of a transaction."""


class FeedMember(Protocol):
    """A live query of one client, as its feed sees it."""

    def fell(self, after: Seq) -> None:
        """There was no room for an event; the feed has forgotten it. It has all up to `after`."""
        ...

    def deliver(self, unit: Sequence[FeedEvent], cursor: str) -> None: ...

    def changed_feed(self, feed: RelayFeed) -> None: ...

    def lost(self) -> None: ...

    def end(self, reason: EndReason, detail: str) -> None: ...

    def fail(self, fault: KalamError) -> None: ...


class RelayFeed:
    """The members of one live query in this process. `cursor`: what all of them were given.

    `joined`: how many ever joined it, as the leader says; `cut`: inside a transaction.
    """

    __slots__ = (
        "_emptied",
        "_parts",
        "_size_bytes",
        "cursor",
        "cut",
        "event_seq",
        "joined",
        "members",
        "number",
    )

    def __init__(
        self, number: int, cursor: Seq | str, emptied: Callable[[RelayFeed], None]
    ) -> None:
        self.number = number
        self.cursor = cursor
        self.event_seq = Seq(0)
        self.joined = 0
        self.cut = False
        self.members: dict[FeedMember, tuple[Push, bytes]] = {}
        self._emptied = emptied
        self._parts: list[FeedEvent] = []
        self._size_bytes = 0

    def event(self, event: FeedEvent, after: Seq) -> bool:
        """Hand an event out. False: it does not follow what was handed out before; nothing was."""
        cursor = self.cursor
        if after != cursor or event.seq <= after or event.prev_seq < after:
            return False
        refused = [
            member for member, (push, prefix) in self.members.items() if not push(prefix, event)
        ]
        for member in refused:
            del self.members[member]
            member.fell(after)
        self.cursor = self.event_seq = event.seq
        self.cut = not event.tail.endswith(COMMITTED)
        if refused and not self.members:
            self._emptied(self)
        return True

    def part(self, body: bytes, cursor: str | None) -> bool:
        """A part of a unit, which is handed out whole with its last one. False: it grows too
        large.
        """
        self._parts.append(FeedEvent(Seq(0), body))
        self._size_bytes += len(body)
        if self._size_bytes > UNIT_BYTES_MAX:
            return False
        if cursor is None:
            return True
        unit, self._parts, self._size_bytes = tuple(self._parts), [], 0
        for member in list(self.members):
            member.deliver(unit, cursor)
        self.cursor = cursor
        return True

    def passed(self, cursor: Seq | str) -> bool:
        """Changes were not for its members. False: that is no place after its own."""
        if isinstance(cursor, int) and isinstance(self.cursor, int) and cursor < self.cursor:
            return False
        self.cursor = cursor
        self.cut = False
        return True

    def leave(self, member: FeedMember) -> None:
        if self.members.pop(member, None) is not None and not self.members:
            self._emptied(self)

    def merge(self, into: RelayFeed) -> None:
        """All its members go on in another."""
        for member, sink in self.members.items():
            member.changed_feed(into)
            into.members[member] = sink
        self.members.clear()

    def lost(self) -> None:
        """It is no more, or cannot be trusted: its members ask for places again."""
        for member in self._dismissed():
            member.lost()

    def ended(self, reason: EndReason, detail: str) -> None:
        for member in self._dismissed():
            member.end(reason, detail)

    def failed(self, fault: KalamError) -> None:
        for member in self._dismissed():
            member.fail(fault)

    def _dismissed(self) -> list[FeedMember]:
        members, self.members = list(self.members), {}
        return members
