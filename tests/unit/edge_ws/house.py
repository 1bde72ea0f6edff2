"""A WebSocket edge on a real socket over a group in memory, and clients for it."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.connection import WsEdge
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.errors import (
    InvalidCredentials,
    PermissionDenied,
    SyntaxInvalid,
    UnknownTable,
    Unsupported,
)
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import Partition
from kalamdb.model.principal import Principal, Role
from kalamdb.sql.bound import Env, LivePlan, ReevaluatedPlan
from kalamdb.sql.statement import CreateNamespace, Select, Statement
from tests.unit.feed.group import NOTES, OTHERS, MemoryGroup, in_room, plan

ALL = "SELECT * FROM app.notes"
IN_R = "SELECT id, body FROM app.notes WHERE room = 'r'"
ELSEWHERE = "SELECT * FROM app.others"
PLANS: Mapping[str, LivePlan] = {
    ALL: plan(),
    IN_R: plan(where=in_room("r"), shape="r", columns=["id", "body"]),
    ELSEWHERE: plan(OTHERS),
}


SMALL_BYTES = 8192


class ManualClock(SystemClock):
    """The machine's clock, moved on by `ahead_s`."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


def parse(text: str) -> tuple[Statement, ...]:
    if text == "syntax":
        raise SyntaxInvalid("near syntax", 1, 1)
    if text == "two":
        return (Select(ALL, ()), Select(ALL, ()))
    if text == "create":
        return (CreateNamespace("x", if_not_exists=False),)
    return (Select(text, ()),)


def bind_live(select: Select, catalog: CatalogView, namespace: str, env: Env) -> LivePlan:
    if select.tree == "join":
        raise Unsupported("JOIN in a live query")
    found = PLANS.get(select.tree)
    if found is None:
        raise UnknownTable(select.tree)
    return found


def check(principal: Principal, select: Select, plan: LivePlan | ReevaluatedPlan) -> None:
    assert isinstance(plan, LivePlan)
    if plan.table.id == OTHERS.id and principal.role is Role.USER:
        raise PermissionDenied("reading app.others", "role service")


class BarredGroup(MemoryGroup):
    """A group whose barrier can be made to wait."""

    wait: asyncio.Future[None] | None = None
    barriers = 0

    def barrier(self, partition: Partition) -> Awaitable[object] | None:
        self.barriers += 1
        return self.wait


@dataclass
class House:
    group: BarredGroup
    edge: WsEdge
    clock: ManualClock
    http: aiohttp.ClientSession
    url: str
    tokens: dict[str, Principal] = field(default_factory=dict)

    async def connect(self, query: str = "", **options: Any) -> Client:
        return Client(await self.http.ws_connect(f"{self.url}{query}", **options))

    async def alice(self, *, packed: bool = False) -> Client:
        client = await self.connect()
        compression = "gzip" if packed else "none"
        await client.send(
            type="authenticate",
            method="jwt",
            token="alice",
            protocol={"serialization": "json", "compression": compression},
        )
        assert (await client.frame())["type"] == "auth_success"
        return client


class Client:
    """A WebSocket client that speaks JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.kinds: list[aiohttp.WSMsgType] = []

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.socket.close()

    async def send(self, **message: object) -> None:
        await self.socket.send_str(orjson.dumps(message).decode())

    async def subscribe(self, name: str, sql: str, **options: object) -> None:
        """`options` given as keywords; without any there is no `options` object."""
        wish: dict[str, object] = {"id": name, "sql": sql}
        if options:
            wish["options"] = {key.rstrip("_"): value for key, value in options.items()}
        await self.send(type="subscribe", subscription=wish)

    async def frame(self) -> dict[str, Any]:
        """The next message; one that says `{"type":"closed","code":…}` at the end."""
        message = await asyncio.wait_for(self.socket.receive(), 10)
        self.kinds.append(message.type)
        if message.type is aiohttp.WSMsgType.TEXT:
            return orjson.loads(message.data)
        if message.type is aiohttp.WSMsgType.BINARY:
            return orjson.loads(gzip.decompress(message.data))
        return {"type": "closed", "code": self.socket.close_code, "reason": message.extra}

    async def frames(self, count: int) -> list[dict[str, Any]]:
        return [await self.frame() for _ in range(count)]

    async def live(self, name: str, sql: str) -> dict[str, Any]:
        """Subscribe from now on; the acknowledgement."""
        await self.subscribe(name, sql)
        ack = await self.frame()
        assert ack["type"] == "subscription_ack", ack
        return ack


PRINCIPALS = {
    "alice": Principal.of("alice", Role.USER),
    "bob": Principal.of("bob", Role.USER),
    "root": Principal.of("root", Role.SYSTEM),
}


def small_socket(address: Any) -> socket.socket:
    made = socket.socket(address[0], address[1], address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    return made


@asynccontextmanager
async def opened(
    limits: WsLimits | None = None, *, origins: Sequence[str] = (), small_buffers: bool = False
) -> AsyncIterator[House]:
    """An edge that listens; closed, with everything released, when the block ends.

    With `small_buffers` the kernel keeps little between the two ends.
    """
    group, clock, tokens = BarredGroup(), ManualClock(), dict(PRINCIPALS)

    def authenticate(token: str) -> Principal:
        found = tokens.get(token)
        if found is None:
            raise InvalidCredentials("this token is not known")
        return found

    edge = WsEdge(
        group,
        lambda partition: group.hub,
        authenticate,
        LiveBinder(group, parse, bind_live, check, clock, SystemIds()),
        clock=clock,
        limits=limits or WsLimits(),
        allowed_origins=origins,
    )
    app = web.Application()
    app.router.add_get("/v1/ws", edge.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    connector = aiohttp.TCPConnector(limit=0)
    if small_buffers:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        connector = aiohttp.TCPConnector(socket_factory=small_socket)
    await web.SockSite(runner, listener).start()
    port = listener.getsockname()[1]
    try:
        async with aiohttp.ClientSession(connector=connector) as http:
            url = f"http://127.0.0.1:{port}/v1/ws"
            yield House(group, edge, clock, http, url, tokens)
    finally:
        await edge.close()
        await runner.cleanup()
    assert edge.statistics().connections == 0
    assert edge.statistics().subscriptions == 0
    assert group.hub.statistics().subscriptions == 0
    assert group.snapshots_open == 0


QUICK = replace(WsLimits(), heartbeat_interval_s=0.02, auth_timeout_s=0.05)
NOTES_ID = NOTES.id
