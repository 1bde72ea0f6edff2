"""Where a partition's rows stand, and which of them are visible.

Versions: ROW holds the newest (or a tombstone), HISTORY each superseded one with its successor's
seq, SEQ names the newest version's key by its seq. `PartitionKeys` keeps the prefixes of one
(table, partition), which cost more to build than the read they serve.

Keeps: deleted rows and STREAM rows older than their TTL are invisible by rule, whether they were
removed or not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kalamdb.errors import Corruption
from kalamdb.model import codec, keys
from kalamdb.model.ids import HOUR_MS, SEQ_TIME_SHIFT, GroupId, Partition, Seq, TableId, seq_at
from kalamdb.model.table import TableDef
from kalamdb.store.kv import KeyReader, prefix_end

_U64 = struct.Struct(">Q")
_HOUR = struct.Struct(">BI")
_CHANGE = keys.Family.CHANGE
_EXPIRY = keys.Family.EXPIRY


class PartitionKeys:
    """Key prefixes of one (table, partition), equal to what `model.keys` builds one by one."""

    __slots__ = (
        "_entries",
        "_hour",
        "_hour_changes",
        "chain",
        "history",
        "last",
        "partition",
        "row",
        "seq",
        "table",
    )

    def __init__(self, table: TableId, partition: Partition) -> None:
        self.table = table
        self.partition = partition
        self.chain = keys.chain(table, partition)
        self.row = keys.row_prefix(table, partition)
        self.seq = keys.seq_prefix(table, partition)
        self.history = bytes([keys.Family.HISTORY]) + self.chain
        self.last = keys.last(table, partition)
        self._entries: dict[tuple[int, int], bytes] = {}
        self._hour = -1  # of the change key made last, and what keys of that hour begin with
        self._hour_changes = b""

    def entries(self, family: keys.Family, index: int) -> bytes:
        """What the partition's entries of one index (INDEX or UNIQUE) begin with."""
        found = self._entries.get((family, index))
        if found is None:
            found = keys.entries(family, self.table, index, self.partition)
            self._entries[family, index] = found
        return found

    def history_key(self, pk: bytes, seq: Seq) -> bytes:
        return self.history + pk + _U64.pack(seq)

    def seq_key(self, seq: Seq) -> bytes:
        return self.seq + _U64.pack(seq)

    def change_key(self, seq: Seq) -> bytes:
        """The hour is the seq's own, never a clock's."""
        hour = (seq >> SEQ_TIME_SHIFT) // HOUR_MS
        if hour != self._hour:
            self._hour = hour
            self._hour_changes = _HOUR.pack(_CHANGE, hour) + self.chain
        return self._hour_changes + _U64.pack(seq)

    def expiry_key(self, seq: Seq) -> bytes:
        hour = (seq >> SEQ_TIME_SHIFT) // HOUR_MS
        return _HOUR.pack(_EXPIRY, hour) + self.chain + _U64.pack(seq)


def expired_upto(table: TableDef, now_ms: int, group: GroupId) -> Seq:
    """Rows of a STREAM table with this seq or a smaller one are hidden; 0 where nothing expires.

    `now_ms` is the larger of wall clock and group time.
    """
    ttl_s = table.options.ttl_s
    if table.has_tombstones or ttl_s is None:
        return Seq(0)
    return Seq(seq_at(now_ms - ttl_s * 1000, group) - 1)


def read_visible(reader: KeyReader, key: bytes, hidden_upto: Seq) -> bytes | None:
    """The row bytes under a ROW key; None when absent, deleted or expired."""
    raw = reader.get(key)
    if raw is None or raw[1] & codec.TOMBSTONE:
        return None
    if hidden_upto and codec.row_seq(raw) <= hidden_upto:
        return None
    return raw


def scan_rows(
    reader: KeyReader, at: PartitionKeys, hidden_upto: Seq
) -> Iterator[tuple[bytes, bytes]]:
    """(primary key bytes, row bytes) of the visible rows, in key order."""
    start = len(at.row)
    for key, raw in reader.scan(at.row, prefix_end(at.row)):
        if raw[1] & codec.TOMBSTONE or (hidden_upto and codec.row_seq(raw) <= hidden_upto):
            continue
        yield key[start:], raw


def scan_table(
    reader: KeyReader, table: TableId, hidden_upto: Seq
) -> Iterator[tuple[Partition, bytes, bytes]]:
    """(partition, primary key bytes, row bytes) of the visible rows of all partitions."""
    start = keys.table_rows(table)
    prefix, partition = b"\xff", Partition(b"")
    for key, raw in reader.scan(start, prefix_end(start)):
        if not key.startswith(prefix):
            found, end = keys.split_terminated(key, len(start))
            prefix, partition = key[:end], Partition(found)
        if raw[1] & codec.TOMBSTONE or (hidden_upto and codec.row_seq(raw) <= hidden_upto):
            continue
        yield partition, key[len(prefix) :], raw


def scan_rows_by_seq(
    reader: KeyReader, at: PartitionKeys, after: Seq, *, newest_first: bool = False
) -> Iterator[bytes]:
    """Row bytes of the undeleted rows with seq > `after`, in seq order or newest first."""
    start, stop = at.seq_key(Seq(after + 1)), prefix_end(at.seq)
    for key, pk in reader.scan(start, stop, reverse=newest_first):
        raw = reader.get(at.row + pk)
        if raw is None or codec.row_seq(raw) != _U64.unpack_from(key, len(key) - 8)[0]:
            raise Corruption(f"group keys {key.hex()}", 0, "a SEQ entry names no such row")
        if not raw[1] & codec.TOMBSTONE:
            yield raw
