"""Every golden script, played. `pytest tests/golden --bless` rewrites them; read the diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.runner import play, read, write

SCRIPTS = sorted(Path(__file__).parent.rglob("*.script"))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 8


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    said, happened = await play(path, bless=bool(request.config.getoption("bless")))
    assert happened.splitlines() == said.splitlines()


def test_reading_and_writing_is_the_same_script() -> None:
    text = "# prose\n\n> a: SELECT 1\n> with [1]\n---\nok\n\nmore\n\n> b: x\n---\nok\n"
    assert write(*read(text)) == text
