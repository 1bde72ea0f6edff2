"""Segments of the shared log, as the log itself writes them, and the files of a data directory."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID as UUID4

from cluster.raft import wal_recovery
from cluster.raft.members import (
    Base,
    Roster,
    decode_base,
    decode_roster,
    encode_base,
    encode_roster,
)
from cluster.raft.wal import Wal
from cluster.raft.wal_format import (
    RECORD,
    Frame,
    RecordType,
    SegmentHeader,
    frame_at,
    frame_bytes,
    header_bytes,
    parse_header,
    records_of,
    segment_name,
    segment_seed,
)
from cluster.raft.wal_recovery import GroupState
from kalamdb.store.recovery import DataDirectory
from tests.compat.case import Case
from tests.raft.world import ModelDisk

UUID = b"0123456789abcdef"
ROSTER = Roster((1, 2, 300), (4,), ((300, (1 << 62) - 1),))
BASE = Base(ROSTER, 7, known=False, life=9)
HEADER = SegmentHeader(UUID, 5, 77, 3)
SEED = segment_seed(UUID, 5)


def format_cases() -> list[Case]:
    name = segment_name(5)
    record = RECORD.pack(RecordType.ADD, 3, 9, 2, 4) + b"\x10row"
    frame = frame_bytes([record], SEED, 4, 3)

    def read_frame(raw: bytes) -> list[tuple[int, int, int, int, bytes]]:
        found = frame_at(raw, 0, SEED)
        assert found is not None
        assert found == Frame(0, len(raw), 4, 3)
        return list(records_of(raw, found))

    added = [(RecordType.ADD, 3, 9, 2, b"\x10row")]
    return [
        Case("segment name", name.encode(), "0000000000000005.wal", bytes.decode),
        Case(
            "segment header",
            header_bytes(HEADER),
            HEADER,
            lambda raw: parse_header(name, raw, UUID),
        ),
        Case("frame", frame, added, read_frame),
        Case("two segments", _segments(), _states(), _recovered),
        Case("roster", encode_roster(ROSTER), ROSTER, decode_roster),
        Case("base", encode_base(BASE), BASE, decode_base),
        Case("segments with members", _member_segments(), _member_states(), _recovered),
    ]


def _segments() -> bytes:
    """Two segments with every kind of record, one after the other, each under its length."""
    disk = ModelDisk()
    log = Wal(disk, UUID)
    log.term(1, 1, None)
    log.term(3, 2, 1)
    for index in (2, 3, 4, 5):
        log.add(1, index, 1, b"\x10one %d" % index)
    log.add(3, 2, 2, b"\x01")
    _cycle(log)
    log.trunc(1, 5)
    log.add(1, 5, 2, b"\x10another five")
    log.compact(1, 2, 1)
    log.reset(8, 40, 6)
    log.add(8, 41, 6, b"\x10after an image")
    _cycle(log)
    again = Wal(disk, UUID)
    again.add(3, 3, 2, b"\x10in the second segment")
    _cycle(again)
    files = [disk.read(name) for name in sorted(disk.list())]
    assert len(files) == 2
    return b"".join(len(data).to_bytes(4, "big") + data for data in files)


def _member_segments() -> bytes:
    """Who is a member, repeated in the second segment; a group that was forgotten."""
    disk = ModelDisk()
    log = Wal(disk, UUID)
    log.members(1, encode_base(BASE))
    log.add(1, 2, 1, encode_roster(ROSTER))
    log.members(2, encode_base(BASE))
    log.add(2, 2, 1, b"\x10row")
    _cycle(log)
    log.forget(2)
    _cycle(log)
    again = Wal(disk, UUID)
    again.add(1, 3, 2, b"\x10in the second segment")
    _cycle(again)
    return b"".join(
        len(data).to_bytes(4, "big") + data
        for data in (disk.read(name) for name in sorted(disk.list()))
    )


def _member_states() -> dict[int, GroupState]:
    entries = [(encode_roster(ROSTER), 2, 1), (b"\x10in the second segment", 3, 2)]
    return {1: GroupState(0, None, 1, 0, 3, entries, encode_base(BASE))}


def _cycle(log: Wal) -> None:
    batch = log.take()
    assert batch is not None
    log.write(batch)


def _states() -> dict[int, GroupState]:
    one = [(b"\x10one 3", 3, 1), (b"\x10one 4", 4, 1), (b"\x10another five", 5, 2)]
    three = [(b"\x01", 2, 2), (b"\x10in the second segment", 3, 2)]
    return {
        1: GroupState(1, None, 2, 1, 5, list(one)),
        3: GroupState(2, 1, 1, 0, 3, list(three)),
        8: GroupState(0, None, 40, 6, 41, [(b"\x10after an image", 41, 6)]),
    }


def _recovered(raw: bytes) -> dict[int, GroupState]:
    disk, at, number = ModelDisk(), 0, 1
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        disk.create(segment_name(number), raw[at + 4 : at + 4 + size])
        at, number = at + 4 + size, number + 1
    return wal_recovery.recover(disk, UUID).groups


# ---- the data directory --------------------------------------------------------------------------


def directory_files(path: Path) -> dict[str, bytes]:
    """`format` and `run` of a fresh directory, and `run` after its clean stop."""
    directory = _open(path)
    found = {"format": (path / "format").read_bytes(), "run": (path / "run").read_bytes()}
    directory.close(clean=True)
    found["run after a clean stop"] = (path / "run").read_bytes()
    return found


class FixedIds:
    """Dice that fell already."""

    def token(self, size_bytes: int) -> bytes:
        return bytes(range(size_bytes))

    def uuid4(self) -> UUID4:
        return UUID4(bytes=self.token(16), version=4)


def _open(path: Path) -> DataDirectory:
    return DataDirectory.open(path, node_id=1, cluster_id="c-1", ids=FixedIds(), boot_id="b-1")
