"""Responses with the headers every one of ours has, made once."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from aiohttp import HttpVersion11, web
from multidict import CIMultiDict, istr

# The name without a version: what runs here is told to who has a token.
_EVERY = {"Server": "KalamDB", "X-Content-Type-Options": "nosniff"}
JSON_HEADERS: CIMultiDict[str] = CIMultiDict(
    {istr("Content-Type"): "application/json"} | {istr(k): v for k, v in _EVERY.items()}
)
PRIVATE_HEADERS: CIMultiDict[str] = CIMultiDict({**JSON_HEADERS, "Cache-Control": "no-store"})
TEXT_HEADERS: CIMultiDict[str] = CIMultiDict(
    {**PRIVATE_HEADERS, "Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
)


DIRECT_MAX_BYTES = 64 * 1024  # above, aiohttp's own writer waits for a slow client


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


_DIRECT_FORM = b"HTTP/1.1 200 OK\r\n" + _lines(JSON_HEADERS) + b"%bContent-Length: %d\r\n\r\n%b"


class DirectResponse(web.StreamResponse):
    """200 with JSON, written in one piece. It spares a third of aiohttp's work for a small answer.

    Only for a connection that stays open, and up to DIRECT_MAX_BYTES: see `answer`.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._answer = body

    @property
    def keep_alive(self) -> bool | None:
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        # `headers` holds only what others added (CORS).
        added = _lines(self.headers) if self.headers else b""
        transport.write(_DIRECT_FORM % (added, len(self._answer), self._answer))
        if transport.get_write_buffer_size() > DIRECT_MAX_BYTES:
            await request.writer.drain()  # who sends and never reads is not served ahead

    async def write_eof(self, data: bytes = b"") -> None:
        pass


def answer(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    """200 with JSON bytes."""
    if request.keep_alive and request.version == HttpVersion11 and len(body) <= DIRECT_MAX_BYTES:
        return DirectResponse(body)
    return web.Response(body=body, headers=JSON_HEADERS)


def reply(body: object, status: int = 200, extra: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response that no cache keeps."""
    response = web.Response(body=orjson.dumps(body), status=status, headers=PRIVATE_HEADERS)
    if extra:
        response.headers.update(extra)
    return response
