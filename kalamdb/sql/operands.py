# pyright: basic
"""Literals and parameters beside something of a known type: they take that type, as in PostgreSQL.

`'2024-01-01'` beside a DATE is a date, `$1` beside a UUID is a UUID. Numbers beside numbers are
compared by value: exactly between integers and decimals, as doubles when a float takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidParameter, TypeMismatch, ValueOutOfRange
from kalamdb.model.types import BIGINT, BOOLEAN, DOUBLE, TEXT, ColumnType, Kind
from kalamdb.model.values import parser, shown
from kalamdb.sql.bound import Env
from kalamdb.sql.scope import Compiled, NotCompilable, constant
from kalamdb.sql.syntax import NUMBER_LENGTH_MAX, Constant, Param

Convert = Callable[[Any], Any]

INTEGERS = frozenset((Kind.SMALLINT, Kind.INT, Kind.BIGINT))
FLOATS = frozenset((Kind.FLOAT, Kind.DOUBLE))
TEXTS = frozenset((Kind.TEXT, Kind.JSON, Kind.FILE))
MOMENTS = frozenset((Kind.TIMESTAMP, Kind.DATETIME))
DAY_US = 86_400_000_000
_INTEGER_TEXT_MAX = 40


def literal(node: Any) -> Constant | Param | None:
    """The literal or parameter a node is (in parentheses or behind a minus sign too), else None."""
    while isinstance(node, exp.Paren):
        node = node.this
    match node:
        case exp.Literal():
            return Constant(node.this if node.is_string else number_value(node.this))
        case exp.Neg():
            inner = node.this
            while isinstance(inner, exp.Paren):
                inner = inner.this
            if isinstance(inner, exp.Literal) and not inner.is_string:
                return Constant(-number_value(inner.this))
            return None
        case exp.Boolean():
            return Constant(bool(node.this))
        case exp.Null():
            return Constant(None)
        case exp.Parameter():
            return Param(parameter_of(node))
        case exp.ByteString():
            return Constant(str(node.this))
        case _:
            return None


def number_value(text: str) -> int | Decimal:
    """The exact value of a number in a tree."""
    text = text.replace("_", "")
    if len(text) > NUMBER_LENGTH_MAX:
        raise ValueOutOfRange(None, "a number", shown(text))
    if text.isdecimal():
        return int(text)
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise NotCompilable(f"the number {text[:40]}") from None
    if not value.is_finite() or abs(value.adjusted()) >= NUMBER_LENGTH_MAX:
        raise ValueOutOfRange(None, "a number", shown(text))
    return value


def parameter_of(node: exp.Parameter) -> int:
    """0-based index of `$n`."""
    inner = node.this
    if not isinstance(inner, exp.Literal) or inner.is_string or not inner.this.isdecimal():
        raise NotCompilable("this parameter")
    return int(inner.this) - 1


def parameter(env: Env, index: int) -> Any:
    """The value of a parameter. Raises InvalidParameter when it was not sent."""
    try:
        return env.params[index]
    except IndexError:
        raise InvalidParameter(
            index + 1, f"missing, {len(env.params)} parameters were sent"
        ) from None


def typed(operand: Constant | Param, column_type: ColumnType) -> Compiled:
    """The operand as a value of `column_type`, as if it were assigned to a column of it."""
    stored = parser(column_type, "")

    def parse(value: Any) -> Any:
        found = stored(value)
        return found if found is None or column_type.kind is not Kind.DECIMAL else Decimal(found)

    if isinstance(operand, Constant):
        return constant(column_type, parse(operand.value))
    index = operand.index

    def at(env: Env) -> Any:
        value = _parameter_as(parse, env, index)

        def fixed(row: Any, other: Any) -> Any:
            return value

        return fixed

    return Compiled(column_type, at, constant=True, needs_env=True)


def _parameter_as(parse: Convert, env: Env, index: int) -> Any:
    try:
        return parse(parameter(env, index))
    except (TypeMismatch, ValueOutOfRange) as error:
        raise InvalidParameter(index + 1, str(error)) from error


def untyped(operand: Constant | Param) -> Compiled:
    """A literal where nothing tells a type: an integer is BIGINT, another number DOUBLE."""
    if isinstance(operand, Param):
        raise NotCompilable("a parameter whose type is not told by its place")
    value = operand.value
    match value:
        case None:
            return constant(None, None)
        case bool():
            return constant(BOOLEAN, value)
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise NotCompilable("a number beyond BIGINT")
            return constant(BIGINT, value)
        case Decimal():
            return constant(DOUBLE, float(value))
        case _:
            return constant(TEXT, value)


# ---- comparison ----------------------------------------------------------------------------------


def comparable(column_type: ColumnType, value: Any) -> tuple[Any, Convert | None]:
    """A literal or parameter value made comparable with values of `column_type`.

    Gives the value and what to apply to the other side first (None: nothing). Raises TypeMismatch
    for text that is no such value; NotCompilable where PostgreSQL has no operator.
    """
    kind = column_type.kind
    if value is None:
        return None, None
    if kind in INTEGERS:
        return _beside_integer(column_type, value)
    if kind is Kind.DECIMAL:
        return _exact(column_type, value), None
    if kind in FLOATS:
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            return _double(value), None
        return parser(column_type, "")(value), None
    if kind is Kind.TEXT:
        return parser(column_type, "")(value), None
    if kind in TEXTS:
        return parser(TEXT, "")(value), None
    check_comparable(column_type)
    return parser(column_type, "")(value), None


def check_comparable(column_type: ColumnType) -> None:
    """Refuse to compile what has no comparison, before a parameter's value is there."""
    if column_type.kind is Kind.EMBEDDING:
        raise NotCompilable("comparing EMBEDDING")


