# pyright: basic
"""The grammar of SELECT, INSERT, UPDATE and DELETE.

Their skeleton is read here word by word, so that a clause that is not in the grammar is an error;
their expressions and queries are cut out as tokens and read by `dialect`. Rows of VALUES that hold
literals and parameters only, which is nearly all of them, never become trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidStatement, LimitReached, Unsupported
from kalamdb.sql import dialect
from kalamdb.sql.query_shape import base_tables, check_shape
from kalamdb.sql.reader import Reader, word_of
from kalamdb.sql.statement import Delete, Insert, Select, TableName, Update
from kalamdb.sql.syntax import (
    ConflictSyntax,
    Constant,
    DefaultWord,
    DeleteSyntax,
    Fragment,
    InsertSyntax,
    Item,
    Output,
    Param,
    QuerySyntax,
    UpdateSyntax,
    count_parameters,
    number,
    parameter_index,
)

VALUES_MAX = 200_000  # values in one INSERT
_WORD_VALUES = {"NULL": None, "TRUE": True, "FALSE": False}
_DEFAULT = DefaultWord()


def read_query(tokens: Sequence[Token], text: str) -> Select:
    """A SELECT, VALUES or set operation, and the tables it names."""
    fragment = query_fragment(tokens, text)
    seen: dict[TableName, None] = {name: None for _, name in base_tables(fragment.tree)}
    return Select(QuerySyntax(fragment, count_parameters(tokens)), tuple(seen))


def query_fragment(tokens: Sequence[Token], text: str) -> Fragment:
    tree = dialect.query(tokens, text)
    if isinstance(tree, (exp.Insert, exp.Update, exp.Delete, exp.Merge)):
        raise Unsupported(f"WITH before {tree.key.upper()}", "put the WITH clause into its SELECT")
    if not isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery, exp.Values)):
        raise dialect.error_at(tokens[0], "a SELECT is expected")
    check_shape(tree)
    return Fragment(tree, tuple(tokens), text)


def expression_fragment(tokens: Sequence[Token], text: str, reader: Reader, what: str) -> Fragment:
    if not tokens:
        reader.fail(f"{what} is expected")
    tree = dialect.expression(tokens, text)
    check_shape(tree)
    return Fragment(tree, tuple(tokens), text)


def _no_all_users(fragments: Sequence[Any]) -> None:
    for fragment in fragments:
        if isinstance(fragment, Fragment) and any(
            name.all_users for _, name in base_tables(fragment.tree)
        ):
            raise Unsupported("all_users in a statement that writes", "SELECT first, then write")


def _target(reader: Reader) -> TableName:
    token = reader.peek()
    if reader.word() == "ONLY" and reader.word(1):
        raise Unsupported("ONLY", None)
    table = reader.table()
    if table.all_users:
        raise InvalidStatement("all_users is for reading; EXECUTE AS writes rows of another user")
    if table.namespace in ("system", "information_schema", "pg_catalog"):
        raise InvalidStatement(f"tables of {table.namespace} are read only")
    if reader.symbol() is TokenType.STAR:
        raise dialect.error_at(token, "a table name is expected")
    return table


def _alias(reader: Reader, *stops: str) -> str | None:
    if reader.accept("AS"):
        return reader.name("an alias")
    word = reader.word()
    quoted = reader.symbol() is TokenType.IDENTIFIER
    return reader.name("an alias") if quoted or (word and word not in stops) else None


# ---- INSERT --------------------------------------------------------------------------------------


def read_insert(reader: Reader) -> Insert:
    reader.expect("INSERT")
    if reader.word() in ("OVERWRITE", "OR", "IGNORE", "LOW_PRIORITY", "DELAYED", "FIRST", "ALL"):
        raise Unsupported(f"INSERT {reader.word()}", "write INSERT INTO … ON CONFLICT")
    reader.expect("INTO")
    table = _target(reader)
    alias = reader.name("an alias") if reader.accept("AS") else None
    columns = tuple(reader.names("a column name")) if _has_columns(reader) else None
    if reader.word() in ("OVERRIDING", "PARTITION", "BY", "SET"):
        raise Unsupported(f"INSERT … {reader.word()}", "write INSERT INTO t (columns) VALUES (…)")
    rows: tuple[tuple[Item, ...], ...] | None = None
    query: Fragment | None = None
    if reader.accept("VALUES"):
        rows = _rows(reader)
    elif reader.accept("DEFAULT", "VALUES"):
        pass
    else:
        query = _insert_query(reader)
    conflict = _conflict(reader)
    returning = _returning(reader)
    reader.end()
    _no_all_users([query])
    syntax = InsertSyntax(
        table, alias, columns, rows, query, conflict, returning, count_parameters(reader.tokens)
    )
    return Insert(syntax, table)


def _has_columns(reader: Reader) -> bool:
    return reader.symbol() is TokenType.L_PAREN and reader.word(1) not in (
        "SELECT",
        "WITH",
        "VALUES",
    )


def _insert_query(reader: Reader) -> Fragment:
    start = reader.at
    while not reader.done:
        reader.until("ON", "RETURNING")
        if reader.word() == "ON" and reader.word(1) != "CONFLICT":
            reader.take()  # the ON of a join
            continue
        break
    tokens = list(reader.tokens[start : reader.at])
    if not tokens:
        reader.fail("VALUES or a SELECT is expected")
    return query_fragment(tokens, reader.text)


def _rows(reader: Reader) -> tuple[tuple[Item, ...], ...]:
    rows: list[tuple[Item, ...]] = []
    total = 0
    while True:
        row = _plain_row(reader) or _row(reader)
        rows.append(row)
        total += len(row)
        if total > VALUES_MAX:
            raise LimitReached("values in one INSERT", f"more than {VALUES_MAX}; split it")
        if not reader.accept_symbol(TokenType.COMMA):
            return tuple(rows)


def _row(reader: Reader) -> tuple[Item, ...]:
    reader.expect_symbol(TokenType.L_PAREN, "(")
    row = [_item(reader)]
    while reader.accept_symbol(TokenType.COMMA):
        row.append(_item(reader))
    reader.expect_symbol(TokenType.R_PAREN, ")")
    return tuple(row)


def _plain_row(reader: Reader) -> tuple[Item, ...] | None:
    """Take a row of texts and numbers, which fill bulk inserts; None for any other row."""
    tokens, at = reader.tokens, reader.at
    row: list[Item] = []
    expected = TokenType.L_PAREN
    end = len(tokens)
    while at + 1 < end and tokens[at].token_type is expected:
        token = tokens[at + 1]
        if token.token_type is TokenType.STRING:
            row.append(Constant(token.text))
        elif token.token_type is TokenType.NUMBER:
            row.append(Constant(number(token)))
        else:
            return None
        at += 2
        expected = TokenType.COMMA
    if at >= end or not row or tokens[at].token_type is not TokenType.R_PAREN:
        return None
    reader.at = at + 1
    return tuple(row)


def _item(reader: Reader, *stops: str) -> Item:
    """One value: up to a comma, a closing parenthesis or a stop word."""
    tokens, at = reader.tokens, reader.at
    simple, width = _simple(tokens, at)
    if width:
        end = at + width
        following = tokens[end] if end < len(tokens) else None
        if (
            following is None
            or following.token_type in (TokenType.COMMA, TokenType.R_PAREN)
            or word_of(following) in stops
        ):
            reader.at = end
            assert simple is not None
            return simple
    inside = reader.until(*stops, comma=True)
    return expression_fragment(inside, reader.text, reader, "a value")


def _simple(tokens: Sequence[Token], at: int) -> tuple[Item | None, int]:
    """The literal or parameter that begins here, and how many tokens it takes; 0: none does."""
    if at >= len(tokens):
        return None, 0
    token = tokens[at]
    match token.token_type:
        case TokenType.STRING | TokenType.BYTE_STRING:
            return Constant(token.text), 1
        case TokenType.NUMBER:
            return Constant(number(token)), 1
        case TokenType.PARAMETER:
            name = tokens[at + 1] if at + 1 < len(tokens) else None
            return Param(parameter_index(token, name)), 2
        case TokenType.DASH:
            if at + 1 < len(tokens) and tokens[at + 1].token_type is TokenType.NUMBER:
                return Constant(-number(tokens[at + 1])), 2
            return None, 0
        case _:
            word = word_of(token)
            if word in _WORD_VALUES:
                return Constant(_WORD_VALUES[word]), 1
            return (_DEFAULT, 1) if word == "DEFAULT" else (None, 0)


def _conflict(reader: Reader) -> ConflictSyntax | None:
    if not reader.accept("ON"):
        return None
    if reader.word() == "DUPLICATE":
        raise Unsupported("ON DUPLICATE KEY", "write ON CONFLICT (columns) DO UPDATE SET …")
    reader.expect("CONFLICT")
    columns: tuple[str, ...] | None = None
    constraint: str | None = None
    if reader.accept("ON", "CONSTRAINT"):
        constraint = reader.name("a constraint name")
    elif reader.symbol() is TokenType.L_PAREN:
        columns = tuple(reader.names("a column name"))
        if reader.word() == "WHERE":
            raise Unsupported("ON CONFLICT (…) WHERE", "UNIQUE constraints cover all rows")
    reader.expect("DO")
    if reader.accept("NOTHING"):
        return ConflictSyntax(columns, constraint, None, None)
    reader.expect("UPDATE", "SET")
    assignments = _assignments(reader)
    where = _where(reader)
    return ConflictSyntax(columns, constraint, assignments, where)


def _assignments(reader: Reader) -> tuple[tuple[str, Item], ...]:
    found: list[tuple[str, Item]] = []
    while True:
        if reader.symbol() is TokenType.L_PAREN:
            raise Unsupported("SET (a, b) = (…)", "assign the columns one by one")
        column = reader.name("a column name")
        if reader.accept_symbol(TokenType.DOT):
            column = reader.name("a column name")
        if reader.symbol() is TokenType.L_BRACKET:
            raise Unsupported("assigning an element", "assign the whole column")
        reader.expect_symbol(TokenType.EQ, "=")
        found.append((column, _item(reader, "WHERE", "RETURNING", "FROM")))
        if not reader.accept_symbol(TokenType.COMMA):
            return tuple(found)


def _where(reader: Reader) -> Fragment | None:
    if not reader.accept("WHERE"):
        return None
    if reader.accept("CURRENT", "OF"):
        raise Unsupported("WHERE CURRENT OF", "there are no cursors")
    tokens = reader.until("RETURNING", "ORDER", "LIMIT", "GROUP", "HAVING", "WHERE", "ON", "UNION")
    fragment = expression_fragment(tokens, reader.text, reader, "a condition")
    if reader.word() in ("ORDER", "LIMIT", "GROUP", "HAVING"):
        raise Unsupported(f"{reader.word()} in a statement that writes", "narrow the WHERE")
    return fragment


def _returning(reader: Reader) -> tuple[Output, ...] | None:
    if not reader.accept("RETURNING"):
        return None
    found: list[Output] = []
    while True:
        tokens = reader.until(comma=True)
        if len(tokens) == 1 and tokens[0].token_type is TokenType.STAR:
            found.append(Output(None, None))
        else:
            found.append(_output(tokens, reader))
        if not reader.accept_symbol(TokenType.COMMA):
            return tuple(found)


def _output(tokens: list[Token], reader: Reader) -> Output:
    inner = Reader(tokens, reader.text)
    before = inner.until("AS")
    if inner.accept("AS"):
        token = inner.peek()
        alias = inner.name("an alias")
        inner.end()
        if token is not None and token.token_type is TokenType.IDENTIFIER:
            alias = token.text
        return Output(expression_fragment(before, reader.text, reader, "a value"), alias)
    return Output(expression_fragment(tokens, reader.text, reader, "a value"), None)


# ---- UPDATE, DELETE ------------------------------------------------------------------------------


def read_update(reader: Reader) -> Update:
    reader.expect("UPDATE")
    if reader.accept("OR"):
        raise Unsupported(f"UPDATE OR {reader.word()}", None)
    table = _target(reader)
    alias = _alias(reader, "SET", "JOIN", "INNER", "LEFT", "CROSS")
    if not reader.accept("SET"):
        if (
            reader.word() in ("JOIN", "INNER", "LEFT", "CROSS")
            or reader.symbol() is TokenType.COMMA
        ):
            raise Unsupported("UPDATE of a join", "use a subquery in WHERE or SET")
        reader.fail("SET is expected")
    assignments = _assignments(reader)
    if reader.word() == "FROM":
        raise Unsupported("UPDATE … FROM", "use a subquery in WHERE or SET")
    where = _where(reader)
    returning = _returning(reader)
    reader.end()
    _no_all_users([where, *(item for _, item in assignments)])
    count = count_parameters(reader.tokens)
    return Update(UpdateSyntax(table, alias, assignments, where, returning, count), table)


def read_delete(reader: Reader) -> Delete:
    reader.expect("DELETE")
    reader.expect("FROM")
    table = _target(reader)
    alias = _alias(reader, "WHERE", "RETURNING", "USING", "JOIN", "ORDER", "LIMIT")
    if reader.word() == "USING":
        raise Unsupported("DELETE … USING", "use a subquery in WHERE")
    if reader.word() in ("ORDER", "LIMIT"):
        raise Unsupported(f"{reader.word()} in a statement that writes", "narrow the WHERE")
    where = _where(reader)
    returning = _returning(reader)
    reader.end()
    _no_all_users([where])
    count = count_parameters(reader.tokens)
    return Delete(DeleteSyntax(table, alias, where, returning, count), table)
