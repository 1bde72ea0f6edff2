"""A group's whole state as a stream of key-value chunks, and as one digest.

An image is what a member that lacks too much of the log is given: read from one store snapshot of
the sender, built beside the receiver's own copy. Two members at the same applied index have equal
digests.
"""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from kalamdb.model import codec, keys
from kalamdb.store.kv import KeyReader, Mark

Pairs = list[tuple[bytes, bytes]]

CHUNK_BYTES = 512 << 10
_FIRST = b"\x00"
_END = b"\xff"


def chunks(reader: KeyReader, size_bytes: int = CHUNK_BYTES) -> Iterator[Pairs]:
    """Every key of the group, in order, in chunks of about `size_bytes`."""
    pairs: Pairs = []
    size = 0
    for key, value in reader.scan(_FIRST, _END):
        pairs.append((key, value))
        size += len(key) + len(value)
        if size >= size_bytes:
            yield pairs
            pairs, size = [], 0
    if pairs:
        yield pairs


def mark_of(pairs: Pairs) -> Mark | None:
    """The mark inside an image's chunk; it stands in the first, META being the first family."""
    for key, value in pairs:
        if key == keys.META:
            return Mark(*codec.decode_mark(value))
    return None


def digest(reader: KeyReader) -> str:
    """A hash over all families, the mark's seq among them; lengths keep keys and values apart."""
    state = xxhash.xxh3_128()
    for key, value in reader.scan(_FIRST, _END):
        state.update(keys.U32.pack(len(key)) + key + keys.U32.pack(len(value)) + value)
    return state.hexdigest()
