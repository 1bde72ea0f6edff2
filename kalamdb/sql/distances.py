# pyright: basic
"""Distances of vectors: COSINE_DISTANCE, L2_DISTANCE, INNER_PRODUCT and the operators of pgvector.

    a <=> b     COSINE_DISTANCE(a, b)    1 - cosine, 0 to 2; 1 where a vector is all zeros
    a <-> b     L2_DISTANCE(a, b)
    a <#> b     -INNER_PRODUCT(a, b)     so that the nearest comes first

A vector is an EMBEDDING column, an array parameter, a JSON array as text, or a list of numbers.
What is written out is read here and reaches the engine as one text, of which it makes one list per
query.

Keeps: NULL in a column gives NULL; a NULL, empty or broken vector that is written out or sent is an
error, as two vectors of different lengths are (the engine's own, see `query/refusals.py`). The
operators bind tighter here than in PostgreSQL, so beside arithmetic they need parentheses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidParameter, InvalidStatement, UnreadableText
from kalamdb.model.types import EMBEDDING_SIZE_MAX
from kalamdb.model.values import shown
from kalamdb.sql.bound import Env
from kalamdb.sql.dialect import error_at
from kalamdb.sql.literals import text_literal
from kalamdb.sql.operands import parameter
from kalamdb.sql.output_names import own_names
from kalamdb.sql.render import Dynamic, Piece, Splices, Text, add, text_of
from kalamdb.sql.syntax import Fragment, parameter_index

_L2, _PRODUCT = "array_distance({a}, {b})", "inner_product({a}, {b})"
# The engine's cosine of a vector of zeros is NULL, and may be a hair below 0.
_COSINE = (
    "arrow_cast(abs(coalesce(cosine_distance({a}, {b}), inner_product({a}, {b}) * 0.0 + 1.0)),"
    " 'Float32')"
)
FUNCTIONS = {"cosine_distance": _COSINE, "l2_distance": _L2, "inner_product": _PRODUCT}
_OPERATORS = {
    "<=>": ("COSINE_DISTANCE", _COSINE),
    "<->": ("L2_DISTANCE", _L2),
    "<#>": ("-INNER_PRODUCT", f"(0.0 - {_PRODUCT})"),
}
_NAMES = {TokenType.VAR, TokenType.IDENTIFIER}
_CLOSES = {TokenType.R_PAREN: TokenType.L_PAREN, TokenType.R_BRACKET: TokenType.L_BRACKET}
_OPENS = {opening: closing for closing, opening in _CLOSES.items()}
_NEIGHBOURS = {
    TokenType.PLUS,
    TokenType.DASH,
    TokenType.STAR,
    TokenType.SLASH,
    TokenType.MOD,
    TokenType.DPIPE,
    TokenType.AMP,
    TokenType.PIPE,
    TokenType.HASH,
    TokenType.TILDE,
    TokenType.RLIKE,
    TokenType.IRLIKE,
    TokenType.LR_ARROW,
    TokenType.DCOLON,
    TokenType.DOT,
    TokenType.L_BRACKET,
}
"""Operators that may not stand beside one of a distance without parentheses."""


class _NoVector(Exception):
    """Why a value is no vector."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A distance among the tokens: what it spans, and the tokens of its two vectors."""

    start: int
    end: int
    form: str
    vectors: tuple[Sequence[Token], Sequence[Token]]


def splice_distances(splices: Splices, fragment: Fragment) -> None:
    """Every distance of a fragment, after all that is inside of one was spliced.

    Raises SyntaxInvalid, InvalidStatement, UnreadableText; the made text InvalidParameter.
    """
    uses = sorted(_uses(fragment.tokens), key=lambda use: use.start, reverse=True)
    if not uses:
        return
    kept_names = own_names(fragment.tree)
    for use in uses:  # inner ones begin later
        a, b = (
            _operand(vector, fragment, splices, kept_names=kept_names) for vector in use.vectors
        )
        first, last = fragment.tokens[use.start], fragment.tokens[use.end - 1]
        add(splices, first.start, last.end, _filled(use.form, a, b))


def _operand(
    tokens: Sequence[Token], fragment: Fragment, splices: Splices, *, kept_names: frozenset[str]
) -> Piece:
    written = _written(tokens)
    if written is not None:
        return written
    return _piece(text_of(tokens, fragment.text, splices, kept_names=kept_names))


