"""Each rule of membership, left out, is noticed; with the rule in place its story goes well."""

from __future__ import annotations

import pytest

from tests.raft.mutants import MUTANTS, NOTICED, fails


def test_every_mutant_is_planted() -> None:
    assert set(MUTANTS) == set(NOTICED)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_left_out_is_noticed(name: str) -> None:
    assert fails(name, NOTICED[name]), f"{name} went through"
