# pyright: basic
"""SELECT over one table by ranges of a key: bound when a path finds its rows and all of its parts
compile.

What comes out is what the engine's path gives: the same columns and flags, rows in the order of
ORDER BY, without one in the order of the primary key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from kalamdb.model.keys import key_encoder
from kalamdb.model.table import DELETED_COLUMN_ID, Column
from kalamdb.sql.access_path import Fit, FoundPath, OrderColumn, find_path
from kalamdb.sql.bound import Env, OutputColumn, PageRows, RangeSelect, ScanSelect, SortColumn
from kalamdb.sql.change import condition
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.operands import literal
from kalamdb.sql.point_key import conjuncts
from kalamdb.sql.projection import Projected, project
from kalamdb.sql.scope import NotCompilable, TableScope
from kalamdb.sql.seek import UNORDERED
from kalamdb.sql.syntax import Constant, Param, QuerySyntax

CLAUSES = frozenset(("expressions", "from_", "where", "order", "limit", "offset"))


def range_select(
    syntax: QuerySyntax,
    scope: TableScope,
    items: Sequence[Projected],
    otherwise: Callable[[], ScanSelect],
) -> RangeSelect | None:
    """None when every row must be looked at. `items` is the compiled SELECT list.

    Raises NotCompilable, TypeMismatch, UnknownColumn.
    """
    tree: Any = syntax.query.tree
    if any(item.compiled is not None and item.compiled.needs_env for item in items):
        return None
    if any(node.find(exp.Case) is not None for node in tree.expressions):
        return None  # the engine has its own mind about the type of a CASE
    where = tree.args.get("where")
    conditions = [] if where is None else conjuncts(where.this)
    table = scope.table
    order = _order(tree.args.get("order"), items, scope)
    page = _page(tree)
    limited = tree.args.get("limit") is not None
    found = find_path(conditions, scope, syntax.parameters, order, limited=limited)
    if found is None:
        return None
    left = [compile_condition(one, scope) for one in found.left]
    return RangeSelect(
        table,
        _output(items, scope),
        found.path,
        found.reverse,
        _sort(found, order),
        found.fit is Fit.WITHIN,
        project(items),
        condition(left) if left else None,
        page,
        otherwise(),
    )


def _output(items: Sequence[Projected], scope: TableScope) -> tuple[OutputColumn, ...]:
    """As the engine labels them."""
    return tuple(
        item.output
        if item.column is None
        else OutputColumn(item.output.name, item.output.type, scope.table.flags(item.column))
        for item in items
    )


def _sort(found: FoundPath, order: Sequence[OrderColumn]) -> tuple[SortColumn, ...]:
    if found.fit is Fit.WHOLE:
        return ()
    return tuple(
        SortColumn(one.column, key_encoder(one.column.type), one.descending) for one in order
    )


# ---- ORDER BY -----------------------------------------------------------------------------------


def _order(clause: Any, items: Sequence[Projected], scope: TableScope) -> list[OrderColumn]:
    """ORDER BY as columns of the table; the primary key without one. Raises NotCompilable."""
    table = scope.table
    if clause is None:
        return [OrderColumn(column, False) for column in table.key_columns]
    found: list[OrderColumn] = []
    for entry in clause.expressions:
        if not isinstance(entry, exp.Ordered) or entry.args.get("with_fill"):
            raise NotCompilable("this ORDER BY")
        column = _order_column(entry.this, items, scope)
        descending = bool(entry.args.get("desc"))
        nulls_first = bool(entry.args.get("nulls_first"))
        if column.nullable and nulls_first is not descending:
            raise NotCompilable("NULLS FIRST and LAST other than by themselves")
        if all(one.column.id != column.id for one in found):
            found.append(OrderColumn(column, descending))
        if {one.column.id for one in found} >= set(table.primary_key):
            break  # no two rows are equal up to here
    return found


def _order_column(node: Any, items: Sequence[Projected], scope: TableScope) -> Column:
    operand = literal(node)
    if operand is not None:
        place = operand.value if isinstance(operand, Constant) else None
        if not isinstance(place, int) or isinstance(place, bool) or not 1 <= place <= len(items):
            raise NotCompilable("this ORDER BY")
        return _sortable(items[place - 1].column)
    if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
        raise NotCompilable("ORDER BY an expression")
    name = node.this.name if node.this.quoted else node.this.name.lower()
    if not node.text("table"):
        named = [item for item in items if item.output.name == name]
        if named:  # the name of a result column comes before that of a column
            if len({None if item.column is None else item.column.id for item in named}) > 1:
                raise NotCompilable("an ORDER BY that names two result columns")
            return _sortable(named[0].column)
    return _sortable(scope.resolve(node))


def _sortable(column: Column | None) -> Column:
    if column is None or column.id == DELETED_COLUMN_ID or column.type.kind in UNORDERED:
        raise NotCompilable("ORDER BY an expression")
    return column


# ---- LIMIT --------------------------------------------------------------------------------------


def _page(tree: Any) -> Callable[[Env], PageRows | None]:
    limit = _count(tree.args.get("limit"), exp.Limit, ("expression",))
    offset = _count(tree.args.get("offset"), exp.Offset, ("expression",))

    def page(env: Env) -> PageRows | None:
        rows, skipped = _value(limit, env), _value(offset, env)
        if rows is _NO_COUNT or skipped is _NO_COUNT:
            return None
        return PageRows(rows, skipped or 0)

    return page


def _count(clause: Any, kind: type[Any], known: tuple[str, ...]) -> Constant | Param | None:
    if clause is None:
        return None
    others = [name for name, value in clause.args.items() if value and name not in known]
    operand = literal(clause.expression)
    if not isinstance(clause, kind) or others or operand is None:
        raise NotCompilable("this LIMIT")
    if isinstance(operand, Constant) and _checked(operand.value) is _NO_COUNT:
        raise NotCompilable("this LIMIT")
    return operand


_NO_COUNT: Any = object()


def _value(operand: Constant | Param | None, env: Env) -> Any:
    match operand:
        case None:
            return None
        case Constant(value=value):
            return value
        case Param(index=index):
            return _checked(env.params[index]) if index < len(env.params) else _NO_COUNT


def _checked(value: Any) -> Any:
    if value is None or (type(value) is int and 0 <= value < 1 << 63):
        return value
    return _NO_COUNT
