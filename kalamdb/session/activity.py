"""What goes on and can be ended: queries, live queries, transactions, connections.

Whoever runs such things offers them as a `Source` (`offer`); `system` tables and SHOW list them,
KILL ends one of them. Other nodes do the same for theirs (`join`).

Keeps: a node that does not say what it has is named in the list. Who may end something is decided
here, once: roles dba and system whatever it is, everybody else what is their own. An id that is not
there and an id of somebody else look the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Protocol

from kalamdb.errors import NothingToKill
from kalamdb.lib.clock import Clock
from kalamdb.model.principal import Principal, Role
from kalamdb.model.types import TEXT
from kalamdb.query.running import RunningQueries, RunningQuery
from kalamdb.query.system import Values
from kalamdb.session.transactions import OpenTransaction, Transactions
from kalamdb.sql.redact import redacted_again
from kalamdb.sql.statement import Ongoing
from kalamdb.sql.virtual import VirtualTable

UNREACHABLE = "unreachable"
"""What stands as the state in the row of a node that did not answer."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing under way: its id, who started it, how to make its row of the `system` table, and
    the (namespace, name) of its table where it has only one.
    """

    id: str
    owner: str
    make_row: Callable[[], Values]
    table: tuple[str, str] | None = None

    @property
    def row(self) -> Values:
        return self.make_row()


class Source(Protocol):
    """Things of one kind."""

    def listed(self, owner: str | None) -> Iterable[Item]:
        """Those `owner` started, or all for None. What others have must cost next to nothing."""
        ...

    def end(self, item_id: str) -> Awaitable[None] | None:
        """End it. Nothing happens when it has ended by itself."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """One thing under way, on whatever node: its row, and its table as in `Item`."""

    row: Values
    table: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Everywhere:
    """What is known to be under way; `silent` nodes did not say what they have."""

    known: Sequence[Told]
    silent: Sequence[int] = ()


class OtherNodes(Protocol):
    """What goes on there; they look at the principal's rights themselves."""

    async def listed(self, kind: Ongoing, principal: Principal) -> Everywhere: ...

    async def kill(self, kind: Ongoing, item_id: str, principal: Principal) -> None:
        """Raises NothingToKill; Unavailable when a node that may have it does not answer."""
        ...


class Activity:
    """Everything under way on one node, and the way to that of the others."""

    def __init__(self) -> None:
        self._sources: dict[Ongoing, Source] = {}
        self._others: OtherNodes | None = None

    def join(self, others: OtherNodes) -> None:
        """There are other nodes; once."""
        assert self._others is None
        self._others = others

    def offer(self, kind: Ongoing, source: Source) -> None:
        """Things of this kind come from `source`; once per kind."""
        assert kind not in self._sources
        self._sources[kind] = source

    def has(self, kind: Ongoing) -> bool:
        return kind in self._sources

    def listed(self, kind: Ongoing, principal: Principal) -> Iterator[Item]:
        """What `principal` may see and end."""
        source = self._sources.get(kind)
        owner = None if principal.role.at_least(Role.DBA) else principal.actor
        for item in () if source is None else source.listed(owner):
            if owner is None or item.owner == owner:
                yield item

    async def everywhere(self, kind: Ongoing, principal: Principal) -> Everywhere:
        """What `principal` may see and end, on all nodes; this one's first."""
        here = [Told(item.row, item.table) for item in self.listed(kind, principal)]
        if self._others is None:
            return Everywhere(here)
        elsewhere = await self._others.listed(kind, principal)
        return Everywhere([*here, *elsewhere.known], elsewhere.silent)

    async def rows(
        self, kind: Ongoing, table: VirtualTable, principal: Principal
    ) -> Sequence[Values]:
        """Rows of `table`, which is this kind's, with one for each node that did not answer."""
        found = await self.everywhere(kind, principal)
        return [
            *(one.row for one in found.known),
            *(silent_row(table, node) for node in found.silent),
        ]

    async def kill(self, kind: Ongoing, item_id: str, principal: Principal) -> None:
        """End one thing, wherever it is. Raises NothingToKill, Unavailable."""
        if await self.kill_here(kind, item_id, principal):
            return
        if self._others is None:
            raise NothingToKill(kind.value.lower(), item_id)
        await self._others.kill(kind, item_id, principal)

    async def kill_here(self, kind: Ongoing, item_id: str, principal: Principal) -> bool:
        """End one thing of this node; False: there is none that `principal` may end."""
        for item in self.listed(kind, principal):
            if item.id == item_id:
                ending = self._sources[kind].end(item_id)
                if isawaitable(ending):
                    await ending
                return True
        return False


def silent_row(table: VirtualTable, node: int) -> Values:
    """Says that a node did not answer: its number, `unreachable` as its state, and nothing else."""
    values: list[object] = []
    for number, column in enumerate(table.columns):
        if column.name == "node_id":
            values.append(node)
        elif column.name in ("state", "status"):
            values.append(UNREACHABLE)
        elif number == 0:
            values.append(f"node {node}")
        elif column.nullable:
            values.append(None)
        else:
            values.append("" if column.type == TEXT else 0)
    return values


class QueriesSource:
    """Implements `Source` over the running queries."""

    def __init__(self, queries: RunningQueries, clock: Clock, node: int) -> None:
        self._queries = queries
        self._clock = clock
        self._node = node

    def listed(self, owner: str | None) -> Iterator[Item]:
        now_s = self._clock.monotonic_s()
        for query in self._queries.listed():
            if owner in (None, query.principal.actor):
                yield Item(query.id, query.principal.actor, partial(self._row, query, now_s))

    def _row(self, query: RunningQuery, now_s: float) -> Values:
        return (
            query.id,
            query.principal.user,
            query.principal.actor,
            query.state,
            query.kind,
            query.started_ms * 1000,
            int((now_s - query.started_s) * 1000),
            redacted_again(query.text),
            self._node,
        )

    def end(self, item_id: str) -> None:
        for query in self._queries.listed():
            if query.id == item_id:
                self._queries.stop(query)


class TransactionsSource:
    """Implements `Source` over the open transactions."""

    def __init__(self, transactions: Transactions, node: int = 1) -> None:
        self._transactions = transactions
        self._node = node

    def listed(self, owner: str | None) -> Iterator[Item]:
        for one in self._transactions.list():
            if owner in (None, one.actor):
                row = partial(_transaction_row, one, self._node)
                yield Item(one.transaction_id, one.actor, row)

    def end(self, item_id: str) -> None:
        self._transactions.kill(item_id)


def _transaction_row(one: OpenTransaction, node: int) -> Values:
    return (
        one.transaction_id,
        one.user,
        one.origin,
        one.state,
        one.age_ms,
        one.idle_ms,
        one.write_count,
        one.write_bytes,
        one.tables,
        one.snapshot_seq,
        node,
    )
