"""Images of groups from node to node: what a member needs that lacks too much of the log.

A stream is the size of the image, as far as its node can tell, then its chunks.

Keeps: an image is read from one snapshot in a thread, at most `AT_ONCE` at a time, and goes out
only as fast as it is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from msgspec import DecodeError, ValidationError, msgpack

from cluster.membership import MoveProgress
from cluster.rpc.port import Peer, Rpc, RpcStream, Service
from kalamdb.errors import NotLeader, Overloaded, PermissionDenied, Unavailable
from kalamdb.lib.clock import Clock
from kalamdb.model.ids import GroupId
from kalamdb.replica.replica import Replica
from kalamdb.store.image import Pairs

T = TypeVar("T")
METHOD = "image"
AT_ONCE = 2

_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(list[tuple[bytes, bytes]]).decode
_size_in = msgpack.Decoder(int).decode


class ImageHost:
    """Gives images of this node's replicas."""

    def __init__(self, replicas: Mapping[GroupId, Replica]) -> None:
        self._replicas = replicas
        self._giving = 0

    def serve(self, service: Service) -> None:
        service.on_stream(METHOD, self._give)

    async def _give(self, peer: Peer, payload: bytes, stream: RpcStream) -> None:
        if peer.node is None:
            raise PermissionDenied("images of groups", "a node")
        group = GroupId(int.from_bytes(payload, "big"))
        replica = self._replicas.get(group)
        if replica is None:
            raise NotLeader(group, None)
        if self._giving >= AT_ONCE:
            raise Overloaded("the images given at a time", AT_ONCE)
        self._giving += 1
        chunks = replica.image_chunks()
        loop = asyncio.get_running_loop()
        try:
            await stream.send(_encode(replica.size_bytes()))
            while (chunk := await loop.run_in_executor(None, _next, chunks)) is not None:
                await stream.send(chunk)
        finally:
            self._giving -= 1
            await loop.run_in_executor(None, _close, chunks)


def _next(chunks: Iterator[Pairs]) -> bytes | None:
    pairs = next(chunks, None)
    return None if pairs is None else _encode(pairs)


def _close(chunks: Iterator[Pairs]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


class Copies:
    """The images that this node takes now, for `system.cluster_moves`."""

    def __init__(self, node: int, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._moves: dict[GroupId, MoveProgress] = {}

    def begun(self, group: GroupId, source: int, size_bytes: int) -> None:
        now_ms = self._clock.wall_ms()
        self._moves[group] = MoveProgress(
            "member",
            group,
            source,
            self._node,
            "image",
            bytes_total=size_bytes,
            started_ms=now_ms,
            updated_ms=now_ms,
        )

    def came(self, group: GroupId, pairs: Pairs) -> None:
        move = self._moves[group]
        # The size that was told is about that of the files; past it the whole is not known.
        size_bytes = move.bytes_done + sum(len(key) + len(raw) for key, raw in pairs)
        self._moves[group] = replace(
            move,
            keys_done=move.keys_done + len(pairs),
            bytes_done=size_bytes,
            bytes_total=0 if size_bytes > move.bytes_total else move.bytes_total,
            updated_ms=self._clock.wall_ms(),
        )

    def ended(self, group: GroupId) -> None:
        self._moves.pop(group, None)

    def progress(self) -> list[MoveProgress]:
        return list(self._moves.values())


async def pull(
    rpc: Rpc, group: GroupId, source: int, copies: Copies | None = None
) -> AsyncIterator[Pairs]:
    """The chunks of a group's image as `source` has it. Raises Unavailable."""
    stream = await rpc.open(source, METHOD, group.to_bytes(2, "big"))
    try:
        told = await stream.receive()
        if copies is not None and told is not None:
            copies.begun(group, source, _read(_size_in, told))
        while (data := await stream.receive()) is not None:
            pairs = _read(_decode, data)
            if copies is not None:
                copies.came(group, pairs)
            yield pairs
    finally:
        stream.abort()
        if copies is not None:
            copies.ended(group)


def _read(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except (DecodeError, ValidationError) as error:
        raise Unavailable(f"the image holds what is no message: {error}") from error
