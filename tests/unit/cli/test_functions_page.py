"""The page of functions is what the command prints, and what it names is read."""

from __future__ import annotations

from pathlib import Path

from kalamdb.cli import functions_page
from kalamdb.errors import InvalidInput
from kalamdb.query.engine import functions
from kalamdb.sql.parse import parse

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/functions.md"


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == functions_page.page(), (
        "run: .venv/bin/kalam functions > docs/reference/functions.md"
    )


ARGUMENTS = ("", "a", "a, b", "a, b, c", "a IN b", "a PLACING b FROM 1")


def is_read(sql: str) -> bool:
    try:
        parse(sql)
    except InvalidInput:
        return False
    return True


def test_every_function_of_the_page_is_read_with_some_arguments() -> None:
    names = {function.name for function in functions()} - functions_page.INTERNAL
    assert len(names) > 200
    for name in sorted(names):
        assert any(is_read(f"SELECT {name}({given}) FROM t") for given in ARGUMENTS), name
