# pyright: basic
"""The grammar of ALTER NAMESPACE."""

from __future__ import annotations

from typing import Any

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidDefinition, Unsupported
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import AlterNamespace, Statement
from kalamdb.sql.syntax import number

OPTIONS_MAX = 100
TEXT_LENGTH_MAX = 4096


def alter_namespace(reader: Reader) -> Statement:
    """Everything after `ALTER NAMESPACE`."""
    name = reader.namespace()
    if reader.accept("RENAME"):
        raise Unsupported(
            "renaming a namespace", "create another one, and tables in it by INSERT … SELECT"
        )
    if reader.word() == "OWNER":
        raise Unsupported("OWNER TO", "namespaces belong to nobody")
    reader.expect("SET")
    if reader.accept("DESCRIPTION"):
        reader.accept_symbol(TokenType.EQ)
        return AlterNamespace(name, {"description": _text(reader.string("a description"))})
    reader.expect("OPTIONS")
    return AlterNamespace(name, _options(reader))


def _options(reader: Reader) -> dict[str, Any]:
    found: dict[str, Any] = {}
    reader.expect_symbol(TokenType.L_PAREN, "(")
    while True:
        key = reader.name("an option")
        reader.expect_symbol(TokenType.EQ, "=")
        if key in found:
            raise InvalidDefinition(f"option {key} is given twice")
        found[key] = _value(reader)
        if len(found) > OPTIONS_MAX:
            raise InvalidDefinition(f"a namespace has at most {OPTIONS_MAX} options")
        if not reader.accept_symbol(TokenType.COMMA):
            break
    reader.expect_symbol(TokenType.R_PAREN, ")")
    return found


def _value(reader: Reader) -> Any:
    """A text, a boolean, a number, or NULL, which takes the option out."""
    token: Token | None = reader.peek()
    if token is not None and token.token_type is TokenType.STRING:
        return _text(reader.take().text)
    words = {"TRUE": True, "FALSE": False, "NULL": None}
    if reader.word() in words:
        return words[reader.take().text.upper()]
    negative = reader.accept_symbol(TokenType.DASH)
    token = reader.peek()
    if token is None or token.token_type is not TokenType.NUMBER:
        reader.fail("a text, a number, TRUE, FALSE or NULL is expected")
    value = number(reader.take())
    plain = value if isinstance(value, int) else float(value)
    if isinstance(plain, int) and plain >= 1 << 63:
        raise InvalidDefinition("a number of an option has at most 63 bits")
    return -plain if negative else plain


def _text(text: str) -> str:
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidDefinition(f"a text of an option has at most {TEXT_LENGTH_MAX} characters")
    return text
