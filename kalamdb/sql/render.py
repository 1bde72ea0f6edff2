# pyright: basic
"""Text for the query engine, made of the tokens the user wrote.

What the engine cannot know is replaced token by token: stored tables by their aliases, parameters
by literals, NOW() and CURRENT_USER by what they are for this statement, literals beside columns by
literals of the column's type. Everything else passes as it was written, re-quoted and without
comments, so one lexer's idea of a quote or a comment cannot be used against the other's.

Keeps: a value reaches the text only through `literals`, which quotes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb import VERSION
from kalamdb.errors import SyntaxInvalid, Unsupported
from kalamdb.model.types import ColumnType
from kalamdb.sql.bound import Env
from kalamdb.sql.literals import quoted, text_literal, typed_literal, untyped_literal
from kalamdb.sql.operands import number_value, parameter
from kalamdb.sql.patterns import with_backslash
from kalamdb.sql.syntax import Fragment, parameter_index

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, eq=False)
class Dynamic:
    """A piece that each run makes anew; `shown` stands for it in EXPLAIN."""

    shown: str
    make: Callable[[Env], str]


Piece = str | Dynamic


@dataclass(frozen=True, slots=True)
class Splice:
    """Tokens that begin at offsets `start` to `end` become `piece`."""

    start: int
    end: int
    piece: Piece


class Splices(dict[int, Splice]):
    """By the offset they begin at. `before`, `after`: what stands beside the token that begins at
    an offset, with the offset of what it belongs to.
    """

    __slots__ = ("after", "before")

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, list[tuple[int, Piece]]] = {}
        self.after: dict[int, list[tuple[int, Piece]]] = {}


def add_before(splices: Splices, start: int, owner: int, piece: Piece) -> None:
    """Before the token at `start`, and before what stands there already."""
    splices.before.setdefault(start, []).insert(0, (owner, piece))


def add_after(splices: Splices, start: int, owner: int, piece: Piece) -> None:
    """After the token at `start`, and after what stands there already."""
    splices.after.setdefault(start, []).append((owner, piece))


def add(splices: Splices, start: int, end: int, piece: Piece) -> None:
    splices[start] = Splice(start, end, piece)


def add_whole(splices: Splices, start: int, end: int, piece: Piece) -> None:
    """As `add`, of a piece that has in it what stands beside the tokens it replaces."""
    for placed in (splices.before, splices.after):
        for at in [at for at in placed if start <= at <= end]:
            del placed[at]
    add(splices, start, end, piece)


def identifier_span(node: Any) -> tuple[int, int]:
    """Offsets of the first character of an identifier's token, first and last."""
    start, end = node.meta.get("start"), node.meta.get("end")
    if start is None or end is None:
        raise Unsupported(f"this way of writing {node.name}", None)
    return start, end


# ---- tokens → pieces -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Pieces of a text, ready to be put together for a run."""

    pieces: tuple[Piece, ...]

    def render(self, env: Env) -> str:
        return " ".join(
            [piece if isinstance(piece, str) else piece.make(env) for piece in self.pieces]
        )

    @property
    def shown(self) -> str:
        shown = [piece if isinstance(piece, str) else piece.shown for piece in self.pieces]
        return " ".join([text for text in shown if text])


def text_of(
    tokens: Sequence[Token],
    text: str,
    splices: Mapping[int, Splice],
    *,
    kept_names: frozenset[str] = frozenset(),
) -> Text:
    """The tokens as text. `kept_names`: quoted names of the query's own, which keep their case."""
    pieces: list[Piece] = []
    before, after = (splices.before, splices.after) if isinstance(splices, Splices) else ({}, {})
    at = followed = 0
    inside = range(0)  # offsets a splice stands for: what belongs to them is in its piece
    while True:
        while followed < at and after:
            pieces.extend(_beside(after, tokens[followed].start, inside))
            followed += 1
        if at >= len(tokens):
            break
        token = tokens[at]
        splice = splices.get(token.start)
        if splice is not None:
            inside = range(splice.start, splice.end + 1)
        if before:
            pieces.extend(_beside(before, token.start, inside))
        if splice is not None:
            pieces.append(splice.piece)
            while at < len(tokens) and tokens[at].start <= splice.end:
                at += 1
            continue
        if token.token_type is TokenType.PARAMETER:
            index = parameter_index(token, tokens[at + 1] if at + 1 < len(tokens) else None)
            pieces.append(_parameter(index))
            at += 2
            continue
        call, width = _session_call(tokens, at)
        if call is not None:
            pieces.append(call)
            at += width
            continue
        pieces.append(token_text(token, text, kept_names))
        at += 1
    return Text(_joined(pieces))


