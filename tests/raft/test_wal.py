"""The shared log: what survives which crash, what is refused, what is collected."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.raft import audit, journal, wal
from cluster.raft.disk import DirectoryDisk
from cluster.raft.journal import GroupJournal
from cluster.raft.members import Roster, encode_roster
from cluster.raft.wal import EXIT_DISK, Wal
from cluster.raft.wal_format import (
    FORMAT_VERSION,
    HEADER_BYTES,
    frame_at,
    frame_bytes,
    frames_of,
    segment_seed,
)
from kalamdb.errors import Corruption
from tests.raft.world import Crash, ModelDisk

UUID = b"0123456789abcdef"
GIDS = (0, 3, 9)


class Store:
    """A node's log and its journals, written and reopened."""

    def __init__(
        self, disk: ModelDisk, *, durable: bool = True, real: DirectoryDisk | None = None
    ) -> None:
        self.disk = disk
        self.wal = Wal(
            real or disk, UUID, segment_bytes=600, durable=durable, fatal=lambda error: None
        )
        self.journals = {gid: GroupJournal(self.wal, gid, 1) for gid in GIDS}

    def state(self) -> list[object]:
        return [
            (gid, j[:], j.getCurrentTerm(), j.getVotedForNodeId(), j.members.base, j.members.roster)
            for gid, j in self.journals.items()
        ]

    def write(self) -> bool:
        """A cycle. False: there was nothing to write."""
        for gid in self.wal.pinning():
            self.journals[gid].log_again()
        batch = self.wal.take()
        for log in self.journals.values():
            log.mark_taken()
        if batch is not None:
            self.wal.write(batch)
        for log in self.journals.values():
            log.mark_synced()
        return batch is not None

    def add(self, gid: int, count: int = 1, data: bytes = b"\x10row") -> None:
        log = self.journals[gid]
        for _ in range(count):
            log.add(data, log.last_index + 1, max(log.last_term, 1))

    def act(self, gid: int, kind: int, amount: int) -> None:
        log = self.journals[gid]
        match kind:
            case 0 | 1:
                self.add(gid, amount, b"\x10" + bytes(amount))
            case 2:
                log.setCurrentTerm(log.getCurrentTerm() + 1, amount % 3 or None)
            case 3:
                log.deleteEntriesFrom(max(1, len(log) - amount))
            case 4:
                log.start_after(min(log.base_index + amount, log.last_index))
            case 5:
                log.reset(log.last_index + amount, log.getCurrentTerm())
            case 6:
                self.add(gid, 1, encode_roster(Roster(tuple(range(1, amount + 1)), (99,))))
            case 7:
                self.wal.forget(gid)
                self.journals[gid] = GroupJournal(self.wal, gid, 1)
            case _:
                raise AssertionError(kind)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(GIDS), st.integers(0, 7), st.integers(1, 9)), min_size=1, max_size=6
)
CRASHES = st.tuples(st.sampled_from(["no", "kill", "power"]), st.integers(0, 4))


@given(st.lists(st.tuples(ACTIONS, CRASHES), max_size=25), st.booleans(), st.integers(0, 2**32))
@example([([(0, 0, 5)], ("power", 1))] * 3, True, 1)
def test_a_crash_leaves_whole_batches(
    cycles: list[tuple[list[tuple[int, int, int]], tuple[str, int]]], durable: bool, seed: int
) -> None:
    """After any crash the log is as of a batch: the last one written, or the one being written.

    Without fdatasync a power cut may take more, but still leaves whole batches.
    """
    dice = Random(seed)
    store = Store(ModelDisk(), durable=durable)
    states = [store.state()]
    for actions, (crash, left) in cycles:
        for action in actions:
            store.act(*action)
        states.append(store.state())
        steps = iter(range(left))

        def before(operation: str, steps: object = steps) -> None:
            if next(steps, None) is None:  # type: ignore[call-overload]
                raise Crash

        if crash != "no":
            store.disk.before = before
        try:
            store.write()
        except Crash:
            crash += " in write"
        store.disk.before = lambda operation: None
        if crash == "no":
            continue
        if crash.startswith("power"):
            store.disk.lose_power(dice)
        store = Store(store.disk, durable=durable)
        if crash.endswith("in write"):
            allowed = states[-2:]
        else:
            allowed = states[-1:]
        if not durable and crash.startswith("power"):
            allowed = states
        assert store.state() in allowed
        states = [store.state()] if durable else [*states, store.state()]


