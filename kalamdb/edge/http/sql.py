"""POST /v1/api/sql: what a request says in, what it is answered with out. The hot path of HTTP.

1. The Authorization header becomes a Principal (a look-up when the token was seen before).
2. The transport gives the body, within its limit, which is decoded into a `SqlRequest`; anything
   else is refused here.
3. The session executes it and gives the success envelope as bytes, or as a stream of them.
4. An error of the tree becomes its envelope, status and headers by `edge/faults.py`.

Two transports ask it: `sql_route.py` for aiohttp, `fast.py` for the fast front.

Keeps: no copy of the result. Nothing is logged for a request unless asked for. Whatever a request
does, it is counted once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog

from kalamdb.config import LimitSettings
from kalamdb.edge import faults
from kalamdb.edge.http.body import check_no_duplicates
from kalamdb.errors import (
    KalamError,
    MalformedRequest,
    RateLimited,
    SigningKeyPending,
    TextTooLong,
    Unauthenticated,
)
from kalamdb.lib.clock import Clock
from kalamdb.lib.observe import Histogram
from kalamdb.lib.rates import Buckets
from kalamdb.model.principal import Principal
from kalamdb.session.reply import BodyStream, Reply
from kalamdb.session.run import SqlRequest, check_request_id
from kalamdb.session.stale import cursor_text, freshness_of

PATH = "/v1/api/sql"
CLOSE_STREAM_S = 10.0
CHECKED_WHOLE_MAX_BYTES = 64 << 10
"""Bodies in which every object is looked at; that takes several times as long as to decode one."""
_log: Any = structlog.get_logger()


class SqlBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The JSON body."""

    sql: str
    params: list[Any] | None = None
    namespace_id: str | None = None
    request_id: str | None = None
    transaction_id: str | None = None
    consistency: str | None = None
    min_cursor: str | int | None = None


_KEYS = tuple(f'"{name}"'.encode() for name in SqlBody.__struct_fields__)
# A field may also stand in the body with its letters escaped, which no usual encoder does.
_MARKS = (*_KEYS, b"\\u005", b"\\u006", b"\\u007")


class Executes(Protocol):
    async def execute(self, principal: Principal, request: SqlRequest) -> Reply: ...


class Authenticates(Protocol):
    def authenticate(self, header: str | None) -> Principal: ...


class SqlCall(Protocol):
    """One request as its transport has it."""

    authorization: str | None
    idempotency_key: str | None

    async def body(self) -> bytes:
        """The whole body, unpacked; asked for once the caller is known.

        Raises MalformedRequest, BodyTooLarge; ConnectionError when the client went away.
        """
        ...

    def origin(self) -> str:
        """The client's address, for counting."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as it is sent; `headers` come on top of those every answer has."""

    status: int
    body: bytes
    headers: Mapping[str, str]


SqlAnswer = Reply | Refusal
"""What a transport sends: 200 with these bytes or this stream, or a refusal."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How often: `strangers` by address, when refused; `users` by name. None: no limit."""

    strangers: Buckets | None = None
    users: Buckets | None = None


@dataclass(slots=True)
class SqlStatistics:
    """Requests of this route since start; `failed_total` were answered with an error."""

    requests_total: int = 0
    failed_total: int = 0
    latency_s: Histogram = field(default_factory=Histogram)


