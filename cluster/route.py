"""The `Groups` port: partition → slot → group → its leader.

Every group of a one-member cluster is led here, so every target is a local call. The slot → group
table is the catalog's placement; partitions in use are remembered, because each statement asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

from kalamdb.errors import NotLeader, Unavailable
from kalamdb.model.catalog import CatalogView, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Partition, Seq, slot_of
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import Snapshot
from kalamdb.replica.replica import Replica

PARTITIONS_MAX = 100_000


class LocalGroups:
    """Implements `kalamdb.ports.Groups` over the replicas of this node."""

    def __init__(self, replicas: Mapping[GroupId, Replica]) -> None:
        self._replicas = replicas
        self._meta = replicas[META_GROUP]
        self._placement: Placement | None = None
        self._of: dict[Partition, Replica] = {}

    @property
    def catalog(self) -> CatalogView:
        return self._meta.catalog

    def of(self, partition: Partition) -> Replica:
        """The replica that owns a partition. Raises Unavailable before the cluster has a
        placement.
        """
        placement = self._meta.catalog.placement
        if placement is not self._placement:
            self._of.clear()
            self._placement = placement
        found = self._of.get(partition)
        if found is None:
            found = self._locate(partition, placement)
        return found

    def _locate(self, partition: Partition, placement: Placement | None) -> Replica:
        if placement is None:
            raise Unavailable("the cluster has not been placed yet")
        group = placement.group_of(slot_of(partition))
        replica = self._replicas.get(group)
        if replica is None:
            raise NotLeader(group, None)
        if len(self._of) >= PARTITIONS_MAX:
            self._of.clear()
        self._of[partition] = replica
        return replica

    def write(
        self, partition: Partition, work: Work, tag: RequestTag | None = None
    ) -> Awaitable[Outcome]:
        return self.of(partition).write(work, tag)

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        return self._meta.write(work, tag)

    async def write_everywhere(self, work: Work) -> None:
        """All data groups at once: one fsync serves them all."""
        data = [replica for group, replica in self._replicas.items() if group != META_GROUP]
        await asyncio.gather(*(replica.write(work, None) for replica in data))

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        return self.of(partition).barrier()

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        return self.of(partition).get(table, partition, pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self.of(partition).last_change(table, partition)

    def snapshot(self, partition: Partition) -> Snapshot:
        return self.of(partition).snapshot()
