"""The `Groups` port: partition → slot → group → its leader.

Every group of a one-member cluster is led here, so every target is a local call. The slot → group
table is the catalog's placement; partitions in use are remembered, because each statement asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast

from kalamdb.errors import KalamError, NotLeader, Unavailable
from kalamdb.model.catalog import CatalogView, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Partition, Seq, slot_of
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import GroupTransaction, Snapshot
from kalamdb.replica.replica import Replica

PARTITIONS_MAX = 100_000
_NOBODY = Partition(b"")  # no partition has an empty id


class LocalGroups:
    """Implements `kalamdb.ports.Groups` and `TransactionGroups` over the replicas of this node."""

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

    async def step_everywhere(self, step: Callable[[bytes], Work]) -> None:
        for replica in self._data():
            after: str | None = ""
            while after is not None:
                outcome = await replica.write(step(bytes.fromhex(after)), None)
                assert outcome.rows is not None
                after = cast("str | None", outcome.rows[0][0])
                await asyncio.sleep(0)  # a step that puts nothing is answered at once

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        return self.of(partition).barrier()

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        return self.of(partition).get(table, partition, pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self.of(partition).last_change(table, partition)

    def snapshot(self, partition: Partition) -> Snapshot:
        return self.of(partition).snapshot()

    def open_transaction(self, partition: Partition) -> GroupTransaction:
        return self.of(partition).open_transaction(partition)

    def recall(self, tag: RequestTag) -> Awaitable[Outcome] | None:
        for replica in self._data():
            found = replica.recall(tag)
            if found is not None:
                return found
        return None

    def barrier_everywhere(self) -> Awaitable[object] | None:
        waits = [wait for replica in self._data() if (wait := replica.barrier()) is not None]
        return asyncio.gather(*waits) if waits else None

    def snapshots_everywhere(self, table: TableDef) -> Sequence[Snapshot]:
        found: list[Snapshot] = []
        try:
            for replica in self._data():
                found.append(replica.snapshot())
                replica.get(table, _NOBODY, b"")  # checks the definition, finds no row
        except KalamError:
            for snapshot in found:
                snapshot.close()
            raise
        return found

    def _data(self) -> list[Replica]:
        """The data groups, all of which this node has."""
        if self._meta.catalog.placement is None:
            raise Unavailable("the cluster has not been placed yet")
        return [replica for group, replica in self._replicas.items() if group != META_GROUP]
