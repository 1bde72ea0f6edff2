"""The HTTP load generator: a process of its own, raw keep-alive connections on uvloop, one request
in flight on each.

1. The caller describes the work as a `LoadJob`; `run` starts `python -m benchmarks.load` and hands
   it over as JSON.
2. A request is a byte template; the row number replaces `ID_MARK` wherever it stands. Row numbers
   have ten digits, so the length of every request is known beforehand and nothing is encoded while
   the clock runs.
3. A response is cut by Content-Length (or chunks), its status is compared, and every expected
   fragment, with the row number in it, must be in the body: for a read, each value of the row.
4. The process prints one `LoadResult` as JSON.

Invariants: no response goes unchecked; a connection lost or a request unanswered is an error of the
run, never a smaller count.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks.measure import percentile

ID_MARK = "@@@@@@@@@@"
"""Stands for the ten-digit row number in templates and expected fragments."""
TIME_MARK = "~~~~~~~~~~~~~~~~~~~"
"""Stands for the 19-digit CLOCK_MONOTONIC nanoseconds taken just before the request is written."""

ROOT = Path(__file__).resolve().parents[1]
"""The project directory, from which `python -m benchmarks.…` works."""

_ID = ID_MARK.encode()
_TIME = TIME_MARK.encode()
_BETWEEN = b"\0"
_FAULTS_KEPT = 3
_STRIDE = 2_654_435_761


class LoadError(Exception):
    """The generator could not finish its job; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The connections to one server: its port and the templates of the tenants that use it.

    Tenants have numbers below `LoadJob.tenants`; row n belongs to tenant n modulo that, in every
    lane and every job, so that reads find what other lanes wrote. `templates[i]` is of tenant
    `members[i]`.
    """

    port: int
    templates: tuple[str, ...]
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadJob:
    """What to send, and the fragments that every answer must hold.

    Row numbers are `first .. first + count - 1` in order, or `count` numbers scattered over `first
    .. first + scatter_over - 1` when that is given. `pace_per_s` sends at a steady rate instead of
    as fast as the connections allow. `lanes` replace `port` and `template`: the connections are
    dealt out to them, each lane takes its tenants in turn and counts its rows from the first
    multiple of `tenants` at or after `first`; then `scatter_over` is counted from there too.
    """

    port: int
    template: str
    expect: tuple[str, ...]
    first: int
    count: int
    lanes: tuple[Lane, ...] = ()
    tenants: int = 1
    connections: int = 16
    status: int = 200
    scatter_over: int = 0
    pace_per_s: float = 0.0
    stall_s: float = 60.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came back. `generator_us` is the generator's own CPU time per request."""

    requests: int
    wrong: int
    faults: tuple[str, ...]
    took_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    generator_us: float

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.took_s if self.took_s else float("nan")


