"""Live queries that are evaluated anew, over groups that several nodes lead.

Each runs at the leader of one group, which watches the groups of the others there; its client is
connected to any node. What the client has must be what a fresh SELECT gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest

from cluster.live import LiveHubs, live_host
from cluster.live_host import LiveHost
from cluster.live_relay import LiveRelay
from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.services import LiveServices
from kalamdb.errors import KalamError
from kalamdb.feed.evaluations import EvaluationLimits, Evaluations
from kalamdb.lib.clock import SystemClock
from kalamdb.model.ids import GroupId, Partition, TenantId, slot_of
from kalamdb.model.principal import Principal, Role
from kalamdb.session.live_rights import LiveRights
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from tests.property.live_world import LiveWorld, Socket
from tests.property.result_client import ResultClient, frozen
from tests.property.worlds import unheard
from tests.small_cluster import ClusterNode, SmallCluster, small_cluster
from tests.waiting import wait_until

QUICK = EvaluationLimits(per_s=1e6, time_share=1000)
BY_ROOM = "SELECT room, count(*) AS n FROM app.notes GROUP BY room"
WITH_TITLES = (
    "SELECT n.id, r.title FROM app.notes AS n JOIN app.rooms AS r ON r.id = n.room ORDER BY n.id"
)
EVERYBODY = "SELECT _user_id, count(*) AS n FROM all_users.app.notes GROUP BY _user_id"
ALL_NOTES = "SELECT _user_id, id, body FROM all_users.app.notes WHERE room = 1"


class FixedLeaders:
    """Group n is led by node n."""

    def __init__(self, cluster: SmallCluster, node: int | None) -> None:
        self.node = node
        self._cluster = cluster

    def leader_of(self, group: GroupId) -> int | None:
        return int(group)

    def group_of(self, partition: Partition) -> GroupId:
        placement = self._cluster[1].groups.catalog.placement
        assert placement is not None
        return placement.group_of(slot_of(partition))

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        """They stay who they are."""


@dataclass
class Place:
    node: ClusterNode
    relay: LiveRelay
    evaluations: Evaluations
    host: LiveHost
    services: LiveServices

    def socket(self, user: str, role: Role) -> Socket:
        # A socket takes nothing of its world but this.
        world = cast("LiveWorld", SimpleNamespace(services=self.services))
        return Socket(world, Principal.of(user, role), packed=False)


class Places:
    def __init__(self, cluster: SmallCluster, places: dict[int, Place]) -> None:
        self.cluster = cluster
        self.places = places
        self.sockets: list[Socket] = []

    def socket(self, at: int, user: str, role: Role = Role.USER) -> Socket:
        made = self.places[at].socket(user, role)
        self.sockets.append(made)
        return made

    async def agrees(
        self, client: ResultClient, at: int, user: str, sql: str, role: Role = Role.USER
    ) -> None:
        """Until the client has what a SELECT gives now."""
        (result,) = await self.cluster[at].ok(user, sql, role=role)
        names = [column["name"] for column in result["schema"]]
        rows = [dict(zip(names, row, strict=True)) for row in result.get("rows") or ()]
        wanted = sorted(map(frozen, rows))

        def agree() -> bool:
            for socket in self.sockets:
                socket.read()
            return client.ready and sorted(map(frozen, client.rows)) == wanted

        await wait_until(agree, what=f"{sql} is as {wanted}")


@asynccontextmanager
async def opened() -> AsyncIterator[Places]:
    async with small_cluster() as cluster, AsyncExitStack() as stack:
        await cluster[1].setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT, room INT)",
            "CREATE SHARED TABLE app.rooms (id INT PRIMARY KEY, title TEXT)"
            " WITH (ACCESS_LEVEL = 'public')",
        )
        packer = stack.enter_context(ThreadPoolExecutor(1))
        places: dict[int, Place] = {}
        for number in (1, 2, 3):
            places[number] = await _place(cluster, number, packer, stack)
        world = Places(cluster, places)
        try:
            yield world
        finally:
            for socket in world.sockets:
                socket.close()


async def _place(
    cluster: SmallCluster, number: int, packer: ThreadPoolExecutor, stack: AsyncExitStack
) -> Place:
    node, clock = cluster[number], SystemClock()
    leaders = FixedLeaders(cluster, number)
    relay = await stack.enter_async_context(LiveRelay(cluster.net[number], leaders, clock))
    hubs = LiveHubs(node.hubs, node.groups, relay)
    evaluations = await stack.enter_async_context(
        Evaluations(node.groups, node.pool, hubs, clock, QUICK)
    )
    limits = WsLimits()
    host = live_host(hubs, evaluations, LiveRights(unheard), limits)
    host.stands = lambda principal: True
    host.serve(cluster.net[number])
    binder = LiveBinder(node.groups, parse, bind_live, LiveRights(unheard).check, clock, node.ids)
    services = LiveServices(
        node.groups,
        hubs.here,
        binder,
        clock,
        limits,
        packer,
        Counter[TenantId](),
        evaluations,
        relay,
    )
    return Place(node, relay, evaluations, host, services)


@pytest.mark.parametrize(("at", "sql"), [(1, BY_ROOM), (2, WITH_TITLES), (3, WITH_TITLES)])
async def test_a_result_is_kept_current_from_anywhere(at: int, sql: str) -> None:
    async with opened() as world:
        cluster = world.cluster
        user = cluster.tenant_of(2)
        rooms = _rooms_leader(cluster)
        await cluster[2].ok(user, "INSERT INTO app.notes VALUES (1, 'a', 1), (2, 'b', 2)")
        await rooms.ok("root", "INSERT INTO app.rooms VALUES (1, 'one')", role=Role.SYSTEM)
        client = await world.socket(at, user).subscribe("v", sql)
        await world.agrees(client, 2, user, sql)
        await cluster[2].ok(user, "INSERT INTO app.notes VALUES (3, 'c', 1)")
        await world.agrees(client, 2, user, sql)
        # Another group than the one at whose leader it runs, perhaps.
        await rooms.ok("root", "INSERT INTO app.rooms VALUES (2, 'two')", role=Role.SYSTEM)
        await world.agrees(client, 2, user, sql)
        await cluster[2].ok(user, "DELETE FROM app.notes WHERE id = 1")
        await world.agrees(client, 2, user, sql)
        assert client.resets == 0


@pytest.mark.parametrize("sql", [EVERYBODY, ALL_NOTES])
async def test_everybodys_rows_come_from_all_groups(sql: str) -> None:
    async with opened() as world:
        cluster = world.cluster
        client = await world.socket(1, "root", Role.SYSTEM).subscribe("v", sql)
        await world.agrees(client, 1, "root", sql, Role.SYSTEM)
        for group in (1, 2, 3):
            user = cluster.tenant_of(group)
            await cluster[group].ok(user, "INSERT INTO app.notes VALUES (1, 'a', 1), (2, 'b', 2)")
            await world.agrees(client, 1, "root", sql, Role.SYSTEM)


async def test_clients_of_one_node_share_a_result() -> None:
    async with opened() as world:
        user = world.cluster.tenant_of(3)
        sockets = [world.socket(1, user) for _ in range(5)]
        clients = [await socket.subscribe("v", BY_ROOM) for socket in sockets]
        for client in clients:
            await world.agrees(client, 3, user, BY_ROOM)
        host = world.places[3].host
        await wait_until(lambda: host.statistics().subscriptions == 1, what="one feed is left")
        await world.cluster[3].ok(user, "INSERT INTO app.notes VALUES (1, 'a', 1)")
        for client in clients:
            await world.agrees(client, 3, user, BY_ROOM)
        assert host.statistics().events == 1


async def test_a_lost_link_is_not_seen() -> None:
    async with opened() as world:
        cluster, user = world.cluster, world.cluster.tenant_of(2)
        client = await world.socket(1, user).subscribe("v", WITH_TITLES)
        everybody = await world.socket(3, "root", Role.SYSTEM).subscribe("e", EVERYBODY)
        await world.agrees(client, 2, user, WITH_TITLES)
        await world.agrees(everybody, 3, "root", EVERYBODY, Role.SYSTEM)
        for first, second in ((1, 2), (2, 3), (1, 3)):
            cluster.net.cut(first, second)
        await cluster[2].ok(user, "INSERT INTO app.notes VALUES (5, 'a', 1)")
        for first, second in ((1, 2), (2, 3), (1, 3)):
            cluster.net.mend(first, second)
        rooms = _rooms_leader(cluster)
        await rooms.ok("root", "INSERT INTO app.rooms VALUES (1, 'one')", role=Role.SYSTEM)
        await world.agrees(client, 2, user, WITH_TITLES)
        await world.agrees(everybody, 3, "root", EVERYBODY, Role.SYSTEM)
        assert client.resets == everybody.resets == 0
        assert client.error is None
        assert everybody.error is None


def _rooms_leader(cluster: SmallCluster) -> ClusterNode:
    table = cluster[1].groups.catalog.table("app", "rooms")
    return cluster[cluster.group_of(table.partition_for(Partition(b"t")))]
