"""Each rule of the protocol, left out, is noticed by some world.

The quick gate plants only those that show in the first world; the whole gate plants all.
"""

from __future__ import annotations

import pytest

from tests.sim import mutants, mutants_transactions
from tests.sim.directed import CutOff, bridges

ALL_FROM_SEEDS = 50  # a run of this many seeds plants all mutants
# Rare by chance; the situations below show them.
assert mutants_transactions.FIRST_SEED is mutants.FIRST_SEED
BY_HAND = {"refuses_unconfirmed", "forgets_votes"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mutant" in metafunc.fixturenames:
        everything = int(metafunc.config.getoption("sim_seeds") or 0) >= ALL_FROM_SEEDS
        first = mutants.FIRST_SEED
        metafunc.parametrize("mutant", [name for name in first if everything or not first[name]])


def test_a_rule_left_out_is_noticed(mutant: str) -> None:
    assert mutants.first_seed(mutant) is not None, f"{mutant} went through all worlds"


def test_every_mutant_is_planted_somewhere() -> None:
    assert set(mutants.MUTANTS) == set(mutants.FIRST_SEED) | BY_HAND


def test_a_leader_cut_off_answers_no_read() -> None:
    assert CutOff(1).read_at_the_old() == "Unavailable"
    with mutants.planted("reads_without_barrier"):
        assert CutOff(1).read_at_the_old() is None


def test_a_leader_cut_off_refuses_nothing() -> None:
    assert CutOff(1).append_at_the_old() in ("Indeterminate", "Unavailable", "Lost")
    with mutants.planted("refuses_unconfirmed"):
        assert CutOff(1).append_at_the_old() == 0


def test_a_vote_is_not_forgotten() -> None:
    assert bridges(1) is None
    with mutants.planted("forgets_votes"):
        assert bridges(1) is not None
