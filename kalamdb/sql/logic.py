# pyright: basic
"""AND, OR and NOT over compiled conditions, and what to call a construct that is not compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from kalamdb.model.types import BOOLEAN, Kind
from kalamdb.sql.bound import Env
from kalamdb.sql.scope import Compiled, Function, NotCompilable, constant


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


def boolean_of(found: Compiled) -> Compiled:
    if found.type is None:
        return constant(BOOLEAN, None)
    if found.type.kind is not Kind.BOOLEAN:
        raise NotCompilable(f"{found.type.sql} as a condition")
    return found


def only(node: Any, *names: str) -> None:
    """An argument nobody here knows must not be dropped."""
    for name, value in node.args.items():
        if name not in names and value is not None and value is not False and value != []:
            raise NotCompilable(f"{name.strip('_').upper()} of {construct(node)}")


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
