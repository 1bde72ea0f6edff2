# pyright: basic
"""SELECT bound to its tables: by key when the whole primary key is given, else by the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token

from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import Env, PointSelect, Predicate, ScanSelect
from kalamdb.sql.change import condition
from kalamdb.sql.engine_query import scan_select, select_list
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.operands import literal
from kalamdb.sql.point_key import conjuncts, point_keys
from kalamdb.sql.projection import Projected, item, project
from kalamdb.sql.query_shape import table_name
from kalamdb.sql.scope import NotCompilable, TableScope
from kalamdb.sql.syntax import Constant, Fragment, QuerySyntax

_POINT_ARGS = frozenset(("expressions", "from_", "where", "limit"))


def bind_select(
    syntax: QuerySyntax, catalog: CatalogView, namespace: str
) -> PointSelect | ScanSelect:
    """Raises UnknownTable, UnknownNamespace, UnknownColumn, TypeMismatch, Unsupported."""
    try:
        found = _point(syntax, catalog, namespace)
    except NotCompilable:
        found = None
    if found is not None:
        return found
    return scan_select(syntax.query, catalog, namespace, syntax.parameters)


def single_table(
    tree: Any, catalog: CatalogView, namespace: str
) -> tuple[TableDef, TableScope] | None:
    """The table of a SELECT that reads one stored table and nothing else; None for any other
    query.
    """
    if not isinstance(tree, exp.Select):
        return None
    clause = tree.args.get("from_")
    source = None if clause is None else clause.this
    if not isinstance(source, exp.Table) or tree.args.get("joins") or source.args.get("joins"):
        return None
    alias = source.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        return None
    name = table_name(source)
    if name.all_users:
        return None
    table = catalog.table(name.namespace or namespace, name.name)
    return table, TableScope(table, source.alias.lower() or None)


def other_clauses(tree: Any, known: frozenset[str]) -> list[str]:
    """The clauses of a SELECT beside the known ones."""
    return [
        name
        for name, value in tree.args.items()
        if name not in known and value is not None and value is not False and value != []
    ]


def _point(syntax: QuerySyntax, catalog: CatalogView, namespace: str) -> PointSelect | None:
    tree: Any = syntax.query.tree
    where = tree.args.get("where")
    # Clauses first: with a WITH, what FROM names may be no stored table.
    if where is None or other_clauses(tree, _POINT_ARGS):
        return None
    found = single_table(tree, catalog, namespace)
    if found is None:
        return None
    table, scope = found
    conditions = conjuncts(where.this)
    by_key = point_keys(conditions, scope, syntax.parameters)
    if by_key is None or not _limit_is_idle(tree, conditions):
        return None
    keys, rest = by_key
    items = select_items(syntax.query, scope)
    if any(entry.compiled is not None and entry.compiled.needs_env for entry in items):
        return None
    predicate: Callable[[Env], Predicate] | None = None
    if rest:
        predicate = condition([compile_condition(one, scope) for one in rest])
    output = tuple(entry.output for entry in items)
    return PointSelect(table, output, keys, project(items), predicate)


def _limit_is_idle(tree: Any, conditions: Sequence[Any]) -> bool:
    """A LIMIT of 1 or more changes nothing where at most one row is found."""
    limit = tree.args.get("limit")
    if limit is None:
        return True
    operand = literal(limit.expression)
    if not isinstance(operand, Constant) or type(operand.value) is not int or operand.value < 1:
        return False
    return not any(isinstance(one, exp.In) for one in conditions)


def select_items(query: Fragment, scope: TableScope) -> list[Projected]:
    """The SELECT list over one table. Raises NotCompilable, UnknownColumn."""
    tree: Any = query.tree
    ranges = select_list(query.tokens)
    if len(ranges) != len(tree.expressions):
        raise NotCompilable("this SELECT list")
    found: list[Projected] = []
    for node, tokens in zip(tree.expressions, ranges, strict=True):
        found.extend(_select_item(node, tokens, query, scope))
    return found


def _select_item(
    node: Any, tokens: Sequence[Token], query: Fragment, scope: TableScope
) -> list[Projected]:
    if isinstance(node, exp.Alias):
        name = node.args["alias"]
        alias = name.this if name.quoted else name.this.lower()
        return item(node.this, "", alias, scope)
    source = query.text[tokens[0].start : tokens[-1].end + 1]
    return item(node, source, None, scope)
