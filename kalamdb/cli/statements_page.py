"""`docs/reference/statements.md`, made from the table of statements.

The least role of each statement is asked of the permission table itself, so the page cannot say
another.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from kalamdb.errors import PermissionDenied
from kalamdb.model.principal import Principal, Role
from kalamdb.session import permissions
from kalamdb.sql.parse import parse
from kalamdb.sql.statement_entry import Entry, Theme
from kalamdb.sql.statement_table import TABLE

HEAD = """# Statements

How each statement is written. WORDS stand for themselves, words in small letters for names, values
or parts described in [SQL](sql.md); `[ ]` may be left out, `{ | }` is a choice, `…` means again.

This page is printed by `kalam statements`; every spelling that its forms allow is parsed by the
tests, and the least role is asked of the permission table. Over rows of SHARED tables the table's
ACCESS_LEVEL decides as well, and some statements do more for higher roles: see
[SQL](sql.md#who-may-do-what).
"""

_ROLES = (Role.USER, Role.SERVICE, Role.DBA, Role.SYSTEM)


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for theme in Theme:
        lines += [f"## {theme.value}", ""]
        for entry in TABLE:
            if entry.theme is theme:
                lines += _entry(entry)
    return "\n".join(lines).rstrip() + "\n"


def _entry(entry: Entry) -> list[str]:
    lines = [f"### {entry.title}", "", "```text", *_forms(entry), "```", ""]
    says = [entry.does] if entry.does else []
    lines += [" ".join([*says, f"*Least role: {least_role(entry).value}.*"]), ""]
    return [*lines, "```sql", *(f"{example};" for example in entry.examples), "```", ""]


def _forms(entry: Entry) -> Iterator[str]:
    for form in entry.forms:
        yield from textwrap.wrap(
            form, 100, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False
        )


def least_role(entry: Entry) -> Role:
    """The first role that the permission table lets run the entry's first example."""
    (statement,) = parse(entry.examples[0])
    for role in _ROLES:
        try:
            permissions.check(Principal.of("someone", role), statement, ())
        except PermissionDenied:
            continue
        return role
    raise AssertionError(f"nobody may run {entry.examples[0]}")
