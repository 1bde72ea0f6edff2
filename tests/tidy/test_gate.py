"""The gate is no ornament: what fails, hangs or tests nothing makes it fail."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests import __main__ as gate


@pytest.fixture
def run(tmp_path: Path) -> gate.Gate:
    return gate.Gate(Console(file=io.StringIO()), tmp_path)


def python(code: str, *, timeout_s: float = 30.0, suite: str | None = None) -> gate.Step:
    return gate.Step("made-up", (sys.executable, "-c", code), timeout_s, suite)


def test_verdicts_of_processes(run: gate.Gate) -> None:
    good, bad = run.run([python("print('fine')"), python("print('why'); raise SystemExit(3)")])
    assert (good.fault, good.output) == (None, "fine\n")
    assert (bad.fault, bad.output) == ("exit code 3", "why\n")


def test_a_hanging_step_is_ended_with_its_children(run: gate.Gate) -> None:
    hang = "import signal; signal.pause()"
    # The child of the child holds the pipe: the gate would wait for it for ever.
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hang!r}])"
    parent = f"{child}\n{hang}"
    started = time.monotonic()
    verdicts = run.run([python(parent, timeout_s=0.5), python(hang, timeout_s=0.5)])
    assert [verdict.fault for verdict in verdicts] == ["not done within its 0.5 s"] * 2
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("suite", "report", "passed"),
    [
        ("tidy", '<testsuites><testsuite tests="3" skipped="1" failures="1" /></testsuites>', 1),
        ("tidy", '<testsuites><testsuite tests="2" skipped="2" /></testsuites>', 0),
        ("tidy", '<testsuites><testsuite tests="0" /></testsuites>', 0),
        ("tidy", None, 0),
        ("no_such_suite", '<testsuites><testsuite tests="1" /></testsuites>', 0),
    ],
)
def test_a_suite_needs_a_test_that_passed(
    run: gate.Gate, tmp_path: Path, suite: str, report: str | None, passed: int
) -> None:
    # The command leaves the report a pytest run would leave, at the path the gate asks for.
    write = f"import sys; open(sys.argv[1].split('=')[1], 'w').write({report!r})"
    (verdict,) = run.run([python("pass" if report is None else write, suite=suite)])
    assert verdict.tests_passed == passed
    assert (verdict.fault is None) is (passed > 0)


def test_children_have_no_hash_seed_of_their_own(run: gate.Gate) -> None:
    (verdict,) = run.run([python("import os; print(os.environ['PYTHONHASHSEED'], os.getcwd())")])
    assert verdict.output.split() == ["0", str(gate.ROOT)]


def test_the_whole_gate_holds_the_quick_one() -> None:
    quick = {step.name for step in gate.quick_steps() if step.suite != "sim"}
    whole = [step.name for step in gate.all_steps()]
    assert quick < set(whole)
    assert {"e2e", "sim 100 seeds"} <= set(whole)
    assert len(whole) == len(set(whole))


def test_an_unknown_step_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gate.main(["--only", "nothing"])
    assert "no step 'nothing'" in capsys.readouterr().err
