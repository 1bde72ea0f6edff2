"""Request bodies: within a limit, JSON in UTF-8, every field once; else MalformedRequest."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from kalamdb.errors import BodyTooLarge, MalformedRequest


async def read_body(request: web.BaseRequest, max_bytes: int) -> bytes:
    """The whole body, decompressed. Raises BodyTooLarge, MalformedRequest; ConnectionError.

    The application's `client_max_size` bounds what is read; `max_bytes` may be less.
    """
    said = request.content_length
    if said is not None and said > max_bytes:
        raise _too_large(request, max_bytes)
    packing = request.headers.get("Content-Encoding")
    if packing is not None and packing.lower() not in ("identity", "gzip", "deflate"):
        raise MalformedRequest(
            f"Content-Encoding {packing} is not accepted; send the body as it is"
        )
    content = request.content
    try:
        # Small bodies came with their headers: taking them costs no turn of the loop.
        body = content.read_nowait() if content.is_eof() else await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(request, max_bytes) from error
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise MalformedRequest(f"the body cannot be read: {error}") from error
    if len(body) > max_bytes:
        raise _too_large(request, max_bytes)
    return body


def _too_large(request: web.BaseRequest, max_bytes: int) -> BodyTooLarge:
    said = request.content_length
    more = said is None or said <= max_bytes
    return BodyTooLarge(f"more than {max_bytes}" if more else said, max_bytes)


def check_content_type(request: web.BaseRequest) -> None:
    """JSON in UTF-8, or nothing said. Raises MalformedRequest."""
    if "Content-Type" not in request.headers:
        return
    if request.content_type != "application/json":
        raise MalformedRequest(
            f"Content-Type {request.content_type} is not accepted; send application/json"
        )
    charset = request.charset
    if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise MalformedRequest(f"charset {charset} is not accepted; send UTF-8")


def check_no_duplicates(body: bytes) -> None:
    """Raises MalformedRequest when an object of the body names a field twice."""
    try:
        json.loads(body, object_pairs_hook=_no_duplicates)
    except RecursionError as error:
        raise MalformedRequest("the body is nested too deeply") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedRequest(f"the body names {twice!r} twice")
    return made
