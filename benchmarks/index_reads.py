"""The newest messages of one thread, in a tenant with a million rows: with an index and without.

A KalamDB node holds one USER table of one tenant with `--rows` messages in `--threads` threads.
`SELECT … WHERE thread_id = $1 ORDER BY id DESC LIMIT 50` is asked over one HTTP connection, one
request after another, before and after `CREATE INDEX … (thread_id)`, in the same run; then while
the same tenant inserts. The build of the index, and what it costs an insert, are timed as well.

Invariants: every answer is checked (the number of rows, their thread, their order); a wrong one
ends the run with status 1.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson

from benchmarks import measure
from benchmarks.stacks.kalamdb import KalamStack
from benchmarks.stacks.stack import StackError

ROWS = 1_000_000
THREADS = 10_000
LIMIT = 50
CHUNK_ROWS = 500
TARGET_MS = 3.0

_TABLE = (
    "CREATE USER TABLE bench.chat (id BIGINT PRIMARY KEY, thread_id BIGINT, author TEXT, body TEXT)"
)
_INDEX = "CREATE INDEX chat_thread ON bench.chat (thread_id)"
_QUERY = (
    "SELECT id, thread_id, author, body FROM bench.chat"
    f" WHERE thread_id = $1 ORDER BY id DESC LIMIT {LIMIT}"
)
_INSERT = "INSERT INTO bench.chat (id, thread_id, author, body) VALUES ($1, $2, $3, $4)"
_BODY = "a message of about as many words as people write in a chat, number {}"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one request at a time."""

    what: str
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Caller:
    """One HTTP connection of one signed-in user."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def sql(self, sql: str, params: list[Any] | None = None) -> Any:
        """The first result. Raises StackError."""
        body: dict[str, Any] = {"sql": sql}
        if params is not None:
            body["params"] = params
        try:
            self._connection.request("POST", "/v1/api/sql", orjson.dumps(body), self._headers)
        except OSError:  # the server closes connections that rest
            self._connection.close()
            self._connection.request("POST", "/v1/api/sql", orjson.dumps(body), self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise StackError(f"{sql[:80]}: {response.status} {answer[:300]!r}")
        return orjson.loads(answer)["results"][0]

    def close(self) -> None:
        self._connection.close()


def load(caller: Caller, rows: int, threads: int) -> float:
    """Insert the messages, threads taking turns; rows per second."""
    places = ", ".join(
        f"(${at + 1}, ${at + 2}, ${at + 3}, ${at + 4})" for at in range(0, 4 * CHUNK_ROWS, 4)
    )
    sql = f"INSERT INTO bench.chat (id, thread_id, author, body) VALUES {places}"
    began_s = time.monotonic()
    for first in range(0, rows, CHUNK_ROWS):
        params: list[Any] = []
        for number in range(first, first + CHUNK_ROWS):
            params += (number, number % threads, f"author {number % 97}", _BODY.format(number))
        caller.sql(sql, params)
        if first % (100 * CHUNK_ROWS) == 0:
            print(f"  {first:,} rows loaded", file=sys.stderr)
    return rows / (time.monotonic() - began_s)


def timed(what: str, count: int, ask: Callable[[], None]) -> Latency:
    taken: list[float] = []
    for _ in range(count):
        began_s = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - began_s) * 1000)
    taken.sort()
    middle, late = measure.percentile(taken, 0.5), measure.percentile(taken, 0.99)
    return Latency(what, count, middle, late, taken[-1])


class Reader:
    """Asks for threads at random and checks what comes back."""

    def __init__(self, caller: Caller, rows: int, threads: int) -> None:
        self._caller = caller
        self._expected = min(LIMIT, rows // threads)
        self._threads = threads
        self._dice = Random(1)

    def ask(self) -> None:
        """Raises StackError for a wrong answer."""
        thread = self._dice.randrange(self._threads)
        rows = self._caller.sql(_QUERY, [thread])["rows"]
        ids = [int(row[0]) for row in rows]
        threads = {int(row[1]) for row in rows}
        if len(rows) < self._expected or threads != {thread} or ids != sorted(ids, reverse=True):
            raise StackError(f"thread {thread}: {len(rows)} rows of {threads}")


@contextmanager
def inserting(caller: Caller, threads: int, first: int) -> Iterator[list[float]]:
    """Somebody inserts meanwhile, one row after another; gives the latencies in ms."""
    stop = threading.Event()
    taken: list[float] = []

    def run() -> None:
        number = first
        while not stop.is_set():
            began_s = time.perf_counter()
            caller.sql(_INSERT, [number, number % threads, "somebody", _BODY.format(number)])
            taken.append((time.perf_counter() - began_s) * 1000)
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def written(what: str, taken: list[float]) -> Latency:
    taken = sorted(taken) or [float("nan")]
    middle, late = measure.percentile(taken, 0.5), measure.percentile(taken, 0.99)
    return Latency(what, len(taken), middle, late, taken[-1])


def run(stack: KalamStack, options: argparse.Namespace) -> tuple[list[Latency], dict[str, float]]:
    root = Caller(stack.http_port, stack.root_token())
    root.sql(_TABLE)
    caller, other = (Caller(stack.http_port, stack.token) for _ in range(2))
    facts = {"loaded_rows_per_s": load(caller, options.rows, options.threads)}
    reader = Reader(caller, options.rows, options.threads)
    found: list[Latency] = []
    with inserting(other, options.threads, options.rows) as taken:
        time.sleep(options.seconds)
    found.append(written("insert, no index", taken))
    found.append(timed("first read, no index (unchanged table)", 1, reader.ask))
    found.append(timed("read, no index (unchanged table)", options.slow, reader.ask))
    with inserting(other, options.threads, options.rows * 2) as taken:
        found.append(timed("read, no index, while inserting", options.slow, reader.ask))
    found.append(written("insert while that reads", taken))
    with inserting(other, options.threads, options.rows * 3) as taken:
        began_s = time.monotonic()
        root.sql(_INDEX)
        facts["index_built_s"] = time.monotonic() - began_s
    found.append(written("insert while the index is built", taken))
    timed("warm", 100, reader.ask)
    found.append(timed("read, index", options.fast, reader.ask))
    with inserting(other, options.threads, options.rows * 4) as taken:
        found.append(timed("read, index, while inserting", options.fast, reader.ask))
    with inserting(other, options.threads, options.rows * 5) as taken:
        time.sleep(options.seconds)
    found.append(written("insert, index", taken))
    for one in (root, caller, other):
        one.close()
    return found, facts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--fast", type=int, default=2000, help="reads with the index")
    parser.add_argument("--slow", type=int, default=5, help="reads without it")
    parser.add_argument("--seconds", type=float, default=3.0, help="of inserts alone")
    parser.add_argument("--directory", type=Path, help="where the database lives (a real disk)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--require", action="store_true", help="exit with 1 above the target")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="kalamdb-bench-", dir=options.directory))
    stack = KalamStack(home)
    try:
        stack.start()
        found, facts = run(stack, options)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        stack.stop()
        shutil.rmtree(home, ignore_errors=True)
    for one in found:
        print(
            f"{one.what:42} {one.count:6} times  p50 {one.p50_ms:9.2f} ms  p99 {one.p99_ms:9.2f} ms"
            f"  max {one.max_ms:9.2f} ms"
        )
    named = {one.what: one for one in found}
    fast, slow = named["read, index"], named["read, no index, while inserting"]
    print(f"without / with the index: {slow.p50_ms / fast.p50_ms:,.0f} times (p50)")
    for name, value in facts.items():
        print(f"{name}: {value:,.1f}")
    if options.json:
        machine = measure.machine(options.json.resolve().parent)
        report = {"machine": machine, "facts": facts, "latency": [asdict(one) for one in found]}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return int(options.require and fast.p50_ms >= TARGET_MS)


if __name__ == "__main__":
    sys.exit(main())
