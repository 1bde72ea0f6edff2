"""POST /v1/api/sql: bytes in, bytes out. The hot path of HTTP.

1. The Authorization header becomes a Principal (a look-up when the token was seen before).
2. The body is read within its limit and decoded into a `SqlRequest`; anything else is refused here.
3. The session executes it and gives the whole success envelope as bytes.
4. An error of the tree becomes its envelope, status and headers by `edge/faults.py`.

Keeps: no middleware and no copy of the result. Nothing is logged for a request unless asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog
from aiohttp import web

from kalamdb.config import LimitSettings
from kalamdb.edge import faults
from kalamdb.edge.http.body import check_content_type, check_no_duplicates, read_body
from kalamdb.edge.http.replies import JSON_HEADERS, answer
from kalamdb.errors import (
    KalamError,
    MalformedRequest,
    RateLimited,
    TextTooLong,
    Unauthenticated,
)
from kalamdb.lib.clock import Clock
from kalamdb.lib.observe import Histogram
from kalamdb.lib.rates import Buckets
from kalamdb.model.principal import Principal
from kalamdb.session.run import SqlRequest, check_request_id

PATH = "/v1/api/sql"
_log: Any = structlog.get_logger()


class SqlBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The JSON body."""

    sql: str
    params: list[Any] | None = None
    namespace_id: str | None = None
    request_id: str | None = None


_KEYS = tuple(f'"{name}"'.encode() for name in SqlBody.__struct_fields__)
# A field may also stand in the body with its letters escaped, which no usual encoder does.
_MARKS = (*_KEYS, b"\\u005", b"\\u006", b"\\u007")


class Executes(Protocol):
    async def execute(self, principal: Principal, request: SqlRequest) -> bytes: ...


class Authenticates(Protocol):
    def authenticate(self, header: str | None) -> Principal: ...


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
    """The handler; `statistics` are its counts."""

    def __init__(
        self,
        session: Executes,
        auth: Authenticates,
        clock: Clock,
        limits: LimitSettings,
        *,
        rates: Rates,
        origin_of: Callable[[web.BaseRequest], str],
        log_requests: bool = False,
    ) -> None:
        self._session = session
        self._authenticate = auth.authenticate
        self._clock = clock
        self._limits = limits
        self._rates = rates
        self._origin_of = origin_of
        self._log_requests = log_requests
        self._decode = msgspec.json.Decoder(SqlBody).decode
        self.statistics = SqlStatistics()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        clock = self._clock
        started_s = clock.monotonic_s()
        principal = asked = None
        try:
            headers = request.headers
            principal = self._authenticate(headers.get("Authorization"))
            if self._rates.users is not None:
                limit_user(self._rates.users, principal)
            if headers.get("Content-Type") != "application/json":
                check_content_type(request)
            body = await read_body(request, self._limits.max_body_bytes)
            asked = self._read(body, headers.get("Idempotency-Key"))
            result = await self._session.execute(principal, asked)
        except KalamError as error:
            return self._refused(request, principal, asked, error, started_s=started_s)
        except ConnectionError:
            raise  # the client went away; aiohttp closes the connection
        except Exception as error:  # noqa: BLE001 — the outermost edge: a bug ends one request
            return self._failed(principal, error, started_s)
        took_s = clock.monotonic_s() - started_s
        statistics = self.statistics
        statistics.requests_total += 1
        statistics.latency_s.observe(took_s)
        if self._log_requests:
            _log.info("sql_answered", status=200, user=principal.user, took_ms=took_s * 1000)
        return answer(request, result)

    def _read(self, body: bytes, idempotency_key: str | None) -> SqlRequest:
        """Raises MalformedRequest, TextTooLong."""
        try:
            said = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"the body is no valid request: {error}") from error
        # Rare, and costly to tell from text inside the statement, so only looked at then.
        for mark in _MARKS:
            if body.count(mark) > (mark in _KEYS):
                check_no_duplicates(body)
                break
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
        return SqlRequest(text, said.params, said.namespace_id, request_id)

    def _refused(
        self,
        request: web.Request,
        principal: Principal | None,
        asked: SqlRequest | None,
        error: KalamError,
        *,
        started_s: float,
    ) -> web.Response:
        if isinstance(error, Unauthenticated) and self._rates.strangers is not None:
            wait_s = self._rates.strangers.take(self._origin_of(request))
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
        response = web.Response(body=body, status=fault.status, headers=JSON_HEADERS)
        after_s = faults.retry_after_s(error)
        if after_s is not None:
            response.headers["Retry-After"] = str(after_s)
        if fault.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _failed(
        self, principal: Principal | None, error: Exception, started_s: float
    ) -> web.Response:
        took_s = self._clock.monotonic_s() - started_s
        self._count_failure(took_s)
        _log.error("sql_failed", code=faults.BUG.code, exc_info=error)
        return web.Response(
            body=faults.bug_envelope(took_s * 1000), status=500, headers=JSON_HEADERS
        )

    def _count_failure(self, took_s: float) -> None:
        self.statistics.requests_total += 1
        self.statistics.failed_total += 1
        self.statistics.latency_s.observe(took_s)


def limit_user(users: Buckets, principal: Principal) -> None:
    wait_s = users.take(principal.user)
    if wait_s:
        raise RateLimited("the user's limit of requests", math.ceil(wait_s))
