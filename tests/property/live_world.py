"""A small node with live queries of every kind, over the code of the WebSocket edge."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import orjson

from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.protocol import NextBatch, Options, Wish
from kalamdb.edge.ws.services import LiveServices
from kalamdb.edge.ws.streams import Streams
from kalamdb.feed.evaluations import EvaluationLimits, Evaluations
from kalamdb.feed.hub import Hub
from kalamdb.model.ids import META_GROUP, Partition, TenantId
from kalamdb.model.principal import Principal, Role
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session.live_rights import LiveRights
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from tests.property.result_client import ResultClient
from tests.property.worlds import Wire, unheard
from tests.small_node import SmallNode
from tests.waiting import wait_until

QUICK = EvaluationLimits(per_s=1e6)


class NodeHubs:
    """Implements `feed.evaluations.Hubs`."""

    def __init__(self, node: SmallNode) -> None:
        self._node = node

    def of(self, partition: Partition) -> Hub:
        return self._node.hubs[self._node.groups.of(partition).group]

    def everywhere(self) -> Sequence[Hub]:
        return [hub for group, hub in self._node.hubs.items() if group != META_GROUP]


class LiveWorld:
    """One node; sockets are opened on it."""

    def __init__(
        self, node: SmallNode, evaluations: Evaluations, packer: ThreadPoolExecutor
    ) -> None:
        self.node = node
        self.evaluations = evaluations
        hubs = NodeHubs(node)
        check = LiveRights(unheard).check
        binder = LiveBinder(node.groups, parse, bind_live, check, node.clock, node.ids)
        self.services = LiveServices(
            node.groups,
            hubs.of,
            binder,
            node.clock,
            WsLimits(position_interval_s=0),
            packer,
            Counter[TenantId](),
            evaluations,
        )
        self.sockets: list[Socket] = []

    def socket(self, user: str, role: Role = Role.USER, *, packed: bool = False) -> Socket:
        made = Socket(self, Principal.of(user, role), packed=packed)
        self.sockets.append(made)
        return made

    async def settle(self) -> None:
        """Until everybody has been given everything."""
        await wait_until(self._is_settled, what="live queries are given everything")

    def _is_settled(self) -> bool:
        for socket in self.sockets:
            socket.read()
        return self.evaluations.is_quiet and not any(one.is_busy for one in self.sockets)

    async def rows(
        self, user: str, sql: str, role: Role = Role.USER, params: list[Any] | None = None
    ) -> list[dict[str, Any]]:
        """What a SELECT of now gives, as objects."""
        (result,) = await self.node.ok(user, sql, params, role=role)
        names = [column["name"] for column in result["schema"]]
        return [dict(zip(names, row, strict=True)) for row in result.get("rows") or ()]


class Socket:
    """The live queries of one connection, and a client of each."""

    def __init__(self, world: LiveWorld, principal: Principal, *, packed: bool) -> None:
        self.principal = principal
        self.wire = Wire()
        self.clients: dict[str, ResultClient] = {}
        self.frames: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox = Outbox(self.wire, Flusher(asyncio.get_running_loop()), 1 << 24)
        self._outbox.packed = packed
        self.streams = Streams(world.services, self._outbox, self._drained, self._spawn)

    async def _drained(self) -> bool:
        self._outbox.flush()
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks) or bool(self.wire.sent)

    async def subscribe(
        self,
        name: str,
        sql: str,
        options: Options | None = None,
        params: list[Any] | None = None,
    ) -> ResultClient:
        client = self.clients.setdefault(name, ResultClient())
        await self.streams.subscribe(Wish(name, sql, options or Options(), params), self.principal)
        return client

    async def resume(self, name: str, sql: str, *, on_expired: str | None = None) -> ResultClient:
        options = Options(from_=self.clients[name].cursor, on_expired=on_expired)
        return await self.subscribe(name, sql, options)

    def read(self) -> list[dict[str, Any]]:
        """Take in what was sent; the frames."""
        self._outbox.flush()
        sent, self.wire.sent = bytes(self.wire.sent), bytearray()
        found = [
            orjson.loads(gzip.decompress(payload) if payload[:2] == b"\x1f\x8b" else payload)
            for payload in frames_of(sent)
        ]
        for frame in found:
            client = self.clients.get(frame["subscription_id"])
            if client is not None and client.take(frame):
                self.streams.next_batch(NextBatch(frame["subscription_id"]))
        self.frames += found
        return found

    def close(self) -> None:
        self.streams.close()
        for task in self._tasks:
            task.cancel()


def frames_of(sent: bytes) -> list[bytes]:
    """The payloads of unmasked WebSocket frames."""
    found: list[bytes] = []
    at = 0
    while at < len(sent):
        size, at = sent[at + 1], at + 2
        if size == 126:
            size, at = int.from_bytes(sent[at : at + 2], "big"), at + 2
        elif size == 127:
            size, at = int.from_bytes(sent[at : at + 8], "big"), at + 8
        found.append(sent[at : at + size])
        at += size
    return found


@asynccontextmanager
async def live_world(
    pool: EnginePool, limits: EvaluationLimits = QUICK, *ddl: str
) -> AsyncIterator[LiveWorld]:
    node = SmallNode(pool)
    await node.boot()
    await node.setup(*ddl)
    with ThreadPoolExecutor(1) as packer:
        async with Evaluations(
            node.groups, pool, NodeHubs(node), node.clock, limits
        ) as evaluations:
            world = LiveWorld(node, evaluations, packer)
            try:
                yield world
            finally:
                for socket in world.sockets:
                    socket.close()
                assert not evaluations.statistics().queries
                assert not evaluations.kept_bytes
                for hub in node.hubs.values():
                    assert not hub.statistics().subscriptions
                    assert not hub._watched
