# pyright: basic
"""Values on their way into columns: defaults, what VALUES and SET say, conversions between types.

Raises while binding what can be known then: a literal that is no value of its column, an expression
of a type that does not go into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidStatement, TypeMismatch, Unsupported
from kalamdb.lib.clock import ulid, uuid7
from kalamdb.model.table import Column, Default, DefaultKind
from kalamdb.model.types import ColumnType, Kind
from kalamdb.model.values import parser
from kalamdb.sql.bound import Env
from kalamdb.sql.expression import compile_expression
from kalamdb.sql.operands import DAY_US, INTEGERS, MOMENTS, TEXTS, parameter
from kalamdb.sql.scope import Compiled, NotCompilable, Scope
from kalamdb.sql.syntax import Constant, DefaultWord, Fragment, Item, Param

Convert = Callable[[Any], Any]
Source = Callable[[Env], Any]
"""A stored value (or None) of a run."""


def converter(source: ColumnType | None, column: Column) -> Convert | None:
    """From a computed value to a stored one; None when it is one already.

    Raises TypeMismatch when values of `source` do not go into the column without a CAST.
    """
    if source is None:
        return None
    a, b = source.kind, column.type.kind
    if source.is_numeric and column.type.is_numeric:
        if a is b and a is not Kind.DECIMAL and a is not Kind.FLOAT:
            return None if a in INTEGERS else parser(column.type, column.name)
        return parser(column.type, column.name)
    if a in TEXTS:
        return None if a is b else parser(column.type, column.name)
    if b is Kind.TEXT and (a in INTEGERS or a in (Kind.BOOLEAN, Kind.DECIMAL)):
        return parser(column.type, column.name)
    if source == column.type or (a in MOMENTS and b in MOMENTS):
        return None
    if a is Kind.DATE and b in MOMENTS:
        return lambda days: days * DAY_US
    raise TypeMismatch(column.name, column.type.sql, f"got an expression of type {source.sql}")


def converted(value: Any, convert: Convert | None) -> Any:
    return value if value is None or convert is None else convert(value)


# ---- defaults ------------------------------------------------------------------------------------


def draws(column: Column) -> bool:
    """Does the column's default take a number from the row counter?"""
    return column.default is not None and column.default.kind is DefaultKind.SNOWFLAKE_ID


def default_source(column: Column) -> Source | None:
    """What the plan fills in when nothing was said; None for NULL. Not for drawn numbers."""
    default = column.default
    if default is None or draws(column):
        return None
    if default.kind is DefaultKind.LITERAL:
        value = default.value
        return None if value is None else lambda env: value
    return generated(default, column.type)


def generated(default: Default, column_type: ColumnType) -> Source:
    match default.kind:
        case DefaultKind.UUID_V7 if column_type.kind is Kind.UUID:
            return lambda env: uuid7(env.now_ms, env.ids).bytes
        case DefaultKind.UUID_V7:
            return lambda env: str(uuid7(env.now_ms, env.ids))
        case DefaultKind.ULID:
            return lambda env: ulid(env.now_ms, env.ids)
        case DefaultKind.NOW:
            return lambda env: env.now_ms * 1000
        case DefaultKind.CURRENT_USER:
            return lambda env: str(env.principal.user)
        case _:
            raise AssertionError(default.kind)


_VOLATILE = {
    "UUID_V7": (DefaultKind.UUID_V7, (Kind.TEXT, Kind.UUID)),
    "ULID": (DefaultKind.ULID, (Kind.TEXT,)),
    "SNOWFLAKE_ID": (DefaultKind.SNOWFLAKE_ID, (Kind.BIGINT,)),
}


def volatile(tree: Any, column: Column) -> DefaultKind | None:
    """Does a call give another value for each row: SNOWFLAKE_ID(), UUID_V7(), ULID()?"""
    while isinstance(tree, exp.Paren):
        tree = tree.this
    if not isinstance(tree, exp.Anonymous) or tree.expressions:
        return None
    found = _VOLATILE.get(str(tree.this).upper())
    if found is None:
        return None
    kind, types = found
    if column.type.kind not in types:
        raise TypeMismatch(column.name, column.type.sql, f"got {str(tree.this).upper()}()")
    return kind


# ---- values --------------------------------------------------------------------------------------


def item_source(item: Item, column: Column, scope: Scope, where: str) -> Source:
    """A value that looks at no row. Raises TypeMismatch, Unsupported naming `where`."""
    match item:
        case Constant(value):
            stored = parser(column.type, column.name)(value)
            return lambda env: stored
        case Param(index):
            parse = parser(column.type, column.name)
            return lambda env: parse(parameter(env, index))
        case DefaultWord():
            return _default_word(column, where)
        case Fragment():
            kind = volatile(item.tree, column)
            if kind is DefaultKind.SNOWFLAKE_ID:
                raise Unsupported(f"SNOWFLAKE_ID() {where}", "leave the column to its default")
            if kind is not None:
                return generated(Default(kind), column.type)
            compiled = supported(item, scope, where)
            convert = converter(compiled.type, column)
            at = compiled.at
            return lambda env: converted(at(env)(None, None), convert)


def _default_word(column: Column, where: str) -> Source:
    if draws(column):
        raise Unsupported(f"DEFAULT of {column.name} {where}", "it is drawn for new rows only")
    source = default_source(column)
    return source if source is not None else lambda env: None


def supported(fragment: Fragment, scope: Scope, where: str) -> Compiled:
    """Compile what has no other path: NotCompilable becomes Unsupported."""
    try:
        return compile_expression(fragment.tree, scope)
    except NotCompilable as error:
        raise Unsupported(f"{error.construct} {where}", None) from error


def assignable(columns: dict[str, Column], name: str, readable: dict[str, Column]) -> Column | None:
    """The column INSERT or SET names; None when there is none. Raises for system columns."""
    found = columns.get(name)
    if found is None and name in readable:
        raise InvalidStatement(f"column {name} is kept by the database and cannot be assigned")
    return found
