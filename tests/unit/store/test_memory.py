"""The store of tests: batches of any size leave its keys in order, and snapshots do not move."""

from __future__ import annotations

from random import Random

from kalamdb.model import keys
from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId, Seq
from kalamdb.store.kv import KeyReader, Mark
from kalamdb.store.memory import MANY, MemoryStore


def pairs(reader: KeyReader) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in reader.scan(b"", b"\xff") if key != keys.META]


def test_batches_of_any_size_and_snapshots_between_them() -> None:
    dice, store, kept = Random(7), MemoryStore(GroupId(1)), dict[bytes, bytes]()
    for index in range(1, 30):
        snapshot, before = store.snapshot(), sorted(kept.items())
        batch: list[Effect] = []
        for _ in range(dice.choice((1, 5, MANY - 1, MANY, MANY * 2))):
            key = b"k%03d" % dice.randrange(400)
            batch.append((key, dice.choice((None, b"", b"v%d" % index))))
        store.write(batch, Mark(index, 1, Seq(0)))
        for key, value in batch:
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        assert pairs(store) == sorted(kept.items())
        assert pairs(snapshot) == before
    between = [pair for pair in sorted(kept.items(), reverse=True) if b"k1" < pair[0] < b"k2"]
    assert list(store.scan(b"k1", b"k2", reverse=True)) == between
    store.crash(store.unsynced)
    assert pairs(store) == []
