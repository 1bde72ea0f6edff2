# pyright: basic
"""The grammar of statements: from the tokens of one statement to the Statement union.

The first words decide; there is no fallback. What KalamDB does not have is refused by name with
what to do instead (`unsupported.py`), what nobody knows is a syntax error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.sql import grammar_transaction
from kalamdb.sql.dml import read_delete, read_insert, read_query, read_update
from kalamdb.sql.grammar_cluster import cluster
from kalamdb.sql.grammar_define import alter, create, drop
from kalamdb.sql.grammar_node import kill
from kalamdb.sql.grammar_session import describe, set_option, show, subscribe, use_namespace
from kalamdb.sql.grammar_users import user_name
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import Delete, ExecuteAs, Explain, Insert, Select, Statement, Update
from kalamdb.sql.unsupported import STATEMENTS, refuse_named


def read_statement(tokens: Sequence[Token], text: str) -> Statement:
    """One statement from all of `tokens`. Raises SyntaxInvalid, Unsupported, InvalidDefinition."""
    reader = Reader(tokens, text)
    word = reader.word()
    if word in ("SELECT", "WITH", "VALUES") or reader.symbol() is TokenType.L_PAREN:
        return read_query(tokens, text)
    read = _READERS.get(word)
    if read is None:
        grammar_transaction.refuse_prepare(reader)
        refuse_named(reader, STATEMENTS)
        reader.fail(f"{reader.shown()} begins no statement")
    statement = read(reader)
    reader.end()
    return statement


def _explain(reader: Reader) -> Statement:
    reader.expect("EXPLAIN")
    if reader.word() in ("ANALYZE", "ANALYSE", "VERBOSE", "FORMAT", "EXTENDED", "LOGICAL"):
        raise Unsupported(f"EXPLAIN {reader.word()}", "EXPLAIN shows the path of a statement")
    if reader.symbol() is TokenType.L_PAREN and reader.word(1) not in ("SELECT", "WITH", "VALUES"):
        raise Unsupported("options of EXPLAIN", "EXPLAIN shows the path of a statement")
    if reader.accept("PLAN"):
        reader.accept("FOR")
    inner = _rest(reader)
    if not isinstance(inner, (Select, Insert, Update, Delete)):
        raise InvalidStatement("EXPLAIN takes a SELECT, INSERT, UPDATE or DELETE")
    return Explain(inner)


def _rest(reader: Reader) -> Statement:
    tokens = reader.tokens[reader.at :]
    if not tokens:
        reader.fail("a statement is expected")
    if Reader(tokens, reader.text).word() in ("EXPLAIN", "EXECUTE"):
        raise InvalidStatement("EXPLAIN and EXECUTE AS do not hold another EXPLAIN or EXECUTE AS")
    reader.at = len(reader.tokens)
    return read_statement(tokens, reader.text)


def _execute_as(reader: Reader) -> Statement:
    reader.expect("EXECUTE")
    if not reader.accept("AS"):
        raise Unsupported("EXECUTE of prepared statements", "send parameters with the statement")
    if reader.word() == "USER" and reader.symbol(1) is not TokenType.L_PAREN:
        reader.take()
    user = user_name(reader)
    inside = reader.parenthesised()
    reader.end()
    inner = Reader(inside, reader.text)
    if not inside:
        inner.fail("EXECUTE AS holds one statement")
    if inner.word() in ("EXPLAIN", "EXECUTE"):
        raise InvalidStatement("EXECUTE AS takes one SELECT, INSERT, UPDATE or DELETE")
    return ExecuteAs(user, read_statement(inside, reader.text))


_READERS: dict[str, Callable[[Reader], Statement]] = {
    "INSERT": read_insert,
    "UPDATE": read_update,
    "DELETE": read_delete,
    "CREATE": create,
    "DROP": drop,
    "ALTER": alter,
    "USE": use_namespace,
    "SET": set_option,
    "SHOW": show,
    "DESCRIBE": describe,
    "DESC": describe,
    "EXPLAIN": _explain,
    "EXECUTE": _execute_as,
    "SUBSCRIBE": subscribe,
    "KILL": kill,
    "CLUSTER": cluster,
    "BEGIN": grammar_transaction.begin,
    "START": grammar_transaction.start,
    "COMMIT": grammar_transaction.commit,
    "END": grammar_transaction.commit,
    "ROLLBACK": grammar_transaction.rollback,
    "ABORT": grammar_transaction.rollback,
    "SAVEPOINT": grammar_transaction.savepoint,
    "RELEASE": grammar_transaction.release,
}
