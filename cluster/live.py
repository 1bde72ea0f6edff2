"""Live queries of a node: the WebSocket edge and the evaluations behind it, over its feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from cluster.leaders import Leaders
from cluster.live_host import LiveHost
from cluster.live_relay import LiveRelay, RelayLimits
from cluster.route import LocalGroups
from cluster.rpc.port import Rpc
from kalamdb.config import Settings
from kalamdb.edge.http.app import rates_of
from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.connection import Authenticate, WsEdge
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.local import LocalLive
from kalamdb.edge.ws.queries import Talks
from kalamdb.errors import NotLeader, Unavailable
from kalamdb.feed.evaluations import EvaluationLimits, Evaluations, Watchable
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import META_GROUP, GroupId, Partition
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.ports import Snapshot
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session.auth import Authenticator
from kalamdb.session.live_rights import LiveRights
from kalamdb.session.tokens import stands
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse


class KnownLeaders:
    """Implements `live_relay.Leaders` over what this process knows."""

    def __init__(self, leaders: Leaders, catalog: Callable[[], CatalogView]) -> None:
        self.node = leaders.node
        self.refused = leaders.refused
        self._leaders = leaders
        self._catalog = catalog

    def leader_of(self, group: GroupId) -> int | None:
        found = self._leaders.of(group)
        if found is None and self.node is None:
            return self._leaders.anybody()  # it may know
        return found

    def group_of(self, partition: Partition) -> GroupId:
        return self._catalog().group_of(partition)


class LiveHubs:
    """The groups' feeds; implements `feed.evaluations.Hubs`. Without a relay all are led here."""

    def __init__(
        self, feeds: Mapping[GroupId, Hub], groups: LocalGroups, relay: LiveRelay | None = None
    ) -> None:
        self.groups = groups
        self.relay = relay
        self._feeds = feeds

    def here(self, partition: Partition) -> Hub:
        """For subscriptions that begin on this node now. Raises NotLeader; Moved where the slot is
        not open.
        """
        replica = self.groups.of(partition)
        if not replica.leads:
            raise NotLeader(replica.group, None)
        replica.slots.open_epoch(partition)
        return self._feeds[replica.group]

    def led(self, group: GroupId) -> Hub:
        """Raises NotLeader."""
        if not self.groups.leads(group):
            raise NotLeader(group, None)
        return self._feeds[group]

    def of(self, partition: Partition) -> Watchable:
        if self.relay is None or self.relay.is_here(partition):
            return self.here(partition)
        return self.relay.hub(self.relay.leaders.group_of(partition))

    def everywhere(self) -> Sequence[Watchable]:
        relay, placement = self.relay, self.groups.catalog.placement
        if relay is None or placement is None:
            return [feed for group, feed in self._feeds.items() if group != META_GROUP]
        groups = [GroupId(number) for number in range(1, placement.groups + 1)]
        return [
            self._feeds[group] if self.groups.leads(group) else relay.hub(group) for group in groups
        ]


class ViewWatch:
    """Ends live queries of views that are dropped or replaced. (Tables end by their groups' feeds.)

    `changed` is called while a command of the meta group is applied, so it only asks for a look.
    """

    def __init__(
        self, websockets: WsEdge, catalog: CatalogView, host: LiveHost | None = None
    ) -> None:
        self._directory = websockets.directory
        self._host = host
        self._views = catalog.views

    def changed(self, catalog: CatalogView) -> None:
        if catalog.views != self._views:
            self._views = catalog.views
            asyncio.get_running_loop().call_soon(self._directory.check_tables)
            if self._host is not None:
                asyncio.get_running_loop().call_soon(self._host.check_tables)


def live_evaluations(settings: Settings, hubs: LiveHubs, pool: EnginePool) -> Evaluations:
    """What evaluates live queries anew; to be entered."""
    asked = settings.live
    limits = EvaluationLimits(
        per_s=asked.reevaluations_per_s,
        time_share=asked.query_time_share,
        at_once=asked.query_workers,
        timeout_s=asked.query_timeout_s,
        rows_max=asked.max_result_rows,
        size_max_bytes=asked.max_result_bytes,
        kept_max_bytes=asked.kept_result_bytes,
        held_max_bytes=asked.kept_result_bytes,
        subscriptions_per_user=asked.max_queries_per_user,
    )
    return Evaluations(hubs.groups, pool, hubs, SystemClock(), limits)


