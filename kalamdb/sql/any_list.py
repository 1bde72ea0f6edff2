# pyright: basic
"""`x = ANY($1)` and `x <> ALL($1)` with an array as parameter: a list whose length is the run's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidParameter, Unsupported
from kalamdb.model.types import ColumnType
from kalamdb.sql.bound import Env
from kalamdb.sql.literals import typed_literal, untyped_literal
from kalamdb.sql.operands import parameter, parameter_of
from kalamdb.sql.render import Dynamic, Splices, add

ELEMENTS_MAX = 10_000
_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)
# What an empty list says, whatever stands before it: = ANY is false, <> ALL is true.
_NEVER, _ALWAYS = "IS NULL IS NULL", "IS NULL IS NOT NULL"


def any_parameter(node: Any) -> tuple[Any, bool] | None:
    """The parameter of `x = ANY($n)` (False) or `x <> ALL($n)` (True); None for anything else.

    Raises Unsupported for other comparisons with ANY or ALL of a parameter.
    """
    if not isinstance(node, _COMPARISONS):
        return None
    for side in (node.expression, node.this):
        found = _quantified(side)
        if found is None:
            continue
        given, is_all = found
        if side is node.expression and isinstance(node, exp.NEQ if is_all else exp.EQ):
            return given, is_all
        word = "ALL" if is_all else "ANY"
        raise Unsupported(f"{word} of a parameter here", "write x = ANY($1) or x <> ALL($1)")
    return None


def _quantified(node: Any) -> tuple[Any, bool] | None:
    match node:
        case exp.Any() | exp.All():
            inner, is_all = node.this, isinstance(node, exp.All)
        case exp.Anonymous() if node.name.upper() in ("ANY", "ALL", "SOME"):
            if len(node.expressions) != 1:
                return None
            inner, is_all = node.expressions[0], node.name.upper() == "ALL"
        case _:
            return None
    while isinstance(inner, (exp.Paren, exp.Cast)):
        inner = inner.this
    return (inner, is_all) if isinstance(inner, exp.Parameter) else None


def elements(env: Env, index: int) -> list[Any] | None:
    """The array a parameter holds; None for NULL. Raises InvalidParameter."""
    value = parameter(env, index)
    if value is None:
        return None
    if not isinstance(value, list):
        raise InvalidParameter(index + 1, "an array is expected for ANY and ALL")
    if len(value) > ELEMENTS_MAX:
        raise InvalidParameter(
            index + 1, f"{len(value)} elements, at most {ELEMENTS_MAX} are allowed"
        )
    return value


def splice_any(
    splices: Splices,
    given: Any,
    is_all: bool,
    column_type: ColumnType | None,
    tokens: Sequence[Token],
) -> None:
    """`= ANY ( $n )` becomes `IN ( … )`, `<> ALL ( $n )` becomes `NOT IN ( … )`."""
    index = parameter_of(given)
    at = next(
        number for number, token in enumerate(tokens) if token.start == given.this.meta["start"]
    )
    first = at
    while tokens[first].token_type not in (TokenType.EQ, TokenType.NEQ):
        first -= 1
    last, depth = first, 0
    for last in range(first + 1, len(tokens)):
        kind = tokens[last].token_type
        depth += (kind is TokenType.L_PAREN) - (kind is TokenType.R_PAREN)
        if kind is TokenType.R_PAREN and depth == 0:
            break

    def make(env: Env) -> str:
        values = elements(env, index)
        if values == []:
            return _ALWAYS if is_all else _NEVER
        listed = ["NULL"] if values is None else [_element(v, column_type, index) for v in values]
        return f"{'NOT IN' if is_all else 'IN'} ({', '.join(listed)})"

    shown = f"{'<> ALL' if is_all else '= ANY'} (${index + 1})"
    add(splices, tokens[first].start, tokens[last].start, Dynamic(shown, make))


def _element(value: Any, column_type: ColumnType | None, index: int) -> str:
    if value is None:
        return "NULL"
    rendered = None
    if column_type is not None:
        rendered = typed_literal(value, column_type, index)
    return untyped_literal(value, index) if rendered is None else rendered
