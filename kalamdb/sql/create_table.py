# pyright: basic
"""The grammar of CREATE TABLE: from tokens to a TableSyntax, refusing by name what is not one of
its clauses.

`ddl.table_definition` checks names, types and options and makes the TableDef.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.model.table import COLUMNS_MAX, TableKind
from kalamdb.sql.dialect import expression
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import CreateTable
from kalamdb.sql.syntax import Fragment, number
from kalamdb.sql.type_names import TypeSyntax, read_type

KIND_WORDS = {"USER": TableKind.USER, "SHARED": TableKind.SHARED, "STREAM": TableKind.STREAM}
CONSTRAINTS_MAX = 100


@dataclass(frozen=True, slots=True, eq=False)
class CheckSyntax:
    name: str | None
    condition: Fragment


@dataclass(slots=True, eq=False)
class ColumnSyntax:
    """`nullable` None: nothing was said. `numbered`: SERIAL, AUTO_INCREMENT or IDENTITY."""

    name: str
    type: TypeSyntax
    nullable: bool | None = None
    default: Fragment | None = None
    numbered: bool = False


@dataclass(slots=True, eq=False)
class TableSyntax:
    """`primary_keys` and `uniques` are the declared lists of column names, each with its name if it
    has one.
    """

    kind: TableKind | None
    columns: list[ColumnSyntax] = field(default_factory=list)
    primary_keys: list[tuple[str, ...]] = field(default_factory=list)
    uniques: list[tuple[str | None, tuple[str, ...]]] = field(default_factory=list)
    checks: list[CheckSyntax] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def read_create_table(reader: Reader, kind: TableKind | None) -> CreateTable:
    """Everything after `CREATE [kind] TABLE`."""
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    name = reader.table()
    if name.all_users:
        raise InvalidDefinition("all_users names tables to read; create namespace.table")
    if reader.accept("AS") or reader.word() in ("LIKE", "SELECT"):
        raise Unsupported("CREATE TABLE AS", "create the table, then INSERT INTO … SELECT")
    if reader.word() in ("PARTITION", "INHERITS", "OF"):
        raise Unsupported(f"CREATE TABLE … {reader.word()}", None)
    table = TableSyntax(kind)
    _read_elements(reader, table)
    _read_options(reader, table)
    reader.end()
    return CreateTable(name, if_not_exists, table)


def _read_elements(reader: Reader, table: TableSyntax) -> None:
    reader.expect_symbol(TokenType.L_PAREN, "(")
    while True:
        if reader.word() in TABLE_CONSTRAINTS:
            read_table_constraint(reader, table)
        else:
            read_column(reader, table)
        if len(table.columns) > COLUMNS_MAX:
            raise InvalidDefinition(f"a table has at most {COLUMNS_MAX} columns")
        if len(table.uniques) + len(table.checks) > CONSTRAINTS_MAX:
            raise InvalidDefinition(f"a table has at most {CONSTRAINTS_MAX} constraints")
        if not reader.accept_symbol(TokenType.COMMA):
            break
    reader.expect_symbol(TokenType.R_PAREN, ")")


_TABLE_CONSTRAINTS_TEXT = """
CONSTRAINT PRIMARY UNIQUE CHECK FOREIGN EXCLUDE LIKE INDEX KEY FULLTEXT SPATIAL
"""
TABLE_CONSTRAINTS = frozenset(_TABLE_CONSTRAINTS_TEXT.split())
_TYPE_FOLLOWS_TEXT = """
INDEX KEY LIKE EXCLUDE FULLTEXT SPATIAL
"""
_TYPE_FOLLOWS = frozenset(_TYPE_FOLLOWS_TEXT.split())


def read_table_constraint(reader: Reader, table: TableSyntax) -> None:
    name = reader.name("a constraint name") if reader.accept("CONSTRAINT") else None
    if reader.accept("PRIMARY", "KEY"):
        table.primary_keys.append(tuple(reader.names("a column name")))
    elif reader.accept("UNIQUE"):
        if reader.accept("KEY") or reader.accept("INDEX"):
            raise Unsupported("UNIQUE KEY", "write UNIQUE (column, …)")
        table.uniques.append((name, tuple(reader.names("a column name"))))
    elif reader.word() == "CHECK":
        table.checks.append(_read_check(reader, name))
    elif reader.word() == "FOREIGN":
        raise Unsupported("FOREIGN KEY", "KalamDB has no foreign keys; check in the application")
    elif reader.word() in _TYPE_FOLLOWS:
        raise Unsupported(f"{reader.word()} in CREATE TABLE", None)
    else:
        reader.fail("a table constraint is expected")
    _refuse_constraint_tail(reader)


def _read_check(reader: Reader, name: str | None) -> CheckSyntax:
    reader.expect("CHECK")
    inside = reader.parenthesised()
    if not inside:
        reader.fail("a condition is expected")
    tree = expression(inside, reader.text)
    return CheckSyntax(name, Fragment(tree, tuple(inside), reader.text))


def _refuse_constraint_tail(reader: Reader) -> None:
    tail = reader.word()
    if tail in ("DEFERRABLE", "INITIALLY", "NOT", "INCLUDE", "USING", "NO", "ON", "NULLS", "WHERE"):
        raise Unsupported(f"{tail} after a constraint", "constraints are checked at once")


def read_column(reader: Reader, table: TableSyntax) -> None:
    column = ColumnSyntax(reader.name("a column name"), read_type(reader))
    column.numbered = column.type.serial
    table.columns.append(column)
    while not reader.done and reader.symbol() not in (TokenType.COMMA, TokenType.R_PAREN):
        name = reader.name("a constraint name") if reader.accept("CONSTRAINT") else None
        _read_column_constraint(reader, table, column, name)


def _read_column_constraint(
    reader: Reader, table: TableSyntax, column: ColumnSyntax, name: str | None
) -> None:
    if reader.accept("NOT", "NULL"):
        _set_nullable(column, False)
    elif reader.accept("NULL"):
        _set_nullable(column, True)
    elif reader.accept("PRIMARY", "KEY"):
        table.primary_keys.append((column.name,))
    elif reader.accept("UNIQUE"):
        reader.accept("KEY")
        table.uniques.append((name, (column.name,)))
    elif reader.word() == "CHECK":
        table.checks.append(_read_check(reader, name))
    elif reader.accept("DEFAULT"):
        if column.default is not None:
            raise InvalidDefinition(f"column {column.name} has two defaults")
        column.default = read_default(reader)
    elif reader.accept("AUTO_INCREMENT") or reader.accept("AUTOINCREMENT"):
        column.numbered = True
    elif reader.accept("GENERATED"):
        _read_generated(reader, column)
    else:
        hint = _REFUSED.get(reader.word(), "")
        if hint:
            raise Unsupported(f"{reader.word()} in a column definition", hint)
        reader.fail(f"unexpected {reader.shown()} in the definition of column {column.name}")


_REFUSED = {
    "REFERENCES": "KalamDB has no foreign keys; check in the application",
    "COLLATE": "texts are compared by code points",
    "COMMENT": "columns have no comments",
    "FIRST": "columns stand in the order they are written",
    "AFTER": "columns stand in the order they are written",
    "IDENTITY": "write GENERATED BY DEFAULT AS IDENTITY",
    "ON": "there are no actions on columns",
    "STORAGE": "columns have no storage settings",
    "COMPRESSION": "set COMPRESSION for the table: WITH (COMPRESSION = 'zstd')",
    "AS": "there are no computed columns",
    "DEFERRABLE": "constraints are checked at once",
    "VISIBLE": "every column is visible",
    "INVISIBLE": "every column is visible",
    "KEY": "write PRIMARY KEY or UNIQUE",
}


def _set_nullable(column: ColumnSyntax, nullable: bool) -> None:
    if column.nullable not in (None, nullable):
        raise InvalidDefinition(f"column {column.name} is both NULL and NOT NULL")
    column.nullable = nullable


def _read_generated(reader: Reader, column: ColumnSyntax) -> None:
    always = reader.accept("ALWAYS")
    if not always:
        reader.expect("BY", "DEFAULT")
    reader.expect("AS")
    if not reader.accept("IDENTITY"):
        raise Unsupported("GENERATED … AS (expression)", "there are no computed columns")
    if reader.symbol() is TokenType.L_PAREN:
        raise Unsupported("sequence options of IDENTITY", "numbers are drawn from the row counter")
    column.numbered = True


_DEFAULT_ENDS_TEXT = """
DEFAULT NOT NULL PRIMARY UNIQUE CHECK REFERENCES CONSTRAINT COLLATE GENERATED AUTO_INCREMENT
AUTOINCREMENT COMMENT ON
"""
_DEFAULT_ENDS = _DEFAULT_ENDS_TEXT.split()


def read_default(reader: Reader) -> Fragment:
    start = reader.at
    if reader.word() in ("NOT", "NULL"):
        reader.take()
    reader.until(*_DEFAULT_ENDS, comma=True)
    tokens = list(reader.tokens[start : reader.at])
    if not tokens:
        reader.fail("a default value is expected")
    return Fragment(expression(tokens, reader.text), tuple(tokens), reader.text)


# ---- options -------------------------------------------------------------------------------------


def _read_options(reader: Reader, table: TableSyntax) -> None:
    if reader.word() == "USING":
        raise Unsupported("USING method", "every table has the one storage engine")
    if reader.word() in ("PARTITION", "INHERITS", "TABLESPACE", "ENGINE", "CLUSTER", "SORT", "ON"):
        raise Unsupported(f"{reader.word()} after a table's columns", "options go into WITH (…)")
    if reader.accept("WITH"):
        table.options.update(read_option_list(reader))


def read_option_list(reader: Reader) -> dict[str, Any]:
    """`(KEY = value, …)`, keys in upper case."""
    options: dict[str, Any] = {}
    reader.expect_symbol(TokenType.L_PAREN, "(")
    while True:
        key = reader.name("an option").upper()
        reader.expect_symbol(TokenType.EQ, "=")
        if key in options:
            raise InvalidDefinition(f"option {key} is given twice")
        options[key] = read_option_value(reader)
        if not reader.accept_symbol(TokenType.COMMA):
            break
    reader.expect_symbol(TokenType.R_PAREN, ")")
    return options


def read_option_value(reader: Reader) -> Any:
    """A text, a whole number, a boolean, NULL or a bare word (as text)."""
    token: Token | None = reader.peek()
    if token is not None and token.token_type is TokenType.STRING:
        return reader.take().text
    if reader.accept_symbol(TokenType.DASH):
        return -_whole(reader)
    if token is not None and token.token_type is TokenType.NUMBER:
        return _whole(reader)
    words: dict[str, Callable[[], Any]] = {
        "TRUE": lambda: True,
        "FALSE": lambda: False,
        "NULL": lambda: None,
    }
    word = reader.word()
    if not word:
        reader.fail("an option value is expected")
    reader.take()
    return words[word]() if word in words else word.lower()


def _whole(reader: Reader) -> int:
    token = reader.take()
    value = number(token) if token.token_type is TokenType.NUMBER else None
    if not isinstance(value, int):
        reader.at -= 1
        reader.fail("a whole number is expected")
    return value
