# pyright: basic
"""A query worker: the process that holds the engine, `python -m kalamdb.query.worker`.

It runs one query after another, as `query/wire.py` lays down, and holds nothing a server could not
lose: the server kills it for a query that takes too long or too much, and starts another one.

Keeps: it ends with its parent; it has no socket but the two it was given, no file and no secret;
rows reach a query only from the sources the query came with.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import pyarrow as pa

from kalamdb.errors import QueryFailed, QueryMemoryExceeded, ValueOutOfRange
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.query import results, wire
from kalamdb.query.arrow import BatchBuilder
from kalamdb.query.engine import BATCH_ROWS, Engine, EnginePanic, EngineTable
from kalamdb.query.tables import KeptTable, KeptTables
from kalamdb.query.wire import (
    ChunkKind,
    Columns,
    Done,
    Failed,
    Failure,
    Missing,
    Query,
    Rows,
    WireSource,
)

NICE = 5  # the server's own threads go first
PR_SET_PDEATHSIG = 1
ROWS_MAX = 4096
ROWS_SIZE_BYTES = 1 << 20
"""Rows, or their Arrow bytes, encoded at once; a result's limits are seen in between."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """As given on the command line, in this order."""

    memory_max_bytes: int
    kept_max_bytes: int
    partitions: int


class ParentGone(Exception):
    """The server closed the sockets: there is nobody left to work for."""


class FeedAborted(Exception):
    """The server could not read on; it knows why."""


