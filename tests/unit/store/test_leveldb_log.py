"""Log files of LevelDB after an OS crash: cut to a prefix, never a hole."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import plyvel
import pytest
from crc32c import crc32c

from kalamdb.errors import Corruption
from kalamdb.store import leveldb_log
from kalamdb.store.leveldb_log import BLOCK_BYTES, HEADER, cut_to_prefix, log_number, valid_size

BATCHES = 300
KEYS_EACH = 5


def framed(records: list[bytes], start: int = 0) -> bytes:
    """`records` as LevelDB's log writer puts them, beginning at offset `start` of a file."""
    out = bytearray()

    def emit(kind: int, part: bytes) -> None:
        crc = leveldb_log.mask(crc32c(bytes([kind]) + part))
        out.extend(HEADER.pack(crc, len(part), kind) + part)

    for record in records:
        rest, first = record, True
        while True:
            left = BLOCK_BYTES - (start + len(out)) % BLOCK_BYTES
            if left < HEADER.size:
                out.extend(b"\0" * left)
                left = BLOCK_BYTES
            part, rest = rest[: left - HEADER.size], rest[left - HEADER.size :]
            last = not rest
            emit({(1, 1): 1, (1, 0): 2, (0, 0): 3, (0, 1): 4}[first, last], part)
            first = False
            if last:
                break
    return bytes(out)


def batch(number: int, first_sequence: int) -> bytes:
    """A write batch: keys r<number>.<k> and m = number."""
    puts = [(b"r%06d.%d" % (number, k), b"v" * (50 + number * 37 % 700)) for k in range(KEYS_EACH)]
    puts.append((b"m", b"%d" % number))
    out = bytearray(first_sequence.to_bytes(8, "little") + len(puts).to_bytes(4, "little"))
    for key, value in puts:
        out += b"\x01" + varint(len(key)) + key + varint(len(value)) + value
    return bytes(out)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a table file and two live log files, as the kernel had it."""
    path = tmp_path_factory.mktemp("crashed") / "db"
    db = plyvel.DB(str(path), create_if_missing=True)
    db.put(b"in a table", b"1")
    db.close()
    plyvel.DB(str(path)).close()  # opening turns the log into a table
    number = log_number(path)
    assert number is not None
    half = BATCHES // 2
    sequence = [1000 + n * (KEYS_EACH + 1) for n in range(BATCHES)]
    older = framed([batch(n, sequence[n]) for n in range(half)])
    newer = framed([batch(n, sequence[n]) for n in range(half, BATCHES)])
    (path / f"{number:06d}.log").write_bytes(older)
    (path / f"{number + 3:06d}.log").write_bytes(newer)
    return path


def damaged(crashed: Path, at: Path, seed: int) -> Path:
    """A copy that lost random pages of its log files."""
    shutil.copytree(crashed, at)
    dice = random.Random(seed)
    for log in sorted(at.glob("*.log")):
        data = bytearray(log.read_bytes())
        for page in range(0, len(data), 4096):
            if dice.random() < 0.1:
                data[page : page + 4096] = bytes(min(4096, len(data) - page))
        log.write_bytes(data)
    return at


def is_prefix(path: Path) -> tuple[bool, int]:
    """Does the database hold exactly the batches up to the one it names last?"""
    db = plyvel.DB(str(path))
    try:
        last = db.get(b"m")
        batches = 0 if last is None else int(last) + 1
        found = list(db.iterator(prefix=b"r", include_value=False))
        wanted = [b"r%06d.%d" % (n, k) for n in range(batches) for k in range(KEYS_EACH)]
        assert db.get(b"in a table") == b"1"
        return found == wanted, batches
    finally:
        db.close()


def test_undamaged_logs_lose_only_the_newer_file(crashed: Path, tmp_path: Path) -> None:
    shutil.copytree(crashed, tmp_path / "db")
    cut = cut_to_prefix(tmp_path / "db")
    assert cut.cut_bytes == 0
    assert len(cut.renamed) == 1
    assert is_prefix(tmp_path / "db") == (True, BATCHES // 2)
    shutil.copytree(crashed, tmp_path / "uncut")
    assert is_prefix(tmp_path / "uncut") == (True, BATCHES)


@pytest.mark.parametrize("seed", range(8))
def test_lost_pages_leave_a_prefix(crashed: Path, tmp_path: Path, seed: int) -> None:
    path = damaged(crashed, tmp_path / "db", seed)
    cut = cut_to_prefix(path)
    assert cut.cut_bytes > 0
    whole, batches = is_prefix(path)
    assert whole
    assert batches < BATCHES // 2
    assert cut_to_prefix(path).cut_bytes == 0


def test_stock_recovery_leaves_holes(crashed: Path, tmp_path: Path) -> None:
    """What the cut is for. If LevelDB ever mends this itself, the cut may go."""
    whole = [is_prefix(damaged(crashed, tmp_path / f"db{seed}", seed))[0] for seed in range(4)]
    assert not all(whole)


def test_newer_log_without_the_needed_one_is_set_aside(crashed: Path, tmp_path: Path) -> None:
    """The needed file's own directory entry was lost: what follows it must not be applied."""
    path = tmp_path / "db"
    shutil.copytree(crashed, path)
    number = log_number(path)
    (path / f"{number:06d}.log").unlink()
    assert len(cut_to_prefix(path).renamed) == 1
    assert is_prefix(path) == (True, 0)


def test_log_already_in_tables_is_left_alone(crashed: Path, tmp_path: Path) -> None:
    path = tmp_path / "db"
    shutil.copytree(crashed, path)
    number = log_number(path)
    assert number is not None
    old = path / f"{number - 1:06d}.log"
    old.write_bytes(b"obsolete")
    cut_to_prefix(path)
    assert old.read_bytes() == b"obsolete"
    assert (path / f"{number:06d}.log").exists()


@pytest.mark.parametrize("size", [0, 1, 100, BLOCK_BYTES - 7, BLOCK_BYTES - 6, 3 * BLOCK_BYTES])
def test_record_sizes(size: int) -> None:
    records = [b"a" * size, b"b" * 20, b"c" * size]
    data = framed(records)
    assert [record for record, _ in leveldb_log.read_records(data)] == records
    assert valid_size(data) == len(data)
    assert valid_size(data[:-1]) < len(data)


def test_cut_is_at_a_record_not_inside_one() -> None:
    one, two = framed([b"x" * 100]), framed([b"y" * 50_000], start=107)
    assert valid_size(one + two[:-1]) == len(one)
    flipped = bytearray(one + two)
    flipped[len(one) + 40_000] ^= 1
    assert valid_size(bytes(flipped)) == len(one)
    assert valid_size(bytes(8192)) == 0


def test_real_log_and_manifest_are_read_to_their_end(tmp_path: Path) -> None:
    db = plyvel.DB(str(tmp_path / "db"), create_if_missing=True, write_buffer_size=64 << 10)
    for number in range(400):
        db.put(b"k%d" % number, b"v" * 1000)
    number = log_number(tmp_path / "db")
    assert number is not None
    assert number > 3
    logs = sorted((tmp_path / "db").glob("*.log"))
    assert valid_size(logs[-1].read_bytes()) == logs[-1].stat().st_size
    db.close()


def test_unreadable_current_is_corruption(tmp_path: Path) -> None:
    assert log_number(tmp_path) is None
    assert cut_to_prefix(tmp_path).renamed == ()
    (tmp_path / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(Corruption):
        log_number(tmp_path)
    (tmp_path / "CURRENT").write_bytes(b"MANIFEST-000004\n")
    with pytest.raises(Corruption):
        log_number(tmp_path)