@given(st.lists(ACTIONS, min_size=2, max_size=12), st.integers(0, 2**32))
def test_a_flipped_bit_is_never_taken_for_data(
    cycles: list[list[tuple[int, int, int]]], seed: int
) -> None:
    """Any damage is refused by file and offset, but in the last frame, where it looks like a
    crash.
    """
    dice = Random(seed)
    store = Store(ModelDisk())
    states = [store.state()]
    for actions in cycles:
        for action in actions:
            store.act(*action)
        if store.write():
            states.append(store.state())
    for _ in range(5):
        disk = ModelDisk()
        disk.files, disk.synced = deepcopy(store.disk.files), dict(store.disk.synced)
        name = dice.choice(disk.list())
        at = dice.randrange(len(disk.files[name]))
        disk.files[name][at] ^= 1 << dice.randrange(8)
        found = opened(disk)
        if isinstance(found, Corruption):
            assert found.path in disk.files
            continue
        assert name == max(store.disk.list())
        assert found in states[-2:]


def opened(disk: ModelDisk) -> list[object] | Corruption:
    try:
        return Store(disk).state()
    except Corruption as error:
        return error


def written(count: int, *, each: int = 1) -> tuple[Store, str]:
    """One segment with a frame for each of `count` cycles; its name."""
    store = Store(ModelDisk())
    for _ in range(count):
        store.add(0, each)
        store.write()
    return store, store.disk.list()[-1]


def ends(store: Store, name: str) -> list[tuple[int, int]]:
    data = store.disk.read(name)
    frames = frames_of(data, segment_seed(UUID, int(name[:16])), 1)
    return [(frame.offset, frame.end) for frame in frames]


def test_a_torn_tail_is_cut() -> None:
    store, name = written(5)
    last = ends(store, name)[-1]
    for size in range(last[0], last[1]):
        disk = ModelDisk()
        disk.files = {name: store.disk.files[name][:size]}
        disk.synced = {name: size}
        again = Store(disk)
        assert again.journals[0].last_index == 5
        again.add(0)
        again.write()
        assert Store(disk).journals[0].last_index == 6  # the cut holds: the tail stays away


def test_damage_before_a_synced_frame_is_refused() -> None:
    store, name = written(5)
    offset, end = ends(store, name)[3]
    store.disk.files[name][end - 1] ^= 1
    with pytest.raises(Corruption) as caught:
        Store(store.disk)
    assert (caught.value.path, caught.value.offset) == (name, offset)


def test_without_sync_damage_only_cuts() -> None:
    """Frames of a file that was never synced may be lost in any order."""
    store = Store(ModelDisk(), durable=False)
    for _ in range(5):
        store.add(0)
        store.write()
    name = store.disk.list()[-1]
    _, end = ends(store, name)[3]
    store.disk.files[name][end - 1] ^= 1
    assert Store(store.disk, durable=False).journals[0].last_index == 3


def test_a_row_that_looks_like_a_frame_is_a_row() -> None:
    """A tenant can't forge the proof that a torn frame was on disk: the seed is not known to it."""
    store, name = written(3)
    forged = frame_bytes([], 0, 99, 98)
    store.add(0, 1, b"\x10" + forged * 3)
    store.write()
    offset, end = ends(store, name)[-1]
    assert end - offset > 3 * len(forged)
    del store.disk.files[name][end - 1 :]
    assert Store(store.disk).journals[0].last_index == 4


@pytest.mark.parametrize(
    ("at", "said"), [(0, "not a segment"), (8, "format version"), (40, "checksum")]
)
def test_headers_are_checked(at: int, said: str) -> None:
    store, name = written(2)
    store.disk.files[name][at] ^= 0x40
    with pytest.raises(Corruption, match=said) as caught:
        Store(store.disk)
    assert caught.value.offset == 0
    assert FORMAT_VERSION == 1


