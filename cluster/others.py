"""What a node has because there are others: built once, beside the sessions (`node.py`).

- the way out: who leads what, statements (`routed.py`), rows (`gather`), live queries (`live.py`);
- the way in: what other processes ask of this node;
- jobs: members and leaders as meant, slots on their way, this node's place among the others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cluster.catalog_feed import CatalogHost
from cluster.gather import ActivityHost, GatheredReads, GatherLimits, NodesActivity, RowsHost
from cluster.images import ImageHost
from cluster.leaders import Leaders
from cluster.member_groups import LedHere
from cluster.membership import MembershipSettings, MoveProgress
from cluster.move_calls import MoveCalls, MoveHost
from cluster.moves import Moves, MoveSettings
from cluster.operations import Operations, Surroundings, operations
from cluster.remote import ClusterGroups
from cluster.replicas import Replicas
from cluster.residence import Residence
from cluster.routed import RoutedSession
from cluster.rpc.peers import Peers
from cluster.running import running
from cluster.sql_host import SqlHost
from cluster.talks import RoutedTalks, TalkHost
from kalamdb.config import Settings
from kalamdb.lib.clock import Clock, SystemClock
from kalamdb.lib.observe import Metrics
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.session.oversight import Oversight
from kalamdb.session.session import Session


@dataclass(frozen=True, slots=True)
class Others:
    """See the module."""

    peers: Peers
    leaders: Leaders
    groups: ClusterGroups
    moves: Moves
    operations: Operations
    rows: RowsHost


def others_of(settings: Settings, replicas: Replicas, clock: Clock) -> Others | None:
    """None where no other node can be."""
    peers = replicas.peers
    if peers is None:
        return None

    def linked_nodes() -> list[int]:
        nodes = replicas.replicas[META_GROUP].catalog.nodes
        return [node for node in nodes if peers.connected(node)]

    leaders = Leaders(replicas.logs, peers.connected, linked_nodes, clock, node=replicas.node)
    groups = ClusterGroups(
        replicas.replicas, leaders, peers, lambda: replicas.logs[META_GROUP].heard_age_s()
    )
    replicas.on_catalog.append(lambda _: groups.catalog_watch.changed())
    rows = _gathered(settings, replicas, groups, leaders, peers)
    MoveHost(groups).serve(peers)
    calls = MoveCalls(groups, peers)
    replicas.allows_reads = calls.allows_reads
    moves = Moves(calls, lambda: replicas.replicas[META_GROUP].leads, clock, MoveSettings())

    async def snapshot(group: GroupId) -> int:
        await replicas.checkpoint()
        return replicas.logs[group].status().first_index - 1

    def on_their_way() -> Sequence[MoveProgress]:
        return [*moves.progress(groups.catalog.moves.values()), *replicas.copies.progress()]

    asked = settings.cluster
    made = operations(
        LedHere(replicas.node, replicas.logs, snapshot),
        groups,
        Surroundings(replicas.status_of_logs, moves, on_their_way, peers, leaders),
        clock,
        MembershipSettings(asked.balance_interval_s, asked.replace_after_s),
    )
    return Others(peers, leaders, groups, moves, made, rows)


def _gathered(
    settings: Settings, replicas: Replicas, groups: ClusterGroups, leaders: Leaders, peers: Peers
) -> RowsHost:
    """Rows of groups that other nodes lead; and theirs, of this node's."""
    limits = GatherLimits(
        wait_s=settings.limits.stale_wait_s, size_max_bytes=settings.limits.max_gathered_bytes
    )
    host = RowsHost(replicas.replicas, lambda: groups.catalog, limits)
    host.serve(peers)

    def members(group: GroupId) -> Sequence[int]:
        placement = groups.catalog.placement
        return () if placement is None else placement.voters_of(group)

    groups.far = GatheredReads(replicas.node, peers, leaders, members, host=host)
    return host


def routed_session(
    others: Others, replicas: Replicas, session: Session, around: Oversight
) -> tuple[RoutedSession, RoutedTalks]:
    """Statements by way of who leads what; from now on other processes' statements, too."""
    peers, groups = others.peers, others.groups
    routed = RoutedSession(groups, others.leaders, peers, SystemClock(), local=session)
    host = SqlHost(session, groups)
    feed = CatalogHost(replicas.hot.group(META_GROUP), others.leaders.all, groups.catalog_age_s)
    replicas.on_records.append(feed.applied)
    groups.serve(peers)
    host.serve(peers)
    feed.serve(peers)
    TalkHost(session, host.admit).serve(peers)
    ImageHost(replicas.replicas).serve(peers)
    ActivityHost(around.activity).serve(peers)

    def other_nodes() -> Sequence[int]:
        nodes = groups.catalog.nodes.values()
        return [node.id for node in nodes if node.holds and node.id != replicas.node]

    around.activity.join(NodesActivity(peers, other_nodes))
    return routed, RoutedTalks(routed, peers, session, replicas.node)


@asynccontextmanager
async def among_others(
    settings: Settings, replicas: Replicas, others: Others, metrics: Metrics
) -> AsyncGenerator[None]:
    """Linked to the others, with the jobs of a cluster. All handlers are set before."""
    await replicas.stack.enter_async_context(others.peers)
    metrics.watch("links", others.peers.statistics)
    metrics.watch("membership", others.operations.membership.statistics)
    members = others.operations.control.groups
    residence = Residence(settings, replicas, others.groups, others.peers, members)
    async with AsyncExitStack() as stack:
        for job in (others.operations.membership.run(), others.moves.run(), residence.run()):
            await stack.enter_async_context(running(job))
        stack.callback(others.rows.close)
        yield
