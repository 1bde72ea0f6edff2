"""msgpack in place of JSON, for connections that asked for it: the same messages as named maps.

A message is made as JSON once and turned into msgpack once, for all who want it so: values have
the forms they have in JSON (a BIGINT is text). An event's frame is

    map header | "type", "change", "subscription_id", the subscriber's own id | the shared pairs

Client messages may be gzip, told by its first two bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from kalamdb.feed.events import FeedEvent

GZIP_MAGIC = b"\x1f\x8b"
_MAP_SMALL = 0x80
_MAP_SMALL_MAX = 15
_OWN_FIELDS = 2

_pack = msgspec.msgpack.Encoder().encode


class Unreadable(ValueError):
    """It is no gzip, or holds more than it may."""


@dataclass(slots=True)
class PackedTail:
    """The shared pairs of an event: how many, their bytes, and those deflated once."""

    pairs: int
    body: bytes
    deflated: bytes | None = None


def packed_message(payload: bytes) -> bytes:
    """A JSON message as msgpack."""
    return _pack(orjson.loads(payload))


def packed_prefix(prefix: bytes, *, gzip: bool) -> bytes:
    """The pairs before the tail, behind one byte that tells gzip from plain frames.

    `prefix` is that of JSON frames (`feed.events.event_prefix`).
    """
    own: dict[str, Any] = orjson.loads(prefix.rstrip().removesuffix(b",") + b"}")
    return (b"\x01" if gzip else b"\x00") + b"".join(
        _pack(part) for pair in own.items() for part in pair
    )


def is_packed_prefix(prefix: bytes) -> bool:
    return prefix[:1] in (b"\x00", b"\x01")


def packed_tail(event: FeedEvent) -> PackedTail:
    """Made once per event."""
    found = event.packed
    if not isinstance(found, PackedTail):
        fields: dict[str, Any] = orjson.loads(b"{" + event.tail)
        body = b"".join(_pack(part) for pair in fields.items() for part in pair)
        found = event.packed = PackedTail(len(fields), body)
    return found


def packed_head(prefix: bytes, tail: PackedTail) -> bytes:
    """What stands before the shared pairs."""
    count = tail.pairs + _OWN_FIELDS
    assert count <= _MAP_SMALL_MAX
    return bytes([_MAP_SMALL | count]) + prefix[1:]


def unpacked(payload: bytes, size_max: int) -> bytes:
    """A client's payload without gzip. Raises Unreadable, also above `size_max` bytes."""
    if not payload.startswith(GZIP_MAGIC):
        return payload
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        found = reader.decompress(payload, size_max + 1)
    except zlib.error as error:
        raise Unreadable(f"this is no gzip: {error}") from None
    if len(found) > size_max:
        raise Unreadable(f"it unpacks to more than {size_max} bytes")
    if not reader.eof or reader.unused_data:
        raise Unreadable("the gzip data is cut off, or something follows it")
    return found
