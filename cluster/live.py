"""Live queries of a node: the WebSocket edge and the evaluations behind it, over its feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cluster.route import LocalGroups
from kalamdb.config import Settings
from kalamdb.edge.http.app import rates_of
from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.connection import WsEdge
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.feed.evaluations import EvaluationLimits, Evaluations
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import META_GROUP, GroupId, Partition
from kalamdb.model.principal import Principal
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session.auth import Authenticator
from kalamdb.session.live_rights import LiveRights
from kalamdb.session.session import Session
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse


class LiveHubs:
    """The groups' feeds; implements `feed.evaluations.Hubs`."""

    def __init__(self, feeds: Mapping[GroupId, Hub], groups: LocalGroups) -> None:
        self.groups = groups
        self._feeds = feeds

    def of(self, partition: Partition) -> Hub:
        return self._feeds[self.groups.of(partition).group]

    def everywhere(self) -> Sequence[Hub]:
        return [feed for group, feed in self._feeds.items() if group != META_GROUP]


class ViewWatch:
    """Ends live queries of views that are dropped or replaced. (Tables end by their groups' feeds.)

    `changed` is called while a command of the meta group is applied, so it only asks for a look.
    """

    def __init__(self, websockets: WsEdge, catalog: CatalogView) -> None:
        self._directory = websockets.directory
        self._views = catalog.views

    def changed(self, catalog: CatalogView) -> None:
        if catalog.views != self._views:
            self._views = catalog.views
            asyncio.get_running_loop().call_soon(self._directory.check_tables)


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


def live_edge(
    settings: Settings,
    hubs: LiveHubs,
    auth: Authenticator,
    *,
    evaluations: Evaluations,
    rights: LiveRights,
    talks: Session,
) -> WsEdge:
    """The WebSocket edge over the groups' feeds."""
    asked = settings.websocket
    limits = WsLimits(
        auth_timeout_s=asked.auth_timeout_s,
        client_timeout_s=asked.client_timeout_s,
        heartbeat_interval_s=asked.heartbeat_interval_s,
        connections=asked.max_connections,
        subscriptions_per_user=asked.max_subscriptions_per_user,
        message_max_bytes=asked.max_message_bytes,
        buffer_max_bytes=asked.max_pending_bytes,
    )

    def authenticate(token: str) -> Principal:
        return auth.authenticate(f"Bearer {token}")

    clock, groups = SystemClock(), hubs.groups
    binder = LiveBinder(groups, parse, bind_live, rights.check, clock, SystemIds())
    return WsEdge(
        groups,
        hubs.of,
        authenticate,
        binder,
        clock=clock,
        limits=limits,
        evaluations=evaluations,
        talks=talks,
        users=rates_of(settings.rate_limit, clock).users,
        node=settings.server.node_id,
    )
