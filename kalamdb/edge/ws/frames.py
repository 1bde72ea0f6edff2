"""Server frames of RFC 6455 as bytes: unmasked, unfragmented; JSON as text, gzip and msgpack as
binary.

Payloads from `GZIP_MIN_BYTES` are packed for clients that take gzip, and the packed form is used
only when it is smaller. An event's tail is deflated once for all its subscribers; each gets a gzip
member made of

    gzip header | stored block with its own prefix | the shared deflate stream | CRC-32 | length

which is valid because a stored block ends on a byte boundary and the shared stream refers to
nothing before it.
"""

from __future__ import annotations

import gzip
import struct
import zlib

from kalamdb.edge.ws.msgpack import (
    is_packed_prefix,
    packed_head,
    packed_message,
    packed_tail,
)
from kalamdb.feed.events import FeedEvent

GZIP_MIN_BYTES = 512
PREFIX_MAX_BYTES = 0xFFFF
_LEVEL = 1
_TEXT = 0x81
_BINARY = 0x82
_CLOSE = 0x88
_REASON_MAX_BYTES = 123
_HEAD = struct.Struct(">BB")
_HEAD_16 = struct.Struct(">BBH")
_HEAD_64 = struct.Struct(">BBQ")
_STORED = struct.Struct("<BHH")
_TRAILER = struct.Struct("<II")
# Magic, deflate, no flags, no time, fastest, unknown system: the same bytes for the same input,
# always.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
_OVERHEAD_BYTES = len(_GZIP_HEADER) + _STORED.size + _TRAILER.size


def text_frame(payload: bytes) -> bytes:
    return _head(_TEXT, len(payload)) + payload


def binary_frame(payload: bytes) -> bytes:
    return _head(_BINARY, len(payload)) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """`reason` is cut to what a control frame holds."""
    payload = code.to_bytes(2, "big") + cut_text(reason, _REASON_MAX_BYTES)
    return _head(_CLOSE, len(payload)) + payload


def cut_text(text: str, size_max_bytes: int) -> bytes:
    """UTF-8 of as much of `text` as fits."""
    return text.encode()[:size_max_bytes].decode(errors="ignore").encode()


def message_frame(payload: bytes, *, packed: bool, msgpack: bool = False) -> bytes:
    """A frame of a JSON payload of its own; `packed`: the client takes gzip; `msgpack`: that."""
    if msgpack:
        payload = packed_message(payload)
    if packed and len(payload) >= GZIP_MIN_BYTES:
        small = gzip.compress(payload, _LEVEL, mtime=0)
        if len(small) < len(payload):
            return binary_frame(small)
    return binary_frame(payload) if msgpack else text_frame(payload)


def event_frame(prefix: bytes, event: FeedEvent, *, packed: bool) -> bytes:
    """A frame of an event for the subscribers with this prefix."""
    if is_packed_prefix(prefix):
        return _packed_event_frame(prefix, event, packed=packed)
    tail = event.tail
    size = len(prefix) + len(tail)
    if packed and size >= GZIP_MIN_BYTES:
        if event.deflated is None:
            event.deflated = deflated(tail)
        if _OVERHEAD_BYTES + len(prefix) + len(event.deflated) < size:
            return binary_frame(gzip_member(prefix, tail, event.deflated))
    return _head(_TEXT, size) + prefix + tail


def _packed_event_frame(prefix: bytes, event: FeedEvent, *, packed: bool) -> bytes:
    tail = packed_tail(event)
    head = packed_head(prefix, tail)
    size = len(head) + len(tail.body)
    if packed and size >= GZIP_MIN_BYTES:
        if tail.deflated is None:
            tail.deflated = deflated(tail.body)
        if _OVERHEAD_BYTES + len(head) + len(tail.deflated) < size:
            return binary_frame(gzip_member(head, tail.body, tail.deflated))
    return _head(_BINARY, size) + head + tail.body


def deflated(tail: bytes) -> bytes:
    """A whole deflate stream of `tail` alone."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(tail) + packer.flush()


def gzip_member(prefix: bytes, tail: bytes, tail_deflated: bytes) -> bytes:
    """A gzip member of `prefix + tail`."""
    size = len(prefix)
    assert size <= PREFIX_MAX_BYTES
    return b"".join(
        (
            _GZIP_HEADER,
            _STORED.pack(0, size, size ^ 0xFFFF),
            prefix,
            tail_deflated,
            _TRAILER.pack(zlib.crc32(tail, zlib.crc32(prefix)), (size + len(tail)) & 0xFFFF_FFFF),
        )
    )


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return _HEAD.pack(first, size)
    if size < 1 << 16:
        return _HEAD_16.pack(first, 126, size)
    return _HEAD_64.pack(first, 127, size)
