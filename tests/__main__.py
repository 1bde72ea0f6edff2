"""The gate: `python -m tests` is its quick part, `--all` the whole, `sim --seed N` and
`fuzz --seed N` one world again.

1. A gate is a list of steps, each a child process with a deadline.
2. Steps that may share the machine run two at a time; those that measure time or fill both cores
   run alone.
3. A step fails when its process fails, outlives its deadline, or is a pytest step in which no test
   passed.
4. The end is a table and the exit code: 0 only when every step passed.

Keeps: children run from the repository root with PYTHONHASHSEED=0, wherever the caller is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

try:
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError:
    sys.exit("this Python lacks the project's tools: run `make install`, then .venv/bin/python")

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LANES = 2
QUICK_SEEDS, ALL_SEEDS = 5, 100


@dataclass(frozen=True, slots=True)
class Step:
    """One child process of the gate. `suite` is the directory of a pytest step's tests."""

    name: str
    command: tuple[str, ...]
    timeout_s: float = 420.0
    suite: str | None = None
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    step: Step
    fault: str | None
    tests_passed: int
    took_s: float
    output: str


def static_steps() -> list[Step]:
    python = sys.executable
    return [
        Step("format", (python, "-m", "ruff", "format", "--check", ".")),
        Step("lint", (python, "-m", "ruff", "check", "--output-format=concise", ".")),
        Step("types", (python, "-m", "pyright", "--pythonpath", python)),
        Step("imports", (str(BIN / "lint-imports"),)),
    ]


def pytest_step(
    suite: str, *extra: str, timeout_s: float = 420.0, alone: bool = False, name: str = ""
) -> Step:
    command = (sys.executable, "-m", "pytest", "-q", f"tests/{suite}", *extra)
    return Step(name or suite, command, timeout_s, suite, alone)


def quick_steps() -> list[Step]:
    """Longest first, so that the two lanes end together."""
    static = static_steps()
    suites = ["property", "unit", "golden", "raft", "fuzz", "compat", "tidy"]
    tests = [pytest_step(suite) for suite in suites]
    sim = pytest_step("sim", f"--sim-seeds={QUICK_SEEDS}", name="sim smoke")
    return [sim, static[2], *tests, static[0], static[1], static[3]]


def all_steps() -> list[Step]:
    steps = [step for step in quick_steps() if step.suite != "sim"]
    both_cores = ("-n", str(LANES), "--dist", "worksteal")
    seeds = f"--sim-seeds={ALL_SEEDS}"
    sim_name = f"sim {ALL_SEEDS} seeds"
    steps.append(pytest_step("sim", seeds, *both_cores, timeout_s=1500, alone=True, name=sim_name))
    statements = (sys.executable, "-m", "tests", "fuzz")
    steps.append(Step("fuzz 100,000", statements, timeout_s=240, alone=True))
    steps.append(pytest_step("e2e", timeout_s=1500, alone=True))
    return steps


# ── running ──────────────────────────────────────────────────────────────────────────────────────


class Gate:
    """Runs steps and keeps their verdicts; `close` ends the children with all they started."""

    def __init__(self, console: Console, reports: Path) -> None:
        self._console = console
        self._reports = reports
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = False

    def run(self, steps: Sequence[Step]) -> list[Verdict]:
        shared = [step for step in steps if not step.alone]
        with ThreadPoolExecutor(LANES) as lanes:
            try:
                verdicts = list(lanes.map(self._run_step, shared))
                verdicts += [self._run_step(step) for step in steps if step.alone]
            except BaseException:
                self.close()
                raise
        return verdicts

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for child in self._children:
                end_group(child)

    def _run_step(self, step: Step) -> Verdict:
        started = time.monotonic()
        report = self._reports / f"{step.name.replace(' ', '-')}.xml"
        command = list(step.command)
        missing = step.suite is not None and not (ROOT / "tests" / step.suite).is_dir()
        if step.suite is not None:
            command.append(f"--junitxml={report}")
        fault, output = (None, "") if missing else self._run_command(command, step.timeout_s)
        passed = 0 if step.suite is None else tests_passed(report)
        if step.suite is not None and fault is None and passed == 0:
            fault = f"no test of tests/{step.suite} passed: there must be at least one"
        verdict = Verdict(step, fault, passed, time.monotonic() - started, output)
        self._tell(verdict)
        return verdict

    def _run_command(self, command: Sequence[str], timeout_s: float) -> tuple[str | None, str]:
        """What went wrong, if anything, and all the process wrote."""
        with self._lock:
            if self._closed:
                return "the gate was stopped", ""
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._children.add(child)
        fault = None
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_group(child)
            output, _ = child.communicate()
            fault = f"not done within its {timeout_s:g} s"
        finally:
            with self._lock:
                self._children.discard(child)
        if fault is None and child.returncode != 0:
            fault = f"exit code {child.returncode}"
        return fault, output

    def _tell(self, verdict: Verdict) -> None:
        count = f"  {verdict.tests_passed} tests" if verdict.step.suite else ""
        word = "[green]pass[/]" if verdict.fault is None else "[red]FAIL[/]"
        with self._lock:
            line = f"{word}  {verdict.step.name:<14} {verdict.took_s:6.1f} s{count}"
            self._console.print(line, highlight=False)
            if verdict.fault is not None:
                self._console.print(verdict.output, markup=False, highlight=False, soft_wrap=True)
                self._console.print(f"{verdict.step.name}: {verdict.fault}", style="red")


