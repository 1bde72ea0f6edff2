"""Options of the tests with real processes."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--save-screenshots",
        action="store_true",
        help="tests/e2e/test_page.py writes the pictures of docs/",
    )
