"""Key bytes: order is value order, nothing is another's prefix, what goes in comes out."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kalamdb.decide.draft import Draft
from kalamdb.model import keys
from kalamdb.model.ids import (
    HOUR_MS,
    SEQ_EPOCH_MS,
    GroupId,
    Partition,
    Seq,
    TableId,
    TenantId,
    seq_hour,
    seq_ms,
    seq_next,
    shared_partition,
    slot_of,
    tenant_partition,
)
from kalamdb.model.types import ColumnType, Kind
from kalamdb.store.kv import prefix_end
from kalamdb.store.rows import PartitionKeys

I64 = st.integers(-(1 << 63), (1 << 63) - 1)
DECIMAL = ColumnType(Kind.DECIMAL, 38, 2)


def decimal_text(unscaled: int) -> str:
    sign, size = ("-" if unscaled < 0 else ""), abs(unscaled)
    return f"{sign}{size // 100}.{size % 100:02d}"


COLUMNS: list[tuple[ColumnType, st.SearchStrategy[Any]]] = [
    (ColumnType(Kind.BIGINT), I64),
    (ColumnType(Kind.TEXT), st.text(max_size=6)),
    (ColumnType(Kind.BYTES), st.binary(max_size=6)),
    (ColumnType(Kind.DOUBLE), st.floats(allow_nan=False, allow_infinity=False)),
    (ColumnType(Kind.BOOLEAN), st.booleans()),
    (ColumnType(Kind.UUID), st.binary(min_size=16, max_size=16)),
    (DECIMAL, st.integers(-(10**36), 10**36).map(decimal_text)),
]
COLUMN = st.sampled_from(range(len(COLUMNS)))


def comparable(column: ColumnType, value: Any) -> Any:
    if value is None:
        return (1, 0)  # NULLs last
    if column.kind is Kind.DECIMAL:
        return (0, Decimal(value))
    return (0, value.encode() if isinstance(value, str) else value)


@given(st.data(), st.lists(COLUMN, min_size=1, max_size=3))
def test_order_and_round_trip_of_composite_keys(data: st.DataObject, numbers: list[int]) -> None:
    columns = [COLUMNS[number][0] for number in numbers]
    values = [st.none() | COLUMNS[number][1] for number in numbers]
    left, right = (data.draw(st.tuples(*values)) for _ in range(2))
    low, high = keys.encode_key(columns, left), keys.encode_key(columns, right)
    in_order = [comparable(c, v) for c, v in zip(columns, left, strict=True)] < [
        comparable(c, v) for c, v in zip(columns, right, strict=True)
    ]
    same = [comparable(c, v) for c, v in zip(columns, left, strict=True)] == [
        comparable(c, v) for c, v in zip(columns, right, strict=True)
    ]
    assert (low < high) == in_order
    assert (low == high) == same
    if not same:
        assert not high.startswith(low)
        assert not low.startswith(high)
    assert keys.decode_key(columns, low) == list(left)


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_terminated_is_ordered_and_prefix_free(left: bytes, right: bytes) -> None:
    low, high = keys.terminated(left), keys.terminated(right)
    assert (low < high) == (left < right)
    assert keys.split_terminated(b"x" + low + b"rest", 1) == (left, 1 + len(low))
    if left != right:
        assert not high.startswith(low)


TENANTS = st.text(min_size=1, max_size=6).map(lambda name: tenant_partition(TenantId(name)))
PARTITIONS = TENANTS | st.integers(0, 99).map(lambda table: shared_partition(TableId(table)))


@given(
    st.integers(0, (1 << 32) - 1).map(TableId),
    PARTITIONS,
    st.binary(max_size=8),
    st.integers(0, (1 << 63) - 1).map(Seq),
)
def test_partition_keys_are_the_keys(
    table: TableId, partition: Partition, pk: bytes, seq: Seq
) -> None:
    at = PartitionKeys(table, partition)
    assert at.row + pk == keys.row(table, partition, pk)
    assert at.seq_key(seq) == keys.seq(table, partition, seq)
    assert at.history_key(pk, seq) == keys.history(table, partition, pk, seq)
    assert at.change_key(seq) == keys.change(seq_hour(seq), table, partition, seq)
    assert at.expiry_key(seq) == keys.expiry(seq_hour(seq), table, partition, seq)
    assert at.last == keys.last(table, partition)
    assert keys.chain_of_change(at.change_key(seq)) == at.chain == keys.chain(table, partition)
    assert keys.table_of(at.row) == table


@given(PARTITIONS, PARTITIONS, st.binary(max_size=8))
def test_a_scan_of_one_partition_sees_no_other(one: Partition, two: Partition, pk: bytes) -> None:
    table = TableId(7)
    start = keys.row_prefix(table, one)
    inside = start <= keys.row(table, two, pk) < prefix_end(start)
    assert inside == (one == two)
    assert 0 <= slot_of(one) < 4096


def test_a_user_named_like_a_shared_table_is_only_a_user() -> None:
    assert tenant_partition(TenantId("7")) != shared_partition(TableId(7))
    assert tenant_partition(TenantId("shared:7")) != shared_partition(TableId(7))


@given(
    st.integers(0, (1 << 62)).map(Seq),
    st.integers(0, SEQ_EPOCH_MS * 2),
    st.integers(0, 511).map(GroupId),
)
def test_seqs_rise_and_keep_their_group(last: Seq, wall_ms: int, group: GroupId) -> None:
    found = seq_next(last, wall_ms, group)
    assert found > last
    assert found % 1024 == group
    assert seq_ms(found) >= min(wall_ms, seq_ms(found))
    assert seq_hour(found) == (seq_ms(found) - SEQ_EPOCH_MS) // HOUR_MS


@given(
    st.integers(0, (1 << 62)).map(Seq),
    st.integers(0, SEQ_EPOCH_MS * 2),
    st.integers(0, 511).map(GroupId),
)
def test_a_draft_draws_what_seq_next_says(last: Seq, wall_ms: int, group: GroupId) -> None:
    draft = Draft({}, lambda _: None, group, last, wall_ms)
    first = draft.draw()
    assert first == seq_next(last, wall_ms, group)
    assert draft.draw() == seq_next(first, wall_ms, group)


@given(st.binary(min_size=1, max_size=5).filter(lambda raw: raw.strip(b"\xff")), st.binary())
def test_prefix_end(prefix: bytes, rest: bytes) -> None:
    assert prefix <= prefix + rest < prefix_end(prefix)
