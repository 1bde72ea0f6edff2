"""The live queries of one socket: begun, stepped, ended. The `Outlet` of its subscriptions.

A subscription's first steps are done at once. What is left, each next page, and whatever the hub
could not push for want of room, is done by the *pump*: one bounded step at a time, each after the
client has taken in what it was sent before. There is a pump task only while something is to be
stepped.

A live query is served here while this node leads its group, and relayed while another does. When
the leadership moves it changes places at its exact cursor; its client is told nothing of it.

Invariant: what a step gives is queued before the next step of the same subscription, and, once the
hub pushes, in the same synchronous piece as the step that joined it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import assert_never

from kalamdb.edge.faults import fault_of, message_of
from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.frames import message_frame
from kalamdb.edge.ws.local import (
    Asked,
    Live,
    Plan,
    moved,
    payload_of,
    plan_moved,
    said_of,
    settled,
)
from kalamdb.edge.ws.ongoing import LiveQuery
from kalamdb.edge.ws.outbox import Outbox
from kalamdb.edge.ws.relayed import Left, Message, RelayedSubscription, left_of
from kalamdb.edge.ws.services import LiveServices
from kalamdb.errors import (
    CursorExpired,
    KalamError,
    Moved,
    NotLeader,
    Unavailable,
    Unsupported,
)
from kalamdb.feed.events import event_prefix
from kalamdb.feed.hub import EndReason, Push, StreamEnd
from kalamdb.feed.result_subscription import PushAll, ResultSubscription
from kalamdb.feed.subscription import (
    Accepted,
    Events,
    Output,
    Position,
    Rows,
    Stage,
    Start,
    Subscription,
)
from kalamdb.model.ids import Seq, TenantId
from kalamdb.model.principal import Principal
from kalamdb.sql.bound import LivePlan

# Larger pages are packed in a thread: a megabyte takes ten milliseconds.
PACK_INLINE_MAX_BYTES = 32 << 10


Stream = Live | RelayedSubscription
_ELSEWHERE = (EndReason.LEADERSHIP_LOST, EndReason.SLOT_MOVED)


class Streams:
    """`drained()` waits until the client took in what it was sent; False: it is being closed."""

    def __init__(
        self,
        services: LiveServices,
        outbox: Outbox,
        drained: Callable[[], Awaitable[bool]],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        self._services = services
        self._outbox = outbox
        self._drained = drained
        self._spawn = spawn
        self._local = services.local
        self._open: dict[str, tuple[Stream, TenantId]] = {}
        self._asked: dict[str, tuple[Asked, int]] = {}  # and since when (Unix ms)
        self._to_step: dict[Stream, None] = {}
        self._packing: set[Stream] = set()
        self._anew: set[Stream] = set()  # they begin, but rows were told before
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        self._catalog_version = services.groups.catalog.version
        self._positions_due_s = services.clock.monotonic_s() + services.limits.position_interval_s

    # ---- what the client asks for ---------------------------------------------------------------

    async def subscribe(self, wish: protocol.Wish, principal: Principal) -> None:
        """Begin a live query, in place of an older one with the same id; errors are answered."""
        self.unsubscribe(wish.id)
        limits = self._services.limits
        if self._services.per_user[principal.user] >= limits.subscriptions_per_user:
            self._error(
                wish.id,
                protocol.SUBSCRIPTION_LIMIT_EXCEEDED,
                f"a user has at most {limits.subscriptions_per_user} subscriptions",
            )
            return
        if len(self._open) >= limits.subscriptions_per_connection:
            self._error(
                wish.id,
                protocol.SUBSCRIPTION_LIMIT_EXCEEDED,
                f"a connection has at most {limits.subscriptions_per_connection} subscriptions",
            )
            return
        try:
            start = protocol.start(wish.options, limits.batch_rows_default, limits.batch_rows_max)
            subscription = await self._begin(wish, start, principal)
        except protocol.BadMessage as fault:
            self._error(wish.id, protocol.PROTOCOL, str(fault))
            return
        except KalamError as fault:
            self._refused(wish.id, fault)
            return
        if subscription is None:
            return
        await self._advance(subscription)
        if subscription.wants_step:
            await self._advance(subscription)
        if subscription.wants_step:
            self.behind(subscription)

    def next_batch(self, message: protocol.NextBatch) -> None:
        """Begin the next page. One that is not due (asked for twice, all were sent) is no error."""
        found = self._open.get(message.subscription_id)
        if found is None:
            self._error(
                message.subscription_id, protocol.BATCH_FETCH_FAILED, "no such subscription here"
            )
            return
        subscription, _ = found
        try:
            after = protocol.cursor(message.last_seq_id, "last_seq_id")
            if subscription in self._anew:
                after = None  # it may be of rows that are void
            if subscription.next_page(after, self._services.clock.monotonic_s()):
                self.behind(subscription)
        except protocol.BadMessage as fault:
            self._error(subscription.id, protocol.PROTOCOL, str(fault))
        except Unsupported as fault:
            self._refused(subscription.id, fault)
        except CursorExpired as fault:
            self.failed(subscription, fault)

    def unsubscribe(self, subscription_id: str) -> None:
        """End a live query without a word; one that is not there is no error."""
        found = self._open.get(subscription_id)
        if found is not None:
            self._drop(found[0])

    # ---- what others ask for (SHOW, KILL) -------------------------------------------------------

    def queries(self) -> list[LiveQuery]:
        found: list[LiveQuery] = []
        for name, (stream, _) in self._open.items():
            asked, began_ms = self._asked[name]
            plan = None if isinstance(stream, ResultSubscription) else stream.plan
            table = plan.table if isinstance(plan, LivePlan) else None
            place = None if table is None else (table.namespace, table.name)
            found.append(LiveQuery(name, asked.sql, began_ms, place))
        return found

    def kill(self, subscription_id: str, fault: KalamError) -> None:
        """End a live query with an error, where there is one."""
        found = self._open.get(subscription_id)
        if found is not None:
            self.failed(found[0], fault)

    # ---- what the connection asks for -----------------------------------------------------------

    def cursors(self) -> dict[str, Seq | str]:
        """Where each subscription stands once everything queued has been read."""
        return {name: self._told(stream, stream.cursor) for name, (stream, _) in self._open.items()}

    def tick(self, now_s: float) -> None:
        """End what holds a snapshot too long or lost its table; tell streams how far they got."""
        for subscription, _ in list(self._open.values()):
            try:
                subscription.check_hold(now_s)
            except CursorExpired as fault:
                self.failed(subscription, fault)
        self.check_tables()
        if now_s >= self._positions_due_s:
            self._positions_due_s = now_s + self._services.limits.position_interval_s
            self._tell_positions()

    def close(self) -> None:
        """End all without a word."""
        self._closed = True
        for subscription, _ in list(self._open.values()):
            self._drop(subscription)
        if self._pump is not None:
            self._pump.cancel()

    # ---- what the subscriptions ask for ---------------------------------------------------------

    @property
    def push(self) -> Push:
        return self._outbox.push

    @property
    def push_all(self) -> PushAll:
        return self._outbox.push_all

    def behind(self, subscription: Stream) -> None:
        self._to_step[subscription] = None
        if self._pump is None and not self._closed:
            self._pump = self._spawn(self._run_pump())

    def ended(self, subscription: Stream, end: StreamEnd) -> None:
        if end.reason in _ELSEWHERE and self._go_elsewhere(subscription, end.cursor):
            return
        cursor = self._told(subscription, end.cursor)
        self._error(subscription.id, end.reason.value, said_of(end), seq=cursor)
        self._drop(subscription)

    def failed(self, subscription: Stream, fault: KalamError) -> None:
        """End it with an error; where it stood is told if it has got that far."""
        away = isinstance(fault, (NotLeader, Moved))
        if away and self._go_elsewhere(subscription, subscription.cursor):
            return
        cursor = str(subscription.cursor)
        known = not isinstance(subscription, Subscription) and subscription.loaded
        self._drop(subscription)
        self._refused(subscription.id, fault, seq=cursor if known else None)

    # ---- changing places ------------------------------------------------------------------------

    def give(self, subscription: RelayedSubscription, outputs: Sequence[Message | Events]) -> None:
        for output in outputs:
            match output:
                case Message(payload):
                    self._outbox.send(payload)
                case Events(events):
                    for event in events:
                        self._outbox.send_event(subscription.prefix, event)

    def _go_elsewhere(self, live: Stream, cursor: Seq | str) -> bool:
        """Go on with a live query of this node where its group is led now; False: it ends."""
        if self._services.relays is None or self._closed or isinstance(live, RelayedSubscription):
            return False
        found = self._open.get(live.id)
        if found is None or found[0] is not live:
            return False
        told = cursor if live.loaded and live not in self._packing else None
        asked, _ = self._asked[live.id]
        begun = live.begun or live in self._anew
        left = left_of(live, told, begun=begun)
        stream = self._relayed(live.id, asked, live.plan, live.start, live.prefix, left=left)
        self._replace(live, stream)
        self.behind(stream)
        return True

    def returned(self, subscription: RelayedSubscription) -> None:
        self._spawn(self._return(subscription))

    async def _return(self, relayed: RelayedSubscription) -> None:
        """Go on with a live query here: this node leads its group."""
        relays = self._services.relays
        assert relays is not None
        if not self.bind_again(relayed):
            return
        plan, principal = relayed.plan, relayed.asked.principal
        try:
            plan = await settled(self._local.confirmed(relayed.asked, plan), plan)
            if not relayed.is_open:
                return
            start, reset = relayed.wish()
            prefix = relayed.prefix
            live = self._local.begin(relayed.id, plan, start, principal, outlet=self, prefix=prefix)
        except Unavailable as fault:
            if relayed.is_open:
                relays.attach(relayed, fault)
            return
        except KalamError as fault:
            self.failed(relayed, fault)
            return
        self._replace(relayed, live)
        if reset:
            self._anew.add(live)
        self.behind(live)

    def bind_again(self, subscription: RelayedSubscription) -> bool:
        try:
            plan = self._local.bind(subscription.asked)
        except KalamError as fault:
            self.failed(subscription, fault)
            return False
        catalog = self._services.groups.catalog
        gone = plan_moved(subscription.plan, catalog) if subscription.begun else None
        if gone is not None:
            self.ended(subscription, StreamEnd(*gone, subscription.cursor))
            return False
        subscription.plan = plan
        return True

    def _replace(self, old: Stream, new: Stream) -> None:
        self._open[old.id] = (new, self._open[old.id][1])
        self._to_step.pop(old, None)
        self._anew.discard(old)
        old.close()

    # ---- steps ----------------------------------------------------------------------------------

    async def _begin(
        self, wish: protocol.Wish, start: Start, principal: Principal
    ) -> Stream | None:
        asked = Asked(wish.sql, wish.params or (), principal)
        plan = self._local.bind(asked)
        prefix = self._outbox.prefix(event_prefix(wish.id))
        try:
            if self._is_elsewhere(plan, principal):
                stream = self._relayed(wish.id, asked, plan, start, prefix)
            else:
                plan = await settled(self._local.confirmed(asked, plan), plan)
                if self._closed:
                    return None
                stream = self._local.begin(
                    wish.id, plan, start, principal, outlet=self, prefix=prefix
                )
        except (NotLeader, Moved):
            if self._services.relays is None or self._closed:
                raise
            stream = self._relayed(wish.id, asked, plan, start, prefix)
        self._open[wish.id] = (stream, principal.user)
        self._asked[wish.id] = (asked, self._services.clock.wall_ms())
        self._services.per_user[principal.user] += 1
        return stream

    def _is_elsewhere(self, plan: Plan, principal: Principal) -> bool:
        relays = self._services.relays
        return relays is not None and not relays.is_here(relays.home(plan, principal))

    def _relayed(
        self,
        name: str,
        asked: Asked,
        plan: Plan,
        start: Start,
        prefix: bytes,
        *,
        left: Left | None = None,
    ) -> RelayedSubscription:
        relays = self._services.relays
        assert relays is not None
        return RelayedSubscription(
            name, asked, plan, start, outlet=self, relays=relays, prefix=prefix, left=left
        )

    async def _advance(self, subscription: Stream) -> None:
        """One step, and what it gives into the outbox."""
        try:
            outputs: Sequence[Output | Message] = subscription.step(
                self._services.clock.monotonic_s()
            )
        except KalamError as fault:
            self.failed(subscription, fault)
            return
        outbox = self._outbox
        for output in outputs:
            match output:
                case Events(events):
                    for event in events:
                        outbox.send_event(subscription.prefix, event)
                    continue
                case Message(payload):
                    pass
                case Accepted() | Rows() | Position():
                    assert not isinstance(subscription, RelayedSubscription)
                    anew = subscription in self._anew
                    payload = payload_of(subscription.id, subscription, output, reset=anew)
                case _:
                    assert_never(output)
            if not outbox.packed or len(payload) <= PACK_INLINE_MAX_BYTES:
                outbox.send(payload)
                continue
            frame = await self._packed(subscription, payload)
            if subscription.stage is Stage.ENDED:
                return
            outbox.send_frame(frame)

    async def _packed(self, subscription: Stream, payload: bytes) -> bytes:
        """The frame of a large page. No event of it can come meanwhile: it is not live yet."""
        self._packing.add(subscription)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._services.packer,
                partial(message_frame, payload, packed=True, msgpack=self._outbox.msgpack),
            )
        finally:
            self._packing.discard(subscription)

    def _told(self, subscription: Stream, cursor: Seq | str) -> Seq | str:
        """`cursor`, unless it counts rows that are not queued yet: then it has to load again."""
        return Seq(0) if subscription in self._packing else cursor

    async def _run_pump(self) -> None:
        try:
            while self._to_step and await self._drained():
                subscription = next(iter(self._to_step), None)
                if subscription is None:
                    return
                del self._to_step[subscription]
                await self._advance(subscription)
                if subscription.wants_step:
                    self._to_step[subscription] = None
                await asyncio.sleep(0)
        finally:
            self._pump = None

    def check_tables(self) -> None:
        """End streams of which a table or view is gone or another. For tables most ends come from
        the hub, at once; this one is for those that began while their table was on its way out.
        """
        catalog = self._services.groups.catalog
        if catalog.version == self._catalog_version:
            return
        self._catalog_version = catalog.version
        for subscription, _ in list(self._open.values()):
            if isinstance(subscription, RelayedSubscription):
                continue  # its leader looks
            gone = moved(subscription, catalog)
            if gone is not None:
                self.ended(subscription, StreamEnd(*gone, subscription.cursor))

    def _tell_positions(self) -> None:
        for subscription, _ in self._open.values():
            if not self._outbox.has_room:
                return
            passed = subscription.untold()
            if passed is not None:
                self._outbox.send(protocol.position(subscription.id, passed.seq))

    # ---- ends -----------------------------------------------------------------------------------

    def _drop(self, subscription: Stream) -> None:
        subscription.close()
        self._to_step.pop(subscription, None)
        self._anew.discard(subscription)
        found = self._open.get(subscription.id)
        if found is None or found[0] is not subscription:
            return
        del self._open[subscription.id]
        self._asked.pop(subscription.id, None)
        per_user, user = self._services.per_user, found[1]
        per_user[user] -= 1
        if not per_user[user]:
            del per_user[user]

    def _refused(self, subscription_id: str, fault: KalamError, *, seq: str | None = None) -> None:
        reason = fault.reason if isinstance(fault, CursorExpired) else None
        self._outbox.send_json(
            protocol.error(
                subscription_id,
                fault_of(fault).websocket,
                message_of(fault),
                reason=reason,
                seq=seq,
            )
        )

    def _error(
        self, subscription_id: str, code: str, message: str, *, seq: Seq | str | None = None
    ) -> None:
        self._outbox.send_json(protocol.error(subscription_id, code, message, seq=seq))
