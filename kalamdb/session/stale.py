"""Reads that need not be the newest: the same groups without the barrier.

`SET consistency = 'stale'` asks for it. The answer's cursor says what it is current to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import Groups, Snapshot


class StaleReads:
    """Implements `ports.Groups` over another; only the barriers differ: they confirm nothing."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    @property
    def catalog(self) -> CatalogView:
        return self._groups.catalog

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        return None

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        return self._groups.get(table, partition, pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self._groups.last_change(table, partition)

    def snapshot(self, partition: Partition) -> Snapshot:
        return self._groups.snapshot(partition)

    def barrier_everywhere(self) -> Awaitable[object] | None:
        return None

    def snapshots_everywhere(self, table: TableDef) -> Sequence[Snapshot]:
        return self._groups.snapshots_everywhere(table)

    def write(
        self, partition: Partition, work: Work, tag: RequestTag | None = None
    ) -> Awaitable[Outcome]:
        return self._groups.write(partition, work, tag)

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        return self._groups.write_meta(work, tag)

    async def write_everywhere(self, work: Work) -> None:
        await self._groups.write_everywhere(work)
