"""The socket of the HTTP front, and the answer to what is no HTTP at all.

Keeps: a request that cannot be read is answered in JSON and leaves no traceback in the log, for it
is a stranger's doing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from kalamdb.edge.http.replies import reply

_THEIR_DOING = (ConnectionError, HttpProcessingError, web.RequestPayloadError)


class _Conversation(web.RequestHandler):
    """One client connection."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            super().handle_error(request, status, exc, message)  # logs, and raises when too late
            response = reply(
                {"error": "INTERNAL_ERROR", "message": "a bug; the log has it"}, status
            )
        else:
            brief = (message or "").partition("\n")[0].rstrip(" :")
            said = f"the request cannot be read: {brief}"
            response = reply({"error": "INVALID_INPUT", "message": said}, status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **fields: Any) -> None:
        if not isinstance(fields.get("exc_info"), _THEIR_DOING):
            super().log_exception(*args, **fields)


class Listener(web.TCPSite):
    """Accepts connections for `runner`, which ends them."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, handler_options: dict[str, Any]
    ) -> None:
        super().__init__(runner, host, port, backlog=1024)
        self._address = (host, port)
        self._handler_options = handler_options

    async def start(self) -> None:
        """Raises: OSError when the address is taken."""
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._conversation, *self._address, backlog=1024)

    def _conversation(self) -> _Conversation:
        server = self._runner.server
        assert server is not None
        return _Conversation(server, loop=asyncio.get_running_loop(), **self._handler_options)
