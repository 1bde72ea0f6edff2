"""A partition's rows as they were at an earlier seq, out of ROW and HISTORY (core.md §8).

A version was visible at `t` if it was written at or before `t` and its successor after, or never.
ROW holds the newest version of each key, HISTORY the others with their successors' seqs, both in
key order: one pass over the two gives the rows of then in the order of a scan of now.

Keeps: at most one version per key; what has been trimmed is CursorExpired before the first row, not
a row less.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kalamdb.errors import CursorExpired
from kalamdb.model import codec, keys
from kalamdb.model.ids import Partition, Seq, TableId
from kalamdb.store.changes import change_floor, check_cursor
from kalamdb.store.kv import KeyReader, prefix_end
from kalamdb.store.rows import PartitionKeys

_SEQ_BYTES = 8
_U64 = struct.Struct(">Q")


def check_as_of(reader: KeyReader, at: PartitionKeys, then: Seq, seq_last: Seq) -> None:
    """Raises CursorExpired (ahead or expired) when the rows of `then` cannot be told."""
    check_cursor(reader, at, then, seq_last)


def check_table_as_of(reader: KeyReader, then: Seq, seq_last: Seq) -> None:
    """As `check_as_of`, for all partitions of a table: `then` must be above all that is trimmed."""
    if then > seq_last:
        raise CursorExpired(then, "ahead")
    if then < change_floor(reader):
        raise CursorExpired(then, "expired")


def scan_as_of(
    reader: KeyReader, at: PartitionKeys, then: Seq, hidden_upto: Seq
) -> Iterator[tuple[bytes, bytes]]:
    """(primary key bytes, row bytes) visible at `then`, in key order.

    Rows with a seq up to `hidden_upto` had expired by then. `check_as_of` has passed.
    """
    return _merged(reader, at.row, at.history, then, hidden_upto)


def scan_table_as_of(
    reader: KeyReader, table: TableId, then: Seq, hidden_upto: Seq
) -> Iterator[tuple[Partition, bytes, bytes]]:
    """(partition, primary key bytes, row bytes) of all partitions, as `scan_as_of`."""
    prefix = keys.table_rows(table)
    history = bytes([keys.Family.HISTORY]) + prefix[1:]
    for key, raw in _merged(reader, prefix, history, then, hidden_upto):
        partition, end = keys.split_terminated(key, 0)
        yield Partition(partition), key[end:], raw


def _merged(
    reader: KeyReader, rows: bytes, history: bytes, then: Seq, hidden_upto: Seq
) -> Iterator[tuple[bytes, bytes]]:
    """What ROW and HISTORY keys with these prefixes held at `then`: (rest of the key, row
    bytes).
    """
    past = _superseded(reader, history, then)
    row_start = len(rows)
    ahead = next(past, None)
    for key, raw in reader.scan(rows, prefix_end(rows)):
        pk = key[row_start:]
        while ahead is not None and ahead[0] < pk:
            if codec.row_seq(ahead[1]) > hidden_upto:
                yield ahead
            ahead = next(past, None)
        if codec.row_seq(raw) <= then:
            found = None if raw[1] & codec.TOMBSTONE else raw
        else:
            found = ahead[1] if ahead is not None and ahead[0] == pk else None
        if ahead is not None and ahead[0] == pk:
            ahead = next(past, None)
        if found is not None and codec.row_seq(found) > hidden_upto:
            yield pk, found
    while ahead is not None:
        if codec.row_seq(ahead[1]) > hidden_upto:
            yield ahead
        ahead = next(past, None)


def _superseded(reader: KeyReader, history: bytes, then: Seq) -> Iterator[tuple[bytes, bytes]]:
    """(rest of the key, row bytes) of the superseded versions that were the newest at `then`."""
    start = len(history)
    for key, kept in reader.scan(history, prefix_end(history)):
        if _U64.unpack_from(key, len(key) - _SEQ_BYTES)[0] > then:
            continue
        seq_new, raw = codec.decode_history(kept)
        if seq_new > then and not raw[1] & codec.TOMBSTONE:
            yield key[start:-_SEQ_BYTES], raw
