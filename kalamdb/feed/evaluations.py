"""The live queries of a node that are evaluated anew: shared, watched, run in turn.

1. Subscriptions of one query of one tenant share a `LiveResult` (`feed.live_result`), which watches
   the tables it reads in the hubs.
2. A change makes it stale. The first after quiet is evaluated at once, further ones at most
   `per_s` times a second, within the user's share of a worker (`feed.budget`).
3. The evaluation runs in a query worker on snapshots of whole log entries; what is different goes
   to all viewers as one unit.

Keeps: an evaluation never runs on the loop; what a user's queries may use is bounded; the rows kept
for all results are bounded: the least recently used go, and are put together again from what the
store retains when they are needed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import structlog

from kalamdb.errors import (
    CursorExpired,
    KalamError,
    Overloaded,
    QueryTimeout,
    SubscriptionLimit,
    Unavailable,
)
from kalamdb.feed.budget import Account, Job, Lines
from kalamdb.feed.hub import Watcher
from kalamdb.feed.live_result import LiveResult, Viewer
from kalamdb.feed.result import Result, ResultCursor, query_id, result_of
from kalamdb.lib.clock import Clock
from kalamdb.model import keys
from kalamdb.model.ids import GroupId, Partition, TableId
from kalamdb.ports import Groups
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.moment import Evaluated, evaluate_now, evaluate_then
from kalamdb.query.scan import ScanLimits
from kalamdb.sql.bound import ReevaluatedPlan

log: Any = structlog.get_logger(__name__)

T = TypeVar("T")
Begun = Callable[[], int]
"""Called in the step that fixes the rows of an evaluation; the wall clock's milliseconds."""
HELD_SHARE = 4
ACCOUNTS = 1000
"""Beyond so many, those that are of no use are looked for."""


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """What live queries may cost that are evaluated anew.

    - `per_s`: evaluations of one query; `time_share`: of one worker's time, for all of one user.
    - `at_once`: evaluations of all users, so that workers are left for requests.
    - `rows_max`, `size_max_bytes`: of one result; `kept_max_bytes`: of all that are kept,
      `held_max_bytes`: of those that wait to be fetched, a quarter of it for one user.
    - `timeout_s`: of one evaluation, once a worker has it; others wait meanwhile.
    - `subscriptions_per_user`: of this kind.
    - `retries_max`: evaluations in a row that may fail for want of a worker.
    - Rows beyond `inline_max_bytes` are compared in a thread.
    """

    per_s: float = 20.0
    time_share: float = 0.5
    at_once: int = 1
    rows_max: int = 10_000
    size_max_bytes: int = 4 << 20
    kept_max_bytes: int = 64 << 20
    held_max_bytes: int = 64 << 20
    subscriptions_per_user: int = 100
    timeout_s: float = 5.0
    retries_max: int = 5
    inline_max_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class EvaluationStatistics:
    """`throttled`: evaluations that waited because a user had used its share; `evicted`: results
    whose rows were let go; `held_bytes`: rows that wait for clients to ask for the next page.
    """

    queries: int
    viewers: int
    evaluations: int
    failed: int
    unchanged: int
    throttled: int
    evicted: int
    waiting: int
    running: int
    kept_bytes: int
    held_bytes: int
    evaluation_s: float


class Watchable(Protocol):
    """Of a hub, here or at another node, what evaluations need (`Hub.watch`, `Hub.unwatch`).

    A watch ends later than `watch` returns, or never.
    """

    def watch(
        self, watcher: Watcher, chains: Sequence[bytes], tables: Sequence[TableId] = ()
    ) -> None: ...

    def unwatch(self, watcher: Watcher) -> None: ...


class Hubs(Protocol):
    """The hubs of all groups. What compares equal is one and the same."""

    def of(self, partition: Partition) -> Watchable:
        """The one of a partition's group. Raises Unavailable."""
        ...

    def everywhere(self) -> Sequence[Watchable]:
        """Those of all data groups."""
        ...


