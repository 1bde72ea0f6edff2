"""Who is connected by WebSocket and which live queries run, for `system` tables, SHOW and KILL.

A connection takes a `Seat` when it opens and leaves it when it ends; its live queries are read from
its streams when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from kalamdb.errors import KalamError, QueryKilled
from kalamdb.lib.clock import Clock
from kalamdb.model.principal import Principal
from kalamdb.query.system import Values
from kalamdb.session.activity import Item
from kalamdb.sql.redact import redacted_again

KILLED_CODE = 1008


@dataclass(frozen=True, slots=True)
class WsStatistics:
    """Sockets and subscriptions now; frames, bytes and closed slow consumers since the start."""

    connections: int
    subscriptions: int
    frames_sent: int
    bytes_sent: int
    slow_closed: int


@dataclass(frozen=True, slots=True)
class LiveQuery:
    """One live query of a connection. `table` is (namespace, name) where it is only one."""

    subscription_id: str
    sql: str
    began_ms: int
    table: tuple[str, str] | None


class LiveStreams(Protocol):
    """The live queries of one connection."""

    def queries(self) -> list[LiveQuery]: ...

    def kill(self, subscription_id: str, fault: KalamError) -> None:
        """End it with an error; nothing happens when it has ended."""
        ...

    def check_tables(self) -> None:
        """End those of which a table or view is gone or another."""
        ...


@dataclass(slots=True, eq=False)
class Seat:
    """One connection. `principal` once it has signed in; `end(code, reason)` closes it."""

    id: str
    streams: LiveStreams
    end: Callable[[int, str], None]
    address: str | None
    opened_ms: int
    principal: Principal | None = None


class Directory:
    """The seats of one node."""

    def __init__(self, clock: Clock, *, node: int = 1) -> None:
        self._clock = clock
        self.node = node
        self._drawn = 0
        self._seats: dict[str, Seat] = {}

    def take(
        self, streams: LiveStreams, end: Callable[[int, str], None], address: str | None
    ) -> Seat:
        self._drawn += 1
        seat = Seat(f"c{self.node}-{self._drawn}", streams, end, address, self._clock.wall_ms())
        self._seats[seat.id] = seat
        return seat

    def leave(self, seat: Seat) -> None:
        self._seats.pop(seat.id, None)

    def check_tables(self) -> None:
        """Views changed: their live queries are not to go on with the text from before."""
        for seat in list(self._seats.values()):
            seat.streams.check_tables()

    def seats(self) -> list[tuple[Seat, Principal | None]]:
        return [(seat, seat.principal) for seat in self._seats.values()]

    def seat(self, seat_id: str) -> Seat | None:
        return self._seats.get(seat_id)


class Connections:
    """Implements `activity.Source`: rows of `system.sessions`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def listed(self, owner: str | None) -> Iterator[Item]:
        for seat, principal in self._directory.seats():
            if principal is not None and owner in (None, principal.actor):
                row = partial(_session_row, seat, principal, self._directory.node)
                yield Item(seat.id, principal.actor, row)

    def end(self, item_id: str) -> None:
        seat = self._directory.seat(item_id)
        if seat is not None:
            seat.end(KILLED_CODE, "ended by KILL")


class LiveQueries:
    """Implements `activity.Source`: rows of `system.live`. An id is connection:subscription."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def listed(self, owner: str | None) -> Iterator[Item]:
        node = self._directory.node
        for seat, principal in self._directory.seats():
            if principal is not None and owner in (None, principal.actor):
                for query in seat.streams.queries():
                    name = f"{seat.id}:{query.subscription_id}"
                    row = partial(_live_row, seat, principal, query, node)
                    yield Item(name, principal.actor, row, query.table)

    def end(self, item_id: str) -> None:
        connection_id, _, subscription_id = item_id.partition(":")
        seat = self._directory.seat(connection_id)
        if seat is not None:
            seat.streams.kill(subscription_id, QueryKilled(item_id))


def _session_row(seat: Seat, principal: Principal, node: int) -> Values:
    return (
        seat.id,
        None,
        None,
        "active",
        None,
        None,
        None,
        seat.address,
        "websocket",
        seat.opened_ms * 1000,
        None,
        None,
        principal.user,
        node,
    )


def _live_row(seat: Seat, principal: Principal, query: LiveQuery, node: int) -> Values:
    namespace, table = query.table or (None, None)
    return (
        f"{seat.id}:{query.subscription_id}",
        seat.id,
        query.subscription_id,
        namespace,
        table,
        principal.user,
        redacted_again(query.sql),
        None,
        "active",
        query.began_ms * 1000,
        None,
        None,
        node,
        None,
    )