class ResultLimit(Exception):
    """The result has more rows or bytes than the query may answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


class Worker:
    def __init__(self, control: socket.socket, feed: socket.socket, limits: WorkerLimits) -> None:
        self._control = control
        self._feed = feed
        self._file: int | None = None  # where a large result of the current query goes
        self._kept = KeptTables(limits.kept_max_bytes)
        self._engine = Engine(
            SystemClock(),
            SystemIds(),
            memory_max_bytes=limits.memory_max_bytes,
            partitions=limits.partitions,
        )

    def serve(self) -> None:
        """Answer queries until the server goes away or the engine breaks."""
        self._engine.run("SELECT 1", (), ordered=True)  # loads what the first query would wait for
        gc.freeze()
        gc.disable()  # it would run all the time over the dictionaries of rows being decoded
        self._send(wire.Ready())
        while True:
            query = self._receive()
            try:
                failed = self._answer(query)
            finally:
                if self._file is not None:
                    os.close(self._file)
                    self._file = None
            if failed is not None:
                self._send(failed)
                if failed.failure is Failure.PANIC:
                    return
            gc.collect()

    def _answer(self, query: Query) -> Failed | None:
        try:
            self._run(query, self._tables(query))
        except FeedAborted:
            return Failed(Failure.FEED, "")
        except QueryFailed as error:
            return Failed(Failure.STATEMENT, str(error))
        except ValueOutOfRange as error:
            return Failed(Failure.RANGE, f"{error.expected}|{error.detail}")
        except QueryMemoryExceeded:
            return Failed(Failure.MEMORY, "")
        except ResultLimit as error:
            return Failed(error.failure, "")
        except EnginePanic as error:
            return Failed(Failure.PANIC, str(error))
        return None

    # ---- rows in --------------------------------------------------------------------------------

    def _tables(self, query: Query) -> list[EngineTable]:
        found = [self._kept.get(source) for source in query.sources]
        missing = tuple(index for index, table in enumerate(found) if table is None)
        self._send(Missing(missing))
        for index in missing:
            found[index] = self._read(query.sources[index])
        tables: list[EngineTable] = []
        for table in query.tables:
            kept = found[table.source]
            assert kept is not None
            schema, batches = kept.select(table.columns)
            tables.append(EngineTable(table.alias, schema, batches, table.shown))
        return tables

    def _read(self, source: WireSource) -> KeptTable:
        """One source from the feed. Bytes that are no rows end the process."""
        columns = self._kept.wanted(source)
        builder = BatchBuilder(columns)
        batches: list[pa.RecordBatch] = []
        while True:
            kind, count, size = wire.CHUNK_HEAD.unpack(_exactly(self._feed, wire.CHUNK_HEAD.size))
            match ChunkKind(kind):
                case ChunkKind.END:
                    break
                case ChunkKind.ABORT:
                    raise FeedAborted
                case ChunkKind.ROWS:
                    lengths = _numbers(self._feed, count)
                    bodies = memoryview(_exactly(self._feed, size))
                    owners = self._owners() if source.owned else None
                    batches.append(builder.batch(bodies, lengths, owners))
                case never:
                    assert_never(never)
        table = KeptTable(
            source.state,
            columns,
            builder.schema,
            tuple(merged(batches, builder.schema)),
            sum(batch.nbytes for batch in batches),
        )
        self._kept.put(source, table)
        return table

    def _owners(self) -> list[str]:
        runs, size = wire.OWNERS_HEAD.unpack(_exactly(self._feed, wire.OWNERS_HEAD.size))
        counts, lengths = _numbers(self._feed, runs), _numbers(self._feed, runs)
        return wire.unpack_owners(counts, lengths, bytes(_exactly(self._feed, size)))

    # ---- rows out -------------------------------------------------------------------------------

    def _run(self, query: Query, tables: list[EngineTable]) -> None:
        result = self._engine.run(query.text, tables, ordered=query.ordered)
        columns = results.columns(result.schema)
        self._send(Columns(columns))
        encoder = results.RowEncoder(result.schema, columns, values=query.values)
        rows = size = 0
        output = _Output(self._send, query.held_above, self._file)
        for batch in result.batches:
            step = max(1, min(ROWS_MAX, batch.num_rows * ROWS_SIZE_BYTES // (batch.nbytes or 1)))
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                rows += part.num_rows
                if rows > query.rows_max:
                    raise ResultLimit(Failure.ROWS)
                data = encoder.encode(part)
                size += len(data)
                if size > query.size_max_bytes:
                    raise ResultLimit(Failure.BYTES)
                output.put(part.num_rows, data)
        self._send(Done(rows, self._kept.size_bytes, output.finish()))

    # ---- frames ---------------------------------------------------------------------------------

    def _send(self, answer: wire.Answer) -> None:
        self._control.sendall(wire.encode_frame(answer))

    def _receive(self) -> Query:
        head, files, _, _ = socket.recv_fds(self._control, wire.FRAME_HEAD.size, 1)
        if not head:
            raise ParentGone
        self._file = files[0] if files else None
        head += _exactly(self._control, wire.FRAME_HEAD.size - len(head))
        (size,) = wire.FRAME_HEAD.unpack(head)
        return wire.decode_query(memoryview(_exactly(self._control, size)))


class _Output:
    """Rows of one result on their way: as messages, or into a file once they are many bytes."""

    def __init__(self, send: Callable[[Rows], None], above: int, file: int | None) -> None:
        self._send = send
        self._above = above
        self._file = file
        self._waiting: list[Rows] = []
        self._waiting_bytes = 0
        self._written = 0

    def put(self, count: int, data: bytes) -> None:
        """Raises QueryMemoryExceeded."""
        if self._file is None:
            self._send(Rows(count, data))
            return
        self._waiting.append(Rows(count, data))
        self._waiting_bytes += len(data)
        if self._written or self._waiting_bytes > self._above:
            self._write(self._file)

    def _write(self, file: int) -> None:
        comma = b"," if self._written else b""
        data = comma + b",".join([rows.data for rows in self._waiting])
        self._waiting.clear()
        view = memoryview(data)
        try:
            while view:
                done = os.write(file, view)
                self._written += done
                view = view[done:]
        except OSError as error:
            raise QueryMemoryExceeded(self._written) from error

    def finish(self) -> int:
        """Send what was few; the bytes in the file."""
        for rows in self._waiting:
            self._send(rows)
        return self._written


def merged(batches: list[pa.RecordBatch], schema: pa.Schema) -> list[pa.RecordBatch]:
    """Chunks as they came, put together to batches of the size the engine works on."""
    table = pa.Table.from_batches(batches, schema).combine_chunks()
    return table.to_batches(max_chunksize=BATCH_ROWS)


def _exactly(source: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = source.recv_into(view)
        if not got:
            raise ParentGone
        view = view[got:]
    return data


def _numbers(source: socket.socket, count: int) -> array[int]:
    numbers = array("I")
    numbers.frombytes(_exactly(source, count * numbers.itemsize))
    return numbers


def end_with_parent(parent: int) -> None:
    """Die when the server's main thread does, also when it is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        sys.exit(1)


def be_the_first_to_go() -> None:
    """When the machine is out of memory, the kernel takes this process and not the server."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # a container may forbid it; the server watches this process's memory itself


def main() -> None:
    control, feed, parent, memory_max_bytes, kept_max_bytes, partitions = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its workers
    end_with_parent(parent)
    be_the_first_to_go()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold tenants' rows
    os.nice(NICE)
    worker = Worker(
        socket.socket(fileno=control),
        socket.socket(fileno=feed),
        WorkerLimits(memory_max_bytes, kept_max_bytes, partitions),
    )
    try:
        worker.serve()
    except (ParentGone, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
