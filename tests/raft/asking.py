"""Calls that answer later, in a world without an asyncio loop of its own."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from kalamdb.errors import KalamError


class Stage(Protocol):
    """What a world offers."""

    now_s: float

    def at(self, time_s: float, event: Callable[[], None]) -> None: ...

    def step(self, action: Callable[..., Any], *args: Any) -> Any: ...


class WorldLoop(asyncio.AbstractEventLoop):
    """What futures need: callbacks run as events of the world."""

    def __init__(self, world: Stage) -> None:
        self._world = world

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._world.at(self._world.now_s, handle._run)  # type: ignore[attr-defined]
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        pass


class Ask:
    """`error` is what a call or its future raised; None while it is open, or went well."""

    def __init__(self, world: Stage, action: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._future: asyncio.Future[Any] | None = None
        self.error: KalamError | None = None
        try:
            self._future = world.step(action, *args)
        except KalamError as error:
            self.error = error

    @property
    def done(self) -> bool:
        if self._future is not None and self._future.done():
            error = self._future.exception()
            assert error is None or isinstance(error, KalamError)
            self.error = error
            return True
        return self._future is None

    @property
    def well(self) -> bool:
        return self.done and self.error is None

    @property
    def result(self) -> Any:
        assert self._future is not None
        return self._future.result()


def step(loop: WorldLoop, action: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run it as code of the loop."""
    before = events._get_running_loop()
    events._set_running_loop(loop)
    try:
        return action(*args)
    finally:
        events._set_running_loop(before)
