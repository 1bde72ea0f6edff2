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
from kalamdb.edge.ws.ongoing import LiveQuery
from kalamdb.edge.ws.outbox import Outbox
from kalamdb.errors import CursorExpired, KalamError, Unavailable, Unsupported
from kalamdb.feed.evaluations import Evaluations
from kalamdb.feed.events import event_prefix
from kalamdb.feed.hub import EndReason, Hub, Push, StreamEnd, reads_alike
from kalamdb.feed.loading import Page
from kalamdb.feed.result_subscription import PushAll, ResultSubscription
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
from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import Partition, Seq, TableId, TenantId
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import LivePlan, ReevaluatedPlan

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
    evaluations: Evaluations | None = None


Live = Subscription | ResultSubscription


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
        self._open: dict[str, tuple[Live, TenantId]] = {}
        self._asked: dict[str, tuple[str, int]] = {}  # text, and since when (Unix ms)
        self._to_step: dict[Live, None] = {}
        self._packing: set[Live] = set()
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
            sql, began_ms = self._asked[name]
            table = stream.plan.table if isinstance(stream, Subscription) else None
            place = None if table is None else (table.namespace, table.name)
            found.append(LiveQuery(name, sql, began_ms, place))
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

    def behind(self, subscription: Live) -> None:
        self._to_step[subscription] = None
        if self._pump is None and not self._closed:
            self._pump = self._spawn(self._run_pump())

    def ended(self, subscription: Live, end: StreamEnd) -> None:
        cursor = self._told(subscription, end.cursor)
        self._error(subscription.id, end.reason.value, _said_of(end), seq=cursor)
        self._drop(subscription)

    def failed(self, subscription: Live, fault: KalamError) -> None:
        """End it with an error; where it stood is told if it has got that far."""
        cursor = str(subscription.cursor)
        known = isinstance(subscription, ResultSubscription) and cursor != "0"
        self._drop(subscription)
        self._refused(subscription.id, fault, seq=cursor if known else None)

    # ---- steps ----------------------------------------------------------------------------------

    async def _begin(self, wish: protocol.Wish, start: Start, principal: Principal) -> Live | None:
        params = wish.params or ()
        plan = self._services.binder.bind(wish.sql, principal, params)
        waiting = self._barrier(plan, principal)
        if waiting is not None:
            await waiting
            # The definition may have moved on while this waited.
            now = self._services.binder.bind(wish.sql, principal, params)
            if _tables(now) != _tables(plan):
                raise Unavailable("a table was replaced by another")
            plan = now
        if self._closed:
            return None
        if isinstance(plan, LivePlan):
            subscription = self._incremental(wish, plan, start, principal)
        else:
            subscription = self._evaluated(wish, plan, start)
        self._open[wish.id] = (subscription, principal.user)
        self._asked[wish.id] = (wish.sql, self._services.clock.wall_ms())
        self._services.per_user[principal.user] += 1
        return subscription

    def _barrier(
        self, plan: LivePlan | ReevaluatedPlan, principal: Principal
    ) -> Awaitable[object] | None:
        services = self._services
        if isinstance(plan, LivePlan):
            return services.groups.barrier(plan.table.partition_for(principal.partition))
        return self._evaluations().barrier(plan)

    def _evaluations(self) -> Evaluations:
        found = self._services.evaluations
        if found is None:
            raise Unsupported("this query as a live query", "select columns of one table")
        return found

    def _incremental(
        self, wish: protocol.Wish, plan: LivePlan, start: Start, principal: Principal
    ) -> Subscription:
        services = self._services
        partition = plan.table.partition_for(principal.partition)
        return Subscription(
            wish.id,
            plan,
            partition,
            start,
            snapshot=partial(services.groups.snapshot, partition),
            hub=services.hub_of(partition),
            outlet=self,
            limits=services.limits.feed,
            prefix=self._outbox.prefix(event_prefix(wish.id)),
            is_current=partial(self._is_current, plan.table, partition),
        )

    def _is_current(self, table: TableDef, partition: Partition) -> bool:
        try:
            self._services.groups.get(table, partition, b"")  # no row has an empty key
        except KalamError:
            return False  # its load goes by seq; the feed ends it if it must end
        return True

    def _evaluated(
        self, wish: protocol.Wish, plan: ReevaluatedPlan, start: Start
    ) -> ResultSubscription:
        return ResultSubscription(
            wish.id,
            partial(self._evaluations().open, plan),
            start,
            outlet=self,
            limits=self._services.limits.feed,
            prefix=self._outbox.prefix(event_prefix(wish.id)),
        )

    async def _advance(self, subscription: Live) -> None:
        """One step, and what it gives into the outbox."""
        try:
            outputs = subscription.step(self._services.clock.monotonic_s())
        except KalamError as fault:
            self.failed(subscription, fault)
            return
        outbox = self._outbox
        for output in outputs:
            match output:
                case Accepted(page, reset):
                    outbox.send(_ack(subscription, page, reset=reset))
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

    async def _packed(self, subscription: Live, payload: bytes) -> bytes:
        """The frame of a large page. No event of it can come meanwhile: it is not live yet."""
        self._packing.add(subscription)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._services.packer,
                partial(message_frame, payload, packed=True, msgpack=self._outbox.msgpack),
            )
        finally:
            self._packing.discard(subscription)

    def _told(self, subscription: Live, cursor: Seq | str) -> Seq | str:
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
            moved = _moved(subscription, catalog)
            if moved is not None:
                self.ended(subscription, StreamEnd(*moved, subscription.cursor))

    def _tell_positions(self) -> None:
        for subscription, _ in self._open.values():
            if not self._outbox.has_room:
                return
            moved = subscription.untold()
            if moved is not None:
                self._outbox.send(protocol.position(subscription.id, moved.seq))

    # ---- ends -----------------------------------------------------------------------------------

    def _drop(self, subscription: Live) -> None:
        subscription.close()
        self._to_step.pop(subscription, None)
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


