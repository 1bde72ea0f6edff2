# pyright: basic
"""Live queries bound: of one table as functions of a row, of any other shape as text to run anew.

A SELECT of columns of one table with a filter is *incremental*: whether a row appears in, leaves or
changes within the result is found by looking at that row alone. Every other SELECT is bound as for
the query engine. Refused, with the reason, is what would change without any table changing: the
current time, random values, queries without a table, system tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidParameter, TypeMismatch, Unsupported, ValueOutOfRange
from kalamdb.model.catalog import CatalogView
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import Column, TableDef
from kalamdb.model.types import Kind
from kalamdb.sql.access_path import find_path
from kalamdb.sql.bound import Env, LivePlan, Predicate, ReevaluatedPlan
from kalamdb.sql.change import condition
from kalamdb.sql.engine_query import scan_select
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.live_key import key_of
from kalamdb.sql.operands import check_literal, literal, parameter
from kalamdb.sql.parameters import check_count
from kalamdb.sql.point_key import conjuncts, key_maker
from kalamdb.sql.render import Text, text_of
from kalamdb.sql.scope import NotCompilable, TableScope
from kalamdb.sql.select import other_clauses, single_table
from kalamdb.sql.statement import Select
from kalamdb.sql.syntax import Constant, QuerySyntax
from kalamdb.sql.views import view_query
from kalamdb.sql.virtual import VirtualTable

_INCREMENTAL_ARGS = frozenset(("expressions", "from_", "where"))
_NO_TABLE_HINT = "a live query tells of changes, and nothing changes here; run it as a SELECT"
_SYSTEM_HINT = "they have no change log; run it as a SELECT"
_TIMES = (
    exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.CurrentDatetime, exp.Localtime,
    exp.Localtimestamp,
)  # fmt: skip
_DICE = (exp.Rand, exp.Randn, exp.Uuid)
_TIME_NAMES = frozenset(("NOW", "TODAY"))
_DICE_NAMES = frozenset(("SNOWFLAKE_ID", "UUID_V7", "ULID", "RANDOM", "UUID", "GEN_RANDOM_UUID"))
# Equal values of these have equal key bytes; FLOAT is compared as DOUBLE, which its keys are not.
_INDEXED = frozenset(
    (
        Kind.BOOLEAN, Kind.SMALLINT, Kind.INT, Kind.BIGINT, Kind.DOUBLE, Kind.TEXT, Kind.DECIMAL,
        Kind.TIMESTAMP, Kind.DATETIME, Kind.DATE, Kind.TIME, Kind.UUID,
    )
)  # fmt: skip


def bind_live(
    select: Select, catalog: CatalogView, namespace: str, env: Env
) -> LivePlan | ReevaluatedPlan:
    """Raises Unsupported naming the construct, UnknownTable, UnknownColumn, TypeMismatch,
    InvalidParameter.
    """
    syntax: QuerySyntax = select.tree
    check_count(env, syntax.parameters)
    if not select.tables:
        raise Unsupported("a live query without a table", _NO_TABLE_HINT)
    _refuse_moving(syntax.query.tree)
    plan = _incremental(syntax, catalog, namespace, env)
    return _reevaluated(syntax, catalog, namespace, env) if plan is None else plan


def _refuse_moving(tree: Any) -> None:
    """Refuse what gives other results although no row has changed."""
    for node in tree.walk():
        name = node.name.upper() if isinstance(node, exp.Anonymous) else ""
        if isinstance(node, _TIMES) or name in _TIME_NAMES:
            raise Unsupported(
                "the current time in a live query",
                "it would change with no row changing; compare with a parameter",
            )
        if isinstance(node, _DICE) or name in _DICE_NAMES:
            raise Unsupported(
                "random values in a live query", "each evaluation would give other rows"
            )


# ---- one table, filter and projection ------------------------------------------------------------


def _incremental(
    syntax: QuerySyntax, catalog: CatalogView, namespace: str, env: Env
) -> LivePlan | None:
    tree: Any = syntax.query.tree
    if not isinstance(tree, exp.Select) or other_clauses(tree, _INCREMENTAL_ARGS):
        return None
    if any(
        isinstance(node, exp.AggFunc) or (isinstance(node, exp.Query) and node is not tree)
        for node in tree.walk()
    ):
        return None
    found = single_table(tree, catalog, namespace)
    if found is None:
        return None
    table, scope = found
    columns = _columns(tree.expressions, scope)
    if columns is None:
        return None
    where = tree.args.get("where")
    conditions = [] if where is None else conjuncts(where.this)
    try:
        predicate = _predicate(conditions, scope, env)
    except NotCompilable:
        return None
    shape = f"{table.id}@{table.version} {_shape(syntax, columns, table, env)}"
    equality = _equality(conditions, scope, env)
    ranges = _ranges(conditions, scope, syntax.parameters, env)
    return LivePlan(table, columns, predicate, shape, equality, ranges)


def _ranges(
    conditions: Sequence[Any], scope: TableScope, parameters: int, env: Env
) -> tuple[KeyRange, ...] | None:
    """Where to load from. A range alone may be nearly everything, and the newest rows are found
    sooner by seq then.
    """
    found = find_path(conditions, scope, parameters, (), limited=False)
    return tuple(found.path.ranges(env)) if found is not None and found.path.fixed else None


def _columns(nodes: Sequence[Any], scope: TableScope) -> tuple[Column, ...] | None:
    """The columns, under the names they have in rows; None when there is anything else."""
    table = scope.table
    found: dict[int, Column] = {}
    for node in nodes:
        if isinstance(node, exp.Star):
            chosen: Sequence[Column] = table.readable
        elif isinstance(node, exp.Column) and isinstance(node.this, exp.Star):
            scope.check_qualifier(node.text("db").lower(), node.text("table").lower(), "*")
            chosen = table.readable
        elif isinstance(node, exp.Column):
            chosen = (scope.resolve(node),)
        elif isinstance(node, exp.Alias) and isinstance(node.this, exp.Column):
            alias = node.args["alias"]
            name = alias.this if alias.quoted else alias.this.lower()
            column = scope.resolve(node.this)
            # Changes name the key as well, so no other column may look like one of the table's.
            if name != column.name and (column.id < 0 or name in table.by_name):
                return None
            chosen = (replace(column, name=name),)
        else:
            return None
        for column in chosen:
            if found.setdefault(column.id, column).name != column.name:
                return None
    names = {column.name for column in found.values()}
    return tuple(found.values()) if len(names) == len(found) else None


def _predicate(conditions: Sequence[Any], scope: TableScope, env: Env) -> Predicate | None:
    if not conditions:
        return None
    return condition([compile_condition(one, scope) for one in conditions])(env)


def _equality(conditions: Sequence[Any], scope: TableScope, env: Env) -> tuple[int, bytes] | None:
    """The first `column = value` among conditions that must all hold."""
    for node in conditions:
        if not isinstance(node, exp.EQ):
            continue
        for one, other in ((node.this, node.expression), (node.expression, node.this)):
            operand = literal(other)
            if operand is None or not isinstance(one, exp.Column):
                continue
            column = scope.resolve(one)
            # What rows say that were written before a column was there is not in their images.
            if column.id <= 0 or column.initial is not None or column.type.kind not in _INDEXED:
                continue
            try:
                if isinstance(operand, Constant):
                    check_literal(column.type, operand.value)
                    value = operand.value
                else:
                    value = parameter(env, operand.index)
                key = key_maker(column)(value)
            except (NotCompilable, TypeMismatch, ValueOutOfRange, InvalidParameter):
                continue
            if key is not None:
                return column.id, key
    return None


def _shape(syntax: QuerySyntax, columns: Sequence[Column], table: TableDef, env: Env) -> str:
    """The filter's text with its parameters and user filled in: equal texts mean equal filters."""
    tokens = syntax.query.tokens
    where: Text | None = None
    for at, token in enumerate(tokens):
        if token.text.upper() == "WHERE":
            where = text_of(tokens[at + 1 :], syntax.query.text, {})
            break
    chosen = ",".join(
        str(column.id)
        if table.by_id[column.id].name == column.name
        else f"{column.id}={column.name!r}"
        for column in columns
    )
    return f"[{chosen}] {'' if where is None else where.render(env)}"


# ---- any other SELECT ----------------------------------------------------------------------------


def _reevaluated(
    syntax: QuerySyntax, catalog: CatalogView, namespace: str, env: Env
) -> ReevaluatedPlan:
    scan = scan_select(syntax.query, catalog, namespace, syntax.parameters)
    for view in scan.views:
        _refuse_moving(view_query(view.sql).query.tree)
    if not scan.tables:
        raise Unsupported("a live query without a table", _NO_TABLE_HINT)
    if any(isinstance(use.table, VirtualTable) for use in scan.tables):
        raise Unsupported("system tables in a live query", _SYSTEM_HINT)
    key = key_of(syntax.query.tree, catalog, namespace)
    return ReevaluatedPlan(scan, env, scan.render(env), key)
