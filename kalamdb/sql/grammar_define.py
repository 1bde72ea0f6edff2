# pyright: basic
"""Statements that define: CREATE, DROP and ALTER, told apart by their next word.

A new kind of definition is a row in `_CREATES`, `_DROPS` or `_ALTERS`; its reader is called after
that word and may live in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.model.table import TableKind
from kalamdb.sql.alter_namespace import alter_namespace
from kalamdb.sql.alter_table import alter_table
from kalamdb.sql.create_index import create_index, create_unique_index, drop_index
from kalamdb.sql.create_table import KIND_WORDS, read_create_table
from kalamdb.sql.grammar_users import alter_user, create_user, drop_user
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import CreateNamespace, DropNamespace, DropTable, Statement
from kalamdb.sql.unsupported import ALTERS, CREATES, DROPS, refuse_named
from kalamdb.sql.views import create_or, create_view, drop_view


def create(reader: Reader) -> Statement:
    reader.expect("CREATE")
    kind = _table_kind(reader)
    if reader.accept("TABLE"):
        return read_create_table(reader, kind)
    return _dispatch(reader, _CREATES, CREATES, "CREATE")


def drop(reader: Reader) -> Statement:
    reader.expect("DROP")
    _table_kind(reader)
    return _dispatch(reader, _DROPS, DROPS, "DROP")


def alter(reader: Reader) -> Statement:
    reader.expect("ALTER")
    _table_kind(reader)
    return _dispatch(reader, _ALTERS, ALTERS, "ALTER")


def _dispatch(
    reader: Reader,
    readers: dict[str, Callable[[Reader], Statement]],
    refused: Mapping[str, str],
    verb: str,
) -> Statement:
    read = readers.get(reader.word())
    if read is None:
        refuse_named(reader, refused)
        reader.fail(f"there is no {verb} {reader.shown()}")
    reader.take()
    return read(reader)


def _table_kind(reader: Reader) -> TableKind | None:
    """Take the kind before TABLE; `CREATE USER name` keeps its USER."""
    kind = KIND_WORDS.get(reader.word())
    if kind is None or reader.word(1) != "TABLE":
        return None
    reader.take()
    return kind


def _create_namespace(reader: Reader) -> Statement:
    exists = reader.accept("IF", "NOT", "EXISTS")
    return CreateNamespace(reader.namespace(), exists)


def _drop_namespace(reader: Reader) -> Statement:
    if_exists = reader.accept("IF", "EXISTS")
    name = reader.namespace()
    cascade = reader.accept("CASCADE")
    if not cascade:
        reader.accept("RESTRICT")
    return DropNamespace(name, if_exists, cascade)


def _drop_table(reader: Reader) -> Statement:
    if_exists = reader.accept("IF", "EXISTS")
    table = reader.table()
    if table.all_users:
        raise InvalidStatement("all_users names tables to read; drop namespace.table")
    if reader.symbol() is TokenType.COMMA:
        raise Unsupported("DROP TABLE of several tables", "drop them one by one")
    cascade = reader.accept("CASCADE")
    if not cascade:
        reader.accept("RESTRICT")
    return DropTable(table, if_exists, cascade)


_CREATES: dict[str, Callable[[Reader], Statement]] = {
    "NAMESPACE": _create_namespace,
    "INDEX": create_index,
    "UNIQUE": create_unique_index,
    "OR": create_or,
    "USER": create_user,
    "VIEW": create_view,
}
_DROPS: dict[str, Callable[[Reader], Statement]] = {
    "NAMESPACE": _drop_namespace,
    "TABLE": _drop_table,
    "INDEX": drop_index,
    "USER": drop_user,
    "VIEW": drop_view,
}
_ALTERS: dict[str, Callable[[Reader], Statement]] = {
    "TABLE": alter_table,
    "NAMESPACE": alter_namespace,
    "SCHEMA": alter_namespace,
    "USER": alter_user,
}
