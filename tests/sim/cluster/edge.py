"""What every process of a cluster is wired of, node or router: statements and live queries from
wherever they enter to the leader of what they touch.

Keeps: all of it is the product's own; what is put together here is put together by `cluster.node`
and `cluster.router` in a real process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, cast

from cluster.live_relay import LiveRelay
from kalamdb.edge.ws.binding import LiveBinder, LiveGroups
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.streams import LiveServices
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.ids import Partition
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from tests.sim.timeline import Loop

WS_LIMITS = WsLimits(position_interval_s=0.7)


def binder(groups: LiveGroups, clock: Clock, ids: Ids) -> LiveBinder:
    return LiveBinder(groups, parse, bind_live, anybody, clock, ids)


def live_services(
    groups: LiveGroups,
    hub_of: Callable[[Partition], Hub],
    clock: Clock,
    ids: Ids,
    relay: LiveRelay,
) -> LiveServices:
    return LiveServices(
        groups,
        hub_of,
        binder(groups, clock, ids),
        clock,
        WS_LIMITS,
        cast("Executor", None),  # nothing is packed
        Counter(),
        relays=relay,
    )


async def keep_relay(relay: LiveRelay, loop: Loop) -> None:
    """For as long as the process lives; its end is sudden."""
    await relay.__aenter__()
    try:
        await loop.create_future()
    except asyncio.CancelledError:
        # Only its own tasks cancel it, when one has failed as none may.
        raise relay._tasks._errors[0] from None  # type: ignore[attr-defined]


def anybody(principal: Any, select: object, plan: object) -> None:
    """Everybody may follow their own rows."""
