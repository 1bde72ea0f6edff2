"""Reads by ranges of a key, without the query engine: a prefix of an index, the first rows in its
order.

1. A barrier, then one snapshot, checked against the group's schema fence.
2. The walk: entries of the ranges in key order, each row decoded, filtered, encoded. The first
   `INLINE_ENTRIES` on the loop, because most reads end there; what is left in a thread.
3. Rows that the ranges do not give in the result's order are sorted, and cut to what LIMIT asks.

Keeps: D10: the only partition opened is `table.partition_for(principal.partition)`; the loop is
never held for more than `INLINE_ENTRIES` entries; what would take more entries or memory than the
limits below goes to the engine, in the same statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from kalamdb.errors import ResultTooLarge
from kalamdb.model import codec
from kalamdb.model.change import Row
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import SEQ_COLUMN_ID
from kalamdb.ports import Groups
from kalamdb.query.engine_pool import EnginePool, Stopped
from kalamdb.query.scan import ScanLimits
from kalamdb.query.sources import check_schema
from kalamdb.sql.bound import Env, PageRows, RangeSelect, SortColumn

INLINE_ENTRIES = 300
SLICE_ENTRIES = 256
ENTRIES_MAX = 150_000
"""Beyond, the engine reads faster than this does."""
STREAMED_ABOVE_BYTES = 1 << 20

_Found = Iterator[tuple[bytes, bytes | None]]
_Source = tuple[
    Callable[..., _Found], Partition, Sequence[KeyRange]
]  # scan_range and what it takes
_Sorted = tuple[tuple[bytes, ...], bytes]  # sort keys, the row as JSON


class TooMuch(Exception):
    """More entries to look at, or more rows to sort, than are taken here. Never leaves the file."""


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`rows_json` is a JSON array of row arrays; `cursor` what it is current to."""

    rows_json: bytes
    row_count: int
    cursor: str


async def select(
    plan: RangeSelect,
    env: Env,
    groups: Groups,
    pool: EnginePool,
    limits: ScanLimits,
    *,
    hold: bool = False,
) -> RangeResult | None:
    """None: this run is for the engine (`plan.otherwise`), which `hold` says can stream a result:
    then one of more than `STREAMED_ABOVE_BYTES` is not collected here.

    Raises ResultTooLarge, QueryTimeout, Overloaded, Unavailable, SchemaChanged, InvalidParameter,
    and what WHERE and the SELECT list raise.
    """
    ranges = plan.path.ranges(env)
    page = plan.page(env)
    if page is None:
        return None
    table = plan.table
    partition = table.partition_for(env.principal.partition)
    barrier = groups.barrier(partition)
    if barrier is not None:
        await barrier
    snapshot = groups.snapshot(partition)
    handed_over = False
    try:
        check_schema(table, partition, groups)
        cursor = str(snapshot.last_change(table, partition))
        size_max_bytes = min(limits.size_max_bytes, STREAMED_ABOVE_BYTES)
        bounds = replace(limits, size_max_bytes=size_max_bytes) if hold else limits
        walk = _Walk(plan, env, (snapshot.scan_range, partition, ranges), page, bounds)
        if not walk.step(INLINE_ENTRIES):
            handed_over = True
            await pool.look(walk.run, snapshot.close)
        return RangeResult(walk.result(), walk.row_count, cursor)
    except TooMuch:
        return None
    except ResultTooLarge:
        if hold:
            return None  # the engine streams it, or says the same
        raise
    finally:
        if not handed_over:
            snapshot.close()


