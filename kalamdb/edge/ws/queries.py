"""SQL over a live connection: statements one after the other, in the order in which they came.

`{"type":"query","id":…,"sql":…}` is answered by one `{"type":"result","id":…}` with the fields of
the HTTP envelope. A transaction begun by one query goes on in the next; it belongs to the
connection and is rolled back with it.

Keeps: one statement at a time; a bounded queue, beyond which a query is refused with its id; the
next statement runs when the client has taken in the result before, so a client that does not read
does not pile results up.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson
import structlog

from kalamdb.edge import faults
from kalamdb.edge.ws.frames import message_frame
from kalamdb.edge.ws.outbox import Outbox
from kalamdb.edge.ws.protocol import Query
from kalamdb.errors import (
    KalamError,
    MalformedRequest,
    MissingAuthorization,
    Overloaded,
    RateLimited,
    Unsupported,
)
from kalamdb.lib.clock import Clock
from kalamdb.lib.rates import Buckets
from kalamdb.model.principal import Principal
from kalamdb.session.run import Conversation, SqlRequest, check_request_id
from kalamdb.session.stale import cursor_text

QUEUE_MAX = 32
QUERY_ID_LENGTH_MAX = 256
INLINE_SIZE_BYTES = 64 << 10
"""Larger results are packed in a thread."""

_log: Any = structlog.get_logger()


class Talks(Protocol):
    """What of a session is used here."""

    async def converse(self, talk: Conversation, request: SqlRequest) -> bytes: ...

    def hang_up(self, talk: Conversation) -> None: ...


@dataclass(frozen=True, slots=True)
class QueryServices:
    """What all connections share; `talks` None: this edge takes no SQL. `users`: how often, by
    name; None: no limit.
    """

    talks: Talks | None
    clock: Clock
    packer: Executor
    users: Buckets | None = None


Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Queries:
    """The statements of one connection."""

    def __init__(
        self,
        services: QueryServices,
        outbox: Outbox,
        drained: Callable[[], Awaitable[bool]],
        spawn: Spawn,
    ) -> None:
        """`drained` waits until the client has taken in what it was sent; False: it is closing."""
        self._services = services
        self._outbox = outbox
        self._drained = drained
        self._spawn = spawn
        self._waiting: deque[Query] = deque()
        self._talk: Conversation | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, query: Query, principal: Principal | None) -> None:
        """Queue a statement; its answer comes later. Who has not signed in is refused."""
        if self._closed:
            return
        if principal is None:
            self._refuse(query, MissingAuthorization())
            return
        if self._talk is None:
            self._talk = Conversation(principal)
        if len(self._waiting) >= QUEUE_MAX:
            self._refuse(query, Overloaded("the queue of this connection's queries", QUEUE_MAX))
            return
        self._waiting.append(query)
        if self._task is None:
            self._task = self._spawn(self._work(self._talk))

    def _refuse(self, query: Query, error: KalamError) -> None:
        self._outbox.send(_result(query, faults.envelope(error, 0.0, None, query.sql)))

    def close(self) -> None:
        """The connection is going: what waits is dropped, what runs is ended and rolled back."""
        self._closed = True
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._talk is not None and self._services.talks is not None:
            self._services.talks.hang_up(self._talk)

    # ---- one after the other --------------------------------------------------------------------

    async def _work(self, talk: Conversation) -> None:
        try:
            while self._waiting:
                query = self._waiting.popleft()
                payload = _result(query, await self._answer(talk, query))
                await self._send(payload)
                if not await self._drained():
                    return
        finally:
            self._task = None
            if self._closed:
                self._hang_up()

    async def _answer(self, talk: Conversation, query: Query) -> bytes:
        """The envelope, whatever comes of it."""
        clock = self._services.clock
        started_s = clock.monotonic_s()
        try:
            talks = self._services.talks
            if talks is None:
                raise Unsupported("SQL on this connection", "POST /v1/api/sql")
            users = self._services.users
            wait_s = users.take(talk.principal.user) if users is not None else 0.0
            if wait_s:
                raise RateLimited("the user's limit of requests", math.ceil(wait_s))
            return await talks.converse(talk, _request(query))
        except KalamError as error:
            took_ms = (clock.monotonic_s() - started_s) * 1000
            if faults.fault_of(error).status == 500:
                _log.error("sql_failed", code=faults.fault_of(error).code, exc_info=error)
            return faults.envelope(error, took_ms, talk.principal, query.sql)
        except Exception as error:  # noqa: BLE001 — the outermost edge: a bug ends one statement
            _log.error("sql_failed", code=faults.BUG.code, exc_info=error)
            return faults.bug_envelope((clock.monotonic_s() - started_s) * 1000)

    async def _send(self, payload: bytes) -> None:
        outbox = self._outbox
        if len(payload) <= INLINE_SIZE_BYTES:
            outbox.send(payload)
            return
        pack = partial(message_frame, payload, packed=outbox.packed, msgpack=outbox.msgpack)
        loop = asyncio.get_running_loop()
        outbox.send_frame(await loop.run_in_executor(self._services.packer, pack))


def _request(query: Query) -> SqlRequest:
    """Raises MalformedRequest."""
    if len(query.id) > QUERY_ID_LENGTH_MAX:
        raise MalformedRequest(f"the id of a query has at most {QUERY_ID_LENGTH_MAX} characters")
    if query.sql.find("\0") >= 0:
        raise MalformedRequest("the statement holds a NUL character")
    if query.request_id is not None:
        check_request_id(query.request_id)
    return SqlRequest(
        query.sql,
        query.params,
        query.namespace_id,
        query.request_id,
        transaction_id=query.transaction_id,
        consistency=query.consistency,
        min_cursor=cursor_text(query.min_cursor),
    )


def _result(query: Query, envelope: bytes) -> bytes:
    return b'{"type":"result","id":%b,%b' % (
        orjson.dumps(query.id[:QUERY_ID_LENGTH_MAX]),
        envelope[1:],
    )
