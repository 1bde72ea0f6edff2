# pyright: basic
"""Result columns of statements that need no engine: which columns, what they are called, rows as
JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlglot import exp

from kalamdb.errors import ResultTooLarge, Unsupported
from kalamdb.model.table import DELETED_COLUMN_ID, SEQ_COLUMN_ID, Column, TableDef
from kalamdb.model.types import ColumnType, Kind
from kalamdb.model.values import encoder, parser
from kalamdb.model.work import ReturningClause
from kalamdb.sql.bound import OutputColumn
from kalamdb.sql.expression import compile_expression
from kalamdb.sql.scope import NO_ENV, Compiled, NotCompilable, TableScope
from kalamdb.sql.syntax import Output

NAME_LENGTH_MAX = 100
ROW_LENGTH_MAX = 64 << 20
"""Characters of one row that expressions made, or a column named again and again."""


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """One result column: a column of the table, or an expression over a row."""

    output: OutputColumn
    column: Column | None
    compiled: Compiled | None


def column_output(table: TableDef, column: Column, name: str | None = None) -> OutputColumn:
    """A result column for a table's column, with the flags clients know it by."""
    flags: list[str] = []
    if column.id in table.primary_key:
        flags.append("pk")
    if not column.nullable:
        flags.append("nn")
    alone = (column.id,)
    if alone == table.primary_key or any(unique.columns == alone for unique in table.ready_uniques):
        flags.append("uq")
    return OutputColumn(name or column.name, column.type, tuple(flags))


def star(table: TableDef) -> list[Projected]:
    return [Projected(column_output(table, column), column, None) for column in table.readable]


def unnamed(source: str) -> str:
    """What an expression without an alias is called: its own text, in lower case but for quoted
    parts.
    """
    text = " ".join(source.split())
    if "'" not in text and '"' not in text:
        text = text.lower()
    return text[:NAME_LENGTH_MAX]


def item(tree: Any, source: str, alias: str | None, scope: TableScope) -> list[Projected]:
    """An entry of a SELECT or RETURNING list. Raises NotCompilable, UnknownColumn."""
    if isinstance(tree, exp.Star):
        return star(scope.table)
    if isinstance(tree, exp.Column):
        if isinstance(tree.this, exp.Star):
            scope.check_qualifier(tree.text("db").lower(), tree.text("table").lower(), "*")
            return star(scope.table)
        column = scope.resolve(tree)
        return [Projected(column_output(scope.table, column, alias), column, None)]
    compiled = compile_expression(tree, scope)
    if compiled.type is None:
        raise NotCompilable("NULL without a type")
    output = OutputColumn(alias or unnamed(source), compiled.type)
    return [Projected(output, None, compiled)]


def project(items: Sequence[Projected]) -> Callable[[Any, Any], list[Any]]:
    """(row, seq) → JSON-ready values, in order. What it gives raises ResultTooLarge."""
    columns = [found.column for found in items if found.column is not None]
    if len(columns) == len(items) == len({column.id for column in columns}):
        return _columns(columns)
    readers = [_reader(found) for found in items]

    def values(row: Any, seq: Any) -> list[Any]:
        found: list[Any] = []
        length = 0
        for read in readers:
            value = read(row, seq)
            if isinstance(value, str):
                length += len(value)
                if length > ROW_LENGTH_MAX:
                    raise ResultTooLarge("the characters of one row", ROW_LENGTH_MAX)
            found.append(value)
        return found

    return values


def _columns(columns: Sequence[Column]) -> Callable[[Any, Any], list[Any]]:
    """Plain columns: one pass over the stored ones, then the system columns put in their places."""
    stored = tuple(
        (column.id, encoder(column.type))
        for column in columns
        if column.id not in (SEQ_COLUMN_ID, DELETED_COLUMN_ID)
    )
    seqs = [at for at, column in enumerate(columns) if column.id == SEQ_COLUMN_ID]
    deleteds = [at for at, column in enumerate(columns) if column.id == DELETED_COLUMN_ID]
    system = sorted([*seqs, *deleteds])
    plain = tuple(column_id for column_id, encode in stored if encode is None)
    if len(plain) == len(stored) and not system:
        return lambda row, seq: [row.get(column_id) for column_id in plain]

    def values(row: Any, seq: Any) -> list[Any]:
        get = row.get
        found = [
            value if (value := get(column_id)) is None or encode is None else encode(value)
            for column_id, encode in stored
        ]
        for at in system:
            found.insert(at, str(seq) if at in seqs else False)
        return found

    return values


def _reader(found: Projected) -> Callable[[Any, Any], Any]:
    if found.column is not None:
        one = _columns([found.column])
        return lambda row, seq: one(row, seq)[0]
    assert found.compiled is not None
    function = found.compiled.at(NO_ENV)
    encode = json_encoder(found.output.type)
    if encode is None:
        return function

    def read(row: Any, seq: Any) -> Any:
        value = function(row, seq)
        return None if value is None else encode(value)

    return read


def json_encoder(column_type: ColumnType) -> Callable[[Any], Any] | None:
    """JSON form of a computed value."""
    if column_type.kind is Kind.DECIMAL:
        exact = parser(column_type, "")
        return lambda value: exact(value if isinstance(value, Decimal) else str(value))
    return encoder(column_type)


def returning(
    outputs: Sequence[Output] | None, scope: TableScope
) -> tuple[ReturningClause | None, tuple[OutputColumn, ...]]:
    """The RETURNING list. Raises Unsupported for what cannot be computed from the row alone."""
    if outputs is None:
        return None, ()
    items: list[Projected] = []
    for output in outputs:
        if output.item is None:
            items.extend(star(scope.table))
            continue
        try:
            found = item(output.item.tree, output.item.source, output.alias, scope)
        except NotCompilable as error:
            raise Unsupported(f"{error.construct} in RETURNING", "return columns") from error
        if any(entry.compiled is not None and entry.compiled.needs_env for entry in found):
            raise Unsupported(
                "parameters, time and user in RETURNING", "return columns and expressions of them"
            )
        items.extend(found)
    values = project(items)
    columns = tuple(entry.output for entry in items)
    names = tuple(column.name for column in columns)
    return ReturningClause(names, lambda row, seq: tuple(values(row, seq))), columns
