"""The public keys of an outside issuer, kept current: from a file, or from a URL.

1. `find` answers from memory, at once.
2. A key id nobody knows wakes `run`, which loads the set again; `find` meanwhile raises
   SigningKeyPending, whose `ready` an edge awaits before it asks once more.
3. `run` also loads the set every so often by itself.

Keeps: one load at a time, however many wait for it. Loads that strangers cause are at least
`spacing_s` apart, so made-up key ids cost the issuer nothing. A set that was loaded replaces the
one before as a whole: a key that left it is trusted no more, and whoever listens is told. A load
that fails changes nothing, until the set is older than `stale_max_s`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from kalamdb.errors import InvalidCredentials, KalamError, SigningKeyPending, Unavailable
from kalamdb.lib.clock import Clock
from kalamdb.session.jws import Head, NoKeySet, OutsideKey, key_set

log: Any = structlog.get_logger("jwks")

FILE_LOOK_S = 2.0
FILE_MAX_BYTES = 256 * 1024
READY_MAX_S = 30.0
RETRY_S = 10.0  # after a load that failed


class KeySource(Protocol):
    """Where a set comes from."""

    interval_s: float
    spacing_s: float

    async def load(self) -> bytes | None:
        """The set's bytes; None when it is the one loaded last. Raises Unavailable."""
        ...


class FileKeys:
    """A file that its owner replaces or rewrites."""

    interval_s = FILE_LOOK_S
    spacing_s = 0.2

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    async def load(self) -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(None, self._read)

    def _read(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                state = os.fstat(file.fileno())
                mark = (state.st_ino, state.st_size, state.st_mtime_ns)
                if mark == self._seen:
                    return None
                raw = file.read(FILE_MAX_BYTES + 1)
        except OSError as error:
            self._seen = None
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}") from error
        if len(raw) > FILE_MAX_BYTES:
            raise Unavailable(f"{self._path} has more than {FILE_MAX_BYTES} bytes")
        self._seen = mark
        return raw


class UrlKeys:
    """A URL, asked through `get`."""

    spacing_s = 5.0

    def __init__(self, get: Callable[[], Any], interval_s: float) -> None:
        self._get = get
        self.interval_s = interval_s

    async def load(self) -> bytes | None:
        return await self._get()


@dataclass(frozen=True, slots=True)
class KeysStatistics:
    """Keys now; loads and failed loads since the start."""

    keys: int
    loads_total: int
    failed_total: int


class IssuerKeys:
    """See the module."""

    def __init__(
        self, issuer: str, source: KeySource, clock: Clock, *, stale_max_s: float = 86_400.0
    ) -> None:
        self._issuer = issuer
        self._source = source
        self._clock = clock
        self._stale_max_s = stale_max_s
        self._keys: tuple[OutsideKey, ...] | None = None
        self._loaded_s = self._asked_s = -1e12
        self._failed = self._loading = False
        self._unreadable: str | None = None  # what is wrong with the bytes loaded last
        self._wanted = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._removed: list[Callable[[], None]] = []
        self._loads = self._failures = 0

    def on_removal(self, told: Callable[[], None]) -> None:
        """`told` is called when a key has left the set."""
        self._removed.append(told)

    def find(self, head: Head) -> OutsideKey:
        """The key a token names. A token without a key id is good when one key alone can be meant.

        Raises: SigningKeyPending, InvalidCredentials (no such key), Unavailable (no set at all).
        """
        now_s = self._clock.monotonic_s()
        known = self._keys
        if known is not None and now_s - self._loaded_s > self._stale_max_s:
            known = None
        if known is not None:
            found = [
                key
                for key in known
                if head.algorithm in key.algorithms and head.key_id in (None, key.key_id)
            ]
            if len(found) == 1:
                return found[0]
        if self._loading or now_s - self._asked_s >= self._source.spacing_s:
            if not self._loading:
                self._wanted.set()
            raise SigningKeyPending(self._issuer, self._ready)
        if known is None:
            raise Unavailable(f"the signing keys of {self._issuer} cannot be had")
        raise InvalidCredentials("the token is signed with a key its issuer does not name")

    async def _ready(self) -> None:
        """Until the load under way, or the next, is over, however it ended. Raises Unavailable."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if not self._loading:
            self._wanted.set()
        try:
            async with asyncio.timeout(READY_MAX_S):
                await waiter
        except TimeoutError:
            raise Unavailable(f"{self._issuer} does not answer") from None

    async def run(self) -> None:
        """Load until cancelled."""
        while True:
            self._wanted.clear()
            await self.load()
            interval_s = min(RETRY_S, self._source.interval_s) if self._failed else None
            try:
                async with asyncio.timeout(interval_s or self._source.interval_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def load(self) -> None:
        """Load once. A failure is logged, and kept from who waits: `find` says what is known."""
        self._loading = True
        self._loads += 1
        try:
            raw = await self._source.load()
            if raw is not None:
                self._replace(raw)
            if self._unreadable is not None:
                raise NoKeySet(self._unreadable)
            self._loaded_s = self._clock.monotonic_s()
            self._failed = False
        except (KalamError, NoKeySet) as error:
            self._failures += 1
            if not self._failed:
                log.warning("issuer_keys_failed", issuer=self._issuer, reason=str(error))
            self._failed = True
        finally:
            self._loading = False
            self._asked_s = self._clock.monotonic_s()
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _replace(self, raw: bytes) -> None:
        try:
            keys = key_set(raw)
        except NoKeySet as error:
            self._unreadable = str(error)
            return
        self._unreadable = None
        before, self._keys = self._keys or (), keys
        log.info("issuer_keys_loaded", issuer=self._issuer, keys=[key.key_id for key in keys])
        if any(not _holds(keys, key) for key in before):
            for told in self._removed:
                told()

    def statistics(self) -> KeysStatistics:
        return KeysStatistics(len(self._keys or ()), self._loads, self._failures)


def _holds(keys: tuple[OutsideKey, ...], key: OutsideKey) -> bool:
    return any(
        other.key_id == key.key_id
        and other.algorithms == key.algorithms
        and other.key.public_numbers() == key.key.public_numbers()
        for other in keys
    )
