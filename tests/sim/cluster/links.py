"""Links between simulated processes: the product's own calls and streams over the simulated
network.

A link carries the frames of Raft and of rpc in one order. Windows of streams are small, so that
senders meet their end.

Keeps: what arrives belongs to the link it was sent on; a handler that fails as none may is a fault
of the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from cluster.rpc import calls, frames, streams
from cluster.rpc.calls import Calls
from cluster.rpc.handlers import Handlers
from cluster.rpc.port import Peer, RpcStream
from cluster.rpc.workers import Workers
from kalamdb.errors import Unavailable
from tests.sim.network import Network
from tests.sim.timeline import Life, Loop

WINDOW_BYTES = 3000
ROUTERS_FROM = 101


@dataclass(frozen=True, slots=True)
class RpcFrame:
    """Bytes of rpc on the simulated network; frames of Raft are bare bytes there."""

    data: bytes


class LinkEnd(Handlers):
    """One process's end of all its links; implements `Rpc` and `Service`."""

    def __init__(self, node: int, network: Network, loop: Loop, life: Life) -> None:
        super().__init__()
        self.node = node
        self.network = network
        self.life = life
        self._workers = Workers(loop.create_task)
        self._links: dict[int, _Link] = {}
        self.on_connected: list[Callable[[int], None]] = []
        self.on_disconnected: list[Callable[[int], None]] = []

    # Rpc.

    def connected(self, node: int) -> bool:
        return node in self._links

    @property
    def peers(self) -> list[int]:
        return sorted(self._links)

    async def call(self, node: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        return await self._calls(node).call(method, payload, timeout_s)

    async def ask(
        self, node: int, method: str, payload: bytes, timeout_s: float
    ) -> bytes | AsyncIterator[bytes]:
        return await self._calls(node).ask(method, payload, timeout_s)

    async def open(self, node: int, method: str, payload: bytes) -> RpcStream:
        return self._calls(node).open(method, payload)

    def _calls(self, node: int) -> Calls:
        link = self._links.get(node)
        if link is None:
            raise Unavailable(f"node {node} is not connected")
        return link.calls

    # The network's side.

    def link_up(self, peer: int) -> None:
        self._links[peer] = _Link(self, peer, self._workers)
        for tell in self.on_connected:
            tell(peer)

    def link_down(self, peer: int) -> None:
        link = self._links.pop(peer, None)
        if link is not None:
            link.closed = True
            link.calls.lost(f"the link to {peer} broke")
            for tell in self.on_disconnected:
                tell(peer)

    def receive(self, peer: int, frame: RpcFrame) -> None:
        link = self._links.get(peer)
        if link is not None:
            link.splitter.feed(frame.data, link.calls.receive)


class _Link:
    """One link, as its calls see it (`rpc.calls.Carrier`)."""

    def __init__(self, end: LinkEnd, peer: int, workers: Workers) -> None:
        self._end = end
        self._peer = peer
        self.closed = False
        self.splitter = frames.Splitter()
        who = Peer(peer, f"node {peer}") if peer < ROUTERS_FROM else Peer(None, f"router {peer}")
        self.calls = Calls(who, self, end, workers, dialled=end.node < peer)

    @property
    def paused(self) -> bool:
        return False

    @property
    def full(self) -> bool:
        return False

    def write(self, head: bytes, payload: bytes = b"") -> None:
        if not (self.closed or self._end.life.ended):  # what is finalized late says nothing
            frame = RpcFrame(head + payload)
            self._end.network.send(self._end.node, self._peer, frame)  # type: ignore[arg-type]


@contextmanager
def watched_links(faults: list[str]) -> Iterator[None]:
    """Small windows; what the product would log as a bug of a handler goes into `faults`."""

    class Log:
        def error(self, event: str, **fields: object) -> None:
            error = fields.get("exc_info")
            faults.append(f"{event}: {type(error).__name__}: {error}")

    with (
        patch.object(streams, "STREAM_WINDOW_BYTES", WINDOW_BYTES),
        patch.object(calls, "log", Log()),
    ):
        yield
