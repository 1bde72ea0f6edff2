# pyright: basic
"""The one SQL dialect: tokens and trees of expressions and queries, made by sqlglot and by nothing
else.

Two doors: `tokenize` (text → tokens) and `expression` / `query` (tokens → trees). Statements of
KalamDB's own are read from the same tokens by `grammar.py`. sqlglot's statement parser, which would
fall back to an opaque `Command` for what it does not know, is never asked to read one.

Keeps: a tree is never deeper than `DEPTH_MAX` plus chains of AND/OR, and no text makes the parser
recurse deeply or try exponentially many readings (`check_shape` looks at the tokens first); the
errors of sqlglot leave as SyntaxInvalid with line and column, or BatchInvalid when the text cannot
be split.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import BatchInvalid, LimitReached, SyntaxInvalid
from kalamdb.sql.signs import check_signs

DEPTH_MAX = 100
TOKENS_MAX = 20_000  # of one query or expression; sqlglot needs some 20 µs for each
CHAIN_MAX = 64  # keywords and operators in a row without an operand
JOINS_OPEN_MAX = 8  # JOINs that still wait for their ON; readings double with each
SUBSCRIPTS_MAX = 100


class Kalam(Postgres):
    """PostgreSQL, but that `$1` is always a parameter, never the start of a dollar-quoted text."""

    class Tokenizer(Postgres.Tokenizer):
        HEREDOC_STRINGS: ClassVar[list[Any]] = []
        # A command would swallow the rest of its statement as one text.
        COMMANDS: ClassVar[set[Any]] = set()
        # One kind of token and of node for the three of `distances.py`, told apart by their text.
        KEYWORDS: ClassVar[dict[str, Any]] = {
            **Postgres.Tokenizer.KEYWORDS,
            "<=>": TokenType.LR_ARROW,
            "<#>": TokenType.LR_ARROW,
        }
        SINGLE_TOKENS: ClassVar[dict[str, Any]] = {
            **Postgres.Tokenizer.SINGLE_TOKENS,
            "$": TokenType.PARAMETER,
        }


_DIALECT = Kalam()
# It would log the texts it falls back on; they are refused here, and texts of users are not logged.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_OPERANDS = {
    TokenType.VAR,
    TokenType.IDENTIFIER,
    TokenType.NUMBER,
    TokenType.STRING,
    TokenType.BYTE_STRING,
    TokenType.HEX_STRING,
    TokenType.COMMA,
    TokenType.DOT,
    TokenType.DCOLON,
    TokenType.SEMICOLON,
} | (_OPENING - {TokenType.CASE}) | _CLOSING  # fmt: skip

_ANSI = re.compile(r"\x1b\[\d*m")


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`, without comments. Raises BatchInvalid, SyntaxInvalid, Unsupported."""
    _check_characters(text)
    try:
        tokens = _DIALECT.tokenize(text)
    except TokenError as error:
        raise BatchInvalid(
            f"a quote or comment is not closed, or a character has no place ({_brief(error)})"
        ) from error
    check_signs(tokens, text)
    return tokens


def _brief(error: SqlglotError) -> str:
    return _ANSI.sub("", str(error)).splitlines()[0][:120]


def _check_characters(text: str) -> None:
    if text.isascii():
        if "\0" in text:
            raise _bad_character(text, text.index("\0"), "a NUL character")
        return
    for at, char in enumerate(text):
        if char == "\0":
            raise _bad_character(text, at, "a NUL character")
        if "\ud800" <= char <= "\udfff":
            raise _bad_character(text, at, "half a surrogate pair")


def _bad_character(text: str, at: int, what: str) -> SyntaxInvalid:
    before = text[:at]
    line = before.count("\n") + 1
    return SyntaxInvalid(f"the text holds {what}", line, at - before.rfind("\n"))


def error_at(token: Token | None, detail: str) -> SyntaxInvalid:
    """A syntax error at a token; None means at the end of the text."""
    if token is None:
        return SyntaxInvalid(f"{detail}, but the statement ends", None, None)
    return SyntaxInvalid(detail, token.line, max(1, token.col - (token.end - token.start)))


