"""The links of one process: exactly one to each node, dialled by either side, made anew when lost.

1. Every node of the address book is dialled until there is a link to it; names are resolved each
   time. Nodes also listen, and take links of nodes that are in nobody's book yet.
2. Of two nodes the one with the smaller id decides which link is used: it approves one at a time,
   so both sides have the same, and two that dial each other at once break no link.
3. A link that is lost fails what was under way on it, and its node is dialled again.

Keeps:
- A peer is known by its handshake only; a router sends no frames of the log.
- Connections that have not proven anything are UNPROVEN_MAX at most; the oldest goes.
- `on_connected` and `on_disconnected` of a node alternate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import structlog

from cluster.rpc import frames, tls
from cluster.rpc.calls import Calls
from cluster.rpc.dialling import Dialler
from cluster.rpc.handlers import Handlers
from cluster.rpc.handshake import TIMEOUT_S, Identity, MayJoin, Proven, Refusal, Speaker
from cluster.rpc.link import Link
from cluster.rpc.port import Peer, RpcStream
from cluster.rpc.seldom import Seldom
from cluster.rpc.workers import Workers
from kalamdb.config import address
from kalamdb.errors import Unavailable
from kalamdb.lib.clock import Clock, Ids

log: Any = structlog.get_logger("rpc")

UNPROVEN_MAX = 256
ROUTERS_MAX = 256
WATCH_S = 0.25
LATE_S = 1.0  # a watch so late means that this process itself was stopped
CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """`listen`: HOST:PORT of a node; None for a router. `tls_files`: None for plain TCP."""

    secret: str
    listen: str | None
    tls_files: tls.TlsFiles | None = None


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One link, as a row of a system table. `node` is None for a router."""

    node: int | None
    peer: str
    address: str
    dialled: bool
    tls: bool
    since_ms: int
    rtt_ms: float | None
    bytes_in: int
    bytes_out: int
    buffered_bytes: int
    requests: int
    streams: int


@dataclass(frozen=True, slots=True)
class PeersStatistics:
    nodes_linked: int
    routers_linked: int
    links_made_total: int
    links_lost_total: int
    links_refused_total: int
    links_overflowed_total: int
    links_silent_total: int
    bytes_in_total: int
    bytes_out_total: int
    buffered_bytes: int
    requests_asked_total: int
    requests_answered_total: int
    requests_under_way: int
    streams: int


def _anybody(node: int, uuid: object) -> str | None:
    return None


