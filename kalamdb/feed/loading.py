"""The paging of one snapshot for one live query: JSON rows by seq, a bounded slice at a time.

A page has as many rows as the client asked for, or fewer when they are large. Whether there is more
is known by a matching row beyond the page, which then opens the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from kalamdb.errors import ResultTooLarge
from kalamdb.feed.events import Renderer
from kalamdb.model.codec import row_reader
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.key_range import KeyRange
from kalamdb.ports import Snapshot
from kalamdb.sql.bound import LivePlan

LAST_ROWS_BYTES_MAX = 16 << 20
# Of rows found by a key, which are kept until they can be put in the order of their seqs. More of
# them are found by seq.
KEYED_ROWS_MAX = 10_000
KEYED_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class Whole:
    """All matching rows in seq order, by pages."""

    batch_rows: int


@dataclass(frozen=True, slots=True)
class Newest:
    """The `rows` newest matching rows in seq order, in one page."""

    rows: int


@dataclass(frozen=True, slots=True)
class Page:
    """Where a snapshot stands. `seq` is its cursor, once all its rows were given out: a Seq, or the
    text of a result's.
    """

    number: int
    has_more: bool
    last_row: Seq | None
    seq: Seq | str | None

    @property
    def status(self) -> str:
        if not self.has_more:
            return "ready"
        return "loading_batch" if self.number else "loading"


class Load:
    """One snapshot being given out. `snapshot` is closed by `close` alone.

    `cursor` is the last change in it of the chain.
    """

    def __init__(
        self,
        plan: LivePlan,
        partition: Partition,
        render: Renderer,
        wanted: Whole | Newest,
        *,
        snapshot: Snapshot,
        opened_s: float,
        ranges: Sequence[KeyRange] | None = None,
    ) -> None:
        """`ranges` hold every row that matches; None: anywhere."""
        self.snapshot = snapshot
        self.cursor = snapshot.last_change(plan.table, partition)
        self.opened_s = opened_s
        self.last_row: Seq | None = None
        self._plan = plan
        self._partition = partition
        self._render = render
        self._wanted = wanted
        self._number = 0
        self._rows: list[tuple[Seq, bytes]] = []
        self._size_bytes = 0
        self._ahead: tuple[Seq, bytes] | None = None
        self._ranges = ranges
        self._source = self._scan(Seq(0))

    def close(self) -> None:
        self._source = iter(())  # before the snapshot, whose iterator it holds
        self.snapshot.close()

    def restart(self, after: Seq) -> None:
        """Go on with the rows after `after` instead of where the last page ended."""
        self._ahead = None
        self._source = self._scan(after)

    def scan(self, slice_rows: int, page_bytes_max: int) -> tuple[Page, tuple[bytes, ...]] | None:
        """Look at up to `slice_rows` more rows; the page and its rows when it is complete.

        Raises: what WHERE raises; ResultTooLarge when the newest rows do not fit one page.
        """
        match self._wanted:
            case Newest(rows_max):
                return self._scan_newest(rows_max, slice_rows)
            case Whole(rows_max):
                return self._scan_whole(rows_max, slice_rows, page_bytes_max)

    def _scan_newest(self, rows_max: int, slice_rows: int) -> tuple[Page, tuple[bytes, ...]] | None:
        looked = 0
        if len(self._rows) < rows_max:
            for seq, row in islice(self._source, slice_rows):
                looked += 1
                if row is None:
                    continue
                self._add(seq, row)
                if self._size_bytes > LAST_ROWS_BYTES_MAX:
                    raise ResultTooLarge("the size of last_rows in bytes", LAST_ROWS_BYTES_MAX)
                if len(self._rows) == rows_max:
                    break
        if len(self._rows) < rows_max and looked == slice_rows:
            return None
        self._rows.reverse()
        return self._complete(has_more=False)

    def _scan_whole(
        self, rows_max: int, slice_rows: int, page_bytes_max: int
    ) -> tuple[Page, tuple[bytes, ...]] | None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._add(*ahead)
        looked = 0
        for seq, row in islice(self._source, slice_rows):
            looked += 1
            if row is None:
                continue
            if len(self._rows) == rows_max or (
                self._rows and self._size_bytes + len(row) > page_bytes_max
            ):
                self._ahead = (seq, row)
                return self._complete(has_more=True)
            self._add(seq, row)
        return None if looked == slice_rows else self._complete(has_more=False)

    def _add(self, seq: Seq, row: bytes) -> None:
        self._rows.append((seq, row))
        self._size_bytes += len(row)

    def _complete(self, *, has_more: bool) -> tuple[Page, tuple[bytes, ...]]:
        rows, self._rows, self._size_bytes = self._rows, [], 0
        self.last_row = rows[-1][0] if rows else None
        seq = None if has_more else self.cursor
        page = Page(self._number, has_more, self.last_row, seq)
        self._number += 1
        return page, tuple(row for _, row in rows)

    def _of_ranges(self, ranges: Sequence[KeyRange]) -> Iterator[bytes | None]:
        for keys in ranges:
            for _, raw in self.snapshot.scan_range(self._plan.table, self._partition, keys):
                yield raw

    def _scan(self, after: Seq) -> Iterator[tuple[Seq, bytes | None]]:
        """(seq, JSON) of each row after `after`; None for a row that does not match."""
        where, render = self._plan.where, self._render.row
        newest = isinstance(self._wanted, Newest)
        read = row_reader(self._plan.table)
        if self._ranges is not None:
            keyed = _Keyed()
            for raw in self._of_ranges(self._ranges):
                if raw is not None:
                    seq, row = read(raw)
                    if row is not None and seq > after and (where is None or where(row, seq)):
                        keyed.add(seq, raw)
                        if keyed.is_full:
                            break
                yield after, None
            else:
                for seq, raw in keyed.ordered(newest_first=newest):
                    row = read(raw)[1]
                    assert row is not None
                    yield seq, render(row, seq)
                return
        for raw in self.snapshot.scan_by_seq(
            self._plan.table, self._partition, after, newest_first=newest
        ):
            seq, row = read(raw)
            if row is None or (where is not None and not where(row, seq)):
                yield seq, None
            else:
                yield seq, render(row, seq)


@dataclass(slots=True)
class _Keyed:
    """Matching rows found by key, on their way into the order of seqs."""

    rows: list[tuple[Seq, bytes]] = field(default_factory=list[tuple[Seq, bytes]])
    size_bytes: int = 0

    def add(self, seq: Seq, raw: bytes) -> None:
        self.rows.append((seq, raw))
        self.size_bytes += len(raw)

    @property
    def is_full(self) -> bool:
        return len(self.rows) > KEYED_ROWS_MAX or self.size_bytes > KEYED_BYTES_MAX

    def ordered(self, *, newest_first: bool) -> list[tuple[Seq, bytes]]:
        self.rows.sort(reverse=newest_first)
        return self.rows
