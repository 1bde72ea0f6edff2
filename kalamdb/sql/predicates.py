# pyright: basic
"""Comparisons of SQL as closures: =, BETWEEN, IN, IS, LIKE, IS DISTINCT FROM.

`compile_node` is handed in by `expression.py`, which stands above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from sqlglot import exp

from kalamdb.model.types import BOOLEAN, TEXT, ColumnType, Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.logic import boolean_of, connect, construct, invert, only
from kalamdb.sql.operands import (
    INTEGERS,
    TEXTS,
    check_comparable,
    check_literal,
    comparable,
    literal,
    typed,
    untyped,
)
from kalamdb.sql.operators import (
    SWAPPED,
    comparable_parameter,
    compare,
    compare_literal,
    distinct,
)
from kalamdb.sql.patterns import pattern_test
from kalamdb.sql.scope import Compiled, Function, NotCompilable, Scope, constant
from kalamdb.sql.syntax import Constant, Param

Compile = Callable[[Any, Scope], Compiled]
ITEMS_MAX = 10_000  # of one IN list


def distinct_from(node: Any, scope: Scope, compile_node: Compile, *, negated: bool) -> Compiled:
    left, right = beside(node.this, node.expression, scope, compile_node)
    return distinct(left, right, negate=negated)


def compared(op: str, left: Any, right: Any, scope: Scope, compile_node: Compile) -> Compiled:
    """left op right; a literal takes the type of the other side."""
    left_literal, right_literal = literal(left), literal(right)
    if right_literal is not None and left_literal is None:
        return compare_literal(op, compile_node(left, scope), right_literal)
    if left_literal is not None and right_literal is None:
        return compare_literal(SWAPPED[op], compile_node(right, scope), left_literal)
    return compare(op, compile_node(left, scope), compile_node(right, scope))


def beside(left: Any, right: Any, scope: Scope, compile_node: Compile) -> tuple[Compiled, Compiled]:
    """Two operands, a literal typed by the other side."""
    left_literal, right_literal = literal(left), literal(right)
    if left_literal is not None and right_literal is None:
        b = compile_node(right, scope)
        return _typed_beside(left_literal, b), b
    a = compile_node(left, scope)
    if right_literal is not None and left_literal is None:
        return a, _typed_beside(right_literal, a)
    return a, compile_node(right, scope)


def _typed_beside(operand: Constant | Param, beside: Compiled) -> Compiled:
    if beside.type is None:
        return untyped(operand)
    if isinstance(operand, Constant):
        check_literal(beside.type, operand.value)
        if operand.value is None:
            return constant(None, None)
        if not isinstance(operand.value, str) and beside.type.is_numeric:
            exact = beside.type.kind is Kind.DECIMAL and not isinstance(operand.value, bool)
            return _decimal_constant(operand.value) if exact else untyped(operand)
    return typed(operand, _wide(beside.type))


def _decimal_constant(value: Any) -> Compiled:
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    scale = max(0, -exponent) if isinstance(exponent, int) else 0
    if scale > 38:
        raise NotCompilable("a number with more than 38 decimals")
    return constant(ColumnType(Kind.DECIMAL, precision=38, scale=scale), number)


def _wide(column_type: ColumnType) -> ColumnType:
    """The type a literal takes beside an expression: as wide as its family is."""
    if column_type.kind in INTEGERS:
        return ColumnType(Kind.BIGINT)
    if column_type.kind is Kind.DECIMAL:
        return ColumnType(Kind.DECIMAL, precision=38, scale=max(column_type.scale, 10))
    return column_type


def between(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this", "low", "high")
    return connect(
        [
            compared(">=", node.this, node.args["low"], scope, compile_node),
            compared("<=", node.this, node.args["high"], scope, compile_node),
        ],
        decisive=False,
    )


def member(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    if node.args.get("query") is not None:
        raise NotCompilable("a subquery")
    only(node, "this", "expressions")
    items = node.expressions
    if len(items) > ITEMS_MAX:
        raise NotCompilable(f"an IN list with more than {ITEMS_MAX} values")
    operands = [literal(item) for item in items]
    if literal(node.this) is not None or any(operand is None for operand in operands):
        parts = [compared("=", node.this, item, scope, compile_node) for item in items]
        return connect(parts, decisive=True)
    left = compile_node(node.this, scope)
    return _in_literals(left, [operand for operand in operands if operand is not None])


def _in_literals(left: Compiled, operands: Sequence[Constant | Param]) -> Compiled:
    if left.type is None:
        return constant(BOOLEAN, None)
    column_type = left.type
    fixed: list[tuple[Any, Any]] = []
    for operand in operands:
        if isinstance(operand, Constant):
            check_literal(column_type, operand.value)
            fixed.append(comparable(column_type, operand.value))
        else:
            check_comparable(column_type)
    indices = [operand.index for operand in operands if isinstance(operand, Param)]

    def at(env: Env) -> Function:
        pairs = fixed + [comparable_parameter(column_type, env, index) for index in indices]
        exact = frozenset(value for value, convert in pairs if convert is None)
        floats = frozenset(value for value, convert in pairs if convert is not None)
        missing = None if None in exact else False
        a = left.at(env)

        def test(row: Any, other: Any) -> Any:
            x = a(row, other)
            if x is None:
                return None
            return True if x in exact or (floats and float(x) in floats) else missing

        return test

    return Compiled(BOOLEAN, at, constant=left.constant, needs_env=left.needs_env or bool(indices))


def is_test(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this", "expression", "negate")
    wanted: bool | None
    match node.expression:
        case exp.Null():
            wanted = None
        case exp.Boolean():
            wanted = bool(node.expression.this)
        case other:
            raise NotCompilable(f"IS {construct(other)}")
    inner = compile_node(node.this, scope)
    if wanted is not None:
        inner = boolean_of(inner)
    found = _is_value(inner, wanted)
    return invert(found) if node.args.get("negate") else found


def _is_value(inner: Compiled, wanted: bool | None) -> Compiled:
    column = inner.column

    def at(env: Env) -> Function:
        if column is not None:

            def column_is(row: Any, other: Any) -> bool:
                return row.get(column) is wanted

            return column_is
        a = inner.at(env)

        def value_is(row: Any, other: Any) -> bool:
            return a(row, other) is wanted

        return value_is

    return Compiled(BOOLEAN, at, constant=inner.constant, needs_env=inner.needs_env)


def like(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    escape: str | None = "\\"
    if isinstance(node, exp.Escape):
        operand = literal(node.expression)
        if not isinstance(operand, Constant) or not isinstance(operand.value, str):
            raise NotCompilable("ESCAPE with something other than a text")
        if len(operand.value) > 1:
            raise NotCompilable("ESCAPE with more than one character")
        escape = operand.value or None
        node = node.this
        if not isinstance(node, (exp.Like, exp.ILike)):
            raise NotCompilable("ESCAPE without LIKE")
    only(node, "this", "expression", "negate")
    found = _like_test(node, scope, escape, compile_node)
    return invert(found) if node.args.get("negate") else found


def _like_test(node: Any, scope: Scope, escape: str | None, compile_node: Compile) -> Compiled:
    operand = literal(node.expression)
    if operand is None:
        raise NotCompilable("LIKE with a pattern that is no literal or parameter")
    this = literal(node.this)
    left = typed(this, TEXT) if this is not None else compile_node(node.this, scope)
    if left.type is None:
        return constant(BOOLEAN, None)
    if left.type.kind not in TEXTS:
        raise NotCompilable(f"{left.type.sql} LIKE")
    if isinstance(operand, Constant) and not isinstance(operand.value, (str, type(None))):
        raise NotCompilable("LIKE with a pattern that is no text")
    pattern = typed(operand, TEXT)
    ignore_case = isinstance(node, exp.ILike)

    def at(env: Env) -> Function:
        text = pattern.at(env)(None, None)
        if text is None:
            return lambda row, other: None
        matches = pattern_test(text, escape, ignore_case=ignore_case)
        a = left.at(env)

        def test(row: Any, other: Any) -> Any:
            x = a(row, other)
            return None if x is None else matches(x)

        return test

    return Compiled(
        BOOLEAN,
        at,
        constant=left.constant,
        needs_env=left.needs_env or pattern.needs_env,
    )
