"""Names of things: groups, tables, tenants, partitions, slots, seqs.

A *partition* is the set of rows that live and move together: everything of one tenant, or one
SHARED table. Its id starts with a kind byte, so a user named `shared:7` is only a user. Partitions
hash onto 4,096 slots; the meta group says which group owns a slot.
"""

from __future__ import annotations

from typing import NewType

import xxhash

GroupId = NewType("GroupId", int)
TableId = NewType("TableId", int)
NodeId = NewType("NodeId", int)
Seq = NewType("Seq", int)
Slot = NewType("Slot", int)
TenantId = NewType("TenantId", str)
Partition = NewType("Partition", bytes)

META_GROUP = GroupId(0)
SLOTS = 4096
GROUPS_MAX = 512  # group bits 512–1023 are reserved for PostgreSQL hosts

SEQ_EPOCH_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
SEQ_TIME_SHIFT = 22
SEQ_STEP = 1024
SEQ_GROUP_MASK = 1023
SEQ_MAX = (1 << 63) - 1
HOUR_MS = 3_600_000

TENANT_KIND = b"t"
SHARED_KIND = b"s"


def tenant_partition(tenant: TenantId) -> Partition:
    return Partition(TENANT_KIND + tenant.encode())


def shared_partition(table: TableId) -> Partition:
    return Partition(SHARED_KIND + b"%d" % table)


def partition_tenant(partition: Partition) -> TenantId | None:
    """The tenant a partition belongs to; None for a SHARED table's."""
    return TenantId(partition[1:].decode()) if partition[:1] == TENANT_KIND else None


def slot_of(partition: Partition) -> Slot:
    """xxh3_64 of the tenant name (`shared:<table id>` for a SHARED table) modulo 4,096."""
    name = partition[1:] if partition[:1] == TENANT_KIND else b"shared:" + partition[1:]
    return Slot(xxhash.xxh3_64_intdigest(name) % SLOTS)


def seq_at(wall_ms: int, group: GroupId) -> Seq:
    """The smallest seq of `group` at a time."""
    return Seq(max(0, wall_ms - SEQ_EPOCH_MS) << SEQ_TIME_SHIFT | group)


def seq_next(last: Seq, wall_ms: int, group: GroupId) -> Seq:
    """The seq after `last`: time if it moved on, else the next ordinal; group bits never change.

    `last` may carry other group bits (it came with a moved slot); the result is above it either
    way.
    """
    base = (last & ~SEQ_GROUP_MASK) | group
    step = base if base > last else base + SEQ_STEP
    now = max(0, wall_ms - SEQ_EPOCH_MS) << SEQ_TIME_SHIFT | group
    return Seq(max(step, now))


def seq_ms(seq: Seq) -> int:
    """The Unix milliseconds a seq carries."""
    return (seq >> SEQ_TIME_SHIFT) + SEQ_EPOCH_MS


def seq_hour(seq: Seq) -> int:
    """Hours since the seq epoch; the first component of a change's key."""
    return (seq >> SEQ_TIME_SHIFT) // HOUR_MS
