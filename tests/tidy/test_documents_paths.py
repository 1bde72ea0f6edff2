"""What documents point at exists: files, names in them, other documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# `kalamdb/store/hot.py`, `tests/sim`, `kalamdb/feed/hub.py::Hub.join`
_PATH = re.compile(
    r"(?<![\w./-])((?:kalamdb|cluster|tests|benchmarks)/[\w./-]*[\w-])(?:::([\w.]+\w))?"
)
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def missing_paths(page: str) -> Iterator[str]:
    """Which repository paths of a page, and which names behind `::`, are not there?"""
    for path, name in _PATH.findall(page):
        file = ROOT / path
        if not file.exists():
            yield f"{path} does not exist"
        elif name and name not in defined(file):
            yield f"{path} defines no {name}"


def missing_links(page: str, folder: Path) -> Iterator[str]:
    for target in _LINK.findall(page):
        if not (folder / target).exists():
            yield f"link to {target}, which does not exist"


@cache
def defined(file: Path) -> frozenset[str]:
    """Classes and functions of a module, and methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [
                part.name
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            found.update(f"{node.name}.{name}" for name in inner)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_at_exists(page: Path) -> None:
    text = page.read_text()
    found = [*missing_paths(text), *missing_links(text, page.parent)]
    assert not found, "\n" + "\n".join(found)


def test_the_walk_names_code() -> None:
    walk = [page for page in PAGES if page.parent.name == "walk"]
    assert len(walk) >= 4
    for page in walk:
        assert len([name for _, name in _PATH.findall(page.read_text()) if name]) >= 5


def test_the_rules_find_something() -> None:
    assert list(missing_paths("see `kalamdb/store/nothing.py`"))
    assert list(missing_paths("`kalamdb/store/kv.py::NoSuchName` is")) == [
        "kalamdb/store/kv.py defines no NoSuchName"
    ]
    assert list(missing_links("[x](no-such.md#part)", ROOT / "docs"))
    assert not list(missing_paths("GET http://tests/x and `tests/sim`."))