class Peers(Handlers):
    """Implements `Rpc`, `Service`, and the log's `Link`. Handlers are set before `async with`."""

    def __init__(
        self,
        identity: Identity,
        settings: LinkSettings,
        addresses: Mapping[int, str],
        clock: Clock,
        ids: Ids,
        *,
        on_connected: Callable[[int], None],
        on_disconnected: Callable[[int], None],
        on_raft_frame: Callable[[int, bytes], bool],
        may_join: MayJoin = _anybody,
    ) -> None:
        """`addresses`: node → HOST:PORT; this node's own is not dialled. `may_join`: a node and
        its uuid → why it is refused. Raises: InvalidSettings for TLS files of no use.
        """
        super().__init__()
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_raft_frame = on_raft_frame
        self._speaker = Speaker(identity, settings.secret, ids, may_join)
        files = settings.tls_files
        self._server_tls = None if files is None else tls.server_side(files)
        self._client_tls = None if files is None else tls.client_side(files)
        self._addresses = dict(addresses)
        self._diallers: dict[int, Dialler] = {}
        self._links: dict[int, Link] = {}
        self._routers: dict[Link, None] = {}
        self._promised: dict[int, tuple[Link, bytes]] = {}  # approved, and not in use yet
        self._unproven: dict[Link, None] = {}
        self._closing = False
        self._server: asyncio.Server | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watched_s = 0.0
        self._seldom = Seldom(clock)
        self._made = self._lost = self._refused = self._overflowed = self._silent = 0
        self._gone_in = self._gone_out = self._gone_asked = self._gone_answered = 0

    # ---- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Peers:
        """Listen and dial. Raises: OSError when the address is taken or not this machine's."""
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._workers = Workers(self._tasks.create_task)
        try:
            if self._settings.listen is not None:
                await self._listen(self._settings.listen)
        except BaseException:
            await self._tasks.__aexit__(None, None, None)
            raise
        self._watched_s = self._clock.monotonic_s()
        self._watch = self._loop.call_later(WATCH_S, self._look)
        self.set_addresses(self._addresses)
        return self

    async def _listen(self, text: str) -> None:
        host, port = address(text)
        limit_s = None if self._server_tls is None else TIMEOUT_S
        self._server = await self._loop.create_server(
            self._accepted,
            host,
            port,
            ssl=self._server_tls,
            ssl_handshake_timeout=limit_s,
            backlog=UNPROVEN_MAX,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            self._server.close()
        for dialler in self._diallers.values():
            dialler.stop()
        self._diallers.clear()
        links = [*self._links.values(), *self._routers, *self._unproven]
        for link in links:
            if link.peer is not None:
                link.calls.cancel_all()
            link.close("this process is stopping", quiet=True, flush=True)
        self._workers.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(link.gone for link in links))
        except TimeoutError:
            for link in links:
                link.abort()
        await self._tasks.__aexit__(kind, error, trace)

    def listening(self) -> str | None:
        """HOST:PORT as it is, also where the setting left the port open."""
        if self._server is None:
            return None
        host, port, *_ = self._server.sockets[0].getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def set_addresses(self, addresses: Mapping[int, str]) -> None:
        """The address book from now on. Links to nodes that are not in it any more are closed."""
        own = self._identity.node
        wished = {node: text for node, text in addresses.items() if node != own}
        for node in [node for node in self._addresses if node not in wished and node != own]:
            link = self._links.get(node)
            if link is not None:
                link.close("it was taken out of the address book", flush=True)
        self._addresses = wished
        if self._watch is None:
            return  # `async with` dials them
        for node in [node for node in self._diallers if node not in wished]:
            self._diallers.pop(node).stop()
        for node, text in wished.items():
            dialler = self._diallers.get(node)
            if dialler is None:
                dialler = self._diallers[node] = Dialler(node, text, self, self._ids)
                dialler.start(self._tasks.create_task)
            else:
                dialler.move(text)

    # ---- Rpc, and the log's Link -------------------------------------------------------------

    def connected(self, node: int) -> bool:
        return node in self._links

    async def call(self, node: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        link = self._links.get(node)
        if link is None:
            raise _nobody(node)
        return await link.calls.call(method, payload, timeout_s)

    async def ask(
        self, node: int, method: str, payload: bytes, timeout_s: float
    ) -> bytes | AsyncIterator[bytes]:
        link = self._links.get(node)
        if link is None:
            raise _nobody(node)
        return await link.calls.ask(method, payload, timeout_s)

    async def open(self, node: int, method: str, payload: bytes) -> RpcStream:
        link = self._links.get(node)
        if link is None:
            raise _nobody(node)
        return link.calls.open(method, payload)

    def send(self, node: int, frame: bytes) -> bool:
        """A frame of the log. False: nobody there."""
        link = self._links.get(node)
        if link is None or len(frame) >= frames.FRAME_BYTES_MAX:
            return False
        link.write(frames.raft_head(len(frame)), frame)
        return True

    # ---- what diallers ask -------------------------------------------------------------------

    async def dial(self, node: int, text: str) -> Link:
        """A connection whose handshake has begun. Raises: OSError, UnicodeError."""
        host, port = address(text)
        made: list[Link] = []

        def make() -> Link:
            made.append(Link(self._speaker, node, self, self._clock))
            return made[-1]

        try:
            _, link = await self._loop.create_connection(make, host, port, ssl=self._client_tls)
        except BaseException:
            for link in made:  # uvloop makes the protocol first
                link.never_connected()
            raise
        return link

    def note_unreachable(self, node: int, text: str, reason: str) -> None:
        if self._seldom.is_due(f"unreachable {node} {reason}"):
            log.warning("dial_failed", peer=f"node {node}", address=text, reason=reason)

    # ---- what links tell ---------------------------------------------------------------------

    def _accepted(self) -> Link:
        link = Link(self._speaker, None, self, self._clock)
        self._unproven[link] = None
        if len(self._unproven) > UNPROVEN_MAX:
            next(iter(self._unproven)).close(f"over {UNPROVEN_MAX} connections prove nothing")
        return link

    def approve(self, link: Link, peer: Proven) -> Refusal | None:
        me, node = self._identity.node, peer.identity.node
        if self._closing:
            return Refusal.FULL
        if node is None:
            return Refusal.FULL if len(self._routers) >= ROUTERS_MAX else None
        if me is not None and me > node:
            return None  # the other side decides
        # A peer that has started anew has no use for the links it had before.
        linked, promised = self._links.get(node), self._promised.get(node)
        if linked is not None and linked.peer == peer:
            return Refusal.LINKED
        if promised is not None and promised[1] == peer.incarnation:
            return Refusal.LINKED
        self._promised[node] = link, peer.incarnation
        return None

    def joined(self, link: Link, peer: Proven) -> Calls:
        self._unproven.pop(link, None)
        node = peer.identity.node
        self._made += 1
        if node is None:
            self._routers[link] = None
        else:
            if node in self._promised and self._promised[node][0] is link:
                del self._promised[node]
            former = self._links.get(node)
            if former is not None:
                former.close("a newer link takes its place")
        log.info("link_made", peer=link.name, address=link.address, dialled=link.dialled)
        calls = Calls(Peer(node, link.name), link, self, self._workers, dialled=link.dialled)
        if node is not None:
            self._links[node] = link
        return calls

    def ready(self, link: Link) -> None:
        node = link.node
        if node is not None and self._links.get(node) is link:
            self._on_connected(node)

    def raft_frame(self, link: Link, frame: bytes) -> bool:
        node = link.node
        return node is not None and self._on_raft_frame(node, frame)

    def left(self, link: Link, reason: str, *, quiet: bool) -> None:
        self._unproven.pop(link, None)
        self._gone_in += link.bytes_in
        self._gone_out += link.bytes_out
        if link.peer is None:
            self._not_joined(link, reason, quiet=quiet)
            return
        self._lost += 1
        self._overflowed += link.overflowed
        self._silent += link.silent
        counts = link.calls.statistics()
        self._gone_asked += counts.asked
        self._gone_answered += counts.answered
        name, node = link.name, link.node
        log.info("link_lost", peer=name, address=link.address, reason=reason)
        if node is None:
            self._routers.pop(link, None)
        elif self._links.get(node) is link:
            del self._links[node]
            self._on_disconnected(node)
            if (dialler := self._diallers.get(node)) is not None:
                dialler.lost()

    def _not_joined(self, link: Link, reason: str, *, quiet: bool) -> None:
        for node in [node for node, kept in self._promised.items() if kept[0] is link]:
            del self._promised[node]
        self._refused += 1
        if quiet:
            return
        peer = link.claimed if link.wanted is None else f"node {link.wanted}"
        host = link.address.rpartition(":")[0]
        if self._seldom.is_due(f"refused {host} {peer} {reason}"):
            log.warning("link_refused", peer=peer, address=link.address, reason=reason)

    # ---- looking after -----------------------------------------------------------------------

    def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        late, self._watched_s = now_s - self._watched_s > LATE_S, now_s
        self._watch = self._loop.call_later(WATCH_S, self._look)
        for link in [*self._links.values(), *self._routers]:
            link.watch(now_s, late=late)

    def links(self) -> Sequence[LinkFacts]:
        """All links in use, those to nodes first."""
        nodes = [self._links[node] for node in sorted(self._links)]
        return [_facts(link) for link in [*nodes, *self._routers]]

    def statistics(self) -> PeersStatistics:
        facts = self.links()
        counts = [link.calls.statistics() for link in [*self._links.values(), *self._routers]]
        return PeersStatistics(
            nodes_linked=len(self._links),
            routers_linked=len(self._routers),
            links_made_total=self._made,
            links_lost_total=self._lost,
            links_refused_total=self._refused,
            links_overflowed_total=self._overflowed,
            links_silent_total=self._silent,
            bytes_in_total=self._gone_in + sum(each.bytes_in for each in facts),
            bytes_out_total=self._gone_out + sum(each.bytes_out for each in facts),
            buffered_bytes=sum(each.buffered_bytes for each in facts),
            requests_asked_total=self._gone_asked + sum(each.asked for each in counts),
            requests_answered_total=self._gone_answered + sum(each.answered for each in counts),
            requests_under_way=sum(each.asking + each.answering for each in counts),
            streams=sum(each.streams for each in counts),
        )


def _nobody(node: int) -> Unavailable:
    return Unavailable(f"node {node} is not connected")


def _facts(link: Link) -> LinkFacts:
    counts = link.calls.statistics()
    return LinkFacts(
        node=link.node,
        peer=link.name,
        address=link.address,
        dialled=link.dialled,
        tls=link.tls,
        since_ms=link.since_ms,
        rtt_ms=link.rtt_ms,
        bytes_in=link.bytes_in,
        bytes_out=link.bytes_out,
        buffered_bytes=link.buffered_bytes,
        requests=counts.asking + counts.answering,
        streams=counts.streams,
    )
