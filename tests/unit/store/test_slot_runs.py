"""Who is read for which slot, when groups' states are of different moments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.errors import Unavailable
from kalamdb.far_reads import SlotRun
from kalamdb.model.ids import SLOTS, GroupId, Slot
from kalamdb.store.slot_codec import SlotRecord, SlotState
from kalamdb.store.slot_runs import SlotRuns, divided
from kalamdb.store.slots import SlotTable

HALF = SLOTS // 2
READ = (SlotState.OPEN, SlotState.FROZEN)


def table(group: int, records: dict[int, tuple[int, SlotState]]) -> SlotTable:
    found = {Slot(slot): SlotRecord(epoch, state) for slot, (epoch, state) in records.items()}
    return SlotTable.of(GroupId(group), found)


def halves() -> list[list[SlotRun]]:
    return [[SlotRun(0, HALF, 1, True)], [SlotRun(HALF, SLOTS, 1, True)]]


def test_neighbours_that_are_equal_are_one_run() -> None:
    kept = SlotRuns()
    records: dict[int, tuple[int, SlotState]] = dict.fromkeys(range(10), (1, SlotState.OPEN))
    records |= {4: (2, SlotState.FROZEN), 7: (3, SlotState.PURGING), 20: (1, SlotState.OPEN)}
    state = table(1, records)
    runs = kept.of(state)
    assert runs == [
        SlotRun(0, 4, 1, True),
        SlotRun(4, 5, 2, False),
        SlotRun(5, 7, 1, True),
        SlotRun(8, 10, 1, True),
        SlotRun(20, 21, 1, True),
    ]
    assert kept.of(state) is runs
    assert kept.of(table(1, {})) == []


def test_usually_nothing_is_left_out() -> None:
    assert divided(halves()) == [frozenset(), frozenset()]


def test_a_slot_that_moved_in_between_is_read_where_it_is_newest() -> None:
    before, after = halves()
    assert divided([before, [SlotRun(5, 6, 2, True), *after]]) == [frozenset([5]), frozenset()]
    # It was opened there, and the other state is of before it was frozen again and moved on.
    assert divided([[SlotRun(5, 6, 3, False), *before[:0], *before], after])[1] == frozenset()


def test_a_slot_that_nobody_has_is_an_error() -> None:
    first, second = halves()
    with pytest.raises(Unavailable, match="slot 0 "):
        divided([[SlotRun(1, HALF, 1, True)], second])
    with pytest.raises(Unavailable):
        divided([first])


STATE = st.tuples(st.integers(1, 3), st.sampled_from(SlotState))


@given(st.lists(st.dictionaries(st.integers(0, 6), STATE), min_size=1, max_size=3))
def test_every_slot_is_read_once(found: list[dict[int, tuple[int, SlotState]]]) -> None:
    rest = [SlotRun(7, SLOTS, 1, True)]
    groups = [SlotRuns().of(table(n, records)) for n, records in enumerate(found, 1)]
    having = {
        slot: [n for n, one in enumerate(found) if slot in one and one[slot][1] in READ]
        for slot in range(7)
    }
    if not all(having.values()):
        with pytest.raises(Unavailable):
            divided([*groups, rest])
        return
    hide = divided([*groups, rest])
    for slot, groups_of_it in having.items():
        (reader,) = [n for n in groups_of_it if slot not in hide[n]]
        assert found[reader][slot][0] == max(found[n][slot][0] for n in groups_of_it)
