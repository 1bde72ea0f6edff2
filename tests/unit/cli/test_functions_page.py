"""The page of functions is what the command prints, and what it names is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalamdb.cli import functions_page
from kalamdb.errors import InvalidInput, Unsupported
from kalamdb.query.engine import functions
from kalamdb.sql.parse import parse
from kalamdb.sql.unsupported import FUNCTIONS as UNSUPPORTED

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/functions.md"


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == functions_page.page(), (
        "run: .venv/bin/kalam functions > docs/reference/functions.md"
    )


def test_what_speaks_of_the_engine_is_refused() -> None:
    for name in sorted(UNSUPPORTED):
        for called in (name, name.upper(), f'"{name}"'):
            with pytest.raises(Unsupported, match=rf"function {name}\(\)"):
                parse(f"SELECT id, 1 + {called}(id, 'Int8') FROM t")


ARGUMENTS = ("", "a", "a, b", "a, b, c", "a IN b", "a PLACING b FROM 1")


def is_read(sql: str) -> bool:
    try:
        parse(sql)
    except InvalidInput:
        return False
    return True


def test_every_function_of_the_page_is_read_with_some_arguments() -> None:
    names = {function.name for function in functions()} - functions_page.NOT_SHOWN
    assert len(names) > 200
    assert functions_page.NOT_SHOWN - {function.name for function in functions()} == {"l2_distance"}
    for name in sorted(names):
        assert any(is_read(f"SELECT {name}({given}) FROM t") for given in ARGUMENTS), name
