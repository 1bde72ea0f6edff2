"""What the contract tests share: one node for a whole module, raw HTTP, and a live connection.

Keeps: nothing here knows the code under test; what is sent and read is bytes of the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.server import Client, Server, running

# A password hash of the least cost: these tests sign in often and measure something else.
CHEAP_HASHES = {"KALAMDB_AUTH_HASH_MEMORY_KIB": "8", "KALAMDB_AUTH_HASH_PASSES": "1"}
ANSWER_S = 10.0
# Both ways into SQL over HTTP, for suites that have to pass with each.
FRONTS = [
    pytest.param({"KALAMDB_HTTP_FAST_FRONT": "true"}, id="front"),
    pytest.param({"KALAMDB_HTTP_FAST_FRONT": "false"}, id="aiohttp"),
]


@dataclass(slots=True)
class Node:
    """A running server, root signed in, and a way to make more users."""

    server: Server
    http: aiohttp.ClientSession
    root: Client
    users: dict[str, Client] = field(default_factory=dict[str, Client])

    async def user(self, name: str, role: str = "user") -> Client:
        """The named user, made at first use."""
        if name not in self.users:
            self.users[name] = await self.server.new_user(self.http, self.root, name, role)
        return self.users[name]


@contextlib.asynccontextmanager
async def one_node(data: Path, env: dict[str, str] | None = None) -> AsyncIterator[Node]:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        running(data, {**CHEAP_HASHES, **(env or {})}) as server,
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        yield Node(server, http, root)


# ---- HTTP as bytes ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One response as it came: status, lower-case headers, body bytes."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class RawConnection:
    """A TCP connection that says what it is told, valid or not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, payload: bytes) -> None:
        self.writer.write(payload)
        await self.writer.drain()

    async def answer(self, method: str = "POST") -> RawAnswer:
        """The next response. Raises: asyncio.IncompleteReadError when the server hung up."""
        async with asyncio.timeout(ANSWER_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            length = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
            return RawAnswer(int(first.split()[1]), headers, await self.reader.readexactly(length))

    async def ended(self) -> bytes:
        """What is left until the server hangs up."""
        async with asyncio.timeout(ANSWER_S):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def raw_connection(server: Server) -> AsyncIterator[RawConnection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request_bytes(
    body: bytes,
    token: str | None = None,
    *,
    method: str = "POST",
    path: str = "/v1/api/sql",
    headers: dict[str, str] | None = None,
) -> bytes:
    """A whole request. `headers` replace or, with an empty value, remove the usual ones."""
    lines = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Authorization": f"Bearer {token}" if token else "",
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


# ---- the live protocol --------------------------------------------------------------------------


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


class Live:
    """One WebSocket connection that keeps what it was sent, by subscription."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.packed = 0
        self.plain = 0

    async def say(self, type_: str, **fields: Any) -> None:
        await self.ws.send_json({"type": type_, **fields})

    async def subscribe(self, id_: str, sql: str, options: dict[str, Any] | None = None) -> None:
        wish: dict[str, Any] = {"id": id_, "sql": sql}
        if options is not None:
            wish["options"] = options
        await self.say("subscribe", subscription=wish)

    async def next(self, type_: str | None = None, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next frame but a pong; it has to be of `type_`, else AssertionError."""
        frame = self._frame(await self.ws.receive(timeout_s))
        while frame["type"] == "pong" and type_ != "pong":
            frame = self._frame(await self.ws.receive(timeout_s))
        assert type_ is None or frame["type"] == type_, frame
        return frame

    def _frame(self, message: aiohttp.WSMessage) -> dict[str, Any]:
        match message.type:
            case aiohttp.WSMsgType.TEXT:
                self.plain += 1
                return json.loads(message.data)
            case aiohttp.WSMsgType.BINARY:
                self.packed += 1
                return json.loads(gzip.decompress(message.data))
            case _:
                raise AssertionError(f"no frame but {message!r}, close code {self.ws.close_code}")

    async def snapshot(self, id_: str, sql: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Subscribe and pull every batch; the rows of all."""
        await self.subscribe(id_, sql, options)
        await self.next("subscription_ack")
        rows: list[dict[str, Any]] = []
        while True:
            batch = await self.next("initial_data_batch")
            rows += batch["rows"]
            control = batch["batch_control"]
            if not control["has_more"]:
                return rows
            await self.say("next_batch", subscription_id=id_, last_seq_id=control["last_seq_id"])

    async def closed(self, timeout_s: float = ANSWER_S) -> tuple[int | None, list[dict[str, Any]]]:
        """Read until the server closes: its close code and the frames before it."""
        frames: list[dict[str, Any]] = []
        async with asyncio.timeout(timeout_s):
            while True:
                message = await self.ws.receive()
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    frame = self._frame(message)
                    if frame["type"] != "pong":
                        frames.append(frame)
                else:
                    said = message.type is aiohttp.WSMsgType.CLOSE
                    return message.data if said else self.ws.close_code, frames

    async def quiet(self) -> None:
        """Nothing is on its way: a refusal that is asked for now is the next frame to come."""
        await self.subscribe("", "SELECT * FROM app.none")
        frame = await self.next("error")
        assert frame["code"] == "INVALID_SUBSCRIPTION_ID", frame


@contextlib.asynccontextmanager
async def live(
    client: Client, *, query: str = "", compression: str = "gzip"
) -> AsyncIterator[Live]:
    """A connection authenticated in-band as `client`."""
    # autoclose hides the server's code when its goodbye cannot be answered any more
    async with client.http.ws_connect(f"{client.url}/v1/ws{query}", autoclose=False) as ws:
        speaker = Live(ws)
        protocol = {"serialization": "json", "compression": compression}
        await speaker.say("authenticate", method="jwt", token=client.token, protocol=protocol)
        await speaker.next("auth_success")
        yield speaker
