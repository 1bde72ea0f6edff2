"""A write with a deadline: whoever waits learns in time, truthfully.

A command that was decided goes on when its caller stops waiting, so the answer past the deadline is
`Indeterminate`; a refusal that could not be confirmed in time is `Unavailable` only when the
replica says so.
"""

from __future__ import annotations

import asyncio

from kalamdb.errors import Indeterminate
from kalamdb.model.command import Outcome
from kalamdb.model.work import RequestTag, Work
from kalamdb.replica.replica import Replica


async def write_within(
    replica: Replica, work: Work, tag: RequestTag | None, *, timeout_s: float
) -> Outcome:
    """The write's outcome. Raises of the error tree; Indeterminate after `timeout_s`."""
    waiter = replica.write(work, tag)
    try:
        async with asyncio.timeout(timeout_s):
            return await waiter
    except TimeoutError as error:
        raise Indeterminate(f"no answer within {timeout_s} s") from error
