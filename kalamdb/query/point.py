"""Primary-key reads without the query engine: one get per key, decode, filter, project.

All gets of one statement happen in one synchronous step after the barrier, so they see one state.
"""

from __future__ import annotations

from typing import Any

from kalamdb.model import codec
from kalamdb.ports import Groups
from kalamdb.sql.bound import Env, PointSelect


async def select(plan: PointSelect, env: Env, groups: Groups) -> list[Any]:
    """JSON-ready rows, in the order of the keys. Raises Unavailable, SchemaChanged."""
    table = plan.table
    partition = table.partition_for(env.principal.partition)
    keys = plan.keys(env)
    where = None if plan.where is None else plan.where(env)
    barrier = groups.barrier(partition)
    if barrier is not None:
        await barrier
    read = codec.row_reader(table)
    rows: list[Any] = []
    for key in keys:
        raw = groups.get(table, partition, key)
        if raw is None:
            continue
        seq, row = read(raw)
        if row is not None and (where is None or where(row, seq)):
            rows.append(plan.project(row, seq))
    return rows
