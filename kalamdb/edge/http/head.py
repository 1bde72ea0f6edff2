"""Heads of requests as the fast front reads them: the plain `POST /v1/api/sql`, or nothing.

A head is taken only when every reader of HTTP must understand it alike: one length in digits, no
field twice, nothing that changes how the body is read or what the connection does next. Any other
head, a broken one too, is None here, and aiohttp answers it.

Keeps: a decision is made on a whole header block, never on its first bytes. No error of the parser
leaves this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

END = b"\r\n\r\n"
FIELDS_MAX = 128  # as aiohttp has it
_FIRST_LINE = b"POST /v1/api/sql HTTP/1.1\r\n"
_JSON = re.compile(rb"application/json(; ?charset=utf-?8)?", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]{1,12}")
# Each of them makes a request one for aiohttp.
_UNUSUAL = frozenset(
    (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"trailer", b"te")
)


@dataclass(frozen=True, slots=True)
class Head:
    """What a taken request says before its body of `length` bytes; `raw` is all of it."""

    raw: bytes
    length: int
    authorization: str | None
    idempotency_key: str | None
    forwarded_for: str
    origin: str | None


class HeadReader:
    """Reads heads, one after another, of any connection."""

    def __init__(self, *, head_max_bytes: int, body_max_bytes: int) -> None:
        self.head_max_bytes = head_max_bytes
        self._body_max_bytes = body_max_bytes

    def read(self, raw: bytes) -> Head | None:
        """`raw` ends with the empty line. None: it is for aiohttp."""
        if len(raw) > self.head_max_bytes or not raw.startswith(_FIRST_LINE):
            return None
        seen = _Seen()
        parser = httptools.HttpRequestParser(seen)
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        fields = dict(seen.fields)
        if (
            not seen.complete
            or seen.ended
            or len(fields) != len(seen.fields)
            or len(fields) > FIELDS_MAX
            or not parser.should_keep_alive()
            or not _UNUSUAL.isdisjoint(fields)
            or b"host" not in fields
            or not _JSON.fullmatch(fields.get(b"content-type", b"application/json"))
        ):
            return None
        length = fields.get(b"content-length", b"")
        if not _DIGITS.fullmatch(length) or not 0 < int(length) <= self._body_max_bytes:
            return None
        return Head(
            raw,
            int(length),
            _text(fields.get(b"authorization")),
            _text(fields.get(b"idempotency-key")),
            _text(fields.get(b"x-forwarded-for")) or "",
            _text(fields.get(b"origin")),
        )


class PartialHead:
    """Follows a head that comes in pieces, to tell early what will never be one."""

    def __init__(self) -> None:
        self._seen = _Seen()
        self._parser = httptools.HttpRequestParser(self._seen)
        self._fed_bytes = 0

    def hopeless(self, received: bytes) -> bool:
        """`received` is all there is of the head; is it no beginning of a request?"""
        part = received[self._fed_bytes :]
        self._fed_bytes = len(received)
        try:
            self._parser.feed_data(part)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return True
        return self._seen.complete


class _Seen:
    """What the parser calls."""

    __slots__ = ("complete", "ended", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.ended = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_message_complete(self) -> None:
        self.ended = True


def _text(value: bytes | None) -> str | None:
    """As aiohttp reads values."""
    return None if value is None else value.decode("utf-8", "surrogateescape")