def end_group(child: subprocess.Popen[str]) -> None:
    """Kill a child and whatever it started; each child leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def tests_passed(report: Path) -> int:
    """Tests in a JUnit report that ran and passed; 0 when there is no report."""
    if not report.exists():
        return 0
    passed = 0
    for suite in ET.parse(report).getroot().iter("testsuite"):
        counts = {key: int(suite.get(key, "0")) for key in ("tests", "errors", "failures")}
        skipped = int(suite.get("skipped", "0"))
        passed += counts["tests"] - counts["errors"] - counts["failures"] - skipped
    return passed


# ── the commands ─────────────────────────────────────────────────────────────────────────────────


def gate(steps: Sequence[Step]) -> int:
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kalamdb-gate-") as reports:
        verdicts = Gate(console, Path(reports)).run(steps)
    table = Table("step", "verdict", "tests", "seconds", title="the gate")
    for verdict in verdicts:
        word = "[green]pass[/]" if verdict.fault is None else f"[red]{verdict.fault}[/]"
        count = str(verdict.tests_passed) if verdict.step.suite else ""
        table.add_row(verdict.step.name, word, count, f"{verdict.took_s:.1f}")
    console.print(table)
    failed = [verdict.step.name for verdict in verdicts if verdict.fault is not None]
    passed = sum(verdict.tests_passed for verdict in verdicts)
    took = f"{time.monotonic() - started:.0f} s"
    if failed:
        print(f"gate failed: {', '.join(failed)} ({passed} tests passed, {took})")
        return 1
    print(f"gate passed: {passed} tests, {took}")
    return 0


def fix_set_orders() -> None:
    """Set orders are part of a world: they are fixed only before the interpreter starts."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-m", "tests", *sys.argv[1:]], environment)


def fuzz(options: argparse.Namespace) -> int:
    """Throw generated statements, or show the world of one seed again."""
    fix_set_orders()
    campaign = importlib.import_module("tests.fuzz.campaign")
    if options.seed is not None:
        return campaign.replay(options.seed)
    return campaign.campaign(options.first, options.statements, options.processes)


def replay(seed: int) -> int:
    """Run the simulated world of `seed` again; `tests.sim.run.replay` raises on a fault."""
    fix_set_orders()
    try:
        run = importlib.import_module("tests.sim.run")
    except ModuleNotFoundError as error:
        if error.name not in ("tests.sim", "tests.sim.run"):
            raise
        print("the simulator (tests/sim/run.py) is not in this checkout", file=sys.stderr)
        return 2
    return 1 if run.replay(seed) is False else 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests", description="The gate.")
    parser.add_argument("--all", action="store_true", help="the whole gate, at most 15 minutes")
    parser.add_argument(
        "--only", action="append", metavar="STEP", help="this step only; may be repeated"
    )
    commands = parser.add_subparsers(dest="command", metavar="{sim,fuzz} --seed N")
    sim = commands.add_parser("sim", help="replay the simulated world of one seed")
    sim.add_argument("--seed", type=int, required=True)
    thrown = commands.add_parser("fuzz", help="throw generated statements, or replay one world")
    thrown.add_argument("--seed", type=int, help="show this world statement by statement")
    thrown.add_argument("--first", type=int, default=0, help="the first seed")
    thrown.add_argument("--statements", type=int, default=100_000)
    thrown.add_argument("--processes", type=int, default=LANES)
    options = parser.parse_args(arguments)
    names = [step.name for step in (all_steps() if options.all else quick_steps())]
    for name in options.only or ():
        if name not in names:
            parser.error(f"no step {name!r}; there are: {', '.join(names)}")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    if options.command == "sim":
        return replay(options.seed)
    if options.command == "fuzz":
        return fuzz(options)
    steps = all_steps() if options.all else quick_steps()
    if options.only:
        steps = [step for step in steps if step.name in options.only]
    return gate(steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
