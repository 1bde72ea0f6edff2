"""What has to be there before statements can run, and what a leader of the meta group goes on with:
placement, slots, root, definitions that a crash or a lost leader left pending.

Keeps: only the leader of the meta group does it, once for each leadership; doing it again changes
nothing.
"""

from __future__ import annotations

from typing import Any

import structlog

from cluster.bootstrap import FoundingGroups, bootstrap, founded
from cluster.membership import enrol
from cluster.placement import initial
from cluster.replicas import Replicas
from cluster.rpc.addresses import peer_addresses
from kalamdb.config import Settings
from kalamdb.errors import Indeterminate, Unavailable
from kalamdb.lib.clock import Ids
from kalamdb.lib.tasks import every
from kalamdb.model.ids import META_GROUP, NodeId
from kalamdb.model.work import PutMembers, PutReplication
from kalamdb.session.audited import AuditedDefinitions
from kalamdb.session.auth import Authenticator

log: Any = structlog.get_logger("node")

LOOK_S = 0.1


class Founding:
    """See the module."""

    def __init__(
        self,
        groups: FoundingGroups,
        auth: Authenticator,
        definitions: AuditedDefinitions,
        settings: Settings,
        ids: Ids,
    ) -> None:
        self._groups = groups
        self._auth = auth
        self._definitions = definitions
        self._settings = settings
        self._ids = ids
        self._done_in: int | None = None  # the term it was last done in

    async def found(self) -> None:
        """Raises Unavailable when a group has no leader."""
        await self._place()
        made_up = await self._auth.ensure_root(self._ids)
        if made_up is not None:
            print(f"root password: {made_up}", flush=True)  # noqa: T201 — said once, here only
        await self._definitions.finish_pending()

    async def _place(self) -> None:
        """Slots, groups, nodes and members of a new cluster."""
        settings, groups = self._settings, self._groups
        cluster, me = settings.cluster, NodeId(settings.server.node_id)
        addresses = peer_addresses(settings)
        wished = initial({me, *map(NodeId, addresses)}, cluster.groups, cluster.replication)
        new = not founded(groups.catalog)
        await bootstrap(groups, cluster.groups, cluster.id, wished[META_GROUP])
        if cluster.secret is None:
            return
        if groups.catalog.enrolled:
            return
        # Members before nodes: with the last node that they name the cluster has all it begins
        # with, and whoever leads after a crash in between knows that it has not.
        if new and not groups.catalog.nodes:
            await groups.write_meta(PutReplication(cluster.replication))
            await groups.write_meta(PutMembers(wished))
        await enrol(groups.write_meta, groups.catalog, addresses or {me: settings.server.rpc})

    async def keep_founded(self, replicas: Replicas) -> None:
        """Until cancelled: once for each time that this node leads the meta group."""

        async def look() -> None:
            if not replicas.replicas[META_GROUP].leads:
                self._done_in = None
                return
            term = replicas.logs[META_GROUP].status().term
            if term == self._done_in:
                return
            try:
                await self.found()
            except (Unavailable, Indeterminate) as error:
                log.info("founding_goes_on", reason=str(error))
                return
            self._done_in = term

        await every(LOOK_S, look, name="founding")
