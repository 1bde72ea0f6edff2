"""LevelDB's log files, read without LevelDB: cut what an OS crash left to a prefix of what was
written.

LevelDB writes its log without syncing it here, and on opening skips a bad block and goes on, which
leaves a hole. Table files and the MANIFEST are synced by LevelDB, so the only holes can be in log
files:

1. The MANIFEST (itself in log format) names the oldest log file whose contents are not in tables.
2. Of the log files from that number on, only that one is kept, cut at its first invalid record.
3. The later ones are renamed away: what they hold came after what may be lost.

A record is `masked crc32c (4) | length (2) | kind (1) | data`, never across a block of 32 KiB; a
zero-filled page is an invalid record (kind 0).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from kalamdb.errors import Corruption

BLOCK_BYTES = 32768
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
_LOG_FILE = re.compile(r"(\d+)\.log")
_MASK_DELTA = 0xA282EAD8
LOST_SUFFIX = ".lost"

# Tags of a version edit, each with the shape of its fields: v a varint, s a string with its length.
_EDIT_FIELDS = {1: "s", 2: "v", 3: "v", 4: "v", 5: "vs", 6: "vv", 7: "vvvss", 9: "v"}
_LOG_NUMBER = 2


@dataclass(frozen=True, slots=True)
class Cut:
    """What `cut_to_prefix` did: bytes cut from the kept log file, and the files renamed away."""

    log_number: int
    cut_bytes: int
    renamed: tuple[str, ...]


def mask(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Whole records with the offset after them, up to the first that is not valid."""
    at, size = 0, len(data)
    parts: list[bytes] = []
    while at < size:
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEADER.size:
            if data[at : at + left].strip(b"\0"):
                return
            at += left
            continue
        if size - at < HEADER.size:
            return
        crc, length, kind = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if not FULL <= kind <= LAST or length > left - HEADER.size or end > size:
            return
        if (kind in (FULL, FIRST)) == bool(parts):
            return  # a record begins inside another, or goes on without a beginning
        if mask(crc32c(data[at + 6 : end])) != crc:
            return
        parts.append(data[at + HEADER.size : end])
        at = end
        if kind in (FULL, LAST):
            yield b"".join(parts), at
            parts = []


def valid_size(data: bytes) -> int:
    """Bytes up to the end of the last whole record before the first invalid one."""
    end = 0
    for _, at in read_records(data):
        end = at
    return end


def log_number(database: Path) -> int | None:
    """The oldest log file the database still needs; None for a database that was never opened.

    Raises: Corruption when CURRENT or the MANIFEST can't be read to its end.
    """
    current = database / "CURRENT"
    try:
        name = current.read_bytes()
    except FileNotFoundError:
        return None
    if not re.fullmatch(rb"MANIFEST-\d+\n", name):
        raise Corruption(str(current), 0, "it does not name a MANIFEST")
    manifest = database / name[:-1].decode()
    try:
        data = manifest.read_bytes()
    except FileNotFoundError as error:
        raise Corruption(str(manifest), 0, "CURRENT names it and it is missing") from error
    number = 0
    for record, end in read_records(data):
        try:
            number = _log_number_of(record, number)
        except (IndexError, KeyError) as error:
            raise Corruption(str(manifest), end, "an edit can't be decoded") from error
    return number


def _log_number_of(edit: bytes, number: int) -> int:
    """The log number after an edit."""
    at = 0
    while at < len(edit):
        tag, at = _varint(edit, at)
        for field in _EDIT_FIELDS[tag]:
            value, at = _varint(edit, at)
            if field == "s":
                at += value
            elif tag == _LOG_NUMBER:
                number = value
    if at != len(edit):
        raise IndexError("an edit ends inside a field")
    return number


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def cut_to_prefix(database: Path) -> Cut:
    """Make the database a prefix of what was written to it. Call before LevelDB opens it."""
    number = log_number(database)
    if number is None:
        return Cut(0, 0, ())
    renamed: list[str] = []
    cut_bytes = 0
    for path in sorted(database.iterdir()):
        found = _LOG_FILE.fullmatch(path.name)
        if found is None or int(found[1]) < number:
            continue
        if int(found[1]) > number:
            # Also when the needed file itself is gone: what came after it would leave a hole.
            path.rename(path.with_name(path.name + LOST_SUFFIX))
            renamed.append(path.name)
            continue
        data = path.read_bytes()
        size = valid_size(data)
        cut_bytes = len(data) - size
        if cut_bytes:
            _truncate(path, size)
    descriptor = os.open(database, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Cut(number, cut_bytes, tuple(renamed))


def _truncate(path: Path, size_bytes: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size_bytes)
        os.fsync(file.fileno())
