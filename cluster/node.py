"""Composition root of a data node: builds everything once, bottom first, and takes it down in
reverse.

1. data directory (lock, format, recovery) → row store → shared log;
2. for each group a hub of live queries, a replica, a Raft group;
3. bootstrap: placement, slots, namespace `default`, root; definitions a crash left pending;
4. sessions, live connections, the HTTP application: serve;
5. background: disk watch, checkpoints and log compaction, retention.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import structlog

from cluster.bootstrap import bootstrap
from cluster.live import LiveHubs, ViewWatch, live_edge, live_evaluations
from cluster.oversight import node_oversight
from cluster.raft.disk import DirectoryDisk
from cluster.raft.driver import drive
from cluster.raft.group import Group
from cluster.raft.hub import Hub as RaftHub
from cluster.raft.wal import Wal
from cluster.route import LocalGroups
from kalamdb.config import OidcSettings, Settings, address, described
from kalamdb.decide.load import SequencerLimits
from kalamdb.edge.http.admin import NodeStatus
from kalamdb.edge.http.app import HttpParts, build_app, serve
from kalamdb.edge.ws.connection import WsEdge
from kalamdb.edge.ws.ongoing import Connections, LiveQueries
from kalamdb.errors import KalamError
from kalamdb.feed.hub import Hub
from kalamdb.jobs.retention import Retention, RetentionSettings
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.lib.fetch import Fetch
from kalamdb.lib.observe import Metrics
from kalamdb.lib.tasks import every
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.ports import LogStatus
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.query.scan import ScanLimits
from kalamdb.replica.replica import Replica, ReplicaLimits
from kalamdb.session.activity import TransactionsSource
from kalamdb.session.audit import AuditLog
from kalamdb.session.audited import AuditedDefinitions
from kalamdb.session.auth import Authenticator
from kalamdb.session.jwks import FileKeys, IssuerKeys, UrlKeys
from kalamdb.session.live_rights import LiveRights
from kalamdb.session.outside import OutsideTokens
from kalamdb.session.passwords import PasswordRules, Passwords
from kalamdb.session.provider import Provider
from kalamdb.session.run import SessionLimits
from kalamdb.session.secret import token_secret
from kalamdb.session.session import Session
from kalamdb.session.transactions import Transactions
from kalamdb.sql.constraint import checks
from kalamdb.sql.statement import Ongoing
from kalamdb.store.catalog import load
from kalamdb.store.disk import DiskWatch
from kalamdb.store.hot import HotSettings, HotStore
from kalamdb.store.recovery import DataDirectory

log: Any = structlog.get_logger("node")

EXIT_CORRUPTION = 71
DISK_LOOK_S = 1.0
COMPACT_S = 5.0
CHECKPOINT_S = 60.0
LEADERS_TIMEOUT_S = 60.0


class NoPeers:
    """The links of a one-member cluster: there is nobody to send to."""

    def send(self, node: int, frame: bytes) -> bool:
        return False


class Replicas:
    """The groups of this node with everything below the sessions: store, log, feeds."""

    def __init__(self, hot: HotStore, raft: RaftHub, disk: DiskWatch) -> None:
        self.hot = hot
        self.raft = raft
        self.disk = disk
        self.replicas: dict[GroupId, Replica] = {}
        self.logs: dict[GroupId, Group] = {}
        self.feeds: dict[GroupId, Hub] = {}
        self.on_catalog: list[Callable[[CatalogView], None]] = []
        self.serving = False

    def catalog_changed(self, catalog: CatalogView) -> None:
        for tell in self.on_catalog:
            tell(catalog)

    def status(self) -> NodeStatus:
        leaderless = [group for group, replica in self.replicas.items() if not replica.leads]
        if leaderless:
            named = ", ".join(map(str, leaderless))
            return NodeStatus(False, f"no leader for groups {named}")
        if not self.serving:
            return NodeStatus(False, "starting")
        refusal = self.disk.refusal()
        return NodeStatus(True, degraded="" if refusal is None else str(refusal))

    def digests(self) -> Mapping[int, str]:
        return {group: replica.digest() for group, replica in self.replicas.items()}

    def status_of_logs(self) -> Sequence[LogStatus]:
        return [group.status() for group in self.logs.values()]

    async def wait_lead(self) -> None:
        """Until every group is led; a sole voter needs one cycle for it."""
        async with asyncio.timeout(LEADERS_TIMEOUT_S):
            await asyncio.gather(*(each.wait_leads() for each in self.replicas.values()))

    async def look_at_disk(self) -> None:
        if self.disk.look():
            state = self.disk.statistics()
            name = "disk_low" if state.low else "disk_recovered"
            log.warning(name, free_bytes=state.free_bytes, min_free_bytes=state.min_free_bytes)

    async def compact(self) -> None:
        """Let the log drop what the row store has on disk."""
        for group, replica in self.replicas.items():
            self.logs[group].compact_to(replica.durable_index)

    async def checkpoint(self) -> None:
        """Sync the row store's own log, so that the replicated log of idle groups can be
        dropped.
        """
        await asyncio.get_running_loop().run_in_executor(None, self.hot.checkpoint)
        await self.compact()


class View:
    """What /health and /debug tell; implements `edge.http.admin.NodeView`."""

    def __init__(self, replicas: Replicas) -> None:
        self.status = replicas.status
        self.digests = replicas.digests
        self.logs = replicas.status_of_logs


def fatal(error: KalamError) -> NoReturn:
    """End the process: what is on disk or in a group cannot be trusted any further."""
    log.error("node_died", reason=str(error))
    sys.stderr.write(f"kalamdb-server: {error}; the node stops\n")
    sys.stderr.flush()
    os._exit(EXIT_CORRUPTION)


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
        replicas.serving = False
    log.info("node_stopped")


@asynccontextmanager
async def open_replicas(settings: Settings) -> AsyncGenerator[Replicas]:
    """Open the data directory and lead its groups."""
    ids, clock = SystemIds(), SystemClock()
    directory = DataDirectory.open(
        Path(settings.server.data),
        node_id=settings.server.node_id,
        cluster_id=settings.cluster.id,
        ids=ids,
    )
    clean = False
    try:
        if directory.cut is not None:
            log.warning("leveldb_cut", cut=str(directory.cut))
        hot_settings = HotSettings(settings.hot.write_buffer_bytes, settings.hot.cache_bytes)
        hot = HotStore.open(directory.hot_path, hot_settings, fatal)
        wal = Wal(
            DirectoryDisk(directory.log_path),
            UUID(directory.identity.node_uuid).bytes,
            durable=settings.durability == "fsync",
        )
        disk = DiskWatch(directory.path, settings.storage.min_free_bytes)
        node = settings.server.node_id
        async with drive(
            lambda driver: RaftHub(node, wal, NoPeers(), clock=clock, ids=ids, drive=driver)
        ) as raft:
            replicas = Replicas(hot, raft, disk)
            asked = settings.limits
            limits = ReplicaLimits(
                SequencerLimits(
                    rows_max=asked.max_statement_rows, returned_bytes_max=asked.max_result_bytes
                )
            )
            for group in range(group_count(hot, settings) + 1):
                open_group(replicas, GroupId(group), node, clock, limits)
            await replicas.wait_lead()
            yield replicas
        await asyncio.get_running_loop().run_in_executor(None, hot.checkpoint)
        hot.close()
        clean = True
    finally:
        directory.close(clean=clean)


def group_count(hot: HotStore, settings: Settings) -> int:
    """Data groups: as the cluster was created, else as the settings say."""
    placement = load(hot.group(META_GROUP)).placement
    return settings.cluster.groups if placement is None else placement.groups


def open_group(
    replicas: Replicas, group: GroupId, node: int, clock: SystemClock, limits: ReplicaLimits
) -> None:
    feed = Hub()
    replica = Replica(
        group,
        replicas.hot.group(group),
        feed,
        clock,
        limits=limits,
        checks=checks,
        disk_full=replicas.disk.refusal,
        on_catalog=replicas.catalog_changed,
        fatal=fatal,
    )
    replicas.feeds[group] = feed
    replicas.replicas[group] = replica
    replicas.logs[group] = replicas.raft.open(group, (node,), replica)
    replica.attach(replicas.logs[group])


@asynccontextmanager
async def serving(settings: Settings, replicas: Replicas) -> AsyncGenerator[str]:
    """Sessions, live connections and HTTP over open replicas; gives the address."""
    clock, ids, metrics = SystemClock(), SystemIds(), Metrics()
    groups = LocalGroups(replicas.replicas)
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(identities(settings, replicas, groups, metrics))
        auth, audit = identity.auth, identity.audit
        definitions = AuditedDefinitions(
            groups, clock, identity.passwords.hash, audit, user_ddl=settings.auth.user_ddl
        )
        await bootstrap(groups, replicas.replicas, settings.cluster.id, (settings.server.node_id,))
        made_up = await auth.ensure_root(ids)
        if made_up is not None:
            print(f"root password: {made_up}", flush=True)  # noqa: T201 — said once, here only
        await definitions.finish_pending()
        pool = EnginePool(pool_settings(settings))
        stack.push_async_callback(pool.close)
        around = node_oversight(
            settings, groups, audit, metrics, replicas.status_of_logs, clock=clock
        )
        transactions = Transactions(groups, groups, clock, ids, settings.transactions)
        metrics.watch("transactions", transactions.statistics)
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
        hubs = LiveHubs(replicas.feeds, groups)
        evaluations = await stack.enter_async_context(live_evaluations(settings, hubs, pool))
        metrics.watch("live", evaluations.statistics)
        rights = LiveRights(audit.on_read_all_users)
        websockets = live_edge(
            settings, hubs, auth, evaluations=evaluations, rights=rights, talks=session
        )
        replicas.on_catalog.append(ViewWatch(websockets, groups.catalog).changed)
        around.offer(Ongoing.TRANSACTION, TransactionsSource(transactions))
        around.offer(Ongoing.LIVE_QUERY, LiveQueries(websockets.directory))
        around.offer(Ongoing.CONNECTION, Connections(websockets.directory))
        view = View(replicas)
        parts = HttpParts(session, auth, websockets, view, metrics, identity.provider)
        watch_all(metrics, replicas, websockets, pool)
        host, port = address(settings.server.http)
        runner = await serve(build_app(parts, settings, clock), host, port, settings)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(websockets.close)
        await stack.enter_async_context(background(settings, replicas, metrics, transactions))
        replicas.serving = True
        yield f"http://{host}:{port}"


@dataclass(frozen=True, slots=True)
class Identities:
    """Who is asking, and what they did."""

    auth: Authenticator
    audit: AuditLog
    passwords: Passwords
    provider: Provider | None


@asynccontextmanager
async def identities(
    settings: Settings, replicas: Replicas, groups: LocalGroups, metrics: Metrics
) -> AsyncGenerator[Identities]:
    """Passwords, tokens, the outside issuer and the audit log."""
    asked, clock = settings.auth, SystemClock()
    rules = PasswordRules(
        asked.password_length_min, asked.password_length_max, asked.password_classes
    )
    passwords = Passwords(rules, memory_kib=asked.hash_memory_kib, passes=asked.hash_passes)
    audit = AuditLog(groups, replicas.hot.group(META_GROUP), clock, settings.audit)
    metrics.watch("audit", audit.statistics)
    secret = token_secret(asked, Path(settings.server.data), SystemIds())
    try:
        async with audited(audit), outside_issuer(asked.oidc, metrics) as issuer:
            outside = None if issuer is None else issuer.tokens
            auth = Authenticator(
                groups, passwords, clock, asked, secret=secret, outside=outside, log=audit
            )
            provider = None if issuer is None else issuer.provider
            yield Identities(auth, audit, passwords, provider)
    finally:
        passwords.close()


@dataclass(frozen=True, slots=True)
class Issuer:
    """The outside issuer of tokens: as its client, and as whose tokens are taken."""

    provider: Provider
    tokens: OutsideTokens


@asynccontextmanager
async def outside_issuer(settings: OidcSettings, metrics: Metrics) -> AsyncGenerator[Issuer | None]:
    """Keeps the issuer's keys current; None when no issuer is configured."""
    if not settings.enabled or settings.issuer is None:
        yield None
        return
    clock = SystemClock()
    async with Fetch(settings.request_timeout_s) as fetch, asyncio.TaskGroup() as tasks:
        provider = Provider(settings, fetch, clock)
        if settings.jwks_file is not None:
            source = FileKeys(Path(settings.jwks_file))
        else:
            source = UrlKeys(provider.keys, settings.jwks_refresh_s)
        keys = IssuerKeys(settings.issuer, source, clock)
        metrics.watch("issuer_keys", keys.statistics)
        running = tasks.create_task(keys.run())
        try:
            yield Issuer(provider, OutsideTokens(settings, keys, clock))
        finally:
            running.cancel()


@asynccontextmanager
async def audited(audit: AuditLog) -> AsyncGenerator[None]:
    """Writes the audit log as long as the node serves, and what is left of it at the end."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(audit.run())
        try:
            yield
        finally:
            running.cancel()
    await audit.close()


@asynccontextmanager
async def background(
    settings: Settings, replicas: Replicas, metrics: Metrics, transactions: Transactions
) -> AsyncGenerator[None]:
    """Jobs that run as long as the node serves."""
    retention = Retention(
        list(replicas.replicas.values()),
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
    )


def watch_all(metrics: Metrics, replicas: Replicas, websockets: WsEdge, pool: EnginePool) -> None:
    """Everything that counts, for /metrics."""
    metrics.watch("disk", replicas.disk.statistics)
    metrics.watch("hot", replicas.hot.statistics)
    metrics.watch("websocket", websockets.statistics)
    metrics.watch("query", pool.statistics)
    for group, replica in replicas.replicas.items():
        label = str(group)
        metrics.watch("replica", replica.statistics, group=label)
        metrics.watch("feed", replicas.feeds[group].statistics, group=label)
        metrics.watch("log", replicas.logs[group].statistics, group=label)
