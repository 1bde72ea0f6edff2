"""Live queries of this node's groups for clients that are connected elsewhere.

One stream joins an edge process with this node, however many live queries it relays. For each the
node runs the subscription that its own sockets have; what it gives goes over the stream.

1. `Subscribe`: who asks is looked up, the text bound and compared with what the edge has bound,
   leadership confirmed. The first steps are done at once, each further one when the edge says that
   its client has taken in the one before (`More`).
2. A subscription that is live joins the *feed* of its shape on this stream, when there is one, or
   becomes it: an event goes over the stream once, whoever follows it there.
3. A feed that the stream has no room for catches up by itself, as there is room: the edge reads the
   stream without waiting for its clients.

Invariants: what a step gives is on its way before the next event of the same feed, and so is the
word that it has joined; messages leave in the order in which they were made; what waits for the
stream is bounded by one step, beside one word for each subscription.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import xxhash

from cluster import live_wire as wire
from cluster.live_hosted import Hosted, HostedWatch
from cluster.rpc.faults import encode_fault
from cluster.rpc.port import Peer, RpcStream, Service
from kalamdb.edge.ws.local import Asked, LocalLive, Plan, moved, settled
from kalamdb.errors import (
    InvalidCredentials,
    KalamError,
    LimitReached,
    Overloaded,
    SchemaChanged,
    Unavailable,
)
from kalamdb.feed.hub import Hub, StreamEnd
from kalamdb.lib.clock import Clock
from kalamdb.model import keys
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.principal import Principal
from kalamdb.sql.bound import LivePlan, ReevaluatedPlan

TICK_S = 1.0
MESSAGE_BYTES_MAX = 15 << 20
BEGINNING_MAX = 256
"""Subscriptions that wait for a barrier at the same time, of one edge."""


@dataclass(frozen=True, slots=True)
class HostLimits:
    """`per_edge`: subscriptions and watches of one edge process; `position_interval_s`: how often
    it hears that a feed has passed what was not for it.
    """

    per_edge: int = 200_000
    position_interval_s: float = 60.0


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """`events` and bytes that went to edges; `fallen`: feeds that a full stream made catch up."""

    edges: int
    subscriptions: int
    feeds: int
    watches: int
    events: int
    size_bytes: int
    fallen: int


def shape_of(plan: Plan) -> int:
    """Equal where two processes have bound the same query to the same definitions."""
    return xxhash.xxh3_64_intdigest(plan.shape.encode())


class LiveHost:
    """Serves the method "live". `stands(principal)`: is it still that user, with that role?"""

    def __init__(
        self,
        local: LocalLive,
        hub_of: Callable[[GroupId], Hub],
        stands: Callable[[Principal], bool],
        clock: Clock,
        limits: HostLimits | None = None,
    ) -> None:
        """`hub_of` raises NotLeader for a group that this node does not lead."""
        self.local = local
        self.hub_of = hub_of
        self.stands = stands
        self.clock = clock
        self.limits = limits or HostLimits()
        self.events = self.size_bytes = self.fallen = 0
        self._edges: dict[EdgeStream, None] = {}

    def serve(self, service: Service) -> None:
        service.on_stream(wire.METHOD, self._handle)

    def tick(self, now_s: float) -> None:
        """What each stream does once a second by itself."""
        for edge in list(self._edges):
            edge.tick(now_s)

    def check_tables(self) -> None:
        """Views changed: live queries are not to go on with the text from before."""
        for edge in list(self._edges):
            edge.check_tables()

    def statistics(self) -> HostStatistics:
        return HostStatistics(
            len(self._edges),
            sum(len(edge.hosted) for edge in self._edges),
            sum(len(edge.feeds) for edge in self._edges),
            sum(len(edge.watches) for edge in self._edges),
            self.events,
            self.size_bytes,
            self.fallen,
        )

    async def _handle(self, peer: Peer, payload: bytes, stream: RpcStream) -> None:
        del peer, payload
        edge = EdgeStream(self, stream)
        self._edges[edge] = None
        try:
            await edge.run()
        finally:
            del self._edges[edge]
            edge.close()


class EdgeStream:
    """The stream to one edge, and what runs for it."""

    def __init__(self, host: LiveHost, stream: RpcStream) -> None:
        self.host = host
        self.hosted: dict[int, Hosted] = {}
        self.feeds: dict[bytes, Hosted] = {}  # by shape: who is live for all of it
        self.watches: dict[int, HostedWatch] = {}
        self._twins: dict[bytes, list[Hosted]] = {}  # live, while the feed was not
        self._stream = stream
        self._pending: deque[bytes] = deque()
        self._to_step: dict[Hosted, None] = {}
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()
        self._beginning = asyncio.Semaphore(BEGINNING_MAX)
        self._catalog_version = host.local.groups.catalog.version
        self._positions_due_s = host.clock.monotonic_s() + host.limits.position_interval_s
        self._flushed.set()

    async def run(self) -> None:
        """Until the edge ends the stream. Raises Unavailable when the link breaks."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._pump()), tasks.create_task(self._ticks())]
                await self._read(tasks)
                for task in running:
                    task.cancel()
        except* KalamError as group:
            fault = group.exceptions[0]
            raise (fault if isinstance(fault, KalamError) else Unavailable("broken")) from None

    def close(self) -> None:
        for hosted in list(self.hosted.values()):
            hosted.close()
        for watch in list(self.watches.values()):
            watch.close()

    # ---- what the edge says ---------------------------------------------------------------------

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        while (data := await self._stream.receive()) is not None:
            said = wire.read_said(data)
            await self._flushed.wait()
            match said:
                case wire.Subscribe():
                    await self._beginning.acquire()
                    # Known at once: what is said next may be that nobody wants it.
                    self.hosted[said.number] = Hosted(self, said.number, anew=said.reset)
                    tasks.create_task(self._begin(said))
                case wire.More(number):
                    self._more(number)
                case wire.NextPage(number, after):
                    if (hosted := self.hosted.get(number)) is not None:
                        place = None if after is None else Seq(after)
                        hosted.next_page(place, self.host.clock.monotonic_s())
                case wire.Leave(number, joined):
                    self._leave(number, joined)
                case wire.Watch():
                    self._watch(said)
                case _:
                    assert_never(said)

    async def _begin(self, said: wire.Subscribe) -> None:
        try:
            await self._subscribe(said)
        except KalamError as fault:
            if (hosted := self.hosted.get(said.number)) is not None:
                hosted.fail(fault)
        finally:
            self._beginning.release()

    async def _subscribe(self, said: wire.Subscribe) -> None:
        hosted = self.hosted.get(said.number)
        if hosted is None:
            return
        if len(self.hosted) + len(self.watches) > self.host.limits.per_edge:
            raise Overloaded("the live queries of one edge", self.host.limits.per_edge)
        principal = wire.principal_of(said.who)
        if not self.host.stands(principal):
            raise InvalidCredentials("the rights of this user have changed; sign in again")
        local = self.host.local
        asked = Asked(said.sql, wire.params_of(said.params, json=said.json), principal)
        plan = local.bind(asked)
        plan = await settled(local.confirmed(asked, plan), plan)
        if self.hosted.get(said.number) is not hosted:
            return  # it has left meanwhile
        if shape_of(plan) != said.shape:
            raise SchemaChanged(said.sql[:100], 0, None)
        start = wire.start_of(said.start)
        live = local.begin("", plan, start, principal, outlet=hosted, prefix=b"")
        hosted.begin(live, feed_key(plan, principal))
        self.step_soon(hosted)

    def _more(self, number: int) -> None:
        if (hosted := self.hosted.get(number)) is not None:
            hosted.more()
        elif (watch := self.watches.get(number)) is not None:
            watch.more()

    def _leave(self, number: int, joined: int) -> None:
        watch = self.watches.pop(number, None)
        if watch is not None:
            watch.close()
        hosted = self.hosted.get(number)
        # Another may have joined it while this was on its way.
        if hosted is not None and hosted.joined <= joined:
            hosted.close()

    def _watch(self, said: wire.Watch) -> None:
        try:
            if len(self.hosted) + len(self.watches) >= self.host.limits.per_edge:
                raise Overloaded("the live queries of one edge", self.host.limits.per_edge)
            hub = self.host.hub_of(GroupId(said.group))
            catalog = self.host.local.groups.catalog
            watch = HostedWatch(said, hub, catalog, self.emit, self.watches.pop)
        except KalamError as fault:
            self.failed(said.number, fault)
            return
        self.watches[said.number] = watch
        watch.touched()

    # ---- what goes out --------------------------------------------------------------------------

    def push(self, message: bytes) -> bool:
        """Without waiting; False: there is no room, or something waits before it."""
        if len(message) > MESSAGE_BYTES_MAX or self._pending or not self._stream.push(message):
            return False
        self.host.events += 1
        self.host.size_bytes += len(message)
        return True

    def emit(self, message: bytes) -> None:
        """In any case, once there is room. Raises LimitReached."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise LimitReached("the size of one change in bytes", MESSAGE_BYTES_MAX)
        if not self._pending and self._stream.push(message):
            return
        self._pending.append(message)
        self._flushed.clear()
        self._wake.set()

    def failed(self, number: int, fault: KalamError) -> None:
        self.emit(wire.control(wire.Failed(number, encode_fault(fault))))

    def fell(self) -> None:
        self.host.fallen += 1

    def step_soon(self, hosted: Hosted) -> None:
        self._to_step[hosted] = None
        self._wake.set()

    def forget(self, hosted: Hosted) -> None:
        self._to_step.pop(hosted, None)
        if self.hosted.get(hosted.number) is hosted:
            del self.hosted[hosted.number]
        twins = self._twins.get(hosted.key, [])
        if hosted in twins:
            twins.remove(hosted)
        if self.feeds.get(hosted.key) is hosted:
            del self.feeds[hosted.key]
            if twins:
                self.feeds[hosted.key] = twins.pop(0)
                self.live_again(self.feeds[hosted.key])
        if not twins:
            self._twins.pop(hosted.key, None)

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending or self._to_step:
                while self._pending:
                    await self._stream.send(self._pending[0])
                    self._pending.popleft()
                self._flushed.set()
                if not await self._stream.room():
                    raise Unavailable("the edge is gone")
                hosted = next(iter(self._to_step), None)
                if hosted is not None and not self._pending:
                    del self._to_step[hosted]
                    hosted.advance(self.host.clock.monotonic_s())
                    await asyncio.sleep(0)

    # ---- feeds ----------------------------------------------------------------------------------

    def joined(self, hosted: Hosted) -> Hosted:
        """It is live: the feed of its shape, or, when that is behind, itself for a while."""
        feed = self.feeds.setdefault(hosted.key, hosted)
        if feed.is_live:
            return feed
        self._twins.setdefault(hosted.key, []).append(hosted)
        return hosted

    def live_again(self, hosted: Hosted) -> None:
        """Those that are live beside a feed join it: all stand at the same place now."""
        feed = self.feeds[hosted.key]
        twins = self._twins.get(hosted.key)
        if not feed.is_live or twins is None:
            return
        for twin in [twin for twin in twins if twin.is_live]:
            feed.joined += twin.joined
            merged = wire.Merged(twin.number, feed.number, str(feed.stands_at()), feed.joined)
            self.emit(wire.control(merged))
            twin.close()

    # ---- time -----------------------------------------------------------------------------------

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(self.host.clock.monotonic_s())

    def tick(self, now_s: float) -> None:
        """End what holds a snapshot too long or lost its table; tell feeds how far they got."""
        for hosted in list(self.hosted.values()):
            hosted.check_hold(now_s)
        self.check_tables()
        if now_s >= self._positions_due_s:
            self._positions_due_s = now_s + self.host.limits.position_interval_s
            for hosted in list(self.hosted.values()):
                hosted.tell_position()

    def check_tables(self) -> None:
        catalog = self.host.local.groups.catalog
        if catalog.version == self._catalog_version:
            return
        self._catalog_version = catalog.version
        for hosted in list(self.hosted.values()):
            live = hosted.live
            gone = None if live is None else moved(live, catalog)
            if live is not None and gone is not None:
                live.end(StreamEnd(*gone, live.cursor))


def feed_key(plan: Plan, principal: Principal) -> bytes:
    """Equal for subscriptions that are given the same events once they are live."""
    match plan:
        case LivePlan(table):
            whose = keys.chain(table.id, table.partition_for(principal.partition))
        case ReevaluatedPlan():
            whose = keys.terminated(principal.partition)
    return whose + plan.shape.encode()
