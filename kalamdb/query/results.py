# pyright: basic
"""Arrow results → what leaves a query worker: column labels and rows, as JSON or as stored values.

The JSON of each type is that of `model.values`; types only the engine has are mapped onto those:
small unsigned integers onto the next larger type, UINT64 onto BigInt (a string either way),
intervals onto text, lists, structs and maps onto Json (a string with JSON text). NaN and infinity
have no JSON form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from itertools import repeat
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from kalamdb.errors import QueryFailed
from kalamdb.model.table import SAME_NAME
from kalamdb.model.types import ColumnType, Kind
from kalamdb.query.arrow import FLAGS_KEY, TYPE_KEY, arrow_type
from kalamdb.query.wire import ResultColumn, WireType, from_wire, to_wire
from kalamdb.sql.marks import shown_name

Lists = Callable[[pa.Array], list[Any]]
"""A column of a batch → its values."""

_decode_type = msgspec.json.Decoder(WireType).decode
_decode_flags = msgspec.json.Decoder(tuple[str, ...]).decode
_pack = msgspec.msgpack.Encoder().encode


def columns(schema: pa.Schema) -> tuple[ResultColumn, ...]:
    """Raises QueryFailed for a type without a JSON form."""
    return tuple(_column(field) for field in schema)


def _column(field: pa.Field) -> ResultColumn:
    name = shown_name(field.name.partition(SAME_NAME)[0])
    metadata = field.metadata or {}
    label = metadata.get(TYPE_KEY)
    if label is not None:
        wire = _decode_type(label)
        # The engine keeps metadata through casts; a cast to text gives another text type than ours.
        if field.type == arrow_type(from_wire(wire)):
            return ResultColumn(name, wire, _decode_flags(metadata.get(FLAGS_KEY, b"[]")))
    return ResultColumn(name, to_wire(_logical(field)))


def _logical(field: pa.Field) -> ColumnType:
    kind = field.type
    if pt.is_dictionary(kind):
        return _logical(pa.field(field.name, kind.value_type))
    if pt.is_decimal(kind):
        return ColumnType(Kind.DECIMAL, precision=kind.precision, scale=kind.scale)
    if pt.is_timestamp(kind):
        return ColumnType(Kind.TIMESTAMP if kind.tz is None else Kind.DATETIME)
    if pt.is_fixed_size_list(kind) and pt.is_float32(kind.value_type):
        return ColumnType(Kind.EMBEDDING, size=kind.list_size)
    for holds, logical in _LOGICAL:
        if holds(kind):
            return ColumnType(logical)
    raise QueryFailed(
        f"result column {field.name} has type {kind}, which has no JSON form; cast it"
    )


class RowEncoder:
    """Encodes batches of one result. `values`: rows of stored values (a UUID as text), not JSON."""

    def __init__(self, schema: pa.Schema, found: tuple[ResultColumn, ...], *, values: bool) -> None:
        self._values = values
        self._columns = [
            (column.name, _lists(field.type, from_wire(column.type), values=values))
            for field, column in zip(schema, found, strict=True)
        ]

    def encode(self, batch: pa.RecordBatch) -> bytes:
        """The rows, joined by commas (JSON) or as one msgpack array.

        Raises: QueryFailed on NaN, infinity, and values beyond what JSON can hold.
        """
        lists = [
            _values(name, array, lists)
            for (name, lists), array in zip(self._columns, batch.columns, strict=True)
        ]
        rows: list[Any] = list(zip(*lists, strict=True)) if lists else list(repeat((), len(batch)))
        return _pack(rows) if self._values else orjson.dumps(rows)[1:-1]


def _values(name: str, array: pa.Array, lists: Lists) -> list[Any]:
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _finite(array):
        raise QueryFailed(f"result column {name} holds NaN or infinity, which JSON does not have")
    try:
        return lists(array)
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise QueryFailed(f"a value of result column {name} has no JSON form; cast it") from error


def _finite(array: pa.Array) -> bool:
    if pt.is_floating(array.type):
        # Found at run time: pyarrow.compute makes its functions when it is imported.
        return (
            pc.call_function("all", [pc.call_function("is_finite", [array])]).as_py() is not False
        )
    if pt.is_struct(array.type):
        return all(map(_finite, array.flatten()))
    return not pt.is_nested(array.type) or pt.is_union(array.type) or _finite(_elements(array))


def _elements(array: pa.Array) -> pa.Array:
    return array.items if pt.is_map(array.type) else array.flatten()


def _lists(kind: pa.DataType, logical: ColumnType, *, values: bool) -> Lists:
    match logical.kind:
        case Kind.BIGINT if not values:
            return lambda array: array.cast(pa.utf8()).to_pylist()
        case Kind.DECIMAL:
            return _decimals
        case Kind.TIMESTAMP | Kind.DATETIME:
            return lambda array: _integers(array, pa.timestamp("us", array.type.tz), pa.int64())
        case Kind.DATE:
            return lambda array: _integers(array, pa.date32(), pa.int32())
        case Kind.TIME:
            return lambda array: _integers(array, pa.time64("us"), pa.int64())
        case Kind.BYTES if not values:
            return lambda array: [None if v is None else list(v) for v in array.to_pylist()]
        case Kind.EMBEDDING if values:
            return _packed_embeddings
        case Kind.JSON if pt.is_nested(kind):
            return lambda array: [
                _json_text(value) for value in array.to_pylist(maps_as_pydicts="lossy")
            ]
        case Kind.TEXT if pt.is_interval(kind) or pt.is_duration(kind):
            return _intervals
        case Kind.FLOAT if pt.is_float16(kind):
            return lambda array: array.cast(pa.float32()).to_pylist()
        case _:
            return lambda array: array.to_pylist()


def _integers(array: pa.Array, unit: pa.DataType, integer: pa.DataType) -> list[Any]:
    return array.cast(unit, safe=False).cast(integer).to_pylist()


def _decimals(array: pa.Array) -> list[str | None]:
    texts = array.cast(pa.utf8()).to_pylist()
    # Arrow writes very small ones with an exponent.
    return [f"{Decimal(text):f}" if text is not None and "E" in text else text for text in texts]


def _packed_embeddings(array: pa.Array) -> list[bytes | None]:
    pack = struct.Struct(f"<{array.type.list_size}f").pack
    return [None if value is None else pack(*value) for value in array.to_pylist()]


def _intervals(array: pa.Array) -> list[str | None]:
    if pt.is_duration(array.type):
        nanoseconds = array.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
        return [None if ns is None else _interval(0, 0, ns) for ns in nanoseconds]
    return [
        None if value is None else _interval(value.months, value.days, value.nanoseconds)
        for value in array.to_pylist()
    ]


def _interval(months: int, days: int, nanoseconds: int) -> str:
    """PostgreSQL's way to write an interval."""
    years, months = int(months / 12), months - 12 * int(months / 12)
    parts = [
        f"{count} {unit}{'' if abs(count) == 1 else 's'}"
        for count, unit in ((years, "year"), (months, "mon"), (days, "day"))
        if count
    ]
    if nanoseconds or not parts:
        seconds, fraction = divmod(abs(nanoseconds) // 1000, 1_000_000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        if fraction:
            clock += f".{fraction:06}".rstrip("0")
        parts.append(("-" if nanoseconds < 0 else "") + clock)
    return " ".join(parts)


def _json_text(value: Any) -> str | None:
    return (
        None
        if value is None
        else orjson.dumps(value, default=_plain, option=_JSON_OPTIONS).decode()
    )


_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME


def _plain(value: Any) -> Any:
    """Elements of lists, structs and maps that JSON does not have."""
    match value:
        case Decimal():
            return f"{value:f}"
        case bytes():
            return list(value)
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)


