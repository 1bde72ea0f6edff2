"""What the rest of the cluster asks of the links between nodes, as Protocols.

One authenticated connection joins each pair of nodes; a router has one to each node. Calls,
streams and the frames of Raft share it. `peers.py` implements this over sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from kalamdb.errors import KalamError

STREAM_WINDOW_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the handshake proved. `node` is None for a router."""

    node: int | None
    name: str  # "node 2", "router 10.0.0.7:51234": for logs and errors


class RpcStream(Protocol):
    """One stream of messages in both directions, each direction in order and within a window. A
    message has at most 16 MiB (else LimitReached); one reader at a time.

    Once the link is lost, `receive` and `send` raise Unavailable; `push` gives False.
    """

    async def send(self, data: bytes) -> None:
        """Waits for room. Raises Unavailable; the error the other side aborted with."""
        ...

    def push(self, data: bytes) -> bool:
        """Without waiting. False, and nothing was sent: there is no room, or nobody there."""
        ...

    async def room(self) -> bool:
        """Waits until `push` would take something; False: the stream is over."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; None: the other side has ended. Raises Unavailable, or, after what was
        sent before it, the error it was aborted with.
        """
        ...

    def end(self) -> None:
        """Nothing more comes from here."""
        ...

    def abort(self, error: KalamError | None = None) -> None:
        """Over in both directions, at once; the other side sees `error`. May be called twice."""
        ...


class Rpc(Protocol):
    """Requests from here to other nodes."""

    def connected(self, node: int) -> bool: ...

    async def call(self, node: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        """The handler's answer.

        Raises what the handler raised; LimitReached for a payload or an answer of over 16 MiB;
        Unavailable when it was certainly not delivered (nobody there, no room); Indeterminate when
        the link broke or the time ran out after it had left.
        Cancelling the caller cancels the handler.
        """
        ...

    async def ask(
        self, node: int, method: str, payload: bytes, timeout_s: float
    ) -> bytes | AsyncIterator[bytes]:
        """As `call`, for handlers whose answer may be a stream of pieces. `timeout_s` is until the
        answer begins, and then until each next piece. The iterator raises Unavailable or the
        handler's error; call its `aclose` in any case.
        """
        ...

    async def open(self, node: int, method: str, payload: bytes) -> RpcStream:
        """Begin a stream. Raises Unavailable when nobody is there."""
        ...


CallHandler = Callable[[Peer, bytes], Awaitable[bytes]]
AskHandler = Callable[[Peer, bytes], Awaitable[bytes | AsyncIterator[bytes]]]
StreamHandler = Callable[[Peer, bytes, RpcStream], Awaitable[None]]


class Service(Protocol):
    """What this node answers. Each method has one handler, set before the node listens.

    What a handler raises of the error tree goes to the caller as it is; anything else is logged
    here and reaches it as a bug of the server.
    """

    def on_call(self, method: str, handler: CallHandler) -> None: ...

    def on_ask(self, method: str, handler: AskHandler) -> None: ...

    def on_stream(self, method: str, handler: StreamHandler) -> None:
        """The stream is over when the handler returns (ended) or raises (aborted). A handler that
        has not returned a second after the other side aborted, or the link broke, is cancelled.
        """
        ...