def start(job: LoadJob, generator: str = "benchmarks.load") -> subprocess.Popen[bytes]:
    """Start the generator; `finish` waits for it. Other protocols have a `generator` of their own
    that takes the same job.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", generator],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(orjson.dumps(asdict(job)))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[bytes]) -> LoadResult:
    """Wait for the generator. Raises LoadError when it failed or any answer was wrong."""
    output, _ = process.communicate()
    if process.returncode or not output:
        raise LoadError(f"load generator ended with status {process.returncode}")
    fields = orjson.loads(output)
    result = LoadResult(**{**fields, "faults": tuple(fields["faults"])})
    if result.wrong:
        raise LoadError(f"{result.wrong} of {result.requests} answers were wrong: {result.faults}")
    return result


def run(job: LoadJob, generator: str = "benchmarks.load") -> LoadResult:
    """Do the job in a generator process and wait for it. Raises LoadError."""
    return finish(start(job, generator))


def job_from(text: bytes) -> LoadJob:
    """The job that a generator was handed."""
    fields = orjson.loads(text)
    lanes = tuple(
        Lane(lane["port"], tuple(lane["templates"]), tuple(lane["members"]))
        for lane in fields["lanes"]
    )
    return LoadJob(**{**fields, "expect": tuple(fields["expect"]), "lanes": lanes})


class Draw:
    """The rows of one lane: their numbers in order, each with its request template."""

    def __init__(self, job: LoadJob, lane: Lane) -> None:
        self.port = lane.port
        self._templates = [template.encode() for template in lane.templates]
        self._members = lane.members
        self._tenants = job.tenants
        self._base = -(-job.first // job.tenants) * job.tenants
        self._span = job.scatter_over // job.tenants * len(lane.members)
        self._drawn = 0

    def next(self) -> tuple[int, bytes]:
        """A row number and the template of the tenant it belongs to."""
        drawn = self._drawn
        self._drawn = drawn + 1
        if self._span:
            drawn = drawn * _STRIDE % self._span
        turn, at = divmod(drawn, len(self._members))
        return self._base + turn * self._tenants + self._members[at], self._templates[at]


class Run:
    """The state shared by all connections of one job."""

    def __init__(self, job: LoadJob) -> None:
        lanes = job.lanes or (Lane(job.port, (job.template,), (0,)),)
        self.draws = [Draw(job, lane) for lane in lanes]
        self.timed = _TIME in job.template.encode()
        self.expect = _BETWEEN.join(fragment.encode() for fragment in job.expect)
        self.status = b"HTTP/1.1 %d" % job.status
        self.count = job.count
        self.paced = job.pace_per_s > 0
        self.issued = 0
        self.latencies = array("Q")
        self.wrong = 0
        self.faults: list[str] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self) -> bool:
        """Count one more request; False when all are issued."""
        if self.issued >= self.count:
            return False
        self.issued += 1
        return True

    def is_right(self, response: bytes, digits: bytes) -> bool:
        """Whether a response has the status and every expected fragment."""
        return response.startswith(self.status) and self.has_all(response, digits)

    def has_all(self, response: bytes, digits: bytes) -> bool:
        """Whether a response has every expected fragment."""
        for fragment in self.expect.replace(_ID, digits).split(_BETWEEN):
            if fragment not in response:
                return False
        return True

    def fault(self, response: bytes) -> None:
        """Count a wrong answer and keep the first few."""
        self.wrong += 1
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(response[:600].decode("utf-8", "replace"))

    def done(self, latency_ns: int) -> None:
        """Count an answered request."""
        latencies = self.latencies
        latencies.append(latency_ns)
        if len(latencies) == self.count and not self.finished.done():
            self.finished.set_result(None)

    def lost(self, why: str) -> None:
        """End the run: a connection was lost while requests were open."""
        if not self.finished.done():
            self.finished.set_exception(LoadError(why))


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("buffer", "digits", "draw", "open", "run", "sent_ns", "transport")

    def __init__(self, run: Run, draw: Draw) -> None:
        self.run = run
        self.draw = draw
        self.buffer = b""
        self.digits = b""
        self.sent_ns = 0
        self.open = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open:
            self.run.lost(f"the server closed a connection with a request in flight ({exc})")

    async def wait_ready(self) -> None:
        """Until requests may be written; HTTP has no greeting."""

    def send(self) -> None:
        """Write the next request, if there is one left."""
        run = self.run
        if not run.take():
            return
        self.open = True
        number, template = self.draw.next()
        self.digits = digits = b"%d" % number
        request = template.replace(_ID, digits)
        if run.timed:
            request = request.replace(_TIME, b"%019d" % time.monotonic_ns())
        self.sent_ns = time.perf_counter_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        body_at = body_start(data)
        if body_at < 0:
            self.buffer = data
            return
        self.buffer = b""
        run = self.run
        latency_ns = time.perf_counter_ns() - self.sent_ns
        self.open = False
        if not run.is_right(data, self.digits):
            run.fault(data)
        run.done(latency_ns)
        if not run.paced:
            self.send()


def body_start(data: bytes) -> int:
    """Offset of the body when `data` holds one whole response, else -1."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return -1
    at = data.find(b"ontent-Length: ", 0, head_end)
    if at < 0:
        at = data.find(b"ontent-length: ", 0, head_end)
    if at >= 0:
        length = int(data[at + 15 : data.index(b"\r", at)])
        return head_end + 4 if len(data) - head_end - 4 >= length else -1
    if b"chunked" in data[:head_end]:
        return head_end + 4 if data.endswith(b"0\r\n\r\n") else -1
    return head_end + 4


async def _pace(connections: list[Connection], per_s: float, run: Run) -> None:
    """Send at a steady rate; a request that is late waits for the connection to be free.

    With one connection rows are therefore published one after another, and their order is known.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    turn = 0
    while run.issued < run.count and not run.finished.done():
        connection = connections[turn % len(connections)]
        turn += 1
        while connection.open:
            await asyncio.sleep(0.0005)
        connection.send()
        due = max(due + 1 / per_s, loop.time() - 1 / per_s)
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _watch(run: Run, stall_s: float) -> None:
    """End the run when no answer arrives for `stall_s`."""
    answered = -1
    while answered != len(run.latencies):
        answered = len(run.latencies)
        await asyncio.sleep(stall_s)
    run.lost(f"no answer for {stall_s:.0f} s after {answered} requests")


async def work(job: LoadJob, kind: type[Connection] = Connection) -> LoadResult:
    """Do the job on connections of a `kind`; all are ready before the clock runs."""
    run = Run(job)
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    for number in range(job.connections):
        draw = run.draws[number % len(run.draws)]
        connection = kind(run, draw)
        await loop.create_connection(lambda made=connection: made, "127.0.0.1", draw.port)
        connections.append(connection)
    for connection in connections:
        await connection.wait_ready()
    gc.collect()
    gc.disable()
    cpu_before = _own_cpu_s()
    began_ns = time.perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_watch(run, job.stall_s))
        if run.paced:
            group.create_task(_pace(connections, job.pace_per_s, run))
        else:
            for connection in connections:
                connection.send()
        await run.finished
        watcher.cancel()
    took_s = (time.perf_counter_ns() - began_ns) / 1e9
    cpu_used_s = _own_cpu_s() - cpu_before
    ordered = sorted(run.latencies)
    return LoadResult(
        requests=len(ordered),
        wrong=run.wrong,
        faults=tuple(run.faults),
        took_s=took_s,
        p50_ms=percentile(ordered, 0.50) / 1e6,
        p99_ms=percentile(ordered, 0.99) / 1e6,
        max_ms=percentile(ordered, 1.0) / 1e6,
        generator_us=cpu_used_s * 1e6 / max(1, len(ordered)),
    )


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(kind: type[Connection] = Connection) -> None:
    """Read a LoadJob from standard input, do it, print the LoadResult."""
    job = job_from(sys.stdin.buffer.read())
    try:
        result = uvloop.run(work(job, kind))
    except* LoadError as errors:
        print("; ".join(str(error) for error in errors.exceptions), file=sys.stderr)
        raise SystemExit(1) from None
    sys.stdout.buffer.write(orjson.dumps(asdict(result)))


if __name__ == "__main__":
    main()
