"""Queries under way: what runs for whom since when, how to stop one, and which were slow.

1. A session `track`s a statement that reads more than one row by key.
2. The pool runs its work inside `stoppable()`; `stop` ends that work, wherever it waits: a worker
   is killed, a thread gives up, a place in the line is left.
3. When it ends, one that took long goes to the log and into a bounded list.

Keeps: a query that was stopped has written nothing: work is stopped while it reads, never while a
write of it is being agreed on. Texts are shown without their literals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog

from kalamdb.errors import KalamError, QueryKilled
from kalamdb.lib.clock import Clock
from kalamdb.model.principal import Principal
from kalamdb.sql.redact import redacted

log: Any = structlog.get_logger("query")

SLOW_KEPT = 1_000
QUEUED, RUNNING, FINISHING = "queued", "running", "finishing"


@dataclass(slots=True, eq=False)
class RunningQuery:
    """One statement under way. `row_count` is set when it is known."""

    id: str
    principal: Principal
    kind: str
    text: str
    started_ms: int
    started_s: float
    state: str = QUEUED
    killed: bool = False
    row_count: int | None = None
    stop: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One that took long. `outcome` is `done` or the class of its error."""

    at_ms: int
    took_ms: float
    user: str
    actor: str
    kind: str
    query: str
    row_count: int | None
    outcome: str


_CURRENT: ContextVar[RunningQuery | None] = ContextVar("running_query", default=None)


@dataclass(frozen=True, slots=True)
class RunningStatistics:
    running: int
    killed_total: int
    slow_total: int


class RunningQueries:
    """The queries of this node. `slow_s` None: none counts as slow."""

    def __init__(self, clock: Clock, *, node: int = 1, slow_s: float | None = None) -> None:
        self._clock = clock
        self._node = node
        self._slow_s = slow_s
        self._drawn = 0
        self._running: dict[str, RunningQuery] = {}
        self._slow: deque[SlowQuery] = deque(maxlen=SLOW_KEPT)
        self._killed_total = 0
        self._slow_total = 0

    @contextmanager
    def track(self, principal: Principal, kind: str, text: str) -> Generator[RunningQuery]:
        """List a statement while the block runs."""
        self._drawn += 1
        clock = self._clock
        query = RunningQuery(
            f"q{self._node}-{self._drawn}",
            principal,
            kind,
            text,
            clock.wall_ms(),
            clock.monotonic_s(),
        )
        self._running[query.id] = query
        token = _CURRENT.set(query)
        outcome = "cancelled"
        try:
            yield query
            outcome = "done"
        except KalamError as error:
            outcome = type(error).__name__
            raise
        finally:
            _CURRENT.reset(token)
            del self._running[query.id]
            took_s = clock.monotonic_s() - query.started_s
            if self._slow_s is not None and took_s >= self._slow_s:
                self._note(query, took_s * 1000, outcome)

    def _note(self, query: RunningQuery, took_ms: float, outcome: str) -> None:
        self._slow_total += 1
        principal = query.principal
        slow = SlowQuery(
            self._clock.wall_ms(),
            round(took_ms, 3),
            principal.user,
            principal.actor,
            query.kind,
            redacted(query.text),
            query.row_count,
            outcome,
        )
        self._slow.append(slow)
        log.warning(
            "query_was_slow",
            id=query.id,
            user=slow.user,
            actor=slow.actor,
            took_ms=slow.took_ms,
            rows=slow.row_count,
            outcome=outcome,
            query=slow.query,
        )

    def listed(self) -> Sequence[RunningQuery]:
        return list(self._running.values())

    def slow(self) -> Sequence[SlowQuery]:
        """Oldest first."""
        return list(self._slow)

    def stop(self, query: RunningQuery) -> None:
        """End its reading with QueryKilled, now or when it would read next."""
        if not query.killed:
            query.killed = True
            self._killed_total += 1
            if query.stop is not None:
                query.stop()

    def statistics(self) -> RunningStatistics:
        return RunningStatistics(len(self._running), self._killed_total, self._slow_total)


@asynccontextmanager
async def stoppable() -> AsyncGenerator[None]:
    """Run a block that `RunningQueries.stop` ends. Raises QueryKilled."""
    query = _CURRENT.get()
    if query is None:
        yield
        return
    if query.killed:
        raise QueryKilled(query.id)
    try:
        async with asyncio.timeout(None) as limit:
            now_s = asyncio.get_running_loop().time
            query.stop = lambda: limit.reschedule(now_s())
            query.state = RUNNING
            yield
    except TimeoutError:
        if query.killed:
            raise QueryKilled(query.id) from None
        raise
    finally:
        query.stop = None
        query.state = FINISHING
