# pyright: basic
"""Statements about the session and about what there is: USE, SET, SHOW, DESCRIBE, SUBSCRIBE TO."""

from __future__ import annotations

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.sql import grammar_node
from kalamdb.sql.dialect import tokenize
from kalamdb.sql.dml import read_query
from kalamdb.sql.grammar_transaction import set_transaction
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import (
    DescribeTable,
    SetOption,
    ShowCreate,
    ShowNamespaces,
    ShowStats,
    ShowTables,
    Statement,
    SubscribeTo,
    TableName,
    UseNamespace,
)
from kalamdb.sql.unsupported import SHOWS, refuse_named

SUBSCRIBE_OPTIONS = {
    "last_rows": "last_rows",
    "batch_size": "batch_size",
    "from": "from",
    "from_seq_id": "from",
}


def use_namespace(reader: Reader) -> Statement:
    reader.expect("USE")
    if reader.word() == "NAMESPACE" and reader.peek(1) is not None:
        reader.take()
    return UseNamespace(reader.namespace())


def set_option(reader: Reader) -> Statement:
    reader.expect("SET")
    if reader.word() == "TRANSACTION":
        return set_transaction(reader)
    if reader.word() in ("LOCAL", "CONSTRAINTS", "ROLE", "GLOBAL", "TIME"):
        raise Unsupported(f"SET {reader.word()}", None)
    if reader.word() == "SESSION" and reader.symbol(1) is not TokenType.EQ:
        raise Unsupported("SET SESSION", "SET name = value holds for the rest of the request")
    name = reader.name("an option")
    if name == "namespace":
        if not reader.accept_symbol(TokenType.EQ):
            reader.accept("TO")
        return UseNamespace(reader.namespace())
    if not reader.accept_symbol(TokenType.EQ) and not reader.accept("TO"):
        reader.fail("'=' is expected")
    if name == "search_path":
        return UseNamespace(_search_path(reader))
    return SetOption(name, _option_text(reader))


def _search_path(reader: Reader) -> str:
    token = reader.peek()
    if token is not None and token.token_type is TokenType.STRING:
        reader.take()
        name = token.text.lower()
    else:
        name = reader.namespace()
    if reader.symbol() is TokenType.COMMA:
        raise Unsupported("a search_path of several namespaces", "name one, and qualify the others")
    return name


def _option_text(reader: Reader) -> str:
    token = reader.peek()
    if token is not None and token.token_type in (TokenType.STRING, TokenType.NUMBER):
        reader.take()
        return token.text
    word = reader.word()
    if not word:
        reader.fail("a value is expected")
    reader.take()
    return word.lower()


def show(reader: Reader) -> Statement:
    reader.expect("SHOW")
    if reader.accept("NAMESPACES") or reader.accept("SCHEMAS") or reader.accept("DATABASES"):
        return ShowNamespaces()
    if reader.accept("TABLES"):
        if reader.accept("IN") or reader.accept("FROM"):
            if reader.word() == "NAMESPACE" and reader.peek(1) is not None:
                reader.take()
            return ShowTables(reader.namespace())
        return ShowTables(None)
    if reader.accept("COLUMNS") or reader.accept("FIELDS"):
        if not reader.accept("FROM"):
            reader.expect("IN")
        return DescribeTable(_stored(reader))
    if reader.accept("CREATE"):
        if reader.accept("TABLE"):
            return ShowCreate(_stored(reader))
        reader.expect("VIEW")
        return ShowCreate(_stored(reader), "view")
    if reader.accept("STATS"):
        reader.expect("FOR")
        if reader.word() == "TABLE":
            reader.take()
        return ShowStats(_stored(reader))
    found = grammar_node.show(reader)
    if found is not None:
        return found
    refuse_named(reader, SHOWS)
    if reader.peek(1) is None or reader.symbol(1) is TokenType.DOT:
        return grammar_node.show_setting(reader)
    reader.fail(f"there is no SHOW {reader.shown()}")


def _stored(reader: Reader) -> TableName:
    table = reader.table()
    if table.all_users:
        raise InvalidStatement("all_users names tables to read; write namespace.table")
    return table


def describe(reader: Reader) -> Statement:
    reader.take()
    if reader.word() == "TABLE" and reader.peek(1) is not None:
        reader.take()
    table = _stored(reader)
    return DescribeTable(table, reader.accept("HISTORY"))


def subscribe(reader: Reader) -> Statement:
    reader.expect("SUBSCRIBE", "TO")
    selects = reader.word() in ("SELECT", "WITH")
    query = reader.until("OPTIONS")
    if not query:
        reader.fail("a table or a SELECT is expected")
    options = _subscribe_options(reader)
    source = reader.text[query[0].start : query[-1].end + 1]
    text = source if selects else f"SELECT * FROM {source}"
    select = read_query(tokenize(text), text)
    return SubscribeTo(text, select, options)


def _subscribe_options(reader: Reader) -> dict[str, int]:
    options: dict[str, int] = {}
    if not reader.accept("OPTIONS"):
        return options
    reader.expect_symbol(TokenType.L_PAREN, "(")
    while reader.symbol() is not TokenType.R_PAREN:
        # FROM is a word no name may be, but it names an option here.
        key = "from" if reader.accept("FROM") else reader.name("an option")
        if key not in SUBSCRIBE_OPTIONS:
            raise InvalidStatement(
                f"subscription option {key} is unknown; there are last_rows, batch_size, from"
            )
        reader.expect_symbol(TokenType.EQ, "=")
        value = _seq_or_count(reader, key)
        if options.setdefault(SUBSCRIBE_OPTIONS[key], value) != value:
            raise InvalidStatement(f"subscription option {key} is given twice")
        if not reader.accept_symbol(TokenType.COMMA):
            break
    reader.expect_symbol(TokenType.R_PAREN, ")")
    return options


def _seq_or_count(reader: Reader, key: str) -> int:
    token = reader.peek()
    if token is not None and token.token_type in (TokenType.NUMBER, TokenType.STRING):
        digits = token.text
        if digits.isdecimal() and len(digits) <= 19:
            reader.take()
            return int(digits)
    reader.fail(f"a number is expected for {key}")
