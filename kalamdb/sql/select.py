# pyright: basic
"""SELECT bound to its tables: by key when the whole primary key is given, by ranges of a key or an
index when one finds the rows, else by the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token

from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import TableDef
from kalamdb.model.types import Kind
from kalamdb.sql.access_path import find_path
from kalamdb.sql.bound import Env, PointSelect, Predicate, RangeSelect, ScanSelect
from kalamdb.sql.change import condition
from kalamdb.sql.engine_query import scan_select
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.operands import INTEGERS, literal
from kalamdb.sql.output_names import select_list
from kalamdb.sql.point_key import conjuncts, point_keys
from kalamdb.sql.projection import Projected, item, project
from kalamdb.sql.query_shape import base_tables, table_name
from kalamdb.sql.range_select import CLAUSES, range_select
from kalamdb.sql.scope import NotCompilable, TableScope
from kalamdb.sql.syntax import Constant, Fragment, QuerySyntax
from kalamdb.sql.virtual import VIRTUAL_NAMESPACES

_SURE = INTEGERS | {Kind.TEXT, Kind.UUID, Kind.BOOLEAN, Kind.DECIMAL}
_SOURCE_ARGS = frozenset(("this", "db", "catalog", "alias", "joins"))
_POINT_ARGS = frozenset(("expressions", "from_", "where", "limit"))


def bind_select(
    syntax: QuerySyntax, catalog: CatalogView, namespace: str
) -> PointSelect | RangeSelect | ScanSelect:
    """Raises UnknownTable, UnknownNamespace, UnknownColumn, TypeMismatch, Unsupported."""
    for bind in (_point, _ranged):
        try:
            found = bind(syntax, catalog, namespace)
        except NotCompilable:
            continue
        if found is not None:
            return found
    found = scan_select(syntax.query, catalog, namespace, syntax.parameters)
    return _narrowed(found, syntax, catalog, namespace)


def _narrowed(
    found: ScanSelect, syntax: QuerySyntax, catalog: CatalogView, namespace: str
) -> ScanSelect:
    """With a path to the rows that matter, for a query that names one table, once.

    The engine evaluates the whole WHERE over them, so it is enough that the path leaves no row out
    that the engine would take: equalities of kinds whose key bytes and the engine agree on.
    """
    tree: Any = syntax.query.tree
    where = tree.args.get("where")
    if where is None or tree.args.get("with_") is not None:
        return found  # with a WITH, what FROM names may be no stored table
    if len(found.tables) != 1 or len(list(base_tables(tree))) != 1:
        return found
    single = single_table(tree, catalog, namespace)
    if single is None or single[0] is not found.tables[0].table:
        return found
    try:
        ranged = find_path(conjuncts(where.this), single[1], syntax.parameters, (), limited=False)
    except NotCompilable:
        return found
    if ranged is None:
        return found
    path = ranged.path
    given = path.columns[: path.fixed + path.bounded]
    if not path.fixed or any(column.type.kind not in _SURE for column in given):
        return found
    return replace(found, tables=(replace(found.tables[0], path=path),))


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
    if other_clauses(source, _SOURCE_ARGS):
        return None  # FOR SYSTEM_TIME, say
    alias = source.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        return None
    name = table_name(source)
    home = name.namespace or namespace
    if name.all_users or home in VIRTUAL_NAMESPACES or (home, name.name) in catalog.views:
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


def _ranged(syntax: QuerySyntax, catalog: CatalogView, namespace: str) -> RangeSelect | None:
    tree: Any = syntax.query.tree
    if tree.args.get("where") is None and tree.args.get("limit") is None:
        return None
    if not isinstance(tree, exp.Select) or other_clauses(tree, CLAUSES):
        return None
    found = single_table(tree, catalog, namespace)
    if found is None:
        return None
    scope = found[1]

    def otherwise() -> ScanSelect:
        return scan_select(syntax.query, catalog, namespace, syntax.parameters)

    return range_select(syntax, scope, select_items(syntax.query, scope), otherwise)


def _limit_is_idle(tree: Any, conditions: Sequence[Any]) -> bool:
    """A LIMIT of 1 or more changes nothing where at most one row is found."""
    limit = tree.args.get("limit")
    if limit is None:
        return True
    operand = literal(limit.expression)
    if not isinstance(operand, Constant) or type(operand.value) is not int or operand.value < 1:
        return False
    return not any(isinstance(one, exp.In) or one.find(exp.Any) is not None for one in conditions)


def select_items(query: Fragment, scope: TableScope) -> list[Projected]:
    """The SELECT list over one table. Raises NotCompilable, UnknownColumn."""
    tree: Any = query.tree
    ranges = select_list(query.tokens)
    if len(ranges) != len(tree.expressions) or not all(ranges):
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
