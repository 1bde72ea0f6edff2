"""The part of a query's sources that other nodes read: one opening for each group, all at once.

Keeps: either all groups are open, or none is and what went wrong is raised; no cut across groups is
promised, but what is asked of one group is read at one state of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from kalamdb.far_reads import FarReads, FarRows, RowsAsked
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import GroupId, Partition, slot_of
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import (
    Bound,
    EngineChangePlan,
    InsertSelectPlan,
    ScanSelect,
)
from kalamdb.sql.virtual import VirtualTable

Asked = Mapping[GroupId, Sequence[RowsAsked]]


async def open_far(far: FarReads, asked: Asked) -> Mapping[GroupId, FarRows]:
    """Close all of what it gives. Raises as `FarReads.open` does."""
    opened: dict[GroupId, FarRows] = {}

    async def one(group: GroupId, wanted: Sequence[RowsAsked]) -> None:
        opened[group] = await far.open(group, wanted)

    try:
        ends = await asyncio.gather(
            *(one(group, wanted) for group, wanted in asked.items()), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end
    except BaseException:
        for rows in opened.values():
            rows.close()
        raise
    return opened


def described(bound: Bound, tenant: Partition, catalog: CatalogView, far: FarReads) -> list[str]:
    """For EXPLAIN: rows that come from other groups than the one the statement runs in, and where
    those are led, as things stand now.
    """
    match bound:
        case ScanSelect():
            scan, home = bound, None
        case InsertSelectPlan() | EngineChangePlan():
            scan, home = bound.scan, bound.table.partition_for(tenant)
        case _:
            return []
    placement = catalog.placement
    if placement is None:
        return []
    uses = [use for use in scan.tables if not isinstance(use.table, VirtualTable)]
    if home is None:
        own = [use.table for use in uses if not use.all_users]
        own.sort(key=lambda table: not table.is_tenant_scoped)
        home = own[0].partition_for(tenant) if own else None
    lines: list[str] = []
    for use in uses:
        if use.all_users:
            groups = sorted(far.groups())
        else:
            group = placement.group_of(slot_of(use.table.partition_for(tenant)))
            is_home = home is None or placement.group_of(slot_of(home)) == group
            groups = [] if is_home else [group]
        lines += [_gathered(use.table, group, far.node_of(group)) for group in groups]
    return lines


def _gathered(table: TableDef, group: GroupId, node: int | None) -> str:
    where = "nobody leads now" if node is None else f"node {node} leads"
    return f"rows of {table.full_name} come from group {group}, which {where}"
