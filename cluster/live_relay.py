"""Live queries of this process's clients at whichever node leads their group.

1. Who asks for a place is admitted to the link of the leader, as far as it is known here.
2. Refused as not the leader, or with its place lost, it is tried again: where the refusal says,
   else where the catalog and the logs say, with growing pauses, until `wait_s` have passed. Then it
   ends with the error of the last try.
3. A group that this node has come to lead is served here: the socket goes on with its own
   subscription.

Watches (`FarHub`) take the same way; one that has found its place again reports a change, since
there may have been some.

Keeps: one stream to each node, whatever number of clients; nobody is tried twice at the same time.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from cluster import live_wire as wire
from cluster.live_host import shape_of
from cluster.live_link import Link, is_by_row, subscribe_message, taken_of
from cluster.rpc.port import Rpc
from kalamdb.edge.ws.local import Plan
from kalamdb.edge.ws.relay_feed import RelayFeed
from kalamdb.edge.ws.relayed import RelayedSubscription
from kalamdb.errors import KalamError, NotLeader, SchemaChanged, Unavailable
from kalamdb.feed.hub import EndReason, Watcher
from kalamdb.lib.clock import Clock
from kalamdb.model.ids import GroupId, Partition, Seq, TableId
from kalamdb.model.principal import Principal
from kalamdb.sql.bound import LivePlan

RETRY_S = 0.02
RETRY_MAX_S = 1.0
STEADY_S = 1.0
"""Who had a place for so long is tried again as soon as anybody."""


class Leaders(Protocol):
    """Who leads what, as far as this process knows."""

    @property
    def node(self) -> int | None:
        """This node; None: it has no groups."""
        ...

    def leader_of(self, group: GroupId) -> int | None: ...

    def group_of(self, partition: Partition) -> GroupId:
        """Raises Unavailable before the cluster has been placed."""
        ...

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        """`asked` did not take it, and may have said who would."""
        ...


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """`wait_s`: how long a live query waits for a leader before it ends with its cursor."""

    wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """`away`: live queries that have no place now; `retries`: tries that came to nothing."""

    links: int
    streams: int
    feeds: int
    away: int
    retries: int
    events: int


class LiveRelay:
    """Implements `kalamdb.edge.ws.relayed.Relays`. An async context manager."""

    def __init__(
        self, rpc: Rpc, leaders: Leaders, clock: Clock, limits: RelayLimits | None = None
    ) -> None:
        self.leaders = leaders
        self.clock = clock
        self.limits = limits or RelayLimits()
        self.retries = 0
        self._rpc = rpc
        self._links: dict[int, Link] = {}
        self._places: dict[RelayedSubscription, StreamPlace] = {}
        self._watches: dict[Watcher, dict[GroupId, WatchPlace]] = {}
        self._events = 0  # of links that are no more
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> LiveRelay:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        for place in self._all_places():
            place.drop()
        for task in list(self._running):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def statistics(self) -> RelayStatistics:
        places = self._all_places()
        return RelayStatistics(
            len(self._links),
            len(self._places),
            sum(len(link.feeds) for link in self._links.values()),
            sum(place.away_since_s is not None for place in places),
            self.retries,
            self._events + sum(link.events for link in self._links.values()),
        )

    # ---- the sockets' side ----------------------------------------------------------------------

    def is_here(self, partition: Partition) -> bool:
        leaders = self.leaders
        if leaders.node is None:
            return False
        return leaders.leader_of(leaders.group_of(partition)) == leaders.node

    def home(self, plan: Plan, principal: Principal) -> Partition:
        """Of a query that reads several groups: the tenant's own partition."""
        if isinstance(plan, LivePlan):
            return plan.table.partition_for(principal.partition)
        tenant, found = principal.partition, dict[GroupId, Partition]()
        for use in plan.scan.tables:
            if use.all_users:
                return tenant
            partition = use.table.partition_for(tenant)
            found.setdefault(self.leaders.group_of(partition), partition)
        return next(iter(found.values())) if len(found) == 1 else tenant

    def attach(self, stream: RelayedSubscription, fault: Unavailable | None = None) -> None:
        place = self._places.get(stream)
        if place is None:
            place = self._places[stream] = StreamPlace(self, stream)
        place.seek(fault)

    def more(self, stream: RelayedSubscription) -> None:
        place = self._places.get(stream)
        if place is not None and place.link is not None:
            place.link.say(wire.More(place.number))

    def next_page(self, stream: RelayedSubscription, after: Seq | None) -> None:
        place = self._places.get(stream)
        if place is not None and place.link is not None:
            place.link.say(wire.NextPage(place.number, after))

    def leave(self, stream: RelayedSubscription) -> None:
        place = self._places.pop(stream, None)
        if place is not None:
            place.drop()

    # ---- the evaluations' side ------------------------------------------------------------------

    def hub(self, group: GroupId) -> FarHub:
        """A group's hub, wherever it is."""
        return FarHub(self, group)

    def watch(
        self, group: GroupId, watcher: Watcher, chains: Sequence[bytes], tables: Sequence[TableId]
    ) -> None:
        self.unwatch(group, watcher)
        place = WatchPlace(self, group, watcher, chains, tables)
        self._watches.setdefault(watcher, {})[group] = place
        place.seek(None)

    def unwatch(self, group: GroupId, watcher: Watcher) -> None:
        places = self._watches.get(watcher, {})
        place = places.pop(group, None)
        if place is not None:
            place.drop()
        if not places:
            self._watches.pop(watcher, None)

    def end_watch(self, watcher: Watcher, reason: EndReason, detail: str) -> None:
        for place in self._watches.pop(watcher, {}).values():
            place.drop()
        watcher.end_watch(reason, detail)

    # ---- links ----------------------------------------------------------------------------------

    def link(self, node: int) -> Link:
        """Raises Unavailable when this process is stopping."""
        if self._closed:
            raise Unavailable("this process is stopping")
        found = self._links.get(node)
        if found is None:
            found = self._links[node] = Link(self._rpc, node, self._link_over)
            task = self._tasks.create_task(found.run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return found

    def links(self) -> list[Link]:
        return list(self._links.values())

    def _link_over(self, link: Link) -> None:
        self._events += link.events
        if self._links.get(link.node) is link:
            del self._links[link.node]

    def _all_places(self) -> list[Place]:
        watches = [place for places in self._watches.values() for place in places.values()]
        return [*self._places.values(), *watches]


class Place(ABC):
    """One that looks for its place, or has one: on `link` with `number`."""

    def __init__(self, relay: LiveRelay) -> None:
        self.link: Link | None = None
        self.number = 0
        self.away_since_s: float | None = None
        self._relay = relay
        self._hint: int | None = None
        self._asked: tuple[GroupId, int] | None = None
        self._tries = 0
        self._found = False
        self._since_s = 0.0  # it has had its place
        self._timer: asyncio.TimerHandle | None = None

    # ---- what differs ---------------------------------------------------------------------------

    @abstractmethod
    def group(self) -> GroupId:
        """Raises Unavailable."""

    @abstractmethod
    def at_home(self) -> None:
        """This node leads the group."""

    @abstractmethod
    def give_up(self, fault: Unavailable) -> None: ...

    @abstractmethod
    def message(self, number: int) -> Sequence[wire.Said]: ...

    @abstractmethod
    def stepped(self, step: wire.Step, feed: RelayFeed | None) -> bool: ...

    @abstractmethod
    def touched(self) -> None: ...

    @abstractmethod
    def lost(self, fault: Unavailable) -> None: ...

    @abstractmethod
    def ended(self, reason: EndReason, detail: str) -> None: ...

    @abstractmethod
    def failed(self, fault: KalamError) -> None: ...

    # ---- looking for it -------------------------------------------------------------------------

    def seek(self, fault: Unavailable | None) -> None:
        """Begin, or go on after `fault`."""
        self.leave_link()
        now_s = self._relay.clock.monotonic_s()
        if self._found and now_s - self._since_s >= STEADY_S:
            self._tries = 0
        self._found = False
        if fault is None:
            self._try()
        else:
            self._again(fault, now_s)

    def _again(self, fault: Unavailable, now_s: float) -> None:
        if self.away_since_s is None:
            self.away_since_s = now_s
        if now_s - self.away_since_s >= self._relay.limits.wait_s:
            self.give_up(fault)
            return
        self._relay.retries += 1
        if isinstance(fault, NotLeader) and isinstance(fault.leader, int):
            self._hint = fault.leader
        if self._asked is not None:
            self._relay.leaders.refused(*self._asked, fault)
            self._asked = None
        pause_s = min(RETRY_MAX_S, RETRY_S * 2 ** min(self._tries, 10))
        self._tries += 1
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._try)

    def _try(self) -> None:
        self._timer = None
        relay = self._relay
        hint, self._hint = self._hint, None
        try:
            group = self.group()
            node = hint or relay.leaders.leader_of(group)
            if node is None:
                raise NotLeader(group, None)
            if node == relay.leaders.node:
                self.at_home()
                return
            self._asked = (group, node)
            self.link = relay.link(node)
        except Unavailable as fault:
            self._again(fault, relay.clock.monotonic_s())
            return
        self.number = self.link.admit(self)

    def found(self) -> None:
        """It has its place."""
        if not self._found:
            self._found = True
            self.away_since_s = None
            self._since_s = self._relay.clock.monotonic_s()

    def leave_link(self) -> None:
        self._stop_timer()
        link, self.link = self.link, None
        if link is not None:
            link.dismiss(self.number)

    def drop(self) -> None:
        self.leave_link()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class StreamPlace(Place):
    """Implements `live_link.Guest` for a live query."""

    def __init__(self, relay: LiveRelay, stream: RelayedSubscription) -> None:
        super().__init__(relay)
        self._stream = stream
        self._has_taken = False

    def group(self) -> GroupId:
        stream = self._stream
        home = self._relay.home(stream.plan, stream.asked.principal)
        return self._relay.leaders.group_of(home)

    def at_home(self) -> None:
        self._stream.go_home()

    def give_up(self, fault: Unavailable) -> None:
        self._stream.fail(fault)

    def message(self, number: int) -> Sequence[wire.Said]:
        self._has_taken = False
        return (subscribe_message(number, self._stream, lambda stream: shape_of(stream.plan)),)

    def stepped(self, step: wire.Step, feed: RelayFeed | None) -> bool:
        if not self._stream.took(taken_of(step, by_row=is_by_row(self._stream)), feed):
            return False
        self._has_taken = True
        self.found()
        return True

    def touched(self) -> None:
        pass

    def lost(self, fault: Unavailable) -> None:
        if self._has_taken:
            self.link = None
            self._stream.lost()
        else:
            self.seek(fault)

    def ended(self, reason: EndReason, detail: str) -> None:
        self._stream.end(reason, detail)

    def failed(self, fault: KalamError) -> None:
        match fault:
            case SchemaChanged():
                if self._stream.bind_again():
                    self.lost(Unavailable("the definitions here and there differ"))
            case Unavailable():
                self.lost(fault)
            case _:
                self._stream.fail(fault)


