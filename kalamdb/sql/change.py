# pyright: basic
"""UPDATE and DELETE bound to their table: by key, by scan with a compiled condition, or by the
engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kalamdb.errors import InvalidStatement
from kalamdb.model.catalog import CatalogView
from kalamdb.model.change import Row
from kalamdb.model.table import SEQ_COLUMN, Column, TableDef
from kalamdb.sql.access_path import find_path
from kalamdb.sql.assignment import converted, converter, item_source, volatile
from kalamdb.sql.bound import ChangePlan, EngineChangePlan, Env, Predicate, ScanSelect
from kalamdb.sql.engine_query import Renderer, Sources, splice_tree
from kalamdb.sql.expression import compile_condition, compile_expression
from kalamdb.sql.insert import assigned_columns
from kalamdb.sql.literals import quoted, typed_literal, untyped_literal
from kalamdb.sql.logic import connect
from kalamdb.sql.operands import parameter
from kalamdb.sql.parameters import check_count
from kalamdb.sql.point_key import conjuncts, point_keys
from kalamdb.sql.projection import returning
from kalamdb.sql.render import Dynamic, Piece, Splices, Text, text_of
from kalamdb.sql.scope import Compiled, NoColumns, NotCompilable, TableScope
from kalamdb.sql.statement import TableName
from kalamdb.sql.syntax import (
    Constant,
    DefaultWord,
    DeleteSyntax,
    Fragment,
    Item,
    Param,
    UpdateSyntax,
)


class SetScope(TableScope):
    """Right sides of SET: the old row, whose seq is not at hand."""

    def column(self, node: Any) -> Compiled:
        if self.resolve(node).name == SEQ_COLUMN:
            raise NotCompilable(SEQ_COLUMN)
        return super().column(node)


def bind_change(
    syntax: UpdateSyntax | DeleteSyntax, table: TableDef, catalog: CatalogView, namespace: str
) -> ChangePlan | EngineChangePlan:
    """Raises InvalidStatement, UnknownColumn, TypeMismatch, Unsupported."""
    verb = "UPDATE" if isinstance(syntax, UpdateSyntax) else "DELETE"
    if syntax.where is None:
        raise InvalidStatement(f"{verb} needs a WHERE; write WHERE true to mean every row")
    targets: list[Column] | None = None
    if isinstance(syntax, UpdateSyntax):
        if not table.accepts_update:
            raise InvalidStatement("rows of a STREAM table are not updated; insert a new one")
        targets = assigned_columns(syntax.assignments, table)
    try:
        return _compiled(syntax, syntax.where, table, targets)
    except NotCompilable:
        return _by_engine(syntax, syntax.where, table, targets, sources=Sources(catalog, namespace))


def _compiled(
    syntax: UpdateSyntax | DeleteSyntax,
    where: Fragment,
    table: TableDef,
    targets: list[Column] | None,
) -> ChangePlan:
    scope = TableScope(table, syntax.alias)
    conditions = conjuncts(where.tree)
    found = point_keys(conditions, scope, syntax.parameters)
    path = None
    if found is None:
        ranged = find_path(conditions, scope, syntax.parameters, (), limited=False)
        keys, rest = None, conditions
        if ranged is not None:
            path, rest = ranged.path, list(ranged.left)
    else:
        keys, rest = found
    change = None
    if isinstance(syntax, UpdateSyntax):
        assert targets is not None
        change = _setter(syntax.assignments, targets, SetScope(table, syntax.alias))
    predicate = None if not rest else condition([compile_condition(one, scope) for one in rest])
    clause, output = returning(syntax.returning, scope)
    if keys is None and path is None:
        # By scan every row is looked at, so the run begins with the condition.
        predicate = _counted(predicate, syntax.parameters)
    return ChangePlan(table, keys, predicate, change, clause, output, path)


def condition(parts: Sequence[Compiled]) -> Callable[[Env], Predicate]:
    """All of the conditions as a predicate: NULL counts as no."""
    return connect(parts, decisive=False).at


def _counted(
    predicate: Callable[[Env], Predicate] | None, parameters: int
) -> Callable[[Env], Predicate] | None:
    if predicate is None:
        return None

    def at(env: Env) -> Predicate:
        check_count(env, parameters)
        return predicate(env)

    return at


def _setter(
    assignments: Sequence[tuple[str, Item]], targets: Sequence[Column], scope: TableScope
) -> Callable[[Env], Callable[[Row], Row]]:
    fixed: list[tuple[int, Any]] = []
    computed: list[tuple[int, Any, Any]] = []
    for (_, item), column in zip(assignments, targets, strict=True):
        if isinstance(item, Fragment) and volatile(item.tree, column) is None:
            compiled = compile_expression(item.tree, scope)
            computed.append((column.id, compiled.at, converter(compiled.type, column)))
        else:
            fixed.append((column.id, item_source(item, column, NoColumns(), "in SET")))

    def at(env: Env) -> Callable[[Row], Row]:
        values = [(column_id, source(env)) for column_id, source in fixed]
        functions = [(column_id, bind(env), convert) for column_id, bind, convert in computed]

        def change(old: Row) -> Row:
            new = old.copy()
            for column_id, value in values:
                if value is None:
                    new.pop(column_id, None)
                else:
                    new[column_id] = value
            for column_id, function, convert in functions:
                value = converted(function(old, 0), convert)
                if value is None:
                    new.pop(column_id, None)
                else:
                    new[column_id] = value
            return new

        return change

    return at


# ---- by the engine -------------------------------------------------------------------------------


def _by_engine(
    syntax: UpdateSyntax | DeleteSyntax,
    where: Fragment,
    table: TableDef,
    targets: list[Column] | None,
    *,
    sources: Sources,
) -> EngineChangePlan:
    """`SELECT key…, new values… FROM table WHERE …` over the statement's own tokens."""
    alias, _ = sources.use(TableName(table.namespace, table.name))
    sources.hidden.add(alias)
    name = quoted(syntax.alias or table.name)
    keys = ", ".join(f"{name}.{quoted(column.name)}" for column in table.key_columns)
    pieces: list[Piece] = [f"SELECT {keys}"]
    if isinstance(syntax, UpdateSyntax):
        assert targets is not None
        for number, ((_, item), column) in enumerate(
            zip(syntax.assignments, targets, strict=True), 1
        ):
            pieces.append(",")
            pieces.extend(_item_pieces(item, column, sources, table))
            pieces.append(f"AS {quoted(f'new {number}')}")
    pieces.append(f"FROM {alias} AS {name} WHERE (")
    pieces.extend(_fragment_pieces(where, sources, table))
    pieces.append(")")
    render = Renderer(Text(tuple(pieces)), syntax.parameters)
    scan = ScanSelect(sources.scans(), render, False, tuple(sources.views.values()))
    clause, output = returning(syntax.returning, TableScope(table, syntax.alias))
    assigned = None if targets is None else tuple(targets)
    return EngineChangePlan(table, scan, assigned, clause, output)


def _fragment_pieces(fragment: Fragment, sources: Sources, table: TableDef) -> Sequence[Piece]:
    splices = Splices()
    splice_tree(fragment, sources, splices, table)
    return text_of(fragment.tokens, fragment.text, splices).pieces


def _item_pieces(item: Item, column: Column, sources: Sources, table: TableDef) -> Sequence[Piece]:
    match item:
        case Fragment() if volatile(item.tree, column) is None:
            return ["(", *_fragment_pieces(item, sources, table), ")"]
        case Param(index=index):
            return [
                Dynamic(f"${index + 1}", lambda env: _literal(parameter(env, index), column, index))
            ]
        case Constant(value=value):
            return [_literal(value, column, None)]
        case DefaultWord() | Fragment():
            source = item_source(item, column, NoColumns(), "in SET")
            return [Dynamic("DEFAULT", lambda env: _literal(source(env), column, None))]


def _literal(value: Any, column: Column, index: int | None) -> str:
    if value is None:
        return "NULL"
    found = typed_literal(value, column.type, index)
    if found is not None:
        return found
    return (
        untyped_literal(value, index or 0) if isinstance(value, (int, str, float)) else str(value)
    )
