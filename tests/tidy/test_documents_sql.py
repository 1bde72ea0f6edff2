"""The SQL of the reference: what it shows parses, what it calls refused is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kalamdb.errors import InvalidInput, Unsupported
from kalamdb.sql.functions import FUNCTIONS
from kalamdb.sql.parse import parse
from kalamdb.sql.table_options import OPTIONS
from kalamdb.sql.type_names import KIND_OF
from kalamdb.sql.virtual import VIRTUAL_TABLES
from tests.tidy.documents import missing_words

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


def test_every_type_option_and_compiled_function_is_on_the_page() -> None:
    page = PAGE.read_text()
    functions = [kind.sql_names()[0] for kind in FUNCTIONS]
    found = missing_words([*KIND_OF, *OPTIONS, *functions], page, "docs/reference/sql.md")
    assert not list(found)


def test_every_system_table_is_on_its_page_with_its_columns() -> None:
    page = (PAGE.parent / "system-tables.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE))
    for (namespace, name), table in VIRTUAL_TABLES.items():
        assert f"`{name}`" in page
        if namespace == "system":
            listed = re.sub(r" \([^)]*\)", "", rows[name]).split(", ")
            assert listed == [column.name for column in table.columns]
