# pyright: basic
"""Expressions of SQL compiled to Python closures, with the query engine's semantics.

`compile_expression` gives a `Compiled` or raises NotCompilable, and the caller takes the path
through the engine, or refuses. Semantics that are ours on purpose: integers never wrap around (the
engine's do), and literals and parameters take the type of what they stand beside.

Keeps: three-valued logic; no look at types per row; no expression is compiled that could answer
otherwise than the engine would over the same rows (tests/unit/sql/test_expression_engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from kalamdb.errors import ValueOutOfRange
from kalamdb.model.types import BOOLEAN, TEXT, Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.casts import compile_cast
from kalamdb.sql.functions import FUNCTIONS, unify
from kalamdb.sql.logic import boolean_of, connect, construct, invert, only
from kalamdb.sql.operands import INTEGERS, literal, typed, untyped
from kalamdb.sql.operators import applied, arithmetic, negate
from kalamdb.sql.predicates import (
    Compile,
    beside,
    between,
    compared,
    distinct_from,
    is_test,
    like,
    member,
)
from kalamdb.sql.scope import Compiled, Function, NotCompilable, Scope, constant
from kalamdb.sql.syntax import Param

ITEMS_MAX = 10_000  # of one chain of AND or OR
TEXT_LENGTH_MAX = 16 << 20  # of what || makes
_TEXT_OPERATIONS = frozenset(
    (exp.DPipe, exp.Like, exp.ILike, exp.Lower, exp.Upper, exp.Length, exp.Trim, exp.Substring)
)


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
    return boolean_of(found)


def compile_node(node: Any, scope: Scope) -> Compiled:
    operand = literal(node)
    if operand is not None:
        return untyped(operand)
    compiler = _COMPILERS.get(type(node))
    if compiler is None:
        raise NotCompilable(construct(node))
    if type(node) in _TEXT_OPERATIONS:
        scope.count_text_operation()
    return compiler(node, scope)


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


def _not(node: Any, scope: Scope) -> Compiled:
    return invert(compile_condition(node.this, scope))


# ---- comparison ----------------------------------------------------------------------------------


def _comparison(op: str) -> Callable[[Any, Scope], Compiled]:
    def compile_comparison(node: Any, scope: Scope) -> Compiled:
        return compared(op, node.this, node.expression, scope, compile_node)

    return compile_comparison


def _distinct(negated: bool) -> Callable[[Any, Scope], Compiled]:
    def compile_distinct(node: Any, scope: Scope) -> Compiled:
        return distinct_from(node, scope, compile_node, negated=negated)

    return compile_distinct


def _predicate(
    compiler: Callable[[Any, Scope, Compile], Compiled],
) -> Callable[[Any, Scope], Compiled]:
    return lambda node, scope: compiler(node, scope, compile_node)


# ---- arithmetic, CASE ----------------------------------------------------------------------------


def _arithmetic(op: str) -> Callable[[Any, Scope], Compiled]:
    def compile_arithmetic(node: Any, scope: Scope) -> Compiled:
        # sqlglot's Div and Mod say how other databases divide; the operands say it here.
        left, right = beside(node.this, node.expression, scope, compile_node)
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
            if y is None:
                return None
            if len(x) + len(y) > TEXT_LENGTH_MAX:
                raise ValueOutOfRange(None, "a text", f"|| of {len(x)} and {len(y)} characters")
            return x + y

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
    only(node, "this", "ifs", "default")
    conditions: list[Compiled] = []
    values: list[Any] = []
    for branch in node.args["ifs"]:
        if node.this is not None:
            conditions.append(compared("=", node.this, branch.this, scope, compile_node))
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
    exp.Between: _predicate(between),
    exp.In: _predicate(member),
    exp.Is: _predicate(is_test),
    exp.Like: _predicate(like),
    exp.ILike: _predicate(like),
    exp.Escape: _predicate(like),
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
    _COMPILERS[_kind] = _predicate(_compiler)
