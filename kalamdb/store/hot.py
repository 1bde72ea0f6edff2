# pyright: basic
"""LevelDB: one database per node, a key prefix per group and incarnation. The only importer of
plyvel.

Batches are written without a sync; after a crash of the machine the state is a prefix of what was
written (`recovery` cuts it to one) and the replicated log holds the rest. Which entries the log may
drop follows from `durable_index`: those that had 3 × write_buffer_size written after them are in
table files, which LevelDB syncs, and `checkpoint` syncs the log files themselves.

Keeps:
- Node keys live under group FFFF, which no group can have; they name each group's current
  incarnation.
- An incarnation becomes current by one synced put; leftovers of others are purged in bounded steps.
- A fault of the disk or a corruption is handed to `fatal`, which must not return.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import plyvel

from kalamdb.errors import Corruption, KalamError, Unavailable
from kalamdb.model import codec, keys
from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId
from kalamdb.store.kv import FIRST_MARK, Mark, prefix_end

Fatal = Callable[[KalamError], NoReturn]

FIRST_INCARNATION = 1
BATCH_OVERHEAD_BYTES = 8  # of one put in LevelDB's log, beside key and value
DURABLE_BUFFERS = 3
_NODE_PREFIX = keys.group_prefix(GroupId(0xFFFF), 0)
_LOG_FILE = re.compile(r"\d+\.log")


@dataclass(frozen=True, slots=True)
class HotSettings:
    write_buffer_bytes: int = 16 << 20
    block_cache_bytes: int = 64 << 20
    bloom_bits: int = 10
    files_max: int = 500


@dataclass(frozen=True, slots=True)
class HotStatistics:
    bytes_written: int
    block_cache_bytes: int
    groups: int


class HotStore:
    """The node's LevelDB. `open` it once; `group` gives each group's store."""

    def __init__(self, path: Path, db: plyvel.DB, settings: HotSettings, fatal: Fatal) -> None:
        self.path = path
        self.db = db
        self.settings = settings
        self.written_bytes = 0
        self._fatal = fatal
        self._groups: dict[GroupId, LevelGroupStore] = {}

    @staticmethod
    def open(path: Path, settings: HotSettings, fatal: Fatal) -> HotStore:
        """Raises: Corruption naming the database; Unavailable when another process has it open."""
        try:
            db = plyvel.DB(
                str(path),
                create_if_missing=True,
                write_buffer_size=settings.write_buffer_bytes,
                lru_cache_size=settings.block_cache_bytes,
                bloom_filter_bits=settings.bloom_bits,
                max_open_files=settings.files_max,
                paranoid_checks=True,
            )
        except plyvel.CorruptionError as error:
            raise Corruption(str(path), 0, str(error)) from error
        except (plyvel.IOError, plyvel.Error) as error:
            raise Unavailable(f"the database {path} cannot be opened: {error}") from error
        return HotStore(path, db, settings, fatal)

    def group(self, group_id: GroupId) -> LevelGroupStore:
        found = self._groups.get(group_id)
        if found is None:
            found = self._groups[group_id] = LevelGroupStore(self, group_id)
        return found

    def checkpoint(self) -> dict[GroupId, Mark]:
        """Sync LevelDB's log files by path; returns the marks that are durable from now on.

        Blocks for the disk: run it in a thread. Marks are taken first, so each is in a file synced
        here or in a table file, which LevelDB synced before it removed the log file.
        """
        marks = {group.group: (group.mark(), group.incarnation) for group in self._all()}
        try:
            for name in sorted(filter(_LOG_FILE.fullmatch, os.listdir(self.path))):
                try:
                    descriptor = os.open(self.path / name, os.O_RDONLY)
                except FileNotFoundError:
                    continue  # its contents went into a table file meanwhile
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
            sync_directory(self.path)
        except OSError as error:
            self._fatal(Corruption(str(self.path), 0, f"sync failed: {error}"))
        for group in self._all():
            mark, incarnation = marks.get(group.group, (FIRST_MARK, 0))
            if incarnation == group.incarnation:
                group.made_durable(mark.index)
        return {group: mark for group, (mark, _) in marks.items()}

    def _all(self) -> list[LevelGroupStore]:
        return list(self._groups.values())

    def incarnation(self, group_id: GroupId) -> int:
        """The group's current incarnation."""
        raw = self.get(_NODE_PREFIX + keys.U16.pack(group_id))
        return FIRST_INCARNATION if raw is None else keys.U32.unpack_from(raw, 1)[0]

    def next_incarnation(self, group_id: GroupId) -> int:
        """A number above every incarnation that is current or has keys left."""
        start = keys.group_prefix(group_id, 0)
        newest = self.incarnation(group_id)
        stop = keys.group_prefix(GroupId(group_id + 1), 0)
        for key, _ in self.scan(start, stop, reverse=True):
            newest = max(newest, keys.PREFIX.unpack_from(key)[1])
            break
        return newest + 1

    def flip(self, group_id: GroupId, incarnation: int) -> None:
        """Make an incarnation the current one; on disk when this returns."""
        value = b"\x01" + keys.U32.pack(incarnation)
        try:
            self.db.put(_NODE_PREFIX + keys.U16.pack(group_id), value, sync=True)
        except plyvel.Error as error:
            self.fault(error)

    def get(self, key: bytes) -> bytes | None:
        try:
            return self.db.get(key)
        except plyvel.Error as error:
            self.fault(error)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self.db.iterator(start=start, stop=stop, reverse=reverse)
        except plyvel.Error as error:
            self.fault(error)

    def fault(self, error: plyvel.Error) -> NoReturn:
        self._fatal(Corruption(str(self.path), 0, f"{type(error).__name__}: {error}"))

    def statistics(self) -> HotStatistics:
        return HotStatistics(self.written_bytes, self.settings.block_cache_bytes, len(self._groups))

    def close(self) -> None:
        self.db.close()


