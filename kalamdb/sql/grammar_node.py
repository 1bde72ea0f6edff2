# pyright: basic
"""Statements about what goes on at a node: KILL, SHOW of what runs, users, indexes, settings."""

from __future__ import annotations

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import (
    Kill,
    Ongoing,
    ShowIndexes,
    ShowOngoing,
    ShowSettings,
    ShowUsers,
    Statement,
)

ID_LENGTH_MAX = 400
_KINDS = {
    ("QUERY",): Ongoing.QUERY,
    ("LIVE", "QUERY"): Ongoing.LIVE_QUERY,
    ("SUBSCRIPTION",): Ongoing.LIVE_QUERY,
    ("TRANSACTION",): Ongoing.TRANSACTION,
    ("CONNECTION",): Ongoing.CONNECTION,
    ("SESSION",): Ongoing.CONNECTION,
}
_LISTS = {
    ("QUERIES",): Ongoing.QUERY,
    ("LIVE", "QUERIES"): Ongoing.LIVE_QUERY,
    ("SUBSCRIPTIONS",): Ongoing.LIVE_QUERY,
    ("TRANSACTIONS",): Ongoing.TRANSACTION,
    ("CONNECTIONS",): Ongoing.CONNECTION,
    ("SESSIONS",): Ongoing.CONNECTION,
}


def kill(reader: Reader) -> Statement:
    """`KILL kind id`; the quotes around the id may be left out."""
    reader.expect("KILL")
    if reader.word() == "JOB":
        raise Unsupported("KILL JOB", "a node has no jobs that a client began")
    for words, kind in _KINDS.items():
        if reader.accept(*words):
            return Kill(kind, _id(reader))
    reader.fail("QUERY, LIVE QUERY, TRANSACTION or CONNECTION is expected")


def _id(reader: Reader) -> str:
    token = reader.peek()
    quoted = token is not None and token.token_type is TokenType.STRING
    if quoted:
        found = reader.string("an id")
    else:
        rest = reader.until()
        found = reader.text[rest[0].start : rest[-1].end + 1] if rest else ""
    if not found or len(found) > ID_LENGTH_MAX or (" " in found and not quoted):
        raise InvalidStatement("KILL takes the id as SHOW tells it, in single quotes")
    return found


def show(reader: Reader) -> Statement | None:
    """What follows SHOW; None when it is none of these."""
    for words, kind in _LISTS.items():
        if reader.accept(*words):
            return ShowOngoing(kind)
    if reader.accept("USERS"):
        return ShowUsers()
    if reader.accept("INDEXES") or reader.accept("INDEX"):
        named = reader.accept("FROM") or reader.accept("IN") or reader.accept("ON")
        return ShowIndexes(reader.table() if named else None)
    if reader.accept("ALL") or reader.accept("SETTINGS"):
        return ShowSettings(None)
    return None


def show_setting(reader: Reader) -> Statement:
    """`SHOW section.name`."""
    parts = [reader.name("a setting")]
    while reader.accept_symbol(TokenType.DOT):
        parts.append(reader.name("a setting"))
    return ShowSettings(".".join(parts))