def live_relay(
    settings: Settings, rpc: Rpc, leaders: Leaders, catalog: Callable[[], CatalogView]
) -> LiveRelay:
    """Live queries of this process's clients at the nodes that lead; to be entered."""
    limits = RelayLimits(settings.live.leader_timeout_s)
    return LiveRelay(rpc, KnownLeaders(leaders, catalog), SystemClock(), limits)


def live_host(
    hubs: LiveHubs, evaluations: Evaluations, rights: LiveRights, limits: WsLimits
) -> LiveHost:
    """Live queries of other processes' clients over the groups led here; to be served."""
    groups, clock = hubs.groups, SystemClock()
    binder = LiveBinder(groups, parse, bind_live, rights.check, clock, SystemIds())
    local = LocalLive(groups, hubs.here, binder, limits.feed, evaluations)

    def stands_here(principal: Principal) -> bool:
        return stands(principal, groups.catalog)

    return LiveHost(local, hubs.led, stands_here, clock)


def ws_limits(settings: Settings) -> WsLimits:
    asked = settings.websocket
    return WsLimits(
        auth_timeout_s=asked.auth_timeout_s,
        client_timeout_s=asked.client_timeout_s,
        heartbeat_interval_s=asked.heartbeat_interval_s,
        connections=asked.max_connections,
        subscriptions_per_user=asked.max_subscriptions_per_user,
        message_max_bytes=asked.max_message_bytes,
        buffer_max_bytes=asked.max_pending_bytes,
    )


def live_edge(
    settings: Settings,
    hubs: LiveHubs,
    auth: Authenticator,
    *,
    evaluations: Evaluations,
    rights: LiveRights,
    talks: Talks,
) -> WsEdge:
    """The WebSocket edge of a node: over its own feeds, and by `hubs.relay` over the others'."""
    groups, clock = hubs.groups, SystemClock()
    binder = LiveBinder(groups, parse, bind_live, rights.check, clock, SystemIds())
    return WsEdge(
        groups,
        hubs.here,
        _by_token(auth),
        binder,
        clock=clock,
        limits=ws_limits(settings),
        evaluations=evaluations,
        talks=talks,
        users=rates_of(settings.rate_limit, clock).users,
        relays=hubs.relay,
        node=settings.server.node_id,
    )


def router_live_edge(
    settings: Settings,
    catalog: Callable[[], CatalogView],
    auth: Authenticator,
    *,
    relay: LiveRelay,
    rights: LiveRights,
    talks: Talks,
) -> WsEdge:
    """The WebSocket edge of a router, which leads nothing."""
    groups, clock = NoGroups(catalog), SystemClock()
    binder = LiveBinder(groups, parse, bind_live, rights.check, clock, SystemIds())
    return WsEdge(
        groups,
        groups.hub,
        _by_token(auth),
        binder,
        clock=clock,
        limits=ws_limits(settings),
        talks=talks,
        users=rates_of(settings.rate_limit, clock).users,
        relays=relay,
        node=0,
    )


class NoGroups:
    """Implements `LiveGroups` where no group is led."""

    def __init__(self, catalog: Callable[[], CatalogView]) -> None:
        self._catalog = catalog

    @property
    def catalog(self) -> CatalogView:
        return self._catalog()

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        raise Unavailable("a router leads no group")

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None:
        raise Unavailable("a router leads no group")

    def snapshot(self, partition: Partition) -> Snapshot:
        raise Unavailable("a router leads no group")

    def hub(self, partition: Partition) -> Hub:
        raise Unavailable("a router leads no group")


def _by_token(auth: Authenticator) -> Authenticate:
    def authenticate(token: str) -> Principal:
        return auth.authenticate(f"Bearer {token}")

    return authenticate
