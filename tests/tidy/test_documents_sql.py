"""The SQL of the reference: what it shows parses, what it calls refused is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kalamdb.errors import InvalidInput, Unsupported
from kalamdb.sql.parse import parse

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/sql.md"
_BLOCK = re.compile(r"^```sql([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(mark: str) -> list[str]:
    """The SQL blocks whose first line is "```sql" and `mark`."""
    return [text for word, text in _BLOCK.findall(PAGE.read_text()) if word.strip() == mark]


def refused() -> list[str]:
    """One statement a line, so that each is seen to be refused by itself."""
    return [line for text in blocks("refused") for line in text.splitlines() if line.strip()]


def test_every_block_is_looked_at() -> None:
    marks = {word.strip() for word, _ in _BLOCK.findall(PAGE.read_text())}
    assert marks == {"", "refused"}


@pytest.mark.parametrize("text", blocks(""))
def test_shown_statements_parse(text: str) -> None:
    assert len(parse(text)) > 1


@pytest.mark.parametrize("statement", refused())
def test_refused_statements_are_refused_by_name(statement: str) -> None:
    with pytest.raises(InvalidInput) as fault:
        parse(statement)
    assert isinstance(fault.value, Unsupported), f"{type(fault.value).__name__}: {fault.value}"
