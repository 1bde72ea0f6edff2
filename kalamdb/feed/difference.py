"""What to do to one list of result rows to get another; pure.

1. Rows that are alike byte for byte are paired in order; a common beginning and end cost a
   comparison each.
2. Of the rest, rows with the same key are one altered row, where keys are unique in both lists.
3. In ordered lists the pairs that keep their order stay where they are (the longest such run); the
   others have moved.

Keeps: taking the `gone` and the old places of `altered` out of the old list, and putting `came` and
the new places of `altered` in, from the first to the last, gives the new list; in lists without an
order, the same rows the same number of times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows of a result, each as bytes. `keys` tell them apart; None when nothing does."""

    rows: Sequence[bytes]
    keys: Sequence[bytes] | None
    ordered: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """Places in the old list (`gone`, descending), in the new (`came`, ascending), and both
    (`altered`, by new place).
    """

    gone: tuple[int, ...]
    came: tuple[int, ...]
    altered: tuple[Pair, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.gone or self.came or self.altered)


EMPTY = Difference((), (), ())


def difference(old: Listing, new: Listing) -> Difference:
    if old.rows is new.rows:
        return EMPTY
    same, gone, came = _alike(old.rows, new.rows)
    keyed = old.keys is not None and new.keys is not None
    altered: list[Pair] = []
    if old.keys is not None and new.keys is not None and gone and came:
        old_keys, new_keys = old.keys, new.keys
        by_key = {old_keys[at]: at for at in gone}
        altered = [(by_key[new_keys[at]], at) for at in came if new_keys[at] in by_key]
        gone = sorted(set(gone).difference(was for was, _ in altered))
        came = sorted(set(came).difference(now for _, now in altered))
    if new.ordered:
        moved = _moved(same)
        if keyed:
            altered += moved
        else:
            gone += [was for was, _ in moved]
            came += [now for _, now in moved]
    altered.sort(key=lambda pair: pair[1])
    return Difference(tuple(sorted(gone, reverse=True)), tuple(sorted(came)), tuple(altered))


def _alike(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[list[Pair], list[int], list[int]]:
    """(pairs of equal rows by new place, old places left over, new places left over).

    Pairs of the common beginning and end are left out: nothing can have moved across them.
    """
    start, end = 0, min(len(old), len(new))
    while start < end and old[start] == new[start]:
        start += 1
    tail = 0
    while tail < end - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for at in range(len(old) - tail - 1, start - 1, -1):
        places[old[at]].append(at)
    pairs: list[Pair] = []
    came: list[int] = []
    for at in range(start, len(new) - tail):
        found = places.get(new[at])
        if found:
            pairs.append((found.pop(), at))
        else:
            came.append(at)
    gone = sorted(at for left in places.values() for at in left)
    return pairs, gone, came


def _moved(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs outside a longest run in which old places rise with new ones."""
    tops: list[int] = []  # the smallest old place a run of that length ends with
    ends: list[int] = []  # … and the pair it is of
    before: list[int] = []
    for number, (was, _) in enumerate(pairs):
        length = bisect_left(tops, was)
        before.append(ends[length - 1] if length else -1)
        if length == len(tops):
            tops.append(was)
            ends.append(number)
        else:
            tops[length] = was
            ends[length] = number
    stays: set[int] = set()
    at = ends[-1] if ends else -1
    while at >= 0:
        stays.add(at)
        at = before[at]
    return [pair for number, pair in enumerate(pairs) if number not in stays]
