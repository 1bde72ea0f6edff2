# pyright: basic
"""Statements of transactions: BEGIN, COMMIT, ROLLBACK, SAVEPOINT and their kin.

Every level PostgreSQL has below SERIALIZABLE reads as snapshot isolation, which is at least as
strong; SERIALIZABLE promises more than there is and is refused.
"""

from __future__ import annotations

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import Unsupported
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import (
    Begin,
    Commit,
    ReleaseSavepoint,
    Rollback,
    RollbackTo,
    Savepoint,
    SetTransaction,
    Statement,
)

_NO_TWO_PHASES = "COMMIT decides and applies in one step"
_NO_CHAIN = "write BEGIN after it"
_NOT_SERIALIZABLE = (
    "transactions are snapshot isolation (REPEATABLE READ): write skew is possible, so guard such"
    " rules by a row that both transactions write"
)


def begin(reader: Reader) -> Statement:
    """`BEGIN [TRANSACTION | WORK] [mode …]`."""
    reader.expect("BEGIN")
    if reader.word() in ("DEFERRED", "IMMEDIATE", "EXCLUSIVE"):
        raise Unsupported(f"BEGIN {reader.word()}", "nothing is locked; write BEGIN")
    _noise(reader)
    return Begin(bool(_modes(reader)))


def start(reader: Reader) -> Statement:
    reader.expect("START")
    reader.expect("TRANSACTION")
    return Begin(bool(_modes(reader)))


def set_transaction(reader: Reader) -> Statement:
    """What follows `SET`: `TRANSACTION mode …`."""
    reader.expect("TRANSACTION")
    if reader.word() == "SNAPSHOT":
        raise Unsupported("SET TRANSACTION SNAPSHOT", "a transaction takes its own snapshot")
    if reader.done:
        reader.fail("ISOLATION LEVEL, READ ONLY or READ WRITE is expected")
    return SetTransaction(_modes(reader))


def commit(reader: Reader) -> Statement:
    """`COMMIT | END [WORK | TRANSACTION]`."""
    word = reader.word()
    reader.take()
    if reader.word() == "PREPARED":
        raise Unsupported(f"{word} PREPARED", _NO_TWO_PHASES)
    _noise(reader)
    _chain(reader, word)
    return Commit()


def rollback(reader: Reader) -> Statement:
    """`ROLLBACK | ABORT [WORK | TRANSACTION]`, or `ROLLBACK … TO [SAVEPOINT] name`."""
    word = reader.word()
    reader.take()
    if reader.word() == "PREPARED":
        raise Unsupported(f"{word} PREPARED", _NO_TWO_PHASES)
    _noise(reader)
    if word == "ROLLBACK" and reader.accept("TO"):
        _savepoint_word(reader)
        return RollbackTo(reader.name("a savepoint"))
    _chain(reader, word)
    return Rollback()


def savepoint(reader: Reader) -> Statement:
    reader.expect("SAVEPOINT")
    return Savepoint(reader.name("a savepoint"))


def release(reader: Reader) -> Statement:
    """`RELEASE [SAVEPOINT] name`."""
    reader.expect("RELEASE")
    _savepoint_word(reader)
    return ReleaseSavepoint(reader.name("a savepoint"))


def refuse_prepare(reader: Reader) -> None:
    """`PREPARE TRANSACTION` is another thing than PREPARE of a statement."""
    if reader.word() == "PREPARE" and reader.word(1) == "TRANSACTION":
        raise Unsupported("PREPARE TRANSACTION", _NO_TWO_PHASES)


def _noise(reader: Reader) -> None:
    if not reader.accept("WORK"):
        reader.accept("TRANSACTION")


def _savepoint_word(reader: Reader) -> None:
    """SAVEPOINT is a word like another: a savepoint may have it as its name."""
    if reader.word() == "SAVEPOINT" and reader.peek(1) is not None:
        reader.take()


def _chain(reader: Reader, word: str) -> None:
    if reader.accept("AND"):
        if reader.accept("NO"):
            reader.expect("CHAIN")
            return
        reader.expect("CHAIN")
        raise Unsupported(f"{word} AND CHAIN", _NO_CHAIN)


def _modes(reader: Reader) -> bool | None:
    """Levels and access modes, with or without commas between; is it READ ONLY, None: not said."""
    read_only: bool | None = None
    while not reader.done:
        if reader.accept("ISOLATION"):
            reader.expect("LEVEL")
            _level(reader)
        elif reader.accept("READ"):
            if reader.accept("ONLY"):
                read_only = True
            else:
                reader.expect("WRITE")
                read_only = False
        elif reader.accept("NOT"):
            reader.expect("DEFERRABLE")
        elif reader.word() == "DEFERRABLE":
            raise Unsupported("DEFERRABLE", "a snapshot never waits for another transaction")
        else:
            reader.fail("ISOLATION LEVEL, READ ONLY or READ WRITE is expected")
        if reader.accept_symbol(TokenType.COMMA) and reader.done:
            reader.fail("another mode is expected")
    return read_only


def _level(reader: Reader) -> None:
    if reader.accept("SERIALIZABLE"):
        raise Unsupported("ISOLATION LEVEL SERIALIZABLE", _NOT_SERIALIZABLE)
    if reader.accept("SNAPSHOT") or reader.accept("REPEATABLE", "READ"):
        return
    if reader.accept("READ", "COMMITTED") or reader.accept("READ", "UNCOMMITTED"):
        return
    reader.fail("SNAPSHOT, REPEATABLE READ or READ COMMITTED is expected")
