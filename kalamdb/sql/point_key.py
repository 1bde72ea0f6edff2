# pyright: basic
"""Does a WHERE fix the whole primary key? Then the rows are found by key, without a scan.

`id = $1`, `id = 'x'`, `id IN (…)` (one key column) and `a = 1 AND b = $2` (several) do; what else
the WHERE says is left as a rest for the rows found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidParameter, TypeMismatch, ValueOutOfRange
from kalamdb.model.keys import key_encoder
from kalamdb.model.table import Column
from kalamdb.model.types import DECIMAL_PRECISION_MAX, Kind
from kalamdb.sql.any_list import any_parameter, elements
from kalamdb.sql.bound import Env
from kalamdb.sql.operands import (
    INTEGERS,
    check_literal,
    comparable,
    literal,
    parameter,
    parameter_of,
)
from kalamdb.sql.parameters import check_count
from kalamdb.sql.scope import NotCompilable, TableScope
from kalamdb.sql.syntax import Constant, Param

Keys = Callable[[Env], Sequence[bytes]]
KEYS_MAX = 1000

ABSENT: Any = None  # the key of no row


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`= ANY($n)`: as many values as the parameter's array has."""

    index: int


def conjuncts(tree: exp.Expr) -> list[Any]:
    """The conditions that all must hold, left to right."""
    stack: list[Any] = [tree]
    found: list[Any] = []
    while stack:
        node = stack.pop()
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.And):
            stack.append(node.expression)
            stack.append(node.this)
        else:
            found.append(node)
    return found


def point_keys(
    conditions: Sequence[Any], scope: TableScope, parameters: int
) -> tuple[Keys, list[Any]] | None:
    """Key bytes of a run, and the conditions left over; None when the key is not fixed.

    Raises TypeMismatch for a literal that can be no key.
    """
    table = scope.table
    if table.has_hidden_key:
        return None
    fixed: dict[int, list[Constant | Param]] = {}
    listed: AnyOf | None = None
    rest: list[Any] = []
    for condition in conditions:
        found = _fixes(condition, scope)
        if found is None or found[0].id in fixed:
            rest.append(condition)
            continue
        column, operands = found
        several = isinstance(operands, AnyOf) or len(operands) > 1
        if several and len(table.primary_key) > 1:
            rest.append(condition)
            continue
        if isinstance(operands, AnyOf):
            listed, operands = operands, []
        fixed[column.id] = operands
    if set(fixed) != set(table.primary_key):
        return None
    columns = table.key_columns
    if listed is not None:
        return _any_of(columns[0], listed.index, parameters), rest
    if len(columns) == 1:
        return _single(columns[0], fixed[columns[0].id], parameters), rest
    parts = [key_part(column, fixed[column.id][0]) for column in columns]

    def keys(env: Env) -> Sequence[bytes]:
        check_count(env, parameters)
        found = [part(env) for part in parts]
        return () if ABSENT in found else (b"".join(found),)

    return keys, rest


def _fixes(
    condition: Any, scope: TableScope
) -> tuple[Column, list[Constant | Param] | AnyOf] | None:
    """Is this `key column = literal`, `= ANY($n)` or `IN (literals)`?"""
    match condition:
        case exp.EQ() if (listed := any_parameter(condition)) is not None:
            column = _key_column(condition.this, scope)
            operand = Param(parameter_of(listed[0]))
            if column is None or not suits(column, operand):
                return None
            return column, AnyOf(operand.index)
        case exp.EQ():
            for one, other in (
                (condition.this, condition.expression),
                (condition.expression, condition.this),
            ):
                column = _key_column(one, scope)
                operand = literal(other)
                if column is not None and operand is not None and suits(column, operand):
                    return column, [operand]
            return None
        case exp.In() if condition.args.get("query") is None and condition.expressions:
            column = _key_column(condition.this, scope)
            operands = [literal(item) for item in condition.expressions]
            if column is None or len(operands) > KEYS_MAX:
                return None
            known = [operand for operand in operands if operand is not None]
            if len(known) < len(operands) or not all(suits(column, one) for one in known):
                return None
            return column, known
        case _:
            return None


