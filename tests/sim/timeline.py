"""Virtual time: a heap of events, and an asyncio loop per process that lives on it.

1. Everything that happens is an event at a time; events of one time happen in the order they were
   scheduled. Nothing waits for the real clock.
2. A process's code runs under its own `Loop`, so the futures and tasks it makes belong to it: what
   a dead process had scheduled is dropped, what a stopped one had scheduled waits for it.

Keeps: an exception in an event ends the run; `trace` is a digest of what was noted on the way, so
two runs of one seed can be compared.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import xxhash

START_S = 1000.0


class Timeline:
    """See the module."""

    def __init__(self, *, verbose: bool = False) -> None:
        self.now_s = START_S
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._trace = xxhash.xxh3_64()
        self._verbose = verbose

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        # What a dead process left may be finalized, and schedule something, in the midst of this.
        count = self._count = self._count + 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), count, event))

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, event)

    def note(self, text: str) -> None:
        """Something happened that another run of the seed must repeat."""
        line = f"{self.now_s - START_S:10.5f} {text}"
        self._trace.update(line.encode())
        if self._verbose:
            print(line)

    def forget(self) -> None:
        """Nothing more happens; what events hold may go."""
        self._heap.clear()

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    @property
    def elapsed_s(self) -> float:
        return self.now_s - START_S

    def run(self, duration_s: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as `until` holds after an event."""
        end_s = self.now_s + duration_s
        heap = self._heap
        if until is not None and until():
            return True
        while heap and heap[0][0] <= end_s:
            self.now_s, _, event = heapq.heappop(heap)
            event()
            if until is not None and until():
                return True
        self.now_s = end_s
        return False


class Life:
    """Whether a process runs: it may be stopped for a while, and it ends once."""

    def __init__(self) -> None:
        self.ended = False
        self.stopped_until_s = 0.0


class _Due:
    """The event of a handle. A closure that may schedule itself again would be one more cycle for
    the collector, for each event of a run.
    """

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: Loop, handle: asyncio.Handle) -> None:
        self._loop = loop
        self._handle = handle

    def __call__(self) -> None:
        self._loop.due(self._handle, self)


class Loop(asyncio.AbstractEventLoop):
    """The asyncio loop of one life of one process. `faults` collects errors nobody awaited."""

    def __init__(self, timeline: Timeline, life: Life, faults: list[str]) -> None:
        self._timeline = timeline
        self._life = life
        self._faults = faults

    def _schedule(self, time_s: float, handle: asyncio.Handle) -> None:
        self._timeline.at(time_s, _Due(self, handle))

    def due(self, handle: asyncio.Handle, event: Callable[[], None]) -> None:
        """Its time has come: run it, or wait for the process with it."""
        life = self._life
        if life.ended or handle.cancelled():
            return
        if self._timeline.now_s < life.stopped_until_s:
            self._timeline.at(life.stopped_until_s, event)
            return
        self._run(handle)

    def _run(self, handle: asyncio.Handle) -> None:
        events._set_running_loop(self)
        try:
            context: Context = handle._context  # type: ignore[attr-defined]
            context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        finally:
            events._set_running_loop(None)

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run code of the process now. It must be alive and not stopped."""
        assert not self._life.ended
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            return action(*args)
        finally:
            events._set_running_loop(before)

    # asyncio's interface, as far as futures, tasks and timeouts use it.

    def time(self) -> float:
        return self._timeline.now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._schedule(self._timeline.now_s, handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._timeline.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._schedule(when, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name or "simulated")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        future.set_result(func(*args))
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not self._life.ended:
            self._faults.append(f"{context.get('message')}: {error!r}")
