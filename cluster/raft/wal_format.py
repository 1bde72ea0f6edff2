"""Bytes of the shared log: segments, frames, records, and how a torn tail is told from corruption.

A *segment* is a header and frames. A *frame* is what one cycle wrote, under one CRC, so it counts
whole or not at all; its records are entries and the other facts Raft must not forget:

    segment  magic 8, version 1, node uuid 16, number 8, previous segment's end 8 and last seq 8,
    crc 4 frame    magic 4, body length 4, crc 4, seq 8, synced_seq 8, body
    record   type 1, group 2, index 8, term 8, length 4, data

`seq` counts frames over all segments. `synced_seq` is the last frame known to be on disk when this
one was written. The CRC starts from a seed of node uuid and segment number, so bytes of a row, of
another node or of a reused block never pass for a frame.

**Torn tail or corruption.** A frame that does not check, or is not the next seq, ends a segment:
1. in a segment that has a successor it must end exactly where the successor's header says, else
   corruption;
2. in the last segment, the frame was torn by a crash unless a later frame of the segment is valid
   and says `synced_seq >=` the missing seq. Then the missing one had been on disk: corruption.
With fdatasync each frame is written after the one before was synced, so a hole is always noticed
unless it is the very last frame, of which nothing can be told apart from a crash during its write.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from kalamdb.errors import Corruption

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"KALAMWAL"
FRAME_MAGIC = b"\xfeKfr"
FRAME_BYTES_MAX = 1 << 30
SUFFIX = ".wal"

_HEADER = struct.Struct("<8sB16sQQQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
FRAME = struct.Struct("<4sIIQQ")
RECORD = struct.Struct("<BHQQI")
LAST_INDEX = struct.Struct("<Q")


class RecordType(IntEnum):
    """What a record says of its group."""

    ADD = 1  # entry (index, term, data)
    TERM = 2  # current term; index is the node voted for plus one, 0 for none
    TRUNC = 3  # entries from index on are gone: a later leader's conflict
    COMPACT = 4  # entries up to (index, term) are gone: the group's state has them
    RESET = 5  # the log is empty and starts after (index, term): an installed image
    HEAD = 6  # head of a segment: the log starts after (index, term), data is its last index
    MEMBERS = 7  # data says who belongs to the group as of its log's start
    FORGET = 8  # the group is no longer on this node


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    node_uuid: bytes
    number: int
    previous_end_bytes: int  # where the previous segment's frames end
    previous_seq: int  # the seq of its last frame


@dataclass(frozen=True, slots=True)
class Frame:
    offset: int
    end: int
    seq: int
    synced_seq: int


def segment_name(number: int) -> str:
    return f"{number:016d}{SUFFIX}"


def segment_number(name: str) -> int | None:
    stem, _, suffix = name.partition(".")
    return int(stem) if f".{suffix}" == SUFFIX and stem.isdigit() else None


def segment_seed(node_uuid: bytes, number: int) -> int:
    return zlib.crc32(number.to_bytes(8, "little"), zlib.crc32(node_uuid))


def header_bytes(header: SegmentHeader) -> bytes:
    data = _HEADER.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        header.node_uuid,
        header.number,
        header.previous_end_bytes,
        header.previous_seq,
    )
    return data + _CRC.pack(zlib.crc32(data))


def parse_header(name: str, data: bytes, node_uuid: bytes) -> SegmentHeader:
    """The header of segment `name`, checked. Raises: Corruption."""

    def refuse(detail: str) -> Corruption:
        return Corruption(path=name, offset=0, detail=detail)

    if len(data) < HEADER_BYTES or data[:8] != SEGMENT_MAGIC:
        raise refuse("not a segment of the shared log")
    if data[8] != FORMAT_VERSION:
        raise refuse(f"format version {data[8]}, this program reads {FORMAT_VERSION}")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != zlib.crc32(data[: _HEADER.size]):
        raise refuse("segment header does not match its checksum")
    _, _, uuid, number, previous_end, previous_seq = _HEADER.unpack_from(data)
    if uuid != node_uuid:
        raise refuse(f"belongs to node {uuid.hex()}, this node is {node_uuid.hex()}")
    if segment_name(number) != name:
        raise refuse(f"holds segment {number}")
    return SegmentHeader(uuid, number, previous_end, previous_seq)


def frame_bytes(parts: list[bytes], seed: int, seq: int, synced_seq: int) -> bytes:
    """One frame around the records in `parts`."""
    body = b"".join(parts)
    assert len(body) <= FRAME_BYTES_MAX
    crc = _frame_crc(seed, len(body), seq, synced_seq, body)
    return FRAME.pack(FRAME_MAGIC, len(body), crc, seq, synced_seq) + body


def _frame_crc(seed: int, size: int, seq: int, synced_seq: int, body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<IQQ", size, seq, synced_seq), seed))


def frame_at(data: bytes, offset: int, seed: int) -> Frame | None:
    """The frame at `offset`, or None when there is no valid one."""
    if offset + FRAME.size > len(data) or data[offset : offset + 4] != FRAME_MAGIC:
        return None
    _, size, crc, seq, synced_seq = FRAME.unpack_from(data, offset)
    start = offset + FRAME.size
    if size > FRAME_BYTES_MAX or start + size > len(data):
        return None
    if crc != _frame_crc(seed, size, seq, synced_seq, memoryview(data)[start : start + size]):
        return None
    return Frame(offset, start + size, seq, synced_seq)


def frames_of(data: bytes, seed: int, first_seq: int) -> Iterator[Frame]:
    """The valid frames in order, up to the first that is missing."""
    offset, seq = HEADER_BYTES, first_seq
    while (frame := frame_at(data, offset, seed)) is not None and frame.seq == seq:
        yield frame
        offset, seq = frame.end, seq + 1


def frame_proving(data: bytes, offset: int, seed: int, missing_seq: int) -> Frame | None:
    """A valid frame after `offset` that was written when `missing_seq` was already on disk."""
    at = data.find(FRAME_MAGIC, offset + 1)
    while at >= 0:
        frame = frame_at(data, at, seed)
        if frame is not None and frame.synced_seq >= missing_seq:
            return frame
        at = data.find(FRAME_MAGIC, at + 1)
    return None


def records_of(data: bytes, frame: Frame) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(type, group, index, term, data) of each record of a checked frame."""
    offset, unpack = frame.offset + FRAME.size, RECORD.unpack_from
    while offset < frame.end:
        kind, group, index, term, size = unpack(data, offset)
        offset += RECORD.size
        yield kind, group, index, term, data[offset : offset + size]
        offset += size
