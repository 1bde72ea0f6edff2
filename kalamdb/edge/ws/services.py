"""What the live queries of all sockets of a process share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from kalamdb.edge.ws.binding import LiveBinder, LiveGroups
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.local import LocalLive
from kalamdb.edge.ws.relayed import Relays
from kalamdb.feed.evaluations import Evaluations
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import Clock
from kalamdb.model.ids import Partition, TenantId


@dataclass(frozen=True, slots=True)
class LiveServices:
    """What the live queries of all sockets share. `per_user` counts their subscriptions. Without
    `relays` every group is led here.
    """

    groups: LiveGroups
    hub_of: Callable[[Partition], Hub]
    binder: LiveBinder
    clock: Clock
    limits: WsLimits
    packer: Executor
    per_user: Counter[TenantId]
    evaluations: Evaluations | None = None
    relays: Relays | None = None

    @property
    def local(self) -> LocalLive:
        """What begins live queries of groups that this node leads."""
        feed = self.limits.feed
        return LocalLive(self.groups, self.hub_of, self.binder, feed, self.evaluations)
