"""The query workers of a node: started with the first scan, kept warm, one query each at a time.

1. A query takes an idle worker, best one that holds its tables; or starts one; or waits in line.
2. The worker runs it (`engine_link.py`), within the time and memory of the settings.
3. A worker that ended, was killed or kept too much memory is replaced, and one spare is kept warm,
   so that the next query finds a worker that has loaded the engine.

Keeps: this process imports neither datafusion nor pyarrow; at most `workers_max` workers and
`queue_max` waiting queries; `close` leaves no process behind.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog

from kalamdb.errors import Overloaded, QueryKilled, QueryTimeout, Unavailable
from kalamdb.query.engine_link import (
    EngineLink,
    EngineResult,
    Feed,
    LinkSettings,
    ScanRequest,
    after,
)
from kalamdb.query.held import HeldResult, Room, new_file
from kalamdb.query.running import stoppable

log = structlog.get_logger(__name__)

MIB = 1 << 20
WARM = 2
"""Workers kept once there was a query: when one is killed, the next query has another."""
START_S = 30.0


LOOKERS = 2

T = TypeVar("T")
Stopped = Callable[[], None]
"""Raises GivenUp in a thread whose result nobody waits for any more."""


class GivenUp(Exception):
    """Ends the thread; nobody is there to see it."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Time and memory are for one query; `kept_max_bytes` is for the tables a worker keeps,
    `held_max_bytes` for all large results that wait for their clients.

    After `idle_s` without a query all workers end; the next one pays for a start again.
    """

    workers_max: int = 2
    queue_max: int = 64
    timeout_s: float = 30.0
    memory_max_bytes: int = 256 * MIB
    kept_max_bytes: int = 64 * MIB
    partitions: int = 2
    idle_s: float = 900.0
    held_max_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    workers: int
    busy: int
    waiting: int
    queries: int
    failed: int
    timed_out: int
    killed: int
    workers_started: int
    kept_bytes: int
    memory_bytes: int
    held_bytes: int


class EnginePool:
    """Bounded workers for the engine. Belongs to one event loop from first `run` to `close`."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self._link_settings = LinkSettings(
            settings.memory_max_bytes, settings.kept_max_bytes, settings.partitions
        )
        self._feeders = ThreadPoolExecutor(settings.workers_max, "query-feed")
        self._lookers = ThreadPoolExecutor(LOOKERS, "query-look")
        self._looking = 0
        self._room = Room(settings.held_max_bytes)
        self._links: set[EngineLink] = set()
        self._idle: list[EngineLink] = []
        self._ending: set[EngineLink] = set()
        self._line: deque[asyncio.Future[EngineLink]] = deque()
        self._closed = False
        self._rest: asyncio.TimerHandle | None = None
        self._queries = self._failed = self._timed_out = self._killed = self._started = 0

    async def run_held(
        self, request: ScanRequest, feed: Feed, owner: str
    ) -> tuple[EngineResult, HeldResult | None]:
        """`run` for a request with `held_above`: a large result stays outside the server.

        Raises LimitReached or Overloaded, too, when a large result of `owner` finds no room.
        """
        file = new_file()
        try:
            result = await self.run(request, feed, file)
            share = self._room.take(result.held_bytes, owner) if result.held_bytes else None
        except BaseException:
            os.close(file)
            raise
        if share is not None:
            return result, HeldResult(file, share)
        os.close(file)
        return result, None

    async def run(self, request: ScanRequest, feed: Feed, file: int | None = None) -> EngineResult:
        """Run one query. Cancelling the caller stops it, too.

        Raises: QueryFailed, QueryTimeout, QueryKilled, QueryMemoryExceeded, ResultTooLarge,
        Overloaded (the line is full, or took all the time), Unavailable (a worker was lost), and
        what the feed raises.
        """
        self._queries += 1
        try:
            async with stoppable():
                return await self._run(request, feed, file)
        except QueryKilled:
            self._killed += 1
            raise

    async def _run(self, request: ScanRequest, feed: Feed, file: int | None) -> EngineResult:
        began = done = False
        try:
            # The line and a worker's start have limits of their own: what a query may take counts
            # from when its worker is ready.
            async with asyncio.timeout(self.settings.timeout_s) as limit:
                now_s = asyncio.get_running_loop().time

                def ready() -> None:
                    limit.reschedule(now_s() + self.settings.timeout_s)

                link = await self._take(request.places)
                limit.reschedule(now_s() + START_S)
                began = True
                try:
                    result = await link.run(request, feed, self._feeders, ready, file)
                finally:
                    self._give_back(link)
            done = True
            return result
        except TimeoutError:
            self._timed_out += 1
            if began:
                raise QueryTimeout(self.settings.timeout_s) from None
            raise Overloaded("the line of queries", self.settings.queue_max) from None
        finally:
            if not began:
                feed.close()
            self._failed += not done

    async def look(self, work: Callable[[Stopped], T], close: Callable[[], None]) -> T:
        """Run `work` in a thread, within the time of a query; `close` on the loop once the thread
        is through.

        `work` calls its argument every now and then: it raises once nobody waits for the result any
        more. Raises: QueryTimeout, QueryKilled, Overloaded, and what `work` raises.
        """
        if self._closed or self._looking >= self.settings.queue_max:
            close()
            if self._closed:
                raise Unavailable("the node is stopping")
            raise Overloaded("the line of scans", self.settings.queue_max)
        self._looking += 1
        given_up = threading.Event()

        def stopped() -> None:
            if given_up.is_set():
                raise GivenUp

        future = self._lookers.submit(work, stopped)
        try:
            async with stoppable(), asyncio.timeout(self.settings.timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self._timed_out += 1
            raise QueryTimeout(self.settings.timeout_s) from None
        finally:
            self._looking -= 1
            given_up.set()
            after(future, close)

    async def close(self) -> None:
        """End all workers; queries under way fail with Unavailable."""
        self._closed = True
        self._stay()
        while self._line:
            waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_exception(Unavailable("the node is stopping"))
        for link in self._links | self._ending:
            link.kill()
        for link in list(self._links | self._ending):
            await link.ended.wait()
        self._links.clear()
        self._idle.clear()
        for threads in (self._feeders, self._lookers):
            threads.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            workers=len(self._links),
            busy=len(self._links) - len(self._idle),
            waiting=len(self._line),
            queries=self._queries,
            failed=self._failed,
            timed_out=self._timed_out,
            killed=self._killed,
            workers_started=self._started,
            kept_bytes=sum(link.kept_bytes for link in self._links),
            memory_bytes=sum(link.memory_bytes() for link in self._links),
            held_bytes=self._room.held_bytes,
        )

    # ---- workers --------------------------------------------------------------------------------

    async def _take(self, places: tuple[bytes, ...]) -> EngineLink:
        if self._closed:
            raise Unavailable("the node is stopping")
        self._stay()
        if self._idle:
            best = max(
                self._idle, key=lambda link: (len(link.places.intersection(places)), link.ready)
            )
            self._idle.remove(best)
            return best
        if len(self._links) < self.settings.workers_max:
            return self._start()
        if len(self._line) >= self.settings.queue_max:
            raise Overloaded("the line of queries", self.settings.queue_max)
        waiting: asyncio.Future[EngineLink] = asyncio.get_running_loop().create_future()
        self._line.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._give_back(waiting.result())
            elif waiting in self._line:
                self._line.remove(waiting)
            raise

    def _give_back(self, link: EngineLink) -> None:
        if not link.clean or link.swollen:
            self._retire(link)
            # One that never got ready is replaced only for those who wait: it may never get ready.
            if self._closed or not (link.ready or self._line):
                return
            link = self._start()
        self._offer(link)
        if not self._closed and len(self._links) < min(WARM, self.settings.workers_max):
            self._offer(self._start())
        if len(self._idle) == len(self._links) and not self._closed:
            loop = asyncio.get_running_loop()
            self._stay()
            self._rest = loop.call_later(self.settings.idle_s, self._end_idle)

    def _stay(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _end_idle(self) -> None:
        while self._idle:
            self._retire(self._idle.pop())

    def _offer(self, link: EngineLink) -> None:
        while self._line:
            waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_result(link)
                return
        self._idle.append(link)

    def _start(self) -> EngineLink:
        link = EngineLink(self._link_settings, self._gone)
        self._started += 1
        self._links.add(link)
        log.info("query_worker_started", pid=link.pid)
        return link

    def _retire(self, link: EngineLink) -> None:
        if link in self._links:
            self._links.discard(link)
            if not link.ended.is_set():
                self._ending.add(link)
                link.kill()

    def _gone(self, link: EngineLink) -> None:
        """A process ended. An idle one that had loaded the engine is replaced at once."""
        log.info("query_worker_ended", pid=link.pid, code=link.code, ready=link.ready)
        self._ending.discard(link)
        if link in self._idle:
            self._idle.remove(link)
            self._links.discard(link)
            if link.ready and not self._closed:
                self._idle.append(self._start())
