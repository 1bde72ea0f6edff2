"""What a query reads: one partition of a table, a table of all tenants, or a virtual table.

`Sources` opens all of them in one step of the loop: barriers first, then snapshots, each checked
against its group's schema fence; the rows of virtual tables are asked for before that. Groups that
are read on other nodes (`ports.FarReads`) are opened there, before the step.

Keeps: D10: a partition is opened as `table.partition_for(principal.partition)`, and all partitions
of a table only where the query names it by `all_users` (which permissions let dba and system do).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from kalamdb.errors import Unsupported
from kalamdb.far_reads import FarReads, FarRows, RowsAsked
from kalamdb.model import keys
from kalamdb.model.codec import encode_seq
from kalamdb.model.ids import META_GROUP, GroupId, Partition, Seq, TableId, partition_tenant
from kalamdb.model.key_range import KeyRange
from kalamdb.model.table import SEQ_COLUMN_ID, Column, TableDef, TableKind
from kalamdb.ports import Groups, Snapshot
from kalamdb.query import system, wire
from kalamdb.query.far import open_far
from kalamdb.query.system import OpenVirtual, Values
from kalamdb.query.wire import SourceColumn, WireSource, WireTable
from kalamdb.sql.bound import Env, ScanTable
from kalamdb.sql.virtual import VirtualTable

_EVERYBODY = Partition(b"*")  # no partition begins with this byte
_NONE = Seq(0)
_PART = b"part"


def check_schema(table: TableDef, partition: Partition, groups: Groups) -> None:
    """Raises SchemaChanged when the partition's group knows a newer definition than `table`.

    After a snapshot was taken: a fence that has not passed now had not passed then.
    """
    groups.get(table, partition, b"")  # no row has an empty key: this is for the check alone


@dataclass(frozen=True, slots=True)
class FarPlace:
    """Which of the things asked of a group's opening on another node it is."""

    rows: FarRows
    asked: int


@dataclass(slots=True)
class OneTenant:
    """One partition of one table; of its rows those in `ranges`, all when None. Read here from
    `snapshot`, or elsewhere.
    """

    table: TableDef
    partition: Partition
    ranges: Sequence[KeyRange] | None = None
    snapshot: Snapshot | None = None
    far: FarPlace | None = None
    group: GroupId = META_GROUP
    last_change: Seq = _NONE


@dataclass(slots=True)
class Everybody:
    """All partitions of one table: a snapshot for each data group read here, and the others."""

    table: TableDef
    snapshots: Sequence[Snapshot] = ()
    far: tuple[FarPlace, ...] = ()

    @property
    def positions(self) -> list[tuple[GroupId, Seq]]:
        """How far each group is, in their order."""
        here = [(snapshot.group, snapshot.seq) for snapshot in self.snapshots]
        return sorted(here + [(place.rows.group, place.rows.seq) for place in self.far])


@dataclass(slots=True)
class Virtual:
    """Rows made for this query."""

    table: VirtualTable
    rows: Iterable[Values] = ()


Source = OneTenant | Everybody | Virtual


