# pyright: basic
"""Comparisons and arithmetic as closures, made for the shapes that are frequent: column beside
constant.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from decimal import Context
from typing import Any

from kalamdb.errors import (
    DivisionByZero,
    InvalidParameter,
    QueryFailed,
    TypeMismatch,
    ValueOutOfRange,
)
from kalamdb.model.types import BIGINT, BOOLEAN, DOUBLE, INTEGER_RANGE, ColumnType, Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.operands import (
    FLOATS,
    INTEGERS,
    Convert,
    check_comparable,
    check_literal,
    common,
    comparable,
    parameter,
)
from kalamdb.sql.scope import Compiled, Function, NotCompilable, constant
from kalamdb.sql.syntax import Constant, Param

Test = Callable[[Any, Any], bool]

COMPARE: dict[str, Test] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SWAPPED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


_WIDE = Context(prec=76)
_DECIMAL_LIMIT = 10**38


# ---- comparison ----------------------------------------------------------------------------------


def compare(op: str, left: Compiled, right: Compiled) -> Compiled:
    """left op right, of any two expressions."""
    if left.type is None or right.type is None:
        return constant(BOOLEAN, None)
    test = COMPARE[op]
    convert_left, convert_right = common(left.type, right.type)

    def at(env: Env) -> Function:
        a, b = left.at(env), right.at(env)
        if right.constant:
            value = b(None, None)
            if value is not None and convert_right is not None:
                value = convert_right(value)
            return beside_constant(op, left, a, convert_left, value)
        return _both(test, a, b, convert_left, convert_right)

    return Compiled(
        BOOLEAN,
        at,
        constant=left.constant and right.constant,
        needs_env=left.needs_env or right.needs_env,
    )


def _both(
    test: Test, a: Function, b: Function, convert_a: Convert | None, convert_b: Convert | None
) -> Function:
    if convert_a is None and convert_b is None:

        def plain(row: Any, other: Any) -> Any:
            x = a(row, other)
            if x is None:
                return None
            y = b(row, other)
            return None if y is None else test(x, y)

        return plain

    def converted(row: Any, other: Any) -> Any:
        x = a(row, other)
        if x is None:
            return None
        y = b(row, other)
        if y is None:
            return None
        if convert_a is not None:
            x = convert_a(x)
        if convert_b is not None:
            y = convert_b(y)
        return test(x, y)

    return converted


def compare_literal(op: str, left: Compiled, operand: Constant | Param) -> Compiled:
    """left op literal; the literal takes the type of the left side."""
    if left.type is None:
        return constant(BOOLEAN, None)
    column_type = left.type
    prepared: tuple[Any, Convert | None] | None = None
    if isinstance(operand, Constant):
        check_literal(column_type, operand.value)
        prepared = comparable(column_type, operand.value)
    else:
        check_comparable(column_type)

    def at(env: Env) -> Function:
        if prepared is None:
            assert isinstance(operand, Param)
            value, convert = comparable_parameter(column_type, env, operand.index)
        else:
            value, convert = prepared
        return beside_constant(op, left, left.at(env), convert, value)

    return Compiled(
        BOOLEAN,
        at,
        constant=left.constant,
        needs_env=left.needs_env or isinstance(operand, Param),
    )


def comparable_parameter(
    column_type: ColumnType, env: Env, index: int
) -> tuple[Any, Convert | None]:
    """`comparable` for a parameter; its errors name the parameter."""
    try:
        return comparable(column_type, parameter(env, index))
    except (TypeMismatch, ValueOutOfRange) as error:
        raise InvalidParameter(index + 1, str(error)) from error


def unknown(row: Any, other: Any) -> Any:
    """NULL, whatever the row."""
    return None


def beside_constant(
    op: str, left: Compiled, a: Function, convert: Convert | None, value: Any
) -> Function:
    test = COMPARE[op]
    if value is None:
        return unknown
    column = left.column
    if column is not None and convert is None:
        if op == "=":

            def equal(row: Any, other: Any) -> Any:
                x = row.get(column)
                return None if x is None else x == value

            return equal

        def column_test(row: Any, other: Any) -> Any:
            x = row.get(column)
            return None if x is None else test(x, value)

        return column_test

    if convert is None:

        def plain(row: Any, other: Any) -> Any:
            x = a(row, other)
            return None if x is None else test(x, value)

        return plain

    def converted(row: Any, other: Any) -> Any:
        x = a(row, other)
        return None if x is None else test(convert(x), value)

    return converted


def distinct(left: Compiled, right: Compiled, *, negate: bool) -> Compiled:
    """IS DISTINCT FROM (`negate`: IS NOT DISTINCT FROM); never NULL."""
    equal = compare("=", left, right)
    nulls = left.type is None or right.type is None

    def at(env: Env) -> Function:
        a, b, same = left.at(env), right.at(env), equal.at(env)

        def test(row: Any, other: Any) -> bool:
            x, y = a(row, other), b(row, other)
            if x is None or y is None or nulls:
                return (x is None and y is None) is negate
            return same(row, other) is negate

        return test

    return Compiled(
        BOOLEAN,
        at,
        constant=left.constant and right.constant,
        needs_env=left.needs_env or right.needs_env,
    )


# ---- arithmetic ----------------------------------------------------------------------------------

_RANK = {Kind.SMALLINT: 0, Kind.INT: 1, Kind.BIGINT: 2}


def arithmetic(op: str, left: Compiled, right: Compiled) -> Compiled:
    """+ - * / % over numbers; integers stay integers and never wrap around."""
    if left.type is None or right.type is None:
        return constant(left.type or right.type or BIGINT, None)
    a, b = left.type.kind, right.type.kind
    if not (left.type.is_numeric and right.type.is_numeric):
        raise NotCompilable(f"{left.type.sql} {op} {right.type.sql}")
    if a in INTEGERS and b in INTEGERS:
        wider = left.type if _RANK[a] >= _RANK[b] else right.type
        return _binary(_integer_operation(op, wider), wider, left, right)
    if a in FLOATS or b in FLOATS:
        if Kind.DOUBLE not in (a, b):
            raise NotCompilable(f"{left.type.sql} {op} {right.type.sql}")
        return _binary(_float_operation(op), DOUBLE, left, right)
    return _binary(_decimal_operation(op), _decimal_type(op, left.type, right.type), left, right)


def _binary(
    operate: Callable[[Any, Any], Any],
    result: ColumnType,
    left: Compiled,
    right: Compiled,
) -> Compiled:
    def at(env: Env) -> Function:
        a, b = left.at(env), right.at(env)

        def run(row: Any, other: Any) -> Any:
            x = a(row, other)
            if x is None:
                return None
            y = b(row, other)
            return None if y is None else operate(x, y)

        return run

    return Compiled(
        result,
        at,
        constant=left.constant and right.constant,
        needs_env=left.needs_env or right.needs_env,
    )


def _integer_operation(op: str, result: ColumnType) -> Callable[[int, int], int]:
    low, high = INTEGER_RANGE[result.kind]
    compute = _INTEGER[op]

    def operate(a: int, b: int) -> int:
        value = compute(a, b)
        if low <= value <= high:
            return value
        raise ValueOutOfRange(None, result.sql, f"{a} {op} {b}")

    return operate


def _integer_divide(a: int, b: int) -> int:
    if b == 0:
        raise DivisionByZero
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) is (b < 0) else -quotient


def _integer_remainder(a: int, b: int) -> int:
    if b == 0:
        raise DivisionByZero
    rest = abs(a) % abs(b)
    return -rest if a < 0 else rest


_INTEGER: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _integer_divide,
    "%": _integer_remainder,
}


def _float_divide(a: float, b: float) -> float:
    if b:
        return a / b
    if a != a or a == 0:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1, b)


def _float_remainder(a: float, b: float) -> float:
    try:
        return math.fmod(a, b)
    except ValueError:
        return math.nan


_FLOAT: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _float_divide,
    "%": _float_remainder,
}


def _float_operation(op: str) -> Callable[[Any, Any], float]:
    compute = _FLOAT[op]

    def operate(a: Any, b: Any) -> float:
        result = compute(float(a), float(b))
        if result != result:
            raise QueryFailed(f"{a} {op} {b} is not a number")
        return result

    return operate


def _decimal_type(op: str, left: ColumnType, right: ColumnType) -> ColumnType:
    scales = left.scale, right.scale  # integers have scale 0
    match op:
        case "+" | "-":
            scale = max(scales)
        case "*":
            scale = sum(scales)
        case _:
            raise NotCompilable(
                f"DECIMAL {op}"
            )  # the engine settles how many digits a quotient has
    if scale > 38:
        raise NotCompilable("DECIMAL with more than 38 decimals")
    return ColumnType(Kind.DECIMAL, precision=38, scale=scale)


def _decimal_operation(op: str) -> Callable[[Any, Any], Any]:
    compute = {"+": _WIDE.add, "-": _WIDE.subtract, "*": _WIDE.multiply}.get(op)
    if compute is None:
        raise NotCompilable(f"DECIMAL {op}")

    def operate(a: Any, b: Any) -> Any:
        value = compute(a, b)
        if abs(value) < _DECIMAL_LIMIT:
            return value
        raise ValueOutOfRange(None, "DECIMAL", f"{a} {op} {b}")

    return operate


def negate(inner: Compiled) -> Compiled:
    if inner.type is None:
        return inner
    if not inner.type.is_numeric:
        raise NotCompilable(f"- {inner.type.sql}")
    column_type = inner.type
    low, high = INTEGER_RANGE.get(column_type.kind, (None, None))

    def minus(value: Any) -> Any:
        value = -value
        if low is not None and high is not None and not low <= value <= high:
            raise ValueOutOfRange(None, column_type.sql, str(value))
        return value

    return applied(inner, column_type, minus)


def applied(inner: Compiled, result: ColumnType, function: Callable[[Any], Any]) -> Compiled:
    """`function` of one value; NULL stays NULL."""

    def at(env: Env) -> Function:
        a = inner.at(env)

        def run(row: Any, other: Any) -> Any:
            x = a(row, other)
            return None if x is None else function(x)

        return run

    return Compiled(
        result,
        at,
        constant=inner.constant,
        needs_env=inner.needs_env,
    )
