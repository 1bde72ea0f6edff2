"""The fast front: what its connections share, which of them there are, and how they end.

Keeps: `drain` returns when every connection of the front has ended. Connections that were handed
over are aiohttp's, which ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kalamdb.config import Settings
from kalamdb.edge.http.cors import Cors
from kalamdb.edge.http.fast import FastConnection
from kalamdb.edge.http.head import HeadReader
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.sql import SqlEdge

ABORT_S = 10.0


@dataclass(frozen=True, slots=True)
class SqlDoor:
    """The SQL route, for whoever serves it beside aiohttp."""

    edge: SqlEdge
    origins: Origins
    cors: Cors


@dataclass(slots=True)
class FrontStatistics:
    """Connections open now, and since start those given to aiohttp."""

    connections: int = 0
    handed_over_total: int = 0


class Front:
    """Serves `POST /v1/api/sql`; `other` makes the protocol for everything else."""

    def __init__(
        self, door: SqlDoor, settings: Settings, other: Callable[[], asyncio.Protocol]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.edge = door.edge
        self.origins = door.origins
        self.keepalive_s = settings.http.keepalive_s
        self.header_timeout_s = settings.http.header_timeout_s
        self.body_timeout_s = settings.http.body_timeout_s
        self.heads = HeadReader(
            head_max_bytes=settings.http.max_header_bytes,
            body_max_bytes=settings.limits.max_body_bytes,
        )
        self._cors = door.cors
        self._other = other
        self._connections: set[FastConnection] = set()
        self._draining = False
        self._empty = asyncio.Event()
        self._handed_over = 0

    def connection(self) -> asyncio.Protocol:
        """A protocol for a connection that was accepted."""
        return FastConnection(self)

    def add(self, connection: FastConnection) -> bool:
        """False: the node stops, hang up."""
        if not self._draining:
            self._connections.add(connection)
        return not self._draining

    def discard(self, connection: FastConnection) -> None:
        self._connections.discard(connection)
        if self._draining and not self._connections:
            self._empty.set()

    def hand_over(
        self, connection: FastConnection, transport: asyncio.Transport, data: bytes
    ) -> None:
        """Give an open connection to aiohttp, with what was received since its request began."""
        self.discard(connection)
        if self._draining:
            transport.close()
            return
        self._handed_over += 1
        protocol = self._other()
        transport.set_protocol(protocol)
        if not transport.is_reading():
            transport.resume_reading()
        protocol.connection_made(transport)
        protocol.data_received(data)

    def cors_lines(self, origin: str) -> bytes:
        """Header lines for a page of `origin`."""
        headers = self._cors.headers(origin)
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()

    async def drain(self, timeout_s: float) -> None:
        """Hang up on who waits; requests at work get `timeout_s`, then they are cancelled."""
        self._draining = True
        if not self._connections:
            return
        for connection in list(self._connections):
            connection.end_soon()
        if await self._ended(timeout_s):
            return
        for connection in list(self._connections):
            connection.abort()
        await self._ended(ABORT_S)

    async def _ended(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def statistics(self) -> FrontStatistics:
        return FrontStatistics(len(self._connections), self._handed_over)
