"""The frames that make one result another: a unit, which a client applies as a whole.

In this order, each kind in as many frames as its size needs, several rows in each:

    "change_type":"delete","old_values":[{…}],"positions":[…],"commit":false}
    "change_type":"insert","rows":[{…}],"positions":[…],"commit":false}
    "change_type":"update","rows":[{…}],"old_values":[{…}],"positions":[…],"old_positions":[…], …}

The last frame of a unit has `"commit":true` and `seq`, the cursor after it. Positions are there
for ordered results only: those of deletes and the old ones of updates count in the list before the
unit, the others in the list after it. Who takes all the old ones out and then puts the new ones in,
from the first to the last, has the new list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from kalamdb.feed.difference import Listing, Pair, difference
from kalamdb.feed.events import FeedEvent
from kalamdb.feed.result import Result
from kalamdb.model.ids import Seq

FRAME_SIZE_BYTES = 64 << 10
FRAME_ROWS_MAX = 500


@dataclass(frozen=True, slots=True)
class _Part:
    """A frame, but for its end."""

    change_type: bytes
    fields: tuple[tuple[bytes, Sequence[bytes]], ...]
    positions: tuple[tuple[bytes, Sequence[int]], ...]

    def tail(self, end: bytes) -> bytes:
        lists = [(name, b",".join(rows)) for name, rows in self.fields]
        lists += [(name, b",".join(b"%d" % at for at in places)) for name, places in self.positions]
        shown = b"".join(b',"%b":[%b]' % pair for pair in lists)
        return b'"change_type":"%b"%b,%b}' % (self.change_type, shown, end)


def unit(old: Result, new: Result) -> tuple[FeedEvent, ...]:
    """No frames when nothing is different."""
    found = difference(old.listing, new.listing)
    if found.is_empty:
        return ()
    parts = [
        *_rows(b"delete", b"old_values", old.listing, found.gone),
        *_rows(b"insert", b"rows", new.listing, found.came),
        *_updates(old, new, found.altered),
    ]
    last = len(parts) - 1
    closing = b'"commit":true,"seq":' + orjson.dumps(str(new.cursor))
    return tuple(
        FeedEvent(Seq(0), part.tail(closing if number == last else b'"commit":false'))
        for number, part in enumerate(parts)
    )


def _rows(
    change_type: bytes, field: bytes, listing: Listing, places: Sequence[int]
) -> Iterator[_Part]:
    rows = [listing.rows[at] for at in places]
    for start, stop in _cuts([len(row) for row in rows]):
        shown = ((b"positions", places[start:stop]),) if listing.ordered else ()
        yield _Part(change_type, ((field, rows[start:stop]),), shown)


def _updates(old: Result, new: Result, altered: Sequence[Pair]) -> Iterator[_Part]:
    rows = [new.listing.rows[now] for _, now in altered]
    key = new.key or ()
    was = [_old_values(old.listing.rows[then], new.listing.rows[now], key) for then, now in altered]
    for start, stop in _cuts([len(row) + len(one) for row, one in zip(rows, was, strict=True)]):
        pairs = altered[start:stop]
        shown: tuple[tuple[bytes, Sequence[int]], ...] = ()
        if new.listing.ordered:
            shown = (
                (b"positions", [now for _, now in pairs]),
                (b"old_positions", [then for then, _ in pairs]),
            )
        fields = ((b"rows", rows[start:stop]), (b"old_values", was[start:stop]))
        yield _Part(b"update", fields, shown)


def _old_values(before: bytes, after: bytes, key: Sequence[str]) -> bytes:
    """The key, and the old values of what is different."""
    was: dict[str, Any] = orjson.loads(before)
    now: dict[str, Any] = orjson.loads(after)
    return orjson.dumps(
        {name: value for name, value in was.items() if name in key or value != now[name]}
    )


def _cuts(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of rows that make a frame each."""
    ends = [0]
    size = 0
    for at, one in enumerate(sizes):
        if at > ends[-1] and (size + one > FRAME_SIZE_BYTES or at - ends[-1] == FRAME_ROWS_MAX):
            ends.append(at)
            size = 0
        size += one
    if sizes:
        ends.append(len(sizes))
    return pairwise(ends)
