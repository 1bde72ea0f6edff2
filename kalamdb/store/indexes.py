"""Rows in the order of a key: of the primary key, of an index, of a UNIQUE value.

An INDEX entry's key is its values and then the primary key; a UNIQUE entry's key is its values, and
its value is the primary key. Both are put and deleted in the batch of their row, so inside one
snapshot an entry of an index that is READY always names a row, and a row that is not there is
damage.

Keeps: a row that readers don't see (past its TTL) isn't seen through an index either.
"""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.errors import Corruption
from kalamdb.model import codec
from kalamdb.model.ids import Seq
from kalamdb.model.key_range import KeyRange, KeySource
from kalamdb.model.keys import Family, skip_values
from kalamdb.store.kv import KeyReader, prefix_end
from kalamdb.store.rows import PartitionKeys

Found = Iterator[tuple[bytes, bytes | None]]


def scan_range(
    reader: KeyReader, at: PartitionKeys, keys: KeyRange, hidden_upto: Seq, *, reverse: bool = False
) -> Found:
    """(primary key bytes, row bytes) of the rows in `keys`, in key order or backwards; None instead
    of a row that readers don't see, so that who counts can stop among many of them.
    """
    match keys.source:
        case KeySource.PRIMARY:
            return _primary(reader, at, keys, hidden_upto, reverse=reverse)
        case KeySource.INDEX:
            return _index(reader, at, keys, hidden_upto, reverse=reverse)
        case KeySource.UNIQUE:
            return _unique(reader, at, keys, hidden_upto, reverse=reverse)


def _bounds(prefix: bytes, keys: KeyRange) -> tuple[bytes, bytes]:
    return prefix + keys.start, prefix + keys.stop if keys.stop else prefix_end(prefix)


def _primary(
    reader: KeyReader, at: PartitionKeys, keys: KeyRange, hidden_upto: Seq, *, reverse: bool
) -> Found:
    size = len(at.row)
    start, stop = _bounds(at.row, keys)
    for key, raw in reader.scan(start, stop, reverse=reverse):
        hidden = raw[1] & codec.TOMBSTONE or (hidden_upto and codec.row_seq(raw) <= hidden_upto)
        yield key[size:], None if hidden else raw


def _index(
    reader: KeyReader, at: PartitionKeys, keys: KeyRange, hidden_upto: Seq, *, reverse: bool
) -> Found:
    prefix = at.entries(Family.INDEX, keys.number)
    head, open_columns = len(prefix) + keys.head_bytes, keys.open_columns
    get, row = reader.get, at.row
    start, stop = _bounds(prefix, keys)
    for key, _ in reader.scan(start, stop, reverse=reverse):
        pk = key[skip_values(key, head, open_columns) if open_columns else head :]
        raw = get(row + pk)
        if raw is None or raw[1] & codec.TOMBSTONE:
            raise Corruption(f"index entry {key.hex()}", 0, "it names no row")
        yield pk, None if hidden_upto and codec.row_seq(raw) <= hidden_upto else raw


def _unique(
    reader: KeyReader, at: PartitionKeys, keys: KeyRange, hidden_upto: Seq, *, reverse: bool
) -> Found:
    start, stop = _bounds(at.entries(Family.UNIQUE, keys.number), keys)
    for key, pk in reader.scan(start, stop, reverse=reverse):
        raw = reader.get(at.row + pk)
        if raw is None or raw[1] & codec.TOMBSTONE:
            raise Corruption(f"unique entry {key.hex()}", 0, "it names no row")
        yield pk, None if hidden_upto and codec.row_seq(raw) <= hidden_upto else raw
