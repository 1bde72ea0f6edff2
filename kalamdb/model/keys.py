"""Order-preserving key bytes.

A LevelDB key is `group (2) | incarnation (4) | family (1) | rest`; the log carries `family | rest`
only, because the incarnation belongs to one member's copy. Variable parts are escaped and
terminated ('a' never prefix-scans 'ab'): 0x00 becomes 00 FF and the end is 00 01, so byte order is
value order. Every value in a key starts with a tag, so that a NULL or a change of type can never
collide with another value.

These bytes are for ever (tests/compat); a new form gets a new tag or family.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from kalamdb.model.ids import GroupId, Partition, Seq, Slot, TableId
from kalamdb.model.types import ColumnType, Kind


class Family(IntEnum):
    """First byte of a key's rest. Logical families make up the digest of a group."""

    META = 0x01  # applied index, term, seq_last
    SLOT = 0x02
    FENCE = 0x03
    FLOOR = 0x04
    SEGMENT = 0x05
    CHANGE_FLOOR = 0x06
    CATALOG = 0x08  # group 0 only: namespaces, tables, users, placement
    ROW = 0x10
    SEQ = 0x11
    HISTORY = 0x12
    INDEX = 0x13
    UNIQUE = 0x14
    CHANGE = 0x15
    LAST = 0x16
    DEAD = 0x17
    REQUEST = 0x18
    REQUEST_HOUR = 0x19
    STAGED = 0x1A
    TOPIC = 0x1B
    EXPIRY = 0x1C  # STREAM rows by the hour of their seq
    AUDIT = 0x1D  # group 0 only: who did what, by number; the bare family holds the newest number


PREFIX = struct.Struct(">HI")
U16 = struct.Struct(">H")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
_TABLE = struct.Struct(">BI")
_INDEX = struct.Struct(">BIH")
_HOUR_TABLE = struct.Struct(">BII")
_HOUR = struct.Struct(">BI")
_SLOT = struct.Struct(">BH")
_I64_BIAS = 1 << 63

TAG_BOOL = b"\x10"
TAG_INT = b"\x20"
TAG_FLOAT = b"\x28"
TAG_DECIMAL = b"\x30"
TAG_TEXT = b"\x40"
TAG_BYTES = b"\x48"
TAG_UUID = b"\x50"
TAG_NULL = b"\xf0"  # NULLs sort last, as in PostgreSQL
_END = b"\x00\x01"


def group_prefix(group: GroupId, incarnation: int) -> bytes:
    return PREFIX.pack(group, incarnation)


def terminated(raw: bytes) -> bytes:
    return raw.replace(b"\x00", b"\x00\xff") + _END


def split_terminated(raw: bytes, start: int) -> tuple[bytes, int]:
    """The unescaped bytes that begin at `start`, and the offset after their end mark."""
    end = raw.index(_END, start)
    # An escaped 00 is always followed by FF, so the first 00 01 is the end.
    return raw[start:end].replace(b"\x00\xff", b"\x00"), end + 2


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above everything that begins with `prefix` (which holds a byte below FF)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])


def row_prefix(table: TableId, partition: Partition) -> bytes:
    return _TABLE.pack(Family.ROW, table) + terminated(partition)


def table_rows(table: TableId) -> bytes:
    """What the ROW keys of all partitions of a table begin with."""
    return _TABLE.pack(Family.ROW, table)


def row(table: TableId, partition: Partition, pk: bytes) -> bytes:
    return _TABLE.pack(Family.ROW, table) + terminated(partition) + pk


def seq_prefix(table: TableId, partition: Partition) -> bytes:
    return _TABLE.pack(Family.SEQ, table) + terminated(partition)


def seq(table: TableId, partition: Partition, seq: Seq) -> bytes:
    return _TABLE.pack(Family.SEQ, table) + terminated(partition) + U64.pack(seq)


def history(table: TableId, partition: Partition, pk: bytes, seq: Seq) -> bytes:
    return _TABLE.pack(Family.HISTORY, table) + terminated(partition) + pk + U64.pack(seq)


def unique(table: TableId, index: int, partition: Partition, values: bytes) -> bytes:
    return _INDEX.pack(Family.UNIQUE, table, index) + terminated(partition) + values


def entries(family: Family, table: TableId, index: int, partition: Partition) -> bytes:
    """What the INDEX or UNIQUE entries of one index in a partition begin with."""
    return _INDEX.pack(family, table, index) + terminated(partition)


