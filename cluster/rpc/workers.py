"""Tasks at rest in which handlers run.

A handler is begun at once, as if a resting task ran it; only one that waits wakes that task. So a
handler that ends by itself costs no task, and one that waits costs no new one.

Keeps: a task that was cancelled, or whose handler was, does not serve again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kalamdb.lib.turn import Rest, begin

IDLE_MAX = 64

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Makes a task that belongs to somebody, as TaskGroup.create_task."""


class Worker:
    """One such task."""

    __slots__ = ("_parked", "_rest", "_taken", "_workers", "task")

    def __init__(self, workers: Workers, spawn: Spawn) -> None:
        self._workers = workers
        self._rest: Rest[None] | None = None
        self._parked: asyncio.Future[None] | None = None
        self._taken = False  # the task itself runs the handler
        self.task = spawn(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._rest is None:
                self._parked = loop.create_future()
                await self._parked
                self._parked = None
            rest, self._rest = self._rest, None
            if rest is None:
                return
            self._taken = True
            await rest
            self._taken = False
            if self.task.cancelling() or not self._workers.give_back(self):
                return

    def go_on(self, rest: Rest[None]) -> None:
        self._rest = rest
        if self._parked is not None:
            self._parked.set_result(None)

    def cancel(self) -> None:
        """Cancel the handler."""
        if self._taken:
            self.task.cancel()
        elif self._rest is not None:
            self._rest.cancelled = asyncio.CancelledError()

    def dismiss(self) -> None:
        """End an idle task."""
        if self._parked is None:
            self.task.cancel()
        elif not self._parked.done():
            self._parked.set_result(None)


class Workers:
    """See the module."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._idle: list[Worker] = []
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def run(self, work: Coroutine[Any, Any, None]) -> Worker | None:
        """Begin `work`, outside of any task. Who goes on with it; None: it has ended."""
        worker = self._idle.pop() if self._idle else Worker(self, self._spawn)
        try:
            rest = begin(work, worker.task, self._loop)
        except asyncio.CancelledError:
            rest = None
        if rest is not None:
            worker.go_on(rest)
            return worker
        if not self.give_back(worker):
            worker.dismiss()
        return None

    def give_back(self, worker: Worker) -> bool:
        """False: it is not needed any more."""
        if self._closed or len(self._idle) >= IDLE_MAX:
            return False
        self._idle.append(worker)
        return True

    def close(self) -> None:
        """Idle tasks end now, the others with their handlers."""
        self._closed = True
        while self._idle:
            self._idle.pop().dismiss()
