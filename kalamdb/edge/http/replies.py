"""Responses with the headers every one of ours has, made once."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

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


_OK = b"HTTP/1.1 200 OK\r\n" + _lines(JSON_HEADERS)
_OK_FORM = _OK + b"%bContent-Length: %d\r\n\r\n"
_STREAM_FORM = _OK + b"%bTransfer-Encoding: chunked\r\n\r\n"


def head_of_answer(size_bytes: int, added: bytes) -> bytes:
    """The head of 200 with JSON; `added` are whole header lines."""
    return _OK_FORM % (added, size_bytes)


def head_of_stream(added: bytes) -> bytes:
    """The head of 200 with JSON whose size is not known."""
    return _STREAM_FORM % added


def chunk_of(piece: bytes) -> bytes:
    """A piece of a stream as it is sent. An empty one would be the end."""
    assert piece
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def json_bytes(status: int, body: bytes, headers: Mapping[str, str], added: bytes = b"") -> bytes:
    """A whole response with JSON."""
    return b"HTTP/1.1 %d %b\r\n%b%b%bContent-Length: %d\r\n\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        _lines(JSON_HEADERS),
        _lines(headers),
        added,
        len(body),
        body,
    )


def unreadable_body(why: str) -> dict[str, str]:
    """The answer to what cannot be read as a request."""
    return {"error": "INVALID_INPUT", "message": f"the request cannot be read: {why}"}


def unreadable(why: str) -> bytes:
    """The same as bytes; the connection closes after it."""
    body = orjson.dumps(unreadable_body(why))
    return json_bytes(400, body, {"Cache-Control": "no-store", "Connection": "close"})


class DirectResponse(web.StreamResponse):
    """200 with JSON, written in one piece. It spares a third of aiohttp's work for a small answer.

    Only for a connection that stays open, and up to DIRECT_MAX_BYTES: see `answer`.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._answer = body
        self._last = False

    @property
    def keep_alive(self) -> bool | None:
        return not self._last

    def force_close(self) -> None:
        self._last = True

    async def prepare(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        # `headers` holds only what others added (CORS).
        added = _lines(self.headers) if self.headers else b""
        if self._last:
            added += b"Connection: close\r\n"
        transport.write(head_of_answer(len(self._answer), added) + self._answer)
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