def check_literal(column_type: ColumnType, value: Any) -> None:
    """Refuse to compile what only a parameter may be: a bare number beside TEXT, say."""
    number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    kind = column_type.kind
    if number and not (column_type.is_numeric or kind in MOMENTS or kind in (Kind.DATE, Kind.TIME)):
        raise NotCompilable(f"a number beside {column_type.sql}")
    if isinstance(value, bool) and kind is not Kind.BOOLEAN:
        raise NotCompilable(f"a BOOLEAN beside {column_type.sql}")


def _beside_integer(column_type: ColumnType, value: Any) -> tuple[Any, Convert | None]:
    if isinstance(value, str):
        text = value.strip()
        try:
            if len(text) <= _INTEGER_TEXT_MAX:
                return int(text), None
        except ValueError:
            pass
        raise TypeMismatch(None, column_type.sql, f"got {shown(value)!r}")
    if isinstance(value, bool):
        raise TypeMismatch(None, column_type.sql, f"got {value}")
    if isinstance(value, int):
        return value, None
    if isinstance(value, (float, Decimal)):
        return _double(value), float
    raise TypeMismatch(None, column_type.sql, f"got {type(value).__name__}")


def _double(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueOutOfRange(None, "DOUBLE", shown(value)) from None


def _exact(column_type: ColumnType, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise TypeMismatch(None, column_type.sql, f"got {type(value).__name__}")
    try:
        number = Decimal(str(value).strip()) if len(str(value)) <= NUMBER_LENGTH_MAX else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite():
        raise TypeMismatch(None, column_type.sql, f"got {shown(value)!r}")
    return number


def common(left: ColumnType, right: ColumnType) -> tuple[Convert | None, Convert | None]:
    """What to apply to each side before comparing them. Raises NotCompilable."""
    a, b = left.kind, right.kind
    if Kind.EMBEDDING in (a, b):
        raise NotCompilable("comparing EMBEDDING")
    if a is b or (a in TEXTS and b in TEXTS) or (a in MOMENTS and b in MOMENTS):
        return None, None
    if left.is_numeric and right.is_numeric:
        if Kind.DECIMAL in (a, b) and (a in FLOATS or b in FLOATS):
            raise NotCompilable("comparing DECIMAL with a float")  # the engine rounds the float
        if a in FLOATS or b in FLOATS:
            return (None if a in FLOATS else float), (None if b in FLOATS else float)
        return None, None  # int and Decimal compare exactly
    if a is Kind.DATE and b in MOMENTS:
        return midnight_us, None
    if b is Kind.DATE and a in MOMENTS:
        return None, midnight_us
    raise NotCompilable(f"comparing {left.sql} with {right.sql}")


def midnight_us(days: int) -> int:
    return days * DAY_US
