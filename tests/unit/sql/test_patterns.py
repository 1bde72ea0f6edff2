"""LIKE: what a pattern matches, and that no pattern takes long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.errors import LimitReached
from kalamdb.sql.patterns import PATTERN_LENGTH_MAX, SEARCHED_LENGTH_MAX, pattern_test


@given(st.text("aAb%_", max_size=10), st.text("aAb", max_size=10), st.booleans())
def test_as_a_regular_expression_says(pattern: str, text: str, ignore_case: bool) -> None:
    form = pattern.replace("%", ".*").replace("_", ".")
    expected = re.fullmatch(form, text, re.IGNORECASE if ignore_case else 0) is not None
    assert pattern_test(pattern, None, ignore_case=ignore_case)(text) is expected


@pytest.mark.parametrize("part", ["a", "a_", "_a_"])
@pytest.mark.parametrize("ignore_case", [False, True])
def test_many_parts_take_no_longer_than_one(part: str, ignore_case: bool) -> None:
    matches = pattern_test(f"%{'%'.join([part] * 40)}%b", "\\", ignore_case=ignore_case)
    began_s = time.thread_time()
    assert not matches("a" * 20_000)
    assert matches("a" * 20_000 + "b")
    assert time.thread_time() - began_s < 1, "as a regular expression it would never end"


def test_what_would_cost_too_much_is_refused() -> None:
    long = "a" * (SEARCHED_LENGTH_MAX + 1)
    assert pattern_test(f"%{long}%{long}%", None, ignore_case=False)(long + long)
    for pattern, ignore_case in ((f"%{long}%", True), (f"%{long}_%", False)):
        with pytest.raises(LimitReached):
            pattern_test(pattern, None, ignore_case=ignore_case)
    with pytest.raises(LimitReached):
        pattern_test("_" * (PATTERN_LENGTH_MAX + 1), None, ignore_case=False)
