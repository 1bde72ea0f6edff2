"""How long after kill -9 does a database answer again, and is the last acknowledged row there?

For each stack, one after another: insert 100,000 rows with 16 single-row inserts in flight
(`--scale` multiplies), then SIGKILL to all its processes, start them again, and take the time from
the start of the first process until

1. `health`: its own health endpoint answers 200 (for PostgreSQL that of the application, with a
   working pool);
2. `database`: PostgreSQL itself, without the application, answers a query;
3. `read`: the row that was acknowledged last is read, whole, through the stack's own API.

Then every row is read once and checked. Invariants: a missing or wrong row ends the run with status
1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks import arena, load, measure
from benchmarks.load import ID_MARK, LoadError, LoadJob
from benchmarks.report import Report, Target, at_most, number, ratio, write_json
from benchmarks.stacks.calls import exchange
from benchmarks.stacks.postgres import PostgresStack
from benchmarks.stacks.stack import FIRST_ID, Stack, StackError, pause

ROWS = 100_000
TARGET_S = 2.0
IN_FLIGHT = 16

_WAIT_S = 120.0
_POLL_S = 0.005
_UNKNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Recovery:
    """One stack's restart. Times in seconds from the start of its first process."""

    stack: str
    round: int
    rows: int
    health_s: float
    database_s: float
    read_s: float


def recover(stack: Stack, number_of_round: int, rows: int, first: int) -> Recovery:
    """Load, kill, start, time, check. Raises LoadError or StackError."""
    requests = stack.requests()
    load.run(
        LoadJob(
            port=requests.port,
            template=requests.insert,
            expect=requests.insert_expect,
            status=requests.insert_status,
            first=first,
            count=rows,
            connections=IN_FLIGHT,
        )
    )
    stack.kill()
    began_s = time.monotonic()
    stack.launch()
    taken = wait_answers(stack, probes(stack, first + rows - 1), began_s)
    load.run(
        LoadJob(
            port=requests.port,
            template=requests.read,
            expect=requests.read_expect,
            first=first,
            count=rows,
            connections=IN_FLIGHT,
        )
    )
    return Recovery(
        stack=stack.name,
        round=number_of_round,
        rows=rows,
        health_s=taken["health"],
        database_s=taken.get("database", _UNKNOWN),
        read_s=taken["read"],
    )


def probes(stack: Stack, last: int) -> dict[str, Callable[[], bool]]:
    """What is asked while the stack comes back, in this order."""
    asked: dict[str, Callable[[], bool]] = {
        "health": stack.ready,
        "read": lambda: reads_row(stack, last),
    }
    match stack:
        case PostgresStack():
            return {"database": stack.database_ready, **asked}
        case _:
            return asked


def reads_row(stack: Stack, row: int) -> bool:
    """Whether the row is read now. Raises LoadError when the stack answers without it."""
    requests = stack.requests()
    answer = exchange(requests.port, requests.read.replace(ID_MARK, str(row)))
    if not answer.startswith(b"HTTP/1.1 200"):
        return False
    if any(part.replace(ID_MARK, str(row)).encode() not in answer for part in requests.read_expect):
        raise LoadError(f"{stack.name} lost row {row}: {answer[:300]!r}")
    return True


def wait_answers(
    stack: Stack, asked: dict[str, Callable[[], bool]], began_s: float
) -> dict[str, float]:
    """Seconds until each probe first succeeded. Raises StackError when one does not."""
    taken: dict[str, float] = {}
    while len(taken) < len(asked):
        for name, probe in asked.items():
            if name not in taken and probe():
                taken[name] = time.monotonic() - began_s
        if time.monotonic() - began_s > _WAIT_S or stack.processes.died():
            raise StackError(f"{stack.name} did not come back\n{stack.log_tail()}")
        pause(_POLL_S)
    return taken


def print_results(report: Report, stacks: dict[str, Stack], all_of: list[Recovery]) -> None:
    """The table: medians over the rounds, and the ratio of first reads."""
    mine_s = measure.median(one.read_s for one in all_of if one.stack == arena.KALAMDB)
    rows: list[tuple[str, ...]] = []
    for name, stack in stacks.items():
        own = [one for one in all_of if one.stack == name]
        read_s = measure.median(one.read_s for one in own)
        rows.append(
            (
                stack.title,
                number(own[0].rows if own else 0),
                number(measure.median(one.database_s for one in own), 2),
                number(measure.median(one.health_s for one in own), 2),
                number(read_s, 2),
                ratio(mine_s / read_s),
            )
        )
    columns = ("stack", "rows", "database s", "health s", "read s", "KalamDB /")
    report.table("time from start after kill -9", columns, rows)


def main() -> None:
    """Measure and print; status 1 on a lost row, and on unmet targets with --require."""
    parser = arena.arguments(__doc__, stacks="kalamdb,postgres,pocketbase")
    parser.set_defaults(rounds=1)
    options = parser.parse_args()
    report = Report()
    try:
        all_of = _measure_and_print(report, options)
    except arena.BenchmarkError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    judged = targets(all_of)
    met = report.targets(judged)
    write_json(
        options.json,
        {
            "benchmark": "recovery",
            "scale": options.scale,
            "recoveries": [asdict(one) for one in all_of],
            "targets": [asdict(target) for target in judged],
        },
    )
    raise SystemExit(1 if options.require and not met else 0)


def _measure_and_print(report: Report, options: argparse.Namespace) -> list[Recovery]:
    rows = max(IN_FLIGHT, round(ROWS * options.scale))
    all_of: list[Recovery] = []
    with arena.running(arena.chosen(options), options.directory) as stacks:
        arena.start_all(stacks)
        for index in range(options.rounds):
            for name in arena.turns(list(stacks), index):
                report.line(f"{name}: {rows:,} rows, kill -9, start …")
                all_of.append(recover(stacks[name], index, rows, FIRST_ID + index * rows))
        print_results(report, stacks, all_of)
    return all_of


def targets(all_of: list[Recovery]) -> list[Target]:
    """The promise this program judges: it holds for a whole log of 100,000 entries."""
    kalamdb_s = measure.median(one.read_s for one in all_of if one.stack == arena.KALAMDB)
    return [at_most(f"KalamDB reads again within {TARGET_S:.0f} s", kalamdb_s, TARGET_S)]


if __name__ == "__main__":
    main()
