"""LevelDB as the store of groups: isolation by prefix, incarnations, what is durable when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from kalamdb.errors import Corruption, KalamError, Unavailable
from kalamdb.model.ids import GroupId, Seq
from kalamdb.store import image
from kalamdb.store.hot import HotSettings, HotStore
from kalamdb.store.kv import FIRST_MARK, GroupStore, Mark, prefix_end
from kalamdb.store.memory import MemoryStore

SMALL = HotSettings(write_buffer_bytes=64 << 10)
ONE, TWO = GroupId(1), GroupId(2)


class Died(Exception):
    pass


def die(error: KalamError) -> NoReturn:
    raise Died(str(error))


def opened(path: Path) -> HotStore:
    return HotStore.open(path / "hot", SMALL, die)


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[HotStore]:
    made = opened(tmp_path)
    yield made
    made.close()


def mark(index: int) -> Mark:
    return Mark(index, 1, Seq(index * 1024))


@pytest.fixture(params=["level", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GroupStore]:
    if request.param == "memory":
        yield MemoryStore(ONE)
        return
    made = opened(tmp_path)
    yield made.group(ONE)
    made.close()


def test_write_get_scan(store: GroupStore) -> None:
    assert store.mark() == FIRST_MARK
    store.write([(b"\x10b", b"2"), (b"\x10a", b"1"), (b"\x11a", b"x")], mark(1))
    store.write([(b"\x10a", None), (b"\x10c", b""), (b"\x10c", b"3")], mark(2))
    assert store.get(b"\x10a") is None
    assert store.get(b"\x10c") == b"3"
    assert list(store.scan(b"\x10", b"\x11")) == [(b"\x10b", b"2"), (b"\x10c", b"3")]
    backwards = list(store.scan(b"\x10", b"\x11", reverse=True))
    assert backwards == [(b"\x10c", b"3"), (b"\x10b", b"2")]
    assert list(store.scan(b"\x10c", b"\x10c")) == []
    assert store.mark() == mark(2)


def test_snapshot_is_of_one_mark(store: GroupStore) -> None:
    store.write([(b"\x10a", b"1")], mark(1))
    snapshot = store.snapshot()
    store.write([(b"\x10a", b"2"), (b"\x10b", b"2")], mark(2))
    assert snapshot.mark == mark(1)
    assert snapshot.get(b"\x10a") == b"1"
    assert list(snapshot.scan(b"\x10", b"\x11")) == [(b"\x10a", b"1")]
    snapshot.close()


def test_image_becomes_the_group(store: GroupStore) -> None:
    store.write([(b"\x10a", b"old"), (b"\x10z", b"old")], mark(1))
    donor = MemoryStore(ONE)
    donor.write([(b"\x10a", b"new"), (b"\x10b", b"x" * 100)], mark(9))
    build = store.build()
    for pairs in image.chunks(donor.snapshot(), size_bytes=64):
        build.put(pairs)
        assert store.get(b"\x10a") == b"old"
    build.flip(mark(9))
    assert store.mark() == mark(9)
    assert image.digest(store.snapshot()) == image.digest(donor.snapshot())
    while store.purge_old(1):
        pass
    assert image.digest(store.snapshot()) == image.digest(donor.snapshot())


def test_both_stores_have_one_digest(hot: HotStore) -> None:
    level, memory = hot.group(ONE), MemoryStore(ONE)
    for each in (level, memory):
        each.write([(b"\x10a", b"1"), (b"\x10", b"a1")], mark(3))
    assert image.digest(level.snapshot()) == image.digest(memory.snapshot())
    memory.write([(b"\x10a", b"")], mark(3))
    assert image.digest(level.snapshot()) != image.digest(memory.snapshot())


def test_groups_do_not_see_each_other(hot: HotStore) -> None:
    one, two = hot.group(ONE), hot.group(TWO)
    one.write([(b"\x10a", b"1")], mark(1))
    two.write([(b"\x10a", b"2")], mark(5))
    assert (one.get(b"\x10a"), two.get(b"\x10a")) == (b"1", b"2")
    assert [value for _, value in one.scan(b"\x10", b"\x11")] == [b"1"]
    assert (one.mark().index, two.mark().index) == (1, 5)


def test_marks_and_incarnation_survive_a_restart(tmp_path: Path) -> None:
    hot = opened(tmp_path)
    hot.group(ONE).write([(b"\x10a", b"1")], mark(4))
    build = hot.group(TWO).build()
    build.put([(b"\x10a", b"built")])
    build.flip(mark(7))
    hot.close()
    again = opened(tmp_path)
    assert again.group(ONE).mark() == mark(4)
    assert again.group(ONE).durable_index() == 4
    assert again.group(TWO).mark() == mark(7)
    assert again.group(TWO).get(b"\x10a") == b"built"
    again.close()


def test_unfinished_incarnation_is_never_seen_and_purged(tmp_path: Path) -> None:
    hot = opened(tmp_path)
    hot.group(ONE).write([(b"\x10a", b"1")], mark(1))
    hot.group(ONE).build().put([(b"\x10a", b"half"), (b"\x10b", b"half")])
    hot.close()
    again = opened(tmp_path)
    store = again.group(ONE)
    assert store.get(b"\x10a") == b"1"
    assert again.next_incarnation(ONE) == 3
    assert store.purge_old(1) == 1
    assert store.purge_old(10) == 1
    assert store.purge_old(10) == 0
    assert again.next_incarnation(ONE) == 2
    again.close()


def test_durable_after_three_buffers(hot: HotStore) -> None:
    store = hot.group(ONE)
    other = hot.group(TWO)
    store.write([(b"\x10a", b"x")], mark(1))
    assert store.durable_index() == 0
    for index in range(1, 30):
        other.write([(b"\x10%d" % index, b"x" * 8000)], mark(index))
        if hot.written_bytes < 3 * SMALL.write_buffer_bytes:
            assert store.durable_index() == 0
    assert store.durable_index() == 1
    assert 0 < other.durable_index() < 29


def test_checkpoint_makes_marks_durable(hot: HotStore) -> None:
    store = hot.group(ONE)
    store.write([(b"\x10a", b"x")], mark(6))
    assert hot.checkpoint() == {ONE: mark(6)}
    assert store.durable_index() == 6
    store.write([(b"\x10a", b"y")], mark(7))
    assert store.durable_index() == 6


def test_second_opener_is_refused(tmp_path: Path, hot: HotStore) -> None:
    with pytest.raises(Unavailable):
        opened(tmp_path)


def test_damaged_database_is_refused(tmp_path: Path) -> None:
    hot = opened(tmp_path)
    hot.group(ONE).write([(b"\x10a", b"x" * 5000)], mark(1))
    hot.close()
    manifest = next((tmp_path / "hot").glob("MANIFEST-*"))
    manifest.write_bytes(b"\xff" * 40)
    with pytest.raises(Corruption):
        opened(tmp_path)


def test_fault_while_running_ends_the_process(hot: HotStore) -> None:
    store = hot.group(ONE)
    hot.close()
    with pytest.raises((Died, RuntimeError)):
        store.write([(b"\x10a", b"x")], mark(1))


def test_crash_of_the_memory_store_leaves_a_prefix() -> None:
    store = MemoryStore(ONE)
    for index in range(1, 6):
        store.write([(b"\x10k", b"%d" % index), (b"\x10%d" % index, b"")], mark(index))
        if index == 2:
            store.sync()
    assert store.unsynced == 3
    store.crash(lost=2)
    assert store.mark() == mark(3)
    assert store.get(b"\x10k") == b"3"
    assert store.get(b"\x104") is None
    assert store.durable_index() == 3


def test_prefix_end() -> None:
    assert prefix_end(b"\x01\xff\xff") == b"\x02"
    assert prefix_end(b"\x01\x02") == b"\x01\x03"
    assert replace(mark(1), index=2).index == 2
