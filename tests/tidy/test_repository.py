"""The rules of this folder, run over this repository."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.tidy import documents, source

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("kalamdb/", "cluster/")
UNTRACKED_DIRECTORIES = {".git", ".venv", "__pycache__", "data", "node_modules"}


@cache
def committed() -> tuple[str, ...]:
    """Paths of all files git keeps or would keep; without git, all but the usual leftovers."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        names = listing.stdout.splitlines()
        return tuple(name for name in sorted(names) if (ROOT / name).is_file())
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return tuple(sorted(str(path) for path in found if not UNTRACKED_DIRECTORIES & set(path.parts)))


@cache
def read(path: str) -> str:
    """The text of a file; empty when it is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def modules(*folders: str) -> list[str]:
    return [path for path in committed() if path.endswith(".py") and path.startswith(folders)]


def findings(rule: Callable[[str, str], Iterator[str]], paths: Iterable[str]) -> list[str]:
    return [found for path in paths for found in rule(path, read(path))]


def none_of(found: Iterable[str]) -> None:
    listed = list(found)
    assert not listed, "\n" + "\n".join(listed)


def test_there_are_files_to_check() -> None:
    assert len(modules(*PRODUCT)) > 20


@pytest.mark.parametrize(
    "rule",
    [source.file_size, source.function_shape, source.module_docstring],
    ids=lambda rule: rule.__name__,
)
def test_shape_of_product_code(rule: Callable[[str, str], Iterator[str]]) -> None:
    none_of(findings(rule, modules(*PRODUCT)))


def test_exceptions_to_sizes_still_exist() -> None:
    for name in source.LONGER:
        path, _, function = name.partition("::")
        assert path in committed(), f"{name} is excepted and gone"
        names = [found for found, _ in source.functions(source.parse(read(path)))]
        assert not function or function in names, f"{name} is excepted and gone"


def test_modules_are_named_for_nouns() -> None:
    none_of(found for path in modules("") for found in source.drawer_name(path))


def test_nothing_takes_an_object_that_has_everything() -> None:
    inner = [path for path in modules(*PRODUCT) if not path.startswith("kalamdb/edge/")]
    none_of(findings(source.container_types, inner))


def test_no_marks_of_unfinished_work() -> None:
    none_of(findings(source.marks, committed()))


def test_no_words_of_one_machine() -> None:
    none_of(findings(source.private_words, committed()))


def test_sql_is_read_only_by_the_parser() -> None:
    paths = [path for path in modules(*PRODUCT) if not path.startswith("kalamdb/sql/")]
    none_of(findings(source.sql_read_as_text, paths))


@pytest.mark.parametrize("rule", [source.sleeps, source.dice], ids=lambda rule: rule.__name__)
def test_tests_have_no_sleep_and_no_dice(rule: Callable[[str, str], Iterator[str]]) -> None:
    none_of(findings(rule, modules("tests/")))


def test_decision_records_are_numbered() -> None:
    records = [path for path in committed() if path.startswith("docs/decisions/")]
    none_of(documents.decision_records(Path(path).name for path in records))


@pytest.mark.skipif("kalamdb/config.py" not in committed(), reason="no settings yet")
def test_every_setting_is_documented() -> None:
    none_of(documents.undocumented_settings(importlib.import_module("kalamdb.config").Settings))


def errors() -> list[str]:
    return documents.error_classes(importlib.import_module("kalamdb.errors").KalamError)


def page(path: str) -> str:
    if path not in committed():
        pytest.fail(f"{path} is missing")
    return read(path)


def test_every_error_has_a_fault() -> None:
    rows = documents.names_used(page("kalamdb/edge/faults.py"))
    none_of(f"kalamdb/edge/faults.py: no row for {name}" for name in errors() if name not in rows)


def test_every_error_is_explained() -> None:
    seen = [name for name in errors() if name not in documents.INTERNAL_ERRORS]
    where = "docs/reference/errors.md"
    none_of(documents.missing_words(seen, page(where), where))


def test_every_noun_of_the_model_is_in_the_glossary() -> None:
    model = modules("kalamdb/model/")
    nouns = [noun for path in model for noun in documents.public_classes(read(path))]
    assert nouns
    where = "docs/glossary.md"
    none_of(documents.missing_words(nouns, page(where), where))