def _tables(plan: LivePlan | ReevaluatedPlan) -> list[TableId]:
    tables = (plan.table,) if isinstance(plan, LivePlan) else plan.tables
    return [table.id for table in tables]


def _moved(subscription: Live, catalog: CatalogView) -> tuple[EndReason, str] | None:
    """What of a subscription is gone or another in this catalog, and its name."""
    match subscription:
        case Subscription():
            tables, views = (subscription.plan.table,), ()
        case ResultSubscription():
            tables, views = subscription.tables, subscription.views
    for table in tables:
        now = catalog.tables_by_id.get(table.id)
        if now is None:
            return EndReason.TABLE_DROPPED, table.full_name
        alike = isinstance(subscription, Subscription) and reads_alike(table, now)
        if now.version != table.version and not alike:
            return EndReason.SCHEMA_CHANGED, table.full_name
    for view in views:
        if catalog.views.get((view.namespace, view.name)) != view:
            return EndReason.SCHEMA_CHANGED, view.full_name
    return None


def _ack(subscription: Live, page: Page, *, reset: bool) -> bytes:
    match subscription:
        case Subscription():
            return protocol.subscription_ack(subscription.id, subscription.plan, page, reset=reset)
        case ResultSubscription():
            return protocol.result_ack(subscription.id, subscription, page, reset=reset)


def _said_of(end: StreamEnd) -> str:
    """`detail` names the table, or says what happened."""
    match end.reason:
        case EndReason.TABLE_DROPPED:
            return f"table {end.detail} was dropped"
        case EndReason.SCHEMA_CHANGED:
            return f"{end.detail} has another definition now; subscribe again"
        case EndReason.LEADERSHIP_LOST | EndReason.FILTER_FAILED | EndReason.BROKEN:
            return end.detail
        case _:
            assert_never(end.reason)
