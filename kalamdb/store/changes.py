"""The change log of a group, read: chains of changes in seq order, with both images of each row.

A change's key begins with the hour of its seq, so trimming removes a range and reading walks hours
from the cursor's on. The record holds no image: the after image is ROW when that still has the
change's seq, else the HISTORY version with it; the before image is the HISTORY version with
`before_seq`, which every write that supersedes a version puts beside its change.

Keeps: what a cursor asks for comes whole or not at all (I8): `expired` when a change of the chain
after it is at or below the change floor, `ahead` when it is above the group's seq. A cursor does
not age by itself: as long as its chain has only changes that are kept after it, it is good.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

from kalamdb.errors import Corruption, CursorExpired
from kalamdb.model import codec, keys
from kalamdb.model.change import Change, Op, Row
from kalamdb.model.ids import GroupId, Seq, seq_hour
from kalamdb.store.kv import KeyReader
from kalamdb.store.rows import PartitionKeys

_U64 = struct.Struct(">Q")


class PointReader(Protocol):
    def get(self, key: bytes, /) -> bytes | None: ...


def change_floor(reader: PointReader) -> Seq:
    """Changes with this seq or a smaller one are trimmed, or may be at any time."""
    raw = reader.get(keys.CHANGE_FLOOR)
    return Seq(0) if raw is None else codec.decode_seq(raw)


def components(reader: KeyReader) -> list[tuple[GroupId, Seq]]:
    """The groups whose changes were brought here by moves of slots, with a bound of their seqs."""
    first = keys.CHANGE_FLOOR + b"\x00"
    return [
        (GroupId(keys.U16.unpack_from(key, 1)[0]), codec.decode_seq(raw))
        for key, raw in reader.scan(first, keys.prefix_end(keys.CHANGE_FLOOR))
    ]


def trimmed(reader: KeyReader, own: GroupId) -> dict[GroupId, Seq]:
    """By component (the group whose bits a seq has): changes of it up to here are trimmed in this
    group, or may be at any time. A cursor over many partitions is expired when a component of it is
    below what any of its sources says here.
    """
    floor = change_floor(reader)
    return {own: floor, **{group: min(floor, bound) for group, bound in components(reader)}}


def last_change(reader: KeyReader, at: PartitionKeys) -> Seq:
    """Seq of the chain's newest change, 0 for none; it outlives the change itself."""
    raw = reader.get(at.last)
    return Seq(0) if raw is None else codec.decode_seq(raw)


def check_cursor(reader: KeyReader, at: PartitionKeys, cursor: Seq, seq_last: Seq) -> Seq:
    """Where to read on from: changes of the chain above it are all there are after `cursor`.

    Raises CursorExpired (ahead or expired) when they can't be replayed.
    """
    if cursor > seq_last:
        raise CursorExpired(cursor, "ahead")
    floor = change_floor(reader)
    if cursor >= floor:
        return cursor
    if _newest_trimmed(reader, at, floor) > cursor:
        raise CursorExpired(cursor, "expired")
    return floor


def _newest_trimmed(reader: KeyReader, at: PartitionKeys, floor: Seq) -> Seq:
    """The last change of the chain at or below the floor, 0 for none."""
    last = last_change(reader, at)
    if last <= floor:
        return last
    for _, raw in _records(reader, at, after=floor, upto=last):
        return codec.decode_change(raw)[1]
    raise Corruption(f"chain {at.row.hex()}", 0, f"its last change, seq {last}, is missing")


def read_changes(
    reader: KeyReader, at: PartitionKeys, group: GroupId, *, after: Seq, upto: Seq
) -> Iterator[Change]:
    """Changes of one chain in (after, upto], in seq order. The cursor has been checked."""
    for seq, raw in _records(reader, at, after=after, upto=upto):
        yield _change(reader, at, group, seq=seq, raw=raw)


def _records(
    reader: KeyReader, at: PartitionKeys, *, after: Seq, upto: Seq
) -> Iterator[tuple[Seq, bytes]]:
    for hour in range(seq_hour(Seq(after + 1)), seq_hour(upto) + 1):
        prefix = keys.change_prefix(hour, at.table, at.partition)
        start = prefix + _U64.pack(after + 1)
        stop = prefix + _U64.pack(upto + 1)
        for key, raw in reader.scan(start, stop):
            yield Seq(_U64.unpack_from(key, len(key) - 8)[0]), raw


def _change(
    reader: KeyReader, at: PartitionKeys, group: GroupId, *, seq: Seq, raw: bytes
) -> Change:
    op, prev_seq, before_seq, last_of_txn, pk = codec.decode_change(raw)
    before = _version(reader, at, pk, before_seq) if before_seq else None
    after = None if op in (Op.DELETE, Op.EXPIRE) else _version(reader, at, pk, seq)
    return Change(
        group,
        at.table,
        at.partition,
        seq,
        prev_seq,
        op,
        pk,
        before,
        before_seq,
        after,
        last_of_txn,
    )


def _version(reader: KeyReader, at: PartitionKeys, pk: bytes, seq: Seq) -> Row:
    """The version of a row that was written at `seq`."""
    raw = reader.get(at.row + pk)
    if raw is None or codec.row_seq(raw) != seq:
        kept = reader.get(at.history_key(pk, seq))
        if kept is None:
            detail = f"the version of seq {seq} is missing, a change names it"
            raise Corruption(f"row {(at.row + pk).hex()}", 0, detail)
        raw = codec.decode_history(kept)[1]
    row = codec.decode_row(raw)[1]
    if row is None:
        raise Corruption(f"row {(at.row + pk).hex()}", 0, f"seq {seq} is a tombstone")
    return row