class Sources:
    """Implements `engine_link.Feed` over the groups' snapshots and virtual tables."""

    def __init__(
        self,
        tables: Sequence[ScanTable],
        tenant: Partition,
        groups: Groups,
        open_virtual: OpenVirtual | None = None,
        *,
        narrow: Env | None = None,
    ) -> None:
        """`open_virtual` None: system tables are not read here. `narrow`: rows that the paths of
        `tables` leave out in this run are not read.

        Raises Unsupported, InvalidParameter.
        """
        self._groups = groups
        self._narrow = narrow
        self._open_virtual = open_virtual
        self._sources: list[Source] = []
        self._columns: list[dict[int, Column]] = []  # by source: all its uses in the query read
        self._index: dict[bytes, int] = {}
        self._opened: Sequence[FarRows] = ()
        self.seqs: tuple[tuple[GroupId, Seq], ...] = ()
        for use in tables:
            place = self._place(use, tenant)
            if place not in self._index:
                self._index[place] = len(self._sources)
                self._sources.append(self._source(use, tenant))
                self._columns.append({})
            self._columns[self._index[place]].update(
                (column.id, column) for column in read_columns(use)
            )
        self._tenant = tenant

    def _source(self, use: ScanTable, tenant: Partition) -> Source:
        table = use.table
        if isinstance(table, VirtualTable):
            if self._open_virtual is None:
                raise Unsupported(f"{table.full_name} here", "SELECT from it first")
            return Virtual(table)
        if use.all_users:
            return Everybody(table)
        ranges = None
        if use.path is not None and self._narrow is not None:
            ranges = use.path.ranges(self._narrow)
        return OneTenant(table, table.partition_for(tenant), ranges)

    def _place(self, use: ScanTable, tenant: Partition) -> bytes:
        """Names (table, whose rows); a part of them is no worker's to keep."""
        place = _place(use, tenant)
        return place if use.path is None or self._narrow is None else place + _PART

    @property
    def places(self) -> tuple[bytes, ...]:
        return tuple(self._index)

    @property
    def rests_on(self) -> Mapping[tuple[TableId, Partition], tuple[GroupId, Seq]]:
        """What a write checks again: the chains of single partitions that were read."""
        return {
            (source.table.id, source.partition): (source.group, source.last_change)
            for source in self._sources
            if isinstance(source, OneTenant)
        }

    def wire_table(self, use: ScanTable) -> WireTable:
        return WireTable(
            use.alias,
            self._index[self._place(use, self._tenant)],
            tuple(column.id for column in read_columns(use)),
            use.table.name,
        )

    # ---- the feed -------------------------------------------------------------------------------

    async def open(self) -> tuple[WireSource, ...]:
        """Raises Unavailable, SchemaChanged, UnknownTable."""
        for source in self._sources:
            if isinstance(source, Virtual):
                assert self._open_virtual is not None
                source.rows = await self._open_virtual(source.table)
        far = self._groups.far
        away: frozenset[GroupId] = frozenset()
        if far is not None:
            if any(isinstance(source, Everybody) for source in self._sources):
                away = far.groups()
            await self._open_far(far, away)
        await self._barriers(away)
        if not self._opened:
            self._fixed()
        self._open_here()
        pinned = tuple(
            self._pinned(source, place, columns)
            for source, place, columns in zip(
                self._sources, self._index, self._columns, strict=True
            )
        )
        self.seqs = self._newest()
        return pinned

    def _fixed(self) -> None:
        """Called once, before or in the step that fixes which rows are read: in it when all of them
        are read here.
        """

    def _asked(self, source: OneTenant | Everybody, group: GroupId) -> RowsAsked:
        """What is asked of a group elsewhere."""
        if isinstance(source, Everybody):
            return RowsAsked(source.table, None)
        ranges = None if source.ranges is None else tuple(source.ranges)
        return RowsAsked(source.table, source.partition, ranges)

    async def _open_far(self, far: FarReads, away: frozenset[GroupId]) -> None:
        """Open what is read elsewhere: tables of all tenants in `away`, and single partitions."""
        asked: dict[GroupId, list[RowsAsked]] = {}
        places: list[tuple[OneTenant | Everybody, GroupId, int]] = []
        for source in self._sources:
            match source:
                case OneTenant():
                    group = far.group_of(source.partition)
                    groups = () if group is None else (group,)
                case Everybody():
                    groups = sorted(away)
                case Virtual():
                    groups = ()
                case _:
                    assert_never(source)
            for group in groups:
                assert not isinstance(source, Virtual)
                wanted = asked.setdefault(group, [])
                places.append((source, group, len(wanted)))
                wanted.append(self._asked(source, group))
        if not asked:
            return
        self._fixed()
        opened = await open_far(far, asked)
        self._opened = tuple(opened.values())
        for source, group, number in places:
            place = FarPlace(opened[group], number)
            if isinstance(source, OneTenant):
                source.far = place
            else:
                source.far = (*source.far, place)

    def _open_here(self) -> None:
        """In one step. Raises SchemaChanged, UnknownTable, Unavailable."""
        snapshots: dict[Partition, Snapshot] = {}
        for source in self._sources:
            match source:
                case OneTenant():
                    if source.far is not None:
                        continue
                    snapshot = snapshots.get(source.partition)
                    if snapshot is None:
                        snapshot = self._groups.snapshot(source.partition)
                        snapshots[source.partition] = snapshot
                    source.snapshot = snapshot
                case Everybody():
                    opened = [place.rows for place in source.far]
                    source.snapshots = self._groups.snapshots_everywhere(source.table, opened)
                case Virtual():
                    pass
                case _:
                    assert_never(source)

    def described(self) -> tuple[WireSource, ...]:
        """The sources as `open` gives them, of no state: nothing is read or pinned."""
        return tuple(
            WireSource(place, b"", _described(source.table, columns), isinstance(source, Everybody))
            for source, place, columns in zip(
                self._sources, self._index, self._columns, strict=True
            )
        )

    async def _barriers(self, away: frozenset[GroupId]) -> None:
        groups = self._groups
        if any(isinstance(source, Everybody) for source in self._sources):
            barrier = groups.barrier_everywhere(away)
            if barrier is not None:
                await barrier
        partitions = dict.fromkeys(
            source.partition
            for source in self._sources
            if isinstance(source, OneTenant) and source.far is None
        )
        barriers = [
            barrier
            for partition in partitions
            if (barrier := groups.barrier(partition)) is not None
        ]
        if barriers:
            await asyncio.gather(*barriers)

    def _pinned(self, source: Source, place: bytes, columns: dict[int, Column]) -> WireSource:
        table = source.table
        # Rows that expire by the clock, are made anew or are not committed are kept by no worker.
        state = b""
        match source:
            case OneTenant():
                uncommitted = self._looked_at(source)
                whole = source.ranges is None
                if whole and table.kind is not TableKind.STREAM and not uncommitted:
                    state = encode_seq(source.last_change)
            case Everybody():
                if table.kind is not TableKind.STREAM:
                    state = b"".join(encode_seq(seq) for _, seq in source.positions)
            case Virtual():
                pass
            case _:
                assert_never(source)
        owned = isinstance(source, Everybody)
        return WireSource(place, state, _described(table, columns), owned)

    def _looked_at(self, source: OneTenant) -> bool:
        """Note what state the partition is in; True when it holds what is not committed. Raises
        SchemaChanged, UnknownTable.
        """
        if source.far is not None:  # its schema was checked there
            source.group = source.far.rows.group
            source.last_change = source.far.rows.last_changes[source.far.asked]
            return False
        assert source.snapshot is not None
        check_schema(source.table, source.partition, self._groups)
        source.group = source.snapshot.group
        source.last_change = source.snapshot.last_change(source.table, source.partition)
        return source.snapshot.holds_uncommitted(source.table)

    def _newest(self) -> tuple[tuple[GroupId, Seq], ...]:
        """How new what was read is, by group: the last change of the chains, or the whole group."""
        newest: dict[GroupId, Seq] = {}
        for source in self._sources:
            if isinstance(source, OneTenant):
                seen = newest.get(source.group, _NONE)
                newest[source.group] = max(seen, source.last_change)
            elif isinstance(source, Everybody):
                for group, seq in source.positions:
                    newest[group] = max(newest.get(group, _NONE), seq)
        return tuple(sorted(newest.items()))

    def rows(self, source: int) -> Iterator[tuple[bytes, bytes]]:
        found = self._sources[source]
        match found:
            case OneTenant():
                if found.far is not None:
                    return found.far.rows.rows(found.far.asked)
                assert found.snapshot is not None
                if found.ranges is not None:
                    return _in_ranges(found.snapshot, found.table, found.partition, found.ranges)
                return found.snapshot.scan(found.table, found.partition)
            case Everybody():
                here = owned(
                    row for snapshot in found.snapshots for row in snapshot.scan_table(found.table)
                )
                return itertools.chain(here, far_rows(found.far))
            case Virtual():
                return system.encoded(found.table, found.rows)
            case _:
                assert_never(found)

    def stop(self) -> None:
        for rows in self._opened:
            rows.stop()

    def close(self) -> None:
        for rows in self._opened:
            rows.close()
        self._opened = ()
        for source in self._sources:
            match source:
                case OneTenant():
                    if source.snapshot is not None:
                        source.snapshot.close()
                        source.snapshot = None
                case Everybody():
                    for snapshot in source.snapshots:
                        snapshot.close()
                    source.snapshots = ()
                case Virtual():
                    source.rows = ()
                case _:
                    assert_never(source)


