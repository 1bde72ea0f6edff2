"""What a client may send ↔ stored values ↔ JSON, one function per column type.

`parser` accepts a JSON parameter or an SQL literal (already a Python bool, int, float, str, list,
dict or Decimal) and gives the stored value, or raises TypeMismatch / ValueOutOfRange naming the
column; text is accepted wherever PostgreSQL would cast a quoted literal. `encoder` gives the JSON
form: BIGINT, DECIMAL and UUID are strings, timestamps µs numbers, BYTES an array of numbers, JSON
and FILE strings.
"""

from __future__ import annotations

import json
import math
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, cast

import orjson

from kalamdb.errors import TypeMismatch, ValueOutOfRange
from kalamdb.model.types import INTEGER_RANGE, ColumnType, Kind

Parse = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.date()
_DAY_US = 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
_WIDE = Context(prec=100)  # the default's 28 digits are fewer than a DECIMAL has
_TRUE = frozenset(("t", "true", "yes", "on", "1"))
_FALSE = frozenset(("f", "false", "no", "off", "0"))


def strict_parser(column_type: ColumnType, column: str) -> Parse:
    """A function from a client's value, not None, to a stored value."""
    return _PARSERS[column_type.kind](column_type, column)


def parser(column_type: ColumnType, column: str) -> Parse:
    """A function from a client's value to a stored value; None stays None."""
    parse = strict_parser(column_type, column)

    def or_null(value: Any) -> Any:
        return None if value is None else parse(value)

    return or_null


def encoder(column_type: ColumnType) -> Callable[[Any], Any] | None:
    """A function from a non-NULL stored value to its JSON form; None when it already is."""
    return _ENCODERS.get(column_type.kind)


