"""Operators in a row mean to the engine what the tree says, or they are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import datafusion
import pyarrow as pa
import pytest

from kalamdb.errors import KalamError
from kalamdb.sql import dialect
from kalamdb.sql.bound import Env
from kalamdb.sql.precedence import splice_distinct
from kalamdb.sql.query_shape import check_shape
from kalamdb.sql.render import Splices, text_of

BETWEEN = ["+", "-", "*", "/", "%", "||", "=", "<>", "<", ">=", "AND", "OR", "LIKE", "ILIKE"]
BETWEEN += ["~", "&", "|", "^", "#", "<<", ">>"]
BETWEEN += ["IS DISTINCT FROM", "IS NOT DISTINCT FROM", "NOT LIKE", "SIMILAR TO"]
BEHIND = ["IS NULL", "IS NOT NULL", "IN (1, 2)", "NOT IN (1, 2)", "BETWEEN 0 AND 1"]
BEHIND += ["NOT BETWEEN 0 AND 1", "::int", "::text", "IS TRUE", "IS NOT FALSE", "IS UNKNOWN"]
BEHIND += ["IN (true)", "NOT IN (true, false)", "BETWEEN false AND true", "NOT BETWEEN p AND q"]
BEFORE = ["NOT", "-"]
# Columns of each type, so that most rows of operators fit some of them.
OPERANDS = [("a", "b", "c"), ("p", "q", "r"), ("s", "u", "s"), ("p", "a", "b"), ("a", "b", "p")]


@pytest.fixture(scope="module")
def engine() -> Any:
    numbers = list(itertools.product((None, 0, 1), (None, 1, 2), (None, 0, 2)))
    truths = list(itertools.product((None, True, False), repeat=3))
    columns: dict[str, Any] = {}
    for at in range(3):
        columns["abc"[at]] = pa.array([row[at] for row in numbers], pa.int64())
        columns["pqr"[at]] = pa.array([row[at] for row in truths], pa.bool_())
    columns["s"] = pa.array(["a", "1", None] * 9)
    columns["u"] = pa.array(["%", None, "1"] * 9)
    context = datafusion.SessionContext()
    context.register_record_batches("t", [[pa.record_batch(columns)]])
    return context


def value(engine: Any, text: str) -> str | None:
    """All rows of an expression; None when the engine refuses it."""
    try:
        return str(engine.sql(f"SELECT {text} AS x FROM t").to_pydict()["x"])
    except Exception:  # noqa: BLE001 the engine has no class for what it refuses
        return None


def rows_of_operators() -> Iterator[tuple[str, str, str]]:
    """As one writes them, and with parentheses around the first or the second."""
    for a, b, c in OPERANDS:
        for one, two in itertools.product(BETWEEN, BETWEEN):
            yield (
                f"{a} {one} {b} {two} {c}",
                f"({a} {one} {b}) {two} {c}",
                f"{a} {one} ({b} {two} {c})",
            )
        for one, two in itertools.product(BETWEEN, BEHIND):
            yield f"{a} {one} {b} {two}", f"({a} {one} {b}) {two}", f"{a} {one} ({b} {two})"
        for one, two in itertools.product(BEFORE, BETWEEN):
            yield f"{one} {a} {two} {b}", f"({one} {a}) {two} {b}", f"{one} ({a} {two} {b})"
        for one, two in itertools.product(BEFORE, BEHIND):
            yield f"{one} {a} {two}", f"({one} {a}) {two}", f"{one} ({a} {two})"


def tree(text: str) -> Any:
    """None when it is refused."""
    try:
        made = dialect.expression(dialect.tokenize(text), text)
        check_shape(made)
    except KalamError:
        return None
    return made


def for_engine(text: str) -> str | None:
    """None when it is refused."""
    splices = Splices()
    try:
        tokens = dialect.tokenize(text)
        splice_distinct(splices, tokens)
    except KalamError:
        return None
    return text_of(tokens, text, splices).render(Env.__new__(Env))


def bare(made: Any) -> str:
    """Without parentheses, as a text that says what belongs to what."""
    return repr(made.transform(lambda node: node.this if node.key == "paren" else node))


def test_the_engine_reads_what_the_tree_says(engine: Any) -> None:
    compared = 0
    for text, *candidates in rows_of_operators():
        made, written = tree(text), for_engine(text)
        if made is None or written is None:
            continue
        for candidate in candidates:
            other = tree(candidate)
            if other is None or bare(other) != bare(made):
                continue
            expected = value(engine, candidate)
            if expected is not None:
                compared += 1
                found = value(engine, written)
                assert found is None or found == expected, (text, written)
    assert compared > 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a IS DISTINCT FROM b AND p", "a <=> b IS FALSE AND p"),
        ("a IS NOT DISTINCT FROM b OR p", "a <=> b OR p"),
        ("a IS DISTINCT FROM -b + 2 * c IS NULL", "a <=> - b + 2 * c IS FALSE IS NULL"),
        ("a IS DISTINCT FROM abs(b)::int = c", None),
        ("a IS DISTINCT FROM b NOT LIKE c", None),
        ("a IS DISTINCT FROM (b) , c", "a <=> ( b ) IS FALSE , c"),
        (
            "s IS DISTINCT FROM CASE WHEN p THEN 'x' END THEN",
            "s <=> CASE WHEN p THEN 'x' END IS FALSE THEN",
        ),
        (
            "a IS DISTINCT FROM t.b :: double precision AND p",
            "a <=> t . b :: double precision IS FALSE AND p",
        ),
        ("d IS DISTINCT FROM DATE '2026-01-01' AND p", "d <=> DATE '2026-01-01' IS FALSE AND p"),
        ("p = (a IS DISTINCT FROM b)", "p = ( a <=> b IS FALSE )"),
        (
            "a IS DISTINCT FROM sum(b) FILTER (WHERE p) x",
            "a <=> sum ( b ) FILTER ( WHERE p ) IS FALSE x",
        ),
    ],
)
def test_where_the_operand_ends(text: str, expected: str | None) -> None:
    assert for_engine(text) == expected


@pytest.mark.parametrize(
    "text",
    ["a ^ b", "a | b & c", "a & b | c", "a = b = c", "p = a < b"],
)
def test_what_is_put_together_differently_is_refused(text: str) -> None:
    assert tree(text) is None
