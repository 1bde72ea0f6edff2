"""One query worker as the server sees it: start it, ask it, watch its memory, end it.

The worker gets two sockets, a bare environment without the server's secrets, and nothing else. How
it ended tells what to answer: over its memory or out of it, broken by the statement, or taken away
from outside.

Keeps: after a query that did not come to its end (time, cancellation, memory, a lost worker), the
worker is killed; what it was doing goes on nowhere. A feed's rows are closed only after the thread
that reads them is through.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, assert_never

import kalamdb
from kalamdb.errors import (
    KalamError,
    QueryFailed,
    QueryMemoryExceeded,
    ResultTooLarge,
    Unavailable,
    ValueOutOfRange,
)
from kalamdb.query import wire
from kalamdb.query.refusals import refused
from kalamdb.query.wire import (
    ChunkKind,
    Columns,
    Done,
    Failed,
    Failure,
    Missing,
    Query,
    Ready,
    ResultColumn,
    Rows,
    WireSource,
    WireTable,
)

MEMORY_POLL_S = 0.02
RECEIVE_SIZE_BYTES = 1 << 18
ENDING_S = 1.0
PLACES_MAX = 10_000
STDERR_TAIL_BYTES = 4096
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_OWN_FAULTS = frozenset(
    (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """`memory_max_bytes` is for one query; what the worker keeps between queries comes on top."""

    memory_max_bytes: int
    kept_max_bytes: int
    partitions: int


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """One SELECT for the engine. `places` are the sources' places, known before they are opened.

    `held_above`: a JSON result of more bytes is held outside the server; 0: never.
    """

    text: str
    tables: tuple[WireTable, ...]
    places: tuple[bytes, ...]
    ordered: bool
    values: bool
    rows_max: int
    size_max_bytes: int
    held_above: int = 0


class Feed(Protocol):
    """The rows of a query's sources."""

    async def open(self) -> tuple[WireSource, ...]:
        """Pin a state of all sources, once a worker is there. Raises what reading may raise."""
        ...

    def rows(self, source: int) -> Iterator[tuple[bytes, bytes]]:
        """(key bytes, row bytes) in key order; of an owned source (owner's name, row bytes). Called
        in a thread.
        """
        ...

    def stop(self) -> None:
        """No more rows are wanted: a thread that waits for some ends soon. On the loop."""
        ...

    def close(self) -> None:
        """Let go of what `open` pinned, if it did; called on the loop, once."""
        ...


@dataclass(frozen=True, slots=True)
class EngineResult:
    """`parts` are `Rows.data` in order; `held_bytes` of them went into the file instead."""

    columns: tuple[ResultColumn, ...]
    parts: tuple[bytes, ...]
    row_count: int
    held_bytes: int = 0


class WorkerEnded(Exception):
    """The worker closed its sockets."""


