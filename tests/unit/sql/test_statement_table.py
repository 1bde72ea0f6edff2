"""The table of statements says what the parser does: every spelling of every form is read."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from kalamdb.cli import statements_page
from kalamdb.errors import KalamError
from kalamdb.sql.forms import parse_form, spellings
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Statement
from kalamdb.sql.statement_entry import SAMPLES, Entry, Theme
from kalamdb.sql.statement_table import TABLE

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/statements.md"
ENTRIES = [pytest.param(entry, id=entry.title) for entry in TABLE]


def test_every_statement_is_in_the_table_once() -> None:
    kinds = [entry.kind for entry in TABLE]
    assert sorted(kind.__name__ for kind in kinds) == sorted(
        kind.__name__ for kind in typing.get_args(Statement)
    )


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_spelling_is_read_as_its_statement(entry: Entry) -> None:
    wrong: list[str] = []
    for form in entry.forms:
        for text in spellings(parse_form(form), SAMPLES):
            try:
                (found,) = parse(text)
            except KalamError as error:
                wrong.append(f"{text}: {error}")
            else:
                if type(found) is not entry.kind:
                    wrong.append(f"{text}: read as {type(found).__name__}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_example_is_read_as_its_statement(entry: Entry) -> None:
    assert entry.examples
    for example in entry.examples:
        (found,) = parse(example)
        assert type(found) is entry.kind


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == statements_page.page(), (
        "run: .venv/bin/kalam statements > docs/reference/statements.md"
    )


@pytest.mark.parametrize(
    ("title", "role"),
    [("SELECT", "user"), ("CREATE TABLE", "service"), ("EXPLAIN", "dba"), ("SHOW ALL", "dba")],
)
def test_roles_are_those_of_the_permission_table(title: str, role: str) -> None:
    (entry,) = (entry for entry in TABLE if entry.title == title)
    assert statements_page.least_role(entry).value == role


def test_every_chapter_has_statements() -> None:
    assert {entry.theme for entry in TABLE} == set(Theme)


def test_a_form_that_promises_too_much_is_noticed() -> None:
    (_, text) = spellings(parse_form("SHOW TABLES [OF namespace]"), SAMPLES)
    with pytest.raises(KalamError):
        parse(text)


@pytest.mark.parametrize("text", ["A [B", "A ]", "{A | B]", "A }"])
def test_a_form_that_is_not_well_made(text: str) -> None:
    with pytest.raises(ValueError, match=r"close"):
        parse_form(text)


def test_spellings() -> None:
    found = spellings(parse_form("A [B | C] { D | E column } table, …"), SAMPLES)
    assert list(found) == [
        "A D shop.orders",
        "A B D shop.orders",
        "A C D shop.orders",
        "A E item shop.orders",
        "A D shop.orders , shop.orders",
        "A B E item shop.orders , shop.orders",
    ]
