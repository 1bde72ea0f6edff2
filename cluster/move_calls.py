"""What moving slots asks of the groups, wherever they are led; implements `moves.MoveGroups`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import DecodeError, Struct, ValidationError, msgpack

from cluster.moves import allows_reads
from cluster.remote import ClusterGroups
from cluster.rpc.port import Peer, Rpc, RpcStream, Service
from kalamdb.errors import NotLeader, PermissionDenied, Unavailable
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import GroupId, Slot
from kalamdb.model.slot import SlotHead, SlotPiece
from kalamdb.model.work import Work
from kalamdb.replica.slot_image import image_stream
from kalamdb.store.slot_codec import SlotRecord

SLOT, PURGE, IMAGE = "slot", "slot_purge", "slot_image"
CALL_S = 30.0


class _Ask(Struct, array_like=True, frozen=True):
    """`attempt` and `epoch` where they are asked for."""

    group: int
    slot: int
    epoch: int = 0
    attempt: int | None = None


_encode = msgpack.Encoder().encode
_ask_in = msgpack.Decoder(_Ask)
_record_in = msgpack.Decoder(SlotRecord | None)
_head_in = msgpack.Decoder(SlotHead)
_piece_in = msgpack.Decoder(SlotPiece)


class MoveHost:
    """Answers for the groups this node leads."""

    def __init__(self, groups: ClusterGroups) -> None:
        self._led = groups.led

    def serve(self, service: Service) -> None:
        service.on_call(SLOT, self._slot)
        service.on_call(PURGE, self._purge)
        service.on_stream(IMAGE, self._image)

    async def _slot(self, peer: Peer, payload: bytes) -> bytes:
        ask = _read(peer, payload)
        return _encode(await self._led(GroupId(ask.group)).slot(Slot(ask.slot)))

    async def _purge(self, peer: Peer, payload: bytes) -> bytes:
        ask = _read(peer, payload)
        replica = self._led(GroupId(ask.group))
        done = await replica.purge_slot(Slot(ask.slot), ask.epoch, attempt=ask.attempt)
        return b"\x01" if done else b"\x00"

    async def _image(self, peer: Peer, payload: bytes, stream: RpcStream) -> None:
        ask = _read(peer, payload)
        image = self._led(GroupId(ask.group)).slot_image(Slot(ask.slot), ask.epoch)
        async with aclosing(image_stream(image)) as parts:
            async for part in parts:
                await stream.send(_encode(part))


def _read(peer: Peer, payload: bytes) -> _Ask:
    """Raises PermissionDenied, Unavailable."""
    if peer.node is None:
        raise PermissionDenied("moving slots", "a node")
    try:
        return _ask_in.decode(payload)
    except (DecodeError, ValidationError) as error:
        raise Unavailable(f"this is no question about a slot: {error}") from error


class MoveCalls:
    """Implements `moves.MoveGroups`."""

    def __init__(self, groups: ClusterGroups, rpc: Rpc) -> None:
        self._groups = groups
        self._leaders = groups.leaders
        self._rpc = rpc

    async def catalog(self) -> CatalogView:
        await self._groups.refresh_catalog()
        return self._groups.catalog

    async def allows_reads(self, slot: Slot, epoch: int) -> bool:
        """May a group in which the slot is frozen answer reads? Implements `MetaAllows`."""
        return allows_reads(await self.catalog(), slot, epoch)

    async def write_meta(self, work: Work) -> Outcome:
        return await self._groups.write_meta(work)

    async def write(self, group: GroupId, work: Work) -> Outcome:
        return await self._groups.write_group(group, work)

    async def slot(self, group: GroupId, slot: Slot) -> SlotRecord | None:
        async def ask(node: int) -> SlotRecord | None:
            if node == self._leaders.node:
                return await self._groups.led(group).slot(slot)
            return _record_in.decode(await self._call(node, SLOT, _Ask(group, slot)))

        return await self._leaders.ask(lambda: group, ask, twice=True)

    async def purge(self, group: GroupId, slot: Slot, epoch: int, attempt: int | None) -> bool:
        async def ask(node: int) -> bool:
            if node == self._leaders.node:
                return await self._groups.led(group).purge_slot(slot, epoch, attempt=attempt)
            return await self._call(node, PURGE, _Ask(group, slot, epoch, attempt)) == b"\x01"

        return await self._leaders.ask(lambda: group, ask, twice=True)

    async def _call(self, node: int, method: str, ask: _Ask) -> bytes:
        return await self._rpc.call(node, method, _encode(ask), CALL_S)

    async def image(
        self, group: GroupId, slot: Slot, epoch: int
    ) -> AsyncGenerator[SlotHead | SlotPiece]:
        leader = self._leaders.of(group)
        if leader is None:
            raise NotLeader(group, None)
        if leader == self._leaders.node:
            image = self._groups.led(group).slot_image(slot, epoch)
            async with aclosing(image_stream(image)) as parts:
                async for part in parts:
                    yield part
            return
        stream = await self._rpc.open(leader, IMAGE, _encode(_Ask(group, slot, epoch)))
        try:
            head = await stream.receive()
            if head is None:
                raise Unavailable("the image of the slot has no head")
            yield _head_in.decode(head)
            while (data := await stream.receive()) is not None:
                yield _piece_in.decode(data)
        finally:
            stream.abort()
