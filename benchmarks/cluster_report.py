"""The tables, ratios and targets of `cluster_sql`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import measure
from benchmarks.cluster_faults import CatchUp, Failover, Idle
from benchmarks.load import LoadResult
from benchmarks.report import Report, Target, at_least, at_most, number, pair, ratio

KALAMDB, ETCD = "kalamdb", "etcd"
ROUTER, LEADER, ONE_LEADER = "router", "leader", "one leader"
FAILOVER_MEDIAN_S = 1.0
FAILOVER_P95_S = 2.0
INSERT_RATIO = 1.0

_PHASES = {"insert": "fsynced, replicated inserts", "read": "linearizable primary-key reads"}


@dataclass(frozen=True, slots=True)
class Run:
    """One way of loading one system in one round. `cpu_us` is per request, by part."""

    system: str
    title: str
    phase: str
    way: str
    in_flight: int
    round: int
    result: LoadResult
    per_s: float
    cpu_us: Mapping[str, float]
    leader: str

    @property
    def key(self) -> tuple[str, str]:
        """What stays the same over the rounds."""
        return self.system, self.way


class Rounds:
    """The runs of one phase at one number in flight."""

    def __init__(self, runs: Sequence[Run], phase: str, in_flight: int) -> None:
        self._runs = [run for run in runs if (run.phase, run.in_flight) == (phase, in_flight)]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(system, way) of everything that ran, each once."""
        return list(dict.fromkeys(sorted(run.key for run in self._runs)))

    def of(self, system: str, way: str) -> list[Run]:
        """The rounds of one way, in order."""
        found = [run for run in self._runs if run.key == (system, way)]
        return sorted(found, key=lambda run: run.round)

    def ratios(self, mine: tuple[str, str], theirs: tuple[str, str]) -> list[float]:
        """Requests per second of one way as a multiple of another's, for every round."""
        both = zip(self.of(*mine), self.of(*theirs), strict=False)
        return [one.per_s / other.per_s for one, other in both]


def print_all(
    report: Report,
    runs: Sequence[Run],
    idles: Sequence[Idle],
    failovers: Sequence[Failover],
    catch_ups: Sequence[CatchUp],
) -> None:
    """Everything that was measured."""
    for phase, what in _PHASES.items():
        for in_flight in sorted({run.in_flight for run in runs if run.phase == phase}):
            rounds = Rounds(runs, phase, in_flight)
            print_rounds(report, f"{what}, {in_flight} in flight", rounds)
            print_parts(report, phase, rounds)
    print_failovers(report, failovers)
    if catch_ups:
        rows = [
            (one.system, number(one.rows), number(one.behind_s, 2), number(one.rows_per_s))
            for one in catch_ups
        ]
        columns = ("system", "rows behind", "level after s", "rows/s meanwhile")
        report.table("catch-up of a member that was down", columns, rows)
    if idles:
        table = [
            (one.system, number(one.groups), *(cells(one.percent, part) for part in _PARTS))
            for one in idles
        ]
        columns = ("system", "groups", *(f"{part} %" for part in _PARTS))
        report.table("idle CPU, percent of one core", columns, table)


_PARTS = ("1", "2", "3", "router")


def cells(values: Mapping[str, float], part: str) -> str:
    """One part's number, a dash for a part that is not there."""
    return number(values.get(part, float("nan")), 1)


def print_rounds(report: Report, title: str, rounds: Rounds) -> None:
    """Throughput with its spread, latencies, CPU, and the ratio to etcd's leader."""
    reference = (ETCD, LEADER)
    table: list[Sequence[str]] = []
    for system, way in rounds.keys:
        own = rounds.of(system, way)
        ratios = rounds.ratios((system, way), reference)
        each = " ".join(f"{value:.2f}" for value in ratios)
        table.append(
            (
                f"{own[0].title}, {way}",
                number(measure.median(run.per_s for run in own)),
                f"{min(run.per_s for run in own):,.0f}–{max(run.per_s for run in own):,.0f}",
                pair(
                    measure.median(run.result.p50_ms for run in own),
                    measure.median(run.result.p99_ms for run in own),
                ),
                number(measure.median(sum(run.cpu_us.values()) for run in own)),
                number(measure.median(run.result.generator_us for run in own)),
                ratio(measure.median(ratios)),
                each,
            )
        )
    columns = (
        "system, way", "per s", "spread", "p50 / p99 ms", "CPU us", "client us", "/ etcd", "rounds",
    )  # fmt: skip
    report.table(title, columns, table)


def print_parts(report: Report, phase: str, rounds: Rounds) -> None:
    """CPU per request of leader, follower and router, where one member leads all that is asked."""
    table: list[Sequence[str]] = []
    for system, way in ((KALAMDB, ONE_LEADER), (ETCD, LEADER)):
        own = rounds.of(system, way)
        if own:
            shares = [roles(run) for run in own]
            table.append(
                (
                    f"{own[0].title}, {way}",
                    *(
                        number(measure.median(share[role] for share in shares), 0)
                        for role in ("leader", "follower", "router")
                    ),
                )
            )
    if table:
        columns = ("system, way", "leader", "each follower", "router")
        report.table(f"CPU us per {phase} by role", columns, table)


def roles(run: Run) -> dict[str, float]:
    """CPU per request of the leader, of a follower on average, and of the router."""
    router = run.cpu_us.get("router", float("nan"))
    followers = [used for part, used in run.cpu_us.items() if part not in (run.leader, "router")]
    return {
        "leader": run.cpu_us.get(run.leader, float("nan")),
        "follower": sum(followers) / max(1, len(followers)),
        "router": router,
    }


def print_failovers(report: Report, failovers: Sequence[Failover]) -> None:
    """Distribution of the kills."""
    table: list[Sequence[str]] = []
    for system in dict.fromkeys(one.system for one in failovers):
        times = acknowledged(failovers, system)
        whole = measure.median(one.whole_s for one in failovers if one.system == system)
        table.append(
            (
                system,
                number(len(times)),
                number(times[0], 2),
                number(measure.median(times), 2),
                number(measure.percentile(times, 0.95), 2),
                number(times[-1], 2),
                number(whole, 2),
            )
        )
    if table:
        columns = ("system", "kills", "min s", "median s", "p95 s", "max s", "whole again s")
        report.table("kill -9 of the leader → first acknowledged write", columns, table)


def acknowledged(failovers: Sequence[Failover], system: str) -> list[float]:
    """Seconds to the first acknowledged write, ascending."""
    return sorted(one.acknowledged_s for one in failovers if one.system == system)


def targets(runs: Sequence[Run], failovers: Sequence[Failover]) -> list[Target]:
    """The promises this program judges."""
    mine, theirs = (KALAMDB, ROUTER), (ETCD, LEADER)
    at_16 = measure.median(Rounds(runs, "insert", 16).ratios(mine, theirs))
    at_64 = measure.median(Rounds(runs, "insert", 64).ratios(mine, theirs))
    times = acknowledged(failovers, KALAMDB)
    return [
        at_least("inserts through the router, 16 in flight: as many as etcd", at_16, INSERT_RATIO),
        at_least("inserts through the router, 64 in flight: more than etcd", at_64, INSERT_RATIO),
        at_most("failover, median s", measure.median(times), FAILOVER_MEDIAN_S),
        at_most("failover, 95th percentile s", measure.percentile(times, 0.95), FAILOVER_P95_S),
    ]