class SqlEdge:
    """Answers calls of any transport; `statistics` are its counts."""

    def __init__(
        self,
        session: Executes,
        auth: Authenticates,
        clock: Clock,
        limits: LimitSettings,
        *,
        rates: Rates,
        log_requests: bool = False,
    ) -> None:
        self._session = session
        self._authenticate = auth.authenticate
        self._clock = clock
        self._limits = limits
        self._rates = rates
        self._log_requests = log_requests
        self._decode = msgspec.json.Decoder(SqlBody).decode
        self.statistics = SqlStatistics()

    async def answer(self, call: SqlCall) -> SqlAnswer:
        """What is sent for `call`. Raises only what ends a connection: ConnectionError,
        cancellation.
        """
        clock = self._clock
        started_s = clock.monotonic_s()
        principal = asked = None
        try:
            try:
                principal = self._authenticate(call.authorization)
            except SigningKeyPending as pending:
                await pending.ready()
                principal = self._authenticate(call.authorization)
            if self._rates.users is not None:
                limit_user(self._rates.users, principal)
            asked = self._read(await call.body(), call.idempotency_key)
            result = await self._session.execute(principal, asked)
        except KalamError as error:
            try:
                return self._refused(call, principal, asked, error, started_s=started_s)
            except Exception as bug:  # noqa: BLE001 — an error that cannot say what it is
                return self._failed(bug, started_s)
        except ConnectionError:
            raise  # the client went away
        except Exception as error:  # noqa: BLE001 — the outermost edge: a bug ends one request
            return self._failed(error, started_s)
        took_s = clock.monotonic_s() - started_s
        statistics = self.statistics
        statistics.requests_total += 1
        statistics.latency_s.observe(took_s)
        if self._log_requests:
            _log.info("sql_answered", status=200, user=principal.user, took_ms=took_s * 1000)
        return result

    def knows(self, authorization: str | None) -> bool:
        """Is this the header of somebody signed in? What is not is refused before its body."""
        try:
            self._authenticate(authorization)
        except SigningKeyPending:
            return True  # perhaps; `answer` waits for the key
        except KalamError:
            return False
        return True

    def stream_broke(self, error: Exception) -> None:
        """A stream failed after its status had been sent: it counts as failed after all."""
        self.statistics.failed_total += 1
        if isinstance(error, KalamError) and faults.fault_of(error).status != 500:
            _log.warning("sql_stream_cut", code=faults.fault_of(error).code)
        else:
            _log.error("sql_stream_cut", code=faults.BUG.code, exc_info=error)

    async def close_stream(self, stream: BodyStream) -> None:
        """Give back what a stream holds, within `CLOSE_STREAM_S`; never fails."""
        try:
            async with asyncio.timeout(CLOSE_STREAM_S):
                await stream.aclose()
        except Exception as error:  # noqa: BLE001 — the outermost edge, and the request is over
            _log.error("sql_stream_not_closed", exc_info=error)

    def _read(self, body: bytes, idempotency_key: str | None) -> SqlRequest:
        """Raises MalformedRequest, TextTooLong."""
        try:
            said = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"the body is no valid request: {error}") from error
        # With as many colons as fields no field stands twice.
        if body.count(b":") != 1 + (said.params is not None):
            _check_each_field_once(body)
        text = said.sql
        if text.find("\0") >= 0:
            raise MalformedRequest("the statement holds a NUL character")
        if len(body) > self._limits.max_statement_bytes:
            size_bytes = len(text.encode())
            if size_bytes > self._limits.max_statement_bytes:
                raise TextTooLong(size_bytes, self._limits.max_statement_bytes)
        request_id = said.request_id
        if idempotency_key is not None:
            if request_id is not None and request_id != idempotency_key:
                raise MalformedRequest("request_id and the Idempotency-Key header differ")
            request_id = idempotency_key
        if request_id is not None:
            check_request_id(request_id)
        if said.consistency is not None or said.min_cursor is not None:
            freshness_of(said.consistency, cursor_text(said.min_cursor))
        return SqlRequest(
            text,
            said.params,
            said.namespace_id,
            request_id,
            streams=True,
            transaction_id=said.transaction_id,
            consistency=said.consistency,
            min_cursor=cursor_text(said.min_cursor),
        )

    def _refused(
        self,
        call: SqlCall,
        principal: Principal | None,
        asked: SqlRequest | None,
        error: KalamError,
        *,
        started_s: float,
    ) -> Refusal:
        if isinstance(error, Unauthenticated) and self._rates.strangers is not None:
            wait_s = self._rates.strangers.take(call.origin())
            if wait_s:
                error = RateLimited("the limit of refused tokens", math.ceil(wait_s))
        took_s = self._clock.monotonic_s() - started_s
        fault = faults.fault_of(error)
        self._count_failure(took_s)
        if fault.status == 500:
            _log.error("sql_failed", code=fault.code, exc_info=error)
        elif self._log_requests:
            user = None if principal is None else principal.user
            _log.info("sql_answered", status=fault.status, code=fault.code, user=user)
        statement = None if asked is None else asked.sql
        body = faults.envelope(error, took_s * 1000, principal, statement)
        headers: dict[str, str] = {}
        after_s = faults.retry_after_s(error)
        if after_s is not None:
            headers["Retry-After"] = str(after_s)
        if fault.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Refusal(fault.status, body, headers)

    def _failed(self, error: Exception, started_s: float) -> Refusal:
        took_s = self._clock.monotonic_s() - started_s
        self._count_failure(took_s)
        _log.error("sql_failed", code=faults.BUG.code, exc_info=error)
        return Refusal(500, faults.bug_envelope(took_s * 1000), {})

    def _count_failure(self, took_s: float) -> None:
        self.statistics.requests_total += 1
        self.statistics.failed_total += 1
        self.statistics.latency_s.observe(took_s)


def _check_each_field_once(body: bytes) -> None:
    """Raises MalformedRequest. A name that stands twice may do so inside the statement, which is
    costly to tell, so it is only looked at then.
    """
    for mark in _MARKS:
        if body.count(mark) > (mark in _KEYS):
            if len(body) <= CHECKED_WHOLE_MAX_BYTES:
                check_no_duplicates(body)
            elif _names_twice(body):
                raise MalformedRequest("the body names a field twice")
            return


class _Value:
    """Stands for any value of a field."""


def _names_twice(body: bytes) -> bool:
    """Of the body's own fields, at the price of decoding it once more."""
    count = 0

    def value(kind: type, found: object) -> _Value:
        nonlocal count
        count += 1
        return _VALUE

    fields = msgspec.json.decode(body, type=dict[str, _Value], dec_hook=value)
    return len(fields) != count


_VALUE = _Value()


def limit_user(users: Buckets, principal: Principal) -> None:
    wait_s = users.take(principal.user)
    if wait_s:
        raise RateLimited("the user's limit of requests", math.ceil(wait_s))
