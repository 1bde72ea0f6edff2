"""Links between nodes without sockets: `Rpc` and `Service` for nodes in one loop.

    async with Loopback(1, 2) as net:
        net[2].on_call("echo", echo)
        assert await net[1].call(2, "echo", b"x", 1.0) == b"x"
        net.cut(1, 2)

Everything above the socket is real: frames, ids, windows, errors as bytes, cancellation. What is
sent arrives in the next turn of the loop, in order. A router has a negative number here, and a
`Peer` whose node is None; nodes don't reach it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from cluster.rpc import frames
from cluster.rpc.calls import REQUESTS_PAUSE_BYTES, STREAMS_PAUSE_BYTES, Calls
from cluster.rpc.handlers import Handlers
from cluster.rpc.port import Peer, RpcStream
from cluster.rpc.workers import Workers
from kalamdb.errors import Unavailable


class LoopNode(Handlers):
    """One node: `Rpc`, `Service`, and the log's `Link`. The callbacks may be set at any time."""

    def __init__(self, number: int, workers: Workers) -> None:
        super().__init__()
        self.number = number
        self.workers = workers
        self.links: dict[int, _End] = {}
        self.on_connected: Callable[[int], None] = lambda node: None
        self.on_disconnected: Callable[[int], None] = lambda node: None
        self.on_raft_frame: Callable[[int, bytes], bool] = lambda node, frame: True

    @property
    def peer(self) -> Peer:
        if self.number < 0:
            return Peer(None, f"router {-self.number}")
        return Peer(self.number, f"node {self.number}")

    def connected(self, node: int) -> bool:
        return node in self.links

    async def call(self, node: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        return await self._calls(node).call(method, payload, timeout_s)

    async def ask(
        self, node: int, method: str, payload: bytes, timeout_s: float
    ) -> bytes | AsyncIterator[bytes]:
        return await self._calls(node).ask(method, payload, timeout_s)

    async def open(self, node: int, method: str, payload: bytes) -> RpcStream:
        return self._calls(node).open(method, payload)

    def _calls(self, node: int) -> Calls:
        end = self.links.get(node)
        if end is None or node < 0:
            raise Unavailable(f"node {node} is not connected")
        return end.calls

    def send(self, node: int, frame: bytes) -> bool:
        """A frame of the log."""
        end = self.links.get(node)
        if end is None:
            return False
        end.write(frames.raft_head(len(frame)), frame)
        return True


class _End:
    """One end of a link; the `Carrier` of its calls."""

    def __init__(self, here: LoopNode, there: LoopNode, *, dialled: bool) -> None:
        self._here = here
        self._there = there
        self._loop = asyncio.get_running_loop()
        self._splitter = frames.Splitter()
        self._queue: list[bytes] = []  # on its way to the other end
        self._queued_bytes = 0
        self._woken = False
        self.held = False  # what is sent stays on its way
        self.closed = False
        self.other: _End | None = None
        self.calls = Calls(there.peer, self, here, here.workers, dialled=dialled)

    @property
    def paused(self) -> bool:
        return self._queued_bytes > STREAMS_PAUSE_BYTES

    @property
    def full(self) -> bool:
        return self._queued_bytes > REQUESTS_PAUSE_BYTES

    def write(self, head: bytes, payload: bytes = b"") -> None:
        if self.closed:
            return
        self._queue.append(head + payload)
        self._queued_bytes += len(head) + len(payload)
        self.wake()

    def wake(self) -> None:
        if not self._woken and not self.held:
            self._woken = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        if self.closed or self.held or not self._queue:
            return
        was_paused = self.paused
        data, self._queue, self._queued_bytes = b"".join(self._queue), [], 0
        assert self.other is not None
        self.other.arrived(data)
        if was_paused and not self.closed:
            self.calls.unpaused()

    def arrived(self, data: bytes) -> None:
        self._splitter.feed(data, self._hear)

    def _hear(self, kind: int, data: bytes, start: int, end: int) -> None:
        if self.closed:
            return
        if kind == frames.RAFT:
            assert self._here.on_raft_frame(self._there.number, data[start:end])
        else:
            self.calls.receive(kind, data, start, end)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._here.links.pop(self._there.number, None)
        self._here.on_disconnected(self._there.number)
        self.calls.lost(f"the link to {self._there.peer.name} broke")


class Loopback:
    """See the module. Every pair of nodes is linked once the block begins."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self._nodes: dict[int, LoopNode] = {}
        self._tasks = asyncio.TaskGroup()

    def __getitem__(self, number: int) -> LoopNode:
        return self._nodes[number]

    async def __aenter__(self) -> Loopback:
        await self._tasks.__aenter__()
        self._workers = Workers(self._tasks.create_task)
        for number in self._numbers:
            self._nodes[number] = LoopNode(number, self._workers)
        for first in self._numbers:
            for second in self._numbers:
                if first < second:
                    self.mend(first, second)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in self._nodes.values():
            for end in list(node.links.values()):
                end.calls.cancel_all()
                end.close()
        self._workers.close()
        await self._tasks.__aexit__(kind, error, trace)

    def mend(self, first: int, second: int) -> None:
        """Link two nodes, when they are not. Routers have no links to each other."""
        if second in self[first].links or (first < 0 and second < 0):
            return
        one = _End(self[first], self[second], dialled=True)
        two = _End(self[second], self[first], dialled=False)
        one.other, two.other = two, one
        self[first].links[second], self[second].links[first] = one, two
        self[first].on_connected(second)
        self[second].on_connected(first)

    def cut(self, first: int, second: int) -> None:
        """Break the link: what is on its way is lost, and both ends learn it."""
        for here, there in ((first, second), (second, first)):
            end = self[here].links.get(there)
            if end is not None:
                end.close()

    def stop(self, number: int) -> None:
        """Cut all links of a node."""
        for other in self._numbers:
            if other != number:
                self.cut(number, other)

    def hold(self, sender: int, receiver: int) -> None:
        """What `sender` sends stays on its way until `release`."""
        self[sender].links[receiver].held = True

    def release(self, sender: int, receiver: int) -> None:
        end = self[sender].links[receiver]
        end.held = False
        end.wake()