def far_rows(places: Iterable[FarPlace]) -> Iterator[tuple[bytes, bytes]]:
    for place in places:
        yield from place.rows.rows(place.asked)


def _in_ranges(
    snapshot: Snapshot, table: TableDef, partition: Partition, ranges: Sequence[KeyRange]
) -> Iterator[tuple[bytes, bytes]]:
    for part in ranges:
        for pk, raw in snapshot.scan_range(table, partition, part):
            if raw is not None:
                yield pk, raw


def _described(table: TableDef, columns: Mapping[int, Column]) -> tuple[SourceColumn, ...]:
    return tuple(
        SourceColumn(
            column.id,
            column.name,
            wire.to_wire(column.type),
            table.flags(column),
            column.initial,
        )
        for column in columns.values()
    )


def read_columns(use: ScanTable) -> Sequence[Column]:
    """The columns a use reads; one at least, so that there is something to count."""
    return use.columns or (use.table.by_id[SEQ_COLUMN_ID],)


def _place(use: ScanTable, tenant: Partition) -> bytes:
    """Names (table, whose rows)."""
    owner = _EVERYBODY if use.all_users else use.table.partition_for(tenant)
    return keys.chain(use.table.id, owner)


def owned(rows: Iterable[tuple[Partition, bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """(partition, primary key bytes, row bytes) → (tenant's name, row bytes)."""
    partition, name = Partition(b""), b""
    for found, _, raw in rows:
        if found != partition:
            tenant = partition_tenant(found)
            assert tenant is not None, "a table of tenants holds a shared partition"
            partition, name = found, tenant.encode()
        yield name, raw
