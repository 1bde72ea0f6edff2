"""Clusters from seeds keep every promise, can be replayed, and a seed that once failed is run for
ever; each rule left out is noticed by some cluster.

The quick gate plants a few mutants, the whole gate all of them.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.cluster import mutants, world
from tests.sim.history import Result
from tests.sim.test_mutants import ALL_FROM_SEEDS

QUICK_MUTANTS = 3
SEEDS_FILE = Path(__file__).with_name("seeds.txt")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mutant" in metafunc.fixturenames:
        everything = int(metafunc.config.getoption("sim_seeds") or 0) >= ALL_FROM_SEEDS
        first = mutants.FIRST_SEED
        quick = [name for name, seed in first.items() if seed == 0][:QUICK_MUTANTS]
        metafunc.parametrize("mutant", list(first) if everything else quick)


def recorded_seeds() -> list[int]:
    lines = SEEDS_FILE.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@pytest.fixture(autouse=True)
def _set_order() -> None:
    """Set orders are part of a cluster."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        pytest.fail("clusters can be replayed only with PYTHONHASHSEED=0")


def test_cluster_keeps_every_promise(cluster_seed: int) -> None:
    report = world.run(cluster_seed)
    assert not report.faults, str(report)


@pytest.mark.parametrize("seed", recorded_seeds())
def test_a_cluster_that_failed_once(seed: int) -> None:
    report = world.run(seed)
    assert not report.faults, str(report)


def test_same_seed_is_the_same_run() -> None:
    first, second, other = world.run(3), world.run(3), world.run(4)
    assert first.trace == second.trace
    assert first.results == second.results
    assert first.trace != other.trace


def test_clusters_move_slots_and_members() -> None:
    """So that it says something that they keep their promises."""
    counts: Counter[str] = Counter()
    acknowledged = 0
    for seed in range(4, 8):
        report = world.run(seed)
        counts += report.counts
        acknowledged += report.results[Result.OK]
    assert acknowledged > 500
    assert counts["opened"] > 10, "slots that came to another group"
    assert counts["resumed"] > 20, "streams that went on from a cursor"
    assert counts["Promote"] > 2, "nodes that came to vote"
    assert counts["images"] > 0


def test_a_rule_left_out_is_noticed(mutant: str) -> None:
    assert mutants.first_seed(mutant) is not None, f"{mutant} went through all clusters"


def test_every_mutant_is_planted_somewhere() -> None:
    assert set(mutants.MUTANTS) == set(mutants.FIRST_SEED)
