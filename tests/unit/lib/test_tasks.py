"""Loops with an interval, and callbacks on what is awaited elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from kalamdb.errors import KalamError, Unavailable
from kalamdb.lib.tasks import every, when_done


async def test_every_goes_on_after_a_refused_step_and_ends_when_cancelled() -> None:
    steps: list[int] = []
    pauses: list[float] = []

    async def step() -> None:
        steps.append(len(steps))
        if len(steps) == 2:
            raise Unavailable("not now")

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await every(5.0, step, name="test", pause=pause)
    assert len(steps) == 4
    assert pauses == [5.0] * 4


async def test_every_does_not_hide_a_bug() -> None:
    async def step() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await every(5.0, step, name="test")


async def test_when_done_tells_how_it_ended() -> None:
    ends: list[KalamError | None] = []
    loop = asyncio.get_running_loop()
    fine, lost, gone = (loop.create_future() for _ in range(3))
    for future in (fine, lost, gone):
        when_done(future, ends.append)
    fine.set_result(1)
    lost.set_exception(Unavailable("deposed"))
    gone.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ends[0] is None
    assert str(ends[1]) == str(Unavailable("deposed"))
    assert isinstance(ends[2], Unavailable)


async def test_when_done_takes_coroutines() -> None:
    ends: list[KalamError | None] = []

    async def read() -> int:
        return 1

    await when_done(read(), ends.append)
    assert ends == [None]
