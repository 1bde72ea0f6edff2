"""One connection served by aiohttp, with what it lacks: every wait for the client ends.

1. A head has `header_timeout_s` from its first byte; late, it is answered with 400.
2. A body has `body_timeout_s`; late, reading it fails, which the route answers.
3. Who takes nothing of an answer for `body_timeout_s` is hung up on.
4. A client that goes away cancels what `cancelled_on_loss` covers.
5. The last answer before the node stops says that the connection closes.

Keeps: a request that cannot be read is answered in JSON and leaves no traceback in the log, for it
is a stranger's doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from kalamdb.edge.http.replies import reply, unreadable, unreadable_body

_THEIR_DOING = (ConnectionError, HttpProcessingError, web.RequestPayloadError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take; seconds."""

    header_timeout_s: float
    body_timeout_s: float


class Conversation(web.RequestHandler):
    """One client connection."""

    __slots__ = (
        "_arriving",
        "_body_timer",
        "_head_timer",
        "_left_bytes",
        "_patience",
        "_taking_timer",
        "running",
    )

    def __init__(self, server: web.Server, patience: Patience, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._patience = patience
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._taking_timer: asyncio.TimerHandle | None = None
        self._arriving: Any = None
        self._left_bytes = 0
        self.running: asyncio.Task[Any] | None = None

    # ---- waiting for the client -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head_timer = _stopped(self._head_timer)
            if self._messages:
                self._await_body(self._messages[-1][1])
        elif self._head_timer is None and self._waiter is not None and not self._messages:
            # Idle, and what came is no whole head. (Behind a running request `keepalive_s` rules.)
            late_s = self._patience.header_timeout_s
            self._head_timer = self._loop.call_later(late_s, self._head_late)

    def _head_late(self) -> None:
        self._head_timer = None
        if self.transport is not None and self._waiter is not None and not self._messages:
            late_s = self._patience.header_timeout_s
            self.transport.write(unreadable(f"its head did not arrive within {late_s:g} s"))
            self.force_close()

    def _await_body(self, payload: Any) -> None:
        if payload.is_eof():
            return
        self._arriving = payload
        _stopped(self._body_timer)
        late_s = self._patience.body_timeout_s
        self._body_timer = self._loop.call_later(late_s, self._body_late)

    def _body_late(self) -> None:
        payload, self._arriving, self._body_timer = self._arriving, None, None
        if not payload.is_eof() and payload.exception() is None:
            late_s = self._patience.body_timeout_s
            payload.set_exception(web.RequestPayloadError(f"it did not arrive within {late_s:g} s"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        self._taking_timer = _stopped(self._taking_timer)
        super().resume_writing()

    def _await_taking(self) -> None:
        if self.transport is not None:
            self._left_bytes = self.transport.get_write_buffer_size()
            late_s = self._patience.body_timeout_s
            self._taking_timer = self._loop.call_later(late_s, self._taking_late)

    def _taking_late(self) -> None:
        self._taking_timer = None
        transport = self.transport
        if transport is None:
            return
        if transport.get_write_buffer_size() >= self._left_bytes:
            transport.abort()
        else:
            self._await_taking()

    # ---- the end --------------------------------------------------------------------------------

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_timer = _stopped(self._head_timer)
        self._body_timer = _stopped(self._body_timer)
        self._taking_timer = _stopped(self._taking_timer)
        if self.running is not None:
            self.running.cancel()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self._close or self._force_close:
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    # ---- what cannot be read --------------------------------------------------------------------

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
            response = reply(unreadable_body(brief), status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **fields: Any) -> None:
        if not isinstance(fields.get("exc_info"), _THEIR_DOING):
            super().log_exception(*args, **fields)


@contextmanager
def cancelled_on_loss(request: web.BaseRequest) -> Generator[None]:
    """While inside, the running task is cancelled when the client of `request` goes away."""
    conversation = request.protocol
    if not isinstance(conversation, Conversation):
        yield
        return
    conversation.running = asyncio.current_task()
    try:
        yield
    finally:
        conversation.running = None


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
