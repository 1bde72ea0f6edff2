# pyright: basic
"""Tokens that are refused by name, before a text is parsed: literals and operators of PostgreSQL.

Keeps: no sign reaches the engine that it would only fail on. What is refused by the shape of the
tree (`->`, `<<`, `~x`) is in `query_shape.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import SyntaxInvalid, Unsupported

_JSON = "read the JSON in your program"

REFUSED: Mapping[TokenType, tuple[str, str | None]] = {
    TokenType.BIT_STRING: ("bit string literals", None),
    TokenType.UNICODE_STRING: ("U&'…' literals", "write the characters themselves"),
    TokenType.NATIONAL_STRING: ("N'…' literals", "write '…'"),
    TokenType.HEREDOC_STRING: ("dollar-quoted strings", "write '…'"),
    TokenType.RAW_STRING: ("raw string literals", "write '…'"),
    TokenType.PLACEHOLDER: ("the placeholder ?", "number parameters: $1, $2, …"),
    TokenType.CARET: ("the operator ^", "write power(a, b)"),
    TokenType.PIPE_SLASH: ("the operator |/", "write sqrt(x)"),
    TokenType.DPIPE_SLASH: ("the operator ||/", "write cbrt(x)"),
    TokenType.DAMP: ("the operator &&", "write AND, or array_has_any(a, b)"),
    TokenType.CARET_AT: ("the operator ^@", "write starts_with(a, b)"),
    TokenType.GLOB: ("the operator ~~~", "write LIKE"),
    TokenType.HASH_ARROW: ("the operator #>", _JSON),
    TokenType.DHASH_ARROW: ("the operator #>>", _JSON),
    TokenType.HASH_DASH: ("the operator #-", _JSON),
    TokenType.QMARK_AMP: ("the operator ?&", _JSON),
    TokenType.QMARK_PIPE: ("the operator ?|", _JSON),
    TokenType.AT_QMARK: ("the operator @?", _JSON),
    TokenType.DAT: ("the operator @@", "write LIKE, or ~ with a regular expression"),
    TokenType.ADJACENT: ("the operator -|-", None),
    TokenType.AMP_LT: ("the operator &<", None),
    TokenType.AMP_GT: ("the operator &>", None),
    TokenType.LLRR_ARROW: ("the operator <<->>", None),
}
_MATCHES = {TokenType.RLIKE, TokenType.IRLIKE, TokenType.LIKE, TokenType.ILIKE}


def check_signs(tokens: Sequence[Token], text: str) -> None:
    """Refuse signs that mean nothing here, and numbers that run into a word.

    Raises Unsupported, SyntaxInvalid.
    """
    number_end = -1
    for at, token in enumerate(tokens):
        kind = token.token_type
        refused = REFUSED.get(kind)
        if refused is not None:
            raise Unsupported(*refused)
        if kind is TokenType.PARAMETER and token.text == "@":
            raise Unsupported("the operator @", "write abs(x)")
        if kind is TokenType.NOT and token.text == "!" and not _negates(tokens, at):
            raise Unsupported("the operator !", "write NOT x, or factorial(x)")
        if token.start == number_end and (text[number_end].isalpha() or text[number_end] == "_"):
            _refuse_number(tokens[at - 1], token, text)
        number_end = token.end + 1 if kind is TokenType.NUMBER else -1


def _negates(tokens: Sequence[Token], at: int) -> bool:
    """Is the `!` at `at` the first half of `!~`, `!~*`, `!~~` or `!~~*`?"""
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    return after is not None and after.token_type in _MATCHES and after.text.startswith("~")


def _refuse_number(number: Token, word: Token, text: str) -> NoReturn:
    run = text[number.start : word.end + 1]
    detail = f"{run[:40]!r} is neither a number nor a name"
    raise SyntaxInvalid(detail, number.line, max(1, number.col - (number.end - number.start)))
