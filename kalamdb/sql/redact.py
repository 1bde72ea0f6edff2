# pyright: basic
"""A statement as operators may read it: without its literals, which are somebody's data."""

from __future__ import annotations

from functools import lru_cache

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import KalamError
from kalamdb.sql.dialect import tokenize

LENGTH_MAX = 2_000
AGAIN_LENGTH_MAX = 1_000
AGAIN_MAX = 16_384
_LITERALS = {TokenType.STRING, TokenType.NUMBER, TokenType.BYTE_STRING, TokenType.HEX_STRING}


def redacted(text: str) -> str:
    """`?` for each text and number, parameters as they are; cut to `LENGTH_MAX` characters."""
    # What is beyond the cut is not read, so a literal there may stand open: then nothing is shown.
    begin = text[: 4 * LENGTH_MAX]
    if len(begin) < len(text):
        begin = begin.rpartition(" ")[0]
    try:
        tokens = tokenize(begin)
    except KalamError:
        return "(a long statement)"
    shown, end, after_sign = "", 0, False
    for token in tokens:
        hidden = token.token_type in _LITERALS and not after_sign
        gap = " " if shown and token.start > end else ""
        shown += gap + ("?" if hidden else begin[token.start : token.end + 1])
        end = token.end + 1
        after_sign = token.token_type is TokenType.PARAMETER
    return shown if len(shown) <= LENGTH_MAX else shown[:LENGTH_MAX] + "…"


def redacted_again(text: str) -> str:
    """`redacted` for texts that are shown over and over; short ones are remembered."""
    return _remembered(text) if len(text) <= AGAIN_LENGTH_MAX else redacted(text)


@lru_cache(AGAIN_MAX)
def _remembered(text: str) -> str:
    return redacted(text)
