"""How fast does a row reach 1, 100 and 1,000 live subscribers, and how many frames per second can a
server send?

For each number of subscribers of one tenant's table, the stacks take turns with two phases:

1. `paced`: one publisher inserts rows one after another at a steady pace. Latency is from just
   before the insert is written to the subscriber's read, over all deliveries.
2. `full`: 16 inserts in flight as fast as they are answered; deliveries per second from the first
   to the last.

All subscribers of a stack live in one process (benchmarks.wsload), the publisher in another
(benchmarks.load).

Invariants: every subscriber must receive every row exactly once, all of them in the same order, and
in the order of publishing where rows are published one after another. A stack that promises this
and does not keep it ends the run with status 1; PocketBase promises no order, so for it the order
is reported only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import arena, load, measure, wsload
from benchmarks.load import LoadJob, LoadResult
from benchmarks.report import Report, Target, at_most, number, pair, ratio, write_json
from benchmarks.stacks.stack import FIRST_ID, Stack, StackError, pause
from benchmarks.wsload import SinkJob, SinkResult

PACED_ROWS = 600
FULL_DELIVERIES = 300_000
FULL_ROWS_MAX = 6_000
IN_FLIGHT = 16
TARGET_SUBSCRIBERS = 1_000

_REST_S = 0.5
_PACED_COLUMNS = ("subscribers", "stack", "p50 / p99 ms", "max ms", "CPU us per delivery")
_FULL_COLUMNS = ("subscribers", "stack", "deliveries/s", "inserts/s", "CPU us per delivery", "rows")


@dataclass(frozen=True, slots=True)
class Run:
    """One stack's part of one round: what was published and what arrived."""

    stack: str
    phase: str
    subscribers: int
    round: int
    published: LoadResult
    arrived: SinkResult
    deliveries_per_s: float
    inserts_per_s: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Round:
    """What to do in one round of one phase."""

    phase: str
    subscribers: int
    number: int
    rows: int
    first: int
    pace_per_s: float


class Runs:
    """All measurements of the program."""

    def __init__(self) -> None:
        self.all: list[Run] = []

    def of(self, stack: str, phase: str, subscribers: int) -> list[Run]:
        """The rounds of one stack, in order."""
        wanted = (stack, phase, subscribers)
        return [run for run in self.all if (run.stack, run.phase, run.subscribers) == wanted]

    def latency_ratio(self, stack: str, other: str, subscribers: int, *, p99: bool) -> float:
        """Paced latency of `stack` over `other`'s: median of the rounds' ratios; below 1 faster."""
        both = zip(
            self.of(stack, "paced", subscribers),
            self.of(other, "paced", subscribers),
            strict=False,
        )
        return measure.median(
            mine.arrived.p99_ms / theirs.arrived.p99_ms
            if p99
            else mine.arrived.p50_ms / theirs.arrived.p50_ms
            for mine, theirs in both
        )

    def frames_ratio(self, stack: str, other: str, subscribers: int) -> float:
        """Deliveries per second at full speed as a multiple of `other`'s."""
        both = zip(
            self.of(stack, "full", subscribers), self.of(other, "full", subscribers), strict=False
        )
        return measure.median(
            mine.deliveries_per_s / theirs.deliveries_per_s for mine, theirs in both
        )


def run_round(stack: Stack, plan: Round) -> Run:
    """Subscribe, publish, wait for the last delivery, check. Raises StackError if it is wrong."""
    live, requests = stack.live(), stack.requests()
    sink = wsload.start(
        SinkJob(
            kind=live.kind,
            port=live.port,
            path=live.path,
            headers=dict(live.headers),
            steps=[list(step) for step in live.steps],
            keepalive=live.keepalive,
            subscribers=plan.subscribers,
            first=plan.first,
            rows=plan.rows,
        )
    )
    pause(_REST_S)
    before_s = measure.cpu_s(stack.pids())
    publisher = load.start(
        LoadJob(
            port=requests.port,
            template=requests.insert_live,
            expect=requests.insert_expect,
            status=requests.insert_status,
            first=plan.first,
            count=plan.rows,
            connections=1 if plan.pace_per_s else IN_FLIGHT,
            pace_per_s=plan.pace_per_s,
        )
    )
    arrived = wsload.finish(sink)
    published = load.finish(publisher)
    cpu_s = measure.cpu_s(stack.pids()) - before_s
    check(stack, plan, arrived, ordered=live.ordered)
    return Run(
        stack=stack.name,
        phase=plan.phase,
        subscribers=plan.subscribers,
        round=plan.number,
        published=published,
        arrived=arrived,
        deliveries_per_s=arrived.per_s,
        inserts_per_s=published.per_s,
        cpu_us=cpu_s * 1e6 / max(1, arrived.deliveries),
    )


def check(stack: Stack, plan: Round, arrived: SinkResult, *, ordered: bool) -> None:
    """Raises StackError unless what arrived is what the stack promises."""
    in_order = arrived.orders == 1 and (arrived.by_number or not plan.pace_per_s)
    if arrived.exact and (in_order or not ordered):
        return
    raise StackError(
        f"{stack.name}, {plan.phase}, {plan.subscribers} subscribers, {plan.rows} rows: "
        f"lost {arrived.lost}, twice {arrived.twice}, unknown {arrived.unknown}, "
        f"{arrived.orders} different orders, by number {arrived.by_number}, "
        f"faults {arrived.faults}"
    )


