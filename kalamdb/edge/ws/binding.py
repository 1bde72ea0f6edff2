"""The text of a live query → its plan, for one principal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kalamdb.errors import InvalidStatement
from kalamdb.lib.clock import Clock, Ids
from kalamdb.model.catalog import DEFAULT_NAMESPACE, CatalogView
from kalamdb.model.ids import Partition
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.ports import Snapshot
from kalamdb.sql.bound import Env, LivePlan, ReevaluatedPlan
from kalamdb.sql.statement import Select, Statement


class LiveGroups(Protocol):
    """What a live query needs of `ports.Groups`."""

    @property
    def catalog(self) -> CatalogView: ...

    def barrier(self, partition: Partition) -> Awaitable[object] | None: ...

    def get(self, table: TableDef, partition: Partition, pk: bytes) -> bytes | None: ...

    def snapshot(self, partition: Partition) -> Snapshot: ...


Parse = Callable[[str], tuple[Statement, ...]]
BindLive = Callable[[Select, CatalogView, str, Env], LivePlan | ReevaluatedPlan]
Check = Callable[[Principal, Select, LivePlan | ReevaluatedPlan], None]


@dataclass(frozen=True, slots=True)
class LiveBinder:
    """`check` raises PermissionDenied when the principal may not follow what the plan reads."""

    groups: LiveGroups
    parse: Parse
    bind_live: BindLive
    check: Check
    clock: Clock
    ids: Ids

    def bind(
        self, text: str, principal: Principal, params: Sequence[Any]
    ) -> LivePlan | ReevaluatedPlan:
        """Raises: InvalidInput (Unsupported for a SELECT that cannot be live), AccessDenied."""
        statements = self.parse(text)
        match statements:
            case (Select() as select,):
                pass
            case (_,):
                raise InvalidStatement("a live query is a SELECT")
            case _:
                raise InvalidStatement("a live query is exactly one statement")
        env = Env(principal, self.clock.wall_ms(), self.ids, params)
        plan = self.bind_live(select, self.groups.catalog, DEFAULT_NAMESPACE, env)
        self.check(principal, select, plan)
        return plan
