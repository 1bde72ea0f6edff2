"""The subscriber side of `live_fanout`: one process that holds all sockets of one table's
subscribers.

1. The caller starts `python -m benchmarks.wsload` with a `SinkJob` on standard input.
2. All subscribers connect and subscribe; when each has its acknowledgement the process prints
   `READY`.
3. Rows arrive. Each row carries its number and the CLOCK_MONOTONIC nanoseconds of its publishing in
   its body, so the payload is not decoded: the two numbers are found by pattern. Frames are cut
   properly; several may come in one read.
4. When every subscriber has every row, or nothing arrived for `stall_s`, one `SinkResult` is
   printed as JSON.

Invariants: each subscriber's rows are counted one by one (lost, twice, unknown); the order is
compared between subscribers and with the row numbers; a close, an error frame or a frame that
cannot be read is a fault.
"""

from __future__ import annotations

import asyncio
import gc
import re
import resource
import subprocess
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import uvloop

from benchmarks.load import ROOT
from benchmarks.measure import percentile

_ROW = re.compile(rb"message (\d{10}) (\d{19})")
_CLIENT_ID = re.compile(rb'"clientId":"([^"]+)"')
_FAULTS_KEPT = 5
_CONNECTING_MAX = 32
_KEEPALIVE_S = 4.0


class SinkError(Exception):
    """The subscribers could not connect or the process failed."""


@dataclass(frozen=True, slots=True)
class SinkJob:
    """Who subscribes to what (see stacks.LiveProtocol) and which rows will come."""

    kind: str
    port: int
    path: str
    headers: dict[str, str]
    steps: list[list[str]]
    keepalive: str
    subscribers: int
    first: int
    rows: int
    stall_s: float = 15.0


@dataclass(frozen=True, slots=True)
class SinkResult:
    """What arrived, over all subscribers; `orders` is how many different orders were seen."""

    deliveries: int
    lost: int
    twice: int
    unknown: int
    orders: int
    by_number: bool
    faults: tuple[str, ...]
    took_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    sink_us: float

    @property
    def per_s(self) -> float:
        """Deliveries per second from the first to the last."""
        return self.deliveries / self.took_s if self.took_s else float("nan")

    @property
    def exact(self) -> bool:
        """Whether every subscriber got every row exactly once."""
        return not (self.lost or self.twice or self.unknown or self.faults)


def start(job: SinkJob) -> subprocess.Popen[bytes]:
    """Start the subscribers and wait until all are subscribed. Raises SinkError."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.wsload"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(orjson.dumps(asdict(job)))
    process.stdin.close()
    process.stdin = None
    if process.stdout.readline().strip() != b"READY":
        process.wait()
        raise SinkError(f"{job.subscribers} subscribers could not subscribe")
    return process


def finish(process: subprocess.Popen[bytes]) -> SinkResult:
    """Wait for the last row. Raises SinkError when the process failed."""
    output, _ = process.communicate()
    if process.returncode or not output:
        raise SinkError(f"the subscriber process ended with status {process.returncode}")
    fields = orjson.loads(output)
    return SinkResult(**{**fields, "faults": tuple(fields["faults"])})


class _Sink:
    """What all subscribers of a job share."""

    def __init__(self, job: SinkJob) -> None:
        self.job = job
        self.first = job.first
        self.rows = job.rows
        self.wanted = job.subscribers * job.rows
        self.latencies = array("Q")
        self.twice = 0
        self.unknown = 0
        self.began_ns = 0
        self.ended_ns = 0
        self.faults: list[str] = []
        self.loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.waiting: list[tuple[_Subscriber, bytes, int]] = []

    def arrived(self, subscriber: _Subscriber, data: bytes) -> None:
        """Note what was read and when; look into it when all sockets of this tick have been read.

        Otherwise the thousandth socket would seem late by the time spent on the 999 before it.
        """
        if not self.waiting:
            self.loop.call_soon(self.look)
        self.waiting.append((subscriber, data, time.monotonic_ns()))

    def look(self) -> None:
        """Cut and count what this tick has read."""
        waiting, self.waiting = self.waiting, []
        for subscriber, data, now_ns in waiting:
            subscriber.take(data, now_ns)

    def fault(self, text: str) -> None:
        """Keep the first few faults; nothing more can be measured after one."""
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(text[:400])
        self.finish()

    def finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


class _Subscriber(asyncio.Protocol):
    """One subscriber; subclasses cut the byte stream into payloads."""

    def __init__(self, sink: _Sink) -> None:
        self.sink = sink
        self.buffer = b""
        self.upgraded = False
        self.closing = False
        self.seen = bytearray(sink.rows)
        self.got = 0
        self.order = 0
        self.last = 0
        self.by_number = True
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def request_head(self) -> str:
        """Extra header lines of the opening request."""
        return ""

    def take(self, data: bytes, now_ns: int) -> None:
        """Cut what was read at `now_ns` into payloads."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        self.sink.arrived(self, data)

    async def subscribe(self) -> None:
        """What is left to do when the server has greeted. Raises SinkError."""

    def keep_alive(self) -> None:
        """Show the server that this client is there, where it asks for that."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        job = self.sink.job
        lines = [f"GET {job.path} HTTP/1.1", f"Host: 127.0.0.1:{job.port}", self.request_head()]
        lines += [f"{name}: {value}" for name, value in job.headers.items()]
        text = "\r\n".join(line for line in lines if line)
        self.transport.write(text.encode() + b"\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self.fail(f"connection lost: {exc}")

    def fail(self, text: str) -> None:
        """Report a fault, to the subscribe call while there is one."""
        if not self.subscribed.done():
            self.subscribed.set_exception(SinkError(text))
        else:
            self.sink.fault(text)

    def cut_head(self, data: bytes, status: bytes) -> bytes | None:
        """The bytes after the response head, or None while it is incomplete."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self.buffer = data
            return None
        if not data.startswith(status):
            self.fail(f"refused: {data[:300]!r}")
            return None
        self.upgraded = True
        return data[end + 4 :]

    def rows_arrived(self, payload: bytes, now_ns: int) -> int:
        """Take the rows in a payload into account; how many there were."""
        found = _ROW.findall(payload)
        sink = self.sink
        for digits, published in found:
            number = int(digits)
            at = number - sink.first
            if not 0 <= at < sink.rows:
                sink.unknown += 1
                continue
            if self.seen[at]:
                sink.twice += 1
                continue
            self.seen[at] = 1
            self.got += 1
            self.order = hash((self.order, number))
            if number < self.last:
                self.by_number = False
            self.last = number
            sink.latencies.append(now_ns - int(published))
        if found:
            sink.began_ns = sink.began_ns or now_ns
            sink.ended_ns = now_ns
            if len(sink.latencies) >= sink.wanted:
                sink.finish()
        return len(found)


