"""How fast are replicated, fsynced inserts and linearizable reads with three nodes, and what does a
failure cost, beside etcd and NATS JetStream?

1. Every system is started with three members on this machine, KalamDB also with a router; CPU
   while idle is taken at 8 groups, and at 32 of trios started only for that.
2. `insert`: single-row inserts with 16 and with 64 in flight, through the router, to any node, to
   the leaders, and of tenants of one leader only; etcd to its leader and to any member; NATS to
   the leaders of its streams. `read`: primary-key reads, the same ways. All ways take turns in
   every round, so that a noisy minute hits all of them.
3. `failover` and `catch_up` (benchmarks.cluster_faults), the systems in turn.
4. Printed are medians over the rounds with their spread, the ratios of every round, and the CPU
   time per insert of leader, follower, router and load generator.

Invariants: every answer is checked (benchmarks.load); a wrong one ends the run with status 1.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks import arena, measure
from benchmarks.cluster_faults import CatchUp, Failover, Idle, catch_up, failover, idle
from benchmarks.cluster_report import Run, print_all, targets
from benchmarks.load import LoadJob, run
from benchmarks.report import Report, write_json
from benchmarks.stacks.stack import StackError, pause
from benchmarks.trios.etcd import EtcdTrio
from benchmarks.trios.kalamdb import KalamTrio
from benchmarks.trios.nats import NatsTrio
from benchmarks.trios.trio import Database, Trio, Wire

AnyTrio = TypeVar("AnyTrio", bound=Trio)

TRIOS: dict[str, type[Trio]] = {trio.name: trio for trio in (KalamTrio, EtcdTrio, NatsTrio)}
MEASURES = ("idle", "insert", "read", "failover", "catch_up")
IN_FLIGHT = (16, 64)
INSERTS = 24_000
READS = 36_000
KILLS = 20
CATCH_UP_ROWS = 100_000
GROUPS, MANY_GROUPS = 8, 32
IDLE_S = 10.0

_STRIPE = 192
"""Rows are written in multiples of this: every number of tenants divides it."""
_FIRST = 1_000_000_128
_APART = 3_000_000
"""Between the first rows of two jobs: a lane takes its own tenants only and so skips numbers."""
_REST_S = 0.3
_IDLE_REST_S = 5.0


@dataclass(slots=True)
class Measured:
    """Everything the program found."""

    runs: list[Run] = field(default_factory=list)
    idles: list[Idle] = field(default_factory=list)
    failovers: list[Failover] = field(default_factory=list)
    catch_ups: list[CatchUp] = field(default_factory=list)


class Rows:
    """Numbers for new rows: no job writes a row of another."""

    def __init__(self) -> None:
        self._next = _FIRST

    def room(self) -> int:
        """The first number of a job."""
        first = self._next
        self._next += _APART // _STRIPE * _STRIPE
        return first


class Program:
    """One run of the benchmark over running trios."""

    def __init__(self, trios: dict[str, Trio], options: argparse.Namespace, report: Report) -> None:
        self.trios = trios
        self.scale = float(options.scale)
        self.rounds = int(options.rounds)
        self.kills = int(options.kills)
        self.report = report
        self.rows = Rows()
        self.found = Measured()

    def inserts(self) -> None:
        """All ways to insert, at each number in flight."""
        ways = [(trio, way) for trio in self.trios.values() for way in trio.insert_ways]
        for in_flight in IN_FLIGHT:
            self.report.line(f"insert, {in_flight} in flight: {self._share(INSERTS):,} a round …")
            for number in range(self.rounds):
                for trio, way in turns(ways, number):
                    job = self._job(trio.inserts(way), self._share(INSERTS), in_flight)
                    self._measure(trio, "insert", way, number, job)

    def reads(self) -> None:
        """Rows are written first, then read in all ways."""
        databases = self._databases()
        span = max(1, round(READS * self.scale / _STRIPE)) * _STRIPE
        written: dict[str, int] = {}
        for trio in databases:
            # One lane writes them, so that the numbers have no gaps.
            job = self._job(trio.inserts(trio.insert_ways[0]), span, IN_FLIGHT[0])
            written[trio.name] = job.first
            run(job, trio.generator)
        ways = [(trio, way) for trio in databases for way in trio.read_ways]
        wires = {(trio.name, way): trio.reads(way) for trio, way in ways}
        for in_flight in IN_FLIGHT:
            self.report.line(f"read, {in_flight} in flight: {self._share(READS):,} a round …")
            for number in range(self.rounds):
                for trio, way in turns(ways, number):
                    job = self._job(
                        wires[trio.name, way],
                        self._share(READS),
                        in_flight,
                        first=written[trio.name],
                        span=span,
                    )
                    self._measure(trio, "read", way, number, job)

    def failovers(self) -> None:
        """The kills, systems in turn."""
        databases = self._databases()
        self.report.line(f"failover: {self.kills} kills of each …")
        for number in range(self.kills):
            for trio in databases if number % 2 else databases[::-1]:
                self.found.failovers.append(failover(trio, self.rows.room()))

    def catch_ups(self) -> None:
        """One return of each."""
        rows = max(_STRIPE, round(CATCH_UP_ROWS * self.scale))
        for trio in self._databases():
            self.report.line(f"catch-up: {trio.name}, {rows:,} rows without one member …")
            wire = trio.inserts(trio.insert_ways[0])
            self.found.catch_ups.append(catch_up(trio, wire, rows, self.rows.room()))

    def idle(self, trios: Iterable[Trio]) -> None:
        """CPU while nothing is asked."""
        pause(_IDLE_REST_S * min(1.0, self.scale))
        for trio in trios:
            self.found.idles.append(idle(trio, max(2.0, IDLE_S * min(1.0, self.scale))))

    def _databases(self) -> list[Database]:
        return [trio for trio in self.trios.values() if isinstance(trio, Database)]

    def _share(self, count: int) -> int:
        return max(_STRIPE, round(count * self.scale) // self.rounds // _STRIPE * _STRIPE)

    def _job(
        self, wire: Wire, count: int, in_flight: int, *, first: int | None = None, span: int = 0
    ) -> LoadJob:
        return LoadJob(
            port=0,
            template="",
            expect=wire.expect,
            first=self.rows.room() if first is None else first,
            count=count,
            lanes=wire.lanes,
            tenants=wire.tenants,
            connections=in_flight,
            scatter_over=span,
        )

    def _measure(self, trio: Trio, phase: str, way: str, number: int, job: LoadJob) -> None:
        """Run one job and take the CPU time of each part of the system over it."""
        parts = trio.parts()
        leader = trio.measured_leader if isinstance(trio, Database) else 0
        pause(_REST_S)
        before_s = {part: measure.cpu_s(pids) for part, pids in parts.items()}
        result = run(job, trio.generator)
        cpu_us = {
            part: (measure.cpu_s(pids) - before_s[part]) * 1e6 / result.requests
            for part, pids in parts.items()
        }
        self.found.runs.append(
            Run(
                system=trio.name,
                title=trio.title,
                phase=phase,
                way=way,
                in_flight=job.connections,
                round=number,
                result=result,
                per_s=result.per_s,
                cpu_us=cpu_us,
                leader=str(leader),
            )
        )


def turns(ways: Sequence[tuple[AnyTrio, str]], number: int) -> list[tuple[AnyTrio, str]]:
    """The order of a round: each round begins with another, and every other one runs backwards,
    so that none always follows the same neighbour.
    """
    shift = number % max(1, len(ways))
    order = [*ways[shift:], *ways[:shift]]
    return order[::-1] if number % 2 else order


@contextmanager
def running(names: Sequence[str], parent: Path | None, groups: int) -> Generator[dict[str, Trio]]:
    """The named trios, started in new directories; stopped and removed at the end."""
    with ExitStack() as cleanup:
        home = Path(tempfile.mkdtemp(prefix="kalamdb-bench-", dir=parent))
        cleanup.callback(shutil.rmtree, home, ignore_errors=True)
        trios: dict[str, Trio] = {}
        for name in names:
            directory = home / name
            directory.mkdir()
            try:
                trio = TRIOS[name](directory, groups)
            except StackError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            cleanup.callback(trio.stop)
            trio.start()
            trios[name] = trio
        yield trios


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all amounts")
    parser.add_argument("--system", default=",".join(TRIOS), help="comma-separated list")
    parser.add_argument("--measure", default=",".join(MEASURES), help="comma-separated list")
    parser.add_argument("--rounds", type=int, default=6, help="rounds; all take turns in each")
    parser.add_argument("--kills", type=int, default=0, help=f"default: {KILLS} times the scale")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw results to FILE")
    parser.add_argument("--directory", type=Path, help="where the data lives (a real disk)")
    parser.add_argument(
        "--require", action="store_true", help="exit with 1 when a target is not met"
    )
    options = parser.parse_args()
    options.kills = options.kills or max(2, round(KILLS * min(1.0, options.scale)))
    options.system = listed(options.system, tuple(TRIOS), "system")
    options.measure = listed(options.measure, MEASURES, "measure")
    return options


def listed(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names in a comma-separated list, unknown ones refused."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown {what} {name!r}; there are {', '.join(known)}")
    return names


def main() -> None:
    """Measure and print; status 1 on a wrong answer, and on unmet targets with --require."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))
    report = Report()
    try:
        met = measure_and_print(options, report)
    except arena.BenchmarkError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    raise SystemExit(1 if options.require and not met else 0)


def measure_and_print(options: argparse.Namespace, report: Report) -> bool:
    """The whole program; whether the targets are met."""
    with running(options.system, options.directory, GROUPS) as trios:
        program = Program(trios, options, report)
        machine = [measure.machine(trio.directory) for trio in trios.values()]
        steps = {
            "idle": lambda: program.idle(trios.values()),
            "insert": program.inserts,
            "read": program.reads,
            "failover": program.failovers,
            "catch_up": program.catch_ups,
        }
        for name in options.measure:
            steps[name]()
    if "idle" in options.measure:
        # etcd has one group whatever is asked for, and was measured.
        names = [name for name in trios if name != EtcdTrio.name]
        with running(names, options.directory, MANY_GROUPS) as many:
            program.idle(many.values())
    found = program.found
    print_all(report, found.runs, found.idles, found.failovers, found.catch_ups)
    judged = targets(found.runs, found.failovers)
    met = report.targets(judged)
    write_json(
        options.json,
        {
            "benchmark": "cluster_sql",
            "scale": options.scale,
            "machine": machine[:1],
            **asdict(found),
            "targets": [asdict(target) for target in judged],
        },
    )
    return met


if __name__ == "__main__":
    main()
