# pyright: basic
"""Live queries bound: one table, a filter and a projection, as functions of a row.

A row that would appear in, leave or change within the result is found by looking at that row alone;
other queries are refused by the name of what makes them so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from kalamdb.errors import Unsupported
from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import Column
from kalamdb.sql.bound import Env, LivePlan, Predicate
from kalamdb.sql.change import condition
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.parameters import check_count
from kalamdb.sql.point_key import conjuncts
from kalamdb.sql.render import Text, text_of
from kalamdb.sql.scope import NotCompilable, TableScope
from kalamdb.sql.select import other_clauses, single_table
from kalamdb.sql.statement import Select
from kalamdb.sql.syntax import QuerySyntax

_LIVE_ARGS = frozenset(("expressions", "from_", "where"))
_CLAUSES = {
    "with_": "WITH",
    "order": "ORDER BY",
    "limit": "LIMIT",
    "offset": "OFFSET",
    "group": "GROUP BY",
    "having": "HAVING",
    "distinct": "DISTINCT",
    "joins": "JOIN",
    "windows": "WINDOW",
    "qualify": "QUALIFY",
}
_HINT = "a live query is SELECT columns FROM namespace.table WHERE …"


def bind_live(select: Select, catalog: CatalogView, namespace: str, env: Env) -> LivePlan:
    """Raises Unsupported naming the construct, UnknownTable, UnknownColumn, TypeMismatch,
    InvalidParameter.
    """
    syntax: QuerySyntax = select.tree
    tree: Any = syntax.query.tree
    check_count(env, syntax.parameters)
    _refuse_other_queries(tree)
    if any(name.all_users for name in select.tables):
        raise Unsupported("all_users in a live query", _HINT)
    found = single_table(tree, catalog, namespace)
    if found is None:
        raise Unsupported("this FROM in a live query", _HINT)
    table, scope = found
    columns = _columns(tree.expressions, scope)
    where = tree.args.get("where")
    predicate = None if where is None else _predicate(where.this, scope, env)
    shape = _shape(syntax, columns, env)
    return LivePlan(table, columns, predicate, f"{table.id}@{table.version} {shape}")


def _refuse_other_queries(tree: Any) -> None:
    if isinstance(tree, exp.SetOperation):
        raise Unsupported(f"{tree.key.upper()} in a live query", _HINT)
    if not isinstance(tree, exp.Select):
        raise Unsupported(f"{tree.key.upper()} as a live query", _HINT)
    for name in other_clauses(tree, _LIVE_ARGS):
        raise Unsupported(f"{_CLAUSES.get(name, name.strip('_').upper())} in a live query", _HINT)
    clause = tree.args.get("from_")
    if clause is None:
        raise Unsupported("a live query without FROM", _HINT)
    if isinstance(clause.this, exp.Subquery):
        raise Unsupported("a subquery in FROM of a live query", _HINT)
    for node in tree.walk():
        if isinstance(node, exp.Query) and node is not tree:
            raise Unsupported("a subquery in a live query", _HINT)
        if isinstance(node, exp.AggFunc):
            raise Unsupported(f"the aggregate {node.key.upper()}() in a live query", _HINT)
        if isinstance(node, exp.CurrentTimestamp):
            raise Unsupported("the current time in a live query", "compare with a literal")


def _columns(nodes: Sequence[Any], scope: TableScope) -> tuple[Column, ...]:
    found: dict[int, Column] = {}
    for node in nodes:
        if isinstance(node, exp.Star):
            found.update((column.id, column) for column in scope.table.readable)
        elif isinstance(node, exp.Column) and isinstance(node.this, exp.Star):
            scope.check_qualifier(node.text("db").lower(), node.text("table").lower(), "*")
            found.update((column.id, column) for column in scope.table.readable)
        elif isinstance(node, exp.Column):
            column = scope.resolve(node)
            found[column.id] = column
        elif isinstance(node, exp.Alias):
            raise Unsupported("aliases in a live query", "select columns by their names")
        else:
            raise Unsupported("expressions in the SELECT list of a live query", _HINT)
    return tuple(found.values())


def _predicate(tree: Any, scope: TableScope, env: Env) -> Predicate:
    try:
        parts = [compile_condition(one, scope) for one in conjuncts(tree)]
    except NotCompilable as error:
        raise Unsupported(f"{error.construct} in a live query", _HINT) from error
    return condition(parts)(env)


def _shape(syntax: QuerySyntax, columns: Sequence[Column], env: Env) -> str:
    """The filter's text with its parameters and user filled in: equal texts mean equal filters."""
    tokens = syntax.query.tokens
    where: Text | None = None
    for at, token in enumerate(tokens):
        if token.text.upper() == "WHERE":
            where = text_of(tokens[at + 1 :], syntax.query.text, {})
            break
    chosen = ",".join(str(column.id) for column in columns)
    return f"[{chosen}] {'' if where is None else where.render(env)}"
