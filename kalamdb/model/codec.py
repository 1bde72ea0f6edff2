"""Versioned bytes of rows, changes, entries, outcomes and cursors. No pickle, ever.

Each durable byte string begins with its format version; old ones stay readable (tests/compat). Row
layout:

    version (1) | flags (1: 1 = tombstone) | seq (8, big-endian) | msgpack map column id → stored
    value

so that a point read compares the seq without unpacking the row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kalamdb.model.change import Op, Row
from kalamdb.model.command import Command, Effect, Entry, Outcome
from kalamdb.model.ids import Seq
from kalamdb.model.table import TableDef

ROW_VERSION = 1
ENTRY_VERSION = 1
CHANGE_VERSION = 1
TOMBSTONE = 1

_ROW_HEAD = struct.Struct(">BBQ")
_HISTORY_HEAD = struct.Struct(">BQ")
_CHANGE_HEAD = struct.Struct(">BBBQQ")
_U64 = struct.Struct(">Q")
_LAST_OF_TXN = 1

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode
_unpack_row = msgspec.msgpack.Decoder(dict[int, Any]).decode
_unpack_rows = msgspec.msgpack.Decoder(list[dict[int, Any]]).decode
_ARRAY32 = struct.Struct(">BI")


class UnknownVersion(ValueError):
    """Bytes of a newer (or no) format."""


def _check(version: int, known: int, what: str) -> None:
    if version != known:
        raise UnknownVersion(f"{what} format {version} is not known; this release reads {known}")


# ---- rows ----------------------------------------------------------------------------------------


def encode_row(seq: Seq, row: Row) -> bytes:
    return _ROW_HEAD.pack(ROW_VERSION, 0, seq) + pack(row)


def encode_tombstone(seq: Seq) -> bytes:
    return _ROW_HEAD.pack(ROW_VERSION, TOMBSTONE, seq)


def decode_row(raw: bytes) -> tuple[Seq, Row | None]:
    """The seq and the row; None for a tombstone."""
    version, flags, seq = _ROW_HEAD.unpack_from(raw)
    _check(version, ROW_VERSION, "row")
    return Seq(seq), None if flags & TOMBSTONE else _unpack_row(memoryview(raw)[10:])


def row_reader(table: TableDef) -> Callable[[bytes], tuple[Seq, Row | None]]:
    """`decode_row` for rows of `table`, complete in columns that are younger than they are."""
    if not table.initials:
        return decode_row

    def read(raw: bytes) -> tuple[Seq, Row | None]:
        seq, row = decode_row(raw)
        return seq, None if row is None else table.complete(row)

    return read


def decode_rows(bodies: memoryview, lengths: Sequence[int]) -> tuple[list[int], list[Row]]:
    """Seqs and rows of many stored rows, none a tombstone, that lie one after another in `bodies`.

    One unpacking for all: several times cheaper than `decode_row` for each.
    """
    seqs: list[int] = []
    parts: list[bytes | memoryview] = [_ARRAY32.pack(0xDD, len(lengths))]
    at = 0
    for length in lengths:
        version, flags, seq = _ROW_HEAD.unpack_from(bodies, at)
        if version != ROW_VERSION or flags:
            _check(version, ROW_VERSION, "row")
            raise ValueError("a tombstone among rows")
        seqs.append(seq)
        parts.append(bodies[at + 10 : at + length])
        at += length
    return seqs, _unpack_rows(b"".join(parts))


def row_seq(raw: bytes) -> Seq:
    return _U64.unpack_from(raw, 2)[0]


def row_seq_bytes(raw: bytes) -> bytes:
    """A row's seq as keys have it."""
    return raw[2:10]


def is_tombstone(raw: bytes) -> bool:
    return bool(raw[1] & TOMBSTONE)


def encode_history(seq_new: Seq, superseded: bytes) -> bytes:
    """A superseded version (its row bytes) with its successor's seq."""
    return _HISTORY_HEAD.pack(ROW_VERSION, seq_new) + superseded


