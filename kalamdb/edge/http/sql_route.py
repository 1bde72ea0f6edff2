"""POST /v1/api/sql as aiohttp serves it: a thin shell around `SqlEdge`."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from kalamdb.edge.http.body import check_content_type, read_body
from kalamdb.edge.http.conversation import cancelled_on_loss
from kalamdb.edge.http.replies import JSON_HEADERS, answer
from kalamdb.edge.http.sql import Refusal, SqlEdge
from kalamdb.session.reply import BodyStream


class _Call:
    """A request of aiohttp as the edge reads it."""

    __slots__ = ("_max_bytes", "_origin_of", "_request", "authorization", "idempotency_key")

    def __init__(
        self, request: web.Request, max_bytes: int, origin_of: Callable[[web.BaseRequest], str]
    ) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._origin_of = origin_of
        headers = request.headers
        self.authorization = headers.get("Authorization")
        self.idempotency_key = headers.get("Idempotency-Key")

    async def body(self) -> bytes:
        if self._request.headers.get("Content-Type") != "application/json":
            check_content_type(self._request)
        return await read_body(self._request, self._max_bytes)

    def origin(self) -> str:
        return self._origin_of(self._request)


class SqlRoute:
    """The handler of the route."""

    def __init__(
        self, edge: SqlEdge, max_body_bytes: int, origin_of: Callable[[web.BaseRequest], str]
    ) -> None:
        self._edge = edge
        self._max_body_bytes = max_body_bytes
        self._origin_of = origin_of

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = _Call(request, self._max_body_bytes, self._origin_of)
        with cancelled_on_loss(request):
            result = await self._edge.answer(call)
        if isinstance(result, bytes):
            return answer(request, result)
        if isinstance(result, Refusal):
            response = web.Response(body=result.body, status=result.status, headers=JSON_HEADERS)
            response.headers.update(result.headers)
            return response
        return StreamedResponse(result, self._edge)


class StreamedResponse(web.StreamResponse):
    """200 with JSON whose size is not known: chunked, and to HTTP/1.0 ended by closing.

    aiohttp calls `prepare`, then `write_eof`, in which the pieces are sent: so whoever adds headers
    to a response that is not prepared can.
    """

    def __init__(self, stream: BodyStream, edge: SqlEdge) -> None:
        super().__init__(headers=JSON_HEADERS)
        self._stream = stream
        self._edge = edge
        self._request: web.BaseRequest | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._request = request
        try:
            return await super().prepare(request)
        except BaseException:
            await self._edge.close_stream(self._stream)
            raise

    async def write_eof(self, data: bytes = b"") -> None:
        request = self._request
        assert request is not None
        try:
            with cancelled_on_loss(request):
                async for piece in self._stream:
                    if piece:
                        await self.write(piece)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 — the outermost edge, too late for a status
            self._edge.stream_broke(error)
            self.force_close()
            if request.transport is not None:
                request.transport.abort()
            return
        finally:
            await self._edge.close_stream(self._stream)
        await super().write_eof(data)
