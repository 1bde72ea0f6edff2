"""What the rest of a node asks of the key-value store beneath a group, as Protocols.

Two implementations: `hot` (LevelDB) and `memory` (tests and the simulator). Keys are without group
and incarnation: family first, as the log carries them.

Keeps: one `write` is one atomic batch that holds the new mark too, so state and mark never part
(I4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.keys import prefix_end as prefix_end


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a group's state has got: the last applied entry and the group's seq after it."""

    index: int
    term: int
    seq_last: Seq


FIRST_MARK = Mark(0, 0, Seq(0))


class KeyReader(Protocol):
    """Reads of one group's keys at one state."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys in [start, stop) with their values, in key order or backwards."""
        ...


class GroupSnapshot(KeyReader, Protocol):
    """A group's keys as they were when it was taken. Must be closed."""

    mark: Mark

    def close(self) -> None: ...


class GroupStore(KeyReader, Protocol):
    """One group's copy on this node, in its current incarnation."""

    group: GroupId

    def mark(self) -> Mark:
        """The mark of the last batch."""
        ...

    def snapshot(self) -> GroupSnapshot: ...

    def write(self, effects: Iterable[Effect], mark: Mark) -> None:
        """Put everything in one batch, without a sync. Never raises: a fault ends the process."""
        ...

    def durable_index(self) -> int:
        """Applied entries up to here survive a power loss without the log."""
        ...

    def bytes_written(self) -> int:
        """Bytes put since start, of keys and values."""
        ...

    def size_bytes(self) -> int:
        """Roughly what the group takes on disk."""
        ...

    def build(self) -> GroupBuild:
        """Begin another incarnation of this group beside the current one: an image comes in."""
        ...

    def purge_old(self, keys_max: int) -> int:
        """Delete up to `keys_max` keys of other incarnations; 0 when none are left."""
        ...


class GroupBuild(Protocol):
    """A new incarnation on its way; nobody sees it before `flip`."""

    def put(self, pairs: Iterable[tuple[bytes, bytes]]) -> None: ...

    def flip(self, mark: Mark) -> None:
        """Make it the group's current one, synced; the old becomes leftovers for `purge_old`."""
        ...
