"""Waiting on a condition: the one place in the tests that may let real time pass.

Keeps: a wait has a name and a deadline, and ends as soon as its condition holds. For what runs
on the virtual loop of the simulator, jump its clock instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.01


async def wait_until(
    condition: Callable[[], bool], *, what: str, timeout_s: float = 10.0, poll_s: float = POLL_S
) -> None:
    """Return once `condition()` holds. Raises: AssertionError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        await asyncio.sleep(poll_s)


def wait_until_blocking(
    condition: Callable[[], bool], *, what: str, timeout_s: float = 10.0
) -> None:
    """`wait_until` for tests without a loop, such as those that watch another process."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(POLL_S)
