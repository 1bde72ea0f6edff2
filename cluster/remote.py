"""The `Groups` of a node among others: what its replicas lead is done here, the rest by one call to
the leader.

Rows are not written through here: their statement travels (`routed.py`). What travels is plain
work: definitions and fences, users, the audit log, slots.

Keeps: an unknown outcome is asked again for work that may be done twice, else said. After work of
the meta group the catalog of this node shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from cluster.leaders import Leaders
from cluster.messages import (
    META_VERSION,
    RECALL,
    WRITE,
    decode_recall,
    decode_write,
    decode_written,
    encode_recall,
    encode_write,
    encode_written,
)
from cluster.route import LocalGroups, recalled
from cluster.rpc.port import Peer, Rpc, Service
from kalamdb.errors import NotLeader, PermissionDenied, Unavailable
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.model.work import (
    ActivateTable,
    DropTable,
    OpenSlots,
    PurgeTable,
    PutAudit,
    PutFence,
    PutUser,
    RequestTag,
    TrimAudit,
    Work,
)
from kalamdb.replica.replica import Replica

CALL_S = 30.0
CATALOG_S = 5.0
LEASE_S = 5.0
_TWICE = (PutFence, OpenSlots, PurgeTable, TrimAudit, ActivateTable, DropTable)
"""Work that changes nothing when it is done again."""


class CatalogWatch:
    """Waits for versions of this node's catalog."""

    def __init__(self, version: Callable[[], int]) -> None:
        self._version = version
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def changed(self) -> None:
        version = self._version()
        for wanted, waiter in self._waiting:
            if wanted <= version and not waiter.done():
                waiter.set_result(None)
        self._waiting = [one for one in self._waiting if not one[1].done()]

    async def reaches(self, version: int) -> None:
        """Raises Unavailable when it takes longer than `CATALOG_S`."""
        if self._version() >= version:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((version, waiter))
        try:
            async with asyncio.timeout(CATALOG_S):
                await waiter
        except TimeoutError:
            raise Unavailable("the catalog of this node is behind") from None


class ClusterGroups(LocalGroups):
    """See the module. Adds what is remote to the replicas of this node."""

    def __init__(
        self,
        replicas: Mapping[GroupId, Replica],
        leaders: Leaders,
        rpc: Rpc,
        catalog_age_s: Callable[[], float],
    ) -> None:
        """`catalog_age_s`: since this node heard of a leader of the meta group."""
        super().__init__(replicas)
        assert leaders.node is not None
        self.node = leaders.node
        self.leaders = leaders
        self._rpc = rpc
        self.catalog_age_s = catalog_age_s
        self.catalog_watch = CatalogWatch(lambda: self.catalog.version)

    # ---- writes ---------------------------------------------------------------------------------

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        # Not straight to a member that leads: it may hand over before the work is decided, and what
        # was refused then goes on at the next leader. A definition has several such steps.
        return self.write_group(META_GROUP, work, tag)

    async def write_group(
        self, group: GroupId, work: Work, tag: RequestTag | None = None
    ) -> Outcome:
        """Decided at the group's leader, wherever that is."""

        async def ask(node: int) -> Outcome:
            if node == self.node:
                return await self._here(group).write(work, tag)
            return await write_at(self._rpc, node, group, work, tag, watch=self.catalog_watch)

        twice = isinstance(work, _TWICE) or tag is not None
        return await self.leaders.ask(lambda: group, ask, twice=twice)

    def _here(self, group: GroupId) -> Replica:
        """Raises NotLeader for a group that has left this node since it was told to lead it."""
        replica = self._replicas.get(group)
        if replica is None:
            raise NotLeader(group, None)
        return replica

    # ---- reads ----------------------------------------------------------------------------------

    async def refresh_catalog(self) -> None:
        """The catalog of this node is as new as the meta group's, as of now. Raises Unavailable."""

        async def ask(node: int) -> None:
            if node != self.node:
                await catch_up(self._rpc, node, self.catalog_watch)
                return
            barrier = self._meta.barrier()
            if barrier is not None:
                await barrier

        await self.leaders.ask(lambda: META_GROUP, ask, twice=True, within_s=CATALOG_S)

    async def catalog_reaches(self, version: int) -> None:
        await self.catalog_watch.reaches(version)

    def check_catalog(self) -> None:
        """Raises Unavailable when the meta group has not been heard of for `LEASE_S`."""
        check_lease(self.catalog_age_s())

    async def _recall_at(self, group: GroupId, tag: RequestTag) -> Outcome | None:
        async def ask(node: int) -> Outcome | None:
            if node == self.node:
                return await recalled(self._here(group), tag)
            reply = await self._rpc.call(node, RECALL, encode_recall(group, tag), CALL_S)
            return decode_written(reply).outcome if reply else None

        return await self.leaders.ask(lambda: group, ask, twice=True)

    # ---- what other nodes ask -------------------------------------------------------------------

    def serve(self, service: Service) -> None:
        service.on_call(WRITE, self._on_write)
        service.on_call(META_VERSION, self._on_meta_version)
        service.on_call(RECALL, self._on_recall)

    def led(self, group: GroupId) -> Replica:
        """For who asks the leader. Raises NotLeader, which names another if one is known."""
        replica = self._replicas.get(group)
        if replica is None or not replica.leads:
            leader = self.leaders.of(group)
            raise NotLeader(group, None if leader == self.node else leader)
        return replica

    async def _on_write(self, peer: Peer, payload: bytes) -> bytes:
        group, work, tag = decode_write(payload)
        check_from_node(peer, work)
        outcome = await self.led(group).write(work, tag)
        return encode_written(outcome, self.catalog.version)

    async def _on_meta_version(self, peer: Peer, payload: bytes) -> bytes:
        barrier = self.led(META_GROUP).barrier()
        if barrier is not None:
            await barrier
        return self.catalog.version.to_bytes(8, "big")

    async def _on_recall(self, peer: Peer, payload: bytes) -> bytes:
        group, tag = decode_recall(payload)
        outcome = await recalled(self.led(group), tag)
        return b"" if outcome is None else encode_written(outcome, self.catalog.version)


def check_from_node(peer: Peer, work: Work) -> None:
    """A router asks for what its own edge does, users and the audit log; the rest nodes ask for."""
    if peer.node is None and not isinstance(work, (PutUser, PutAudit)):
        raise PermissionDenied("this work from a router", "a node")


async def write_at(
    rpc: Rpc,
    node: int,
    group: GroupId,
    work: Work,
    tag: RequestTag | None,
    *,
    watch: CatalogWatch,
) -> Outcome:
    """At `node`, who should lead the group. Work of the meta group shows in the catalog then."""
    written = decode_written(await rpc.call(node, WRITE, encode_write(group, work, tag), CALL_S))
    if group == META_GROUP:
        with suppress(Unavailable):  # it is done
            await watch.reaches(written.catalog_version)
    return written.outcome


async def catch_up(rpc: Rpc, node: int, watch: CatalogWatch) -> None:
    """Wait for the catalog that `node`, who should lead the meta group, has now."""
    reply = await rpc.call(node, META_VERSION, b"", CATALOG_S)
    await watch.reaches(int.from_bytes(reply, "big"))


def check_lease(age_s: float) -> None:
    """Raises Unavailable for a catalog of which nothing was heard for `LEASE_S`."""
    if age_s > LEASE_S:
        raise Unavailable("the meta group was not heard of for too long")
