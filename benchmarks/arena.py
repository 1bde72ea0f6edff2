"""What the three programs share: which stacks take part, where their data lies, how they end.

Invariants: data directories are new and are removed at the end, also after an error or a SIGTERM; a
stack that is not installed is named and left out; one that is installed and does not work ends the
run.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.load import LoadError
from benchmarks.stacks.kalamdb import KalamStack
from benchmarks.stacks.pocketbase import PocketBaseStack
from benchmarks.stacks.postgres import PostgresPlainStack, PostgresStack
from benchmarks.stacks.stack import Stack, StackError, pause
from benchmarks.wsload import SinkError

STACKS: dict[str, type[Stack]] = {
    stack.name: stack for stack in (KalamStack, PostgresStack, PostgresPlainStack, PocketBaseStack)
}
KALAMDB = KalamStack.name
POSTGRES = PostgresStack.name

BenchmarkError = (StackError, LoadError, SinkError)
"""What a wrong answer or a broken stack raises."""

_SETTLE_S = 1.0


def arguments(description: str | None, *, stacks: str) -> argparse.ArgumentParser:
    """The options every program has; `stacks` is the default list."""
    parser = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0],
        epilog=f"stacks: {', '.join(STACKS)}",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all row counts")
    parser.add_argument("--stack", default=stacks, help="comma-separated list of stacks")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the stacks take turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw results to FILE")
    parser.add_argument("--directory", type=Path, help="where the databases live (a real disk)")
    parser.add_argument(
        "--require", action="store_true", help="exit with 1 when a target is not met"
    )
    return parser


def chosen(options: argparse.Namespace) -> list[str]:
    """The names of the stacks to run, unknown names refused."""
    names = [name.strip() for name in str(options.stack).split(",") if name.strip()]
    for name in names:
        if name not in STACKS:
            raise SystemExit(f"unknown stack {name!r}; there are {', '.join(STACKS)}")
    return names


@contextmanager
def running(names: Sequence[str], parent: Path | None) -> Generator[dict[str, Stack]]:
    """The named stacks, each in a new directory, not started; stopped and removed at the end."""
    signal.signal(signal.SIGTERM, _terminate)
    with ExitStack() as cleanup:
        home = Path(tempfile.mkdtemp(prefix="kalamdb-bench-", dir=parent))
        cleanup.callback(shutil.rmtree, home, ignore_errors=True)
        # PostgreSQL runs as another user and must be able to pass through.
        home.chmod(0o755)
        stacks: dict[str, Stack] = {}
        for name in names:
            directory = home / name
            directory.mkdir()
            try:
                stack = STACKS[name](directory)
            except StackError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            cleanup.callback(stack.stop)
            stacks[name] = stack
        yield stacks


def start_all(stacks: dict[str, Stack]) -> None:
    """Start the stacks one after another and let them come to rest. Raises StackError."""
    for stack in stacks.values():
        stack.start()
    pause(_SETTLE_S)


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """The order in which the stacks run in a round: each round another one begins."""
    shift = round_number % max(1, len(names))
    return [*names[shift:], *names[:shift]]


def shares(total: int, rounds: int) -> list[int]:
    """`total` cut into `rounds` nearly equal parts, none below 1."""
    return [max(1, total * (n + 1) // rounds - total * n // rounds) for n in range(rounds)]


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)
