"""Snapshot: what one group's partitions are at a Seq.

The seq of a snapshot is the `seq_last` inside the store snapshot it reads (core.md §8), so rows,
changes and position can't disagree. STREAM rows past their TTL are hidden by the larger of wall
clock and group time, fixed when the snapshot is taken.

Keeps: I6, I7, I9; a snapshot that is not closed pins old data in LevelDB, so its owner closes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.model.change import Change
from kalamdb.model.ids import GroupId, Partition, Seq, Slot, seq_ms, slot_of
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import TableDef
from kalamdb.store import as_of, changes, indexes, rows
from kalamdb.store.kv import GroupSnapshot
from kalamdb.store.rows import PartitionKeys
from kalamdb.store.slots import SlotTable


class HotSnapshot:
    """Implements `ports.Snapshot` over the hot store."""

    __slots__ = ("_hidden", "_keys", "_now_ms", "_reader", "group", "seq", "slots")

    def __init__(
        self, group: GroupId, reader: GroupSnapshot, wall_ms: int, slots: SlotTable | None = None
    ) -> None:
        """`slots` are the group's at the same state; None where nobody asks for them."""
        self.group = group
        self.slots = SlotTable(group) if slots is None else slots
        self._hidden = self.slots.hidden
        self.seq = reader.mark.seq_last
        self._reader = reader
        self._now_ms = max(wall_ms, seq_ms(self.seq))
        self._keys: dict[tuple[int, Partition], PartitionKeys] = {}

    def _at(self, table: TableDef, partition: Partition) -> PartitionKeys:
        found = self._keys.get((table.id, partition))
        if found is None:
            found = self._keys[table.id, partition] = PartitionKeys(table.id, partition)
        return found

    def _hidden_upto(self, table: TableDef) -> Seq:
        return rows.expired_upto(table, self._now_ms, self.group)

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        """Row bytes of a primary key; None when there is no visible row."""
        key = self._at(table, partition).row + pk
        return rows.read_visible(self._reader, key, self._hidden_upto(table))

    def scan(self, table: TableDef, partition: Partition) -> Iterator[tuple[bytes, bytes]]:
        """(primary key bytes, row bytes) in key order."""
        return rows.scan_rows(self._reader, self._at(table, partition), self._hidden_upto(table))

    def scan_table(self, table: TableDef) -> Iterator[tuple[Partition, bytes, bytes]]:
        """(partition, primary key bytes, row bytes) of every partition this group has, in key
        order.
        """
        return self._shown(rows.scan_table(self._reader, table.id, self._hidden_upto(table)))

    def hide(self, slots: frozenset[Slot]) -> None:
        """Reads of all partitions leave these slots out too: another group has them
        (`slots.serving`).
        """
        self._hidden |= slots

    def _shown(
        self, found: Iterator[tuple[Partition, bytes, bytes]]
    ) -> Iterator[tuple[Partition, bytes, bytes]]:
        hidden = self._hidden
        return found if not hidden else _but_hidden(found, hidden)

    def open_epoch(self, partition: Partition) -> int:
        """The epoch in which the partition's slot is open. Raises Moved, NotLeader."""
        return self.slots.open_epoch(partition)

    def scan_range(
        self, table: TableDef, partition: Partition, keys: KeyRange, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """(primary key bytes, row bytes) of a range of the primary key or of an index."""
        at, hidden_upto = self._at(table, partition), self._hidden_upto(table)
        return indexes.scan_range(self._reader, at, keys, hidden_upto, reverse=reverse)

    def scan_by_seq(
        self, table: TableDef, partition: Partition, after: Seq, *, newest_first: bool = False
    ) -> Iterator[bytes]:
        """Row bytes with seq > `after`, in seq order (or backwards)."""
        first = max(after, self._hidden_upto(table))
        at = self._at(table, partition)
        return rows.scan_rows_by_seq(self._reader, at, first, newest_first=newest_first)

    def scan_as_of(
        self, table: TableDef, partition: Partition, then: Seq, wall_ms: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """(primary key bytes, row bytes) as they were at `then`, in key order.

        `wall_ms` is when that was, for rows that expire. Raises CursorExpired at once.
        """
        at = self._at(table, partition)
        as_of.check_as_of(self._reader, at, then, self.seq)
        hidden_upto = rows.expired_upto(table, max(wall_ms, seq_ms(then)), self.group)
        return as_of.scan_as_of(self._reader, at, then, hidden_upto)

    def scan_table_as_of(
        self, table: TableDef, then: Seq, wall_ms: int
    ) -> Iterator[tuple[Partition, bytes, bytes]]:
        """As `scan_as_of`, of every partition this group has. Raises CursorExpired at once."""
        as_of.check_table_as_of(self._reader, then, self.seq)
        hidden_upto = rows.expired_upto(table, max(wall_ms, seq_ms(then)), self.group)
        return self._shown(as_of.scan_table_as_of(self._reader, table.id, then, hidden_upto))

    def changes(
        self, table: TableDef, partition: Partition, after: Seq, upto: Seq
    ) -> Iterator[Change]:
        """Changes in (after, upto], in seq order. Raises CursorExpired at once."""
        at = self._at(table, partition)
        first = changes.check_cursor(self._reader, at, after, self.seq)
        last = min(upto, self.seq)
        return changes.read_changes(self._reader, at, self.group, after=first, upto=last)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        """Seq of the newest change of the chain, 0 for none."""
        return changes.last_change(self._reader, self._at(table, partition))

    def holds_uncommitted(self, table: TableDef) -> bool:
        return False

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> HotSnapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()


def _but_hidden(
    found: Iterator[tuple[Partition, bytes, bytes]], hidden: frozenset[Slot]
) -> Iterator[tuple[Partition, bytes, bytes]]:
    partition, is_hidden = Partition(b""), False
    for row in found:
        if row[0] != partition:
            partition = row[0]
            is_hidden = slot_of(partition) in hidden
        if not is_hidden:
            yield row
