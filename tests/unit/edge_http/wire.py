"""A client that sends bytes, and a session that waits to be told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kalamdb.session.run import SqlRequest
from tests.unit.edge_http.world import World

PATIENCE_S = 10.0


def request(
    world: World, sql: str = "SELECT 1", headers: Mapping[str, str | None] | None = None
) -> bytes:
    """A whole request of alice. `headers` replace the usual ones, None removes one."""
    body = json.dumps({"sql": sql}).encode()
    return head(world, len(body), headers) + body


def head(
    world: World,
    length: int,
    headers: Mapping[str, str | None] | None = None,
    first: str = "POST /v1/api/sql HTTP/1.1",
) -> bytes:
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        "Authorization": f"Bearer {world.tokens['alice']}",
        **(headers or {}),
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> Response:
        """The next one, its chunks put together."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            body = bytearray()
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                assert await self.reader.readexactly(2) == b"\r\n"
            elif "content-length" in headers:
                body += await self.reader.readexactly(int(headers["content-length"]))
            return Response(int(lines[0].split()[1]), headers, bytes(body))

    async def ended(self) -> bytes:
        """What comes until the server hangs up."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
            return b""


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(world.http.host, world.http.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@dataclass
class Gate:
    """An `act` that answers `{"sql": …}` once opened; `ended` says how each call ended."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list[str])

    async def __call__(self, asked: SqlRequest) -> bytes:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("answered")
        return json.dumps({"sql": asked.sql}).encode()


@dataclass
class Pieces:
    """A BodyStream of `pieces`; a piece that is an exception is raised, an event is waited for."""

    pieces: list[bytes | Exception | asyncio.Event]
    given: int = 0
    closed: int = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            else:
                self.given += 1
                yield piece

    async def aclose(self) -> None:
        self.closed += 1
