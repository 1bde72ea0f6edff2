"""How fast are single-row inserts and primary-key reads over HTTP, beside two other stacks?

1. Every stack is started in a new directory; its idle memory is read; a short warm-up.
2. `insert`: 100,000 single-row inserts with 16 in flight. `insert_latency`: 10,000 more, for their
   latencies. `read`: 1,000,000 primary-key reads with 16 in flight, scattered over all rows.
   `--scale` multiplies. Each phase is cut into rounds in which the stacks take turns, so that a
   noisy minute hits all of them.
3. Printed are medians over the rounds, ratios (median of the rounds' ratios) and the server CPU
   time per request of all processes of a stack.

Invariants: every answer is checked (benchmarks.load); a wrong one ends the run with status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import arena, measure
from benchmarks.load import LoadJob, LoadResult, run
from benchmarks.report import (
    Report,
    Target,
    at_least,
    at_most,
    number,
    pair,
    ratio,
    write_json,
)
from benchmarks.stacks.stack import FIRST_ID, Stack, pause

PHASES = {"insert": 100_000, "insert_latency": 10_000, "read": 1_000_000}
IN_FLIGHT = 16
INSERT_RATIO = 2.0
READ_RATIO = 3.0
INSERT_P50_MS_MAX = 1.5
IDLE_MB_MAX = 170.0
SCAN_LIBRARIES = ("datafusion", "pyarrow", "libarrow")

_WARM_UP = 1_000
_REST_S = 0.3
_INSERT_COLUMNS = ("stack", "inserts/s", "CPU us", "p50 / p99 ms", "durability")
_READ_COLUMNS = ("stack", "reads/s", "CPU us", "p50 / p99 ms")


@dataclass(frozen=True, slots=True)
class Run:
    """One stack's part of one round of a phase."""

    stack: str
    phase: str
    round: int
    result: LoadResult
    per_s: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One stack in one phase, over all rounds; NaN when it did not run."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class Runs:
    """All measurements of the program."""

    def __init__(self) -> None:
        self.all: list[Run] = []

    def of(self, stack: str, phase: str) -> list[Run]:
        """The rounds of one stack in one phase, in order."""
        return [run for run in self.all if run.stack == stack and run.phase == phase]

    def summary(self, stack: str, phase: str) -> Summary:
        """Medians over the rounds; CPU over all requests."""
        runs = self.of(stack, phase)
        requests = sum(run.result.requests for run in runs)
        cpu_us = sum(run.cpu_us * run.result.requests for run in runs)
        return Summary(
            per_s=measure.median(run.per_s for run in runs),
            p50_ms=measure.median(run.result.p50_ms for run in runs),
            p99_ms=measure.median(run.result.p99_ms for run in runs),
            cpu_us=cpu_us / requests if requests else float("nan"),
        )

    def ratio(self, stack: str, other: str, phase: str) -> float:
        """Requests per second of `stack` as a multiple of `other`: median of the rounds' ratios."""
        both = zip(self.of(stack, phase), self.of(other, phase), strict=False)
        return measure.median(mine.per_s / theirs.per_s for mine, theirs in both)


def run_phase(stacks: dict[str, Stack], phase: str, scale: float, rounds: int, runs: Runs) -> None:
    """All rounds of one phase. Raises LoadError on a wrong answer."""
    inserted = _rows_before(phase, scale, rounds)
    done = 0
    for index, count in enumerate(arena.shares(round(PHASES[phase] * scale), rounds)):
        for name in arena.turns(list(stacks), index):
            stack = stacks[name]
            if phase == "read" and not stack.reads_differ:
                continue
            requests = stack.requests()
            if phase == "read":
                job = LoadJob(
                    port=requests.port,
                    template=requests.read,
                    expect=requests.read_expect,
                    first=FIRST_ID,
                    count=count,
                    scatter_over=inserted,
                    connections=IN_FLIGHT,
                )
            else:
                job = LoadJob(
                    port=requests.port,
                    template=requests.insert,
                    expect=requests.insert_expect,
                    status=requests.insert_status,
                    first=FIRST_ID + inserted + done,
                    count=count,
                    connections=IN_FLIGHT,
                )
            pause(_REST_S)
            runs.all.append(measured(stack, phase, index, job))
        done += count


def measured(stack: Stack, phase: str, index: int, job: LoadJob) -> Run:
    """Run one job and take the CPU time of the stack's processes over it."""
    before_s = measure.cpu_s(stack.pids())
    result = run(job)
    cpu_us = (measure.cpu_s(stack.pids()) - before_s) * 1e6 / result.requests
    return Run(stack.name, phase, index, result, result.per_s, cpu_us)


def warm_up(stack: Stack) -> None:
    """Insert and read the first rows, unmeasured: connections, prepared statements, caches."""
    requests = stack.requests()
    run(
        LoadJob(
            port=requests.port,
            template=requests.insert,
            expect=requests.insert_expect,
            status=requests.insert_status,
            first=FIRST_ID,
            count=_WARM_UP,
        )
    )
    run(
        LoadJob(
            port=requests.port,
            template=requests.read,
            expect=requests.read_expect,
            first=FIRST_ID,
            count=_WARM_UP,
        )
    )


def _rows_before(phase: str, scale: float, rounds: int) -> int:
    """How many rows every stack holds when a phase begins."""
    rows = _WARM_UP
    for name, count in PHASES.items():
        if name == phase:
            break
        rows += sum(arena.shares(round(count * scale), rounds))
    return rows


