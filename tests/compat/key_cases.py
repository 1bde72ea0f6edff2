"""Keys of every family, and values of every type inside keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kalamdb.model import keys
from kalamdb.model.ids import (
    GroupId,
    NodeId,
    Partition,
    Seq,
    Slot,
    TableId,
    TenantId,
    shared_partition,
    slot_of,
    tenant_partition,
)
from kalamdb.model.types import ColumnType, Kind
from kalamdb.store import catalog as records
from kalamdb.store.rows import PartitionKeys
from tests.compat.case import Case, nothing, same

TABLE = TableId(0x01020304)
ANN = tenant_partition(TenantId("ann\x00é"))
SHARED = shared_partition(TABLE)
SEQ = Seq(0x0102030405060708)
HOUR = 0x0A0B0C0D
PK = keys.encode_key([ColumnType(Kind.INT)], [7])


def family_cases() -> list[Case]:
    return [
        Case("group prefix", keys.group_prefix(GroupId(5), 9), None, nothing),
        Case("meta", keys.META, None, nothing),
        Case("change floor", keys.CHANGE_FLOOR, None, nothing),
        Case("component", keys.component(GroupId(3)), None, nothing),
        Case("slot", keys.slot(Slot(4095)), b"\x0f\xff", lambda raw: raw[1:]),
        Case("fence", keys.fence(TABLE), TABLE, keys.table_of),
        Case("row of a tenant", keys.row(TABLE, ANN, PK), (ANN, PK), split_row),
        Case("row of a shared table", keys.row(TABLE, SHARED, PK), (SHARED, PK), split_row),
        Case("row prefix", keys.row_prefix(TABLE, ANN), (ANN, b""), split_row),
        Case("seq", keys.seq(TABLE, ANN, SEQ), (ANN, keys.U64.pack(SEQ)), split_row),
        Case("history", keys.history(TABLE, ANN, PK, SEQ), TABLE, keys.table_of),
        Case("unique", keys.unique(TABLE, 3, ANN, PK), PK, lambda raw: raw[-len(PK) :]),
        Case("index", keys.index(TABLE, 3, ANN, VALUES_KEY, PK), PK, index_pk),
        Case("index entries", keys.index_entries(keys.Family.INDEX, TABLE, 3), 3, keys.index_of),
        Case(
            "change",
            keys.change(HOUR, TABLE, ANN, SEQ),
            keys.chain(TABLE, ANN),
            keys.chain_of_change,
        ),
        Case("change hour prefix", keys.change_hour_prefix(HOUR), None, nothing),
        Case("chain", keys.chain(TABLE, SHARED), None, nothing),
        Case("last", keys.last(TABLE, ANN), TABLE, keys.table_of),
        Case("expiry", keys.expiry(HOUR, TABLE, ANN, SEQ), None, nothing),
        Case("request", request_key(), None, nothing),
        Case("request hour", keys.request_hour(HOUR, request_key()), None, nothing),
        Case("catalog version", records.VERSION_KEY, None, nothing),
        Case("catalog placement", records.PLACEMENT_KEY, None, nothing),
        Case("catalog table id", records.TABLE_ID_KEY, None, nothing),
        Case("catalog namespace", records.namespace_key("chat"), None, nothing),
        Case("catalog table", records.table_key(TABLE), None, nothing),
        Case("catalog user", records.user_key("ann\x00é"), None, nothing),
        Case("catalog node", records.node_key(NodeId(3)), None, nothing),
        Case("catalog members", records.members_key(GroupId(5)), None, nothing),
        Case("catalog replication", records.REPLICATION_KEY, None, nothing),
        Case("catalog move", records.move_key(Slot(9)), None, nothing),
        Case("catalog move epoch", records.MOVE_EPOCH_KEY, None, nothing),
        Case("audit", keys.audit(7), None, nothing),
        Case("audit newest", keys.AUDIT_NEWEST, None, nothing),
        Case("partition keys row", PartitionKeys(TABLE, ANN).row, (ANN, b""), split_row),
        Case("partition keys change", PartitionKeys(TABLE, ANN).change_key(SEQ), None, nothing),
        Case("partition keys expiry", PartitionKeys(TABLE, ANN).expiry_key(SEQ), None, nothing),
        Case("tenant partition", ANN, ANN, same),
        Case("shared partition", SHARED, SHARED, same),
        Case("slots of names", slots(), slots(), same),
    ]


VALUES_KEY = keys.encode_key([ColumnType(Kind.TEXT), ColumnType(Kind.INT)], ["a\x00b", None])


def index_pk(raw: bytes) -> bytes:
    """What follows the partition and two values."""
    at = keys.split_terminated(raw, 7)[1]
    return raw[keys.skip_values(raw, at, 2) :]


def split_row(raw: bytes) -> tuple[Partition, bytes]:
    """Partition, and what follows it, of a ROW or SEQ key."""
    assert keys.table_of(raw) == TABLE
    partition, at = keys.split_terminated(raw, 5)
    return Partition(partition), raw[at:]


def request_key() -> bytes:
    return keys.request(Slot(17), "ann", "bob", "id-1\x00", 2)


def slots() -> bytes:
    """Where tenants and shared tables stand is as durable as their keys."""
    names = [tenant_partition(TenantId(name)) for name in ("ann", "bob", "shared:7", "é")]
    names += [shared_partition(TableId(number)) for number in (1, 7, 1 << 31)]
    return b"".join(keys.U16.pack(slot_of(name)) for name in names)


DECIMAL = ColumnType(Kind.DECIMAL, 38, 4)
WHOLE = ColumnType(Kind.DECIMAL, 10, 0)
I64_MIN, I64_MAX = -(1 << 63), (1 << 63) - 1

VALUES: list[tuple[ColumnType, Sequence[Any]]] = [
    (ColumnType(Kind.BOOLEAN), (False, True, None)),
    (ColumnType(Kind.SMALLINT), (-32768, -1, 0, 32767, None)),
    (ColumnType(Kind.INT), (-(1 << 31), -1, 0, 7, (1 << 31) - 1, None)),
    (ColumnType(Kind.BIGINT), (I64_MIN, -1, 0, I64_MAX, None)),
    (ColumnType(Kind.FLOAT), (-3.5, 0.0, 0.25, None)),
    (ColumnType(Kind.DOUBLE), (-1.7e308, -5e-324, 0.0, 5e-324, 0.1, 1.7e308, None)),
    (DECIMAL, ("-" + "9" * 34 + ".9999", "-0.0001", "0.0000", "12.3400", None)),
    (WHOLE, ("-9999999999", "0", "42", None)),
    (ColumnType(Kind.TEXT), ("", "\x00", "\x00\x01", "a", "a\x00b", "ab", "é", "𝄞", None)),
    (ColumnType(Kind.BYTES), (b"", b"\x00", b"\x00\xff", b"\x01", b"\xff", None)),
    (ColumnType(Kind.TIMESTAMP), (-1, 0, 1_700_000_000_123_456, None)),
    (ColumnType(Kind.DATETIME), (-1, 0, 1_700_000_000_123_456, None)),
    (ColumnType(Kind.DATE), (-719162, 0, 19_700, None)),
    (ColumnType(Kind.TIME), (0, 86_399_999_999, None)),
    (ColumnType(Kind.UUID), (bytes(16), bytes(range(16)), b"\xff" * 16, None)),
]


def value_cases() -> list[Case]:
    cases = [value_case(column, value) for column, values in VALUES for value in values]
    columns = [ColumnType(Kind.TEXT), ColumnType(Kind.INT), DECIMAL]
    values = ["a\x00", None, "1.5000"]
    cases.append(
        Case(
            "composite",
            keys.encode_key(columns, values),
            values,
            lambda raw: keys.decode_key(columns, raw),
        )
    )
    return cases


def value_case(column: ColumnType, value: Any) -> Case:
    return Case(
        f"{column.sql} {value!r}",
        keys.encode_key([column], [value]),
        [value],
        lambda raw: keys.decode_key([column], raw),
    )
