"""The store in memory: the twin of `hot` for tests and the simulator, with crashes.

Keeps: what a crash leaves is a prefix of the batches written, and at least what was synced.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from kalamdb.model import codec, keys
from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId
from kalamdb.store.kv import FIRST_MARK, Mark

MANY = 256
"""From so many effects on a batch is sorted in as a whole: one by one each new key moves half of
the others.
"""


class _Keys:
    """A sorted dict of bytes."""

    def __init__(self, pairs: dict[bytes, bytes] | None = None) -> None:
        self.values = {} if pairs is None else dict(pairs)
        self._order = sorted(self.values)

    def copy(self) -> _Keys:
        other = _Keys()
        other.values, other._order = self.values.copy(), self._order.copy()
        return other

    def put_all(self, effects: Sequence[Effect]) -> None:
        if len(effects) < MANY:
            for key, value in effects:
                if value is None:
                    self._delete(key)
                else:
                    self._put(key, value)
            return
        values, order = self.values, self._order
        stood = {key: key in values for key, _ in effects}
        for key, value in effects:
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
        if any(was and key not in values for key, was in stood.items()):
            order = [key for key in order if key in values]
        order.extend(key for key, was in stood.items() if not was and key in values)
        order.sort()
        self._order = order

    def _put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self._order, key)
        self.values[key] = value

    def _delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self._order[bisect_left(self._order, key)]

    def get(self, key: bytes, /) -> bytes | None:
        return self.values.get(key)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        low, high = bisect_left(self._order, start), bisect_left(self._order, stop)
        found = self._order[low:high]
        for key in reversed(found) if reverse else found:
            value = self.values.get(key)
            if value is not None:
                yield key, value


class MemorySnapshot:
    """The keys at one mark; the store writes on in a copy."""

    def __init__(self, keys: _Keys, mark: Mark) -> None:
        self._keys = keys
        self.mark = mark

    def get(self, key: bytes, /) -> bytes | None:
        return self._keys.get(key)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._keys.scan(start, stop, reverse=reverse)

    def close(self) -> None:
        self._keys = _Keys()


class MemoryStore:
    """Implements `kv.GroupStore`.

    `sync` makes everything so far survive; `crash(lost)` loses the last `lost` batches after that.
    """

    def __init__(self, group: GroupId) -> None:
        self.group = group
        self._keys = _Keys()
        self._lent = False  # a snapshot has the keys too
        self._mark = FIRST_MARK
        self._synced: tuple[dict[bytes, bytes], Mark] = ({}, FIRST_MARK)
        self._unsynced: list[tuple[list[Effect], Mark]] = []
        self._written_bytes = 0

    def get(self, key: bytes, /) -> bytes | None:
        return self._keys.values.get(key)

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._keys.scan(start, stop, reverse=reverse)

    def mark(self) -> Mark:
        return self._mark

    def snapshot(self) -> MemorySnapshot:
        self._lent = True
        return MemorySnapshot(self._keys, self._mark)

    def write(self, effects: Iterable[Effect], mark: Mark) -> None:
        batch = list(effects)
        self._unsynced.append((batch, mark))
        self._put(batch, mark)

    def _put(self, batch: list[Effect], mark: Mark) -> None:
        if self._lent:
            self._keys, self._lent = self._keys.copy(), False
        mark_value = codec.encode_mark(mark.index, mark.term, mark.seq_last)
        self._keys.put_all([*batch, (keys.META, mark_value)])
        self._written_bytes += sum(
            len(key) + len(value) for key, value in batch if value is not None
        )
        self._mark = mark

    def durable_index(self) -> int:
        return self._synced[1].index

    def bytes_written(self) -> int:
        return self._written_bytes

    def size_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self._keys.values.items())

    def sync(self) -> None:
        self._synced = (dict(self._keys.values), self._mark)
        self._unsynced.clear()

    @property
    def unsynced(self) -> int:
        """How many batches a crash may lose."""
        return len(self._unsynced)

    def crash(self, lost: int) -> None:
        """Forget the last `lost` batches since the last sync; what is left is durable."""
        assert 0 <= lost <= len(self._unsynced)
        kept = self._unsynced[: len(self._unsynced) - lost]
        self._keys, self._mark, self._lent = _Keys(self._synced[0]), self._synced[1], False
        for batch, mark in kept:
            self._put(batch, mark)
        self.sync()

    def build(self) -> MemoryBuild:
        return MemoryBuild(self)

    def purge_old(self, keys_max: int) -> int:
        return 0

    def replace(self, pairs: dict[bytes, bytes], mark: Mark) -> None:
        """Another incarnation takes over, synced."""
        self._keys, self._mark, self._lent = _Keys(pairs), mark, False
        self.sync()


class MemoryBuild:
    """Implements `kv.GroupBuild`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._pairs: dict[bytes, bytes] = {}

    def put(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs.update(pairs)

    def flip(self, mark: Mark) -> None:
        self._pairs[keys.META] = codec.encode_mark(mark.index, mark.term, mark.seq_last)
        self._store.replace(self._pairs, mark)
