"""Live queries of groups that this node leads: bound, confirmed, begun.

Used by the sockets of this node and by whoever serves other nodes' sockets: the same subscriptions,
with other outlets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, assert_never

from kalamdb.edge.ws import protocol
from kalamdb.edge.ws.binding import LiveBinder, LiveGroups
from kalamdb.errors import KalamError, Unavailable, Unsupported
from kalamdb.feed.evaluations import Evaluations
from kalamdb.feed.hub import EndReason, Hub, StreamEnd, reads_alike
from kalamdb.feed.result_subscription import ResultOutlet, ResultSubscription
from kalamdb.feed.subscription import (
    Accepted,
    FeedLimits,
    Outlet,
    Position,
    Rows,
    Start,
    Subscription,
)
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.ids import Partition, TableId
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import LivePlan, ReevaluatedPlan

Plan = LivePlan | ReevaluatedPlan
Live = Subscription | ResultSubscription


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be live, for whom."""

    sql: str
    params: Sequence[Any]
    principal: Principal


class LiveOutlet(Outlet, ResultOutlet, Protocol):
    """Where the frames of both kinds go."""

    def behind(self, subscription: Live) -> None: ...

    def ended(self, subscription: Live, end: StreamEnd) -> None: ...


@dataclass(frozen=True, slots=True)
class LocalLive:
    """Without `evaluations` only queries of one table, filter and projection are live."""

    groups: LiveGroups
    hub_of: Callable[[Partition], Hub]
    binder: LiveBinder
    limits: FeedLimits
    evaluations: Evaluations | None = None

    def bind(self, asked: Asked) -> Plan:
        """Raises InvalidInput, AccessDenied."""
        return self.binder.bind(asked.sql, asked.principal, asked.params)

    def confirmed(self, asked: Asked, plan: Plan) -> Awaitable[Plan] | None:
        """The plan to begin, once this node is known to lead what it reads; None: `plan`, at once.

        Raises Unavailable.
        """
        waiting = self._barrier(plan, asked.principal)
        return None if waiting is None else self._once(waiting, asked, plan)

    async def _once(self, waiting: Awaitable[object], asked: Asked, plan: Plan) -> Plan:
        await waiting
        # The definition may have moved on while this waited.
        now = self.bind(asked)
        if table_ids(now) != table_ids(plan):
            raise Unavailable("a table was replaced by another")
        return now

    def _barrier(self, plan: Plan, principal: Principal) -> Awaitable[object] | None:
        if isinstance(plan, LivePlan):
            return self.groups.barrier(plan.table.partition_for(principal.partition))
        return self._evaluations().barrier(plan)

    def _evaluations(self) -> Evaluations:
        if self.evaluations is None:
            raise Unsupported("this query as a live query", "select columns of one table")
        return self.evaluations

    def begin(
        self,
        subscription_id: str,
        plan: Plan,
        start: Start,
        principal: Principal,
        *,
        outlet: LiveOutlet,
        prefix: bytes,
    ) -> Live:
        """To be stepped and closed. Raises Unsupported, SubscriptionLimit, Unavailable."""
        if isinstance(plan, ReevaluatedPlan):
            return ResultSubscription(
                subscription_id,
                partial(self._evaluations().open, plan),
                start,
                outlet=outlet,
                limits=self.limits,
                prefix=prefix,
            )
        partition = plan.table.partition_for(principal.partition)
        return Subscription(
            subscription_id,
            plan,
            partition,
            start,
            snapshot=partial(self.groups.snapshot, partition),
            hub=self.hub_of(partition),
            outlet=outlet,
            limits=self.limits,
            prefix=prefix,
            is_current=partial(self._is_current, plan.table, partition),
        )

    def _is_current(self, table: TableDef, partition: Partition) -> bool:
        try:
            self.groups.get(table, partition, b"")  # no row has an empty key
        except KalamError:
            return False  # its load goes by seq; the feed ends it if it must end
        return True


async def settled(waiting: Awaitable[Plan] | None, plan: Plan) -> Plan:
    """What `confirmed` gave, waited for."""
    return plan if waiting is None else await waiting


def table_ids(plan: Plan) -> list[TableId]:
    return [table.id for table in tables_of(plan)]


def tables_of(plan: Plan) -> tuple[TableDef, ...]:
    return (plan.table,) if isinstance(plan, LivePlan) else plan.tables


def moved(live: Live, catalog: CatalogView) -> tuple[EndReason, str] | None:
    """What of a live query is gone or another in this catalog, and its name."""
    match live:
        case Subscription():
            return plan_moved(live.plan, catalog)
        case ResultSubscription():
            return _moved(live.tables, live.views, catalog, by_row=False)


def plan_moved(plan: Plan, catalog: CatalogView) -> tuple[EndReason, str] | None:
    views = plan.scan.views if isinstance(plan, ReevaluatedPlan) else ()
    return _moved(tables_of(plan), views, catalog, by_row=isinstance(plan, LivePlan))


def _moved(
    tables: Sequence[TableDef], views: Sequence[ViewDef], catalog: CatalogView, *, by_row: bool
) -> tuple[EndReason, str] | None:
    for table in tables:
        now = catalog.tables_by_id.get(table.id)
        if now is None:
            return EndReason.TABLE_DROPPED, table.full_name
        alike = by_row and reads_alike(table, now)
        if now.version != table.version and not alike:
            return EndReason.SCHEMA_CHANGED, table.full_name
    for view in views:
        if catalog.views.get((view.namespace, view.name)) != view:
            return EndReason.SCHEMA_CHANGED, view.full_name
    return None


def payload_of(
    subscription_id: str, live: Live, output: Accepted | Rows | Position, *, reset: bool
) -> bytes:
    """The message of an output. `reset`: rows were told before it began, which are void."""
    match output:
        case Accepted(page, anew):
            if isinstance(live, Subscription):
                return protocol.subscription_ack(
                    subscription_id, live.plan, page, reset=anew or reset
                )
            return protocol.result_ack(subscription_id, live, page, reset=anew or reset)
        case Rows(rows, page):
            return protocol.initial_data_batch(subscription_id, rows, page)
        case Position(seq):
            return protocol.position(subscription_id, seq)


def said_of(end: StreamEnd) -> str:
    """`detail` names the table, or says what happened."""
    match end.reason:
        case EndReason.TABLE_DROPPED:
            return f"table {end.detail} was dropped"
        case EndReason.SCHEMA_CHANGED:
            return f"{end.detail} has another definition now; subscribe again"
        case (
            EndReason.LEADERSHIP_LOST
            | EndReason.SLOT_MOVED
            | EndReason.FILTER_FAILED
            | EndReason.BROKEN
        ):
            return end.detail
        case _:
            assert_never(end.reason)
