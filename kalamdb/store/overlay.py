"""A store snapshot with the writes of one transaction laid over it.

`OverlayReader` is a `KeyReader` of two layers, so everything that reads keys (points, ranges,
indexes, scans) sees own writes without knowing of them. `OverlaySnapshot` is what a query reads.

Keeps:
- What a reader was given never changes under it: a query may go on in a thread while its
  transaction moves on.
- What is read of the past (changes, AS OF, cursors) comes from below the overlay: uncommitted rows
  have no place in it.
- The store snapshot is closed when the transaction and every reader have let go of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from kalamdb.model.change import Change
from kalamdb.model.command import Effect
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.table import TableDef
from kalamdb.store.kv import GroupSnapshot, Mark
from kalamdb.store.snapshot import HotSnapshot


class SharedSnapshot:
    """A store snapshot with several holders; the last one to let go closes it."""

    __slots__ = ("_holders", "reader")

    def __init__(self, reader: GroupSnapshot) -> None:
        self.reader = reader
        self._holders = 1

    def hold(self) -> None:
        assert self._holders
        self._holders += 1

    def let_go(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.reader.close()


class OverlayReader:
    """Implements `kv.GroupSnapshot`. `ordered` are the keys of `effects` in key order."""

    __slots__ = ("_base", "_effects", "_on_close", "_ordered", "mark")

    def __init__(
        self,
        base: GroupSnapshot,
        effects: Mapping[bytes, Effect],
        ordered: Sequence[bytes],
        on_close: Callable[[], None],
    ) -> None:
        self._base = base
        self._effects = effects
        self._ordered = ordered
        self._on_close: Callable[[], None] | None = on_close
        self.mark: Mark = base.mark

    def get(self, key: bytes, /) -> bytes | None:
        effect = self._effects.get(key)
        return self._base.get(key) if effect is None else effect[1]

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        ordered = self._ordered
        below = self._base.scan(start, stop, reverse=reverse)
        first, end = bisect_left(ordered, start), bisect_left(ordered, stop)
        if first >= end:
            return below
        own = ordered[first:end]
        return self._merged(below, reversed(own) if reverse else iter(own), reverse=reverse)

    def _merged(
        self, below: Iterator[tuple[bytes, bytes]], own: Iterator[bytes], *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        effects = self._effects
        mine = next(own, None)
        for key, value in below:
            while mine is not None and (mine > key if reverse else mine < key):
                new = effects[mine][1]
                if new is not None:
                    yield mine, new
                mine = next(own, None)
            if mine != key:
                yield key, value
        while mine is not None:
            new = effects[mine][1]
            if new is not None:
                yield mine, new
            mine = next(own, None)

    def close(self) -> None:
        """May be called twice: a query closes a snapshot once for each table it reads in it."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


class OverlaySnapshot(HotSnapshot):
    """Implements `ports.Snapshot` for one transaction."""

    __slots__ = ("_past", "_written")

    def __init__(
        self, past: HotSnapshot, reader: OverlayReader, wall_ms: int, written: frozenset[int]
    ) -> None:
        """`past` is the same snapshot without own writes, `written` the tables that have some."""
        super().__init__(past.group, reader, wall_ms, past.slots)
        self._past = past
        self._written = written

    def holds_uncommitted(self, table: TableDef) -> bool:
        return table.id in self._written

    def scan_as_of(
        self, table: TableDef, partition: Partition, then: Seq, wall_ms: int
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._past.scan_as_of(table, partition, then, wall_ms)

    def scan_table_as_of(
        self, table: TableDef, then: Seq, wall_ms: int
    ) -> Iterator[tuple[Partition, bytes, bytes]]:
        return self._past.scan_table_as_of(table, then, wall_ms)

    def changes(
        self, table: TableDef, partition: Partition, after: Seq, upto: Seq
    ) -> Iterator[Change]:
        return self._past.changes(table, partition, after, upto)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self._past.last_change(table, partition)
