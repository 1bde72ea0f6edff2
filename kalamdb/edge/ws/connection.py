"""One socket: who it is, what it says, its heartbeat, its end; and the edge that holds all sockets.

1. The upgrade is accepted (shutdown, number of sockets, origin); a bearer header signs in at once.
2. Messages are read one by one; before the next is read the client must have taken in what it was
   sent.
3. A tick every few seconds looks at silence, sign-in, held snapshots and positions.
4. The end, whoever wanted it, closes the subscriptions first: nothing is pushed to a socket that
   says goodbye.

Invariants: a socket's memory is bounded by its buffer limit and one step; a client that takes
nothing in for `slow_consumer_timeout_s` is closed; the cursor of each subscription stands behind
what it has not read, for it to find if it reads on within `close_timeout_s`. Everything runs on the
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import WSMsgType, web

from kalamdb.edge.faults import fault_of, message_of
from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.binding import LiveBinder, LiveGroups
from kalamdb.edge.ws.frames import close_frame
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.msgpack import Unreadable, unpacked
from kalamdb.edge.ws.ongoing import Directory, WsStatistics
from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.queries import Queries, QueryServices, Talks
from kalamdb.edge.ws.relayed import Relays
from kalamdb.edge.ws.services import LiveServices
from kalamdb.edge.ws.streams import Streams
from kalamdb.errors import KalamError, SigningKeyPending, Unauthenticated
from kalamdb.feed.evaluations import Evaluations
from kalamdb.feed.hub import Hub
from kalamdb.lib.clock import Clock
from kalamdb.lib.rates import Buckets
from kalamdb.model.ids import Partition
from kalamdb.model.principal import Principal

# Messages above the limit are answered; far above it the frame reader closes the socket (1009).
READ_MAX_FACTOR = 4

_ONLY_METHOD = "the only method here is jwt"

Authenticate = Callable[[str], Principal]


class WsEdge:
    """All live connections of a node. `handle` is mounted at GET /v1/ws; `close` ends them."""

    def __init__(
        self,
        groups: LiveGroups,
        hub_of: Callable[[Partition], Hub],
        authenticate: Authenticate,
        binder: LiveBinder,
        *,
        clock: Clock,
        limits: WsLimits | None = None,
        evaluations: Evaluations | None = None,
        talks: Talks | None = None,
        users: Buckets | None = None,
        relays: Relays | None = None,
        allowed_origins: Sequence[str] = (),
        origin_required: bool = False,
        node: int = 1,
    ) -> None:
        """`authenticate(token)` raises Unauthenticated; no `allowed_origins`, or `*`, means any.
        Without `evaluations` only queries of one table, filter and projection are live.
        """
        self.authenticate = authenticate
        self.limits = limits or WsLimits()
        self.services = LiveServices(
            groups,
            hub_of,
            binder,
            clock,
            self.limits,
            ThreadPoolExecutor(1, thread_name_prefix="ws-pack"),
            Counter(),
            evaluations,
            relays,
        )
        self.queries = QueryServices(talks, clock, self.services.packer, users)
        self.directory = Directory(clock, node=node)
        self.slow_closed = 0
        self._origins = frozenset(() if "*" in allowed_origins else allowed_origins)
        self._origin_required = origin_required
        self._connections: dict[Connection, None] = {}
        self._flusher: Flusher | None = None
        self._closing = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one socket until its end."""
        self._admit(request)
        limits = self.limits
        socket = web.WebSocketResponse(
            compress=False,
            autoping=False,
            autoclose=False,
            heartbeat=None,
            timeout=limits.close_timeout_s,
            max_msg_size=limits.message_max_bytes * READ_MAX_FACTOR,
            decode_text=False,
        )
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        if self._flusher is None:
            self._flusher = Flusher(asyncio.get_running_loop())
        outbox = Outbox(transport, self._flusher, limits.buffer_max_bytes)
        connection = Connection(self, request, socket, outbox)
        self._connections[connection] = None
        try:
            await connection.run()
        finally:
            del self._connections[connection]
        return socket

    async def close(self) -> None:
        """Refuse new sockets and close all with 1001; takes about `close_timeout_s` at most."""
        self._closing = True
        async with asyncio.TaskGroup() as tasks:
            for connection in list(self._connections):
                tasks.create_task(connection.close(1001, "shutting down"))
        self.services.packer.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> WsStatistics:
        flusher = self._flusher
        return WsStatistics(
            len(self._connections),
            self.services.per_user.total(),
            flusher.frames if flusher else 0,
            flusher.size_bytes if flusher else 0,
            self.slow_closed,
        )

    def _admit(self, request: web.Request) -> None:
        if self._closing:
            raise web.HTTPServiceUnavailable(text="shutting down")
        if len(self._connections) >= self.limits.connections:
            raise web.HTTPServiceUnavailable(text="too many connections")
        origin = request.headers.get("Origin")
        if origin is None:
            if self._origin_required:
                raise web.HTTPForbidden(text="an Origin header is required")
        elif self._origins and origin not in self._origins:
            raise web.HTTPForbidden(text="this Origin is not allowed")


