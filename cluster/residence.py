"""What a node does to be one of the cluster: it says who and where it is, keeps the address book,
and holds the groups that the placement gives it.

Keeps: a group that this node comes to hold begins with nothing and votes only once the group's own
log says so; one that its members have taken from this node is closed and its rows are removed.
"""

from __future__ import annotations

from contextlib import suppress

import structlog

from cluster.membership import MemberGroups, introduce
from cluster.remote import ClusterGroups
from cluster.replicas import Replicas
from cluster.rpc.addresses import AddressBook, peer_addresses
from cluster.rpc.peers import Peers
from kalamdb.cluster_errors import NodeTaken, UnknownNode
from kalamdb.config import Settings
from kalamdb.errors import KalamError, Unavailable
from kalamdb.lib.tasks import every
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.model.work import PutNode

log = structlog.get_logger(__name__)

LOOK_S = 0.3
UNHEARD_S = 3.0


class Residence:
    """See the module. `run` until cancelled."""

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        groups: ClusterGroups,
        peers: Peers,
        members: MemberGroups,
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self._groups = groups
        self._peers = peers
        self._node = NodeId(replicas.node)
        self._members = members
        self._known = False
        self._book = AddressBook(peers, peer_addresses(settings))

    async def run(self) -> None:
        await every(LOOK_S, self.look, name="residence")

    async def look(self) -> None:
        """One look at what is meant to be. Raises: the tree; the next one goes on."""
        catalog = self._groups.catalog
        self._book.follow(catalog)
        if not catalog.enrolled:
            return
        if not self._known:
            await self._introduce(catalog)
        await self._hold(catalog)

    async def _introduce(self, catalog: CatalogView) -> None:
        """Where it listens may be no address for others (0.0.0.0): they have been told a better."""
        server, known = self._settings.server, catalog.nodes.get(self._node)
        rpc = peer_addresses(self._settings).get(self._node)
        if rpc is None:
            rpc = server.rpc if known is None or not known.rpc else known.rpc
        me = PutNode(self._node, rpc, self._replicas.uuid, server.http)
        try:
            await introduce(self._groups.write_meta, catalog, me)
        except (UnknownNode, NodeTaken) as error:
            log.error("node_not_welcome", reason=str(error))
            raise Unavailable(str(error)) from error
        self._known = True

    async def _hold(self, catalog: CatalogView) -> None:
        assert catalog.placement is not None
        held = {META_GROUP, *catalog.placement.held_by(self._node)}
        for group in sorted(held - self._replicas.logs.keys()):
            log.info("group_opened", group=group)
            self._replicas.open(group, (), joining=True)
        for group in sorted(self._replicas.logs.keys() - held):
            with suppress(KalamError):
                if await self._is_removed(group):
                    await self._replicas.close(group)
                    log.info("group_closed", group=group)

    async def _is_removed(self, group: GroupId) -> bool:
        """A member said so; or, if none did, because this node was away: its leader says so now."""
        member = self._replicas.logs[group]
        if member.removed or member.heard_age_s() < UNHEARD_S:
            return member.removed
        now = (await self._members.view(group)).members
        return now.committed and self._node not in (*now.voters, *now.learners)
