# pyright: basic
"""ALTER COLUMN … TYPE: changes of type that leave every stored value and key byte what it is."""

from __future__ import annotations

from dataclasses import replace

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.model.table import Check, Column, TableDef
from kalamdb.model.types import ColumnType, Kind
from kalamdb.sql.constraint import compile_check
from kalamdb.sql.create_table import ColumnSyntax
from kalamdb.sql.ddl import implied_checks, is_implied
from kalamdb.sql.render import canonical
from kalamdb.sql.type_names import TypeSyntax

_WIDER: dict[Kind, frozenset[Kind]] = {
    Kind.SMALLINT: frozenset((Kind.INT, Kind.BIGINT)),
    Kind.INT: frozenset((Kind.BIGINT,)),
    Kind.FLOAT: frozenset((Kind.DOUBLE,)),
    Kind.JSON: frozenset((Kind.TEXT,)),
    Kind.TIMESTAMP: frozenset((Kind.DATETIME,)),
    Kind.DATETIME: frozenset((Kind.TIMESTAMP,)),
}


def changed_type(table: TableDef, column: Column, syntax: TypeSyntax) -> TableDef:
    """`table` with another type of `column`; a length or a list of words in the type is a CHECK.

    Raises Unsupported for a change that would have to rewrite rows, InvalidDefinition.
    """
    if syntax.serial:
        raise Unsupported("ALTER COLUMN … TYPE SERIAL", "write SET DEFAULT SNOWFLAKE_ID()")
    if not is_lossless(column.type, syntax.type):
        raise Unsupported(
            f"changing {column.type.sql} to {syntax.type.sql}",
            "add a column, fill it by UPDATE, drop the old one",
        )
    new = replace(column, type=syntax.type)
    columns = tuple(new if one.id == column.id else one for one in table.columns)
    kept = tuple(check for check in table.checks if not is_implied(table, check, column))
    made = replace(table, columns=columns, checks=kept)
    names = {one.name for one in (*kept, *table.uniques, *table.indexes)}
    wanted: list[Check] = []
    for check in implied_checks(table.name, ColumnSyntax(column.name, syntax)):
        assert check.name is not None
        if check.name in names:
            raise InvalidDefinition(f"a constraint is called {check.name} already; rename it")
        compile_check(made, check.condition.tree)
        wanted.append(Check(check.name, canonical(check.condition)))
    before = [check for check in table.checks if check not in kept]
    if [check.sql for check in wanted] == [check.sql for check in before]:
        return replace(table, columns=columns)  # it keeps its name and place
    return replace(made, checks=(*kept, *wanted))


def is_lossless(old: ColumnType, new: ColumnType) -> bool:
    if old == new:
        return True
    if old.kind is Kind.DECIMAL and new.kind is Kind.DECIMAL:
        return old.scale == new.scale and old.precision <= new.precision
    return new.kind in _WIDER.get(old.kind, frozenset())
