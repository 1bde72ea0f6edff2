"""The groups of a node with everything below the sessions: directory, row store, shared log, feeds.

1. data directory (lock, format, recovery) → row store → shared log;
2. links to the other nodes, when there can be any (`cluster.secret`);
3. for each group a hub of live queries, a replica, a Raft group.

Keeps: who opens them closes them in reverse, and a clean stop leaves a synced row store.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import structlog

from cluster.bootstrap import founded
from cluster.images import Copies, pull
from cluster.placement import initial
from cluster.raft.disk import DirectoryDisk
from cluster.raft.driver import drive
from cluster.raft.group import Group
from cluster.raft.hub import Hub as RaftHub
from cluster.raft.wal import Wal
from cluster.remote import LEASE_S
from cluster.rpc.addresses import peer_addresses
from cluster.rpc.handshake import Identity, MayJoin
from cluster.rpc.peers import LinkSettings, Peers
from cluster.rpc.tls import tls_files
from cluster.welcome import may_join
from kalamdb.config import Settings
from kalamdb.decide.load import SequencerLimits
from kalamdb.edge.http.admin import NodeStatus
from kalamdb.errors import KalamError, Unavailable
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Effect
from kalamdb.model.ids import META_GROUP, GroupId, NodeId, Slot
from kalamdb.ports import LogStatus
from kalamdb.replica.replica import MetaAllows, PullImage, Replica, ReplicaLimits
from kalamdb.sql.constraint import checks
from kalamdb.store.catalog import load
from kalamdb.store.disk import DiskWatch
from kalamdb.store.hot import HotSettings, HotStore
from kalamdb.store.kv import FIRST_MARK
from kalamdb.store.recovery import DataDirectory

log: Any = structlog.get_logger("node")

EXIT_CORRUPTION = 71
LEADERS_TIMEOUT_S = 60.0
STEP_ASIDE_S = 3.0
NEAR = 1000  # entries behind
PURGE_KEYS = 2000


class NoPeers:
    """The links of a one-member cluster: there is nobody to send to."""

    def send(self, node: int, frame: bytes) -> bool:
        return False


class Replicas:
    """See the module. `peers` is None where no other node can be."""

    def __init__(self, hot: HotStore, raft: RaftHub, disk: DiskWatch, settings: Settings) -> None:
        self.hot = hot
        self.raft = raft
        self.disk = disk
        self.node = settings.server.node_id
        self.uuid = ""
        self.peers: Peers | None = None
        self.allows_reads: MetaAllows | None = None
        self.replicas: dict[GroupId, Replica] = {}
        self.logs: dict[GroupId, Group] = {}
        self.feeds: dict[GroupId, Hub] = {}
        self.on_catalog: list[Callable[[CatalogView], None]] = []
        self.on_records: list[Callable[[Sequence[Effect]], None]] = []
        self.on_open: list[Callable[[GroupId], None]] = []
        self.serving = False
        self.stack = AsyncExitStack()
        """What ends after the sessions and before the log: the links."""
        asked = settings.limits
        self._limits = ReplicaLimits(
            SequencerLimits(
                rows_max=asked.max_statement_rows, returned_bytes_max=asked.max_result_bytes
            )
        )
        self._clock = SystemClock()
        self.copies = Copies(self.node, self._clock)

    def open(self, group: GroupId, voters: tuple[int, ...], *, joining: bool = False) -> None:
        """A member of `group`. Without voters, or `joining`, it learns from the leader who they
        are, and does not vote until they made it one of them.
        """
        feed = Hub()
        replica = Replica(
            group,
            self.hot.group(group),
            feed,
            self._clock,
            limits=self._limits,
            checks=checks,
            disk_full=self.disk.refusal,
            on_catalog=self._catalog_changed,
            on_records=self._records_applied,
            pull_image=self._pull_image(),
            meta_allows=self.meta_allows,
            fatal=fatal,
        )
        self.feeds[group] = feed
        self.replicas[group] = replica
        self.logs[group] = self.raft.open(group, voters, replica, joining=joining)
        replica.attach(self.logs[group])
        for tell in self.on_open:
            tell(group)

    async def close(self, group: GroupId) -> None:
        """This node is no member any more: stop, and remove the group's rows. Raises Unavailable
        while an image is installed.
        """
        self.raft.close_group(group)
        del self.logs[group], self.feeds[group]
        del self.replicas[group]
        await self.raft.wait_synced()  # a log that is there without its rows is corruption
        store = self.hot.group(group)
        store.build().flip(FIRST_MARK)
        for _ in iter(lambda: store.purge_old(PURGE_KEYS), 0):
            await asyncio.sleep(0)  # bounded steps; others go on in between

    async def meta_allows(self, slot: Slot, epoch: int) -> bool:
        """May a group in which the slot is frozen answer reads? Raises Unavailable."""
        if self.allows_reads is None:
            raise Unavailable("this node does not know of moves yet")
        return await self.allows_reads(slot, epoch)

    def _pull_image(self) -> PullImage | None:
        return None if self.peers is None else partial(pull, self.peers, copies=self.copies)

    def _catalog_changed(self, catalog: CatalogView) -> None:
        for tell in self.on_catalog:
            tell(catalog)

    def _records_applied(self, records: Sequence[Effect]) -> None:
        for tell in self.on_records:
            tell(records)

    def status(self) -> NodeStatus:
        # A data group that this node is still to get, or has given away, is served from elsewhere.
        leaderless = [
            group
            for group, log in self.logs.items()
            if log.leader() is None and (group == META_GROUP or not log.outside)
        ]
        if leaderless:
            named = ", ".join(map(str, leaderless))
            return NodeStatus(False, f"no leader for groups {named}")
        if self.peers is not None and self.logs[META_GROUP].heard_age_s() > LEASE_S:
            return NodeStatus(False, "the leader of the meta group is not heard")
        if not self.serving or not founded(self.replicas[META_GROUP].catalog):
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

    async def step_aside(self) -> None:
        """Before a clean stop: others lead what this node leads, as far as that is quickly done."""
        peers = self.peers
        if peers is None:
            return
        given: Counter[int] = Counter()
        transfers: list[asyncio.Future[None]] = []
        for group in self.logs.values():
            able = [
                member
                for member in group.progress()
                if member.voter and member.counts and peers.connected(member.node)
            ]
            if not able:
                continue
            best = min(able, key=lambda member: (member.behind_entries > NEAR, given[member.node]))
            given[best.node] += 1
            with suppress(KalamError):
                transfers.append(group.hand_over(best.node))
        if transfers:
            await asyncio.wait(transfers, timeout=STEP_ASIDE_S)
            done = [each for each in transfers if each.done() and not each.exception()]
            log.info("stepped_aside", groups=len(transfers), done=len(done))

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


def fatal(error: KalamError) -> NoReturn:
    """End the process: what is on disk or in a group cannot be trusted any further."""
    log.error("node_died", reason=str(error))
    sys.stderr.write(f"kalamdb-server: {error}; the node stops\n")
    sys.stderr.flush()
    os._exit(EXIT_CORRUPTION)


@asynccontextmanager
async def open_replicas(settings: Settings) -> AsyncGenerator[Replicas]:
    """Open the data directory and its groups; where no other node can be, lead them."""
    ids = SystemIds()
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
        opened: list[Replicas] = []

        def welcome(node: int, uuid: UUID) -> str | None:
            return may_join(opened[0].replicas[META_GROUP].catalog, node, uuid)

        async with _running_log(settings, directory, welcome) as (raft, peers):
            disk = DiskWatch(directory.path, settings.storage.min_free_bytes)
            replicas = Replicas(hot, raft, disk, settings)
            opened.append(replicas)
            replicas.peers = peers
            replicas.uuid = directory.identity.node_uuid
            for group, voters in members_to_open(hot, raft, settings).items():
                replicas.open(group, voters)
            if peers is None:
                await replicas.wait_lead()
            async with replicas.stack:
                yield replicas
        await asyncio.get_running_loop().run_in_executor(None, hot.checkpoint)
        hot.close()
        clean = True
    finally:
        directory.close(clean=clean)


@asynccontextmanager
async def _running_log(
    settings: Settings, directory: DataDirectory, welcome: MayJoin
) -> AsyncGenerator[tuple[RaftHub, Peers | None]]:
    """The shared log and the links it uses; the links are made by who enters `Peers`."""
    clock, ids = SystemClock(), SystemIds()
    uuid = UUID(directory.identity.node_uuid)
    node = settings.server.node_id
    wal = Wal(DirectoryDisk(directory.log_path), uuid.bytes, durable=settings.durability == "fsync")
    hubs: list[RaftHub] = []
    peers: Peers | None = None
    if settings.cluster.secret is not None:
        peers = Peers(
            Identity(settings.cluster.id, node, uuid),
            LinkSettings(settings.cluster.secret, settings.server.rpc, tls_files(settings)),
            peer_addresses(settings),
            clock,
            ids,
            on_connected=lambda peer: hubs[0].connected(peer),
            on_disconnected=lambda peer: hubs[0].disconnected(peer),
            on_raft_frame=lambda peer, frame: hubs[0].receive(peer, frame),
            may_join=welcome,
        )
    link = peers or NoPeers()
    async with drive(
        lambda driver: RaftHub(node, wal, link, clock=clock, ids=ids, drive=driver)
    ) as raft:
        hubs.append(raft)
        yield raft, peers


def members_to_open(
    hot: HotStore, raft: RaftHub, settings: Settings
) -> dict[GroupId, tuple[int, ...]]:
    """The groups this node opens, with the voters of those whose log does not say them.

    Of a new cluster all nodes work out the same members from the same settings.
    """
    held = raft.unopened()
    placement = load(hot.group(META_GROUP)).placement
    node = NodeId(settings.server.node_id)
    if placement is not None or held:
        # Logs from before there were others hold no members: this node alone.
        groups = range(placement.groups + 1) if placement is not None and not held else held
        voters = (node,) if placement is None else placement.voters
        return {GroupId(group): voters for group in groups}
    if settings.cluster.join:
        return {META_GROUP: ()}
    nodes = {node, *map(NodeId, peer_addresses(settings))}
    wished = initial(nodes, settings.cluster.groups, settings.cluster.replication)
    found: dict[GroupId, tuple[int, ...]] = {
        group: voters for group, voters in wished.items() if node in voters
    }
    found.setdefault(META_GROUP, ())
    return found
