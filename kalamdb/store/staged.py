"""Commands too large for one entry: their bytes travel in chunks, a last command puts them in
force.

    STAGED | term | number | n      chunk n of the encoded command `number` of `term`
    STAGED | term | number | FFFFFFFF   in a command: the chunks are complete, do what they say

The commit is not put as a key: apply replaces it by the effects in the chunks, and by the deletion
of the chunks. That is the one thing apply reads, and it is log content of the same term: a commit
is decided in the same step as its chunks and follows them in the log, so every member that applies
it holds the same bytes. Chunks whose commit was lost with its leader are removed by the next one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from kalamdb.model import codec, keys
from kalamdb.model.command import Command, Effect

CHUNK_BYTES = 512 << 10
PREFIX = bytes([keys.Family.STAGED])
_KEY = struct.Struct(">BQQI")
_COMMIT = 0xFFFFFFFF
_VERSION = 1


def split(encoded: bytes, term: int, number: int) -> list[tuple[Effect, ...]]:
    """The effects of each command that carries a part of an encoded one; the last one commits."""
    chunks = [encoded[at : at + CHUNK_BYTES] for at in range(0, len(encoded), CHUNK_BYTES)]
    parts: list[tuple[Effect, ...]] = [
        ((_KEY.pack(keys.Family.STAGED, term, number, n), chunk),) for n, chunk in enumerate(chunks)
    ]
    commit = _KEY.pack(keys.Family.STAGED, term, number, _COMMIT)
    parts.append(((commit, codec.pack([_VERSION, len(chunks)])),))
    return parts


def is_commit(effects: Sequence[Effect]) -> bool:
    if len(effects) != 1:
        return False
    key = effects[0][0]
    return key[0] == keys.Family.STAGED and _KEY.unpack(key)[3] == _COMMIT


def join(commit: Effect, read: Callable[[bytes], bytes | None]) -> tuple[Command, list[Effect]]:
    """The whole command a commit names, and the deletions of its chunks.

    Raises: LookupError when a chunk is missing.
    """
    gone = deletions(commit)
    chunks: list[bytes] = []
    for name, _ in gone:
        chunk = read(name)
        if chunk is None:
            raise LookupError(f"chunk {name.hex()} of a staged command is missing")
        chunks.append(chunk)
    return codec.decode_command(b"".join(chunks)), gone


def deletions(commit: Effect) -> list[Effect]:
    """Of the chunks a commit names, for who holds the whole command already."""
    key, value = commit
    assert value is not None
    version, count = codec.unpack(value)
    if version != _VERSION:
        raise codec.UnknownVersion(f"staged format {version} is not known")
    _, term, number, _ = _KEY.unpack(key)
    return [(_KEY.pack(keys.Family.STAGED, term, number, n), None) for n in range(count)]
