"""A difference, applied, gives the other list; it names no row that stayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalamdb.feed.difference import Difference, Listing, difference


def applied(old: Sequence[bytes], new: Sequence[bytes], found: Difference) -> list[bytes]:
    """The reference: out with the old places, in at the new ones from the first on."""
    rows = list(old)
    out = [*found.gone, *(was for was, _ in found.altered)]
    for at in sorted(out, reverse=True):
        del rows[at]
    put = [*found.came, *(now for _, now in found.altered)]
    for at in sorted(put):
        rows.insert(at, new[at])
    return rows


def listing(rows: Sequence[bytes], *, ordered: bool, keyed: bool) -> Listing:
    return Listing(tuple(rows), tuple(row[:1] for row in rows) if keyed else None, ordered)


WITH_KEYS = st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 2)), max_size=16, unique_by=lambda row: row[0]
)
TEXTS = st.lists(st.integers(0, 5), max_size=14)


@given(old=WITH_KEYS, new=WITH_KEYS, ordered=st.booleans())
def test_keyed(old: list[tuple[int, int]], new: list[tuple[int, int]], *, ordered: bool) -> None:
    was, now = [bytes(row) for row in old], [bytes(row) for row in new]
    if not ordered:
        was, now = sorted(was), sorted(now)
    found = difference(
        listing(was, ordered=ordered, keyed=True), listing(now, ordered=ordered, keyed=True)
    )
    assert applied(was, now, found) == now
    keys = {row[:1] for row in was} & {row[:1] for row in now}
    assert not {was[at][:1] for at in found.gone} & keys, "a row that is there still is no delete"
    assert not {now[at][:1] for at in found.came} & keys
    assert all(was[one][:1] == now[other][:1] for one, other in found.altered)
    if not ordered:
        assert all(was[one] != now[other] for one, other in found.altered)


@given(old=TEXTS, new=TEXTS, ordered=st.booleans())
def test_without_keys_rows_are_counted(old: list[int], new: list[int], *, ordered: bool) -> None:
    was, now = [bytes([row]) for row in old], [bytes([row]) for row in new]
    found = difference(
        listing(was, ordered=ordered, keyed=False), listing(now, ordered=ordered, keyed=False)
    )
    assert not found.altered
    if ordered:
        assert applied(was, now, found) == now
        return
    rows = Counter(was)
    rows.subtract(was[at] for at in found.gone)
    rows.update(now[at] for at in found.came)
    assert +rows == Counter(now)
    assert all(count >= 0 for count in rows.values())
    assert not {was[at] for at in found.gone} & {now[at] for at in found.came}


@pytest.mark.parametrize("keyed", [True, False])
def test_one_row_that_moves_is_all_that_is_told(*, keyed: bool) -> None:
    rows = [bytes([number]) for number in range(50)]
    now = [rows[49], *rows[:49]]
    found = difference(
        listing(rows, ordered=True, keyed=keyed), listing(now, ordered=True, keyed=keyed)
    )
    want = Difference((), (), ((49, 0),)) if keyed else Difference((49,), (0,), ())
    assert found == want
