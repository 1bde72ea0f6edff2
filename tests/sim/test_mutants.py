"""Each rule of the protocol, left out, is noticed by the worlds of a few seeds.

`mutants.SEEDS` says which; `python -m tests.sim.mutants NAME` looks for others when a change of the
simulator has moved them.
"""

from __future__ import annotations

import pytest

from tests.sim import mutants
from tests.sim.directed import CutOff

MISSED = {"refuses_unconfirmed"}  # any write under way hides it; the situation below shows it


@pytest.mark.parametrize("name", [name for name in mutants.MUTANTS if name not in MISSED])
def test_a_rule_left_out_is_noticed(name: str) -> None:
    found = [seed for seed in mutants.SEEDS[name] if mutants.caught(name, seed)]
    assert found, f"{name} went through the worlds of {mutants.SEEDS[name]}"


def test_a_leader_cut_off_answers_no_read() -> None:
    assert CutOff(1).read_at_the_old() == "Unavailable"
    with mutants.planted("reads_without_barrier"):
        assert CutOff(1).read_at_the_old() is None


def test_a_leader_cut_off_refuses_nothing() -> None:
    assert CutOff(1).append_at_the_old() in ("Indeterminate", "Unavailable", "Lost")
    with mutants.planted("refuses_unconfirmed"):
        assert CutOff(1).append_at_the_old() == 0
