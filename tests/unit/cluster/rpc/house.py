"""Processes with links over real sockets, in the test's own loop."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from cluster.rpc.handshake import Identity, MayJoin
from cluster.rpc.peers import LinkSettings, Peers
from cluster.rpc.tls import TlsFiles
from kalamdb.lib.clock import SystemClock, SystemIds
from tests.waiting import wait_until

SECRET = "of-the-tests 0123456789 abcdefghij"
SOMEWHERE = "127.0.0.1:0"


def anybody(node: int, uuid: UUID) -> str | None:
    return None


class House:
    """One process: its links, and what its callbacks were told."""

    def __init__(
        self,
        node: int | None,
        *,
        secret: str = SECRET,
        cluster: str = "test",
        listen: str = SOMEWHERE,
        files: TlsFiles | None = None,
        may_join: MayJoin = anybody,
    ) -> None:
        self.events: list[str] = []
        self.frames: list[tuple[int, bytes]] = []
        uuid = UUID(int=1000 + (node or 0))
        self.peers = Peers(
            Identity(cluster, node, uuid),
            LinkSettings(secret, None if node is None else listen, files),
            {},
            SystemClock(),
            SystemIds(),
            on_connected=lambda peer: self.events.append(f"+{peer}"),
            on_disconnected=lambda peer: self.events.append(f"-{peer}"),
            on_raft_frame=self._raft_frame,
            may_join=may_join,
        )

    def _raft_frame(self, node: int, frame: bytes) -> bool:
        self.frames.append((node, frame))
        return frame != b"broken"

    @property
    def address(self) -> str:
        text = self.peers.listening()
        assert text is not None
        return text

    def book(self, others: Mapping[int, House]) -> None:
        self.peers.set_addresses({node: house.address for node, house in others.items()})

    async def wait_linked(self, *nodes: int) -> None:
        await wait_until(
            lambda: all(map(self.peers.connected, nodes)), what=f"links to {nodes} are made"
        )
