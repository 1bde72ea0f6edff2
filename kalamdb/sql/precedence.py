# pyright: basic
"""Where the engine binds operators otherwise than PostgreSQL does, and what is done about it.

`a IS DISTINCT FROM b AND c` is `a IS DISTINCT FROM (b AND c)` to the engine, which takes the rest
of the condition for the operand. Its operator `<=>` says the same as IS NOT DISTINCT FROM and binds
as `=` does, so the text for the engine has `a <=> b` and `a <=> b IS FALSE`.

Keeps: every other operator that the two bind differently is refused without parentheses
(`query_shape.py`), so a text means to the engine what the tree says.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.sql.dialect import error_at
from kalamdb.sql.render import Splices, add, add_after

_OPENING = {TokenType.L_PAREN: TokenType.R_PAREN, TokenType.L_BRACKET: TokenType.R_BRACKET}
_SIGNS = {TokenType.DASH, TokenType.PLUS, TokenType.TILDE}
_BINARY = {
    TokenType.DASH,
    TokenType.PLUS,
    TokenType.STAR,
    TokenType.SLASH,
    TokenType.MOD,
    TokenType.DPIPE,
    TokenType.AMP,
    TokenType.PIPE,
    TokenType.HASH,
}
# They bind tighter than IS, and the engine's <=> does not wait for them.
_TIGHTER = {
    TokenType.EQ,
    TokenType.NEQ,
    TokenType.LT,
    TokenType.LTE,
    TokenType.GT,
    TokenType.GTE,
    TokenType.NULLSAFE_EQ,
    TokenType.LIKE,
    TokenType.ILIKE,
    TokenType.RLIKE,
    TokenType.IRLIKE,
    TokenType.SIMILAR_TO,
    TokenType.IN,
    TokenType.BETWEEN,
    TokenType.NOT,
}
AFTER_CALL = frozenset(("FILTER", "OVER", "WITHIN", "GROUP"))
OF_TYPE = frozenset(("PRECISION", "VARYING", "WITH", "WITHOUT", "TIME", "ZONE"))
UNITS = frozenset(("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "WEEK"))


def splice_distinct(splices: Splices, tokens: Sequence[Token]) -> None:
    """Every IS [NOT] DISTINCT FROM among the tokens. Raises SyntaxInvalid where its operand goes on
    with a comparison.
    """
    for at, token in enumerate(tokens):
        if token.token_type is not TokenType.IS:
            continue
        plain = kind_at(tokens, at + 1) is not TokenType.NOT
        words = at + 1 if plain else at + 2
        if (kind_at(tokens, words), kind_at(tokens, words + 1)) != (
            TokenType.DISTINCT,
            TokenType.FROM,
        ):
            continue
        add(splices, token.start, tokens[words + 1].end, "<=>")
        end = min(_operand(tokens, words + 2), len(tokens))
        if kind_at(tokens, end) in _TIGHTER:
            raise error_at(tokens[end], "comparisons in a row: put one in parentheses")
        if plain:
            add_after(splices, tokens[end - 1].start, token.start, "IS FALSE")


def kind_at(tokens: Sequence[Token], at: int) -> TokenType | None:
    return tokens[at].token_type if at < len(tokens) else None


def word_at(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].text.upper() if at < len(tokens) else ""


def _operand(tokens: Sequence[Token], at: int) -> int:
    """The index after an operand that begins at `at`: all that binds tighter than a comparison."""
    while True:
        while kind_at(tokens, at) in _SIGNS:
            at += 1
        at = _postfixes(tokens, _primary(tokens, at))
        if kind_at(tokens, at) not in _BINARY:
            return at
        at += 1


def _primary(tokens: Sequence[Token], at: int) -> int:
    match kind_at(tokens, at):
        case TokenType.L_PAREN | TokenType.L_BRACKET:
            return closed(tokens, at)
        case TokenType.CASE:
            return ended(tokens, at)
        case TokenType.PARAMETER:
            return at + 2
        case TokenType.INTERVAL:
            return at + 3 if word_at(tokens, at + 2) in UNITS else at + 2
        case _:
            pass
    at += 1
    while kind_at(tokens, at) is TokenType.DOT:
        at += 2
    if kind_at(tokens, at) is TokenType.STRING:
        return at + 1  # DATE '2026-01-01'
    while kind_at(tokens, at) is TokenType.L_PAREN:
        at = closed(tokens, at)
        while word_at(tokens, at) in AFTER_CALL and kind_at(tokens, at) is not TokenType.GROUP_BY:
            at += 1
    return at


def _postfixes(tokens: Sequence[Token], at: int) -> int:
    while True:
        match kind_at(tokens, at):
            case TokenType.DCOLON:
                at += 2
                while word_at(tokens, at) in OF_TYPE:
                    at += 1
                if kind_at(tokens, at) is TokenType.L_PAREN:
                    at = closed(tokens, at)
            case TokenType.L_BRACKET:
                at = closed(tokens, at)
            case _ if [word_at(tokens, at + n) for n in range(3)] == ["AT", "TIME", "ZONE"]:
                at = _primary(tokens, at + 3)
            case _:
                return at


def closed(tokens: Sequence[Token], at: int) -> int:
    """The index after the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        kind = tokens[at].token_type
        depth += (kind in _OPENING) - (kind in _OPENING.values())
        at += 1
        if depth == 0:
            break
    return at


def ended(tokens: Sequence[Token], at: int) -> int:
    """The index after the END of the CASE at `at`."""
    depth = 0
    while at < len(tokens):
        kind = tokens[at].token_type
        depth += (kind is TokenType.CASE) - (kind is TokenType.END)
        at += 1
        if depth == 0:
            break
    return at
