"""Each rule of this folder finds what it should, and only that, in made-up files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.tidy import documents, source

Rule = Callable[[str, str], Iterator[str]]

LONG_FUNCTION = "def long():\n" + "    x = 1\n" * 60
FULL_FUNCTION = "def full():\n" + "    x = 1\n" * 59

# A ~ stands where a word is parted, or the rules would find it here; the tests take it out.
CAUGHT: list[tuple[Rule, str]] = [
    (source.file_size, "x = 1\n" * 501),
    (source.function_shape, LONG_FUNCTION),
    (source.function_shape, "class A:\n    async def f(self, a, b, c, d, e, f): ...\n"),
    (source.function_shape, "def outer():\n    def f(a, b, c, d, e, f): ...\n"),
    (source.module_docstring, "x = 1\n"),
    (source.container_types, "def f(context: AppContext): ...\n"),
    (source.container_types, "def f(*, things: 'ThingRegistry'): ...\n"),
    (source.container_types, "def f(things: lib.Manager | None): ...\n"),
    (source.marks, "x = 1  # TO~DO later\n"),
    (source.marks, "# FIX~ME\n"),
    (source.marks, "# XX~X\n"),
    (source.private_words, "see /wo~rk/main/x\n"),
    (source.private_words, "`../sha~red/design`\n"),
    (source.private_words, "as Iss~ue 4 says\n"),
    (source.sql_read_as_text, "sql.upper()\n"),
    (source.sql_read_as_text, "self.sql.startswith('CREATE')\n"),
    (source.sql_read_as_text, "request.query.strip().lower()\n"),
    (source.sql_read_as_text, "sql[:6].casefold()\n"),
    (source.sql_read_as_text, "re.match('select', sql)\n"),
    (source.sql_read_as_text, "PATTERN.search(query)\n"),
    (source.sql_read_as_text, "'PARTITIONS' in sql\n"),
    (source.sleeps, "asyncio.sleep(0.1)\n"),
    (source.sleeps, "time.sleep(0)\n"),
    (source.sleeps, "from asyncio import sleep\n"),
    (source.dice, "random.choice(names)\n"),
]

PASSED: list[tuple[Rule, str]] = [
    (source.file_size, "x = 1\n" * 500),
    (source.function_shape, FULL_FUNCTION),
    (source.function_shape, "class A:\n    def f(self, a, b, c, d, e, *, f, g): ...\n"),
    (source.module_docstring, '"""Owns x."""\n'),
    (source.container_types, "def f(context: str, apply: Application) -> Manager: ...\n"),
    (source.marks, "the method of the mastodons\n"),
    (source.private_words, "docs/wo~rk/now, ./wo~rk/x, the issue of 4 rows\n"),
    (source.sql_read_as_text, "name.upper(); sql.encode(); request.query.get('a'); 'a' in names\n"),
    (source.sql_read_as_text, "re.match(sql_pattern, name); cache[sql]; query['k'].lower()\n"),
    (source.sleeps, "asyncio.sleep(0); clock.sleep(5)\n"),
    (source.dice, "random.Random(7).choice(names); dice.choice(names)\n"),
]


def named(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("rule", "text"), CAUGHT, ids=named)
def test_caught(rule: Rule, text: str) -> None:
    found = list(rule("kalamdb/made_up.py", text.replace("~", "")))
    assert len(found) == 1, found
    assert found[0].startswith("kalamdb/made_up.py:")


@pytest.mark.parametrize(("rule", "text"), PASSED, ids=named)
def test_passed(rule: Rule, text: str) -> None:
    assert list(rule("kalamdb/made_up.py", text.replace("~", ""))) == []


@pytest.mark.parametrize(
    ("path", "caught"),
    [
        ("kalamdb/utils.py", True),
        ("kalamdb/misc/x.py", True),
        ("cluster/lease_manager.py", True),
        ("tests/golden/common.py", True),
        ("kalamdb/store/rows.py", False),
        ("kalamdb/commonness.py", False),
    ],
)
def test_drawer_names(path: str, caught: bool) -> None:
    assert bool(list(source.drawer_name(path))) is caught


def test_excepted_sizes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGER", {"a.py": "one table", "b.py::long": "one match"})
    assert list(source.file_size("a.py", "x = 1\n" * 501)) == []
    assert list(source.function_shape("b.py", LONG_FUNCTION)) == []
    assert list(source.function_shape("a.py", LONG_FUNCTION)) != []


def test_waiting_may_sleep() -> None:
    assert list(source.sleeps("tests/waiting.py", "time.sleep(1)\n")) == []


@pytest.mark.parametrize(
    ("names", "faults"),
    [
        (["README.md", "0001-one-path.md", "0002-seqs.md"], 0),
        ([], 0),
        (["0001-one.md", "0001-two.md"], 1),
        (["0001-one.md", "0003-three.md"], 1),
        (["one.md"], 1),
        (["0001-One.md"], 1),
    ],
)
def test_decision_records(names: list[str], faults: int) -> None:
    assert len(list(documents.decision_records(names))) == faults


def test_public_classes() -> None:
    text = "class Row: ...\nclass _Inner: ...\ndef f():\n    class Local: ...\n"
    assert documents.public_classes(text) == ["Row"]


def test_missing_words_are_whole_words() -> None:
    page = "A `Row` and a ChangeBatch."
    assert list(documents.missing_words(["Row", "ChangeBatch"], page, "g.md")) == []
    assert list(documents.missing_words(["Change"], page, "g.md")) == ["g.md: nothing on Change"]


def test_names_used_leaves_out_imports_comments_and_strings() -> None:
    text = "from errors import Gone\nimport errors\n# Lost\nT = {errors.Found: 'Said', Here: 1}\n"
    used = documents.names_used(text)
    assert {"Found", "Here"} <= used
    assert not {"Gone", "Lost", "Said"} & used


def test_error_classes_are_the_tree_without_its_root() -> None:
    class Root(Exception): ...

    class Family(Root): ...

    class Leaf(Family): ...

    assert documents.error_classes(Root) == [Family.__name__, Leaf.__name__]


@dataclass(frozen=True)
class Limits:
    rows_max: int = field(default=1, metadata={"doc": "rows of a result", "unit": "rows"})
    wait_s: float | None = field(default=None, metadata={"doc": "longest wait"})
    bare: str = "x"


@dataclass(frozen=True)
class Tree:
    limits: Limits = field(default_factory=Limits)
    strict: bool = field(default=True, metadata={"doc": "refuse unknown keys"})
    empty: str = field(default="", metadata={"doc": " "})


def test_undocumented_settings() -> None:
    assert sorted(documents.undocumented_settings(Tree)) == [
        "setting empty has no doc",
        "setting limits.bare has no doc",
        "setting limits.wait_s is a number without a unit",
    ]
