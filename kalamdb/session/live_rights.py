"""Who may follow what: the gate of live queries.

A live query is a SELECT and passes the same rules; that it reads all users' rows may stand in a
view, so what it was bound to is looked at, too, and is written to the audit log as for a SELECT.
"""

from __future__ import annotations

from collections.abc import Callable

from kalamdb.model.principal import Principal
from kalamdb.session import permissions
from kalamdb.sql.bound import LivePlan, ReevaluatedPlan
from kalamdb.sql.statement import Select


class LiveRights:
    """`on_read_all(principal, table)` is told of every live query of all users' rows."""

    def __init__(self, on_read_all: Callable[[Principal, str], None]) -> None:
        self._on_read_all = on_read_all

    def check(self, principal: Principal, select: Select, plan: LivePlan | ReevaluatedPlan) -> None:
        """Raises PermissionDenied."""
        match plan:
            case LivePlan():
                permissions.check(principal, select, (plan.table,))
            case ReevaluatedPlan():
                permissions.check(principal, select, plan.tables)
                everybody = [use.table.full_name for use in plan.scan.tables if use.all_users]
                if everybody:
                    permissions.check_reads_all(principal)
                for name in everybody:
                    self._on_read_all(principal, name)