class Evaluations:
    """An async context manager: evaluations run inside it."""

    def __init__(
        self,
        groups: Groups,
        pool: EnginePool,
        hubs: Hubs,
        clock: Clock,
        limits: EvaluationLimits | None = None,
    ) -> None:
        self.limits = limits or EvaluationLimits()
        self.clock = clock
        self.evaluations = self.failed = self.unchanged = self.throttled = self.evicted = 0
        self.kept_bytes = self.held_bytes = 0
        self.evaluation_s = 0.0
        self._groups = groups
        self._pool = pool
        self._hubs = hubs
        self._scan = ScanLimits(self.limits.rows_max, self.limits.size_max_bytes)
        self._results: OrderedDict[tuple[Partition, str], LiveResult] = OrderedDict()
        self._accounts: dict[str, Account] = {}
        self._accounts_max = ACCOUNTS
        self._lines = Lines(self.limits.at_once, self._start)
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(1, "live-difference")
        self._closed = False

    async def __aenter__(self) -> Evaluations:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._lines.clear()
        for result in list(self._results.values()):
            result.fail(Unavailable("the node is stopping"))
        for task in list(self._running):
            task.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> EvaluationStatistics:
        return EvaluationStatistics(
            len(self._results),
            sum(len(result.viewers) for result in self._results.values()),
            self.evaluations,
            self.failed,
            self.unchanged,
            self.throttled,
            self.evicted,
            self._lines.waiting,
            self._lines.running,
            self.kept_bytes,
            self.held_bytes,
            round(self.evaluation_s, 3),
        )

    @property
    def is_quiet(self) -> bool:
        """Every result is that of the newest rows, and was handed to its viewers."""
        return not self._running and all(result.is_quiet for result in self._results.values())

    # ---- who watches what -----------------------------------------------------------------------

    def open(self, plan: ReevaluatedPlan, viewer: Viewer) -> LiveResult:
        """The result of a query for one more viewer, which must `leave` it.

        Who asks may read all its tables. Raises SubscriptionLimit, Unavailable.
        """
        principal = plan.env.principal
        if self._closed:
            raise Unavailable("the node is stopping")
        account = self._account(principal.user)
        if account.subscriptions >= self.limits.subscriptions_per_user:
            raise SubscriptionLimit(
                "live queries of this user that are evaluated anew",
                self.limits.subscriptions_per_user,
            )
        whose = (principal.partition, plan.shape)
        found = self._results.get(whose)
        if found is None:
            query = query_id(plan, principal.partition)
            found = LiveResult(self, plan, account, query, whose)
            self._watch(found)
            self._results[whose] = found
        found.viewers[viewer] = None
        account.subscriptions += 1
        return found

    def leave(self, result: LiveResult, viewer: Viewer) -> None:
        if viewer not in result.viewers:
            return
        del result.viewers[viewer]
        result.forget(viewer)
        result.account.subscriptions -= 1
        if not result.viewers:
            self.forget(result)

    def forget(self, result: LiveResult) -> None:
        """Nobody looks at it any more, or it has ended."""
        if self._results.get(result.whose) is result:
            del self._results[result.whose]
        for hub in result.hubs:
            hub.unwatch(result)
        result.close()

    def _account(self, user: str) -> Account:
        found = self._accounts.get(user)
        if found is None:
            now_s = self.clock.monotonic_s()
            if len(self._accounts) >= self._accounts_max:
                # One with debts is not forgotten before it has paid them.
                self._accounts = {
                    name: one for name, one in self._accounts.items() if not one.is_idle(now_s)
                }
                self._accounts_max = max(ACCOUNTS, 2 * len(self._accounts))
            found = self._accounts[user] = Account(user, self.limits.time_share, now_s)
        return found

    def _watch(self, result: LiveResult) -> None:
        places: dict[Watchable, tuple[list[bytes], list[TableId]]] = {}
        tenant = result.plan.env.principal.partition
        for use in result.plan.scan.tables:
            if use.all_users:
                for hub in self._hubs.everywhere():
                    places.setdefault(hub, ([], []))[1].append(use.table.id)
            else:
                partition = use.table.partition_for(tenant)
                chain = keys.chain(use.table.id, partition)
                places.setdefault(self._hubs.of(partition), ([], []))[0].append(chain)
        for hub, (chains, tables) in places.items():
            hub.watch(result, chains, tables)
        result.hubs = tuple(places)

    def barrier(self, plan: ReevaluatedPlan) -> Awaitable[object] | None:
        """This node leads what the query reads here; None: known at once. What it reads elsewhere
        is confirmed there, by each evaluation. Raises Unavailable.
        """
        tenant, far = plan.env.principal.partition, self._groups.far
        waits: list[Awaitable[object] | None] = []
        for use in plan.scan.tables:
            if use.all_users:
                away = frozenset[GroupId]() if far is None else far.groups()
                waits.append(self._groups.barrier_everywhere(away))
                continue
            partition = use.table.partition_for(tenant)
            if far is None or far.group_of(partition) is None:
                waits.append(self._groups.barrier(partition))
        waiting = [wait for wait in waits if wait is not None]
        return asyncio.gather(*waiting) if waiting else None

    # ---- running --------------------------------------------------------------------------------

    def enqueue(self, job: Job) -> None:
        self._lines.add(job)

    def withdraw(self, job: Job) -> None:
        """It waits no longer: nobody wants what it would give."""
        self._lines.drop(job)

    def _start(self, job: Job) -> None:
        wait_s = job.account.wait_s(self.clock.monotonic_s())
        if self._closed or wait_s > 0:
            self.throttled += 1
            job.put_off(wait_s)
            # Not from within the line's own step.
            asyncio.get_running_loop().call_soon(self._lines.done)
            return
        self._spawn(self._run(job))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except Exception as error:  # a bug ends one live query, not the node
            log.error("evaluation_broke", exc_info=error)
            job.broke()
        finally:
            self._lines.done()

    async def now(self, result: LiveResult, pinned: Callable[[], None]) -> Result:
        """The result on the rows of now. `pinned` is called in the step that fixes them."""

        def evaluate(begun: Begun) -> Awaitable[Evaluated]:
            def pin() -> int:
                pinned()
                return begun()

            return evaluate_now(result.plan, self._groups, self._pool, self._scan, pin)

        return await self._evaluated(result, evaluate)

    async def then(self, result: LiveResult, cursor: ResultCursor) -> Result:
        """The result as `cursor` has it. Raises CursorExpired when it cannot be put together."""

        def evaluate(begun: Begun) -> Awaitable[Evaluated]:
            return evaluate_then(
                result.plan,
                self._groups,
                self._pool,
                self._scan,
                then=cursor.moment,
                begun=begun,
            )

        found = await self._evaluated(result, evaluate)
        if found.cursor.digest != cursor.digest:
            raise CursorExpired(str(cursor), "expired")
        return found

    async def _evaluated(
        self, result: LiveResult, evaluate: Callable[[Begun], Awaitable[Evaluated]]
    ) -> Result:
        """Time counts, and is paid, from when a worker has the query."""
        began_s: float | None = None
        loop, timeout_s = asyncio.get_running_loop(), self.limits.timeout_s
        self.evaluations += 1
        try:
            async with asyncio.timeout(None) as limit:

                def begun() -> int:
                    nonlocal began_s
                    began_s = self.clock.monotonic_s()
                    limit.reschedule(loop.time() + timeout_s)
                    return self.clock.wall_ms()

                evaluated = await evaluate(begun)
            return await self._made(result, evaluated)
        except TimeoutError:
            self.failed += 1
            raise QueryTimeout(timeout_s) from None
        except KalamError:
            self.failed += 1
            raise
        finally:
            self._pay(result.account, began_s)

    async def _made(self, result: LiveResult, evaluated: Evaluated) -> Result:
        size = sum(map(len, evaluated.parts))
        return await self.off_loop(size, lambda: result_of(result.plan, evaluated, result.query))

    async def off_loop(self, size_bytes: int, work: Callable[[], T]) -> T:
        """Run `work` over so many bytes: here when they are few, else in a thread."""
        if size_bytes <= self.limits.inline_max_bytes:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def past(
        self,
        result: LiveResult,
        cursor: ResultCursor,
        done: Callable[[Result | KalamError], None],
    ) -> Callable[[], None]:
        """Put the result at `cursor` together; `done` gets it, or why that is not possible.

        To be called when it is wanted no more.
        """
        job = _PastJob(self, result, cursor, done)
        self.enqueue(job)
        return job.withdraw

    def compare(self, size_bytes: int, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run `work` in a thread; `done` gets what it gives."""

        async def run() -> None:
            done(await self.off_loop(size_bytes, work))

        self._spawn(run())

    def _pay(self, account: Account, began_s: float | None) -> None:
        if began_s is not None:
            now_s = self.clock.monotonic_s()
            self.evaluation_s += now_s - began_s
            account.pay(now_s - began_s, now_s)

    # ---- what is kept ---------------------------------------------------------------------------

    def hold(self, account: Account, size_bytes: int) -> None:
        """Count rows that a user's viewers keep for pages to come, or let go. Raises Overloaded."""
        most = self.limits.held_max_bytes
        own = most // HELD_SHARE
        if size_bytes > 0:
            if self.held_bytes + size_bytes > most:
                raise Overloaded("the memory for pages of live queries", most)
            if account.held_bytes and account.held_bytes + size_bytes > own:
                raise Overloaded("the memory for pages of this user's live queries", own)
        self.held_bytes += size_bytes
        account.held_bytes += size_bytes

    def kept(self, result: LiveResult, grown_bytes: int) -> None:
        """The rows of a result are other ones: make room, it goes last."""
        self.kept_bytes += grown_bytes
        if result.whose in self._results:
            self._results.move_to_end(result.whose)
        if self.kept_bytes <= self.limits.kept_max_bytes:
            return
        for other in list(self._results.values()):
            if self.kept_bytes <= self.limits.kept_max_bytes:
                return
            if other is not result and other.let_go():
                self.evicted += 1


class _PastJob:
    """One result of the past, for one viewer."""

    def __init__(
        self,
        evaluations: Evaluations,
        result: LiveResult,
        cursor: ResultCursor,
        done: Callable[[Result | KalamError], None],
    ) -> None:
        self.account = result.account
        self._evaluations = evaluations
        self._result = result
        self._cursor = cursor
        self._done = done
        self._timer: asyncio.TimerHandle | None = None

    def put_off(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait_s, self._evaluations.enqueue, self)

    def withdraw(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._evaluations.withdraw(self)

    def broke(self) -> None:
        self._result.broke()

    async def run(self) -> None:
        try:
            found = await self._evaluations.then(self._result, self._cursor)
        except KalamError as fault:
            self._done(fault)
        else:
            self._done(found)
