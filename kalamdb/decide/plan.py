"""What deciding needs of a table definition, worked out once per version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kalamdb.errors import CheckViolation, NotNullViolation, UniqueViolation
from kalamdb.model import keys, values
from kalamdb.model.change import Row
from kalamdb.model.ids import Partition
from kalamdb.model.table import Column, TableDef, Unique
from kalamdb.store.catalog_codec import FenceState

Checks = Callable[[TableDef], tuple[tuple[str, Callable[[Row], bool | None]], ...]]
"""A table's CHECK constraints as functions of a row; None (unknown) passes."""


def no_checks(table: TableDef) -> tuple[tuple[str, Callable[[Row], bool | None]], ...]:
    """For tables and tests without CHECK constraints."""
    assert not table.checks
    return ()


class UniquePlan:
    """A UNIQUE constraint: its key in a partition, None while one of its values is NULL."""

    __slots__ = ("_encoders", "columns", "id", "names")

    def __init__(self, unique: Unique, by_id: dict[int, Column]) -> None:
        self.id = unique.id
        self.columns = unique.columns
        self.names = tuple(by_id[column].name for column in unique.columns)
        self._encoders = [(c, keys.key_encoder(by_id[c].type)) for c in unique.columns]

    def key(self, table: TableDef, partition: Partition, row: Row) -> bytes | None:
        parts: list[bytes] = []
        for column, encode in self._encoders:
            value = row.get(column)
            if value is None:
                return None
            parts.append(encode(value))
        return keys.unique(table.id, self.id, partition, b"".join(parts))


class TablePlan:
    """One version of a table as the fence in this group has it."""

    __slots__ = ("_required", "checks", "has_ttl", "key", "state", "table", "tombstones", "uniques")

    def __init__(self, table: TableDef, state: FenceState, checks: Checks) -> None:
        self.table = table
        self.state = state
        self.tombstones = table.has_tombstones
        self.has_ttl = not table.has_tombstones and table.options.ttl_s is not None
        self.key = _key_encoder(table)
        # A table whose fence only forbids needs no checks, and its CHECKs may not compile any more.
        self.checks = checks(table) if state is FenceState.ACTIVE else ()
        self.uniques = tuple(UniquePlan(unique, table.by_id) for unique in table.uniques)
        self._required = tuple(
            (column.id, column.name)
            for column in (*table.columns, *(table.key_columns if table.has_hidden_key else ()))
            if not column.nullable or column.id in table.primary_key
        )

    def check(self, row: Row) -> None:
        """NOT NULL, then CHECK. Raises NotNullViolation, CheckViolation."""
        for column, name in self._required:
            if column not in row:
                raise NotNullViolation(name, self.table.full_name)
        for name, holds in self.checks:
            if holds(row) is False:
                raise CheckViolation(self.table.full_name, name)

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
    """A function from a row with all its key columns to primary key bytes."""
    encoders = [(column.id, keys.key_encoder(column.type)) for column in table.key_columns]
    if len(encoders) == 1:
        only, encode = encoders[0]
        return lambda row: encode(row[only])
    return lambda row: b"".join(encode(row[column]) for column, encode in encoders)
