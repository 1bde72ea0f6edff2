"""Dials one node until there is a link to it, and again when it is lost.

Keeps: between two attempts there are BACKOFF_S_MIN to BACKOFF_S_MAX, doubled each time and spread
by dice; it begins anew after a link that lived for STEADY_S. A new address is tried at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from cluster.rpc.link import Link
from kalamdb.lib.clock import Ids

BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 2.0
CONNECT_TIMEOUT_S = 3.0
STEADY_S = 2.0


class Dials(Protocol):
    """What a dialler asks."""

    def connected(self, node: int) -> bool: ...

    async def dial(self, node: int, text: str) -> Link:
        """Raises: OSError, UnicodeError for a name that is none."""
        ...

    def note_unreachable(self, node: int, text: str, reason: str) -> None: ...


class Dialler:
    """See the module."""

    def __init__(self, node: int, text: str, dials: Dials, ids: Ids) -> None:
        self._node = node
        self._text = text
        self._dials = dials
        self._ids = ids
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        self._task = spawn(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def move(self, text: str) -> None:
        """The node has another address from now on."""
        if text != self._text:
            self._text = text
            self._woken.set()

    def lost(self) -> None:
        """There is no link to the node any more."""
        self._woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            linked_s: float | None = None
            while self._dials.connected(self._node):
                linked_s = loop.time() if linked_s is None else linked_s
                self._woken.clear()
                await self._woken.wait()
            if linked_s is not None:  # by the other side; one that broke at once may do so again
                steady = loop.time() - linked_s >= STEADY_S
                pause_s = 0.0 if steady else max(BACKOFF_S_MIN, pause_s)
            await self._pause(pause_s)
            if self._dials.connected(self._node):
                continue
            begun_s = loop.time()
            await self._dial()
            steady = loop.time() - begun_s >= STEADY_S
            pause_s = (
                BACKOFF_S_MIN if steady else min(BACKOFF_S_MAX, max(BACKOFF_S_MIN, pause_s * 2))
            )

    async def _pause(self, pause_s: float) -> None:
        """For 75 to 125 % of `pause_s`, or until there is a new address."""
        if pause_s == 0.0:
            return
        self._woken.clear()
        share = 0.75 + self._ids.token(1)[0] / 512
        try:
            async with asyncio.timeout(pause_s * share):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _dial(self) -> None:
        """One attempt, and the life of what came of it."""
        text = self._text
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                link = await self._dials.dial(self._node, text)
        except TimeoutError:
            self._dials.note_unreachable(
                self._node, text, f"no connection within {CONNECT_TIMEOUT_S:g} s"
            )
            return
        except (OSError, UnicodeError) as error:
            self._dials.note_unreachable(self._node, text, str(error) or type(error).__name__)
            return
        await link.over