def shown(value: Any, size_max: int = 60) -> str:
    """A value as it may stand in an error message: the caller's own, cut."""
    try:
        text = str(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of thousands of digits
        text = type(value).__name__
    return text if len(text) <= size_max else text[:size_max] + "…"


_SAID: dict[type, str] = {
    bool: "boolean",
    str: "text",
    list: "array",
    dict: "object",
    bytes: "bytes",
}


def _mismatch(column: str, expected: ColumnType, value: Any) -> TypeMismatch:
    if isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = repr(shown(value)) if isinstance(value, str) else shown(value)
    said = next((word for kind, word in _SAID.items() if isinstance(value, kind)), "number")
    return TypeMismatch(column, expected.sql, f"got {said} {text}")


def _integer(expected: ColumnType, column: str) -> Parse:
    low, high = INTEGER_RANGE[expected.kind]

    def parse(value: Any) -> int:
        if type(value) is not int:
            value = _whole(value)
        if low <= value <= high:
            return value
        raise ValueOutOfRange(column, expected.sql, shown(value))

    def _whole(value: Any) -> int:
        if isinstance(value, str):
            try:
                return int(value.strip())
            except ValueError:
                raise _mismatch(column, expected, value) from None
        if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 64:
            if value == value.to_integral_value():
                return int(value)
        elif isinstance(value, float) and value.is_integer():
            return int(value)
        raise _mismatch(column, expected, value)

    return parse


def _float(expected: ColumnType, column: str) -> Parse:
    single = expected.kind is Kind.FLOAT

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            raise _mismatch(column, expected, value)
        try:
            number = float(value)
            if single:
                number = struct.unpack("<f", struct.pack("<f", number))[0]
        except (ValueError, OverflowError):
            raise _mismatch(column, expected, value) from None
        if math.isfinite(number):
            return number
        raise ValueOutOfRange(column, expected.sql, shown(value))

    return parse


def _decimal(expected: ColumnType, column: str) -> Parse:
    quantum = Decimal(1).scaleb(-expected.scale)
    limit = Decimal(10) ** (expected.precision - expected.scale)

    def parse(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            raise _mismatch(column, expected, value)
        try:
            number = Decimal(str(value).strip())
            # copy_abs: abs() rounds to the default context's 28 digits.
            if not number.is_finite() or number.copy_abs() >= limit:
                raise ValueOutOfRange(column, expected.sql, shown(value))
            number = number.quantize(quantum, ROUND_HALF_UP, _WIDE)
        except (InvalidOperation, ValueError):
            raise _mismatch(column, expected, value) from None
        if number.copy_abs() >= limit:
            raise ValueOutOfRange(column, expected.sql, shown(value))
        text = f"{number:f}"
        return text[1:] if number == 0 and text[0] == "-" else text

    return parse


def _boolean(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            word = value.strip().lower()
            if word in _TRUE:
                return True
            if word in _FALSE:
                return False
        raise _mismatch(column, expected, value)

    return parse


def _text(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> str:
        if type(value) is str:
            if value.isascii():
                return value
            try:
                value.encode()
            except UnicodeEncodeError:
                raise TypeMismatch(column, expected.sql, "text holds a lone surrogate") from None
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (int, float, Decimal)):
            return str(value)
        if isinstance(value, (list, dict)):
            return _json_text(expected, column, value)
        raise _mismatch(column, expected, value)

    return parse


def _bytes(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            if isinstance(value, list):
                return bytes(cast(list[int], value))
            if isinstance(value, str):
                return bytes.fromhex(value[2:]) if value.startswith("\\x") else value.encode()
        except (ValueError, TypeError):
            pass
        raise _mismatch(column, expected, value)

    return parse


def _json(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> str:
        if not isinstance(value, str):
            return _json_text(expected, column, value)
        try:
            value.encode()
            json.loads(value, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise _mismatch(column, expected, value) from None
        return value

    return parse


def _json_text(expected: ColumnType, column: str, value: Any) -> str:
    """The text of a value that is no text; refused when it is too deep or JSON has no form of
    it.
    """
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise _mismatch(column, expected, value) from None


def _refuse_constant(word: str) -> Any:
    raise ValueError(word)


def _timestamp(expected: ColumnType, column: str) -> Parse:
    low, high = INTEGER_RANGE[Kind.BIGINT]

    def parse(value: Any) -> int:
        if isinstance(value, bool):
            raise _mismatch(column, expected, value)
        if isinstance(value, int):
            if low <= value <= high:
                return value
            raise ValueOutOfRange(column, expected.sql, shown(value))
        if isinstance(value, str):
            return timestamp_us(value, column, expected)
        raise _mismatch(column, expected, value)

    return parse


def timestamp_us(text: str, column: str, expected: ColumnType) -> int:
    """µs since the epoch of an ISO 8601 text; a text without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise _mismatch(column, expected, text) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def _date(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> int:
        if isinstance(value, str):
            try:
                # The day of a timestamp counts, as in PostgreSQL; anything else behind it does not.
                return (datetime.fromisoformat(value.strip()).date() - _EPOCH_DAY).days
            except ValueError:
                raise _mismatch(column, expected, value) from None
        if isinstance(value, int) and not isinstance(value, bool):
            if -(1 << 31) <= value < 1 << 31:
                return value
            raise ValueOutOfRange(column, expected.sql, shown(value))
        raise _mismatch(column, expected, value)

    return parse


def _time(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> int:
        if isinstance(value, str):
            try:
                moment = time.fromisoformat(value.strip())
            except ValueError:
                raise _mismatch(column, expected, value) from None
            seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
            return seconds * 1_000_000 + moment.microsecond
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < _DAY_US:
                return value
            raise ValueOutOfRange(column, expected.sql, shown(value))
        raise _mismatch(column, expected, value)

    return parse


def _uuid(expected: ColumnType, column: str) -> Parse:
    def parse(value: Any) -> bytes:
        if isinstance(value, bytes) and len(value) == 16:
            return value
        if isinstance(value, str):
            try:
                return uuid.UUID(value).bytes
            except ValueError:
                pass
        raise _mismatch(column, expected, value)

    return parse


def _embedding(expected: ColumnType, column: str) -> Parse:
    pack = struct.Struct(f"<{expected.size}f")

    def parse(value: Any) -> bytes:
        if isinstance(value, bytes) and len(value) == pack.size:
            return value
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                raise _mismatch(column, expected, value) from None
        if not isinstance(value, list):
            raise _mismatch(column, expected, value)
        elements = cast(list[Any], value)
        if len(elements) != expected.size:
            raise TypeMismatch(column, expected.sql, f"got {len(elements)} dimensions")
        try:
            packed = pack.pack(*elements)
        except (struct.error, OverflowError):
            raise TypeMismatch(column, expected.sql, "every element must be a number") from None
        if not all(map(math.isfinite, elements)):
            raise ValueOutOfRange(column, expected.sql, "an element is not finite")
        return packed

    return parse


def embedding_floats(value: bytes) -> list[float]:
    """The elements of a stored EMBEDDING."""
    return list(struct.unpack(f"<{len(value) // 4}f", value))


_PARSERS: dict[Kind, Callable[[ColumnType, str], Parse]] = {
    Kind.BOOLEAN: _boolean,
    Kind.SMALLINT: _integer,
    Kind.INT: _integer,
    Kind.BIGINT: _integer,
    Kind.FLOAT: _float,
    Kind.DOUBLE: _float,
    Kind.DECIMAL: _decimal,
    Kind.TEXT: _text,
    Kind.BYTES: _bytes,
    Kind.JSON: _json,
    Kind.FILE: _json,
    Kind.TIMESTAMP: _timestamp,
    Kind.DATETIME: _timestamp,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.UUID: _uuid,
    Kind.EMBEDDING: _embedding,
}

_ENCODERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.BIGINT: str,
    Kind.BYTES: list,
    Kind.UUID: lambda value: str(uuid.UUID(bytes=value)),
    Kind.EMBEDDING: embedding_floats,
}
