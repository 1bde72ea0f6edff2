"""What a client may send becomes a stored value that is sound, or a clear refusal; nothing else."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.errors import TypeMismatch, ValueOutOfRange
from kalamdb.model import codec, keys
from kalamdb.model.types import INTEGER_RANGE, ColumnType, Kind
from kalamdb.model.values import encoder, parser, strict_parser

DECIMAL = ColumnType(Kind.DECIMAL, 38, 4)
WHOLE = ColumnType(Kind.DECIMAL, 5, 0)
EMBEDDING = ColumnType(Kind.EMBEDDING, size=2)
TYPES = [
    *(ColumnType(kind) for kind in Kind if kind not in (Kind.DECIMAL, Kind.EMBEDDING)),
    DECIMAL,
    WHOLE,
    EMBEDDING,
]
TYPE = st.sampled_from(TYPES)
DAY_US = 86_400_000_000

TEXTS = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.decimals().map(str),
    st.datetimes().map(str),
    st.dates().map(str),
    st.times().map(str),
    st.uuids().map(str),
    st.sampled_from(["true", " F ", "\\x00ff", "\\xzz", "[1, 2]", "{}", "1e400", "٣", "1_0", "-0"]),
    st.just("9" * 5000),
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.decimals()
    | TEXTS
    | st.binary(max_size=17)
)
SENT = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def is_sound(column: ColumnType, value: Any) -> bool:
    """Is it a stored value of the type, as `model/types.py` describes them?"""
    match column.kind:
        case Kind.BOOLEAN:
            return type(value) is bool
        case Kind.SMALLINT | Kind.INT | Kind.BIGINT:
            low, high = INTEGER_RANGE[column.kind]
            return type(value) is int and low <= value <= high
        case Kind.FLOAT | Kind.DOUBLE:
            return type(value) is float and math.isfinite(value)
        case Kind.DECIMAL:
            _, digits, exponent = Decimal(value).as_tuple()
            fits = len(digits) <= column.precision and exponent == -column.scale
            return type(value) is str and fits
        case Kind.TEXT | Kind.JSON | Kind.FILE:
            return type(value) is str and value.encode().decode() == value
        case Kind.BYTES:
            return type(value) is bytes
        case Kind.TIMESTAMP | Kind.DATETIME:
            return type(value) is int and -(1 << 63) <= value < 1 << 63
        case Kind.DATE:
            return type(value) is int and -(1 << 31) <= value < 1 << 31
        case Kind.TIME:
            return type(value) is int and 0 <= value < DAY_US
        case Kind.UUID:
            return type(value) is bytes and len(value) == 16
        case Kind.EMBEDDING:
            return type(value) is bytes and len(value) == 4 * column.size


@given(TYPE, SENT)
def test_anything_sent_is_sound_or_refused(column: ColumnType, sent: Any) -> None:
    refusal: Exception | None = None
    value: Any = None
    try:
        value = parser(column, "c")(sent)
    except (TypeMismatch, ValueOutOfRange) as error:
        refusal = error
    if refusal is not None:
        assert len(str(refusal)) < 300
        return
    if sent is None:
        assert value is None
        return
    assert is_sound(column, value)
    assert codec.unpack(codec.pack(value)) == value
    encode = encoder(column)
    shown = value if encode is None else encode(value)
    again = orjson.loads(orjson.dumps(shown))
    assert parser(column, "c")(again) == value, "what a client reads it may write"
    if column.is_key:
        raw = keys.encode_key([column], [value])
        assert keys.decode_key([column], raw) == [value]


@pytest.mark.parametrize("column", TYPES, ids=lambda column: column.sql)
def test_a_value_nested_too_deeply_is_refused(column: ColumnType) -> None:
    deep = orjson.loads("[" * 1000 + "]" * 1000)
    with pytest.raises(TypeMismatch):
        parsed(column, deep)
    with pytest.raises((TypeMismatch, ValueOutOfRange)):
        parsed(column, 10**5000 if column.kind not in (Kind.TEXT, Kind.JSON) else [10**5000])


def parsed(column: ColumnType, sent: Any) -> Any:
    return strict_parser(column, "c")(sent)


@pytest.mark.parametrize(
    ("column", "sent", "value"),
    [
        (ColumnType(Kind.BOOLEAN), " Yes ", True),
        (ColumnType(Kind.SMALLINT), "-32768", -32768),
        (ColumnType(Kind.INT), 7.0, 7),
        (ColumnType(Kind.BIGINT), "9223372036854775807", (1 << 63) - 1),
        (ColumnType(Kind.FLOAT), 0.1, 0.10000000149011612),
        (ColumnType(Kind.DOUBLE), "1e3", 1000.0),
        (DECIMAL, "9" * 34 + ".9999", "9" * 34 + ".9999"),
        (DECIMAL, 1.5, "1.5000"),
        (DECIMAL, "-0.00001", "0.0000"),
        (DECIMAL, "0.00005", "0.0001"),
        (WHOLE, "-99999", "-99999"),
        (ColumnType(Kind.TEXT), True, "true"),
        (ColumnType(Kind.BYTES), "\\x00ff", b"\x00\xff"),
        (ColumnType(Kind.BYTES), [0, 255], b"\x00\xff"),
        (ColumnType(Kind.JSON), {"a": [1]}, '{"a":[1]}'),
        (ColumnType(Kind.TIMESTAMP), "1970-01-01 00:00:01", 1_000_000),
        (ColumnType(Kind.DATETIME), "1970-01-01T02:00:00+02:00", 0),
        (ColumnType(Kind.DATE), "1970-01-02", 1),
        (ColumnType(Kind.DATE), "1970-01-02 23:59:59", 1),
        (ColumnType(Kind.TIME), "00:00:01.5", 1_500_000),
        (ColumnType(Kind.UUID), "00010203-0405-0607-0809-0A0B0C0D0E0F", bytes(range(16))),
        (EMBEDDING, "[1, -2]", b"\x00\x00\x80?\x00\x00\x00\xc0"),
    ],
    ids=lambda value: getattr(value, "sql", None) or repr(value),
)
def test_accepted(column: ColumnType, sent: Any, value: Any) -> None:
    assert parsed(column, sent) == value


@pytest.mark.parametrize(
    ("column", "sent", "error"),
    [
        (ColumnType(Kind.BOOLEAN), 1, TypeMismatch),
        (ColumnType(Kind.SMALLINT), 32768, ValueOutOfRange),
        (ColumnType(Kind.INT), True, TypeMismatch),
        (ColumnType(Kind.INT), 1.5, TypeMismatch),
        (ColumnType(Kind.DOUBLE), "nan", ValueOutOfRange),
        (ColumnType(Kind.FLOAT), 1e39, TypeMismatch),
        (DECIMAL, "1" + "0" * 34, ValueOutOfRange),
        (DECIMAL, "9" * 34 + ".99995", ValueOutOfRange),
        (DECIMAL, "one", TypeMismatch),
        (ColumnType(Kind.TEXT), "\ud800", TypeMismatch),
        (ColumnType(Kind.JSON), "{", TypeMismatch),
        (ColumnType(Kind.JSON), "NaN", TypeMismatch),
        (ColumnType(Kind.BYTES), [256], TypeMismatch),
        (ColumnType(Kind.DATE), "1970-01-01garbage", TypeMismatch),
        (ColumnType(Kind.TIMESTAMP), "yesterday", TypeMismatch),
        (ColumnType(Kind.TIME), -1, ValueOutOfRange),
        (ColumnType(Kind.UUID), "xyz", TypeMismatch),
        (EMBEDDING, [1], TypeMismatch),
        (EMBEDDING, [1, "x"], TypeMismatch),
    ],
    ids=lambda value: getattr(value, "sql", None) or repr(value)[:20],
)
def test_refused(column: ColumnType, sent: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        parsed(column, sent)
