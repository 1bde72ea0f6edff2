"""Messages of gathered reads, as bytes. Versioned: nodes of two releases may talk to each other.

A stream "rows": the request; `Opened` comes back. Then, for each thing asked whose rows are wanted,
a `Wanted` goes out. Its batches come back: a batch is cut into parts of at most `PART_MAX_BYTES`,
each with a kind byte before it, and after the last batch comes an END. Or, when only a count is
wanted, one message with it.

A batch is a head (rows, runs of rows with one owner, bytes of owners' names), the rows' lengths,
the runs' counts, the names' lengths, the names, the stored rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import msgspec

from kalamdb.errors import MalformedRequest
from kalamdb.far_reads import Freshness, RowsAsked, SlotRun
from kalamdb.model.ids import GroupId, Partition, Seq, Slot
from kalamdb.model.key_range import KeyRange, KeySource
from kalamdb.model.principal import Principal, Role

VERSION = 1
PART_MAX_BYTES = 512 << 10
BATCH_SIZE_BYTES = 384 << 10
BATCH_ROWS_MAX = 4096

_HEAD = struct.Struct("<III")


class Part(IntEnum):
    MORE = 0  # the batch goes on
    LAST = 1  # the batch is complete
    END = 2  # there are no more rows


class WiredRange(msgspec.Struct, frozen=True, array_like=True):
    source: str
    number: int
    start: bytes
    stop: bytes
    head_bytes: int
    open_columns: int


class WiredAsk(msgspec.Struct, frozen=True, array_like=True):
    """A `RowsAsked`; of the table what the group needs to find its own definition."""

    table: int
    version: int
    name: str
    partition: bytes | None
    ranges: tuple[WiredRange, ...] | None
    then: tuple[int, int] | None


class RowsRequest(msgspec.Struct, frozen=True, array_like=True):
    """What is asked of one group. `at_least` is of that group; 0: nothing."""

    version: int
    group: int
    asked: tuple[WiredAsk, ...]
    stale: bool
    at_least: int


class WiredRun(msgspec.Struct, frozen=True, array_like=True):
    """A `SlotRun`."""

    first: int
    stop: int
    epoch: int
    is_open: bool


class Opened(msgspec.Struct, frozen=True, array_like=True):
    seq: int
    last_changes: tuple[int, ...]
    serves: tuple[WiredRun, ...]


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """Rows of the thing with this number, or `counted`; without those of the slots in `hidden`."""

    number: int
    counted: bool
    hidden: tuple[int, ...]


class ActivityRequest(msgspec.Struct, frozen=True, array_like=True):
    """Who asks for what is under way, or (with an id) to end it."""

    version: int
    kind: str
    user: str
    role: str
    actor: str
    item_id: str = ""


_pack = msgspec.msgpack.Encoder().encode
_unpack_rows_request = msgspec.msgpack.Decoder(RowsRequest).decode
_unpack_activity = msgspec.msgpack.Decoder(ActivityRequest).decode
_unpack_wanted = msgspec.msgpack.Decoder(Wanted).decode
unpack_opened = msgspec.msgpack.Decoder(Opened).decode
unpack_counted = msgspec.msgpack.Decoder(tuple[int, int]).decode
unpack_values = msgspec.msgpack.Decoder(list[list[Any]]).decode
pack = _pack


def rows_request(group: GroupId, asked: Sequence[RowsAsked], freshness: Freshness) -> bytes:
    wired = tuple(
        WiredAsk(
            one.table.id,
            one.table.version,
            one.table.full_name,
            one.partition,
            None if one.ranges is None else tuple(map(_range_out, one.ranges)),
            one.then,
        )
        for one in asked
    )
    at_least = freshness.at_least.get(group, 0)
    return _pack(RowsRequest(VERSION, group, wired, freshness.stale, at_least))


def read_rows_request(payload: bytes) -> RowsRequest:
    """Raises MalformedRequest."""
    try:
        request = _unpack_rows_request(payload)
    except msgspec.DecodeError as error:
        raise MalformedRequest(f"no request for rows: {error}") from error
    return _known(request)


def read_activity(payload: bytes) -> ActivityRequest:
    """Raises MalformedRequest."""
    try:
        request = _unpack_activity(payload)
    except msgspec.DecodeError as error:
        raise MalformedRequest(f"no request for what is under way: {error}") from error
    return _known(request)


def _known(request: Any) -> Any:
    if request.version != VERSION:
        raise MalformedRequest(f"a request of version {request.version}; this node reads {VERSION}")
    return request


def asked_of(one: WiredAsk) -> tuple[Partition | None, tuple[KeyRange, ...] | None]:
    partition = None if one.partition is None else Partition(one.partition)
    return partition, None if one.ranges is None else tuple(map(_range_in, one.ranges))


def _range_out(keys: KeyRange) -> WiredRange:
    return WiredRange(
        keys.source.value, keys.number, keys.start, keys.stop, keys.head_bytes, keys.open_columns
    )


def _range_in(keys: WiredRange) -> KeyRange:
    return KeyRange(
        KeySource(keys.source),
        keys.number,
        keys.start,
        keys.stop,
        keys.head_bytes,
        keys.open_columns,
    )


def principal_of(request: ActivityRequest) -> Principal:
    who = Principal.of(request.actor, Role(request.role))
    return who if request.user == request.actor else who.act_as(request.user)


def read_wanted(message: bytes, below: int) -> Wanted:
    """Raises MalformedRequest when `number` is not `below` how many things were asked."""
    try:
        wanted = _unpack_wanted(message)
    except msgspec.DecodeError as error:
        raise MalformedRequest(f"nothing to send: {error}") from error
    if not 0 <= wanted.number < below:
        raise MalformedRequest("there is nothing of that number in the request")
    return wanted


def opened(seq: Seq, last_changes: Sequence[Seq], serves: Sequence[SlotRun]) -> bytes:
    runs = tuple(WiredRun(run.first, run.stop, run.epoch, run.is_open) for run in serves)
    return _pack(Opened(seq, tuple(last_changes), runs))


def wanted(number: int, hidden: Iterable[Slot], *, counted: bool = False) -> bytes:
    return _pack(Wanted(number, counted, tuple(hidden)))


# ---- batches of rows ----------------------------------------------------------------------------


def next_batch(rows: Iterator[tuple[bytes, bytes]]) -> bytes | None:
    """The next batch of (owner's name, row bytes); None at the end."""
    bodies: list[bytes] = []
    names: list[bytes] = []
    counts: list[int] = []
    size = 0
    for owner, raw in rows:
        if names and names[-1] == owner:
            counts[-1] += 1
        else:
            names.append(owner)
            counts.append(1)
        bodies.append(raw)
        size += len(raw)
        if size >= BATCH_SIZE_BYTES or len(bodies) >= BATCH_ROWS_MAX:
            break
    if not bodies:
        return None
    packed = b"".join(names)
    return b"".join(
        (
            _HEAD.pack(len(bodies), len(names), len(packed)),
            struct.pack(f"<{len(bodies)}I", *map(len, bodies)),
            struct.pack(f"<{len(names)}I", *counts),
            struct.pack(f"<{len(names)}I", *map(len, names)),
            packed,
            *bodies,
        )
    )


def read_batch(batch: bytes) -> Iterator[tuple[bytes, bytes]]:
    """What `next_batch` packed."""
    count, runs, names_bytes = _HEAD.unpack_from(batch)
    at = _HEAD.size
    lengths = struct.unpack_from(f"<{count}I", batch, at)
    at += 4 * count
    counts = struct.unpack_from(f"<{runs}I", batch, at)
    at += 4 * runs
    name_lengths = struct.unpack_from(f"<{runs}I", batch, at)
    at += 4 * runs
    name_at, at, row = at, at + names_bytes, 0
    for run, name_length in zip(counts, name_lengths, strict=True):
        name = batch[name_at : name_at + name_length]
        name_at += name_length
        for length in lengths[row : row + run]:
            yield name, batch[at : at + length]
            at += length
        row += run


def parts(batch: bytes) -> Iterator[bytes]:
    """A batch as messages."""
    step = PART_MAX_BYTES - 1
    last = max(0, len(batch) - 1) // step * step
    for at in range(0, len(batch), step):
        kind = Part.LAST if at == last else Part.MORE
        yield bytes([kind]) + batch[at : at + step]


END = bytes([Part.END])


def joined(messages: Iterable[bytes]) -> Iterator[bytes]:
    """Batches out of messages, up to the END."""
    held: list[bytes] = []
    for message in messages:
        kind = message[0]
        if kind == Part.END:
            return
        held.append(message[1:])
        if kind == Part.LAST:
            yield held[0] if len(held) == 1 else b"".join(held)
            held.clear()