class WebSocketSubscriber(_Subscriber):
    """RFC 6455 client: masked frames out; unmasked, unfragmented text frames in."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__(sink)
        self.step = 0

    def request_head(self) -> str:
        return (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: a2FsYW1kYi1iZW5jaG1hcg==\r\nSec-WebSocket-Version: 13"
        )

    def send_text(self, text: str) -> None:
        """Send one masked text frame. An all-zero mask is legal and leaves the payload as it is."""
        self.send_frame(0x1, text.encode())

    def send_frame(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes((0x80 | opcode, 0x80 | length))
        elif length < 65536:
            head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
        self.transport.write(head + b"\0\0\0\0" + payload)

    def take(self, data: bytes, now_ns: int) -> None:
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        if not self.upgraded:
            rest = self.cut_head(data, b"HTTP/1.1 101")
            if rest is None:
                return
            data = rest
            self.advance()
        at, end = 0, len(data)
        while end - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if end < start or end - start < length:
                break
            self.frame(data[at], data[start : start + length], now_ns)
            at = start + length
        self.buffer = data[at:]

    def frame(self, first: int, payload: bytes, now_ns: int) -> None:
        """Handle one frame by its first byte (FIN, reserved bits, opcode)."""
        match first:
            case 0x81:
                if not self.rows_arrived(payload, now_ns):
                    self.control_text(payload)
            case 0x89:
                self.send_frame(0xA, payload)
            case 0x8A:
                pass
            case _:
                self.fail(f"frame {first:#x}: {payload[:300]!r}")

    def control_text(self, payload: bytes) -> None:
        """A text frame without rows: an awaited acknowledgement, an error, or nothing to us."""
        text = payload.decode("utf-8", "replace")
        if '"type":"error"' in text or '"auth_error"' in text:
            self.fail(text)
        elif not self.subscribed.done() and self.sink.job.steps[self.step][1] in text:
            self.step += 1
            self.advance()

    def advance(self) -> None:
        """Send what the current step has to send; subscribed when no step is left."""
        steps = self.sink.job.steps
        if self.step >= len(steps):
            self.subscribed.set_result(None)
        elif steps[self.step][0]:
            self.send_text(steps[self.step][0])

    def keep_alive(self) -> None:
        """Show the server that this client is there."""
        if self.sink.job.keepalive and not self.transport.is_closing():
            self.send_text(self.sink.job.keepalive)


class EventSubscriber(_Subscriber):
    """Server-sent events over a chunked HTTP/1.1 response, PocketBase flavour."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__(sink)
        self.events = b""
        self.client_id = ""

    def request_head(self) -> str:
        return "Accept: text/event-stream"

    def take(self, data: bytes, now_ns: int) -> None:
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        if not self.upgraded:
            rest = self.cut_head(data, b"HTTP/1.1 200")
            if rest is None:
                return
            data = rest
        at, text = 0, self.events
        while (line_end := data.find(b"\r\n", at)) >= 0:
            length = int(data[at:line_end], 16)
            start = line_end + 2
            if len(data) < start + length + 2:
                break
            text += data[start : start + length]
            at = start + length + 2
        self.buffer = data[at:]
        whole = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        self.events = text[whole:]
        if whole and not self.subscribed.done():
            connected = _CLIENT_ID.search(text)
            if connected:
                self.client_id = connected.group(1).decode()
                self.subscribed.set_result(None)
        if whole:
            self.rows_arrived(text[:whole], now_ns)

    async def subscribe(self) -> None:
        """The POST that follows PB_CONNECT, on a connection of its own."""
        job = self.sink.job
        body = job.steps[0][0].replace("{client}", self.client_id).encode()
        headers = "".join(f"{name}: {value}\r\n" for name, value in job.headers.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", job.port)
        writer.write(
            f"POST {job.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Connection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 204"):
            raise SinkError(f"subscribe answered {answer[:300]!r}")


async def _connect(sink: _Sink, gate: asyncio.Semaphore) -> _Subscriber:
    """One subscriber, subscribed. Raises SinkError."""
    job = sink.job
    made = WebSocketSubscriber if job.kind == "websocket" else EventSubscriber
    async with gate:
        loop = asyncio.get_running_loop()
        _, subscriber = await loop.create_connection(lambda: made(sink), "127.0.0.1", job.port)
        async with asyncio.timeout(30):
            await subscriber.subscribed
            await subscriber.subscribe()
    return subscriber


async def _watch(sink: _Sink, subscribers: list[_Subscriber]) -> None:
    """Keep the connections alive and end the job when nothing arrives any more."""
    quiet_s, arrived = 0.0, 0
    while quiet_s < sink.job.stall_s:
        await asyncio.sleep(_KEEPALIVE_S)
        for subscriber in subscribers:
            subscriber.keep_alive()
        quiet_s = quiet_s + _KEEPALIVE_S if len(sink.latencies) == arrived else 0.0
        arrived = len(sink.latencies)
    sink.finish()


async def _work(job: SinkJob) -> SinkResult:
    sink = _Sink(job)
    gate = asyncio.Semaphore(_CONNECTING_MAX)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_connect(sink, gate)) for _ in range(job.subscribers)]
    subscribers = [task.result() for task in tasks]
    gc.collect()
    gc.disable()
    print("READY", flush=True)
    cpu_before = _own_cpu_s()
    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(_watch(sink, subscribers))
        await sink.finished
        watcher.cancel()
    cpu_used_s = _own_cpu_s() - cpu_before
    # A moment longer, so that a row sent twice at the very end is still seen.
    await asyncio.sleep(0.2)
    for subscriber in subscribers:
        subscriber.closing = True
        subscriber.transport.abort()
    return _result(sink, subscribers, cpu_used_s)


