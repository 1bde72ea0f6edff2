"""What deciding needs of a table definition, worked out once per version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kalamdb.errors import CheckViolation, LimitReached, NotNullViolation, UniqueViolation
from kalamdb.model import codec, keys, values
from kalamdb.model.change import Row
from kalamdb.model.table import Column, Index, IndexState, TableDef, Unique
from kalamdb.store.catalog_codec import FenceState
from kalamdb.store.rows import PartitionKeys

INDEX_VALUES_MAX_BYTES = 2048
"""Of an index entry's values, as key bytes: beyond, an index would be larger than its table."""

Checks = Callable[[TableDef], tuple[tuple[str, Callable[[Row], bool | None]], ...]]
"""A table's CHECK constraints as functions of a row; None (unknown) passes."""


def no_checks(table: TableDef) -> tuple[tuple[str, Callable[[Row], bool | None]], ...]:
    """For tables and tests without CHECK constraints."""
    assert not table.checks
    return ()


Encoders = tuple[tuple[int, Callable[[Any], bytes]], ...]


def _encoders(columns: tuple[int, ...], by_id: dict[int, Column]) -> Encoders:
    """(column id, encoder), for rows as `TablePlan.read` gives them or as they will be stored: what
    an older row reads as in a younger column is in it, a missing value is NULL.
    """
    return tuple((column, keys.key_encoder(by_id[column].type)) for column in columns)


class UniquePlan:
    """A UNIQUE constraint: its key in a partition, None while one of its values is NULL.

    `building`: rows from before the index was made may have no entry yet, or share a value with one
    that has; an entry is only a row's own if it names it.
    """

    __slots__ = ("_bounded", "_encoders", "building", "columns", "id", "name", "names")

    def __init__(self, unique: Unique, by_id: dict[int, Column]) -> None:
        self.id = unique.id
        self.columns = unique.columns
        self.name = unique.name
        self.names = tuple(by_id[column].name for column in unique.columns)
        self.building = unique.state is IndexState.BUILDING
        self._bounded = unique.by_index
        self._encoders = _encoders(unique.columns, by_id)

    def key(self, at: PartitionKeys, row: Row) -> bytes | None:
        parts: list[bytes] = []
        for column, encode in self._encoders:
            value = row.get(column)
            if value is None:
                return None
            parts.append(encode(value))
        return at.entries(keys.Family.UNIQUE, self.id) + b"".join(parts)

    def check(self, at: PartitionKeys, key: bytes) -> None:
        """Before a key is put. Raises LimitReached for values that CREATE INDEX does not take."""
        if self._bounded:
            _check_size(at.entries(keys.Family.UNIQUE, self.id), key, self.name)


class IndexPlan:
    """An index: a row's entry, with NULLs among its values."""

    __slots__ = ("_encoders", "id", "name")

    def __init__(self, index: Index, by_id: dict[int, Column]) -> None:
        self.id = index.id
        self.name = index.name
        self._encoders = _encoders(index.columns, by_id)

    def values_key(self, at: PartitionKeys, row: Row) -> bytes:
        """The key of a row's entry up to its primary key."""
        parts = [at.entries(keys.Family.INDEX, self.id)]
        for column, encode in self._encoders:
            parts.append(encode(row.get(column)))
        return b"".join(parts)

    def check(self, at: PartitionKeys, values_key: bytes) -> None:
        """Before an entry is put. Raises LimitReached for values that are too long."""
        if len(values_key) > INDEX_VALUES_MAX_BYTES:
            _check_size(at.entries(keys.Family.INDEX, self.id), values_key, self.name)


def _check_size(prefix: bytes, key: bytes, name: str) -> None:
    size = len(key) - len(prefix)
    if size > INDEX_VALUES_MAX_BYTES:
        raise LimitReached(
            "index_key_bytes",
            f"the values of index {name} have {size} bytes, at most {INDEX_VALUES_MAX_BYTES} fit",
        )


class TablePlan:
    """One version of a table as the fence in this group has it."""

    __slots__ = (
        "_required",
        "checks",
        "has_ttl",
        "indexes",
        "initials",
        "key",
        "read",
        "state",
        "table",
        "tombstones",
        "uniques",
    )

    def __init__(self, table: TableDef, state: FenceState, checks: Checks) -> None:
        self.table = table
        self.state = state
        self.tombstones = table.has_tombstones
        self.has_ttl = not table.has_tombstones and table.options.ttl_s is not None
        self.key = _key_encoder(table)
        self.read = codec.row_reader(table)
        self.initials = tuple(column for column, _ in table.initials)
        # A table whose fence only forbids needs no checks, and its CHECKs may not compile any more.
        self.checks = checks(table) if state is FenceState.ACTIVE else ()
        self.uniques = tuple(UniquePlan(unique, table.by_id) for unique in table.uniques)
        self.indexes = tuple(IndexPlan(index, table.by_id) for index in table.indexes)
        self._required = tuple(
            (column.id, column.name)
            for column in (*table.columns, *(table.key_columns if table.has_hidden_key else ()))
            if not column.nullable or column.id in table.primary_key
        )

    def check(self, row: Row) -> None:
        """NOT NULL, then CHECK. Raises NotNullViolation, CheckViolation."""
        for column, name in self._required:
            if row.get(column) is None:
                raise NotNullViolation(name, self.table.full_name)
        for name, holds in self.checks:
            if holds(row) is False:
                raise CheckViolation(self.table.full_name, name)

    def check_new(self, row: Row, columns: frozenset[int], checks: frozenset[str]) -> None:
        """`check` of some of it, for rows from before. Raises NotNullViolation, CheckViolation."""
        for column, name in self._required:
            if column in columns and row.get(column) is None:
                raise NotNullViolation(name, self.table.full_name)
        for name, holds in self.checks:
            if name in checks and holds(row) is False:
                raise CheckViolation(self.table.full_name, name)

    def stored(self, row: Row) -> Row:
        """What is written for `row` of a table with `initials`: NULL by name where leaving it out
        would mean an older row.
        """
        return {column: None for column in self.initials if column not in row} | row

    def duplicate_key(self, row: Row) -> UniqueViolation:
        return self._violation(self.table.primary_key, row)

    def duplicate(self, unique: UniquePlan, row: Row) -> UniqueViolation:
        return self._violation(unique.columns, row)

    def _violation(self, columns: tuple[int, ...], row: Row) -> UniqueViolation:
        by_id = self.table.by_id
        names = tuple(by_id[column].name for column in columns)
        shown = ", ".join(_shown(by_id[column], row.get(column)) for column in columns)
        return UniqueViolation(self.table.full_name, names, shown)


def _shown(column: Column, value: Any) -> str:
    encode = values.encoder(column.type)
    return values.shown(value if encode is None or value is None else encode(value))


def _key_encoder(table: TableDef) -> Callable[[Row], bytes]:
    """A function from a row with all its key columns, none NULL, to primary key bytes."""
    encoders = [(column.id, keys.value_encoder(column.type)) for column in table.key_columns]
    if len(encoders) == 1:
        only, encode = encoders[0]
        return lambda row: encode(row[only])
    return lambda row: b"".join(encode(row[column]) for column, encode in encoders)
