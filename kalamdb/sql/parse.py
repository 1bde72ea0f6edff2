# pyright: basic
"""Text → statements: the only door to SQL text.

1. limits on the text, 2. tokens, 3. cut at semicolons, 4. the grammar, once per statement. A text
that was read before comes from a cache bounded by count and bytes, so repeated statements cost one
dictionary look-up.

Keeps: a bad statement anywhere refuses the whole text before anything runs; every refusal is of the
error tree, whatever the text holds.
"""

from __future__ import annotations

from collections import OrderedDict

from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import EmptySql, KalamError, LimitReached, SyntaxInvalid, TextTooLong
from kalamdb.sql.dialect import tokenize
from kalamdb.sql.grammar import read_statement
from kalamdb.sql.statement import Statement

TEXT_MAX_BYTES = 1 << 20
STATEMENTS_MAX = 1000


class StatementCache:
    """Statements by text; the least recently used leave first. Trees take some 100 bytes per
    character.
    """

    def __init__(self, entries_max: int, text_max: int, total_max: int) -> None:
        self._entries: OrderedDict[str, tuple[Statement, ...]] = OrderedDict()
        self._entries_max = entries_max
        self._text_max = text_max
        self._total_max = total_max
        self.characters = 0

    def get(self, text: str) -> tuple[Statement, ...] | None:
        found = self._entries.get(text)
        if found is not None:
            self._entries.move_to_end(text)
        return found

    def put(self, text: str, statements: tuple[Statement, ...]) -> None:
        if len(text) > self._text_max or text in self._entries:
            return
        self._entries[text] = statements
        self.characters += len(text)
        while len(self._entries) > self._entries_max or self.characters > self._total_max:
            dropped, _ = self._entries.popitem(last=False)
            self.characters -= len(dropped)

    def __len__(self) -> int:
        return len(self._entries)


_CACHE = StatementCache(entries_max=2000, text_max=16_384, total_max=512 * 1024)


def parse(text: str) -> tuple[Statement, ...]:
    """The statements of a text, at least one.

    Raises EmptySql, BatchInvalid (quotes), SyntaxInvalid, Unsupported, TextTooLong,
    LimitReached, InvalidDefinition, InvalidStatement; in a text of several statements the error
    carries `statement`.
    """
    found = _CACHE.get(text)
    if found is None:
        found = _read(text)
        _CACHE.put(text, found)
    return found


def _read(text: str) -> tuple[Statement, ...]:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_MAX_BYTES:
        raise TextTooLong(size, TEXT_MAX_BYTES)
    parts = split(tokenize(text))
    if not parts:
        raise EmptySql()
    if len(parts) > STATEMENTS_MAX:
        raise LimitReached("statements in one request", f"{len(parts)}, at most {STATEMENTS_MAX}")
    statements: list[Statement] = []
    for number, tokens in enumerate(parts, 1):
        try:
            statements.append(read_statement(tokens, text))
        except KalamError as error:
            if len(parts) > 1:
                error.__dict__["statement"] = number
            raise
        except RecursionError as error:
            raise SyntaxInvalid("nested too deeply", tokens[0].line, tokens[0].col) from error
    return tuple(statements)


def split(tokens: list[Token]) -> list[list[Token]]:
    """The tokens of each statement; empty statements are left out."""
    parts: list[list[Token]] = []
    start = 0
    for at, token in enumerate(tokens):
        if token.token_type is TokenType.SEMICOLON:
            if at > start:
                parts.append(tokens[start:at])
            start = at + 1
    if start < len(tokens):
        parts.append(tokens[start:])
    return parts
