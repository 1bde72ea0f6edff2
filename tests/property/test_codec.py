"""Bytes that stay for ever: what is encoded comes back, and nothing else decodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.model import codec
from kalamdb.model.catalog import Namespace, Placement, User
from kalamdb.model.change import Op
from kalamdb.model.command import Command, Outcome
from kalamdb.model.ids import GroupId, Seq, Slot, TableId
from kalamdb.model.principal import Role
from kalamdb.model.table import (
    AccessLevel,
    Check,
    Column,
    Default,
    DefaultKind,
    FlushPolicy,
    TableDef,
    TableKind,
    TableOptions,
    Unique,
)
from kalamdb.model.types import ColumnType, Kind
from kalamdb.store import catalog_codec, staged
from kalamdb.store.catalog_codec import Fence, FenceState, TableState
from kalamdb.store.slot_codec import SlotRecord, SlotState, decode_slot, encode_slot

SEQS = st.integers(0, (1 << 63) - 1).map(Seq)
KEYS = st.binary(min_size=1, max_size=30)
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
ROWS = st.dictionaries(st.integers(0, 40), VALUES, max_size=8)
EFFECTS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=20)), max_size=5).map(tuple)
COMMANDS = st.builds(
    Command, EFFECTS, st.none() | KEYS, st.binary(max_size=16), st.binary(max_size=40)
)
NAMES = st.text("abcxyz_019", min_size=1, max_size=12)
TYPES = st.builds(
    ColumnType,
    st.sampled_from(Kind),
    st.integers(0, 38),
    st.integers(0, 38),
    st.integers(0, 8192),
)
DEFAULTS = st.none() | st.builds(Default, st.sampled_from(DefaultKind), st.none() | VALUES)
COLUMNS = st.builds(Column, st.integers(0, 999), NAMES, TYPES, st.booleans(), DEFAULTS)
OPTIONS = st.builds(
    TableOptions,
    st.sampled_from(AccessLevel),
    st.none() | st.integers(1, 10**6),
    NAMES,
    st.booleans(),
    st.none() | st.builds(FlushPolicy, st.none() | st.integers(1, 99), st.none()),
    NAMES,
    st.none() | st.integers(1, 999),
    st.booleans(),
)
NUMBERS = st.tuples(st.integers(0, 9), st.integers(0, 9))
TABLES = st.builds(
    TableDef,
    st.integers(0, (1 << 32) - 1).map(TableId),
    NAMES,
    NAMES,
    st.sampled_from(TableKind),
    st.lists(COLUMNS, max_size=3).map(tuple),
    NUMBERS,
    st.lists(st.builds(Unique, st.integers(0, 9), NUMBERS, NAMES), max_size=2).map(tuple),
    st.lists(st.builds(Check, NAMES, st.text(max_size=20)), max_size=2).map(tuple),
    OPTIONS,
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(0, 1 << 41),
)
OUTCOMES = st.builds(
    Outcome,
    st.integers(0, 99),
    SEQS,
    st.none() | st.just(("a", "b")),
    st.none() | st.just(((1, "x"), (None, [1.5]))),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
)


@given(SEQS, ROWS)
def test_row(seq: Seq, row: dict[int, Any]) -> None:
    raw = codec.encode_row(seq, row)
    assert codec.decode_row(raw) == (seq, row)
    assert codec.row_seq(raw) == seq
    assert not codec.is_tombstone(raw)
    kept = codec.encode_history(Seq(7), raw)
    assert codec.decode_history(kept) == (7, raw)


@given(SEQS)
def test_tombstone(seq: Seq) -> None:
    raw = codec.encode_tombstone(seq)
    assert codec.decode_row(raw) == (seq, None)
    assert codec.is_tombstone(raw)
    assert codec.decode_seq(codec.encode_seq(seq)) == seq


@given(st.sampled_from(Op), SEQS, SEQS, st.booleans(), st.binary(max_size=30))
def test_change(op: Op, prev_seq: Seq, before_seq: Seq, last: bool, pk: bytes) -> None:
    raw = codec.encode_change(op, prev_seq, before_seq, last, pk)
    assert codec.decode_change(raw) == (op, prev_seq, before_seq, last, pk)


@given(st.integers(0, 1 << 40), SEQS, SEQS, st.lists(COMMANDS, max_size=3))
def test_entry(term: int, prev_seq: Seq, seq_last: Seq, commands: list[Command]) -> None:
    encoded = [codec.encode_command(command) for command in commands]
    entry = codec.decode_entry(codec.encode_entry(term, prev_seq, seq_last, 99, encoded))
    assert (entry.term, entry.prev_seq, entry.seq_last) == (term, prev_seq, seq_last)
    assert (entry.time_ms, entry.commands) == (99, tuple(commands))


@given(OUTCOMES)
def test_outcome(outcome: Outcome) -> None:
    found = codec.decode_outcome(codec.encode_outcome(outcome))
    assert found == (
        outcome
        if outcome.rows is None
        else replace(outcome, rows=tuple(tuple(row) for row in outcome.rows))
    )


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), SEQS)
def test_mark(index: int, term: int, seq: Seq) -> None:
    assert codec.decode_mark(codec.encode_mark(index, term, seq)) == (index, term, seq)


@given(TABLES, st.sampled_from(TableState), st.sampled_from(FenceState))
def test_table_and_fence(table: TableDef, state: TableState, fence: FenceState) -> None:
    raw = catalog_codec.encode_table(table, state)
    assert catalog_codec.decode_table(raw) == (table, state)
    made = Fence(table, fence)
    assert catalog_codec.decode_fence(catalog_codec.encode_fence(made)) == made


def test_the_other_records() -> None:
    namespace = Namespace("chat", 5, {"a": 1})
    assert catalog_codec.decode_namespace(catalog_codec.encode_namespace(namespace)) == namespace
    user = User("ann", Role.DBA, "$argon2id$", None, 7, 1, 2)
    assert catalog_codec.decode_user(catalog_codec.encode_user(user)) == user
    placement = Placement("c", 8, (1, 2, 3), {Slot(4): GroupId(2)})
    assert catalog_codec.decode_placement(catalog_codec.encode_placement(placement)) == placement
    slot = SlotRecord(3, SlotState.FROZEN)
    assert decode_slot(encode_slot(slot)) == slot
    request = (b"hash", b"outcome")
    assert catalog_codec.decode_request(catalog_codec.encode_request(*request)) == request


@given(COMMANDS, st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_staged_command(command: Command, term: int, number: int) -> None:
    large = replace(command, outcome=b"o" * (staged.CHUNK_BYTES + 5))
    *parts, commit = staged.split(codec.encode_command(large), term, number)
    assert len(parts) == 2
    assert staged.is_commit(commit)
    assert not any(staged.is_commit(part) for part in parts)
    chunks = {key: value for part in parts for key, value in part}
    joined, deletions = staged.join(commit[0], chunks.get)
    assert joined == large
    assert deletions == [(key, None) for key in chunks]


def test_newer_versions_are_refused() -> None:
    row = bytearray(codec.encode_row(Seq(1), {1: 2}))
    row[0] += 1
    with pytest.raises(codec.UnknownVersion):
        codec.decode_row(bytes(row))
    entry = bytearray(codec.encode_entry(1, Seq(0), Seq(0), 0, []))
    entry[0] += 1
    with pytest.raises(codec.UnknownVersion):
        codec.decode_entry(bytes(entry))
    for decode in (decode_slot, catalog_codec.decode_user, codec.decode_outcome):
        with pytest.raises((codec.UnknownVersion, ValueError)):
            decode(codec.pack([99, 1, 2, 3, 4, 5, 6, 7]))
