# pyright: basic
"""The grammar of ALTER TABLE: from tokens to a list of changes, refusing by name what is none of
its.

`alter.altered_table` gives them their meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.sql.create_index import alter_index, begins_index
from kalamdb.sql.create_table import (
    TABLE_CONSTRAINTS,
    TableSyntax,
    read_column,
    read_default,
    read_option_list,
    read_table_constraint,
)
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import AlterTable, Statement
from kalamdb.sql.syntax import Fragment
from kalamdb.sql.type_names import TypeSyntax, read_type

CHANGES_MAX = 100


@dataclass(frozen=True, slots=True, eq=False)
class AddColumn:
    """`syntax` has one column and the constraints that were written with it."""

    syntax: TableSyntax
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class DropColumn:
    name: str
    if_exists: bool
    cascade: bool


@dataclass(frozen=True, slots=True)
class SetNullable:
    name: str
    nullable: bool


@dataclass(frozen=True, slots=True, eq=False)
class SetDefault:
    """`default` None: DROP DEFAULT."""

    name: str
    default: Fragment | None


@dataclass(frozen=True, slots=True)
class SetType:
    """`nullable` None: as it is."""

    name: str
    type: TypeSyntax
    nullable: bool | None = None


@dataclass(frozen=True, slots=True)
class RenameColumn:
    name: str
    new: str


@dataclass(frozen=True, slots=True)
class RenameTable:
    new: str


@dataclass(frozen=True, slots=True, eq=False)
class AddConstraint:
    """`syntax` has the constraint and no column."""

    syntax: TableSyntax


@dataclass(frozen=True, slots=True)
class DropConstraint:
    name: str
    if_exists: bool


@dataclass(frozen=True, slots=True)
class RenameConstraint:
    name: str
    new: str


@dataclass(frozen=True, slots=True, eq=False)
class SetOptions:
    """Keys in upper case; None puts an option back to its default."""

    options: dict[str, Any]


TableChange = (
    AddColumn
    | DropColumn
    | SetNullable
    | SetDefault
    | SetType
    | RenameColumn
    | RenameTable
    | AddConstraint
    | DropConstraint
    | RenameConstraint
    | SetOptions
)


def alter_table(reader: Reader) -> Statement:
    """Everything after `ALTER TABLE`."""
    if_exists = reader.accept("IF", "EXISTS")
    if reader.word() == "ONLY":
        raise Unsupported("ALTER TABLE ONLY", "tables do not inherit")
    table = reader.table()
    if table.all_users:
        raise InvalidDefinition("all_users names tables to read; alter namespace.table")
    if begins_index(reader):
        if if_exists:
            raise Unsupported("ALTER TABLE IF EXISTS … INDEX", "write CREATE INDEX or DROP INDEX")
        return alter_index(reader, table)
    changes: list[TableChange] = []
    while True:
        read = _CHANGES.get(reader.word())
        if read is None:
            hint = _REFUSED.get(reader.word())
            if hint is not None:
                raise Unsupported(f"ALTER TABLE … {reader.word()}", hint or None)
            reader.fail(f"{reader.shown()} begins no change of a table")
        reader.take()
        changes.append(read(reader))
        if len(changes) > CHANGES_MAX:
            raise InvalidDefinition(f"an ALTER TABLE has at most {CHANGES_MAX} changes")
        if not reader.accept_symbol(TokenType.COMMA):
            return AlterTable(table, if_exists, tuple(changes))


def _add(reader: Reader) -> TableChange:
    if reader.word() in ("INDEX", "KEY", "FULLTEXT", "SPATIAL"):
        raise Unsupported(f"ADD {reader.word()}", "write CREATE INDEX name ON table (column, …)")
    syntax = TableSyntax(None)
    column = reader.accept("COLUMN")
    if not column and reader.word() in TABLE_CONSTRAINTS:
        read_table_constraint(reader, syntax)
        if reader.accept("NOT", "VALID"):
            raise Unsupported("NOT VALID", "constraints hold for every row")
        if syntax.primary_keys:
            raise Unsupported("ADD PRIMARY KEY", "a table's primary key stays what it is")
        return AddConstraint(syntax)
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    if reader.symbol() is TokenType.L_PAREN:
        raise Unsupported("ADD (column, …)", "write ADD COLUMN for each, with commas between")
    read_column(reader, syntax)
    return AddColumn(syntax, if_not_exists)


def _drop(reader: Reader) -> TableChange:
    if reader.word() == "VECTOR":
        raise Unsupported("ALTER TABLE … DROP VECTOR INDEX", "there are no indexes of vectors")
    if reader.word() in ("INDEX", "KEY"):
        raise Unsupported(f"ALTER TABLE … DROP {reader.word()}", "write DROP INDEX name")
    if reader.word() == "PRIMARY":
        raise Unsupported("DROP PRIMARY KEY", "a table's primary key stays what it is")
    constraint = reader.accept("CONSTRAINT")
    if not constraint:
        reader.accept("COLUMN")
    if_exists = reader.accept("IF", "EXISTS")
    name = reader.name("a constraint name" if constraint else "a column name")
    cascade = reader.accept("CASCADE")
    if not cascade:
        reader.accept("RESTRICT")
    return DropConstraint(name, if_exists) if constraint else DropColumn(name, if_exists, cascade)


def _alter(reader: Reader) -> TableChange:
    if reader.word() in ("CONSTRAINT", "INDEX"):
        raise Unsupported(f"ALTER {reader.word()} of a table", "drop it and add it again")
    reader.accept("COLUMN")
    name = reader.name("a column name")
    if reader.accept("DROP"):
        if reader.accept("NOT", "NULL"):
            return SetNullable(name, True)
        if reader.accept("DEFAULT"):
            return SetDefault(name, None)
        reader.fail("NOT NULL or DEFAULT is expected")
    if reader.accept("TYPE") or reader.accept("SET", "DATA", "TYPE"):
        return _type(reader, name)
    reader.expect("SET")
    if reader.accept("NOT", "NULL"):
        return SetNullable(name, False)
    if reader.accept("DEFAULT"):
        return SetDefault(name, read_default(reader))
    if reader.word() in ("STATISTICS", "STORAGE", "COMPRESSION"):
        raise Unsupported(f"SET {reader.word()} of a column", "columns have no storage settings")
    reader.fail("NOT NULL, DEFAULT or TYPE is expected")


def _type(reader: Reader, name: str) -> TableChange:
    found = SetType(name, read_type(reader))
    if reader.word() == "USING":
        raise Unsupported(
            "ALTER COLUMN … TYPE … USING", "add a column, fill it by UPDATE, drop the old one"
        )
    if reader.word() == "COLLATE":
        raise Unsupported("COLLATE", "texts are compared by code points")
    return found


def _modify(reader: Reader) -> TableChange:
    reader.accept("COLUMN")
    name = reader.name("a column name")
    column_type = read_type(reader)
    nullable: bool | None = None
    if reader.accept("NOT", "NULL"):
        nullable = False
    elif reader.accept("NULL"):
        nullable = True
    if reader.word() in ("DEFAULT", "FIRST", "AFTER", "COMMENT", "PRIMARY", "UNIQUE", "CHECK"):
        raise Unsupported(
            f"{reader.word()} in MODIFY COLUMN", "it sets the type and NULL or NOT NULL"
        )
    return SetType(name, column_type, nullable)


def _rename(reader: Reader) -> TableChange:
    if reader.accept("TO"):
        name = reader.name("a table name")
        if reader.symbol() is TokenType.DOT:
            raise Unsupported("RENAME TO another namespace", "name the table alone")
        return RenameTable(name)
    if reader.accept("CONSTRAINT"):
        name = reader.name("a constraint name")
        reader.expect("TO")
        return RenameConstraint(name, reader.name("a constraint name"))
    reader.accept("COLUMN")
    name = reader.name("a column name")
    reader.expect("TO")
    return RenameColumn(name, reader.name("a column name"))


def _set(reader: Reader) -> TableChange:
    if reader.accept("ACCESS", "LEVEL") or reader.accept("ACCESS_LEVEL"):
        reader.accept_symbol(TokenType.EQ)
        token = reader.peek()
        if token is not None and token.token_type is TokenType.STRING:
            return SetOptions({"ACCESS_LEVEL": reader.take().text})
        return SetOptions({"ACCESS_LEVEL": reader.name("PUBLIC, PRIVATE, RESTRICTED or DBA")})
    if reader.word() in ("SCHEMA", "NAMESPACE"):
        raise Unsupported("moving a table to another namespace", "names of namespaces are in keys")
    if reader.word() in ("TABLESPACE", "LOGGED", "UNLOGGED", "WITHOUT"):
        raise Unsupported(f"SET {reader.word()}", "options go into SET (…)")
    named = reader.accept("TBLPROPERTIES") or reader.accept("OPTIONS")
    if not named and reader.symbol() is not TokenType.L_PAREN:
        reader.fail("TBLPROPERTIES (…), (…) or ACCESS LEVEL is expected")
    return SetOptions(read_option_list(reader))


def _reset(reader: Reader) -> TableChange:
    return SetOptions({name.upper(): None for name in reader.names("an option")})


_CHANGES: dict[str, Callable[[Reader], TableChange]] = {
    "ADD": _add,
    "DROP": _drop,
    "ALTER": _alter,
    "MODIFY": _modify,
    "RENAME": _rename,
    "SET": _set,
    "RESET": _reset,
}
_REFUSED = {
    "CHANGE": "write RENAME COLUMN and ALTER COLUMN",
    "CREATE": "write CREATE INDEX name ON table (column, …)",
    "VALIDATE": "constraints hold for every row",
    "OWNER": "tables belong to nobody",
    "ENABLE": "there are no triggers or rules",
    "DISABLE": "there are no triggers or rules",
    "CLUSTER": "rows are in the order of the primary key",
    "INHERIT": "tables do not inherit",
    "NO": "tables do not inherit",
    "ATTACH": "tables have no partitions",
    "DETACH": "tables have no partitions",
    "PARTITION": "tables have no partitions",
    "REPLICA": "",
    "OF": "there are no composite types",
    "CONVERT": "texts are UTF-8",
    "COMMENT": "tables have no comments",
    "ENGINE": "every table has the one storage engine",
}
