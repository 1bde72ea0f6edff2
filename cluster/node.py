"""Composition root of a data node: builds everything once, bottom first, and takes it down in
reverse.

1. the groups and what is below them (`replicas.py`);
2. who is asking (`identities.py`), sessions, live connections;
3. where other nodes can be: the links, what they ask of this node, and the way to who leads what;
4. what has to be there before statements can run (`founding.py`);
5. HTTP: serve; background: disk watch, checkpoints and log compaction, retention.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog

from cluster.founding import Founding
from cluster.identities import Identities, identities
from cluster.live import (
    LiveHubs,
    ViewWatch,
    live_edge,
    live_evaluations,
    live_host,
    live_relay,
    ws_limits,
)
from cluster.live_host import LiveHost
from cluster.others import Others, among_others, others_of, routed_session
from cluster.oversight import node_oversight
from cluster.replicas import Replicas, open_replicas
from cluster.route import LocalGroups
from cluster.running import running
from kalamdb.config import Settings, address, described
from kalamdb.edge.http.app import HttpParts, build_app, serve
from kalamdb.edge.http.sql import Executes
from kalamdb.edge.ws.connection import WsEdge
from kalamdb.edge.ws.ongoing import Connections, LiveQueries
from kalamdb.edge.ws.queries import Talks
from kalamdb.jobs.retention import Retention, RetentionSettings
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.lib.observe import Metrics
from kalamdb.lib.tasks import every
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.query.scan import ScanLimits
from kalamdb.session.activity import TransactionsSource
from kalamdb.session.audited import AuditedDefinitions
from kalamdb.session.live_rights import LiveRights
from kalamdb.session.run import SessionLimits
from kalamdb.session.session import Session
from kalamdb.session.transactions import Transactions
from kalamdb.sql.statement import Ongoing

log: Any = structlog.get_logger("node")

DISK_LOOK_S = 1.0
COMPACT_S = 5.0
CHECKPOINT_S = 60.0
LIVE_TICK_S = 1.0


class View:
    """What /health and /debug tell; implements `edge.http.admin.NodeView`."""

    def __init__(self, replicas: Replicas) -> None:
        self.status = replicas.status
        self.digests = replicas.digests
        self.logs = replicas.status_of_logs


async def run_node(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`. Raises: the error tree when the node cannot start; OSError for
    addresses.
    """
    log.info("settings_read", **described(settings))
    async with open_replicas(settings) as replicas, serving(settings, replicas) as url:
        gc.collect()
        gc.freeze()
        log.info("node_started", url=url, groups=len(replicas.replicas))
        print(f"listening on {url}", flush=True)  # noqa: T201 — for the person who started it
        await stop.wait()
        log.info("node_stopping")
        await replicas.step_aside()
        replicas.serving = False
    log.info("node_stopped")


@asynccontextmanager
async def serving(settings: Settings, replicas: Replicas) -> AsyncGenerator[str]:
    """Sessions, live connections and HTTP over open replicas; gives the address."""
    clock, ids, metrics = SystemClock(), SystemIds(), Metrics()
    others = others_of(settings, replicas, clock)
    groups = LocalGroups(replicas.replicas) if others is None else others.groups
    meta, node = replicas.hot.group(META_GROUP), settings.server.node_id
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(identities(settings, meta, groups, metrics))
        auth, audit = identity.auth, identity.audit
        definitions = AuditedDefinitions(
            groups, clock, identity.passwords.hash, audit, user_ddl=settings.auth.user_ddl
        )
        pool = EnginePool(pool_settings(settings))
        stack.push_async_callback(pool.close)
        made = None if others is None else others.operations
        around = node_oversight(
            settings,
            groups,
            audit,
            metrics,
            replicas.status_of_logs,
            clock=clock,
            facts=None if made is None else made.facts,
            control=None if made is None else made.control,
        )
        transactions = Transactions(groups, groups, clock, ids, settings.transactions, node=node)
        metrics.watch("transactions", transactions.statistics)
        around.offer(Ongoing.TRANSACTION, TransactionsSource(transactions, node))
        session = Session(
            groups,
            pool,
            definitions,
            clock,
            ids=ids,
            limits=session_limits(settings),
            on_execute_as=audit.on_execute_as,
            transactions=transactions,
            oversight=around,
        )
        executes: Executes = session
        talks: Talks = session
        if others is not None:
            executes, talks = routed_session(others, replicas, session, around)
        websockets = await stack.enter_async_context(
            live(settings, replicas, groups, others, metrics, who=identity, pool=pool, talks=talks)
        )
        around.offer(Ongoing.LIVE_QUERY, LiveQueries(websockets.directory))
        around.offer(Ongoing.CONNECTION, Connections(websockets.directory))
        founding = Founding(groups, auth, definitions, settings, ids)
        await stack.enter_async_context(placed(founding, settings, replicas, others, metrics))
        parts = HttpParts(executes, auth, websockets, View(replicas), metrics, identity.provider)
        watch_all(metrics, replicas, websockets, pool)
        host, port = address(settings.server.http)
        runner = await serve(build_app(parts, settings, clock), host, port, settings)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(websockets.close)
        await stack.enter_async_context(background(settings, replicas, metrics, transactions))
        replicas.serving = True
        yield f"http://{host}:{port}"


