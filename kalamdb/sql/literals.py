# pyright: basic
"""Values as text for the query engine: always quoted here, never put into a text anywhere else."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import orjson

from kalamdb.errors import InvalidParameter, TypeMismatch, ValueOutOfRange
from kalamdb.model.types import ColumnType, Kind
from kalamdb.model.values import encoder, parser
from kalamdb.sql.marks import escaped
from kalamdb.sql.operands import INTEGERS, comparable

_BIGINT = 1 << 63
_DIGITS_MAX = 38


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    return "'" + escaped(text.replace("'", "''")) + "'"


def untyped_literal(value: Any, index: int) -> str:
    """A parameter where nothing tells a type. Raises InvalidParameter."""
    match value:
        case None:
            return "NULL"
        case bool():
            return "TRUE" if value else "FALSE"
        case int():
            if not -_BIGINT <= value < _BIGINT:
                raise InvalidParameter(index + 1, "the number is beyond BIGINT; send it as text")
            return str(value) if value >= 0 else f"({value})"
        case float():
            return _float(value, index)
        case str():
            return text_literal(_checked(value, index))
        case list() | dict():
            return text_literal(orjson.dumps(value).decode())
        case _:
            raise InvalidParameter(index + 1, f"{type(value).__name__} is no value of JSON")


def _float(value: float, index: int) -> str:
    if not math.isfinite(value):
        raise InvalidParameter(index + 1, "the number is not finite")
    text = repr(value)
    return text if value >= 0 else f"({text})"


def _checked(text: str, index: int) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidParameter(index + 1, "text holds half a surrogate pair") from None
    return text


def typed_literal(value: Any, column_type: ColumnType, index: int | None = None) -> str | None:
    """A value as a literal of a type; None when it may stand as it is.

    `index` is the parameter it came from, for errors. Raises InvalidParameter, TypeMismatch.
    """
    try:
        return _typed(value, column_type, index)
    except (TypeMismatch, ValueOutOfRange) as error:
        if index is None:
            raise
        raise InvalidParameter(index + 1, str(error)) from error


def _typed(value: Any, column_type: ColumnType, index: int | None) -> str | None:
    kind = column_type.kind
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    if kind in INTEGERS or kind in (Kind.FLOAT, Kind.DOUBLE):
        if is_number:
            return None
        if kind is Kind.FLOAT:
            return f"CAST({text_literal(str(parser(column_type, '')(value)))} AS REAL)"
        return str(comparable(column_type, value)[0])
    if kind is Kind.DECIMAL:
        return _decimal(comparable(column_type, value)[0])
    if kind in (Kind.TEXT, Kind.JSON, Kind.FILE):
        if isinstance(value, str) or index is None:
            return None  # a bare number beside TEXT is the engine's to judge
        return text_literal(comparable(column_type, value)[0])
    if kind is Kind.EMBEDDING:
        return None
    return _stored(parser(column_type, "")(value), kind)


def _decimal(value: Decimal) -> str | None:
    """Exact digits; None for numbers no DECIMAL holds, which the engine compares as doubles."""
    text = f"{value:f}"
    whole, _, decimals = text.lstrip("-").partition(".")
    precision = max(1, len(whole.lstrip("0")) + len(decimals))
    if precision > _DIGITS_MAX:
        return None
    return f"CAST('{text}' AS DECIMAL({precision}, {len(decimals)}))"


def _stored(value: Any, kind: Kind) -> str:
    match kind:
        case Kind.BOOLEAN:
            return "TRUE" if value else "FALSE"
        case Kind.UUID:
            encode = encoder(ColumnType(kind))
            assert encode is not None
            return text_literal(encode(value))  # the engine sees UUIDs as text
        case Kind.BYTES:
            return f"X'{value.hex()}'"
        case Kind.TIMESTAMP:
            return f"arrow_cast({value}, 'Timestamp(Microsecond, None)')"
        case Kind.DATETIME:
            return f"arrow_cast({value}, 'Timestamp(Microsecond, Some(\"UTC\"))')"
        case Kind.DATE:
            return f"arrow_cast({value}, 'Date32')"
        case Kind.TIME:
            return f"arrow_cast({value}, 'Time64(Microsecond)')"
        case _:
            raise AssertionError(kind)
