# pyright: basic
"""CAST and `::` as closures, where the result is the engine's to the last digit; other casts are
left to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from sqlglot import exp

from kalamdb.errors import TypeMismatch, UnreadableText, ValueOutOfRange
from kalamdb.model.types import INTEGER_RANGE, ColumnType, Kind
from kalamdb.sql.operands import DAY_US, INTEGERS, MOMENTS, TEXTS, literal, typed
from kalamdb.sql.operators import applied
from kalamdb.sql.scope import Compiled, NotCompilable, Scope, constant

_TYPES: dict[Any, Kind] = {
    exp.DType.BOOLEAN: Kind.BOOLEAN,
    exp.DType.SMALLINT: Kind.SMALLINT,
    exp.DType.INT: Kind.INT,
    exp.DType.BIGINT: Kind.BIGINT,
    exp.DType.DOUBLE: Kind.DOUBLE,
    exp.DType.TEXT: Kind.TEXT,
    exp.DType.VARCHAR: Kind.TEXT,
    exp.DType.TIMESTAMP: Kind.TIMESTAMP,
    exp.DType.TIMESTAMPTZ: Kind.DATETIME,
    exp.DType.DATETIME: Kind.DATETIME,
    exp.DType.DATE: Kind.DATE,
    exp.DType.TIME: Kind.TIME,
    exp.DType.UUID: Kind.UUID,
}
_WHOLE = re.compile(r"[+-]?\d{1,30}")


def cast_type(node: Any) -> ColumnType:
    """The column type a CAST names. Raises NotCompilable."""
    to = node.args["to"]
    if node.args.get("format") or node.args.get("safe") or node.args.get("action"):
        raise NotCompilable("this form of CAST")
    kind = _TYPES.get(to.this) if isinstance(to, exp.DataType) else None
    if kind is None or to.expressions or to.args.get("nested"):
        raise NotCompilable("CAST to this type")
    return ColumnType(kind)


def compile_cast(
    node: Any, scope: Scope, compile_node: Callable[[Any, Scope], Compiled]
) -> Compiled:
    target = cast_type(node)
    operand = literal(node.this)
    if operand is not None:
        value = getattr(operand, "value", None)
        if value is None or isinstance(value, str):  # NULL, a text or a parameter
            try:
                return typed(operand, target)
            except TypeMismatch as error:
                raise UnreadableText(
                    f"cannot cast the text {str(value)[:60]!r} to {target.sql}"
                ) from error
    inner = compile_node(node.this, scope)
    if inner.type is None:
        return constant(target, None)
    return _convert(inner, inner.type, target)


def _convert(inner: Compiled, source: ColumnType, target: ColumnType) -> Compiled:
    a, b = source.kind, target.kind
    if a is b and a is not Kind.DECIMAL:
        return inner
    if b in INTEGERS:
        if a in INTEGERS:
            return applied(inner, target, _in_range(target))
        if a is Kind.DOUBLE:
            return applied(inner, target, _truncated(target))
        if a is Kind.TEXT:
            return applied(inner, target, _whole(target))
    if b is Kind.DOUBLE and (a in INTEGERS or a in (Kind.DECIMAL, Kind.FLOAT)):
        return applied(inner, target, float)
    if b is Kind.TEXT:
        if a in INTEGERS:
            return applied(inner, target, str)
        if a is Kind.BOOLEAN:
            return applied(inner, target, lambda value: "true" if value else "false")
        if a in TEXTS:
            return applied(inner, target, str)
    if a in MOMENTS and b in MOMENTS:
        return applied(inner, target, int)
    if a is Kind.DATE and b in MOMENTS:
        return applied(inner, target, lambda days: days * DAY_US)
    if a in MOMENTS and b is Kind.DATE:
        return applied(inner, target, lambda moment: moment // DAY_US)
    raise NotCompilable(f"CAST from {source.sql} to {target.sql}")


def _in_range(target: ColumnType) -> Callable[[int], int]:
    low, high = INTEGER_RANGE[target.kind]

    def check(value: int) -> int:
        if low <= value <= high:
            return value
        raise ValueOutOfRange(None, target.sql, str(value))

    return check


def _truncated(target: ColumnType) -> Callable[[float], int]:
    check = _in_range(target)

    def truncate(value: float) -> int:
        if not math.isfinite(value):
            raise ValueOutOfRange(None, target.sql, str(value))
        return check(int(value))

    return truncate


def _whole(target: ColumnType) -> Callable[[str], int]:
    check = _in_range(target)

    def read(text: str) -> int:
        if _WHOLE.fullmatch(text) is None or not text.isascii():
            raise UnreadableText(f"cannot cast the text {text[:60]!r} to {target.sql}")
        return check(int(text))

    return read