def test_another_node_does_not_read_it() -> None:
    store, _ = written(2)
    with pytest.raises(Corruption, match="belongs to node"):
        Wal(store.disk, UUID[::-1])


def test_a_missing_segment_is_refused() -> None:
    store = Store(ModelDisk())
    for _ in range(60):
        store.add(0)
        store.write()
    names = store.disk.list()
    assert len(names) > 3
    store.disk.delete(names[2])
    with pytest.raises(Corruption, match="missing") as caught:
        Store(store.disk)
    assert caught.value.path == names[2]


def test_segments_roll_and_are_collected() -> None:
    store = Store(ModelDisk())
    for _ in range(200):
        store.add(0)
        store.write()
        log = store.journals[0]
        log.start_after(max(log.base_index, log.last_index - 3))
    assert len(store.disk.files) <= 3
    assert store.wal.statistics().segments == len(store.disk.files)
    again = Store(store.disk)
    assert again.journals[0].last_index == 201


def test_idle_groups_do_not_pin_segments() -> None:
    store = Store(ModelDisk())
    store.add(3, 4)
    store.journals[3].setCurrentTerm(7, 2)
    for _ in range(300):
        store.add(0)
        store.write()
        log = store.journals[0]
        log.start_after(max(log.base_index, log.last_index - 3))
    assert len(store.disk.files) <= wal.SEGMENTS_UNPINNED + 2
    again = Store(store.disk)
    assert again.journals[3][:] == store.journals[3][:]
    assert again.journals[3].getVotedForNodeId() == 2


def test_restarts_leave_no_litter() -> None:
    disk = ModelDisk()
    for _ in range(10):
        store = Store(disk)
        store.journals[0].setCurrentTerm(store.journals[0].getCurrentTerm() + 1, 1)
        store.write()
    assert len(disk.files) == 1
    assert Store(disk).journals[0].getCurrentTerm() == 10


def test_compaction_keeps_what_members_that_restart_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_ENTRIES", 10)
    store = Store(ModelDisk())
    log = store.journals[0]
    store.add(0, 100)
    log.compact_to(90)
    assert log.base_index == 80
    log.compact_to(85)
    assert log.base_index == 80
    log.compact_to(10_000)
    assert log.base_index == 91
    monkeypatch.setattr(journal, "KEEP_BYTES", 8)
    log.compact_to(101)
    assert log.base_index == 99
    assert log.size_bytes == 8


def test_a_real_directory(tmp_path: Path) -> None:
    disk = DirectoryDisk(tmp_path / "log")
    store = Store(ModelDisk(), real=disk)
    store.add(0, 3, b"\x10" + bytes(100))
    store.write()
    (tmp_path / "log" / "0000000000000009.wal.tmp").write_bytes(b"cut off")
    for _ in range(3):
        before = store.state()
        disk.close()
        disk = DirectoryDisk(tmp_path / "log")
        store = Store(ModelDisk(), real=disk)
        assert store.state() == before
        store.add(3, 2)
        store.write()
    disk.close()
    assert not [name for name in os.listdir(tmp_path / "log") if name.endswith(".tmp")]
    data = disk.read(disk.list()[-1])
    assert frame_at(data, HEADER_BYTES, segment_seed(UUID, int(disk.list()[-1][:16])))


def test_a_disk_error_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    wal.die(OSError(28, "No space left on device"))
    assert codes == [EXIT_DISK] == [70]
    assert "No space left" in capfd.readouterr().err


def test_only_the_audited_library_is_used(tmp_path: Path) -> None:
    audit.audit_installed()
    with pytest.raises(Corruption, match=r"only 0\.3\.17 is audited"):
        audit.audit(tmp_path, "0.3.18")
    (tmp_path / "config.py").write_text("")
    with pytest.raises(Corruption) as caught:
        audit.audit(tmp_path, audit.AUDITED_VERSION)
    assert caught.value.path.endswith("config.py")
