"""What a new cluster decides once: its placement and the first owners of the slots.

Each step goes through the log and changes nothing when it was done before, so a crash between two
of them is mended by the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cluster.route import LocalGroups
from kalamdb.model.catalog import Placement
from kalamdb.model.ids import META_GROUP, SLOTS, GroupId, Slot
from kalamdb.model.work import OpenSlots, PutPlacement
from kalamdb.replica.replica import Replica

FIRST_EPOCH = 1


async def bootstrap(
    groups: LocalGroups,
    replicas: Mapping[GroupId, Replica],
    cluster_id: str,
    voters: tuple[int, ...],
) -> None:
    """Bring a new cluster to where statements can run; changes nothing in one that is there."""
    if groups.catalog.placement is None:
        await groups.write_meta(PutPlacement(len(replicas) - 1, voters, cluster_id))
    placement = groups.catalog.placement
    assert placement is not None
    if placement.moved:
        return  # slots that have moved since say themselves who owns them
    await asyncio.gather(
        *(
            replica.write(OpenSlots(slots_of(placement, group), FIRST_EPOCH))
            for group, replica in replicas.items()
            if group != META_GROUP
        )
    )


def slots_of(placement: Placement, group: GroupId) -> tuple[Slot, ...]:
    """The slots that the placement gives a group."""
    return tuple(
        Slot(number) for number in range(SLOTS) if placement.group_of(Slot(number)) == group
    )
