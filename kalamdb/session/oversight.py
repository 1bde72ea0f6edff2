"""What a node knows of its sessions and hears from them; one object for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kalamdb.lib.clock import Clock
from kalamdb.model.catalog import CatalogView
from kalamdb.model.principal import Principal
from kalamdb.query.running import RunningQueries, SlowQuery
from kalamdb.query.system import Values
from kalamdb.session.activity import Activity, QueriesSource, Source
from kalamdb.session.cluster_statements import ClusterControl
from kalamdb.session.node_statements import TABLES, OnKill, no_kill_heard
from kalamdb.session.system_tables import SystemTables
from kalamdb.sql.statement import Ongoing
from kalamdb.sql.virtual import SYSTEM, virtual_table

OnReadAll = Callable[[Principal, str], None]
"""Who reads the rows of all tenants of which table (`namespace.table`)."""


def no_read_heard(principal: Principal, table: str) -> None:
    """For sessions outside a node."""


@dataclass(frozen=True, slots=True)
class Oversight:
    """`on_kill`, `on_read_all` and `on_cluster` are for the audit log. `cluster` None: outside a
    node.
    """

    system: SystemTables
    activity: Activity
    queries: RunningQueries
    on_read_all: OnReadAll = no_read_heard
    on_kill: OnKill = no_kill_heard
    cluster: ClusterControl | None = None
    on_cluster: OnKill = no_kill_heard

    def offer(self, kind: Ongoing, source: Source) -> None:
        """`source` has things of this kind: its `system` table, SHOW and KILL."""
        self.activity.offer(kind, source)
        table = virtual_table(SYSTEM, TABLES[kind])
        self.system.provide(
            TABLES[kind], lambda principal: self.activity.rows(kind, table, principal)
        )


def slow_row(slow: SlowQuery) -> Values:
    return (
        slow.at_ms * 1000,
        slow.took_ms,
        slow.user,
        slow.actor,
        slow.kind,
        slow.query,
        slow.row_count,
        slow.outcome,
    )


def oversight(
    catalog: Callable[[], CatalogView],
    clock: Clock,
    *,
    node: int = 1,
    slow_s: float | None = None,
    **heard: Any,
) -> Oversight:
    """With the running queries; `heard` are the functions of `Oversight`, and `cluster`."""
    queries = RunningQueries(clock, node=node, slow_s=slow_s)
    made = Oversight(SystemTables(catalog), Activity(), queries, **heard)
    made.offer(Ongoing.QUERY, QueriesSource(queries, clock, node))
    made.system.provide("slow_queries", lambda principal: [slow_row(one) for one in queries.slow()])
    return made
