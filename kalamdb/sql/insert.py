# pyright: basic
"""INSERT bound to its table: how rows are made from parameters, and what a conflict does.

Every row gets its values, then its defaults; numbers from the row counter (`drawn`) are left to the
sequencer, which alone knows the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kalamdb.errors import (
    InvalidStatement,
    NotNullViolation,
    StatementTooLarge,
    UnknownColumn,
    Unsupported,
)
from kalamdb.model.catalog import CatalogView
from kalamdb.model.change import Row
from kalamdb.model.command import STATEMENT_EFFECTS_MAX_BYTES
from kalamdb.model.table import ROW_ID_COLUMN_ID, Column, DefaultKind, TableDef
from kalamdb.model.values import strict_parser
from kalamdb.model.work import ConflictRule
from kalamdb.sql.assignment import (
    Source,
    assignable,
    converted,
    converter,
    default_source,
    draws,
    item_source,
    supported,
    volatile,
)
from kalamdb.sql.bound import Env, InsertPlan, InsertSelectPlan
from kalamdb.sql.engine_query import scan_select
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.parameters import check_count
from kalamdb.sql.projection import returning
from kalamdb.sql.scope import ConflictScope, NoColumns, NotCompilable, TableScope
from kalamdb.sql.syntax import (
    ConflictSyntax,
    Constant,
    DefaultWord,
    Fragment,
    InsertSyntax,
    Item,
    Param,
)

RowMaker = Callable[[Env], Row]


def bind_insert(
    syntax: InsertSyntax, table: TableDef, catalog: CatalogView, namespace: str
) -> InsertPlan | InsertSelectPlan:
    """Raises UnknownColumn, InvalidStatement, TypeMismatch, Unsupported."""
    columns = _targets(syntax, table)
    scope = TableScope(table, syntax.alias)
    clause, output = returning(syntax.returning, scope)
    conflict = _conflict(syntax, table)
    if syntax.query is not None:
        scan = scan_select(syntax.query, catalog, namespace, syntax.parameters)
        complete = _completer(columns, table)
        numbered = _drawn(table, columns)
        return InsertSelectPlan(table, scan, complete, numbered, conflict, clause, output)
    given = syntax.rows if syntax.rows is not None else ((),)
    drawn: set[int] = set()
    for items in given:
        # Without a list of columns the last ones may be left to their defaults.
        fewer = syntax.columns is not None and len(items) < len(columns)
        if fewer or len(items) > len(columns):
            raise InvalidStatement(
                f"{len(columns)} columns are named and {len(items)} values given"
            )
    nothing = NoColumns()
    makers = [_row_maker(items, columns, table, drawn, nothing) for items in given]
    return InsertPlan(
        table,
        _rows(makers, syntax.parameters),
        tuple(sorted(drawn)),
        conflict,
        clause,
        output,
    )


def _targets(syntax: InsertSyntax, table: TableDef) -> tuple[Column, ...]:
    if syntax.columns is None:
        return () if syntax.rows is None and syntax.query is None else table.columns
    found: list[Column] = []
    for name in syntax.columns:
        column = assignable(table.by_name, name, table.readable_by_name)
        if column is None:
            raise UnknownColumn(name, table.full_name)
        if column in found:
            raise InvalidStatement(f"column {name} is named twice")
        found.append(column)
    return tuple(found)


def _drawn(table: TableDef, given: Sequence[Column]) -> tuple[int, ...]:
    """Columns that take numbers from the row counter when a row comes without them."""
    columns = [column.id for column in table.columns if draws(column) and column not in given]
    if table.has_hidden_key:
        columns.insert(0, ROW_ID_COLUMN_ID)
    return tuple(columns)


# ---- rows ----------------------------------------------------------------------------------------


def _rows(makers: Sequence[RowMaker], parameters: int) -> Callable[[Env], list[Row]]:
    if len(makers) == 1:
        make = makers[0]

        def one(env: Env) -> list[Row]:
            if len(env.params) != parameters:
                check_count(env, parameters)
            return [make(env)]

        return one

    def rows(env: Env) -> list[Row]:
        if len(env.params) != parameters:
            check_count(env, parameters)
        made: list[Row] = []
        size_bytes = 0
        for make in makers:
            row = make(env)
            size_bytes += sum(len(v) for v in row.values() if type(v) is str or type(v) is bytes)
            if size_bytes > STATEMENT_EFFECTS_MAX_BYTES:  # one parameter may stand in every row
                most = STATEMENT_EFFECTS_MAX_BYTES
                raise StatementTooLarge(f"more than {most}", most)
            made.append(row)
        return made

    return rows


def _row_maker(
    items: Sequence[Item],
    columns: Sequence[Column],
    table: TableDef,
    drawn: set[int],
    nothing: NoColumns,
) -> RowMaker:
    """One row of VALUES: constants are parsed now, parameters when they come."""
    constants: Row = {}
    params: list[tuple[int, Callable[[Any], Any], int]] = []
    sources: list[tuple[int, Source]] = []
    said: set[int] = set()
    for item, column in zip(items, columns, strict=False):
        if isinstance(item, DefaultWord):
            continue
        said.add(column.id)
        if _is_draw(item, column):
            drawn.add(column.id)
            continue
        match item:
            case Constant(value=None):
                _explicit_null(column, table, constants)
            case Constant(value=value):
                constants[column.id] = strict_parser(column.type, column.name)(value)
            case Param(index=index):
                params.append((column.id, strict_parser(column.type, column.name), index))
            case _:
                sources.append((column.id, item_source(item, column, nothing, "in VALUES")))
    for column in table.columns:
        if column.id in said:
            continue
        if draws(column):
            drawn.add(column.id)
            continue
        source = default_source(column)
        if source is not None:
            default = column.default
            if default is not None and default.kind is DefaultKind.LITERAL:
                constants[column.id] = default.value
            else:
                sources.append((column.id, source))
    if table.has_hidden_key:
        drawn.add(ROW_ID_COLUMN_ID)
    # A parameter may turn out NULL, and then no number is drawn for it.
    computed = {column_id for column_id, *_ in params} | {column_id for column_id, _ in sources}
    guarded = {column.id: column for column in columns if column.id in computed and draws(column)}
    return _maker(constants, params, sources, guarded, table)


def _is_draw(item: Item, column: Column) -> bool:
    return isinstance(item, Fragment) and volatile(item.tree, column) is DefaultKind.SNOWFLAKE_ID


def _explicit_null(column: Column, table: TableDef, row: Row) -> None:
    """NULL where a number would be drawn is said on purpose: no number then."""
    if draws(column):
        if not column.nullable:
            raise NotNullViolation(column.name, table.full_name)
        row[column.id] = None


def _maker(
    constants: Row,
    params: Sequence[tuple[int, Callable[[Any], Any], int]],
    sources: Sequence[tuple[int, Source]],
    guarded: dict[int, Column],
    table: TableDef,
) -> RowMaker:
    if not guarded and not sources:

        def quick(env: Env) -> Row:
            given = env.params
            row = constants.copy()
            for column_id, parse, index in params:
                value = given[index]
                if value is not None:
                    row[column_id] = parse(value)
            return row

        return quick

    def make(env: Env) -> Row:
        given = env.params
        row = constants.copy()
        for column_id, parse, index in params:
            value = given[index]
            if value is not None:
                row[column_id] = parse(value)
        for column_id, source in sources:
            value = source(env)
            if value is not None:
                row[column_id] = value
        for column_id, column in guarded.items():
            if column_id not in row:
                _explicit_null(column, table, row)
        return row

    return make


def _completer(columns: Sequence[Column], table: TableDef) -> Callable[[Env, Sequence[Any]], Row]:
    """Rows of INSERT … SELECT: values in the order of `columns`, then defaults."""
    parsers = [(column, strict_parser(column.type, column.name)) for column in columns]
    sources: list[tuple[int, Source]] = []
    for column in table.columns:
        source = default_source(column)
        if column not in columns and source is not None:
            sources.append((column.id, source))

    def complete(env: Env, values: Sequence[Any]) -> Row:
        if len(values) != len(parsers):
            raise InvalidStatement(
                f"{len(parsers)} columns are named and the SELECT gives {len(values)}"
            )
        row: Row = {}
        for (column, parse), value in zip(parsers, values, strict=True):
            if value is not None:
                row[column.id] = parse(value)
            elif draws(column):
                _explicit_null(column, table, row)
        for column_id, source in sources:
            value = source(env)
            if value is not None:
                row[column_id] = value
        return row

    return complete


# ---- ON CONFLICT ---------------------------------------------------------------------------------


def _conflict(syntax: InsertSyntax, table: TableDef) -> Callable[[Env], ConflictRule] | None:
    found = syntax.conflict
    if found is None:
        return None
    unique, any_target = _conflict_target(found, table)
    if found.assignments is None:
        rule = ConflictRule(unique, any_target)
        return lambda env: rule
    if any_target:
        raise InvalidStatement("ON CONFLICT DO UPDATE names the columns that conflict")
    if not table.accepts_update:
        raise InvalidStatement("rows of a STREAM table are not updated; write DO NOTHING")
    scope = ConflictScope(table, syntax.alias)
    assign = assigner(found.assignments, table, scope, "in ON CONFLICT")
    where = None
    if found.where is not None:
        try:
            where = compile_condition(found.where.tree, scope)
        except NotCompilable as error:
            raise Unsupported(f"{error.construct} in ON CONFLICT", None) from error

    def rule_of(env: Env) -> ConflictRule:
        test = None if where is None else where.at(env)
        return ConflictRule(
            unique,
            False,
            assign(env),
            None if test is None else lambda old, excluded: bool(test(old, excluded)),
        )

    return rule_of


def _conflict_target(found: ConflictSyntax, table: TableDef) -> tuple[int | None, bool]:
    if found.constraint is not None:
        for unique in table.ready_uniques:
            if unique.name == found.constraint:
                return unique.id, False
        if found.constraint == f"{table.name}_pkey" and not table.has_hidden_key:
            return None, False
        raise InvalidStatement(f"constraint {found.constraint} does not exist in {table.full_name}")
    if found.columns is None:
        return None, True
    ids: list[int] = []
    for name in found.columns:
        column = table.by_name.get(name)
        if column is None:
            raise UnknownColumn(name, table.full_name)
        ids.append(column.id)
    if set(ids) == set(table.primary_key):
        return None, False
    for unique in table.ready_uniques:
        if set(ids) == set(unique.columns):
            return unique.id, False
    raise InvalidStatement(
        f"ON CONFLICT ({', '.join(found.columns)}): no PRIMARY KEY or UNIQUE is on these columns"
    )


def assigner(
    assignments: Sequence[tuple[str, Item]], table: TableDef, scope: TableScope, where: str
) -> Callable[[Env], Callable[[Any, Any], Row]]:
    """SET as a function of a run, then of (old row, other) → new row. Raises Unsupported."""
    targets = assigned_columns(assignments, table)
    parts: list[tuple[int, Any, Any, Source | None]] = []
    for (_, item), column in zip(assignments, targets, strict=True):
        if isinstance(item, Fragment) and volatile(item.tree, column) is None:
            compiled = supported(item, scope, where)
            parts.append((column.id, compiled.at, converter(compiled.type, column), None))
        else:
            parts.append((column.id, None, None, item_source(item, column, NoColumns(), where)))

    def at(env: Env) -> Callable[[Any, Any], Row]:
        fixed = {column_id: source(env) for column_id, _, _, source in parts if source is not None}
        computed = tuple(
            (column_id, bind(env), convert) for column_id, bind, convert, source in parts
            if source is None
        )  # fmt: skip

        def assign(old: Any, other: Any) -> Row:
            new = old.copy()
            for column_id, value in fixed.items():
                if value is None:
                    new.pop(column_id, None)
                else:
                    new[column_id] = value
            for column_id, function, convert in computed:
                value = converted(function(old, other), convert)
                if value is None:
                    new.pop(column_id, None)
                else:
                    new[column_id] = value
            return new

        return assign

    return at


def assigned_columns(assignments: Sequence[tuple[str, Item]], table: TableDef) -> list[Column]:
    found: list[Column] = []
    for name, _ in assignments:
        column = assignable(table.by_name, name, table.readable_by_name)
        if column is None:
            raise UnknownColumn(name, table.full_name)
        if column.id in table.primary_key:
            raise InvalidStatement(
                f"column {name} is in the PRIMARY KEY and is not updated; delete and insert"
            )
        if column in found:
            raise InvalidStatement(f"column {name} is assigned twice")
        found.append(column)
    return found