class Connection:
    """One socket, from the upgrade to its end."""

    def __init__(
        self, edge: WsEdge, request: web.Request, socket: web.WebSocketResponse, outbox: Outbox
    ) -> None:
        self._edge = edge
        self._limits = edge.limits
        self._clock = edge.services.clock
        self._request = request
        self._socket = socket
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._tasks = asyncio.TaskGroup()
        self._streams = Streams(edge.services, outbox, self._pump_drained, self._tasks.create_task)
        self._queries = Queries(edge.queries, outbox, self._pump_drained, self._tasks.create_task)
        self._seat = edge.directory.take(self._streams, self._end, request.remote)
        self._principal: Principal | None = None
        self._token = ""
        self._signing: asyncio.Task[None] | None = None
        self._may_pack = request.query.get("compress") != "false"
        self._spoken = protocol.SpokenProtocol(self._may_pack)
        self._ticking = self._loop.call_later(edge.limits.heartbeat_interval_s, self._tick)
        self._greeting = self._loop.call_later(edge.limits.auth_timeout_s, self._auth_overdue)
        self._closing = False
        self._over = asyncio.Event()
        self._heard_s = self._clock.monotonic_s()
        self._allowance = float(edge.limits.messages_burst)
        self._allowance_s = self._heard_s

    async def run(self) -> None:
        """Serve the socket until its end."""
        transport = self._request.transport
        try:
            async with self._tasks:
                self._greet()
                await self._read()
                self._streams.close()
                self._queries.close()
                self._over.set()
        finally:
            self._closing = True
            self._edge.directory.leave(self._seat)
            self._streams.close()
            self._queries.close()
            self._ticking.cancel()
            self._greeting.cancel()
            self._outbox.flush()
            if transport is not None:
                transport.close()

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye: what is queued, then a close frame. Who does not answer it is cut off."""
        if self._closing:
            return
        self._closing = True
        self._streams.close()
        self._queries.close()
        self._outbox.send_frame(close_frame(code, reason))
        self._outbox.flush()
        transport = self._request.transport
        try:
            async with asyncio.timeout(self._limits.close_timeout_s):
                await self._over.wait()
        except TimeoutError:
            if transport is not None:
                transport.abort()

    def _end(self, code: int, reason: str) -> None:
        if not self._closing:
            self._tasks.create_task(self.close(code, reason))

    # ---- signing in -----------------------------------------------------------------------------

    def _greet(self) -> None:
        header = self._request.headers.get("Authorization")
        if header is None:
            return
        query = self._request.query
        self._speak(
            packed=query.get("compression") != "none",
            msgpack=query.get("serialization") == "msgpack",
        )
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer":
            self._sign_in(token.strip())
        else:
            self._turn_away("a Bearer token is needed here")

    def _authenticate(self, message: protocol.Authenticate) -> None:
        if self._principal is not None:
            self._renew(message, self._principal)
            return
        if message.protocol is not None:
            self._speak(
                packed=message.protocol.compression != "none",
                msgpack=message.protocol.serialization == "msgpack",
            )
        if message.method == "jwt":
            self._sign_in(message.token)
        else:
            self._turn_away(_ONLY_METHOD)

    def _speak(self, *, packed: bool, msgpack: bool) -> None:
        self._spoken = protocol.SpokenProtocol(packed and self._may_pack, msgpack)

    def _sign_in(self, token: str) -> None:
        try:
            principal = self._edge.authenticate(token)
        except KalamError as fault:
            if not self._again_with_key(fault, lambda: self._sign_in(token)):
                self._turn_away(message_of(fault))
            return
        self._principal = self._seat.principal = principal
        self._token = token
        self._outbox.packed = self._spoken.packed
        self._outbox.msgpack = self._spoken.msgpack
        self._outbox.send_json(protocol.auth_success(principal, self._spoken))

    def _again_with_key(self, fault: KalamError, again: Callable[[], None]) -> bool:
        """When a key has to be fetched: `again` once it was, before any message is read."""
        if self._signing is not None or not isinstance(fault, SigningKeyPending):
            return False

        async def wait() -> None:
            with contextlib.suppress(KalamError):  # `again` tells it
                await fault.ready()
            if not self._closing:
                again()
            self._signing = None

        self._signing = self._tasks.create_task(wait())
        return True

    def _renew(self, message: protocol.Authenticate, principal: Principal) -> None:
        """A fresh token of the same identity keeps the socket alive; it never changes who it is.

        A token that is refused is told, and the one before stays in force.
        """
        if message.method != "jwt":
            self._error("protocol", protocol.AUTH_REQUIRED, _ONLY_METHOD)
            return
        try:
            same = self._edge.authenticate(message.token) == principal
        except KalamError as fault:
            if not self._again_with_key(fault, lambda: self._renew(message, principal)):
                self._error("protocol", fault_of(fault).websocket, message_of(fault))
            return
        if same:
            self._token = message.token
            self._outbox.send_json(protocol.auth_success(principal, self._spoken))
        else:
            detail = "this token is of another user or role; a connection never changes its own"
            self._error("protocol", protocol.AUTH_REQUIRED, detail)

    def _turn_away(self, message: str) -> None:
        self._outbox.send_json(protocol.auth_error(message), packed=False)
        self._end(1008, "not signed in")

    def _auth_overdue(self) -> None:
        if self._principal is None and not self._closing:
            self._turn_away(f"no authenticate message within {self._limits.auth_timeout_s:g} s")

    # ---- reading --------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            if self._signing is not None:
                await asyncio.wait([self._signing])
            message = await self._socket.receive()
            self._heard_s = self._clock.monotonic_s()
            match message.type:
                case WSMsgType.CLOSE:
                    if not self._closing:
                        self._outbox.send_frame(close_frame(message.data or 1000))
                    return
                case WSMsgType.CLOSED | WSMsgType.CLOSING | WSMsgType.ERROR:
                    return
                case _ if self._closing:
                    continue  # until the client has answered our goodbye
                case WSMsgType.TEXT:
                    await self._text(message.data)
                case WSMsgType.BINARY:
                    await self._binary(message.data)
                case WSMsgType.PING:
                    with contextlib.suppress(ConnectionError):
                        await self._socket.pong(message.data)
                case _:
                    pass
            if not self._outbox.has_room:
                self._outbox.flush()
            if not await self._drained():
                continue
            # What the client said while nobody read is no silence.
            self._heard_s = self._clock.monotonic_s()

    async def _text(self, payload: bytes) -> None:
        size_max = self._limits.message_max_bytes
        if len(payload) > size_max:
            detail = f"the message has {len(payload)} bytes, at most {size_max} are allowed"
            self._error("protocol", protocol.MESSAGE_TOO_LARGE, detail)
            return
        await self._message(payload, protocol.client_message)

    async def _binary(self, payload: bytes) -> None:
        if not self._outbox.msgpack:
            self._error(
                "protocol",
                protocol.UNSUPPORTED_DATA,
                "send JSON in text frames; binary ones are for connections that speak msgpack",
            )
            return
        try:
            plain = unpacked(payload, self._limits.message_max_bytes)
        except Unreadable as fault:
            self._error("protocol", protocol.MESSAGE_TOO_LARGE, str(fault))
            return
        await self._message(plain, protocol.packed_message)

    async def _message(
        self, payload: bytes, read: Callable[[bytes], protocol.ClientMessage]
    ) -> None:
        try:
            message = read(payload)
        except protocol.NotJson as fault:
            self._error("protocol", protocol.PROTOCOL, str(fault))
            self._end(1011, str(fault))
            return
        except protocol.BadMessage as fault:
            if self._within_rate():
                self._error("protocol", protocol.PROTOCOL, str(fault))
            return
        await self._obey(message)

    async def _obey(self, message: protocol.ClientMessage) -> None:
        match message:
            case protocol.NextBatch():
                # Paced by the server already: a page is made when the one before was taken in.
                if self._principal is not None:
                    self._streams.next_batch(message)
            case protocol.Query():
                self._queries.ask(message, self._principal)  # so is this, by a bounded queue
            case _ if not self._within_rate():
                pass
            case protocol.Authenticate():
                self._authenticate(message)
            case protocol.Subscribe(wish):
                await self._subscribe(wish)
            case protocol.Unsubscribe(subscription_id):
                self._streams.unsubscribe(subscription_id)
            case protocol.Ping():
                self._outbox.send(protocol.pong())

    async def _subscribe(self, wish: protocol.Wish) -> None:
        if self._principal is None:
            self._error("subscribe", protocol.AUTH_REQUIRED, "sign in first")
        elif not wish.id.strip() or len(wish.id) > protocol.SUBSCRIPTION_ID_MAX:
            limit = protocol.SUBSCRIPTION_ID_MAX
            self._error(
                "invalid_subscription",
                protocol.INVALID_SUBSCRIPTION_ID,
                f"an id has 1 to {limit} characters and not only blanks",
            )
        else:
            await self._streams.subscribe(wish, self._principal)

    def _within_rate(self) -> bool:
        per_s = self._limits.messages_per_s
        if not per_s:
            return True
        grown = self._allowance + (self._heard_s - self._allowance_s) * per_s
        self._allowance_s = self._heard_s
        self._allowance = min(grown, float(self._limits.messages_burst))
        if self._allowance < 1:
            detail = f"more than {per_s:g} messages per second; this one was not read"
            self._error("rate_limit", protocol.RATE_LIMIT_EXCEEDED, detail)
            return False
        self._allowance -= 1
        return True

    def _error(self, subscription_id: str, code: str, message: str) -> None:
        self._outbox.send_json(protocol.error(subscription_id, code, message))

    # ---- pace -----------------------------------------------------------------------------------

    async def _pump_drained(self) -> bool:
        self._outbox.flush()
        return await self._drained()

    async def _drained(self) -> bool:
        """Wait until the client has taken in what it was sent; False: it is being closed."""
        if self._closing:
            return False
        if not self._request.protocol.writing_paused:
            return True
        try:
            async with asyncio.timeout(self._limits.slow_consumer_timeout_s):
                await self._request.writer.drain()
        except TimeoutError:
            self._close_slow()
            return False
        except ConnectionError:
            return False
        return True

    def _close_slow(self) -> None:
        if self._closing:
            return
        self._edge.slow_closed += 1
        detail = (
            f"nothing was taken in for {self._limits.slow_consumer_timeout_s:g} s; "
            "subscribe again from these cursors"
        )
        cursors = self._streams.cursors()
        self._outbox.send_json(
            protocol.error("connection", protocol.SLOW_CONSUMER, detail, cursors=cursors)
        )
        self._end(1013, "slow consumer")

    def _tick(self) -> None:
        if self._closing:
            return
        self._ticking = self._loop.call_later(self._limits.heartbeat_interval_s, self._tick)
        now_s = self._clock.monotonic_s()
        # Who does not take in what was sent is not heard either: a slow consumer, not a silent one.
        stuck = self._request.protocol.writing_paused
        if not stuck and now_s - self._heard_s > self._limits.client_timeout_s:
            self._end(1000, "Heartbeat timeout")
            return
        if self._principal is not None:
            try:
                # The token may have run out, its user may be gone or have another role.
                changed = self._edge.authenticate(self._token) != self._principal
            except Unauthenticated as fault:
                self._turn_away(message_of(fault))
                return
            except KalamError:
                changed = False  # it can't be told now; the next tick asks again
            if changed:
                self._turn_away("the rights of this user have changed; sign in again")
                return
        self._streams.tick(now_s)
