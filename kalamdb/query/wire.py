"""What a server and its query workers say to each other: messages and row chunks, as bytes.

Two sockets join a server with a worker. On the *control* socket go frames, each 4 bytes of length
and one msgpack message; on the *feed* socket go stored rows, one way. One query is:

1. `Query` → the worker; it answers `Missing` with the sources whose rows it does not hold.
2. The server feeds each of them: chunks of rows, then an end mark (or an abort mark: reading
   failed).
3. The worker answers `Columns`, then any number of `Rows`, then `Done`; or, at any time, `Failed`.

With the head of a query's frame a file may come: a large result goes there.

Both ends are of one release and one machine: nothing here is stored, so nothing is versioned.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import msgspec

from kalamdb.model.types import ColumnType, Kind

FRAME_HEAD = struct.Struct("<I")
CHUNK_HEAD = struct.Struct("<BIQ")
"""kind, rows, bytes of row bodies; then `rows` lengths (uint32, native) and the bodies."""
OWNERS_HEAD = struct.Struct("<II")
"""Behind a chunk of an owned source: runs of rows with one owner, bytes of owners' names; then
`runs` counts and `runs` lengths (uint32, native) and the names.
"""

CHUNK_ROWS_MAX = 2048
CHUNK_SIZE_MAX_BYTES = 1 << 20


class ChunkKind(IntEnum):
    ROWS = 1
    END = 2
    ABORT = 3


class Failure(IntEnum):
    """Which of its errors the server raises for `Failed`."""

    STATEMENT = 1  # QueryFailed
    MEMORY = 2  # QueryMemoryExceeded
    ROWS = 3  # ResultTooLarge, by rows
    BYTES = 4  # ResultTooLarge, by bytes
    FEED = 5  # the server stopped feeding; it knows why
    PANIC = 6  # the engine broke; this worker is not used again
    RANGE = 7  # ValueOutOfRange, its type and its detail with a | between


class WireType(msgspec.Struct, frozen=True, array_like=True):
    """A ColumnType."""

    kind: str
    precision: int = 0
    scale: int = 0
    size: int = 0


class SourceColumn(msgspec.Struct, frozen=True, array_like=True):
    """A column of a source: its id in stored rows, what results say of it, and what rows read as
    that are older than it.
    """

    id: int
    name: str
    type: WireType
    flags: tuple[str, ...] = ()
    initial: Any = None


class WireSource(msgspec.Struct, frozen=True, array_like=True):
    """The rows of one partition of one table.

    `place` names (table, partition), `state` what they are right now: equal states hold equal rows.
    An empty state means that rows change without a trace and must not be kept. `owned`: the rows of
    all tenants; each chunk says whose its rows are.
    """

    place: bytes
    state: bytes
    columns: tuple[SourceColumn, ...]
    owned: bool = False


class WireTable(msgspec.Struct, frozen=True, array_like=True):
    """A name in the query: which source it reads, which of its columns, what the user calls it."""

    alias: str
    source: int
    columns: tuple[int, ...]
    shown: str


class Query(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """`values`: rows come as msgpack arrays of stored values, not as JSON. `held_above`: JSON of
    more bytes goes into the file that came with the query; 0 when none came.
    """

    text: str
    sources: tuple[WireSource, ...]
    tables: tuple[WireTable, ...]
    ordered: bool
    values: bool
    rows_max: int
    size_max_bytes: int
    held_above: int = 0


class Ready(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """The engine is loaded; the first message of a worker."""


class Missing(msgspec.Struct, frozen=True, tag=3, array_like=True):
    sources: tuple[int, ...]


class ResultColumn(msgspec.Struct, frozen=True, array_like=True):
    name: str
    type: WireType
    flags: tuple[str, ...] = ()


class Columns(msgspec.Struct, frozen=True, tag=4, array_like=True):
    columns: tuple[ResultColumn, ...]


class Rows(msgspec.Struct, frozen=True, tag=5, array_like=True):
    """`data`: JSON rows joined by commas, or (Query.values) one msgpack array of rows."""

    count: int
    data: bytes


class Done(msgspec.Struct, frozen=True, tag=6, array_like=True):
    """`kept_bytes`: Arrow data the worker keeps for later queries; `held_bytes`: JSON that went
    into the query's file, instead of `Rows`.
    """

    row_count: int
    kept_bytes: int
    held_bytes: int = 0


class Failed(msgspec.Struct, frozen=True, tag=7, array_like=True):
    failure: Failure
    detail: str


Answer = Ready | Missing | Columns | Rows | Done | Failed

_pack = msgspec.msgpack.Encoder().encode
_unpack_answer = msgspec.msgpack.Decoder(Answer).decode
_unpack_query = msgspec.msgpack.Decoder(Query).decode
unpack_values = msgspec.msgpack.Decoder(list[list[Any]]).decode


def encode_frame(message: Query | Answer) -> bytes:
    body = _pack(message)
    return FRAME_HEAD.pack(len(body)) + body


def decode_answer(body: bytes | memoryview) -> Answer:
    return _unpack_answer(body)


def decode_query(body: bytes | memoryview) -> Query:
    return _unpack_query(body)


def to_wire(column_type: ColumnType) -> WireType:
    return WireType(
        column_type.kind.value, column_type.precision, column_type.scale, column_type.size
    )


def from_wire(wire: WireType) -> ColumnType:
    return ColumnType(Kind(wire.kind), wire.precision, wire.scale, wire.size)


# ---- row chunks ---------------------------------------------------------------------------------


def chunks(
    rows: Iterable[tuple[bytes, bytes]], *, owned: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """Stored rows, as a snapshot scans them, → (head and lengths, bodies).

    A chunk is bounded in rows and, but for its last row, in bytes. `owned`: what stands beside a
    row is its owner's name, not its key.
    """
    batch: list[bytes] = []
    owners: list[bytes] = []
    size = 0
    for owner, raw in rows:
        batch.append(raw)
        if owned:
            owners.append(owner)
        size += len(raw)
        if size >= CHUNK_SIZE_MAX_BYTES or len(batch) >= CHUNK_ROWS_MAX:
            yield _chunk(batch, owners)
            batch, owners = [], []
            size = 0
    if batch:
        yield _chunk(batch, owners)


def _chunk(batch: list[bytes], owners: list[bytes]) -> tuple[bytes, bytes]:
    bodies = b"".join(batch)
    lengths = array("I", map(len, batch)).tobytes()
    head = CHUNK_HEAD.pack(ChunkKind.ROWS, len(batch), len(bodies)) + lengths
    return head, bodies + _owners(owners) if owners else bodies


def _owners(owners: list[bytes]) -> bytes:
    names: list[bytes] = []
    counts = array("I")
    for owner in owners:
        if names and names[-1] == owner:
            counts[-1] += 1
        else:
            names.append(owner)
            counts.append(1)
    packed = b"".join(names)
    lengths = array("I", map(len, names)).tobytes()
    return OWNERS_HEAD.pack(len(names), len(packed)) + counts.tobytes() + lengths + packed


def unpack_owners(counts: array[int], lengths: array[int], names: bytes) -> list[str]:
    """The owner of each row of a chunk, in order."""
    found: list[str] = []
    at = 0
    for count, length in zip(counts, lengths, strict=True):
        found.extend([names[at : at + length].decode()] * count)
        at += length
    return found


def mark(kind: ChunkKind) -> bytes:
    return CHUNK_HEAD.pack(kind, 0, 0)
