# pyright: basic
"""Stored rows → Arrow record batches, as the query engine reads them.

Runs in query workers only. The Arrow types are those of `model.types`, but for UUID, which SQL
compares with text and therefore sees as text. What an Arrow type cannot say (that a text is a UUID
or JSON, that a column is a key) stands in field metadata, and results keep it where a column passes
through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from kalamdb.model import codec
from kalamdb.model.change import Row
from kalamdb.model.table import DELETED_COLUMN_ID, SEQ_COLUMN_ID, USER_ID_COLUMN_ID
from kalamdb.model.types import ColumnType, Kind
from kalamdb.query.wire import SourceColumn, from_wire

TYPE_KEY = b"kalam_data_type"
FLAGS_KEY = b"kalam_column_flags"

_encode_json = msgspec.json.encode


def arrow_type(column_type: ColumnType) -> pa.DataType:
    match column_type.kind:
        case Kind.DECIMAL:
            return pa.decimal128(column_type.precision, column_type.scale)
        case Kind.EMBEDDING:
            return pa.list_(pa.float32(), column_type.size)
        case kind:
            return _TYPES[kind]


def field(column: SourceColumn) -> pa.Field:
    metadata = {
        TYPE_KEY: _encode_json(column.type),
        FLAGS_KEY: _encode_json(column.flags),
    }
    return pa.field(column.name, arrow_type(from_wire(column.type)), metadata=metadata)


class BatchBuilder:
    """Makes record batches with `columns`, in that order, from chunks of stored rows.

    There is at least one column: a batch without columns does not know how many rows it has.
    """

    def __init__(self, columns: Sequence[SourceColumn]) -> None:
        assert columns
        self.schema = pa.schema([field(column) for column in columns])
        self._columns = [(column.id, _builder(from_wire(column.type))) for column in columns]
        self._initials = {column.id: column.initial for column in columns}

    def batch(
        self, bodies: memoryview, lengths: Sequence[int], owners: list[str] | None = None
    ) -> pa.RecordBatch:
        """`owners`: whose each row is, where rows of all tenants are read.

        Raises codec.UnknownVersion, ValueError on bytes that are no rows.
        """
        seqs, rows = codec.decode_rows(bodies, lengths)
        arrays = [
            pa.array(owners, pa.utf8())
            if column_id == USER_ID_COLUMN_ID and owners is not None
            else self._array(column_id, build, seqs, rows)
            for column_id, build in self._columns
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(
        self,
        column_id: int,
        build: Callable[[list[Any]], pa.Array],
        seqs: list[int],
        rows: list[Row],
    ) -> pa.Array:
        if column_id == SEQ_COLUMN_ID:
            return pa.array(seqs, pa.int64())
        if column_id == DELETED_COLUMN_ID:
            return pa.repeat(pa.scalar(False), len(rows))
        initial = self._initials[column_id]
        if initial is None:
            return build([row.get(column_id) for row in rows])
        return build([row.get(column_id, initial) for row in rows])


def _builder(column_type: ColumnType) -> Callable[[list[Any]], pa.Array]:
    target = arrow_type(column_type)
    match column_type.kind:
        case Kind.DECIMAL:
            return lambda values: pa.array(values, pa.utf8()).cast(target)
        case Kind.UUID:
            return _uuids
        case Kind.EMBEDDING:
            return lambda values: _embeddings(values, column_type.size)
        case _:
            return lambda values: pa.array(values, target)


def _uuids(values: list[bytes | None]) -> pa.Array:
    texts: list[str | None] = []
    for value in values:
        if value is None:
            texts.append(None)
        else:
            digits = value.hex()
            texts.append(
                f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
            )
    return pa.array(texts, pa.utf8())


def _embeddings(values: list[bytes | None], size: int) -> pa.Array:
    empty = bytes(4 * size)
    packed = b"".join([empty if value is None else value for value in values])
    floats = pa.Array.from_buffers(pa.float32(), len(values) * size, [None, pa.py_buffer(packed)])
    nulls = pa.array([value is None for value in values])
    return pa.FixedSizeListArray.from_arrays(floats, size, mask=nulls)


_TYPES = {
    Kind.BOOLEAN: pa.bool_(),
    Kind.SMALLINT: pa.int16(),
    Kind.INT: pa.int32(),
    Kind.BIGINT: pa.int64(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.TEXT: pa.utf8(),
    Kind.BYTES: pa.binary(),
    Kind.JSON: pa.utf8(),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.DATETIME: pa.timestamp("us", "UTC"),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.time64("us"),
    Kind.UUID: pa.utf8(),
    Kind.FILE: pa.utf8(),
}