class LevelSnapshot:
    """Implements `kv.GroupSnapshot` over a LevelDB snapshot."""

    def __init__(self, hot: HotStore, prefix: bytes, mark: Mark) -> None:
        self.mark = mark
        self._hot = hot
        self._prefix = prefix
        self._snapshot = hot.db.snapshot()

    def get(self, key: bytes, /) -> bytes | None:
        try:
            return self._snapshot.get(self._prefix + key)
        except plyvel.Error as error:
            self._hot.fault(error)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        prefix = self._prefix
        try:
            found = self._snapshot.iterator(
                start=prefix + start, stop=prefix + stop, reverse=reverse
            )
            for key, value in found:
                yield key[6:], value
        except plyvel.Error as error:
            self._hot.fault(error)

    def close(self) -> None:
        self._snapshot.close()


class LevelGroupStore:
    """Implements `kv.GroupStore`: the keys of one group in its current incarnation."""

    def __init__(self, hot: HotStore, group: GroupId) -> None:
        self.group = group
        self._hot = hot
        self._get = hot.db.get
        self.incarnation = 0
        self._prefix = b""
        self._mark = FIRST_MARK
        self._durable_index = 0
        # (bytes the node had written then, index), a pair every 64 KiB at most.
        self._history: deque[tuple[int, int]] = deque()
        self._enter(hot.incarnation(group))

    def _enter(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self._prefix = keys.group_prefix(self.group, incarnation)
        raw = self.get(keys.META)
        self._mark = FIRST_MARK if raw is None else Mark(*codec.decode_mark(raw))
        # Opening LevelDB turns its log files into synced tables, and a flip is synced.
        self._durable_index = self._mark.index
        self._history.clear()

    def get(self, key: bytes, /) -> bytes | None:
        try:
            return self._get(self._prefix + key)
        except plyvel.Error as error:
            self._hot.fault(error)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        prefix = self._prefix
        for key, value in self._hot.scan(prefix + start, prefix + stop, reverse=reverse):
            yield key[6:], value

    def mark(self) -> Mark:
        return self._mark

    def snapshot(self) -> LevelSnapshot:
        return LevelSnapshot(self._hot, self._prefix, self._mark)

    def write(self, effects: Iterable[Effect], mark: Mark) -> None:
        prefix = self._prefix
        hot = self._hot
        batch = hot.db.write_batch()
        put, delete = batch.put, batch.delete
        try:
            for key, value in effects:
                if value is None:
                    delete(prefix + key)
                else:
                    put(prefix + key, value)
            put(prefix + keys.META, codec.encode_mark(mark.index, mark.term, mark.seq_last))
            batch.write()
        except plyvel.Error as error:
            hot.fault(error)
        hot.written_bytes += batch.approximate_size()
        self._mark = mark
        self._remember(hot.written_bytes, mark.index)

    def _remember(self, written_bytes: int, index: int) -> None:
        history = self._history
        if not history or written_bytes - history[-1][0] >= 65536:
            history.append((written_bytes, index))

    def durable_index(self) -> int:
        settled = self._hot.written_bytes - DURABLE_BUFFERS * self._hot.settings.write_buffer_bytes
        history = self._history
        while history and history[0][0] <= settled:
            self.made_durable(history.popleft()[1])
        return self._durable_index

    def made_durable(self, index: int) -> None:
        self._durable_index = max(self._durable_index, index)

    def bytes_written(self) -> int:
        return self._hot.written_bytes

    def size_bytes(self) -> int:
        return self._hot.db.approximate_size(self._prefix, prefix_end(self._prefix))

    def build(self) -> LevelBuild:
        return LevelBuild(self._hot, self, self._hot.next_incarnation(self.group))

    def purge_old(self, keys_max: int) -> int:
        first = keys.group_prefix(self.group, 0)
        last = keys.group_prefix(GroupId(self.group + 1), 0)
        found: list[bytes] = []
        for start, stop in ((first, self._prefix), (prefix_end(self._prefix), last)):
            for key, _ in self._hot.scan(start, stop):
                found.append(key)
                if len(found) >= keys_max:
                    break
        batch = self._hot.db.write_batch()
        for key in found[:keys_max]:
            batch.delete(key)
        try:
            batch.write()
        except plyvel.Error as error:
            self._hot.fault(error)
        return len(found)

    def flipped(self, incarnation: int) -> None:
        self._enter(incarnation)


class LevelBuild:
    """Implements `kv.GroupBuild`."""

    def __init__(self, hot: HotStore, store: LevelGroupStore, incarnation: int) -> None:
        self._hot = hot
        self._store = store
        self._incarnation = incarnation
        self._prefix = keys.group_prefix(store.group, incarnation)

    def put(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        batch = self._hot.db.write_batch()
        try:
            for key, value in pairs:
                batch.put(self._prefix + key, value)
            batch.write()
        except plyvel.Error as error:
            self._hot.fault(error)
        self._hot.written_bytes += batch.approximate_size()

    def flip(self, mark: Mark) -> None:
        pairs = [(keys.META, codec.encode_mark(mark.index, mark.term, mark.seq_last))]
        self.put(pairs)
        # The synced put of the flip syncs the log file both stand in; the chunks may stand in older
        # ones.
        self._hot.checkpoint()
        self._hot.flip(self._store.group, self._incarnation)
        self._store.flipped(self._incarnation)


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
