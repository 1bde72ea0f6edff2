"""The socket of the HTTP front: who is accepted goes to the fast front, or straight to aiohttp.

Keeps: stopping takes `server.shutdown_timeout_s` once, for both at the same time. Requests that run
are finished, connections without one are closed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from kalamdb.config import Settings
from kalamdb.edge.http.conversation import Conversation, Patience
from kalamdb.edge.http.front import Front, SqlDoor


class Listener(web.TCPSite):
    """Accepts connections for `runner`, which ends them."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, accept: Callable[[], asyncio.Protocol]
    ) -> None:
        super().__init__(runner, host, port, backlog=1024)
        self._address = (host, port)
        self._accept = accept

    async def start(self) -> None:
        """Raises: OSError when the address is taken."""
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, *self._address, backlog=1024)


class Runner(web.AppRunner):
    """aiohttp's server, with the fast front before it when the settings say so."""

    def __init__(self, app: web.Application, settings: Settings) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": settings.http.keepalive_s,
            "max_line_size": settings.http.max_header_bytes,
            "max_field_size": settings.http.max_header_bytes,
        }
        self._drain_s = settings.server.shutdown_timeout_s
        super().__init__(app, handle_signals=False, shutdown_timeout=self._drain_s, **self._options)
        self._settings = settings
        self._front: Front | None = None
        self._patience = Patience(settings.http.header_timeout_s, settings.http.body_timeout_s)

    async def listen(self, host: str, port: int, door: SqlDoor) -> Front | None:
        """Start; gives the fast front there is. Raises: OSError when the address is taken."""
        await self.setup()
        accept = self._conversation
        if self._settings.http.fast_front:
            self._front = Front(door, self._settings, self._conversation)
            accept = self._front.connection
        await Listener(self, host, port, accept).start()
        return self._front

    async def cleanup(self) -> None:
        if self._front is None:
            await super().cleanup()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._front.drain(self._drain_s))
            await super().cleanup()

    def _conversation(self) -> asyncio.Protocol:
        server = self.server
        assert server is not None
        return Conversation(server, self._patience, **self._options)