def run_all(
    report: Report, stacks: dict[str, Stack], options: argparse.Namespace, runs: Runs
) -> None:
    """Every number of subscribers, both phases, all rounds, the stacks in turns."""
    first = FIRST_ID
    for subscribers in options.subscribers:
        paced = max(10, round(PACED_ROWS * options.scale / options.rounds))
        full = max(20, round(_full_rows(subscribers) * options.scale / options.rounds))
        report.line(
            f"{subscribers} subscribers: {options.rounds} rounds of {paced} rows at "
            f"{options.pace:.0f}/s, {full} rows at full speed …"
        )
        for number_of_round in range(options.rounds):
            for phase, rows, pace in (("paced", paced, options.pace), ("full", full, 0.0)):
                plan = Round(phase, subscribers, number_of_round, rows, first, pace)
                for name in arena.turns(list(stacks), number_of_round):
                    pause(_REST_S)
                    runs.all.append(run_round(stacks[name], plan))
                first += rows


def _full_rows(subscribers: int) -> int:
    """Rows at full speed: enough to last, few enough that 1,000 subscribers end."""
    return min(FULL_ROWS_MAX, FULL_DELIVERIES // subscribers)


def print_results(
    report: Report, stacks: dict[str, Stack], counts: Sequence[int], runs: Runs
) -> None:
    """Two tables of measurements and one of ratios."""
    paced: list[Sequence[str]] = []
    full: list[Sequence[str]] = []
    ratios: list[Sequence[str]] = []
    for subscribers in counts:
        for name, stack in stacks.items():
            paced.append(_paced_row(stack, subscribers, runs.of(name, "paced", subscribers)))
            full.append(_full_row(stack, subscribers, runs.of(name, "full", subscribers)))
            if name != arena.KALAMDB and arena.KALAMDB in stacks:
                ratios.append(_ratio_row(stack, subscribers, runs))
    report.table("latency from publish to read, steady pace", _PACED_COLUMNS, paced)
    report.table("full speed, 16 inserts in flight", _FULL_COLUMNS, full)
    if ratios:
        columns = ("KalamDB / …", "latency p50", "latency p99", "deliveries/s")
        report.table("ratios (latency: less is better)", columns, ratios)
    sink_us = measure.median(run.arrived.sink_us for run in runs.all if run.phase == "full")
    report.line(f"The subscriber process itself used {sink_us:.1f} us of CPU per delivery.")


def _paced_row(stack: Stack, subscribers: int, runs: Sequence[Run]) -> Sequence[str]:
    p50_ms = measure.median(run.arrived.p50_ms for run in runs)
    p99_ms = measure.median(run.arrived.p99_ms for run in runs)
    return (
        number(subscribers),
        stack.title,
        pair(p50_ms, p99_ms),
        number(measure.median(run.arrived.max_ms for run in runs), 1),
        number(measure.median(run.cpu_us for run in runs), 1),
    )


def _full_row(stack: Stack, subscribers: int, runs: Sequence[Run]) -> Sequence[str]:
    return (
        number(subscribers),
        stack.title,
        number(measure.median(run.deliveries_per_s for run in runs)),
        number(measure.median(run.inserts_per_s for run in runs)),
        number(measure.median(run.cpu_us for run in runs), 1),
        _delivery(runs),
    )


def _ratio_row(stack: Stack, subscribers: int, runs: Runs) -> Sequence[str]:
    name = stack.name
    return (
        f"{stack.title}, {subscribers:,} subscribers",
        ratio(runs.latency_ratio(arena.KALAMDB, name, subscribers, p99=False)),
        ratio(runs.latency_ratio(arena.KALAMDB, name, subscribers, p99=True)),
        ratio(runs.frames_ratio(arena.KALAMDB, name, subscribers)),
    )


def _delivery(runs: Sequence[Run]) -> str:
    """What was found out about delivery; every row exactly once is checked before."""
    same = all(run.arrived.orders == 1 for run in runs)
    return "once, in one order" if same else "once, orders differ"


def targets(runs: Runs) -> list[Target]:
    """The promise this program judges."""
    value = runs.latency_ratio(arena.KALAMDB, arena.POSTGRES, TARGET_SUBSCRIBERS, p99=False)
    text = f"latency at {TARGET_SUBSCRIBERS:,} subscribers no worse than the PostgreSQL stack's"
    return [at_most(text, value, 1.0)]


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print; status 1 on a wrong delivery, and on unmet targets with --require."""
    parser = arena.arguments(__doc__, stacks="kalamdb,postgres,pocketbase")
    parser.add_argument(
        "--subscribers", type=_counts, default=[1, 100, 1_000], help="comma-separated numbers"
    )
    parser.add_argument("--pace", type=float, default=50.0, help="rows per second when paced")
    options = parser.parse_args()
    report, runs = Report(), Runs()
    try:
        with arena.running(arena.chosen(options), options.directory) as stacks:
            arena.start_all(stacks)
            where = {name: measure.machine(stack.directory) for name, stack in stacks.items()}
            run_all(report, stacks, options, runs)
            print_results(report, stacks, options.subscribers, runs)
    except arena.BenchmarkError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    judged = targets(runs)
    met = report.targets(judged)
    write_json(
        options.json,
        {
            "benchmark": "live_fanout",
            "scale": options.scale,
            "pace_per_s": options.pace,
            "machine": where,
            "runs": [asdict(run) for run in runs.all],
            "targets": [asdict(target) for target in judged],
        },
    )
    raise SystemExit(1 if options.require and not met else 0)


if __name__ == "__main__":
    main()
