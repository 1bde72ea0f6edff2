"""What every test shares: repeatable property tests and the seeds of the simulation.

Keeps: a test run has no dice. Hypothesis derives its examples from the test itself, and a
simulation test that asks for `cluster_seed` runs once for each of the first `--sim-seeds` seeds;
one that asks for `sim_seed`, a world with a part of the cluster, for the first of them only.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

PART_SEEDS_MAX = 40  # a minute of two cores; the whole cluster needs the rest

settings.register_profile(
    "gate",
    derandomize=True,
    database=None,
    # The gate shares two cores with type checker and linter: a slow example is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write golden scripts as they play now")
    parser.addoption(
        "--sim-seeds",
        type=int,
        default=5,
        help="how many seeds, from 0, a test that takes `cluster_seed` runs with",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    seeds = int(metafunc.config.getoption("sim_seeds") or 0)
    if "sim_seed" in metafunc.fixturenames:
        metafunc.parametrize("sim_seed", range(min(seeds, PART_SEEDS_MAX)))
    if "cluster_seed" in metafunc.fixturenames:
        metafunc.parametrize("cluster_seed", range(seeds))
