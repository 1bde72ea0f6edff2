"""Requests of this node to other services: small JSON documents, within bounds.

Keeps: a request has a time and an answer a size it may take; no redirect is followed, no cookie
kept, no proxy of the environment used; so many are under way at once and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import aiohttp
import msgspec

from kalamdb.errors import Overloaded, Unavailable

ANSWER_MAX_BYTES = 256 * 1024
UNDER_WAY_MAX = 16
WAITING_MAX = 200


@dataclass(frozen=True, slots=True)
class Fetched:
    """One answer: its status and its body."""

    status: int
    body: bytes

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one for anything else."""
        try:
            said: Any = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return {}
        return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


class Fetch:
    """Use as a context manager: it holds connections."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._turns = asyncio.Semaphore(UNDER_WAY_MAX)
        self._waiting = 0
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Fetch:
        self._http = aiohttp.ClientSession(
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "KalamDB"},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def get(self, url: str) -> Fetched:
        """Raises: Unavailable, Overloaded."""
        return await self._request("GET", url, None, None)

    async def post_form(
        self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None
    ) -> Fetched:
        """`basic` is a user and a password for the Authorization header. Raises: as `get`."""
        auth = None if basic is None else aiohttp.BasicAuth(*basic)
        return await self._request("POST", url, dict(form), auth)

    async def _request(
        self, method: str, url: str, form: dict[str, str] | None, auth: aiohttp.BasicAuth | None
    ) -> Fetched:
        if self._http is None:
            raise Unavailable("this node is stopping")
        if self._waiting >= WAITING_MAX:
            raise Overloaded("the queue of requests to other services", WAITING_MAX)
        self._waiting += 1
        try:
            async with (
                self._turns,
                self._http.request(
                    method, url, data=form, auth=auth, allow_redirects=False
                ) as response,
            ):
                return Fetched(response.status, await _bounded(response, url))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(f"{method} {url} failed: {why}") from error
        finally:
            self._waiting -= 1


async def _bounded(response: aiohttp.ClientResponse, url: str) -> bytes:
    parts: list[bytes] = []
    left = ANSWER_MAX_BYTES
    async for part in response.content.iter_any():
        left -= len(part)
        if left < 0:
            raise Unavailable(f"{url} answers with more than {ANSWER_MAX_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
