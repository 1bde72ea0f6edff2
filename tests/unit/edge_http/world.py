"""The HTTP edge in this process: real application and sockets, a session that does as told."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from kalamdb.config import Settings
from kalamdb.edge.http.admin import NodeStatus
from kalamdb.edge.http.app import HttpParts, build_app, serve
from kalamdb.lib.observe import Metrics
from kalamdb.model.principal import Principal, Role
from kalamdb.ports import LogStatus
from kalamdb.session.auth import Authenticator
from kalamdb.session.reply import Reply
from kalamdb.session.run import SqlRequest
from tests.unit.session.fakes import SECRET, FakeClock, FakeGroups, quick_passwords

PASSWORD = "correct horse battery"
ANSWER = b'{"status":"success","results":[],"took":0.1}'


@dataclass
class FakeSession:
    """Answers ANSWER, raises `failure` or does `act`; remembers what it was asked."""

    failure: BaseException | None = None
    answer: bytes = ANSWER
    act: Callable[[SqlRequest], Awaitable[Reply]] | None = None
    asked: list[tuple[Principal, SqlRequest]] = field(default_factory=list[Any])

    async def execute(self, principal: Principal, request: SqlRequest) -> Reply:
        self.asked.append((principal, request))
        if self.failure is not None:
            raise self.failure
        if self.act is not None:
            return await self.act(request)
        return self.answer


@dataclass
class FakeNode:
    state: NodeStatus = field(default_factory=lambda: NodeStatus(True))

    def status(self) -> NodeStatus:
        return self.state

    def digests(self) -> Mapping[int, str]:
        return {1: "abc"}

    def logs(self) -> Sequence[LogStatus]:
        return [LogStatus(1, 1, "leader", 3, 1, 9, 9, 1, 9, (1,))]


class EchoSockets:
    async def handle(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket


class NodeServer(TestServer):
    """The application served as a node serves it."""

    fast_front = True

    def __init__(self, app: web.Application, settings: Settings) -> None:
        super().__init__(app)
        self._settings = replace(
            settings, http=replace(settings.http, fast_front=NodeServer.fast_front)
        )

    async def start_server(self, loop: object = None, **kwargs: Any) -> None:
        if self.runner is None:
            runner = await serve(self.app, "127.0.0.1", 0, self._settings)
            self.runner, self.scheme, self.port = runner, "http", runner.addresses[0][1]
            self._root = URL(f"http://{self.host}:{self.port}")


@dataclass
class World:
    clock: FakeClock
    groups: FakeGroups
    auth: Authenticator
    session: FakeSession
    node: FakeNode
    http: TestClient[web.Request, web.Application]
    tokens: dict[str, str] = field(default_factory=dict[str, str])

    def headers(self, user: str = "alice") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[user]}"}

    async def sql(
        self, body: Any, headers: Mapping[str, str] | None = None, user: str = "alice"
    ) -> aiohttp.ClientResponse:
        """POST; bytes are sent as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers(user), **(headers or {})}
        return await self.http.post("/v1/api/sql", data=raw, headers=sent)

    async def refused(self, body: Any, **how: Any) -> tuple[int, dict[str, Any]]:
        """(status, error object) of a request that is refused, its envelope checked."""
        response = await self.sql(body, **how)
        answer = await response.json()
        assert answer["status"] == "error"
        assert answer["results"] == []
        assert isinstance(answer["took"], float)
        return response.status, answer["error"]


@asynccontextmanager
async def opened(
    settings: Settings | None = None, users: Mapping[str, Role] | None = None
) -> AsyncGenerator[World, None]:
    """A world with alice (user), dora (dba) and root without a password."""
    clock, groups, passwords = FakeClock(), FakeGroups(), quick_passwords()
    settings = settings or Settings()
    hashed = await passwords.hash("x", PASSWORD)
    for name, role in (users or {"alice": Role.USER, "dora": Role.DBA}).items():
        groups.put(name, role, hashed)
    groups.put("root", Role.SYSTEM)
    auth = Authenticator(cast(Any, groups), passwords, clock, settings.auth, secret=SECRET)
    session, node = FakeSession(), FakeNode()
    parts = HttpParts(session, auth, EchoSockets(), node, Metrics())
    app = build_app(parts, settings, clock)
    async with TestClient(NodeServer(app, settings)) as http:
        world = World(clock, groups, auth, session, node, http)
        for name in groups.catalog.users:
            if name != "root":
                world.tokens[name] = (await auth.login(name, PASSWORD)).access_token
        yield world
    passwords.close()


def changed(section: str, **values: Any) -> Settings:
    """The default settings with some of one section changed."""
    default = Settings()
    return replace(default, **{section: replace(getattr(default, section), **values)})
