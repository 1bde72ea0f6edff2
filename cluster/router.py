"""Composition root of a router: edges, the way to the leaders, live streams; no rows.

1. links to every node of the address book, and the catalog as one of them tells it;
2. who is asking: the same users and tokens as at the nodes;
3. statements to the leaders, live queries from them; HTTP and WebSocket.

Keeps: it holds nothing that is not in the cluster, so any number of routers serve beside each other
and one that ends takes nothing with it but its connections.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from cluster.bootstrap import founded
from cluster.catalog_feed import FollowedCatalog
from cluster.identities import identities
from cluster.leaders import Leaders
from cluster.live import live_relay, router_live_edge
from cluster.remote import write_at
from cluster.routed import RoutedSession
from cluster.rpc.addresses import AddressBook, router_addresses
from cluster.rpc.handshake import Identity
from cluster.rpc.peers import LinkSettings, Peers
from cluster.rpc.port import Rpc
from cluster.rpc.tls import tls_files
from cluster.running import running
from cluster.talks import RoutedTalks
from kalamdb.config import InvalidSettings, Settings, address, described
from kalamdb.edge.http.admin import NodeStatus
from kalamdb.edge.http.app import HttpParts, build_app, serve
from kalamdb.errors import Unavailable
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.lib.observe import Metrics
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import LogStatus
from kalamdb.session.live_rights import LiveRights

log: Any = structlog.get_logger("router")


class RouterGroups:
    """What sign-in asks of the groups: the catalog, and work of the meta group."""

    def __init__(self, followed: FollowedCatalog, leaders: Leaders, rpc: Rpc) -> None:
        self._followed = followed
        self._leaders = leaders
        self._rpc = rpc

    @property
    def catalog(self) -> CatalogView:
        return self._followed.catalog

    async def write_meta(self, work: Work, tag: RequestTag | None = None) -> Outcome:
        async def ask(node: int) -> Outcome:
            return await write_at(
                self._rpc, node, META_GROUP, work, tag, watch=self._followed.watch
            )

        return await self._leaders.ask(lambda: META_GROUP, ask, twice=tag is not None)

    async def refresh_catalog(self) -> None:
        await self._followed.refresh_catalog()


class RouterView:
    """What /health and /debug tell; implements `edge.http.admin.NodeView`."""

    def __init__(self, followed: FollowedCatalog) -> None:
        self._followed = followed

    def status(self) -> NodeStatus:
        try:
            self._followed.check_catalog()
        except Unavailable as error:
            return NodeStatus(False, str(error))
        if not founded(self._followed.catalog):
            return NodeStatus(False, "the cluster is starting")
        return NodeStatus(True)

    def digests(self) -> Mapping[int, str]:
        return {}

    def logs(self) -> Sequence[LogStatus]:
        return ()


async def run_router(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`. Raises: InvalidSettings without peers or secret; OSError for
    addresses.
    """
    log.info("settings_read", **described(settings))
    async with routing(settings) as url:
        gc.collect()
        gc.freeze()
        log.info("router_started", url=url)
        print(f"listening on {url}", flush=True)  # noqa: T201 — for the person who started it
        await stop.wait()
        log.info("router_stopping")
    log.info("router_stopped")


def links_of(settings: Settings, clock: SystemClock, ids: SystemIds) -> Peers:
    """To every node, none of the log's frames on them. Raises InvalidSettings."""
    if settings.cluster.secret is None:
        raise InvalidSettings("settings", "cluster.secret", "a router needs the nodes' secret")
    return Peers(
        Identity(settings.cluster.id, None, UUID(bytes=ids.token(16))),
        LinkSettings(settings.cluster.secret, None, tls_files(settings)),
        router_addresses(settings),
        clock,
        ids,
        on_connected=lambda node: None,
        on_disconnected=lambda node: None,
        on_raft_frame=lambda node, frame: False,
    )


@asynccontextmanager
async def routing(settings: Settings) -> AsyncGenerator[str]:
    """Everything of a router; gives the address."""
    clock, ids, metrics = SystemClock(), SystemIds(), Metrics()
    async with AsyncExitStack() as stack:
        rpc = links_of(settings, clock, ids)
        book = AddressBook(rpc, router_addresses(settings))
        leaders = Leaders({}, rpc.connected, book.connected, clock)
        followed = FollowedCatalog(rpc, leaders, clock)
        followed.on_catalog.append(book.follow)
        groups = RouterGroups(followed, leaders, rpc)
        await stack.enter_async_context(rpc)
        metrics.watch("links", rpc.statistics)
        identity = await stack.enter_async_context(identities(settings, None, groups, metrics))
        await stack.enter_async_context(running(followed.run()))
        routed = RoutedSession(followed, leaders, rpc, clock, local=None)
        talks = RoutedTalks(routed, rpc, None, None)
        relay = await stack.enter_async_context(
            live_relay(settings, rpc, leaders, lambda: followed.catalog)
        )
        metrics.watch("relay", relay.statistics)
        rights = LiveRights(identity.audit.on_read_all_users)
        websockets = router_live_edge(
            settings,
            lambda: followed.catalog,
            identity.auth,
            relay=relay,
            rights=rights,
            talks=talks,
        )
        metrics.watch("websocket", websockets.statistics)
        parts = HttpParts(
            routed, identity.auth, websockets, RouterView(followed), metrics, identity.provider
        )
        host, port = address(settings.server.http)
        runner = await serve(build_app(parts, settings, clock), host, port, settings)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(websockets.close)
        yield f"http://{host}:{port}"
