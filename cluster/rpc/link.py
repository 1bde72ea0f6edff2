"""One connection: the handshake, then frames. What leaves in a turn of the loop is one write.

Keeps:
- No frame is heard, and none leaves, before the handshake is over.
- A peer that does not read is dropped at BUFFER_BYTES_MAX; streams stop long before, requests are
  refused in between.
- After PING_AFTER_S without a byte the peer is asked; after DEAD_AFTER_S it is gone, whatever its
  host's TCP may say. Silence counts while this process runs only.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol, cast

from cluster.rpc import frames
from cluster.rpc.calls import REQUESTS_PAUSE_BYTES, STREAMS_PAUSE_BYTES, Calls
from cluster.rpc.frames import BrokenFrame, Splitter
from cluster.rpc.handshake import TIMEOUT_S, Handshake, Proven, Refusal, Refused, Speaker
from kalamdb.lib.clock import Clock

BUFFER_BYTES_MAX = 32 << 20
PING_AFTER_S = 1.0
RTT_EVERY_S = 5.0
DEAD_AFTER_S = 3.0
JOIN_BYTES_MAX = 64 << 10
TCP_USER_TIMEOUT_MS = 5_000


class Owner(Protocol):
    """Who makes links and keeps them."""

    def approve(self, link: Link, peer: Proven) -> Refusal | None:
        """Is a link to this peer wanted? It has proven who it is."""
        ...

    def joined(self, link: Link, peer: Proven) -> Calls:
        """The handshake is over. What hears its requests."""
        ...

    def ready(self, link: Link) -> None:
        """It may be used from now on."""
        ...

    def raft_frame(self, link: Link, frame: bytes) -> bool:
        """False: it is none."""
        ...

    def left(self, link: Link, reason: str, *, quiet: bool) -> None:
        """Said once for each link, whether it had joined or not."""
        ...


class Link(asyncio.Protocol):
    """See the module. `wanted`: the node that was dialled; None: this end was dialled."""

    def __init__(self, speaker: Speaker, wanted: int | None, owner: Owner, clock: Clock) -> None:
        self._speaker = speaker
        self.wanted = wanted
        self._owner = owner
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._handshake: Handshake | None = None
        self._limit = self._loop.call_later(TIMEOUT_S, self._too_slow)
        self._splitter = Splitter()
        self._calls: Calls | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flushing = False  # a flush will come by itself
        self._pausing = False  # the transport has more than it should
        self._closed: str | None = None
        self._heard_s = self._pinged_s = clock.monotonic_s()
        self._heard_any = False
        self.peer: Proven | None = None
        self.address = ""
        self.tls = False
        self.since_ms = 0
        self.rtt_ms: float | None = None
        self.bytes_in = self.bytes_out = 0
        self.overflowed = self.silent = False  # why it was closed
        self.over: asyncio.Future[None] = self._loop.create_future()  # nothing more is heard
        self.gone: asyncio.Future[None] = self._loop.create_future()  # nothing more leaves

    @property
    def dialled(self) -> bool:
        return self.wanted is not None

    @property
    def claimed(self) -> str:
        return "somebody" if self._handshake is None else self._handshake.claimed

    @property
    def node(self) -> int | None:
        """Of a link in use: the node there, None for a router."""
        return None if self.peer is None else self.peer.identity.node

    @property
    def name(self) -> str:
        return f"router {self.address}" if self.node is None else f"node {self.node}"

    @property
    def calls(self) -> Calls:
        assert self._calls is not None
        return self._calls

    # ---- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        raw: Any = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        self.address = _shown(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(high=STREAMS_PAUSE_BYTES, low=STREAMS_PAUSE_BYTES // 4)
        if self._closed is not None:
            transport.abort()
            return
        handshake = self._handshake = Handshake(
            self._speaker, self.wanted, self._binding(transport), self._approve
        )
        if first := handshake.begin():
            transport.write(first)

    def _binding(self, transport: asyncio.Transport) -> bytes:
        """What both ends of one TLS session know, and nobody else; empty without TLS."""
        session: Any = transport.get_extra_info("ssl_object")
        if session is None:
            return b""
        self.tls = True
        return session.get_channel_binding("tls-unique") or b""

    def data_received(self, data: bytes) -> None:
        self._heard_any = True
        self.bytes_in += len(data)
        if self._calls is None:
            self._shake(data)
            return
        was_flushing, self._flushing = self._flushing, True  # once, after all of it is heard
        try:
            self._splitter.feed(data, self._hear)
        except BrokenFrame as broken:
            self.close(f"it sent no proper frames: {broken}")
        finally:
            self._flushing = was_flushing
            if self._out:
                self._flush()

    def pause_writing(self) -> None:
        self._pausing = True

    def resume_writing(self) -> None:
        self._pausing = False
        if self._calls is not None:
            self._calls.unpaused()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end("it closed the connection" if exc is None else f"the connection broke: {exc}")
        if not self.gone.done():
            self.gone.set_result(None)

    # ---- the handshake -----------------------------------------------------------------------

    def _approve(self, peer: Proven) -> Refusal | None:
        return self._owner.approve(self, peer)

    def never_connected(self) -> None:
        """Its connection was not made."""
        self._limit.cancel()

    def _too_slow(self) -> None:
        what = "TLS, which may have failed," if self._transport is None else "the handshake"
        self.close(f"{what} took longer than {TIMEOUT_S:g} s")

    def _shake(self, data: bytes) -> None:
        handshake, transport = self._handshake, self._transport
        if self._closed is not None or handshake is None or transport is None:
            return
        try:
            said = handshake.feed(data)
        except Refused as refused:
            if refused.answer:
                transport.write(refused.answer)
            self.close(refused.reason, quiet=refused.quiet)
            return
        if said:
            transport.write(said)
        if handshake.peer is None:
            return
        self._limit.cancel()
        self.peer = handshake.peer
        self.since_ms = self._clock.wall_ms()
        self._heard_s = self._clock.monotonic_s()
        self._pinged_s = self._heard_s - RTT_EVERY_S  # the first look asks
        self._calls = self._owner.joined(self, handshake.peer)
        self._owner.ready(self)
        if rest := handshake.rest:
            handshake.rest = b""
            self.data_received(rest)

    # ---- frames ------------------------------------------------------------------------------

    def _hear(self, kind: int, data: bytes, start: int, end: int) -> None:
        if self._closed is not None or self._calls is None:
            return
        if kind == frames.RAFT:
            if not self._owner.raft_frame(self, data[start:end]):
                raise BrokenFrame("a frame of the log is none")
        elif kind == frames.PING:
            self.write(frames.id_head(frames.PONG, frames.read_id(data, start, end)))
        elif kind == frames.PONG:
            sent_us = frames.read_id(data, start, end)
            self.rtt_ms = max(0.0, self._clock.monotonic_s() * 1e3 - sent_us / 1e3)
        else:
            self._calls.receive(kind, data, start, end)

    @property
    def paused(self) -> bool:
        return self._pausing or self._out_bytes > STREAMS_PAUSE_BYTES

    @property
    def full(self) -> bool:
        return self.paused and self.buffered_bytes > REQUESTS_PAUSE_BYTES

    @property
    def buffered_bytes(self) -> int:
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._out_bytes + waiting

    def write(self, head: bytes, payload: bytes = b"") -> None:
        """Queue a frame; dropped once the link is closed."""
        if self._closed is not None:
            return
        self._out.append(head)
        self._out_bytes += len(head) + len(payload)
        if payload:
            self._out.append(payload)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._flushing = False
        if self._out:
            self._flush()

    def _flush(self) -> None:
        out, size, transport = self._out, self._out_bytes, self._transport
        self._out, self._out_bytes = [], 0
        if self._closed is not None or transport is None:
            return
        self.bytes_out += size
        if size <= JOIN_BYTES_MAX:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)
        if self._pausing:
            if transport.get_write_buffer_size() > BUFFER_BYTES_MAX:
                self.overflowed = True
                self.close(f"it does not read: {BUFFER_BYTES_MAX >> 20} MiB wait for it")
        elif size > STREAMS_PAUSE_BYTES:
            self.calls.unpaused()

    # ---- life and death ----------------------------------------------------------------------

    def watch(self, now_s: float, *, late: bool = False) -> None:
        """Called a few times a second. `late`: this process did not run; silence proves nothing."""
        if self._calls is None or self._closed is not None:
            return
        if self._heard_any or late:
            self._heard_any = False
            self._heard_s = now_s
        silent_s = now_s - self._heard_s
        if silent_s >= DEAD_AFTER_S:
            self.silent = True
            self.close(f"it was silent for {silent_s:.1f} s")
        elif now_s - self._pinged_s >= (PING_AFTER_S if silent_s >= PING_AFTER_S else RTT_EVERY_S):
            self._pinged_s = now_s
            self.write(frames.id_head(frames.PING, int(now_s * 1e6)))

    def close(self, reason: str, *, quiet: bool = False, flush: bool = False) -> None:
        """End it now. `flush`: what was written before still leaves. May be called twice."""
        transport = self._transport
        if flush and self._out and self._closed is None:
            self._flush()
        self._end(reason, quiet=quiet)
        if transport is None:
            if not self.gone.done():
                self.gone.set_result(None)
        else:
            # Before the handshake is over there is at most a refusal to send.
            if flush or self._calls is None:
                transport.close()
            else:
                transport.abort()

    def abort(self) -> None:
        """What waits to leave is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self, reason: str, *, quiet: bool = False) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self._out, self._out_bytes = [], 0
        self._limit.cancel()
        self._owner.left(self, reason, quiet=quiet)
        if self._calls is not None:
            self._calls.lost(f"the link to {self.name} broke: {reason}")
        if not self.over.done():
            self.over.set_result(None)


def _shown(peername: Any) -> str:
    match peername:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return "an unknown address"
