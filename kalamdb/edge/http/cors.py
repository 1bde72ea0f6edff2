"""Which browser origins may call: answers to preflights and the headers of every response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from kalamdb.edge.http.replies import reply

METHODS = "GET, POST, OPTIONS"
HEADERS = "Authorization, Content-Type, Accept, Origin, Idempotency-Key, X-Requested-With"
MAX_AGE_S = 3600

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Cors:
    """Origins compared exactly; `*` lets every origin in, then without cookies."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    @property
    def off(self) -> bool:
        return not self._origins

    def allows(self, origin: str) -> bool:
        return self._any or origin in self._origins

    def names(self, origin: str) -> bool:
        """Is the origin named itself? `*` names nobody: it lets strangers in without cookies."""
        return origin in self._origins and origin != "*"

    def headers(self, origin: str | None) -> dict[str, str]:
        """What a response says; nothing to a stranger, whose browser then refuses it."""
        if origin is None or not self.allows(origin):
            return {}
        if origin in self._origins:
            return {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Credentials": "true",
                "Vary": "Origin",
            }
        return {"Access-Control-Allow-Origin": "*"}

    def preflight(self, request: web.Request) -> web.Response:
        headers = self.headers(request.headers.get("Origin"))
        if not headers:
            message = "this origin may not call"
            return reply({"error": "CORS_ORIGIN_DENIED", "message": message}, 403)
        headers |= {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
        return web.Response(status=204, headers=headers)

    def wrap(self, handler: Handler) -> Handler:
        """The handler itself when no origin is configured: then nothing is added to any request."""
        if self.off:
            return handler

        async def answered(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            if not response.prepared:
                response.headers.update(self.headers(request.headers.get("Origin")))
            return response

        return answered
