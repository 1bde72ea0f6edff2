# pyright: basic
"""CREATE TABLE's meaning: from what was written to a TableDef, with every rule of names, types and
options.

Keeps: a definition that leaves here can be stored and enforced as it stands: its key columns have
key encodings and are NOT NULL, its defaults are stored values of their columns, its checks compile.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidDefinition, TypeMismatch, Unsupported
from kalamdb.model.catalog import RESERVED_NAMESPACES
from kalamdb.model.ids import TableId
from kalamdb.model.table import (
    NAME_LENGTH_MAX,
    RESERVED_COLUMNS,
    ROW_ID_COLUMN_ID,
    Check,
    Column,
    Default,
    DefaultKind,
    TableDef,
    TableKind,
    Unique,
)
from kalamdb.model.types import BIGINT, Kind
from kalamdb.model.values import parser
from kalamdb.sql import dialect
from kalamdb.sql.assignment import converted, converter, volatile
from kalamdb.sql.constraint import columns_of, compile_check
from kalamdb.sql.create_table import CheckSyntax, ColumnSyntax, TableSyntax
from kalamdb.sql.expression import compile_expression
from kalamdb.sql.operands import literal
from kalamdb.sql.reader import CLAUSE_WORDS
from kalamdb.sql.render import canonical
from kalamdb.sql.scope import NO_ENV, NoColumns, NotCompilable
from kalamdb.sql.statement import CreateTable
from kalamdb.sql.syntax import Constant, Fragment
from kalamdb.sql.table_options import read_options

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OTHER_WORDS = "tables tablespace index view schema database excluded"
_RESERVED_WORDS = {word.lower() for word in CLAUSE_WORDS} | set(_OTHER_WORDS.split())


def check_name(name: str, what: str) -> None:
    """May a table or column be called this? Raises InvalidDefinition."""
    if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise InvalidDefinition(
            f"{what} name {name[:80]!r}: use 1 to {NAME_LENGTH_MAX} of a-z 0-9 _"
            " and begin with a letter"
        )
    if name in _RESERVED_WORDS:
        raise InvalidDefinition(f"{what} name {name} is a word of SQL")


def table_definition(statement: CreateTable, namespace: str, now_ms: int) -> TableDef:
    """The definition CREATE TABLE asks for, with id 0 (given when it is recorded).

    Raises InvalidDefinition, Unsupported, TypeMismatch, ValueOutOfRange, UnknownColumn.
    """
    syntax: TableSyntax = statement.definition
    name = statement.table.name
    check_name(name, "table")
    home = statement.table.namespace or namespace
    if home in RESERVED_NAMESPACES:
        raise InvalidDefinition(f"namespace {home} is reserved")
    kind, options = read_options(syntax)
    key_names = _primary_key_names(syntax)
    columns = _columns(syntax, key_names)
    ids = {column.name: column.id for column in columns}
    key = tuple(ids[column] for column in key_names) or (ROW_ID_COLUMN_ID,)
    uniques = _uniques(syntax, name, {column.name: column for column in columns}, key)
    if uniques and kind is TableKind.STREAM:
        raise Unsupported("UNIQUE in a STREAM table", "its rows are forgotten; use a USER table")
    bare = TableDef(
        id=TableId(0),
        namespace=home,
        name=name,
        kind=kind,
        columns=columns,
        primary_key=key,
        uniques=uniques,
        options=options,
        next_column_id=len(columns) + 1,
        next_index_id=len(uniques) + 1,
        created_ms=now_ms,
    )
    checks = _checks(syntax, bare)
    if not checks:
        return bare
    return replace(bare, checks=checks)


# ---- columns -------------------------------------------------------------------------------------


def _columns(syntax: TableSyntax, key_names: Sequence[str]) -> tuple[Column, ...]:
    if not syntax.columns:
        raise InvalidDefinition("a table has at least one column")
    found: dict[str, Column] = {}
    for number, column in enumerate(syntax.columns, 1):
        if column.name in RESERVED_COLUMNS:
            raise InvalidDefinition(f"column name {column.name} is reserved")
        check_name(column.name, "column")
        if column.name in found:
            raise InvalidDefinition(f"column {column.name} is defined twice")
        found[column.name] = column_of(number, column, in_key=column.name in key_names)
    for name in key_names:
        if name not in found:
            raise InvalidDefinition(f"PRIMARY KEY names {name}, which is no column")
        if not found[name].type.is_key:
            raise InvalidDefinition(f"{found[name].type.sql} column {name} cannot be in a key")
    return tuple(found.values())


def column_of(number: int, syntax: ColumnSyntax, *, in_key: bool) -> Column:
    """Raises InvalidDefinition, TypeMismatch, Unsupported."""
    column_type = syntax.type.type
    if syntax.type.serial:
        column_type = BIGINT  # the numbers drawn have 63 bits
    if in_key and syntax.nullable is True:
        raise InvalidDefinition(f"column {syntax.name} is in the PRIMARY KEY and cannot be NULL")
    nullable = not in_key and syntax.nullable is not False and not syntax.numbered
    bare = Column(number, syntax.name, column_type, nullable)
    return Column(number, syntax.name, column_type, nullable, _default(syntax, bare))


def _default(syntax: ColumnSyntax, column: Column) -> Default | None:
    if syntax.numbered:
        if syntax.default is not None:
            raise InvalidDefinition(f"column {column.name} is numbered and has a DEFAULT")
        if column.type.kind is not Kind.BIGINT:
            raise InvalidDefinition(
                f"column {column.name} is numbered: the numbers have 63 bits, make it BIGINT"
            )
        return Default(DefaultKind.SNOWFLAKE_ID)
    if syntax.default is None:
        return None
    return default_of(syntax.default, column)


_FUNCTION_TYPES: dict[type[Any], tuple[DefaultKind, tuple[Kind, ...]]] = {
    exp.CurrentTimestamp: (DefaultKind.NOW, (Kind.TIMESTAMP, Kind.DATETIME)),
    exp.CurrentUser: (DefaultKind.CURRENT_USER, (Kind.TEXT,)),
}


def default_of(fragment: Fragment, column: Column) -> Default | None:
    """The default an expression means for a column; None for NULL. Raises Unsupported,
    TypeMismatch.
    """
    tree = fragment.tree
    while isinstance(tree, exp.Paren):
        tree = tree.this
    known = _FUNCTION_TYPES.get(type(tree))
    if known is not None:
        kind, types = known
        if column.type.kind not in types:
            raise TypeMismatch(column.name, column.type.sql, f"DEFAULT {fragment.source}")
        return Default(kind)
    drawn = volatile(tree, column)
    if drawn is not None:
        return Default(drawn)
    value = _constant(fragment, column)
    return None if value is None else Default(DefaultKind.LITERAL, value)


def _constant(fragment: Fragment, column: Column) -> Any:
    operand = literal(fragment.tree)
    if isinstance(operand, Constant):
        # Parsed as if it were inserted: '[1,2]' into EMBEDDING, '2024-01-01' into DATE.
        return parser(column.type, column.name)(operand.value)
    hint = "use a literal, NOW(), CURRENT_USER, SNOWFLAKE_ID(), UUID_V7() or ULID()"
    for found in fragment.tree.find_all(exp.Column):
        raise Unsupported(f"DEFAULT {found.name} (a bare word)", f"quote texts; {hint}")
    try:
        compiled = compile_expression(fragment.tree, NoColumns())
    except NotCompilable as error:
        raise Unsupported(f"{error.construct} in DEFAULT", hint) from error
    if compiled.needs_env or not compiled.constant:
        raise Unsupported(f"DEFAULT {fragment.source[:80]}", hint)
    convert = converter(compiled.type, column)
    return converted(compiled.at(NO_ENV)(None, None), convert)


# ---- keys and constraints ------------------------------------------------------------------------


def _primary_key_names(syntax: TableSyntax) -> tuple[str, ...]:
    if len(syntax.primary_keys) > 1:
        raise InvalidDefinition("a table has one PRIMARY KEY; write PRIMARY KEY (a, b) for several")
    names = syntax.primary_keys[0] if syntax.primary_keys else ()
    if len(set(names)) != len(names):
        raise InvalidDefinition("PRIMARY KEY names a column twice")
    return names


def _uniques(
    syntax: TableSyntax, table: str, columns: dict[str, Column], key: tuple[int, ...]
) -> tuple[Unique, ...]:
    found: list[Unique] = []
    names: set[str] = set()
    for given, column_names in syntax.uniques:
        if len(set(column_names)) != len(column_names):
            raise InvalidDefinition("UNIQUE names a column twice")
        for column in column_names:
            if column not in columns:
                raise InvalidDefinition(f"UNIQUE names {column}, which is no column")
            if not columns[column].type.is_key:
                raise InvalidDefinition(
                    f"{columns[column].type.sql} column {column} cannot be UNIQUE"
                )
        ids = tuple(columns[column].id for column in column_names)
        if ids == key or any(unique.columns == ids for unique in found):
            continue  # the same promise a second time
        name = given or f"{table}_{'_'.join(column_names)}_key"
        _take_name(names, name, check=given is not None)
        found.append(Unique(len(found) + 1, ids, name))
    return tuple(found)


def _take_name(names: set[str], name: str, *, check: bool) -> None:
    if check:
        check_name(name, "constraint")
    if name in names:
        raise InvalidDefinition(f"constraint {name} is defined twice")
    names.add(name)


def _checks(syntax: TableSyntax, table: TableDef) -> tuple[Check, ...]:
    found: list[Check] = []
    names = {unique.name for unique in table.uniques}
    written = [*_implied(syntax, table), *syntax.checks]
    for number, check in enumerate(written, 1):
        name = check.name or f"{table.name}_check_{number}"
        _take_name(names, name, check=check in syntax.checks and check.name is not None)
        compile_check(table, check.condition.tree)
        found.append(Check(name, canonical(check.condition)))
    return tuple(found)


def _implied(syntax: TableSyntax, table: TableDef) -> list[CheckSyntax]:
    return [check for column in syntax.columns for check in implied_checks(table.name, column)]


def implied_checks(table: str, column: ColumnSyntax) -> list[CheckSyntax]:
    """VARCHAR(n) and ENUM(…) are TEXT with a check."""
    found: list[CheckSyntax] = []
    if column.type.length_max is not None:
        sql = f"char_length({column.name}) <= {column.type.length_max}"
        found.append(_implied_check(f"{table}_{column.name}_length", sql))
    if column.type.words is not None:
        words = ", ".join("'" + word.replace("'", "''") + "'" for word in column.type.words)
        sql = f"{column.name} IN ({words})"
        found.append(_implied_check(f"{table}_{column.name}_values", sql))
    return found


def is_implied(table: TableDef, check: Check, column: Column) -> bool:
    """Is it the length or the list of words that the column's type asked for?"""
    if columns_of(table, check) != {column.id}:
        return False
    sql = check.sql.replace(" ", "").lower()
    return (check.name.endswith("_length") and sql.startswith("char_length(")) or (
        check.name.endswith("_values") and "in(" in sql
    )


def _implied_check(name: str, sql: str) -> CheckSyntax:
    tokens = dialect.tokenize(sql)
    return CheckSyntax(name, Fragment(dialect.expression(tokens, sql), tuple(tokens), sql))
