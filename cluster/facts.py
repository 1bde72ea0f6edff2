"""What each node knows of itself and tells the others who ask: its groups, links, moves, machine.

One question to each node (rpc "facts") feeds all `system.cluster…` tables, on any node and on
routers, which know nothing of their own.

Keeps: who does not answer in time is left out, and nobody waits longer for it.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from cluster.membership import MoveProgress
from cluster.rpc.peers import LinkFacts
from cluster.rpc.port import Peer, Rpc, Service
from kalamdb import VERSION
from kalamdb.errors import KalamError, Unavailable
from kalamdb.ports import LogStatus

METHOD = "facts"
TIMEOUT_S = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node. `moves` and `heard` (node → Unix ms when it could last be talked to) are empty but
    at the node that leads meta.
    """

    node: int
    hostname: str
    version: str
    os: str
    arch: str
    memory_mb: int
    uptime_s: int
    logs: tuple[LogStatus, ...] = ()
    links: tuple[LinkFacts, ...] = ()
    moves: tuple[MoveProgress, ...] = ()
    heard: dict[int, int] = field(default_factory=dict[int, int])


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NodeFacts).decode


def encode_facts(facts: NodeFacts) -> bytes:
    return _encode(facts)


def decode_facts(raw: bytes) -> NodeFacts:
    """Fields that a newer node tells besides are passed over. Raises Unavailable."""
    try:
        return _decode(raw)
    except msgspec.DecodeError as error:
        raise Unavailable(f"a node told facts that cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """Where a node's facts come from; each is asked anew. Call it for the facts."""

    node: int
    uptime_s: Callable[[], float]
    logs: Callable[[], Sequence[LogStatus]]
    links: Callable[[], Sequence[LinkFacts]] = tuple
    moves: Callable[[], Sequence[MoveProgress]] = tuple
    heard: Callable[[], dict[int, int]] = dict

    def __call__(self) -> NodeFacts:
        return NodeFacts(
            self.node,
            platform.node(),
            VERSION,
            platform.system().lower(),
            platform.machine(),
            memory_bytes() >> 20,
            int(self.uptime_s()),
            tuple(self.logs()),
            tuple(self.links()),
            tuple(self.moves()),
            self.heard(),
        )


def memory_bytes() -> int:
    """What this process has in memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def serve_facts(service: Service, own: Callable[[], NodeFacts]) -> None:
    """Answer the others."""

    async def told(_peer: Peer, _payload: bytes) -> bytes:
        return encode_facts(own())

    service.on_call(METHOD, told)


class ClusterFacts:
    """All nodes' facts. `own` None: a router; `rpc` None: there are no other nodes. `others` are
    the nodes of the cluster as the catalog has them.
    """

    def __init__(
        self,
        own: Callable[[], NodeFacts] | None,
        rpc: Rpc | None,
        others: Callable[[], Sequence[int]],
    ) -> None:
        self._own = own
        self._rpc = rpc
        self._others = others

    async def all(self) -> list[NodeFacts]:
        """Of those that answer, by node."""
        own = None if self._own is None else self._own()
        found = [] if own is None else [own]
        mine = None if own is None else own.node
        rpc = self._rpc
        if rpc is not None:
            asked = [node for node in self._others() if node != mine and rpc.connected(node)]
            told = await asyncio.gather(*(self._ask(rpc, node) for node in asked))
            found += [facts for facts in told if facts is not None]
        return sorted(found, key=lambda facts: facts.node)

    @property
    def own_node(self) -> int | None:
        return None if self._own is None else self._own().node

    async def _ask(self, rpc: Rpc, node: int) -> NodeFacts | None:
        try:
            return decode_facts(await rpc.call(node, METHOD, b"", TIMEOUT_S))
        except KalamError:
            return None
