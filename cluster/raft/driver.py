"""Drives one hub on an asyncio loop: cycles, the thread that writes the log, the timer, background
work.

Keeps:
- The loop never waits for the disk; one thread writes, one batch at a time.
- An exception anywhere in a cycle ends `drive`: a node whose log is in an unknown state must not
  go on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any

from cluster.raft.core import NEVER
from cluster.raft.hub import Drive, Hub
from cluster.raft.wal import Batch

TIMER_S_MIN = 0.001


@asynccontextmanager
async def drive(make_hub: Callable[[Drive], Hub]) -> AsyncGenerator[Hub]:
    """Run the hub that `make_hub` builds until the block ends; then all leaderships end.

    Raises: whatever a cycle or a background task raised, as an ExceptionGroup.
    """
    async with asyncio.TaskGroup() as tasks:
        driver = _Driver(tasks)
        hub = make_hub(driver)
        watch = tasks.create_task(driver.watch(hub), name="raft-hub")
        try:
            yield hub
        finally:
            hub.stop("the node is stopping")
            await driver.close()
            watch.cancel()


class _Driver:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._idle = asyncio.Event()
        self._idle.set()
        self._work: set[asyncio.Task[None]] = set()
        self._hub: Hub | None = None
        self._woken = False
        self._busy = False  # a batch is being written
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="raft-log", daemon=True)

    async def watch(self, hub: Hub) -> None:
        self._hub = hub
        self._thread.start()
        self._loop.call_soon(self._cycle)
        self._woken = True
        await self._failed

    async def close(self) -> None:
        """End background work, let the batch under way finish, then end the thread."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._work:
            task.cancel()
        await self._idle.wait()
        self._batches.put(None)

    # Drive.

    def wake(self) -> None:
        if not (self._woken or self._busy or self._closed or self._hub is None):
            self._woken = True
            self._loop.call_soon(self._cycle)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    # The cycle.

    def _cycle(self) -> None:
        self._woken = False
        hub = self._hub
        if self._closed or hub is None or self._failed.done():
            return
        try:
            self._busy = True  # what the cycle itself queues must not begin another one
            batch = hub.cycle_begin()
            if batch is not None:
                self._idle.clear()
                self._batches.put(batch)
                return
            self._busy = False
            self._finish(hub)
        except BaseException as error:
            self._fail(error)
            raise

    def _write(self) -> None:
        hub = self._hub
        assert hub is not None
        while (batch := self._batches.get()) is not None:
            try:
                hub.write(batch)
            except BaseException as error:
                self._loop.call_soon_threadsafe(self._fail, error)
                raise
            self._loop.call_soon_threadsafe(self._written)

    def _written(self) -> None:
        hub = self._hub
        assert hub is not None
        self._busy = False
        self._idle.set()
        try:
            self._finish(hub)
        except BaseException as error:
            self._fail(error)
            raise

    def _finish(self, hub: Hub) -> None:
        if hub.cycle_end():
            self.wake()
        self._set_timer(hub)

    def _fail(self, error: BaseException) -> None:
        self._idle.set()
        if not self._failed.done():
            self._failed.set_exception(error)

    def _set_timer(self, hub: Hub) -> None:
        due_at_s = hub.due_at_s()
        if due_at_s == self._timer_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at_s = due_at_s
        if due_at_s != NEVER and not self._closed:
            delay_s = max(TIMER_S_MIN, due_at_s - hub.now_s())
            self._timer = self._loop.call_later(delay_s, self._due)

    def _due(self) -> None:
        self._timer, self._timer_at_s = None, NEVER
        hub = self._hub
        if hub is not None:
            hub.mark_due()
            self.wake()
