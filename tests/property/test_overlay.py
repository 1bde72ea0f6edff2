"""Own writes over a snapshot, against a dict: puts, savepoints, and readers that go on."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from kalamdb.decide.transaction import EFFECT_OVERHEAD_BYTES, OwnWrites
from kalamdb.model.command import Effect
from kalamdb.model.ids import GroupId
from kalamdb.store.kv import FIRST_MARK
from kalamdb.store.memory import MemoryStore
from kalamdb.store.overlay import OverlayReader, SharedSnapshot

KEYS = st.binary(min_size=1, max_size=2).map(lambda key: b"\x10" + key)
PAIRS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=12)
PUTS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=6)
STEPS = st.lists(st.tuples(st.sampled_from(("put", "save", "back", "look", "keep")), PUTS))


def merged(below: dict[bytes, bytes], own: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    whole = {**below, **own}
    return {key: value for key, value in sorted(whole.items()) if value is not None}


def reader_of(below: dict[bytes, bytes], own: OwnWrites) -> OverlayReader:
    store = MemoryStore(GroupId(1))
    store.write(list(below.items()), FIRST_MARK)
    return OverlayReader(store.snapshot(), *own.lend(), lambda: None)


def scanned(reader: OverlayReader, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
    return reader.scan(b"\x10", b"\x11", reverse=reverse)


@given(PAIRS, STEPS)
def test_own_writes(below: dict[bytes, bytes], steps: list[tuple[str, list[Effect]]]) -> None:
    own, model = OwnWrites(), dict[bytes, bytes | None]()
    saved: list[tuple[int, dict[bytes, bytes | None]]] = []
    looked: list[tuple[OverlayReader, dict[bytes, bytes]]] = []
    for kind, puts in steps:
        match kind:
            case "put":
                own.put(puts)
                model.update(puts)
            case "save":
                saved.append((own.savepoint(), dict(model)))
            case "back" if saved:
                place, model = saved.pop()
                own.undo_to(place)
            case "keep":
                saved.clear()
                own.keep()
            case _:
                looked.append((reader_of(below, own), merged(below, model)))
        assert own.row_count == len(model)  # KEYS are of rows
    looked.append((reader_of(below, own), merged(below, model)))
    for reader, wanted in looked:
        assert dict(scanned(reader)) == wanted
        assert list(scanned(reader)) == list(wanted.items())
        assert list(scanned(reader, reverse=True)) == list(wanted.items())[::-1]
        for key in (*below, *model, b"\x10none"):
            assert reader.get(key) == wanted.get(key)
    if not saved:
        own.keep()
        sizes = [len(key) + len(value or b"") for key, value in model.items()]
        assert own.size_bytes == sum(sizes) + EFFECT_OVERHEAD_BYTES * len(model)
    own.undo_all()
    assert (own.size_bytes, own.row_count, dict(own.effects)) == (0, 0, {})


@given(PAIRS, PUTS, KEYS, KEYS)
def test_ranges(below: dict[bytes, bytes], puts: list[Effect], one: bytes, other: bytes) -> None:
    own = OwnWrites()
    own.put(puts)
    start, stop = sorted((one, other))
    wanted = [pair for pair in merged(below, dict(puts)).items() if start <= pair[0] < stop]
    reader = reader_of(below, own)
    assert list(reader.scan(start, stop)) == wanted
    assert list(reader.scan(start, stop, reverse=True)) == wanted[::-1]


def test_the_last_holder_closes() -> None:
    class Snapshot:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    snapshot = Snapshot()
    shared = SharedSnapshot(snapshot)  # type: ignore[arg-type]
    shared.hold()
    shared.let_go()
    assert snapshot.closed == 0
    shared.let_go()
    assert snapshot.closed == 1