class _Walk:
    """One read under way: the ranges left, the rows found so far."""

    def __init__(
        self, plan: RangeSelect, env: Env, source: _Source, page: PageRows, limits: ScanLimits
    ) -> None:
        """Raises TooMuch when LIMIT and OFFSET ask for more rows to be sorted than are kept."""
        scan, partition, ranges = source
        table, reverse = plan.table, plan.reverse
        self._ranges = iter(
            [
                scan(table, partition, keys, reverse=reverse)
                for keys in (reversed(ranges) if reverse else ranges)
            ]
        )
        self._current: _Found = iter(())
        self._read = codec.row_reader(table)
        self._where = None if plan.where is None else plan.where(env)
        self._project = plan.project
        self._limits = limits
        self._skip = page.offset
        self._wanted = page.limit
        self._sort = plan.sort
        self._within = plan.sorted_within
        self._keep = None if page.limit is None else page.limit + page.offset
        if self._sort and self._keep is not None and self._keep > limits.rows_max:
            raise TooMuch
        self._rows: list[bytes] = []
        self._sorted: list[_Sorted] = []
        self._size_bytes = 0
        self._looked = 0
        self._of_range = 0  # rows kept of the current range
        self._full = page.limit == 0

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def run(self, stopped: Stopped) -> None:
        """To the end, in a thread. Raises as `step`, and when nobody waits any more."""
        while not self.step(SLICE_ENTRIES):
            stopped()

    def step(self, entries_max: int) -> bool:
        """Look at up to so many entries; True at the end. Raises TooMuch, ResultTooLarge, and what
        the functions of the plan raise.
        """
        left = entries_max
        read, where = self._read, self._where
        while not self._full:
            for _, raw in self._current:
                left -= 1
                if raw is not None:
                    seq, row = read(raw)
                    if (
                        row is not None
                        and (where is None or where(row, seq))
                        and self._take(row, seq)
                    ):
                        break
                if not left:
                    self._looked += entries_max
                    if self._looked > ENTRIES_MAX:
                        raise TooMuch
                    return False
            following = next(self._ranges, None)
            if following is None:
                break
            self._current, self._of_range = following, 0
        self._current = self._ranges = iter(())
        self._finish()
        return True

    def _take(self, row: Row, seq: Seq) -> bool:
        """Keep a row that matches; True when its range has no more to give."""
        if not self._sort:
            if self._skip:
                self._skip -= 1
                return False
            self._add(orjson.dumps(self._project(row, seq)))
            self._full = len(self._rows) == self._wanted
            return self._full
        sort_keys = tuple([_sort_key(one, row, seq) for one in self._sort])
        encoded = orjson.dumps(self._project(row, seq))
        self._sorted.append((sort_keys, encoded))
        self._size_bytes += len(encoded)
        self._of_range += 1
        keep = self._keep
        if keep is None:
            self._check(len(self._sorted))
            return False
        if len(self._sorted) >= 2 * keep + SLICE_ENTRIES:
            self._cut(keep)
        if self._size_bytes > 2 * self._limits.size_max_bytes:
            raise TooMuch
        return self._within and self._of_range >= keep

    def _add(self, encoded: bytes) -> None:
        self._rows.append(encoded)
        self._size_bytes += len(encoded) + 1
        self._check(len(self._rows))

    def _check(self, rows: int) -> None:
        limits = self._limits
        if rows > limits.rows_max:
            raise ResultTooLarge("max_result_rows", limits.rows_max)
        if self._size_bytes > limits.size_max_bytes:
            raise ResultTooLarge("max_result_bytes", limits.size_max_bytes)

    def _cut(self, keep: int) -> None:
        """Keep the first rows in the result's order."""
        self._arrange()
        del self._sorted[keep:]
        self._size_bytes = sum(len(encoded) for _, encoded in self._sorted)

    def _arrange(self) -> None:
        """From the last column to the first: Python's sort is stable, backwards as well."""
        descending = [one.descending for one in self._sort]
        if len(set(descending)) == 1:
            self._sorted.sort(key=lambda one: one[0], reverse=descending[0])
            return
        for at in reversed(range(len(descending))):
            self._sorted.sort(key=lambda one, at=at: one[0][at], reverse=descending[at])

    def _finish(self) -> None:
        if not self._sort:
            return
        self._arrange()
        end = len(self._sorted) if self._keep is None else self._keep
        found = self._sorted[self._skip : end]
        self._sorted = []
        self._size_bytes = 0
        for _, encoded in found:
            self._add(encoded)

    def result(self) -> bytes:
        return b"[" + b",".join(self._rows) + b"]"


def _sort_key(one: SortColumn, row: Row, seq: Seq) -> bytes:
    number = one.column.id
    return one.encode(seq if number == SEQ_COLUMN_ID else row.get(number))
