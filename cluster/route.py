"""The `Groups` port over this node's own replicas: partition → slot → group → replica.

A statement comes to the leader of its group (`routed.py`), so what it reads and writes of its
partition is here. What other groups lead is reached by `remote.py`. The slot → group table is the
catalog's placement; partitions in use are remembered, because each statement asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import cast

from kalamdb.errors import KalamError, NotLeader
from kalamdb.far_reads import FarReads, FarRows
from kalamdb.model.catalog import CatalogView, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Partition, Seq
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import GroupTransaction, Snapshot
from kalamdb.replica.replica import Replica
from kalamdb.store.slot_runs import SlotRuns, divided
from kalamdb.store.slots import serving
from kalamdb.store.snapshot import HotSnapshot

PARTITIONS_MAX = 100_000
_NO_SEQ = Seq(0)
_NOBODY = Partition(b"")  # no partition has an empty id


class LocalGroups:
    """Implements `kalamdb.ports.Groups` and `TransactionGroups` over the replicas of this node."""

    def __init__(self, replicas: Mapping[GroupId, Replica], far: FarReads | None = None) -> None:
        """`far`: reads of the groups that other nodes lead."""
        self._replicas = replicas
        self.far = far
        self._runs = SlotRuns()
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
        # A group that left this node and came again has another replica.
        if found is None or self._replicas.get(found.group) is not found:
            found = self._locate(partition)
        return found

    def _locate(self, partition: Partition) -> Replica:
        group = self.catalog.group_of(partition)
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

    async def refresh_catalog(self) -> None:
        barrier = self._meta.barrier()
        if barrier is not None:
            await barrier

    async def write_group(
        self, group: GroupId, work: Work, tag: RequestTag | None = None
    ) -> Outcome:
        return await self._replicas[group].write(work, tag)

    async def write_everywhere(self, work: Work) -> None:
        """All data groups at once: one fsync serves them all."""
        groups = self.catalog.data_groups()
        await asyncio.gather(*(self.write_group(group, work) for group in groups))

    async def step_everywhere(self, step: Callable[[bytes], Work]) -> None:
        for group in self.catalog.data_groups():
            after: str | None = ""
            while after is not None:
                outcome = await self.write_group(group, step(bytes.fromhex(after)))
                assert outcome.rows is not None
                after = cast("str | None", outcome.rows[0][0])
                await asyncio.sleep(0)  # a step that puts nothing is answered at once

    def leads(self, group: GroupId) -> bool:
        """This node leads the group."""
        replica = self._replicas.get(group)
        return replica is not None and replica.leads

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        return self.of(partition).barrier(partition)

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        return self.of(partition).get(table, partition, pk)

    def last_change(self, table: TableDef, partition: Partition) -> Seq:
        return self.of(partition).last_change(table, partition)

    def snapshot(self, partition: Partition) -> Snapshot:
        return self.of(partition).snapshot(partition)

    def open_transaction(self, partition: Partition) -> GroupTransaction:
        return self.of(partition).open_transaction(partition)

    async def recall(self, tag: RequestTag) -> Outcome | None:
        for group in self.catalog.data_groups():
            found = await self._recall_at(group, tag)
            if found is not None:
                return found
        return None

    async def _recall_at(self, group: GroupId, tag: RequestTag) -> Outcome | None:
        return await recalled(self._replicas[group], tag)

    def barrier_everywhere(self, but: Collection[GroupId] = ()) -> Awaitable[object] | None:
        waits = [wait for replica in self._data(but) if (wait := replica.barrier()) is not None]
        return asyncio.gather(*waits) if waits else None

    def has_applied(self, at_least: Mapping[GroupId, Seq], partition: Partition | None) -> bool:
        replicas = self._data() if partition is None else (self.of(partition),)
        return all(replica.seq_last >= at_least.get(replica.group, _NO_SEQ) for replica in replicas)

    async def wait_applied(
        self, at_least: Mapping[GroupId, Seq], partition: Partition | None
    ) -> None:
        for replica in self._data() if partition is None else (self.of(partition),):
            waiting = replica.wait_applied(at_least.get(replica.group, _NO_SEQ))
            if waiting is not None:
                await waiting

    def snapshots_everywhere(
        self, table: TableDef, far: Sequence[FarRows] = ()
    ) -> Sequence[Snapshot]:
        found: list[HotSnapshot] = []
        try:
            for replica in self._data({one.group for one in far}):
                found.append(replica.snapshot())
                replica.get(table, _NOBODY, b"")  # checks the definition, finds no row
            self._divide(found, far)
        except KalamError:
            for snapshot in found:
                snapshot.close()
            raise
        return found

    def _divide(self, found: Sequence[HotSnapshot], far: Sequence[FarRows]) -> None:
        """Each slot is read once. Raises Unavailable when one is on its way."""
        if self.far is None:  # all of one moment
            hide = serving([one.slots for one in found])
        else:
            here = [self._runs.of(one.slots) for one in found]
            hide = divided([*here, *(one.serves for one in far)])
        for part, hidden in zip((*found, *far), hide, strict=True):
            part.hide(hidden)

    def _data(self, but: Collection[GroupId] = ()) -> list[Replica]:
        """The data groups of this node, `but` for some."""
        return [
            self._replicas[group]
            for group in self.catalog.data_groups()
            if group in self._replicas and group not in but
        ]


async def recalled(replica: Replica, tag: RequestTag) -> Outcome | None:
    """What a request id has come to in a group led here: what is not there was surely not done.

    Raises RequestIdReused, Unavailable.
    """
    barrier = replica.barrier()
    if barrier is not None:
        await barrier
    pending = replica.recall(tag)
    return None if pending is None else await pending