def _beside(
    placed: Mapping[int, Sequence[tuple[int, Piece]]], start: int, inside: range
) -> Iterator[Piece]:
    for owner, piece in placed.get(start, ()):
        if not inside.start < owner < inside.stop:
            yield piece


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbouring texts put together once, so that a run joins few pieces."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] = f"{joined[-1]} {piece}"
        else:
            joined.append(piece)
    return tuple(joined)


def token_text(token: Token, text: str, kept_names: frozenset[str]) -> str:
    match token.token_type:
        case TokenType.STRING | TokenType.BYTE_STRING:
            return text_literal(token.text)
        case TokenType.IDENTIFIER:
            return quoted(token.text if token.text in kept_names else token.text.lower())
        case TokenType.HEX_STRING:
            if len(token.text) % 2 or not all(c in "0123456789abcdefABCDEF" for c in token.text):
                raise SyntaxInvalid("X'…' holds pairs of hexadecimal digits", token.line, None)
            return f"X'{token.text}'"
        case _:
            return text[token.start : token.end + 1]


def canonical(fragment: Fragment) -> str:
    """An expression as normalised text: how a definition keeps it."""
    found = text_of(fragment.tokens, fragment.text, {})
    if not all(isinstance(piece, str) for piece in found.pieces):
        raise Unsupported("parameters in a definition", "write literals")
    return " ".join(str(piece) for piece in found.pieces)


def _parameter(index: int) -> Piece:
    return Dynamic(f"${index + 1}", lambda env: untyped_literal(parameter(env, index), index))


# ---- what differs per statement ------------------------------------------------------------------


def _now(env: Env) -> str:
    return f"arrow_cast({env.now_ms * 1000}, 'Timestamp(Microsecond, None)')"


def _today(env: Env) -> str:
    return f"arrow_cast({env.now_ms // _DAY_MS}, 'Date32')"


def _time(env: Env) -> str:
    return f"arrow_cast({env.now_ms % _DAY_MS * 1000}, 'Time64(Microsecond)')"


def _user(env: Env) -> str:
    return text_literal(str(env.principal.user))


def _role(env: Env) -> str:
    return text_literal(env.principal.role.value)


_NOW = Dynamic("NOW()", _now)
_TODAY = Dynamic("CURRENT_DATE", _today)
_TIME = Dynamic("CURRENT_TIME", _time)
_USER = Dynamic("CURRENT_USER", _user)
_ROLE = Dynamic("CURRENT_ROLE()", _role)

# The engine calls these once per row because they look at a value that differs.
_CALLS: dict[str, Piece] = {
    "NOW": _NOW,
    "CURRENT_TIMESTAMP": _NOW,
    "CURRENT_DATE": _TODAY,
    "CURRENT_TIME": _TIME,
    "CURRENT_USER": _USER,
    "CURRENT_ROLE": _ROLE,
    "SNOWFLAKE_ID": "kalam_snowflake_id(random())",
    "UUID_V7": "kalam_uuid_v7(random())",
    "ULID": "kalam_ulid(random())",
    "VERSION": text_literal(f"KalamDB {VERSION}"),
}
_WORDS: dict[str, Piece] = {
    "CURRENT_TIMESTAMP": _NOW,
    "LOCALTIMESTAMP": _NOW,
    "CURRENT_DATE": _TODAY,
    "CURRENT_TIME": _TIME,
    "LOCALTIME": _TIME,
    "CURRENT_USER": _USER,
}
_NOT_WORDS = {TokenType.STRING, TokenType.IDENTIFIER, TokenType.BYTE_STRING, TokenType.NUMBER}