def _piece(text: Text) -> Piece:
    if all(isinstance(piece, str) for piece in text.pieces):
        return text.shown
    return Dynamic(text.shown, text.render)


def _filled(form: str, a: Piece, b: Piece) -> Piece:
    if isinstance(a, str) and isinstance(b, str):
        return form.format(a=a, b=b)

    def made(piece: Piece, env: Env) -> str:
        return piece if isinstance(piece, str) else piece.make(env)

    said = [piece if isinstance(piece, str) else piece.shown for piece in (a, b)]
    return Dynamic(
        form.format(a=said[0], b=said[1]),
        lambda env: form.format(a=made(a, env), b=made(b, env)),
    )


# ---- vectors that are written out or sent --------------------------------------------------------


def _written(tokens: Sequence[Token]) -> Piece | None:
    """The literal that a vector becomes; None for an expression the engine computes."""
    tokens = _untyped(tokens)
    kinds = [token.token_type for token in tokens]
    try:
        if kinds == [TokenType.NULL]:
            raise _NoVector("it is NULL")
        if kinds == [TokenType.STRING]:
            return _literal(_numbers(tokens[0].text))
        if kinds[:2] == [TokenType.ARRAY, TokenType.L_BRACKET]:
            found = _listed(tokens[2:-1])
            return None if found is None else _literal(found)
    except _NoVector as error:
        raise UnreadableText(f"a vector cannot be read: {error}") from error
    if kinds == [TokenType.PARAMETER, TokenType.NUMBER]:
        index = parameter_index(tokens[0], tokens[1])
        return Dynamic(f"${index + 1}", lambda env: _sent(env, index))
    return None