_LOGICAL: list[tuple[Callable[[pa.DataType], bool], Kind]] = [
    (pt.is_int64, Kind.BIGINT),
    (pt.is_string, Kind.TEXT),
    (pt.is_string_view, Kind.TEXT),
    (pt.is_large_string, Kind.TEXT),
    (pt.is_boolean, Kind.BOOLEAN),
    (pt.is_float64, Kind.DOUBLE),
    (pt.is_float32, Kind.FLOAT),
    (pt.is_float16, Kind.FLOAT),
    (pt.is_int32, Kind.INT),
    (pt.is_uint16, Kind.INT),
    (pt.is_int16, Kind.SMALLINT),
    (pt.is_int8, Kind.SMALLINT),
    (pt.is_uint8, Kind.SMALLINT),
    (pt.is_uint32, Kind.BIGINT),
    (pt.is_uint64, Kind.BIGINT),
    (pt.is_date, Kind.DATE),
    (pt.is_time, Kind.TIME),
    (pt.is_binary, Kind.BYTES),
    (pt.is_binary_view, Kind.BYTES),
    (pt.is_large_binary, Kind.BYTES),
    (pt.is_fixed_size_binary, Kind.BYTES),
    (pt.is_null, Kind.TEXT),
    (pt.is_interval, Kind.TEXT),
    (pt.is_duration, Kind.TEXT),
    (pt.is_nested, Kind.JSON),
]
