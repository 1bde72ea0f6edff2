# pyright: basic
"""CHECK constraints as functions of a row; compiled once per definition of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.model.table import Check, TableDef
from kalamdb.sql import dialect
from kalamdb.sql.expression import compile_condition
from kalamdb.sql.literals import quoted
from kalamdb.sql.render import Splices, add, identifier_span, text_of
from kalamdb.sql.scope import NO_ENV, Compiled, NotCompilable, TableScope

Holds = Callable[[Any], "bool | None"]
"""Does the row satisfy the constraint? None (unknown) counts as yes, as in SQL."""

_CACHED = "_compiled_checks"


def checks(table: TableDef) -> tuple[tuple[str, Holds], ...]:
    """Name and function of each CHECK of a table, compiled once per TableDef."""
    cached = table.__dict__.get(_CACHED)
    if cached is None:
        cached = tuple((check.name, _holds(table, check.sql)) for check in table.checks)
        table.__dict__[_CACHED] = cached
    return cached


def _holds(table: TableDef, sql: str) -> Holds:
    compiled = compile_check(table, dialect.expression(dialect.tokenize(sql), sql))
    function = compiled.at(NO_ENV)

    def holds(row: Any) -> bool | None:
        return function(row, None)

    return holds


def compile_check(table: TableDef, tree: exp.Expr) -> Compiled:
    """A condition over one row. Raises Unsupported, InvalidDefinition, UnknownColumn,
    TypeMismatch.
    """
    for column in tree.find_all(exp.Column):
        name = column.name.lower()
        if name not in table.by_name and name in table.readable_by_name:
            raise InvalidDefinition(f"CHECK cannot look at {name}: a row has it only once stored")
    try:
        compiled = compile_condition(tree, TableScope(table, None))
    except NotCompilable as error:
        raise Unsupported(f"{error.construct} in CHECK", "compare columns and literals") from error
    if compiled.needs_env:
        raise Unsupported(
            "parameters, time and user in CHECK", "a CHECK must answer the same at any time"
        )
    return compiled


def columns_of(table: TableDef, check: Check) -> set[int]:
    """Ids of the columns that a CHECK looks at."""
    tree = dialect.expression(dialect.tokenize(check.sql), check.sql)
    names = {column.name.lower() for column in tree.find_all(exp.Column)}
    return {column.id for column in table.columns if column.name in names}


def renamed_check(old: TableDef, new: TableDef, check: Check) -> Check:
    """A CHECK of `old` under the names that `new` has for the same columns.

    Columns come out without a qualifier, so that the table's own name is not in the text.
    """
    tokens = dialect.tokenize(check.sql)
    tree = dialect.expression(tokens, check.sql)
    names = {one.name: new.by_id[one.id].name for one in old.columns if one.id in new.by_id}
    splices = Splices()
    for column in tree.find_all(exp.Column):
        first = column.args.get("catalog") or column.args.get("db") or column.args.get("table")
        name = column.name.lower()
        if first is None and names.get(name, name) == name:
            continue
        start, end = identifier_span(first or column.this)[0], identifier_span(column.this)[1]
        add(splices, start, end, quoted(names.get(name, name)))
    if not splices:
        return check
    found = text_of(tokens, check.sql, splices)
    return Check(check.name, " ".join(str(piece) for piece in found.pieces))
