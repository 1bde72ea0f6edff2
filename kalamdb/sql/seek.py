# pyright: basic
"""Conditions as places in a sorted run of keys: `column = value`, IN, IS NULL, <, BETWEEN, LIKE.

A *seek* says which key bytes a column can have. Equalities are exact, so their condition need not
be checked again. Bounds take in at least every row that matches and may take in more; their
condition stays with the rows found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Any

from sqlglot import exp

from kalamdb.model.keys import TAG_NULL, TAG_TEXT, key_encoder, prefix_end
from kalamdb.model.table import Column
from kalamdb.model.types import DECIMAL_PRECISION_MAX, Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.operands import INTEGERS, comparable, literal, parameter
from kalamdb.sql.operators import SWAPPED
from kalamdb.sql.point_key import key_part, named, suits
from kalamdb.sql.scope import TableScope
from kalamdb.sql.syntax import Constant, Param

UNORDERED = frozenset((Kind.JSON, Kind.EMBEDDING, Kind.FILE))
"""Kinds whose values have no key bytes."""
VALUES_MAX = 100  # of one IN that is looked up value by value
_WIDE = Context(prec=100)
_WILD = re.compile(r"[%_\\]")


class Nothing(Exception):
    """No row can match: a comparison with NULL, a number beyond the column's."""


@dataclass(frozen=True, slots=True, eq=False)
class Equal:
    """`parts` give key bytes (ABSENT: no row has the value), for one value or several."""

    column: Column
    parts: tuple[Callable[[Env], Any], ...]
    has_null: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """`low` gives the first bytes a value may have, `high` those it must be below; None: no such.
    Either raises Nothing.
    """

    column: Column
    low: Callable[[Env], bytes | None] | None
    high: Callable[[Env], bytes | None] | None


def seek_of(condition: Any, scope: TableScope) -> Equal | Between | None:
    """What a condition says of a column's key bytes; None when nothing.

    Raises TypeMismatch for a literal that can be no value of its column, UnknownColumn.
    """
    match condition:
        case exp.EQ():
            return _equal(condition, scope)
        case exp.In() if condition.args.get("query") is None and condition.expressions:
            return _member(condition, scope)
        case exp.Is() if isinstance(condition.expression, exp.Null):
            column = None if condition.args.get("negate") else column_of(condition.this, scope)
            null = (lambda env: TAG_NULL,)
            return None if column is None else Equal(column, null, has_null=True)
        case exp.LT() | exp.LTE() | exp.GT() | exp.GTE():
            return _compared(condition, scope)
        case exp.Between():
            return _between(condition, scope)
        case exp.Like():
            return _like(condition, scope)
        case _:
            return None


def column_of(node: Any, scope: TableScope) -> Column | None:
    """The stored column a node is, if it has key bytes."""
    while isinstance(node, exp.Paren):
        node = node.this
    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
        return None
    column = scope.resolve(node)
    return None if column.id < 0 or column.type.kind in UNORDERED else column


def _equal(condition: Any, scope: TableScope) -> Equal | None:
    for column, operand, _ in _sides(condition, "=", scope):
        return Equal(column, (key_part(column, operand),))
    return None


def _sides(
    condition: Any, op: str, scope: TableScope
) -> Iterator[tuple[Column, Constant | Param, str]]:
    """(column, operand, operator) of `column op operand`, whichever stands left."""
    for one, other, turned in (
        (condition.this, condition.expression, op),
        (condition.expression, condition.this, SWAPPED[op]),
    ):
        operand = literal(other)
        column = None if operand is None else column_of(one, scope)
        if column is not None and operand is not None and suits(column, operand):
            yield column, operand, turned
            return


def _member(condition: Any, scope: TableScope) -> Equal | None:
    column = column_of(condition.this, scope)
    operands = [literal(item) for item in condition.expressions]
    if column is None or len(operands) > VALUES_MAX:
        return None
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands) or not all(suits(column, one) for one in known):
        return None
    return Equal(column, tuple(key_part(column, operand) for operand in known))


