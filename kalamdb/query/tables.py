# pyright: basic
"""The Arrow tables a query worker keeps, so that an unchanged partition is not decoded again.

A table is kept under its place (table, partition) with the state it had; asking with any other
state finds nothing. One state per place, the least recently used places go first when the bytes are
over the limit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from kalamdb.query.wire import SourceColumn, WireSource


@dataclass(frozen=True, slots=True)
class KeptTable:
    """`batches` have all of `columns` (by id, the schema's order)."""

    state: bytes
    columns: tuple[SourceColumn, ...]
    schema: pa.Schema
    batches: tuple[pa.RecordBatch, ...]
    size_bytes: int

    def select(self, column_ids: Sequence[int]) -> tuple[pa.Schema, list[pa.RecordBatch]]:
        at = {column.id: index for index, column in enumerate(self.columns)}
        indices = [at[column_id] for column_id in column_ids]
        schema = pa.schema([self.schema.field(index) for index in indices])
        return schema, [batch.select(indices) for batch in self.batches]


class KeptTables:
    def __init__(self, size_max_bytes: int) -> None:
        self._size_max_bytes = size_max_bytes
        self._tables: OrderedDict[bytes, KeptTable] = OrderedDict()
        self.size_bytes = 0

    def get(self, source: WireSource) -> KeptTable | None:
        """The table of `source` if it is kept in this state and with all these columns."""
        kept = self._tables.get(source.place)
        if kept is None or not source.state or kept.state != source.state:
            return None
        if not set(source.columns) <= set(kept.columns):
            return None
        self._tables.move_to_end(source.place)
        return kept

    def wanted(self, source: WireSource) -> tuple[SourceColumn, ...]:
        """What to decode of a source: its columns, and those that others asked for."""
        kept = self._tables.get(source.place)
        if kept is None or kept.state != source.state:
            return source.columns
        ids = {column.id for column in source.columns}
        return (*source.columns, *(column for column in kept.columns if column.id not in ids))

    def put(self, source: WireSource, table: KeptTable) -> None:
        self.drop(source.place)
        if not source.state or table.size_bytes > self._size_max_bytes:
            return
        self._tables[source.place] = table
        self.size_bytes += table.size_bytes
        while self.size_bytes > self._size_max_bytes:
            self.drop(next(iter(self._tables)))

    def drop(self, place: bytes) -> None:
        old = self._tables.pop(place, None)
        if old is not None:
            self.size_bytes -= old.size_bytes
