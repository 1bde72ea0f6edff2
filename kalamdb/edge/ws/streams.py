"""The live queries of one socket: begun, stepped, ended. The `Outlet` of its subscriptions.

A subscription's first steps are done at once. What is left, each next page, and whatever the hub
could not push for want of room, is done by the *pump*: one bounded step at a time, each after the
client has taken in what it was sent before. There is a pump task only while something is to be
stepped.

Invariant: what a step gives is queued before the next step of the same subscription, and, once the
hub pushes, in the same synchronous piece as the step that joined it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from kalamdb.edge.faults import fault_of, message_of
from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.binding import LiveBinder, LiveGroups
from kalamdb.edge.ws.frames import message_frame
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.outbox import Outbox
from kalamdb.errors import CursorExpired, KalamError, Unavailable
from kalamdb.feed.events import event_prefix
from kalamdb.feed.hub import EndReason, Hub, Push, StreamEnd
from kalamdb.feed.subscription import (
    Accepted,
    Events,
    Position,
    Rows,
    Stage,
    Start,
    Subscription,
)
from kalamdb.lib.clock import Clock
from kalamdb.model.ids import Partition, Seq, TenantId
from kalamdb.model.principal import Principal

# Larger pages are packed in a thread: a megabyte takes ten milliseconds.
PACK_INLINE_MAX_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class LiveServices:
    """What the live queries of all sockets share. `per_user` counts their subscriptions."""

    groups: LiveGroups
    hub_of: Callable[[Partition], Hub]
    binder: LiveBinder
    clock: Clock
    limits: WsLimits
    packer: Executor
    per_user: Counter[TenantId]


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
        self._open: dict[str, tuple[Subscription, TenantId]] = {}
        self._to_step: dict[Subscription, None] = {}
        self._packing: set[Subscription] = set()
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
            if subscription.next_page(after, self._services.clock.monotonic_s()):
                self.behind(subscription)
        except protocol.BadMessage as fault:
            self._error(subscription.id, protocol.PROTOCOL, str(fault))
        except CursorExpired as fault:
            self._failed(subscription, fault)

    def unsubscribe(self, subscription_id: str) -> None:
        """End a live query without a word; one that is not there is no error."""
        found = self._open.get(subscription_id)
        if found is not None:
            self._drop(found[0])

    # ---- what the connection asks for -----------------------------------------------------------

    def cursors(self) -> dict[str, Seq]:
        """Where each subscription stands once everything queued has been read."""
        return {name: self._told(stream, stream.cursor) for name, (stream, _) in self._open.items()}

    def tick(self, now_s: float) -> None:
        """End what holds a snapshot too long or lost its table; tell streams how far they got."""
        for subscription, _ in list(self._open.values()):
            try:
                subscription.check_hold(now_s)
            except CursorExpired as fault:
                self._failed(subscription, fault)
        self._check_tables()
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

    def behind(self, subscription: Subscription) -> None:
        self._to_step[subscription] = None
        if self._pump is None and not self._closed:
            self._pump = self._spawn(self._run_pump())

    def ended(self, subscription: Subscription, end: StreamEnd) -> None:
        cursor = self._told(subscription, end.cursor)
        self._error(subscription.id, end.reason.value, _said_of(end, subscription), seq=cursor)
        self._drop(subscription)

    # ---- steps ----------------------------------------------------------------------------------

    async def _begin(
        self, wish: protocol.Wish, start: Start, principal: Principal
    ) -> Subscription | None:
        services = self._services
        params = wish.params or ()
        plan, partition = services.binder.bind(wish.sql, principal, params)
        waiting = services.groups.barrier(partition)
        if waiting is not None:
            await waiting
            # The definition may have moved on while this waited.
            plan, now = services.binder.bind(wish.sql, principal, params)
            if now != partition:
                raise Unavailable("the table was replaced by another")
        if self._closed:
            return None
        subscription = Subscription(
            wish.id,
            plan,
            partition,
            start,
            snapshot=partial(services.groups.snapshot, partition),
            hub=services.hub_of(partition),
            outlet=self,
            limits=services.limits.feed,
            prefix=self._outbox.prefix(event_prefix(wish.id)),
        )
        self._open[wish.id] = (subscription, principal.user)
        services.per_user[principal.user] += 1
        return subscription

    async def _advance(self, subscription: Subscription) -> None:
        """One step, and what it gives into the outbox."""
        try:
            outputs = subscription.step(self._services.clock.monotonic_s())
        except KalamError as fault:
            self._failed(subscription, fault)
            return
        outbox = self._outbox
        for output in outputs:
            match output:
                case Accepted(page, reset):
                    outbox.send(
                        protocol.subscription_ack(
                            subscription.id, subscription.plan, page, reset=reset
                        )
                    )
                case Rows(rows, page):
                    payload = protocol.initial_data_batch(subscription.id, rows, page)
                    if not outbox.packed or len(payload) <= PACK_INLINE_MAX_BYTES:
                        outbox.send(payload)
                        continue
                    frame = await self._packed(subscription, payload)
                    if subscription.stage is Stage.ENDED:
                        return
                    outbox.send_frame(frame)
                case Events(events):
                    for event in events:
                        outbox.send_event(subscription.prefix, event)
                case Position(seq):
                    outbox.send(protocol.position(subscription.id, seq))
                case _:
                    assert_never(output)

    async def _packed(self, subscription: Subscription, payload: bytes) -> bytes:
        """The frame of a large page. No event of it can come meanwhile: it is not live yet."""
        self._packing.add(subscription)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._services.packer, partial(message_frame, payload, packed=True)
            )
        finally:
            self._packing.discard(subscription)

    def _told(self, subscription: Subscription, cursor: Seq) -> Seq:
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

    def _check_tables(self) -> None:
        """End streams whose table is gone or another; most ends come from the hub, at once.

        This one is for those that began while their table was on its way out.
        """
        catalog = self._services.groups.catalog
        if catalog.version == self._catalog_version:
            return
        self._catalog_version = catalog.version
        for subscription, _ in list(self._open.values()):
            table = subscription.plan.table
            now = catalog.tables_by_id.get(table.id)
            if now is None or now.version != table.version:
                reason = EndReason.TABLE_DROPPED if now is None else EndReason.SCHEMA_CHANGED
                self.ended(subscription, StreamEnd(reason, "", subscription.cursor))

    def _tell_positions(self) -> None:
        for subscription, _ in self._open.values():
            if not self._outbox.has_room:
                return
            moved = subscription.untold()
            if moved is not None:
                self._outbox.send(protocol.position(subscription.id, moved.seq))

    # ---- ends -----------------------------------------------------------------------------------

    def _drop(self, subscription: Subscription) -> None:
        subscription.close()
        self._to_step.pop(subscription, None)
        found = self._open.get(subscription.id)
        if found is None or found[0] is not subscription:
            return
        del self._open[subscription.id]
        per_user, user = self._services.per_user, found[1]
        per_user[user] -= 1
        if not per_user[user]:
            del per_user[user]

    def _failed(self, subscription: Subscription, fault: KalamError) -> None:
        self._drop(subscription)
        self._refused(subscription.id, fault)

    def _refused(self, subscription_id: str, fault: KalamError) -> None:
        reason = fault.reason if isinstance(fault, CursorExpired) else None
        self._outbox.send(
            protocol.error(
                subscription_id, fault_of(fault).websocket, message_of(fault), reason=reason
            )
        )

    def _error(
        self, subscription_id: str, code: str, message: str, *, seq: Seq | None = None
    ) -> None:
        self._outbox.send(protocol.error(subscription_id, code, message, seq=seq))


def _said_of(end: StreamEnd, subscription: Subscription) -> str:
    match end.reason:
        case EndReason.TABLE_DROPPED:
            return f"table {subscription.plan.table.full_name} was dropped"
        case EndReason.SCHEMA_CHANGED:
            return f"table {subscription.plan.table.full_name} has another definition now"
        case EndReason.LEADERSHIP_LOST | EndReason.FILTER_FAILED:
            return end.detail
        case _:
            assert_never(end.reason)