def index(table: TableId, index: int, partition: Partition, values: bytes, pk: bytes) -> bytes:
    return entries(Family.INDEX, table, index, partition) + values + pk


def index_entries(family: Family, table: TableId, index: int) -> bytes:
    """What the entries of one index begin with, in all partitions."""
    return _INDEX.pack(family, table, index)


def index_of(key: bytes) -> int:
    """The index number of an INDEX or UNIQUE key (family first)."""
    return U16.unpack_from(key, 5)[0]


def change_prefix(hour: int, table: TableId, partition: Partition) -> bytes:
    return _HOUR_TABLE.pack(Family.CHANGE, hour, table) + terminated(partition)


def change(hour: int, table: TableId, partition: Partition, seq: Seq) -> bytes:
    return _HOUR_TABLE.pack(Family.CHANGE, hour, table) + terminated(partition) + U64.pack(seq)


def chain(table: TableId, partition: Partition) -> bytes:
    """Names a (table, partition) chain of changes: what stands between hour and seq in its CHANGE
    keys.
    """
    return U32.pack(table) + terminated(partition)


def chain_of_change(key: bytes) -> bytes:
    """The chain of a CHANGE key (family first)."""
    return key[5:-8]


def change_hour_prefix(hour: int) -> bytes:
    return _HOUR.pack(Family.CHANGE, hour)


def last(table: TableId, partition: Partition) -> bytes:
    return _TABLE.pack(Family.LAST, table) + terminated(partition)


def expiry(hour: int, table: TableId, partition: Partition, seq: Seq) -> bytes:
    return _HOUR_TABLE.pack(Family.EXPIRY, hour, table) + terminated(partition) + U64.pack(seq)


def request(slot: Slot, tenant: str, actor: str, request_id: str, number: int) -> bytes:
    return (
        _SLOT.pack(Family.REQUEST, slot)
        + terminated(tenant.encode())
        + terminated(actor.encode())
        + terminated(request_id.encode())
        + U16.pack(number)
    )


def request_hour(hour: int, request_key: bytes) -> bytes:
    """`request_key` without its family byte, under the hour of its command time."""
    return _HOUR.pack(Family.REQUEST_HOUR, hour) + request_key[1:]


def slot(number: Slot) -> bytes:
    return _SLOT.pack(Family.SLOT, number)


def component(group: GroupId) -> bytes:
    """A bound of the seqs of changes that this group decided and another was given."""
    return CHANGE_FLOOR + U16.pack(group)


def fence(table: TableId) -> bytes:
    return _TABLE.pack(Family.FENCE, table)


CHANGE_FLOOR = bytes([Family.CHANGE_FLOOR])
META = bytes([Family.META])
AUDIT_NEWEST = bytes([Family.AUDIT])


def catalog(kind: int, name: bytes = b"") -> bytes:
    """A catalog record: `kind` is codec.RecordKind, `name` its own terminated key."""
    return bytes([Family.CATALOG, kind]) + name


def audit(number: int) -> bytes:
    return AUDIT_NEWEST + U64.pack(number)


def table_of(key: bytes) -> TableId:
    """The table of a ROW, SEQ, HISTORY, LAST or FENCE key (family first)."""
    return TableId(U32.unpack_from(key, 1)[0])


# ---- values in keys ------------------------------------------------------------------------------


def key_encoder(column: ColumnType) -> Callable[[Any], bytes]:
    """A function from a stored value (or None) to its tagged key bytes."""
    encode = value_encoder(column)

    def encoder(value: Any) -> bytes:
        return TAG_NULL if value is None else encode(value)

    return encoder


def value_encoder(column: ColumnType) -> Callable[[Any], bytes]:
    """`key_encoder` for values that are never NULL."""
    return _ENCODERS[column.kind] if column.kind is not Kind.DECIMAL else _decimal(column.scale)


def encode_key(types: Sequence[ColumnType], values: Sequence[Any]) -> bytes:
    return b"".join(key_encoder(t)(v) for t, v in zip(types, values, strict=True))


def decode_key(types: Sequence[ColumnType], raw: bytes) -> list[Any]:
    """Stored values of a primary key; the inverse of `encode_key`."""
    out: list[Any] = []
    at = 0
    for column in types:
        tag = raw[at : at + 1]
        at += 1
        if tag == TAG_NULL:
            out.append(None)
            continue
        value, at = _DECODERS[tag](raw, at, column)
        out.append(value)
    if at != len(raw):
        raise ValueError("trailing bytes after a key")
    return out


