# pyright: basic
"""Functions of SQL that are compiled: texts, ABS, COALESCE, NULLIF, time and user of a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from kalamdb.errors import QueryFailed, ValueOutOfRange
from kalamdb.model.types import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    INT,
    INTEGER_RANGE,
    TEXT,
    TIMESTAMP,
    ColumnType,
    Kind,
)
from kalamdb.sql.bound import Env
from kalamdb.sql.operands import FLOATS, INTEGERS, TEXTS, literal, typed, untyped
from kalamdb.sql.operators import applied, compare
from kalamdb.sql.scope import NO_ENV, Compiled, Function, NotCompilable, Scope, constant
from kalamdb.sql.syntax import Constant, Param

Compile = Callable[[Any, Scope], Compiled]


def only(node: Any, *names: str) -> None:
    for name, value in node.args.items():
        if name not in names and value is not None and value is not False and value != []:
            raise NotCompilable(f"{name.strip('_').upper()} of {node.key.upper()}()")


def _text(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    """An argument that is a text."""
    operand = literal(node)
    if operand is not None:
        if isinstance(operand, Constant) and not isinstance(operand.value, (str, type(None))):
            raise NotCompilable("a text function of something else")
        return typed(operand, TEXT)
    found = compile_node(node, scope)
    if found.type is None:
        return constant(TEXT, None)
    if found.type.kind not in TEXTS:
        raise NotCompilable(f"a text function of {found.type.sql}")
    return found


def _whole(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    """An argument that is a whole number."""
    operand = literal(node)
    if isinstance(operand, Param):
        return typed(operand, BIGINT)
    found = compile_node(node, scope)
    if found.type is None or found.type.kind not in INTEGERS:
        raise NotCompilable("a position that is no whole number")
    return found


def _of_text(
    function: Callable[[str], Any], result: ColumnType
) -> Callable[[Any, Scope, Compile], Compiled]:
    def compile_function(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
        only(node, "this")
        return applied(_text(node.this, scope, compile_node), result, function)

    return compile_function


def _trim(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this", "expression", "position")
    position = str(node.args.get("position") or "BOTH").upper()
    strip: Callable[[str, str], str] = {
        "BOTH": str.strip,
        "LEADING": str.lstrip,
        "TRAILING": str.rstrip,
    }[position]
    text = _text(node.this, scope, compile_node)
    if node.expression is None:
        return applied(text, TEXT, lambda value: strip(value, " "))
    characters = _text(node.expression, scope, compile_node)
    return _of_all([text, characters], TEXT, strip)


def _of_all(
    parts: Sequence[Compiled], result: ColumnType, function: Callable[..., Any]
) -> Compiled:
    """`function` of several values; NULL if any is NULL."""

    def at(env: Env) -> Function:
        readers = tuple(part.at(env) for part in parts)

        def run(row: Any, other: Any) -> Any:
            values = [read(row, other) for read in readers]
            return None if None in values else function(*values)

        return run

    return Compiled(
        result,
        at,
        constant=all(part.constant for part in parts),
        needs_env=any(part.needs_env for part in parts),
    )


def _substring(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this", "start", "length")
    start, length = node.args.get("start"), node.args.get("length")
    if start is None:
        raise NotCompilable("SUBSTRING without a position")
    parts = [_text(node.this, scope, compile_node), _whole(start, scope, compile_node)]
    if length is None:
        return _of_all(parts, TEXT, lambda text, first: text[max(first, 1) - 1 :])
    return _of_all([*parts, _whole(length, scope, compile_node)], TEXT, _part)


def _part(text: str, first: int, length: int) -> str:
    if length < 0:
        raise QueryFailed("SUBSTRING with a negative length")
    end = first + length  # positions before the first character count, as in PostgreSQL
    return text[max(first, 1) - 1 : max(end - 1, 0)]


def _starts_with(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this", "expression")
    parts = [_text(part, scope, compile_node) for part in (node.this, node.expression)]
    return _of_all(parts, BOOLEAN, str.startswith)


def _abs(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this")
    inner = compile_node(node.this, scope)
    if inner.type is None or not inner.type.is_numeric:
        raise NotCompilable("ABS of something that is no number")
    column_type = inner.type
    high = INTEGER_RANGE.get(column_type.kind, (None, None))[1]

    def absolute(value: Any) -> Any:
        value = abs(value)
        if high is not None and value > high:
            raise ValueOutOfRange(None, column_type.sql, str(value))
        return value

    return applied(inner, column_type, absolute)


# ---- choices -------------------------------------------------------------------------------------


def unify(
    nodes: Sequence[Any], scope: Scope, compile_node: Compile
) -> tuple[list[Compiled], ColumnType | None]:
    """Compile values that become one column: literals take the type of the others, numbers the
    widest.
    """
    operands = [literal(node) for node in nodes]
    known: dict[int, Compiled] = {}
    for index, (node, operand) in enumerate(zip(nodes, operands, strict=True)):
        if operand is None:
            known[index] = compile_node(node, scope)
    target = _widest([found.type for found in known.values()])
    if target is None:
        for operand in operands:
            if isinstance(operand, Constant):
                target = _widest([target, untyped(operand).type])
    compiled: list[Compiled] = []
    for index, operand in enumerate(operands):
        if operand is None:
            compiled.append(known[index])
        elif target is None or (isinstance(operand, Constant) and operand.value is None):
            compiled.append(untyped(operand))
        elif isinstance(operand, Param) or isinstance(operand.value, str):
            compiled.append(typed(operand, target))
        elif target.kind is Kind.DECIMAL:
            compiled.append(_exact(operand, target))
        else:
            compiled.append(untyped(operand))
    target = _widest([found.type for found in compiled])
    if target is None:
        return compiled, None
    return [_widened(found, target) for found in compiled], target


def _exact(operand: Constant, target: ColumnType) -> Compiled:
    """A number beside DECIMALs, when it has no more decimals than they have."""
    found = typed(operand, target)
    if found.at(NO_ENV)(None, None) != operand.value:
        raise NotCompilable(f"{operand.value} beside {target.sql}")
    return found


def _widest(types: Sequence[ColumnType | None]) -> ColumnType | None:
    widest: ColumnType | None = None
    for found in types:
        if found is None or found == widest:
            continue
        widest = found if widest is None else _wider(widest, found)
    return widest


_ORDER = {Kind.SMALLINT: 0, Kind.INT: 1, Kind.BIGINT: 2}


def _wider(a: ColumnType, b: ColumnType) -> ColumnType:
    if a.kind in INTEGERS and b.kind in INTEGERS:
        return a if _ORDER[a.kind] >= _ORDER[b.kind] else b
    if a.is_numeric and b.is_numeric and Kind.DECIMAL not in (a.kind, b.kind):
        if Kind.FLOAT in (a.kind, b.kind):
            raise NotCompilable("FLOAT beside another type of number")
        return DOUBLE
    raise NotCompilable(f"{a.sql} beside {b.sql}")


def _widened(found: Compiled, target: ColumnType) -> Compiled:
    if found.type is None:
        return constant(target, None)
    if target.kind in FLOATS and found.type.kind in INTEGERS:
        return applied(found, target, float)
    return found


def _coalesce(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    # sqlglot marks COALESCE and its aliases by flags that change nothing here.
    results, target = unify([node.this, *node.expressions], scope, compile_node)
    if target is None:
        raise NotCompilable("COALESCE without a value that tells its type")

    def at(env: Env) -> Function:
        readers = tuple(part.at(env) for part in results)

        def run(row: Any, other: Any) -> Any:
            for read in readers:
                value = read(row, other)
                if value is not None:
                    return value
            return None

        return run

    return Compiled(
        target,
        at,
        constant=all(part.constant for part in results),
        needs_env=any(part.needs_env for part in results),
    )


def _nullif(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node, "this", "expression")
    (left, right), target = unify([node.this, node.expression], scope, compile_node)
    if target is None:
        raise NotCompilable("NULLIF without a value that tells its type")
    equal = compare("=", left, right)

    def at(env: Env) -> Function:
        a, same = left.at(env), equal.at(env)

        def run(row: Any, other: Any) -> Any:
            return None if same(row, other) else a(row, other)

        return run

    return Compiled(
        target,
        at,
        constant=left.constant and right.constant,
        needs_env=left.needs_env or right.needs_env,
    )


# ---- the session ---------------------------------------------------------------------------------


def _of_env(result: ColumnType, read: Callable[[Env], Any]) -> Compiled:
    def at(env: Env) -> Function:
        value = read(env)
        return lambda row, other: value

    return Compiled(result, at, constant=True, needs_env=True)


def _now(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node)
    return _of_env(TIMESTAMP, lambda env: env.now_ms * 1000)


def _current_user(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node)
    return _of_env(TEXT, lambda env: str(env.principal.user))


def _current_role(node: Any, scope: Scope, compile_node: Compile) -> Compiled:
    only(node)
    return _of_env(TEXT, lambda env: env.principal.role.value)


FUNCTIONS: dict[type[Any], Callable[[Any, Scope, Compile], Compiled]] = {
    exp.Lower: _of_text(str.lower, TEXT),
    exp.Upper: _of_text(str.upper, TEXT),
    exp.Length: _of_text(len, INT),
    exp.Trim: _trim,
    exp.Substring: _substring,
    exp.StartsWith: _starts_with,
    exp.Abs: _abs,
    exp.Coalesce: _coalesce,
    exp.Nullif: _nullif,
    exp.CurrentTimestamp: _now,
    exp.CurrentUser: _current_user,
    exp.CurrentRole: _current_role,
}