class WatchPlace(Place):
    """Implements `live_link.Guest` for a watcher of a group."""

    def __init__(
        self,
        relay: LiveRelay,
        group: GroupId,
        watcher: Watcher,
        chains: Sequence[bytes],
        tables: Sequence[TableId],
    ) -> None:
        super().__init__(relay)
        self._group = group
        self._watcher = watcher
        self._chains = list(chains)
        self._of_tables = list(tables)

    def group(self) -> GroupId:
        return self._group

    def at_home(self) -> None:
        # Not at once: who watches has not been given its viewers yet, and could not tell them.
        detail = "the group is led by this node now"
        self._timer = asyncio.get_running_loop().call_later(0, self._end, detail)

    def give_up(self, fault: Unavailable) -> None:
        self._end(str(fault))

    def _end(self, detail: str) -> None:
        self._relay.end_watch(self._watcher, EndReason.LEADERSHIP_LOST, detail)

    def message(self, number: int) -> Sequence[wire.Said]:
        rests_on = [(int(table.id), table.version) for table in self._watcher.tables]
        tables = [int(table) for table in self._of_tables]
        return (wire.Watch(number, self._group, self._chains, tables, rests_on),)

    def stepped(self, step: wire.Step, feed: RelayFeed | None) -> bool:
        return False

    def touched(self) -> None:
        self.found()
        self._watcher.touched()

    def lost(self, fault: Unavailable) -> None:
        self.seek(fault)

    def ended(self, reason: EndReason, detail: str) -> None:
        self._relay.end_watch(self._watcher, reason, detail)

    def failed(self, fault: KalamError) -> None:
        if isinstance(fault, Unavailable):
            self.seek(fault)
        else:
            self._relay.end_watch(self._watcher, EndReason.SCHEMA_CHANGED, str(fault))


@dataclass(frozen=True, slots=True)
class FarHub:
    """What evaluations ask of the hub of a group that another node leads."""

    relay: LiveRelay
    group: GroupId

    def watch(
        self, watcher: Watcher, chains: Sequence[bytes], tables: Sequence[TableId] = ()
    ) -> None:
        self.relay.watch(self.group, watcher, chains, tables)

    def unwatch(self, watcher: Watcher) -> None:
        self.relay.unwatch(self.group, watcher)
