# pyright: basic
"""What INSERT, UPDATE, DELETE and SELECT say, as data: trees of expressions with the tokens they
came from.

The tokens stay because the query engine reads text, and text is made from them (`render.py`): the
engine gets what the user wrote, not one library's idea of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.sql.dialect import error_at
from kalamdb.sql.statement import TableName

NUMBER_LENGTH_MAX = 400
PARAMETER_MAX = 65_535


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """An expression or a query: its tree, its tokens, the text they point into."""

    tree: exp.Expr
    tokens: tuple[Token, ...]
    text: str

    @property
    def source(self) -> str:
        """The fragment as written."""
        return self.text[self.tokens[0].start : self.tokens[-1].end + 1]


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: None, bool, int, Decimal or str."""

    value: Any


@dataclass(frozen=True, slots=True)
class Param:
    """`$n`; `index` counts from 0."""

    index: int


@dataclass(frozen=True, slots=True)
class DefaultWord:
    """The word DEFAULT in VALUES or SET."""


Item = Constant | Param | DefaultWord | Fragment
"""A value of INSERT or SET."""


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """One entry of RETURNING; `item` None is `*`."""

    item: Fragment | None
    alias: str | None


@dataclass(frozen=True, slots=True, eq=False)
class ConflictSyntax:
    """ON CONFLICT; `columns` None means no target, `assignments` None means DO NOTHING."""

    columns: tuple[str, ...] | None
    constraint: str | None
    assignments: tuple[tuple[str, Item], ...] | None
    where: Fragment | None


@dataclass(frozen=True, slots=True, eq=False)
class InsertSyntax:
    """`rows` (VALUES) or `query` (SELECT) or neither (DEFAULT VALUES)."""

    table: TableName
    alias: str | None
    columns: tuple[str, ...] | None
    rows: tuple[tuple[Item, ...], ...] | None
    query: Fragment | None
    conflict: ConflictSyntax | None
    returning: tuple[Output, ...] | None
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class UpdateSyntax:
    table: TableName
    alias: str | None
    assignments: tuple[tuple[str, Item], ...]
    where: Fragment | None
    returning: tuple[Output, ...] | None
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class DeleteSyntax:
    table: TableName
    alias: str | None
    where: Fragment | None
    returning: tuple[Output, ...] | None
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class QuerySyntax:
    """A query; `outputs` are the texts of the items of its (first) SELECT list, in order."""

    query: Fragment
    parameters: int


def number(token: Token) -> int | Decimal:
    """The exact value of a number token."""
    text = token.text.replace("_", "")
    if len(text) > NUMBER_LENGTH_MAX:
        raise error_at(token, f"a number has at most {NUMBER_LENGTH_MAX} characters")
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise error_at(token, f"{text[:40]!r} is no number") from None
    if value.is_finite() and -NUMBER_LENGTH_MAX < value.adjusted() < NUMBER_LENGTH_MAX:
        return value
    raise error_at(token, "the number is out of range")


def parameter_index(sign: Token, name: Token | None) -> int:
    """0-based index of `$n` from its two tokens."""
    if (
        name is None
        or name.token_type is not TokenType.NUMBER
        or name.start != sign.end + 1
        or not name.text.isdecimal()
    ):
        raise error_at(sign, "a parameter is $ and a number: $1, $2, …")
    if not 1 <= len(name.text) <= 5 or not 1 <= int(name.text) <= PARAMETER_MAX:
        raise error_at(sign, f"parameters are numbered from $1 to ${PARAMETER_MAX}")
    return int(name.text) - 1


def count_parameters(tokens: Sequence[Token]) -> int:
    """The highest `$n` among the tokens, 0 without any. Raises SyntaxInvalid for a `$` that is
    none.
    """
    highest = 0
    for at, token in enumerate(tokens):
        if token.token_type is TokenType.PARAMETER:
            name = tokens[at + 1] if at + 1 < len(tokens) else None
            highest = max(highest, parameter_index(token, name) + 1)
    return highest
