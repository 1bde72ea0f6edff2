"""A coroutine begun at once, and gone on with in a task only if it has to wait.

1. `begin` makes the first step on the spot, as if the task ran it: `asyncio.current_task()` is that
   task, context variables are the coroutine's own. Most coroutines end there.
2. One that waits is a `Rest`, which the task awaits.

Keeps: the task is at rest while `begin` runs, and belongs to this coroutine until it has ended, so
`asyncio.timeout` and TaskGroup inside it cancel the right one. A cancellation between the two steps
reaches the coroutine.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import (
    _enter_task,  # pyright: ignore
    _leave_task,  # pyright: ignore
)
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Rest(Generic[T]):
    """What is left of a coroutine that waits for `_awaited`. Await it once, in its task. `run`: of
    its context variables.
    """

    __slots__ = ("_awaited", "_coroutine", "_run", "cancelled")

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], awaited: Any, run: Callable[..., Any]
    ) -> None:
        self._coroutine = coroutine
        self._awaited = awaited
        self._run = run
        self.cancelled: asyncio.CancelledError | None = None  # came before the task took over

    def __await__(self) -> Generator[Any, Any, T]:
        run, coroutine = self._run, self._coroutine
        awaited = self._awaited
        try:
            if self.cancelled is not None:
                if awaited is not None:
                    awaited.cancel()
                awaited = run(coroutine.throw, self.cancelled)
            while True:
                try:
                    sent = yield awaited
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 — what the task is sent goes inside
                    awaited = run(coroutine.throw, error)
                else:
                    awaited = run(coroutine.send, sent)
        except StopIteration as done:
            return done.value


def begin(
    coroutine: Coroutine[Any, Any, T], task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop
) -> T | Rest[T]:
    """The result, or what is left. Raises what the coroutine raises. No task may be running."""
    run = copy_context().run
    _enter_task(loop, task)
    try:
        awaited = run(coroutine.send, None)
    except StopIteration as done:
        return done.value
    finally:
        _leave_task(loop, task)
    return Rest(coroutine, awaited, run)