def skip_values(raw: bytes, at: int, count: int) -> int:
    """The offset after `count` values that begin at `at`."""
    for _ in range(count):
        size = _SIZES.get(raw[at])
        at = raw.index(_END, at + 1) + 2 if size is None else at + size
    return at


def _int(value: int) -> bytes:
    return TAG_INT + U64.pack(value + _I64_BIAS)


def _bool(value: bool) -> bytes:
    return TAG_BOOL + (b"\x01" if value else b"\x00")


def _float(value: float) -> bytes:
    bits = U64.unpack(struct.pack(">d", value + 0.0))[0]  # -0.0 + 0.0 is 0.0: one key for both
    return TAG_FLOAT + U64.pack(bits ^ ((1 << 64) - 1) if bits >> 63 else bits | _I64_BIAS)


def _text(value: str) -> bytes:
    return TAG_TEXT + terminated(value.encode())


def _bytes(value: bytes) -> bytes:
    return TAG_BYTES + terminated(value)


def _uuid(value: bytes) -> bytes:
    return TAG_UUID + value


_DECIMAL_SIZE = 17
_DECIMAL_BIAS = 1 << (8 * _DECIMAL_SIZE - 1)


def _decimal(scale: int) -> Callable[[str], bytes]:

    def encode(value: str) -> bytes:
        unscaled = int(value.replace(".", ""))  # a stored decimal has exactly `scale` decimals
        return TAG_DECIMAL + (unscaled + _DECIMAL_BIAS).to_bytes(_DECIMAL_SIZE, "big")

    return encode


# Bytes of a value with its tag; TEXT and BYTES go on to their end mark.
_SIZES: dict[int, int] = {
    TAG_NULL[0]: 1,
    TAG_BOOL[0]: 2,
    TAG_INT[0]: 9,
    TAG_FLOAT[0]: 9,
    TAG_DECIMAL[0]: 1 + _DECIMAL_SIZE,
    TAG_UUID[0]: 17,
}

_ENCODERS: dict[Kind, Callable[[Any], bytes]] = {
    Kind.BOOLEAN: _bool,
    Kind.SMALLINT: _int,
    Kind.INT: _int,
    Kind.BIGINT: _int,
    Kind.FLOAT: _float,
    Kind.DOUBLE: _float,
    Kind.TEXT: _text,
    Kind.BYTES: _bytes,
    Kind.TIMESTAMP: _int,
    Kind.DATETIME: _int,
    Kind.DATE: _int,
    Kind.TIME: _int,
    Kind.UUID: _uuid,
}


def _decode_int(raw: bytes, at: int, column: ColumnType) -> tuple[int, int]:
    return U64.unpack_from(raw, at)[0] - _I64_BIAS, at + 8


def _decode_bool(raw: bytes, at: int, column: ColumnType) -> tuple[bool, int]:
    return raw[at] == 1, at + 1


def _decode_float(raw: bytes, at: int, column: ColumnType) -> tuple[float, int]:
    bits = U64.unpack_from(raw, at)[0]
    bits = bits & ~_I64_BIAS if bits >> 63 else bits ^ ((1 << 64) - 1)
    return struct.unpack(">d", U64.pack(bits))[0], at + 8


def _decode_text(raw: bytes, at: int, column: ColumnType) -> tuple[str, int]:
    value, at = split_terminated(raw, at)
    return value.decode(), at


def _decode_bytes(raw: bytes, at: int, column: ColumnType) -> tuple[bytes, int]:
    return split_terminated(raw, at)


def _decode_uuid(raw: bytes, at: int, column: ColumnType) -> tuple[bytes, int]:
    return raw[at : at + 16], at + 16


def _decode_decimal(raw: bytes, at: int, column: ColumnType) -> tuple[str, int]:
    unscaled = int.from_bytes(raw[at : at + _DECIMAL_SIZE], "big") - _DECIMAL_BIAS
    digits = f"{abs(unscaled):0{column.scale + 1}d}"
    if column.scale:
        digits = f"{digits[: -column.scale]}.{digits[-column.scale :]}"
    return ("-" if unscaled < 0 else "") + digits, at + _DECIMAL_SIZE


_DECODERS: dict[bytes, Callable[[bytes, int, ColumnType], tuple[Any, int]]] = {
    TAG_INT: _decode_int,
    TAG_BOOL: _decode_bool,
    TAG_FLOAT: _decode_float,
    TAG_TEXT: _decode_text,
    TAG_BYTES: _decode_bytes,
    TAG_UUID: _decode_uuid,
    TAG_DECIMAL: _decode_decimal,
}
