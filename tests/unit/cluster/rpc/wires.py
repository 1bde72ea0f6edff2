"""One end of a link in the test's hand: a transport that keeps what is written, a set clock."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from cluster.rpc.calls import Calls
from cluster.rpc.handlers import Handlers
from cluster.rpc.handshake import Handshake, Identity, Proven, Refusal, Speaker
from cluster.rpc.link import Link
from cluster.rpc.port import Peer
from cluster.rpc.workers import Workers


class SetClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class KeptTransport(asyncio.Transport):
    """Takes in at most `room_bytes`; the rest waits, as with a peer that does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.room_bytes = 1 << 40
        self.protocol: Any = None
        self.high_bytes = 1 << 40
        self.closed = self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.9", 9189) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self.high_bytes = high

    def get_write_buffer_size(self) -> int:
        return max(0, sum(map(len, self.writes)) - self.room_bytes)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writes.append(bytes(data))
        if self.get_write_buffer_size() > self.high_bytes:
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class KeptOwner:
    """Implements `cluster.rpc.link.Owner`."""

    def __init__(self, handlers: Handlers, workers: Workers) -> None:
        self.handlers, self.workers = handlers, workers
        self.frames: list[bytes] = []
        self.reasons: list[str] = []

    def approve(self, link: Link, peer: Proven) -> Refusal | None:
        return None

    def joined(self, link: Link, peer: Proven) -> Calls:
        return Calls(Peer(1, "node 1"), link, self.handlers, self.workers, dialled=link.dialled)

    def ready(self, link: Link) -> None:
        pass

    def raft_frame(self, link: Link, frame: bytes) -> bool:
        self.frames.append(frame)
        return frame != b"broken"

    def left(self, link: Link, reason: str, *, quiet: bool) -> None:
        self.reasons.append(reason)


def joined(link: Link, transport: KeptTransport, speakers: tuple[Speaker, Speaker]) -> None:
    """Take `link`, an accepting one of the second speaker, through its handshake."""
    transport.protocol = link
    link.connection_made(transport)
    there = Handshake(speakers[0], 2, b"", lambda peer: None)
    data = there.begin()
    while data:
        link.data_received(data)
        data = there.feed(b"".join(transport.writes))
        transport.writes.clear()
    assert link.peer is not None


def identity(node: int | None, cluster: str = "test") -> Identity:
    return Identity(cluster, node, UUID(int=node or 99))