def _result(sink: _Sink, subscribers: list[_Subscriber], cpu_used_s: float) -> SinkResult:
    ordered = sorted(sink.latencies)
    deliveries = len(ordered)
    return SinkResult(
        deliveries=deliveries,
        lost=sink.wanted - deliveries,
        twice=sink.twice,
        unknown=sink.unknown,
        orders=len({subscriber.order for subscriber in subscribers}),
        by_number=all(subscriber.by_number for subscriber in subscribers),
        faults=tuple(sink.faults),
        took_s=(sink.ended_ns - sink.began_ns) / 1e9,
        p50_ms=percentile(ordered, 0.50) / 1e6,
        p99_ms=percentile(ordered, 0.99) / 1e6,
        max_ms=percentile(ordered, 1.0) / 1e6,
        sink_us=cpu_used_s * 1e6 / max(1, deliveries),
    )


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Read a SinkJob from standard input, do it, print READY and the SinkResult."""
    job = SinkJob(**orjson.loads(sys.stdin.buffer.read()))
    try:
        result = uvloop.run(_work(job))
    except* (SinkError, OSError, TimeoutError) as errors:
        print("; ".join(repr(error) for error in errors.exceptions[:3]), file=sys.stderr)
        raise SystemExit(1) from None
    sys.stdout.buffer.write(orjson.dumps(asdict(result)))


if __name__ == "__main__":
    main()
