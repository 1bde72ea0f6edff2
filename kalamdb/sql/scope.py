# pyright: basic
"""What a column name means inside an expression, and the shape of compiled expressions.

A compiled expression is bound twice: `at(env)` fixes parameters, time and user and gives a function
of (row, other); that function is then called per row. `other` is the row's seq, or in ON CONFLICT
the row that was to be inserted. NULL is None; a BOOLEAN that is None is unknown.

Values inside expressions are stored values, but for DECIMAL, which is a `Decimal` while it is
computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from sqlglot import exp

from kalamdb.errors import UnknownColumn, Unsupported
from kalamdb.model.table import (
    DELETED_COLUMN_ID,
    SEQ_COLUMN_ID,
    Column,
    TableDef,
)
from kalamdb.model.types import ColumnType, Kind
from kalamdb.sql.bound import Env

Function = Callable[[Any, Any], Any]


TEXT_OPERATIONS_MAX = 1_000
NO_ENV: Any = None  # for expressions that do not look at it (`needs_env`)


class NotCompilable(Exception):
    """This expression is for the query engine. Never leaves the package."""

    def __init__(self, construct: str) -> None:
        super().__init__(construct)
        self.construct = construct


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """`type` None is NULL without a type.

    `constant`: does not look at the row. `needs_env`: looks at the environment. `column`: is just
    this column of the row, in stored form.
    """

    type: ColumnType | None
    at: Callable[[Env], Function]
    constant: bool = False
    needs_env: bool = False
    column: int | None = None


def constant(column_type: ColumnType | None, value: Any) -> Compiled:
    def fixed(row: Any, other: Any) -> Any:
        return value

    return Compiled(column_type, lambda env: fixed, constant=True)


class Scope(Protocol):
    """Where names are looked up."""

    def count_text_operation(self) -> None:
        """One more whose time goes with the length of a text. Raises NotCompilable for too many:
        what is compiled runs on the loop, and nobody can stop it.
        """
        ...

    def column(self, node: exp.Column) -> Compiled:
        """Raises UnknownColumn, Unsupported."""
        ...


def column_parts(node: exp.Column) -> tuple[str, str, str]:
    """(namespace, table, column) of a column reference, "" where not written."""
    if node.args.get("catalog") is not None:
        raise UnknownColumn(node.sql(), None)
    return node.text("db").lower(), node.text("table").lower(), node.name.lower()


class Names:
    """A scope that counts."""

    text_operations = 0

    def count_text_operation(self) -> None:
        self.text_operations += 1
        if self.text_operations > TEXT_OPERATIONS_MAX:
            raise NotCompilable(f"more than {TEXT_OPERATIONS_MAX} text functions")


class TableScope(Names):
    """One table; names may be qualified by its alias, or without one by its name."""

    def __init__(self, table: TableDef, alias: str | None) -> None:
        self.table = table
        self._alias = alias

    def resolve(self, node: exp.Column) -> Column:
        namespace, qualifier, name = column_parts(node)
        self.check_qualifier(namespace, qualifier, name)
        found = self.table.readable_by_name.get(name)
        if found is None:
            raise UnknownColumn(name, self.table.full_name)
        return found

    def check_qualifier(self, namespace: str, qualifier: str, name: str) -> None:
        if not qualifier:
            return
        expected = self._alias or self.table.name
        good_namespace = not namespace or (
            self._alias is None and namespace == self.table.namespace
        )
        if qualifier != expected or not good_namespace:
            shown = f"{namespace}.{qualifier}" if namespace else qualifier
            raise UnknownColumn(f"{shown}.{name}", self.table.full_name)

    def column(self, node: exp.Column) -> Compiled:
        return row_column(self.resolve(node))


class ConflictScope(TableScope):
    """ON CONFLICT DO UPDATE: the stored row under the table's name, the new one as `excluded`."""

    def column(self, node: exp.Column) -> Compiled:
        namespace, qualifier, name = column_parts(node)
        excluded = qualifier == "excluded" and not namespace
        if not excluded:
            self.check_qualifier(namespace, qualifier, name)
        found = self.table.by_name.get(name)
        if found is None:
            if name in self.table.readable_by_name:
                raise Unsupported(f"{name} in ON CONFLICT", "compare columns of your own")
            raise UnknownColumn(name, "excluded" if excluded else self.table.full_name)
        return _other_column(found) if excluded else row_column(found)


class NoColumns(Names):
    """Where no row exists: VALUES, DEFAULT."""

    def column(self, node: exp.Column) -> Compiled:
        raise UnknownColumn(column_parts(node)[2], None)


def row_column(column: Column) -> Compiled:
    column_id = column.id
    if column_id == SEQ_COLUMN_ID:

        def read(row: Any, other: Any) -> Any:
            return other
    elif column_id == DELETED_COLUMN_ID:

        def read(row: Any, other: Any) -> Any:
            return False  # rows that are deleted are not seen
    elif column.type.kind is Kind.DECIMAL:

        def read(row: Any, other: Any) -> Any:
            value = row.get(column_id)
            return None if value is None else Decimal(value)
    else:

        def read(row: Any, other: Any) -> Any:
            return row.get(column_id)

        return Compiled(column.type, lambda env: read, column=column_id)
    return Compiled(column.type, lambda env: read)


def _other_column(column: Column) -> Compiled:
    column_id = column.id
    if column.type.kind is Kind.DECIMAL:

        def read(row: Any, other: Any) -> Any:
            value = other.get(column_id)
            return None if value is None else Decimal(value)
    else:

        def read(row: Any, other: Any) -> Any:
            return other.get(column_id)

    return Compiled(column.type, lambda env: read)