def print_results(report: Report, stacks: dict[str, Stack], runs: Runs) -> None:
    """The tables of inserts, reads and ratios."""
    inserts: list[Sequence[str]] = []
    reads: list[Sequence[str]] = []
    ratios: list[Sequence[str]] = []
    for name, stack in stacks.items():
        insert = runs.summary(name, "insert")
        latency = runs.summary(name, "insert_latency")
        read = runs.summary(name, "read")
        inserts.append(
            (
                stack.title,
                number(insert.per_s),
                number(insert.cpu_us),
                pair(latency.p50_ms, latency.p99_ms),
                stack.durability,
            )
        )
        if stack.reads_differ:
            times = pair(read.p50_ms, read.p99_ms)
            reads.append((stack.title, number(read.per_s), number(read.cpu_us), times))
        if name != arena.KALAMDB and arena.KALAMDB in stacks:
            by_phase = [ratio(runs.ratio(arena.KALAMDB, name, phase)) for phase in PHASES]
            ratios.append((f"KalamDB / {stack.title}", by_phase[0], by_phase[2]))
    report.table("single-row inserts, 16 in flight", _INSERT_COLUMNS, inserts)
    report.table("primary-key reads, 16 in flight", _READ_COLUMNS, reads)
    if ratios:
        report.table("ratios of requests per second", ("", "inserts", "reads"), ratios)
    reading = (run.result.generator_us for run in runs.all if run.phase == "read")
    report.line(f"The load generator used {measure.median(reading):.0f} us of CPU per read.")


def print_memory(
    report: Report,
    stacks: dict[str, Stack],
    idle: dict[str, measure.Memory],
    loaded: dict[str, measure.Memory],
) -> None:
    """Memory before and after the load."""
    rows = [
        (
            stack.title,
            number(idle[name].rss_mb),
            number(idle[name].pss_mb),
            number(loaded[name].rss_mb),
            number(loaded[name].pss_mb),
        )
        for name, stack in stacks.items()
    ]
    columns = ("stack", "idle RSS MB", "idle PSS MB", "loaded RSS MB", "loaded PSS MB")
    report.table("memory of all server processes (PSS counts shared pages once)", columns, rows)


def targets(runs: Runs, idle: dict[str, measure.Memory], mapped: list[str] | None) -> list[Target]:
    """The promises this program judges."""
    kalamdb, postgres = arena.KALAMDB, arena.POSTGRES
    idle_mb = idle[kalamdb].rss_mb if kalamdb in idle else float("nan")
    libraries = float("nan") if mapped is None else float(len(mapped))
    names = f": {', '.join(mapped[:4])}" if mapped else ""
    return [
        at_least(
            f"inserts at least {INSERT_RATIO:g} times the live PostgreSQL stack",
            runs.ratio(kalamdb, postgres, "insert"),
            INSERT_RATIO,
        ),
        at_least(
            f"point reads at least {READ_RATIO:g} times the PostgreSQL stack",
            runs.ratio(kalamdb, postgres, "read"),
            READ_RATIO,
        ),
        at_most(
            f"half of the inserts within {INSERT_P50_MS_MAX} ms at {IN_FLIGHT} in flight",
            runs.summary(kalamdb, "insert_latency").p50_ms,
            INSERT_P50_MS_MAX,
        ),
        at_most(f"idle KalamDB under {IDLE_MB_MAX:.0f} MB resident", idle_mb, IDLE_MB_MAX),
        at_most(
            f"no DataFusion or Arrow library mapped after inserts and point reads{names}",
            libraries,
            0.0,
        ),
    ]


def main() -> None:
    """Measure and print; status 1 on a wrong answer, and on unmet targets with --require."""
    parser = arena.arguments(__doc__, stacks="kalamdb,postgres,postgres-plain,pocketbase")
    options = parser.parse_args()
    report, runs = Report(), Runs()
    try:
        with arena.running(arena.chosen(options), options.directory) as stacks:
            met = _measure_and_print(
                report, runs, stacks, options.scale, options.rounds, options.json
            )
    except arena.BenchmarkError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    raise SystemExit(1 if options.require and not met else 0)


def _measure_and_print(
    report: Report,
    runs: Runs,
    stacks: dict[str, Stack],
    scale: float,
    rounds: int,
    json_file: Path | None,
) -> bool:
    arena.start_all(stacks)
    idle = {name: measure.memory(stack.pids()) for name, stack in stacks.items()}
    where = {name: measure.machine(stack.directory) for name, stack in stacks.items()}
    for stack in stacks.values():
        warm_up(stack)
    for phase in PHASES:
        report.line(f"{phase}: {round(PHASES[phase] * scale):,} requests per stack …")
        run_phase(stacks, phase, scale, rounds, runs)
    loaded = {name: measure.memory(stack.pids()) for name, stack in stacks.items()}
    mapped = None
    if arena.KALAMDB in stacks:
        mapped = measure.mapped_libraries(stacks[arena.KALAMDB].pids(), *SCAN_LIBRARIES)
    print_results(report, stacks, runs)
    print_memory(report, stacks, idle, loaded)
    judged = targets(runs, idle, mapped)
    met = report.targets(judged)
    write_json(
        json_file,
        {
            "benchmark": "http_sql",
            "scale": scale,
            "machine": where,
            "runs": [asdict(run) for run in runs.all],
            "memory": {"idle": idle, "loaded": loaded},
            "targets": [asdict(target) for target in judged],
        },
    )
    return met


if __name__ == "__main__":
    main()