# ---- bounds -------------------------------------------------------------------------------------

_OPS = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}


def _compared(condition: Any, scope: TableScope) -> Between | None:
    for column, operand, op in _sides(condition, _OPS[type(condition)], scope):
        bound = _bound(column, operand, op)
        return Between(column, bound, None) if op[0] == ">" else Between(column, None, bound)
    return None


def _between(condition: Any, scope: TableScope) -> Between | None:
    column = column_of(condition.this, scope)
    low, high = literal(condition.args["low"]), literal(condition.args["high"])
    symmetric = condition.args.get("symmetric")
    if column is None or low is None or high is None or symmetric:
        return None
    if not suits(column, low) or not suits(column, high):
        return None
    return Between(column, _bound(column, low, ">="), _bound(column, high, "<="))


def _bound(column: Column, operand: Constant | Param, op: str) -> Callable[[Env], bytes | None]:
    make = _bound_maker(column, op)
    if isinstance(operand, Param):
        index = operand.index
        return lambda env: named(make, parameter(env, index), index)
    value = operand.value
    with suppress(Nothing):
        make(value)  # raises TypeMismatch now
    return lambda env: make(value)


def _bound_maker(column: Column, op: str) -> Callable[[Any], bytes | None]:
    """A client's value → the bytes where the keys that match begin or end."""
    kind, scale = column.type.kind, column.type.scale
    encode = key_encoder(column.type)
    lower, past = op[0] == ">", op in (">", "<=")

    def make(value: Any) -> bytes | None:
        stored, convert = comparable(column.type, value)
        if stored is None:
            raise Nothing
        if convert is not None:
            return None  # compared as doubles, in which neighbouring integers are one
        if kind in INTEGERS and not -(1 << 63) <= stored < 1 << 63:
            if (stored > 0) is lower:
                raise Nothing
            return None
        if kind is Kind.DECIMAL:
            rounded = _decimal_text(stored, scale, ROUND_FLOOR if lower else ROUND_CEILING)
            if rounded is None:
                return None
            text, exact = rounded
            key = encode(text)
            return prefix_end(key) if past and (exact or not lower) else key
        key = encode(stored)
        return prefix_end(key) if past else key

    return make


def _decimal_text(value: Decimal, scale: int, rounding: str) -> tuple[str, bool] | None:
    """The nearest stored DECIMAL on the outer side, and whether it is the value itself."""
    if value.adjusted() >= DECIMAL_PRECISION_MAX:
        return None
    try:
        rounded = value.quantize(Decimal(1).scaleb(-scale), rounding, _WIDE)
    except InvalidOperation:
        return None
    text = f"{rounded:f}"
    return (text.lstrip("-") if rounded == 0 else text), rounded == value


def _like(condition: Any, scope: TableScope) -> Between | None:
    column, operand = column_of(condition.this, scope), literal(condition.expression)
    if column is None or operand is None or column.type.kind is not Kind.TEXT:
        return None
    if condition.args.get("negate"):
        return None

    def prefix(env: Env) -> bytes | None:
        pattern = operand.value if isinstance(operand, Constant) else parameter(env, operand.index)
        if pattern is None:
            raise Nothing
        if not isinstance(pattern, str):
            return None
        wild = _WILD.search(pattern)
        text = pattern if wild is None else pattern[: wild.start()]
        try:
            return TAG_TEXT + text.encode().replace(b"\x00", b"\x00\xff") if text else None
        except UnicodeEncodeError:
            return None

    def after(env: Env) -> bytes | None:
        found = prefix(env)
        return None if found is None else prefix_end(found)

    return Between(column, prefix, after)


def outermost(bounds: Sequence[Between], env: Env) -> tuple[bytes | None, bytes | None]:
    """The tightest low and high of several conditions on one column. Raises Nothing."""
    lows = [low for one in bounds if one.low is not None and (low := one.low(env)) is not None]
    highs = [high for one in bounds if one.high is not None and (high := one.high(env)) is not None]
    return max(lows, default=None), min(highs, default=None)
