"""Definitions and indexes change in worlds in which everything fails, and every promise is kept;
each rule left out is noticed by some world.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kalamdb.store.catalog_codec import FenceState
from tests.sim import definitions, mutants_definitions
from tests.sim.history import Result
from tests.sim.run import small_log
from tests.sim.test_mutants import ALL_FROM_SEEDS

QUICK_MUTANTS = 4
SEEDS_FILE = Path(__file__).with_name("seeds_definitions.txt")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mutant" in metafunc.fixturenames:
        everything = int(metafunc.config.getoption("sim_seeds") or 0) >= ALL_FROM_SEEDS
        first = mutants_definitions.FIRST_SEED
        quick = [name for name, seed in first.items() if seed == 0][:QUICK_MUTANTS]
        metafunc.parametrize("mutant", list(first) if everything else quick)


def recorded_seeds() -> list[int]:
    lines = SEEDS_FILE.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def test_definitions_keep_every_promise(sim_seed: int) -> None:
    report = definitions.run_world(sim_seed)
    assert not report.faults, str(report)


@pytest.mark.parametrize("seed", recorded_seeds())
def test_a_world_that_failed_once(seed: int) -> None:
    report = definitions.run_world(seed)
    assert not report.faults, str(report)


def test_same_seed_is_the_same_run() -> None:
    first, second = definitions.run_world(3), definitions.run_world(3)
    assert first.trace == second.trace
    assert first.statements == second.statements


def test_worlds_build_undo_and_drop() -> None:
    """So that it says something that they keep their promises."""
    with small_log():
        worlds = [definitions.DefinitionWorld(seed) for seed in range(3)]
        reports = [world.report() for world in worlds]
    assert not [str(report) for report in reports if report.faults]
    assert sum(report.statements[Result.OK] for report in reports) > 20
    groups = [group for world in worlds for group in world.ledger.groups]
    assert sum(group.built for group in groups) > 20
    states = {fence.state for group in groups for fence in group.fences.values()}
    assert FenceState.PURGED in states
    refused = [one for world in worlds for one in world.office.statements if one.was_undone]
    assert refused


def test_a_rule_left_out_is_noticed(mutant: str) -> None:
    assert mutants_definitions.first_seed(mutant) is not None, f"{mutant} went through all worlds"


def test_every_mutant_is_planted_somewhere() -> None:
    assert set(mutants_definitions.MUTANTS) == set(mutants_definitions.FIRST_SEED)