def decode_history(raw: bytes) -> tuple[Seq, bytes]:
    """The successor's seq and the superseded version's row bytes."""
    version, seq_new = _HISTORY_HEAD.unpack_from(raw)
    _check(version, ROW_VERSION, "history")
    return Seq(seq_new), raw[9:]


def encode_seq(seq: Seq) -> bytes:
    return _U64.pack(seq)


def decode_seq(raw: bytes) -> Seq:
    return Seq(_U64.unpack(raw)[0])


# ---- changes -------------------------------------------------------------------------------------


def encode_change(op: Op, prev_seq: Seq, before_seq: Seq, last_of_txn: bool, pk: bytes) -> bytes:
    return _CHANGE_HEAD.pack(CHANGE_VERSION, op, last_of_txn, prev_seq, before_seq) + pk


def decode_change(raw: bytes) -> tuple[Op, Seq, Seq, bool, bytes]:
    """op, prev_seq, before_seq (0: none), last_of_txn, primary key bytes."""
    version, op, flags, prev_seq, before_seq = _CHANGE_HEAD.unpack_from(raw)
    _check(version, CHANGE_VERSION, "change")
    return (
        Op(op),
        Seq(prev_seq),
        Seq(before_seq),
        bool(flags & _LAST_OF_TXN),
        raw[_CHANGE_HEAD.size :],
    )


# ---- entries -------------------------------------------------------------------------------------


def encode_command(command: Command) -> bytes:
    """One command's share of an entry; an entry is the head and these, so nothing is encoded
    twice.
    """
    return encode_command_parts(command.effects, command.request_key, command.hash, command.outcome)


def encode_command_parts(
    effects: Sequence[Effect], request_key: bytes | None, digest: bytes, outcome: bytes
) -> bytes:
    """`encode_command` of a command that is not a Command yet."""
    return pack([request_key, digest, outcome, [part for effect in effects for part in effect]])


def encode_entry(
    term: int, prev_seq: Seq, seq_last: Seq, time_ms: int, commands: list[bytes]
) -> bytes:
    """`commands` are encoded already; the entry is version | msgpack [term, prev, last, ms, [raw,
    …]].
    """
    return bytes([ENTRY_VERSION]) + pack([term, prev_seq, seq_last, time_ms, commands])


def decode_entry(raw: bytes) -> Entry:
    _check(raw[0], ENTRY_VERSION, "entry")
    term, prev_seq, seq_last, time_ms, commands = unpack(memoryview(raw)[1:])
    return Entry(term, prev_seq, seq_last, time_ms, tuple(map(decode_command, commands)))


def decode_command(raw: bytes) -> Command:
    request_key, digest, outcome, flat = unpack(raw)
    pairs = iter(flat)
    return Command(tuple(zip(pairs, pairs, strict=True)), request_key, digest, outcome)


def encode_outcome(outcome: Outcome) -> bytes:
    return pack(
        [
            1,
            outcome.affected,
            outcome.seq,
            outcome.columns,
            outcome.rows,
            outcome.inserted,
            outcome.updated,
            outcome.deleted,
        ]
    )


def decode_outcome(raw: bytes) -> Outcome:
    version, affected, seq, columns, rows, inserted, updated, deleted = unpack(raw)
    _check(version, 1, "outcome")
    return Outcome(
        affected,
        Seq(seq),
        None if columns is None else tuple(columns),
        None if rows is None else tuple(tuple(row) for row in rows),
        inserted,
        updated,
        deleted,
    )


# ---- group mark ----------------------------------------------------------------------------------

_MARK = struct.Struct(">BQQQ")


def encode_mark(index: int, term: int, seq_last: Seq) -> bytes:
    return _MARK.pack(1, index, term, seq_last)


def decode_mark(raw: bytes) -> tuple[int, int, Seq]:
    version, index, term, seq_last = _MARK.unpack(raw)
    _check(version, 1, "mark")
    return index, term, Seq(seq_last)