@asynccontextmanager
async def placed(
    founding: Founding,
    settings: Settings,
    replicas: Replicas,
    others: Others | None,
    metrics: Metrics,
) -> AsyncGenerator[None]:
    """What has to be there before statements can run: now, or whenever this node leads meta."""
    if others is None:
        await founding.found()
        yield
        return
    async with (
        among_others(settings, replicas, others, metrics),
        running(founding.keep_founded(replicas)),
    ):
        yield


@asynccontextmanager
async def live(
    settings: Settings,
    replicas: Replicas,
    groups: LocalGroups,
    others: Others | None,
    metrics: Metrics,
    *,
    who: Identities,
    pool: EnginePool,
    talks: Talks,
) -> AsyncGenerator[WsEdge]:
    """The WebSocket edge and what is behind it; where there are others, also for their clients."""
    async with AsyncExitStack() as stack:
        relay = None
        if others is not None:
            made = live_relay(settings, others.peers, others.leaders, lambda: groups.catalog)
            relay = await stack.enter_async_context(made)
            metrics.watch("relay", relay.statistics)
        hubs = LiveHubs(replicas.feeds, groups, relay)
        evaluations = await stack.enter_async_context(live_evaluations(settings, hubs, pool))
        metrics.watch("live", evaluations.statistics)
        rights = LiveRights(who.audit.on_read_all_users)
        websockets = live_edge(
            settings, hubs, who.auth, evaluations=evaluations, rights=rights, talks=talks
        )
        host = None
        if others is not None:
            host = live_host(hubs, evaluations, rights, ws_limits(settings))
            host.serve(others.peers)
            metrics.watch("live_host", host.statistics)
            ticks = every(LIVE_TICK_S, ticking(host), name="live host")
            await stack.enter_async_context(running(ticks))
        replicas.on_catalog.append(ViewWatch(websockets, groups.catalog, host).changed)
        yield websockets


def ticking(host: LiveHost) -> Callable[[], Awaitable[None]]:
    async def tick() -> None:
        host.tick(SystemClock().monotonic_s())

    return tick


@asynccontextmanager
async def background(
    settings: Settings, replicas: Replicas, metrics: Metrics, transactions: Transactions
) -> AsyncGenerator[None]:
    """Jobs that run as long as the node serves."""
    retention = Retention(
        replicas.replicas.values,
        SystemClock(),
        RetentionSettings(history_s=settings.history.retention_hours * 3600),
    )
    metrics.watch("retention", retention.statistics)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(every(DISK_LOOK_S, replicas.look_at_disk, name="disk")),
            tasks.create_task(every(COMPACT_S, replicas.compact, name="compact")),
            tasks.create_task(every(CHECKPOINT_S, replicas.checkpoint, name="checkpoint")),
            tasks.create_task(retention.run()),
            tasks.create_task(transactions.run()),
        ]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


def pool_settings(settings: Settings) -> PoolSettings:
    limits = settings.limits
    return PoolSettings(
        workers_max=limits.query_workers,
        timeout_s=limits.query_timeout_s,
        memory_max_bytes=limits.query_memory_bytes,
        held_max_bytes=limits.held_results_bytes,
    )


def session_limits(settings: Settings) -> SessionLimits:
    limits = settings.limits
    return SessionLimits(
        limits.max_params,
        limits.max_param_bytes,
        ScanLimits(limits.max_result_rows, limits.max_result_bytes),
        limits.result_stall_s,
        limits.stale_wait_s,
    )


def watch_all(metrics: Metrics, replicas: Replicas, websockets: WsEdge, pool: EnginePool) -> None:
    """Everything that counts, for /metrics."""
    metrics.watch("disk", replicas.disk.statistics)
    metrics.watch("hot", replicas.hot.statistics)
    metrics.watch("websocket", websockets.statistics)
    metrics.watch("query", pool.statistics)
    for group in replicas.replicas:
        watch_group(metrics, replicas, group)
    replicas.on_open.append(partial(watch_group, metrics, replicas))


def watch_group(metrics: Metrics, replicas: Replicas, group: GroupId) -> None:
    label = str(group)
    metrics.watch("replica", replicas.replicas[group].statistics, group=label)
    metrics.watch("feed", replicas.feeds[group].statistics, group=label)
    metrics.watch("log", replicas.logs[group].statistics, group=label)
