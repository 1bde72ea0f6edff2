"""The HTTP application: which path goes where. Built once; holds no state of its own.

Keeps: POST /v1/api/sql has no middleware in its way. Every response but the page is JSON,
that of a path that does not exist and of a method that a path does not have included. An Origin
that may not call gets no Access-Control header, and no WebSocket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from kalamdb.config import RateLimitSettings, Settings
from kalamdb.edge.http import page, sql
from kalamdb.edge.http.admin import AdminEdge, NodeView
from kalamdb.edge.http.auth import AuthEdge
from kalamdb.edge.http.cors import Cors, Handler
from kalamdb.edge.http.front import SqlDoor
from kalamdb.edge.http.listener import Runner
from kalamdb.edge.http.oidc import OidcEdge
from kalamdb.edge.http.origin import Origins
from kalamdb.edge.http.replies import reply
from kalamdb.edge.http.signed_in import Cookies
from kalamdb.edge.http.sql import Executes, Rates, SqlEdge
from kalamdb.edge.http.sql_route import SqlRoute
from kalamdb.lib.clock import Clock
from kalamdb.lib.observe import Metrics
from kalamdb.lib.rates import Buckets
from kalamdb.session.auth import Authenticator
from kalamdb.session.provider import Provider

STRANGER_BURST_S = 5.0
USER_BURST_S = 2.0
DOOR = web.AppKey("door", SqlDoor)
METRICS = web.AppKey("metrics", Metrics)
NO_HEAD = frozenset({"/v1/ws"})
_REFUSED_UPGRADE = {403: "CORS_ORIGIN_DENIED", 503: "OVERLOADED"}


class WebSockets(Protocol):
    async def handle(self, request: web.Request) -> web.StreamResponse: ...


@dataclass(frozen=True, slots=True)
class HttpParts:
    """What the routes lead to."""

    session: Executes
    auth: Authenticator
    websockets: WebSockets
    node: NodeView
    metrics: Metrics
    provider: Provider | None = None


def build_app(parts: HttpParts, settings: Settings, clock: Clock) -> web.Application:
    """The application, to be served by `serve`."""
    origins = Origins(settings.http.trusted_proxies)
    cors = Cors(settings.http.cors_origins)
    rates = rates_of(settings.rate_limit, clock)
    edge = SqlEdge(
        parts.session,
        parts.auth,
        clock,
        settings.limits,
        rates=rates,
        log_requests=settings.log.requests,
    )
    parts.metrics.watch("sql_http", lambda: edge.statistics)
    route = SqlRoute(edge, settings.limits.max_body_bytes, origins.key)
    cookies = Cookies(settings.auth, origins, cors)
    auth = AuthEdge(parts.auth, cookies, origins, rates.strangers)
    oidc = OidcEdge(parts.auth, parts.provider, settings.auth, origins, cookies=cookies, local=auth)
    admin = AdminEdge(parts.auth, parts.node, parts.metrics, origins)
    routes: list[tuple[str, str, Handler]] = [
        ("POST", sql.PATH, route.handle),
        ("GET", "/v1/ws", _origin_checked(parts.websockets.handle, cors)),
        *auth.routes(),
        *oidc.routes(),
        ("GET", "/health", admin.health),
        ("GET", "/v1/api/healthcheck", admin.health),
        ("GET", "/metrics", admin.metrics),
        ("GET", "/debug/digest", admin.digest),
        ("GET", "/debug/raft", admin.raft),
    ]
    if settings.http.page:
        routes += page.routes(page.load())
    app = web.Application(client_max_size=settings.limits.max_body_bytes)
    app[DOOR] = SqlDoor(edge, origins, cors)
    app[METRICS] = parts.metrics
    for method, path, handler in routes:
        app.router.add_route(method, path, cors.wrap(handler))
        if method == "GET" and path not in NO_HEAD:
            app.router.add_route("HEAD", path, cors.wrap(handler))
    methods = {
        path: "GET, HEAD" if method == "GET" and path not in NO_HEAD else method
        for method, path, _ in routes
    }
    app.router.add_route("*", "/{path:.*}", cors.wrap(_elsewhere(methods, cors)))
    return app


async def serve(app: web.Application, host: str, port: int, settings: Settings) -> web.AppRunner:
    """Listen. `await runner.cleanup()` stops: running requests get `server.shutdown_timeout_s`.

    Raises: OSError when the address is taken.
    """
    runner = Runner(app, settings)
    front = await runner.listen(host, port, app[DOOR])
    if front is not None:
        app[METRICS].watch("http_front", front.statistics)
    return runner


def rates_of(settings: RateLimitSettings, clock: Clock) -> Rates:
    """The buckets that the settings ask for."""
    if not settings.enabled:
        return Rates()
    strangers_per_s, users_per_s = settings.auth_per_ip_per_s, settings.queries_per_user_per_s
    return Rates(
        Buckets(clock, strangers_per_s, strangers_per_s * STRANGER_BURST_S),
        Buckets(clock, users_per_s, users_per_s * USER_BURST_S) if users_per_s else None,
    )


def _origin_checked(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], cors: Cors
) -> Handler:
    """A browser page of a strange origin must not open a socket, for no preflight guards it."""

    async def checked(request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        own = origin is None or origin.partition("://")[2] == request.headers.get("Host")
        if not (origin is None or own or cors.off or cors.allows(origin)):
            message = "this origin may not call"
            return reply({"error": "CORS_ORIGIN_DENIED", "message": message}, 403)
        try:
            return await handler(request)
        except web.HTTPException as error:
            word = _REFUSED_UPGRADE.get(error.status, "INVALID_INPUT")
            extra = {"Retry-After": "1"} if error.status == 503 else None
            return reply({"error": word, "message": error.text}, error.status, extra)

    return checked


def _elsewhere(methods: dict[str, str], cors: Cors) -> Handler:
    """What no route takes: preflights, wrong methods, unknown paths."""

    async def answered(request: web.Request) -> web.StreamResponse:
        allowed = methods.get(request.path)
        if request.method == "OPTIONS" and not cors.off:
            return cors.preflight(request)
        if allowed is None:
            message = f"there is no {request.path}"
            return reply({"error": "NOT_FOUND", "message": message}, 404)
        message = f"{request.path} takes {allowed}"
        extra = {"Allow": allowed}
        return reply({"error": "METHOD_NOT_ALLOWED", "message": message}, 405, extra)

    return answered
