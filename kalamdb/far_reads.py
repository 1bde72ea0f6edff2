"""What a read asks of the groups that other nodes lead, as Protocols; part of `ports`.

A group is opened first: one state of it, with all that the read wants of it. Its rows come when
they are asked for, from the thread that feeds the query worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kalamdb.model.ids import GroupId, Partition, Seq, Slot
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import TableDef


@dataclass(frozen=True, slots=True)
class Freshness:
    """How new a read has to be: `stale`, any replica answers; `at_least`, it has applied this."""

    stale: bool = False
    at_least: Mapping[GroupId, Seq] = field(default_factory=dict[GroupId, Seq])


@dataclass(frozen=True, slots=True)
class RowsAsked:
    """Rows that a read wants of a group which is read elsewhere.

    `partition` None: of all tenants. `ranges`: those in them only. `then`: as they were at this seq
    and wall clock's time (milliseconds).
    """

    table: TableDef
    partition: Partition | None
    ranges: tuple[KeyRange, ...] | None = None
    then: tuple[Seq, int] | None = None


@dataclass(frozen=True, slots=True)
class SlotRun:
    """Slots `first` to `stop` (not included) that a group may be read in: since which epoch, and
    whether they are open (else frozen, on their way to another group).
    """

    first: int
    stop: int
    epoch: int
    is_open: bool


class FarRows(Protocol):
    """What was asked of one group, pinned on another node at `seq`. Must be closed.

    `last_changes` are those of the asked partitions' chains, 0 where all tenants' rows were asked;
    `serves` the slots that may be read there.
    """

    group: GroupId
    seq: Seq
    last_changes: Sequence[Seq]
    serves: Sequence[SlotRun]

    def hide(self, slots: frozenset[Slot]) -> None:
        """Rows of all tenants leave these slots out: they are read in another group."""
        ...

    def rows(self, asked: int) -> Iterator[tuple[bytes, bytes]]:
        """(owner's name, row bytes) in key order; the name is empty for one partition's rows.

        Runs in a thread, one at a time. Raises Unavailable, LimitReached, QueryTimeout.
        """
        ...

    async def count(self, asked: int) -> tuple[int, int]:
        """How many rows there are, and their bytes, without fetching them. On the loop, one at a
        time. Raises as `rows` does.
        """
        ...

    def stop(self) -> None:
        """Nobody wants the rows any more: a thread that waits for some ends. On the loop."""
        ...

    def close(self) -> None:
        """On the loop, once no thread is in `rows`."""
        ...


class FarReads(Protocol):
    """Reads of the groups that are led elsewhere (or, for stale reads, have no replica here)."""

    def groups(self) -> frozenset[GroupId]:
        """The data groups that are read elsewhere right now."""
        ...

    def group_of(self, partition: Partition) -> GroupId | None:
        """The group of a partition that is read elsewhere right now; None: it is read here."""
        ...

    def node_of(self, group: GroupId) -> int | None:
        """Where it is read, as far as is known here."""
        ...

    async def open(self, group: GroupId, asked: Sequence[RowsAsked]) -> FarRows:
        """One state of the group with all that is asked of it.

        Raises Unavailable (Moved, NotLeader), SchemaChanged, UnknownTable, CursorExpired.
        """
        ...

    def fresh(self, freshness: Freshness) -> FarReads:
        """The same for reads that have to be so new."""
        ...
