"""Worlds from seeds keep every promise, can be replayed, and a seed that once failed is run for
ever.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sim import run

SEEDS_FILE = Path(__file__).with_name("seeds.txt")


def recorded_seeds() -> list[int]:
    lines = SEEDS_FILE.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@pytest.fixture(autouse=True)
def _set_order() -> None:
    """Set orders are part of a world."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        pytest.fail("worlds can be replayed only with PYTHONHASHSEED=0")


def test_world_keeps_every_promise(sim_seed: int) -> None:
    report = run.run(sim_seed)
    assert not report.faults, str(report)


def test_worlds_that_failed_once() -> None:
    reports = [run.run(seed) for seed in recorded_seeds()]
    assert not [str(report) for report in reports if report.faults]


@pytest.mark.parametrize("seed", range(4))
def test_one_member_alone_keeps_every_promise(seed: int) -> None:
    report = run.run(seed, alone=True)
    assert not report.faults, str(report)


def test_same_seed_is_the_same_run() -> None:
    first, second, other = run.run(3), run.run(3), run.run(4)
    assert first.trace == second.trace
    assert first.results == second.results
    assert first.trace != other.trace


def test_replay_says_whether_promises_were_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.replay(1) is True
    assert "seed 1:" in capsys.readouterr().out
