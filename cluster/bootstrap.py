"""What a new cluster decides once: its placement and the first owners of the slots.

Each step goes through the log and changes nothing when it was done before, so a crash between two
of them is mended by the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from kalamdb.model.catalog import CatalogView, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import SLOTS, GroupId, Slot
from kalamdb.model.work import OpenSlots, PutPlacement, Work
from kalamdb.session.auth import ROOT

FIRST_EPOCH = 1


class FoundingGroups(Protocol):
    """What of the groups is used here."""

    @property
    def catalog(self) -> CatalogView: ...

    def write_meta(self, work: Work) -> Awaitable[Outcome]: ...

    async def write_group(self, group: GroupId, work: Work) -> Outcome: ...


async def bootstrap(
    groups: FoundingGroups, data_groups: int, cluster_id: str, voters: tuple[int, ...]
) -> None:
    """Bring a new cluster to where statements can run; changes nothing in one that is there."""
    if groups.catalog.placement is None:
        await groups.write_meta(PutPlacement(data_groups, voters, cluster_id))
    placement = groups.catalog.placement
    assert placement is not None
    if placement.moved:
        return  # slots that have moved since say themselves who owns them
    await asyncio.gather(
        *(
            groups.write_group(group, OpenSlots(slots_of(placement, group), FIRST_EPOCH))
            for group in map(GroupId, range(1, placement.groups + 1))
        )
    )


def founded(catalog: CatalogView) -> bool:
    """Statements can run: root, which is made last, is there."""
    return catalog.placement is not None and ROOT in catalog.users


def slots_of(placement: Placement, group: GroupId) -> tuple[Slot, ...]:
    """The slots that the placement gives a group."""
    return tuple(
        Slot(number) for number in range(SLOTS) if placement.group_of(Slot(number)) == group
    )