class EngineLink:
    """A running worker. Made on the event loop, where `on_end` is called when it is gone."""

    def __init__(self, settings: LinkSettings, on_end: Callable[[EngineLink], None]) -> None:
        self._settings = settings
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._base_bytes = 0
        self._over_memory = False
        self._running = False
        self._stderr_tail = b""
        self.code = 0  # its exit code once it ended, minus the signal that ended it
        self._watch: asyncio.TimerHandle | None = None
        self.ready = False
        self.clean = True
        self.kept_bytes = 0
        self.places: set[bytes] = set()  # what it most likely keeps; it answers for itself
        self.ended = asyncio.Event()
        self._start()

    def _start(self) -> None:
        self._control, control = socket.socketpair()
        self._feed, feed = socket.socketpair()
        self._control.setblocking(False)
        self._stderr = os.memfd_create("query-worker-stderr")
        settings = self._settings
        numbers = (
            control.fileno(),
            feed.fileno(),
            os.getpid(),
            settings.memory_max_bytes,
            settings.kept_max_bytes,
            settings.partitions,
        )
        with control, feed:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kalamdb.query.worker", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(control.fileno(), feed.fileno()),
                env=environment(settings.partitions),
                cwd="/",
                process_group=0,
            )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._gone)

    # ---- a query --------------------------------------------------------------------------------

    async def run(
        self,
        request: ScanRequest,
        feed: Feed,
        threads: ThreadPoolExecutor,
        ready: Callable[[], None],
        file: int | None = None,
    ) -> EngineResult:
        """Calls `ready` once the engine is loaded. A large result goes into `file`. Raises what the
        query or its feed raise. If not `clean` afterwards, `kill` it.
        """
        fed: Future[None] | None = None
        self._running = True
        try:
            await self._wait_ready()
            ready()
            sources = await feed.open()
            if self.ended.is_set():
                raise WorkerEnded
            self.clean = False
            self._watch_memory()
            await self._send(_query(request, sources), file)
            missing = await self._next()
            assert isinstance(missing, Missing), f"a worker sent {missing} out of turn"
            if len(self.places) > PLACES_MAX:
                self.places.clear()
            self.places.update(source.place for source in sources if source.state)
            if missing.sources:
                owned = {at: sources[at].owned for at in missing.sources}
                fed = threads.submit(_send_rows, self._feed, feed, owned)
            result = await self._result(request, fed)
            self.clean = True
            return result
        except WorkerEnded:
            raise (await self._why_ended()) from None
        finally:
            self._running = False
            self._unwatch_memory()
            self._close_sockets()
            if fed is None:
                feed.close()
            else:
                if not fed.done():
                    feed.stop()  # a killed worker wakes a thread that writes to it
                after(fed, feed.close)

    async def _result(self, request: ScanRequest, fed: Future[None] | None) -> EngineResult:
        columns: tuple[ResultColumn, ...] = ()
        parts: list[bytes] = []
        while True:
            answer = await self._next()
            match answer:
                case Columns():
                    columns = answer.columns
                case Rows():
                    parts.append(answer.data)
                case Done():
                    self.kept_bytes = answer.kept_bytes
                    held = answer.held_bytes
                    return EngineResult(columns, tuple(parts), answer.row_count, held)
                case Failed():
                    self.clean = answer.failure is not Failure.PANIC
                    raise await self._failure(answer, request, fed)
                case Ready() | Missing():
                    raise AssertionError(f"a worker sent {answer} out of turn")
                case _:
                    assert_never(answer)

    async def _failure(
        self, failed: Failed, request: ScanRequest, fed: Future[None] | None
    ) -> BaseException:
        match failed.failure:
            case Failure.STATEMENT:
                return refused(failed.detail)
            case Failure.RANGE:
                expected, _, detail = failed.detail.partition("|")
                return ValueOutOfRange(None, expected, detail)
            case Failure.MEMORY:
                return QueryMemoryExceeded(self._settings.memory_max_bytes)
            case Failure.ROWS:
                return ResultTooLarge("max_result_rows", request.rows_max)
            case Failure.BYTES:
                return ResultTooLarge("max_result_bytes", request.size_max_bytes)
            case Failure.PANIC:
                return QueryFailed("the query engine broke down on this statement")
            case Failure.FEED:
                assert fed is not None
                feeding = asyncio.wrap_future(fed)
                await asyncio.wait((feeding,))
                error = feeding.exception()
                assert error is not None
                return error
            case _:
                assert_never(failed.failure)

    # ---- frames ---------------------------------------------------------------------------------

    async def _wait_ready(self) -> None:
        if self.ended.is_set():
            raise WorkerEnded
        if not self.ready:
            answer = await self._next()
            assert isinstance(answer, Ready), f"a worker sent {answer} out of turn"
            self.ready = True
            self._base_bytes = self.memory_bytes()

    async def _send(self, query: Query, file: int | None) -> None:
        frame = wire.encode_frame(query)
        try:
            if file is not None:
                # The worker has read everything before, so there is room for these few bytes.
                sent = socket.send_fds(self._control, [frame[: wire.FRAME_HEAD.size]], [file])
                frame = frame[sent:]
            await self._loop.sock_sendall(self._control, frame)
        except OSError as error:
            raise WorkerEnded from error

    async def _next(self) -> wire.Answer:
        received = self._received
        head = wire.FRAME_HEAD.size
        while True:
            if len(received) >= head:
                end = head + wire.FRAME_HEAD.unpack_from(received)[0]
                if len(received) >= end:
                    with memoryview(received) as view:
                        answer = wire.decode_answer(view[head:end])
                    del received[:end]
                    return answer
            await self._receive()

    async def _receive(self) -> None:
        """Wait for more of the worker's bytes. They are kept even when the caller is cancelled as
        they come: a clean worker's next query needs them. Raises WorkerEnded.
        """
        came: asyncio.Future[bool] = self._loop.create_future()

        def readable() -> None:
            try:
                data = self._control.recv(RECEIVE_SIZE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._received += data
            self._loop.remove_reader(self._control)
            if not came.done():
                came.set_result(bool(data))

        self._loop.add_reader(self._control, readable)
        try:
            if not await came:
                raise WorkerEnded
        finally:
            if self._control.fileno() >= 0:
                self._loop.remove_reader(self._control)

    # ---- memory ---------------------------------------------------------------------------------

    def memory_bytes(self) -> int:
        """What the process has in memory; 0 when it is gone."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    @property
    def swollen(self) -> bool:
        """The process did not give back what its queries took."""
        spare = self.memory_bytes() - self._base_bytes - self.kept_bytes
        return spare > self._settings.memory_max_bytes // 2

    def _watch_memory(self) -> None:
        settings = self._settings
        used = self.memory_bytes() - self._base_bytes
        if used > settings.memory_max_bytes + settings.kept_max_bytes:
            self._over_memory = True
            self.kill()
        else:
            self._watch = self._loop.call_later(MEMORY_POLL_S, self._watch_memory)

    def _unwatch_memory(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # ---- the end --------------------------------------------------------------------------------

    def kill(self) -> None:
        self.clean = False
        if self._process.poll() is None:
            self._process.kill()

    def _gone(self) -> None:
        """The process ended: collect it."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.code = self._process.wait()
        self._stderr_tail = os.pread(self._stderr, STDERR_TAIL_BYTES, _tail_at(self._stderr))
        os.close(self._stderr)
        self.clean = False
        self.ended.set()
        self._close_sockets()
        self._on_end(self)

    def _close_sockets(self) -> None:
        """Once the process is gone and nobody waits on them: who waits would wait for ever."""
        if self.ended.is_set() and not self._running:
            self._control.close()
            self._feed.close()

    async def _why_ended(self) -> KalamError:
        try:
            async with asyncio.timeout(ENDING_S):
                await self.ended.wait()
        except TimeoutError:  # it closed its sockets and lives
            self.kill()
            await self.ended.wait()
        code = self.code
        if self._over_memory or b"memory allocation of" in self._stderr_tail:
            return QueryMemoryExceeded(self._settings.memory_max_bytes)
        if not self.ready:
            return Unavailable("the query worker did not start")
        if code >= 0 or -code in _OWN_FAULTS:
            return QueryFailed("the query engine broke down on this statement")
        return Unavailable(f"the query worker was ended by signal {-code}")


def _query(request: ScanRequest, sources: tuple[WireSource, ...]) -> Query:
    return Query(
        request.text,
        sources,
        request.tables,
        request.ordered,
        request.values,
        request.rows_max,
        request.size_max_bytes,
        request.held_above,
    )


def _send_rows(out: socket.socket, feed: Feed, sources: Mapping[int, bool]) -> None:
    """In a thread: all rows of the sources (owned or not) the worker lacks. Raises what reading
    raises.
    """
    complete = False
    try:
        for source, owned in sources.items():
            for head, bodies in wire.chunks(feed.rows(source), owned=owned):
                out.sendall(head)
                out.sendall(bodies)
            out.sendall(wire.mark(ChunkKind.END))
        complete = True
    finally:
        if not complete:
            with contextlib.suppress(OSError):
                out.sendall(wire.mark(ChunkKind.ABORT))


def after(future: Future[Any], close: Callable[[], None]) -> None:
    """Call `close` on the loop as soon as the thread is through (most often it is)."""
    if future.done():
        close()
    else:
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(close))


def environment(partitions: int) -> dict[str, str]:
    """A worker knows where the code is, and nothing the server was configured with."""
    return {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(kalamdb.__file__).parent.parent),
        "TZ": "UTC",
        "LANG": "C.UTF-8",
        "TOKIO_WORKER_THREADS": str(partitions),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


def _tail_at(file: int) -> int:
    return max(0, os.fstat(file).st_size - STDERR_TAIL_BYTES)