def _key_column(node: Any, scope: TableScope) -> Column | None:
    while isinstance(node, exp.Paren):
        node = node.this
    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
        return None
    column = scope.resolve(node)
    return column if column.id in scope.table.primary_key else None


def suits(column: Column, operand: Constant | Param) -> bool:
    """May the operand be compared with the column by key bytes?"""
    if column.type.kind is Kind.FLOAT:
        return False  # compared as doubles, which its keys are not
    if isinstance(operand, Param):
        return True
    try:
        check_literal(column.type, operand.value)
    except NotCompilable:
        return False
    return True


# ---- bytes ---------------------------------------------------------------------------------------


def _single(column: Column, operands: Sequence[Constant | Param], parameters: int) -> Keys:
    if len(operands) == 1 and isinstance(operands[0], Param):
        return _one_parameter(column, operands[0].index, parameters)
    parts = [key_part(column, operand) for operand in operands]

    def keys(env: Env) -> Sequence[bytes]:
        check_count(env, parameters)
        return [key for key in dict.fromkeys(part(env) for part in parts) if key is not ABSENT]

    return keys


def _any_of(column: Column, index: int, parameters: int) -> Keys:
    """`key = ANY($n)`."""
    make = key_maker(column)

    def keys(env: Env) -> Sequence[bytes]:
        check_count(env, parameters)
        found = [named(make, value, index) for value in elements(env, index) or ()]
        return [key for key in dict.fromkeys(found) if key is not ABSENT]

    return keys


def _one_parameter(column: Column, index: int, parameters: int) -> Keys:
    """`key = $n`, the shape that has to be quick."""
    make = key_maker(column)
    encode = key_encoder(column.type)
    quick = str if column.type.kind is Kind.TEXT else int if column.type.kind in INTEGERS else None
    low, high = -(1 << 63), 1 << 63

    def keys(env: Env) -> Sequence[bytes]:
        params = env.params
        if len(params) != parameters:
            check_count(env, parameters)
        value = params[index]
        if type(value) is quick and (quick is str or low <= value < high):
            return (encode(value),) if quick is int or value.isascii() else _slow(value)
        return _slow(value)

    def _slow(value: Any) -> Sequence[bytes]:
        key = named(make, value, index)
        return () if key is ABSENT else (key,)

    return keys


def named(make: Callable[[Any], Any], value: Any, index: int) -> Any:
    """`make` of a parameter's value; its errors name the parameter."""
    try:
        return make(value)
    except (TypeMismatch, ValueOutOfRange) as error:
        raise InvalidParameter(index + 1, str(error)) from error


def key_part(column: Column, operand: Constant | Param) -> Callable[[Env], Any]:
    """Key bytes of a run's value; ABSENT when no stored value can equal it."""
    make = key_maker(column)
    if isinstance(operand, Constant):
        key = make(operand.value)
        return lambda env: key
    index = operand.index
    return lambda env: named(make, parameter(env, index), index)


def key_maker(column: Column) -> Callable[[Any], Any]:
    """A client's value → key bytes; None when no stored value can equal it. Raises TypeMismatch."""
    column_type = column.type
    encode = key_encoder(column_type)

    def make(value: Any) -> Any:
        stored, convert = comparable(column_type, value)
        if stored is None:
            return ABSENT  # nothing equals NULL
        if convert is not None:
            if not stored.is_integer():
                return ABSENT
            stored = int(stored)
        if column_type.kind in INTEGERS and not -(1 << 63) <= stored < 1 << 63:
            return ABSENT
        if column_type.kind is Kind.DECIMAL:
            stored = _exact_text(Decimal(stored), column_type.scale)
            if stored is None:
                return ABSENT
        return encode(stored)

    return make


def _exact_text(value: Decimal, scale: int) -> str | None:
    """A stored DECIMAL equal to `value`, None when it has more digits than the column."""
    if value.adjusted() > DECIMAL_PRECISION_MAX:
        return None
    text = f"{value:f}"
    whole, _, decimals = text.partition(".")
    decimals = decimals.rstrip("0")
    if len(decimals) > scale:
        return None
    padded = decimals.ljust(scale, "0")
    text = f"{whole}.{padded}" if scale else whole
    return text.lstrip("-") if value == 0 else text
