"""Tasks that belong to somebody: loops with an interval, and callbacks on what is awaited
elsewhere.

Keeps: a task lives in a TaskGroup of the object that owns the work; cancelling it is the normal
end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from kalamdb.errors import KalamError, Unavailable

log = logging.getLogger(__name__)


async def every(
    interval_s: float,
    step: Callable[[], Awaitable[None]],
    *,
    name: str,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Run `step`, then pause, until cancelled. A step refused by the error tree is tried again next
    time.

    `pause` is how time passes; a simulation gives its own.
    """
    while True:
        try:
            await step()
        except KalamError as error:
            log.info("step_failed task=%s error=%s", name, error)
        await pause(interval_s)


def when_done(
    awaited: Awaitable[Any], done: Callable[[KalamError | None], None]
) -> asyncio.Future[Any]:
    """Call `done` once `awaited` resolves: with None, or with the error of the tree it raised.

    Anything else that ends it (cancellation) counts as Unavailable. The caller keeps what is
    returned until then: the loop itself holds tasks by weak reference only.
    """
    future = asyncio.ensure_future(awaited)

    def finish(ended: asyncio.Future[Any]) -> None:
        if ended.cancelled():
            done(Unavailable("the wait was cancelled"))
            return
        error = ended.exception()
        if error is None or isinstance(error, KalamError):
            done(error)
            return
        done(Unavailable("leadership could not be confirmed"))
        raise error

    future.add_done_callback(finish)
    return future
