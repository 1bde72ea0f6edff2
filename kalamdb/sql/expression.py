# pyright: basic
"""Expressions of SQL compiled to Python closures, with the query engine's semantics.

`compile_expression` gives a `Compiled` or raises NotCompilable, and the caller takes the path
through the engine, or refuses. Semantics that are ours on purpose: integers never wrap around (the
engine's do), and literals and parameters take the type of what they stand beside.

Keeps: three-valued logic; no look at types per row; no expression is compiled that could answer
otherwise than the engine would over the same rows (tests/unit/sql/test_expression_engine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from kalamdb.model.types import BOOLEAN, TEXT, ColumnType, Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.casts import compile_cast
from kalamdb.sql.functions import FUNCTIONS, unify
from kalamdb.sql.operands import (
    INTEGERS,
    TEXTS,
    check_literal,
    comparable,
    literal,
    typed,
    untyped,
)
from kalamdb.sql.operators import (
    SWAPPED,
    applied,
    arithmetic,
    comparable_parameter,
    compare,
    compare_literal,
    distinct,
    negate,
)
from kalamdb.sql.patterns import pattern_test
from kalamdb.sql.scope import Compiled, Function, NotCompilable, Scope, constant
from kalamdb.sql.syntax import Constant, Param

ITEMS_MAX = 10_000  # of one IN list, and of one chain of AND or OR


def compile_expression(tree: exp.Expr, scope: Scope) -> Compiled:
    """Raises NotCompilable, and the errors of names and literals: UnknownColumn, TypeMismatch."""
    try:
        return compile_node(tree, scope)
    except RecursionError as error:
        raise NotCompilable("an expression as deep as this") from error


def compile_condition(tree: exp.Expr, scope: Scope) -> Compiled:
    """A BOOLEAN expression. Raises as `compile_expression`."""
    operand = literal(tree)
    if isinstance(operand, Param):
        return typed(operand, BOOLEAN)
    found = compile_expression(tree, scope)
    return _boolean(found)


def compile_node(node: Any, scope: Scope) -> Compiled:
    operand = literal(node)
    if operand is not None:
        return untyped(operand)
    compiler = _COMPILERS.get(type(node))
    if compiler is None:
        raise NotCompilable(construct(node))
    return compiler(node, scope)


def construct(node: Any) -> str:
    """What to call a node in a message."""
    if isinstance(node, exp.Anonymous):
        return f"{str(node.this).upper()}()"
    if isinstance(node, (exp.Subquery, exp.Query, exp.Exists)):
        return "a subquery"
    if isinstance(node, exp.AggFunc):
        return f"the aggregate {node.key.upper()}()"
    if isinstance(node, exp.Window):
        return "a window function"
    if isinstance(node, exp.Func):
        return f"{node.sql_name()}()"
    return node.key.upper()


def _boolean(found: Compiled) -> Compiled:
    if found.type is None:
        return constant(BOOLEAN, None)
    if found.type.kind is not Kind.BOOLEAN:
        raise NotCompilable(f"{found.type.sql} as a condition")
    return found


def _only(node: Any, *names: str) -> None:
    """An argument nobody here knows must not be dropped."""
    for name, value in node.args.items():
        if name not in names and value is not None and value is not False and value != []:
            raise NotCompilable(f"{name.strip('_').upper()} of {construct(node)}")


# ---- names, grouping -----------------------------------------------------------------------------


def _column(node: Any, scope: Scope) -> Compiled:
    if not isinstance(node.this, exp.Identifier):
        raise NotCompilable("*")
    return scope.column(node)


def _paren(node: Any, scope: Scope) -> Compiled:
    return compile_node(node.this, scope)


# ---- logic ---------------------------------------------------------------------------------------


def _chain(node: Any) -> list[Any]:
    """The operands of a chain of the same connector, left to right, without recursion."""
    kind, stack, found = type(node), [node], []
    while stack:
        top = stack.pop()
        inner = top
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if type(inner) is kind:
            stack.append(inner.expression)
            stack.append(inner.this)
        else:
            found.append(inner)
        if len(found) > ITEMS_MAX:
            raise NotCompilable(f"more than {ITEMS_MAX} conditions")
    return found


def _logic(node: Any, scope: Scope) -> Compiled:
    parts = [compile_condition(part, scope) for part in _chain(node)]
    decisive = isinstance(node, exp.Or)
    return connect(parts, decisive=decisive)


def connect(parts: Sequence[Compiled], *, decisive: bool) -> Compiled:
    """OR (`decisive` True) or AND (False) of conditions: the value that settles the result."""
    if len(parts) == 1:
        return parts[0]

    def at(env: Env) -> Function:
        tests = tuple(part.at(env) for part in parts)
        if decisive:

            def any_of(row: Any, other: Any) -> Any:
                result: bool | None = False
                for test in tests:
                    value = test(row, other)
                    if value:
                        return True
                    if value is None:
                        result = None
                return result

            return any_of

        def all_of(row: Any, other: Any) -> Any:
            result: bool | None = True
            for test in tests:
                value = test(row, other)
                if value is None:
                    result = None
                elif not value:
                    return False
            return result

        return all_of

    return Compiled(
        BOOLEAN,
        at,
        constant=all(part.constant for part in parts),
        needs_env=any(part.needs_env for part in parts),
    )


def invert(inner: Compiled) -> Compiled:
    def at(env: Env) -> Function:
        test = inner.at(env)

        def run(row: Any, other: Any) -> Any:
            value = test(row, other)
            return None if value is None else not value

        return run

    return Compiled(BOOLEAN, at, constant=inner.constant, needs_env=inner.needs_env)


def _not(node: Any, scope: Scope) -> Compiled:
    return invert(compile_condition(node.this, scope))


# ---- comparison ----------------------------------------------------------------------------------


def _comparison(op: str) -> Callable[[Any, Scope], Compiled]:
    def compile_comparison(node: Any, scope: Scope) -> Compiled:
        return compared(op, node.this, node.expression, scope)

    return compile_comparison


def compared(op: str, left: Any, right: Any, scope: Scope) -> Compiled:
    left_literal, right_literal = literal(left), literal(right)
    if right_literal is not None and left_literal is None:
        return compare_literal(op, compile_node(left, scope), right_literal)
    if left_literal is not None and right_literal is None:
        return compare_literal(SWAPPED[op], compile_node(right, scope), left_literal)
    return compare(op, compile_node(left, scope), compile_node(right, scope))


def _distinct(negated: bool) -> Callable[[Any, Scope], Compiled]:
    def compile_distinct(node: Any, scope: Scope) -> Compiled:
        left, right = _beside(node.this, node.expression, scope)
        return distinct(left, right, negate=negated)

    return compile_distinct


def _beside(left: Any, right: Any, scope: Scope) -> tuple[Compiled, Compiled]:
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
    from decimal import Decimal

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


def _between(node: Any, scope: Scope) -> Compiled:
    _only(node, "this", "low", "high")
    return connect(
        [
            compared(">=", node.this, node.args["low"], scope),
            compared("<=", node.this, node.args["high"], scope),
        ],
        decisive=False,
    )


def _in(node: Any, scope: Scope) -> Compiled:
    if node.args.get("query") is not None:
        raise NotCompilable("a subquery")
    _only(node, "this", "expressions")
    items = node.expressions
    if len(items) > ITEMS_MAX:
        raise NotCompilable(f"an IN list with more than {ITEMS_MAX} values")
    operands = [literal(item) for item in items]
    if literal(node.this) is not None or any(operand is None for operand in operands):
        parts = [compared("=", node.this, item, scope) for item in items]
        return connect(parts, decisive=True)
    left = compile_node(node.this, scope)
    return _in_literals(left, [operand for operand in operands if operand is not None])


def _in_literals(left: Compiled, operands: Sequence[Constant | Param]) -> Compiled:
    if left.type is None:
        return constant(BOOLEAN, None)
    if left.computed:
        return connect([compare_literal("=", left, operand) for operand in operands], decisive=True)
    column_type = left.type
    fixed: list[tuple[Any, Any]] = []
    for operand in operands:
        if isinstance(operand, Constant):
            check_literal(column_type, operand.value)
            fixed.append(comparable(column_type, operand.value))
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


def _is(node: Any, scope: Scope) -> Compiled:
    _only(node, "this", "expression", "negate")
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
        inner = _boolean(inner)
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


def _like(node: Any, scope: Scope) -> Compiled:
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
    _only(node, "this", "expression", "negate")
    found = _like_test(node, scope, escape)
    return invert(found) if node.args.get("negate") else found


def _like_test(node: Any, scope: Scope, escape: str | None) -> Compiled:
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


# ---- arithmetic, CASE ----------------------------------------------------------------------------


def _arithmetic(op: str) -> Callable[[Any, Scope], Compiled]:
    def compile_arithmetic(node: Any, scope: Scope) -> Compiled:
        # sqlglot's Div and Mod say how other databases divide; the operands say it here.
        left, right = _beside(node.this, node.expression, scope)
        return arithmetic(op, left, right)

    return compile_arithmetic


def _negate(node: Any, scope: Scope) -> Compiled:
    return negate(compile_node(node.this, scope))


def _concat(node: Any, scope: Scope) -> Compiled:
    left, right = (_as_text(part, scope) for part in (node.this, node.expression))
    if left.type is None or right.type is None:
        return constant(TEXT, None)

    def at(env: Env) -> Function:
        a, b = left.at(env), right.at(env)

        def run(row: Any, other: Any) -> Any:
            x = a(row, other)
            if x is None:
                return None
            y = b(row, other)
            return None if y is None else x + y

        return run

    return Compiled(
        TEXT,
        at,
        constant=left.constant and right.constant,
        needs_env=left.needs_env or right.needs_env,
    )


def _as_text(node: Any, scope: Scope) -> Compiled:
    operand = literal(node)
    if isinstance(operand, Param):
        return typed(operand, TEXT)
    found = compile_node(node, scope)
    if found.type is None or found.type.kind is Kind.TEXT:
        return found
    if found.type.kind in INTEGERS:
        return applied(found, TEXT, str)
    raise NotCompilable(f"{found.type.sql} ||")


def _case(node: Any, scope: Scope) -> Compiled:
    _only(node, "this", "ifs", "default")
    conditions: list[Compiled] = []
    values: list[Any] = []
    for branch in node.args["ifs"]:
        if node.this is not None:
            conditions.append(compared("=", node.this, branch.this, scope))
        else:
            conditions.append(compile_condition(branch.this, scope))
        values.append(branch.args["true"])
    default = node.args.get("default")
    if default is not None:
        values.append(default)
    results, result_type = unify(values, scope, compile_node)
    if result_type is None:
        raise NotCompilable("CASE without a value that tells its type")
    fallback = results[-1] if default is not None else constant(result_type, None)

    def at(env: Env) -> Function:
        branches = tuple(
            (condition.at(env), value.at(env))
            for condition, value in zip(conditions, results, strict=False)
        )
        otherwise = fallback.at(env)

        def run(row: Any, other: Any) -> Any:
            for condition, value in branches:
                if condition(row, other):
                    return value(row, other)
            return otherwise(row, other)

        return run

    parts = [*conditions, *results]
    return Compiled(
        result_type,
        at,
        constant=all(part.constant for part in parts),
        needs_env=any(part.needs_env for part in parts),
        computed=any(part.computed for part in results),
    )


_COMPILERS: dict[type[Any], Callable[[Any, Scope], Compiled]] = {
    exp.Column: _column,
    exp.Paren: _paren,
    exp.And: _logic,
    exp.Or: _logic,
    exp.Not: _not,
    exp.EQ: _comparison("="),
    exp.NEQ: _comparison("<>"),
    exp.LT: _comparison("<"),
    exp.LTE: _comparison("<="),
    exp.GT: _comparison(">"),
    exp.GTE: _comparison(">="),
    exp.NullSafeEQ: _distinct(True),
    exp.NullSafeNEQ: _distinct(False),
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Escape: _like,
    exp.Add: _arithmetic("+"),
    exp.Sub: _arithmetic("-"),
    exp.Mul: _arithmetic("*"),
    exp.Div: _arithmetic("/"),
    exp.Mod: _arithmetic("%"),
    exp.Neg: _negate,
    exp.DPipe: _concat,
    exp.Case: _case,
    exp.Cast: lambda node, scope: compile_cast(node, scope, compile_node),
}
for _kind, _compiler in FUNCTIONS.items():
    _COMPILERS[_kind] = lambda node, scope, _compiler=_compiler: _compiler(
        node, scope, compile_node
    )
