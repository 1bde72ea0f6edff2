"""A slot goes to and fro between groups and nothing is lost; each clause left out is noticed.

The quick gate plays few worlds and plants few mutants; a run of many seeds plays and plants all.
"""

from __future__ import annotations

import os

import pytest

from tests.sim import moves, mutants_moves

ALL_FROM_SEEDS = 50
QUICK_SEEDS = 3
SEEDS_MAX = 40  # whole clusters move slots, too (sim/cluster)
QUICK_MUTANTS = ("frozen_reads_ask_nobody", "opens_below_the_cut", "a_purge_from_an_old_snapshot")
LOOK_ON = 12  # any change of the product moves the worlds


@pytest.fixture(autouse=True)
def _set_order() -> None:
    """Set orders are part of a world."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        pytest.fail("worlds can be replayed only with PYTHONHASHSEED=0")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = int(metafunc.config.getoption("sim_seeds") or 0)
    everything = asked >= ALL_FROM_SEEDS
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(min(asked, SEEDS_MAX) if everything else QUICK_SEEDS))
    if "mutant" in metafunc.fixturenames:
        names = mutants_moves.FIRST_SEED if everything else QUICK_MUTANTS
        metafunc.parametrize("mutant", list(names))


def test_a_slot_moves_and_nothing_is_lost(seed: int) -> None:
    report = moves.run(seed)
    assert not report.faults, str(report)


def test_a_world_is_played_again() -> None:
    assert moves.run(1).trace == moves.run(1).trace


def test_a_clause_left_out_is_noticed(mutant: str) -> None:
    first = mutants_moves.FIRST_SEED[mutant]
    seeds = range(first, first + LOOK_ON)
    assert any(mutants_moves.fault_of(mutant, seed) for seed in seeds), f"{mutant} went through"


def test_every_mutant_is_planted_somewhere() -> None:
    assert set(mutants_moves.MUTANTS) == set(mutants_moves.FIRST_SEED)