def _untyped(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without the `::vector(3)` or `::embedding(3)` that pgvector's programs write."""
    for at, token in enumerate(tokens[:3]):
        if token.token_type is TokenType.DCOLON:
            rest = tokens[at + 1 :]
            is_vector = bool(rest) and rest[0].text.lower() in ("vector", "embedding")
            return tokens[:at] if is_vector and len(rest) in (1, 4) else tokens
    return tokens


def _sent(env: Env, index: int) -> str:
    value = parameter(env, index)
    try:
        if value is None:
            raise _NoVector("it is NULL")
        return _literal(_numbers(value))
    except _NoVector as error:
        raise InvalidParameter(index + 1, f"no vector: {error}") from error


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise _NoVector(f"{shown(value)!r} is no JSON array") from None
    if not isinstance(value, list):
        raise _NoVector(f"{shown(value)} is no array")
    for element in value:
        if type(element) not in (int, float):
            raise _NoVector("every element must be a number")
    return value


def _listed(tokens: Sequence[Token]) -> list[float] | None:
    """The numbers of `ARRAY[1, -2.5]`; None where something else stands in it."""
    found: list[float] = []
    entry: list[Token] = []
    for token in (*tokens, None):
        if token is not None and token.token_type is not TokenType.COMMA:
            entry.append(token)
            continue
        kinds = [part.token_type for part in entry]
        if kinds == [TokenType.NULL]:
            raise _NoVector("every element must be a number")
        if kinds not in ([TokenType.NUMBER], [TokenType.DASH, TokenType.NUMBER]):
            return [] if not tokens else None
        found.append(float(entry[-1].text) * (1 if len(entry) == 1 else -1))
        entry = []
    return found


def _literal(numbers: Sequence[float]) -> str:
    """One text, since the engine takes long for thousands of literals."""
    if not 1 <= len(numbers) <= EMBEDDING_SIZE_MAX:
        raise _NoVector(f"it has {len(numbers)} dimensions, not 1 to {EMBEDDING_SIZE_MAX}")
    try:
        floats = [float(number) for number in numbers]
    except OverflowError:
        raise _NoVector("an element is not finite") from None
    if not all(map(math.isfinite, floats)):
        raise _NoVector("an element is not finite")
    texts = text_literal(",".join(map(repr, floats)))
    return f"arrow_cast(string_to_array({texts}, ','), 'List(Float32)')"


# ---- where they are ------------------------------------------------------------------------------


def _uses(tokens: Sequence[Token]) -> Iterator[_Use]:
    for at, token in enumerate(tokens):
        if token.token_type is TokenType.LR_ARROW:
            yield _of_operator(tokens, at)
        elif token.token_type is TokenType.VAR and _kind(tokens, at + 1) is TokenType.L_PAREN:
            form = FUNCTIONS.get(token.text.lower())
            if form is not None and _kind(tokens, at - 1) is not TokenType.DOT:
                yield _of_call(tokens, at, form)


def _of_call(tokens: Sequence[Token], at: int, form: str) -> _Use:
    end = _closed(tokens, at + 1)
    arguments: list[list[Token]] = [[]]
    depth = 0
    for token in tokens[at + 2 : end - 1]:
        depth += (token.token_type in _OPENS) - (token.token_type in _CLOSES)
        if depth == 0 and token.token_type is TokenType.COMMA:
            arguments.append([])
        else:
            arguments[-1].append(token)
    if len(arguments) != 2 or not all(arguments):
        raise InvalidStatement(f"{tokens[at].text.upper()} takes two vectors")
    return _Use(at, end, form, (arguments[0], arguments[1]))


def _of_operator(tokens: Sequence[Token], at: int) -> _Use:
    sign = tokens[at]
    function, form = _OPERATORS[sign.text]
    start, end = _before(tokens, at), _behind(tokens, at + 1)
    around = (_kind(tokens, start - 1), _kind(tokens, end))
    if start == at or end == at + 1 or _NEIGHBOURS.intersection(around):
        raise error_at(
            sign, f"put the vectors of {sign.text}, and it, in parentheses, or write {function}(…)"
        )
    return _Use(start, end, form, (tokens[start:at], tokens[at + 1 : end]))


def _kind(tokens: Sequence[Token], at: int) -> TokenType | None:
    return tokens[at].token_type if 0 <= at < len(tokens) else None


def _before(tokens: Sequence[Token], end: int) -> int:
    """Where the vector begins that ends before `end`; `end` when none does."""
    match _kind(tokens, end - 1):
        case TokenType.STRING | TokenType.NULL:
            return end - 1
        case TokenType.NUMBER if _kind(tokens, end - 2) is TokenType.PARAMETER:
            return end - 2
        case TokenType.R_PAREN | TokenType.R_BRACKET:
            at = _opened(tokens, end - 1)
            called = _kind(tokens, at - 1) in (*_NAMES, TokenType.ARRAY)
            return at - 1 if called else at
        case kind if kind in _NAMES:
            at = end - 1
            while _kind(tokens, at - 1) is TokenType.DOT and _kind(tokens, at - 2) in _NAMES:
                at -= 2
            return at
        case _:
            return end


def _behind(tokens: Sequence[Token], start: int) -> int:
    """Where the vector ends that begins at `start`; `start` when none does."""
    at = start
    match _kind(tokens, start):
        case TokenType.STRING | TokenType.NULL:
            at = start + 1
        case TokenType.PARAMETER:
            at = start + 2
        case TokenType.L_PAREN:
            at = _closed(tokens, start)
        case TokenType.ARRAY if _kind(tokens, start + 1) is TokenType.L_BRACKET:
            at = _closed(tokens, start + 1)
        case kind if kind in _NAMES:
            at = start + 1
            while _kind(tokens, at) is TokenType.DOT and _kind(tokens, at + 1) in _NAMES:
                at += 2
            if _kind(tokens, at) is TokenType.L_PAREN:
                at = _closed(tokens, at)
        case _:
            return start
    if _kind(tokens, at) is TokenType.DCOLON:
        at = min(at + 2, len(tokens))
        if _kind(tokens, at) is TokenType.L_PAREN:
            at = _closed(tokens, at)
    return at


def _closed(tokens: Sequence[Token], at: int) -> int:
    """The index after the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        kind = tokens[at].token_type
        depth += (kind in _OPENS) - (kind in _CLOSES)
        at += 1
        if depth == 0:
            break
    return at


def _opened(tokens: Sequence[Token], at: int) -> int:
    """The index of the bracket that the one at `at` closes."""
    depth = 0
    while at >= 0:
        kind = tokens[at].token_type
        depth += (kind in _CLOSES) - (kind in _OPENS)
        if depth == 0:
            break
        at -= 1
    return max(at, 0)