def check_shape(tokens: Sequence[Token]) -> None:
    """Refuse what is too deep or too ambiguous to parse. Raises SyntaxInvalid, LimitReached."""
    if len(tokens) > TOKENS_MAX:
        raise LimitReached(
            "tokens in one statement",
            f"{len(tokens)}, at most {TOKENS_MAX}; send parameters or split the statement",
        )
    depth = chain = subscripts = 0
    joins = [0]
    previous: TokenType | None = None
    for token in tokens:
        kind = token.token_type
        chain = 0 if kind in _OPERANDS else chain + 1
        if kind in _OPENING:
            depth += 1
            if kind is TokenType.L_PAREN:
                joins.append(0)
            elif kind is TokenType.L_BRACKET:
                subscripts += 1
        elif kind in _CLOSING:
            depth = max(0, depth - 1)
            if kind is TokenType.R_PAREN and len(joins) > 1:
                joins.pop()
        elif kind is TokenType.JOIN:
            if previous not in (TokenType.CROSS, TokenType.NATURAL):
                joins[-1] += 1
        elif kind in (TokenType.ON, TokenType.USING):
            joins[-1] = max(0, joins[-1] - 1)
        if depth > DEPTH_MAX or chain > CHAIN_MAX:
            raise error_at(token, f"nested too deeply, at most {DEPTH_MAX} levels")
        if joins[-1] > JOINS_OPEN_MAX:
            raise error_at(token, "JOINs without ON: give each its ON or USING")
        if subscripts > SUBSCRIPTS_MAX:
            raise error_at(token, f"more than {SUBSCRIPTS_MAX} subscripts")
        previous = kind


def expression(tokens: Sequence[Token], text: str) -> exp.Expr:
    """The tree of one expression that takes up all `tokens`. Raises SyntaxInvalid."""
    return _parse(tokens, text, exp.Condition)


def query(tokens: Sequence[Token], text: str) -> exp.Expr:
    """The tree of a SELECT, VALUES or set operation. Raises SyntaxInvalid."""
    return _parse(tokens, text, None)


def _parse(tokens: Sequence[Token], text: str, into: Any) -> exp.Expr:
    check_shape(tokens)
    try:
        parser = _DIALECT.parser()
        if into is None:
            trees = parser.parse(list(tokens), text)
        else:
            trees = parser.parse_into(into, list(tokens), text)
    except ParseError as error:
        raise _translated(error, tokens) from error
    except RecursionError as error:
        raise error_at(tokens[0], f"nested too deeply, at most {DEPTH_MAX} levels") from error
    except (SqlglotError, ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
        # The parser stumbles over some wrong texts instead of refusing them.
        raise error_at(tokens[0], f"cannot be read ({type(error).__name__})") from error
    if len(trees) != 1 or trees[0] is None:
        raise error_at(tokens[0] if tokens else None, "an expression is expected")
    if len(tokens) > 2 * DEPTH_MAX:  # fewer tokens cannot make a deeper tree
        _check_depth(trees[0], tokens[0])
    return trees[0]


def _translated(error: ParseError, tokens: Sequence[Token]) -> SyntaxInvalid:
    first = error.errors[0] if error.errors else {}
    detail = _ANSI.sub("", str(first.get("description") or _brief(error)))
    # What the parser says of its own objects helps nobody.
    detail = re.sub(r"( but got <Token| for <class ).*", "", detail).rstrip(". ")
    near = first.get("highlight")
    line, column = first.get("line"), first.get("col")
    if near:
        detail += f" near {str(near)[:40]!r}"
        if isinstance(column, int):
            column = max(1, column - len(str(near)) + 1)
    if line is None and tokens:
        line, column = tokens[-1].line, tokens[-1].col
    return SyntaxInvalid(detail, line, column)


def _check_depth(tree: exp.Expr, at: Token) -> None:
    """Bound the recursion of everybody who walks the tree; AND, OR and set operations are walked
    flat.
    """
    flat = (exp.And, exp.Or, exp.SetOperation)
    stack: list[tuple[Any, int]] = [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > 2 * DEPTH_MAX:
            raise error_at(at, f"nested too deeply, at most {DEPTH_MAX} levels")
        below = depth if isinstance(node, flat) else depth + 1
        stack.extend((child, below) for child in node.iter_expressions())