def _session_call(tokens: Sequence[Token], at: int) -> tuple[Piece | None, int]:
    """What a call such as NOW() or a word such as CURRENT_USER becomes, and how many tokens it
    takes.
    """
    token = tokens[at]
    if token.token_type in _NOT_WORDS:
        return None, 0
    word = token.text.upper()
    if word not in _CALLS and word not in _WORDS:
        return None, 0
    before = tokens[at - 1].token_type if at else None
    if before in (TokenType.DOT, TokenType.ALIAS):
        return None, 0
    following = [found.token_type for found in tokens[at + 1 : at + 3]]
    if following == [TokenType.L_PAREN, TokenType.R_PAREN] and word in _CALLS:
        return _CALLS[word], 3
    if following[:1] != [TokenType.L_PAREN] and word in _WORDS:
        return _WORDS[word], 1
    return None, 0


# ---- literals with a type ------------------------------------------------------------------------


def splice_typed(splices: Splices, node: Any, column_type: ColumnType) -> None:
    """A literal or parameter becomes a literal of `column_type`."""
    while isinstance(node, (exp.Paren, exp.Neg)):
        node = node.this
    match node:
        case exp.Literal():
            start, end = node.meta.get("start"), node.meta.get("end")
            if start is None or end is None:
                return
            value = node.this if node.is_string else number_value(node.this)
            rendered = typed_literal(value, column_type)
            if rendered is not None:
                add(splices, start, end, rendered)
        case exp.Parameter():
            inner = node.this
            start, end = inner.meta.get("start"), inner.meta.get("end")
            if start is None or end is None:
                return
            index = int(inner.this) - 1
            add(splices, start - 1, end, _typed_parameter(index, column_type))
        case _:
            pass


def _typed_parameter(index: int, column_type: ColumnType) -> Piece:
    def piece(env: Env) -> str:
        value = parameter(env, index)
        if value is None:
            return "NULL"
        rendered = typed_literal(value, column_type, index)
        return untyped_literal(value, index) if rendered is None else f"({rendered})"

    return Dynamic(f"${index + 1}", piece)


def splice_escape(splices: Splices, node: exp.Escape, tokens: Sequence[Token]) -> None:
    """LIKE … ESCAPE 'x' becomes LIKE with a backslash, the only escape the engine knows."""
    like, escape = node.this, node.expression
    if not isinstance(like, (exp.Like, exp.ILike)) or not isinstance(escape, exp.Literal):
        raise Unsupported("this ESCAPE", "write LIKE pattern ESCAPE 'x'")
    character = str(escape.this)
    if len(character) > 1 or not escape.is_string:
        raise Unsupported("ESCAPE with more than one character", None)
    end = escape.meta["end"]
    word = next(
        at for at, token in enumerate(tokens) if token.start == escape.meta["start"]
    )  # the word ESCAPE stands before its text
    add(splices, tokens[word - 1].start, end, "")
    pattern = like.expression
    if isinstance(pattern, exp.Literal) and pattern.is_string:
        changed = with_backslash(pattern.this, character or None)
        add(splices, pattern.meta["start"], pattern.meta["end"], text_literal(changed))
    elif isinstance(pattern, exp.Parameter):
        inner = pattern.this
        index = int(inner.this) - 1
        add(
            splices,
            inner.meta["start"] - 1,
            inner.meta["end"],
            Dynamic(
                f"${index + 1}",
                lambda env: _pattern(parameter(env, index), character or None, index),
            ),
        )
    else:
        raise Unsupported("ESCAPE with a pattern that is no literal or parameter", None)


def _pattern(value: Any, escape: str | None, index: int) -> str:
    if isinstance(value, str):
        return text_literal(with_backslash(value, escape))
    return untyped_literal(value, index)
