"""SQL over a WebSocket whose transaction lives at another node: one stream to it while it is open.

Requests and answers alternate on the stream. An answer is pieces (`P`), then the last one, which
says whether the transaction is open still (`O`) or the stream may end (`R`); or an error, after
which it is open (`F`) or not (`E`).

Keeps: the transaction ends with the connection: when the stream is lost, either side's part of it
is rolled back.
"""

from __future__ import annotations

from cluster.messages import TALK, decode_sql, encode_sql
from cluster.routed import LocalSession, RoutedSession, whole
from cluster.rpc.faults import decode_fault, encode_fault
from cluster.rpc.port import Peer, Rpc, RpcStream, Service
from cluster.sql_host import Admit
from kalamdb.errors import Indeterminate, KalamError, Unavailable
from kalamdb.model.catalog import DEFAULT_NAMESPACE
from kalamdb.model.principal import Principal
from kalamdb.session.run import Conversation, SqlRequest

PIECE_BYTES = 256 << 10
_PIECE, _OPEN, _CLOSED, _FAILED, _ERROR = b"P", b"O", b"R", b"F", b"E"


class RoutedTalks:
    """Implements `edge.ws.queries.Talks`."""

    def __init__(
        self, routed: RoutedSession, rpc: Rpc, local: LocalSession | None, node: int | None
    ) -> None:
        self._routed = routed
        self._rpc = rpc
        self._local = local
        self._node = node

    async def converse(self, talk: Conversation, request: SqlRequest) -> bytes:
        """As `Session.converse`. Raises the error tree."""
        principal = talk.principal
        if isinstance(talk.elsewhere, _Elsewhere):
            return await talk.elsewhere.ask(talk, principal, request)
        if talk.transaction is not None:
            assert self._local is not None
            return await self._local.converse(talk, request)
        if request.transaction_id is not None or not await self._routed.begins(request):
            return await whole(await self._routed.execute(principal, request))
        namespace = request.namespace_id or DEFAULT_NAMESPACE
        target = await self._routed.transaction_target(request.sql, namespace)
        node = await self._routed.leader_for(target, principal)
        if node == self._node:
            assert self._local is not None
            return await self._local.converse(talk, request)
        stream = await self._rpc.open(node, TALK, b"")
        talk.elsewhere = elsewhere = _Elsewhere(stream, self._routed)
        return await elsewhere.ask(talk, principal, request)

    def hang_up(self, talk: Conversation) -> None:
        """The connection is gone: roll back what it left open."""
        if isinstance(talk.elsewhere, _Elsewhere):
            talk.elsewhere.close()
            talk.elsewhere = None
        if self._local is not None:
            self._local.hang_up(talk)


class _Elsewhere:
    """The stream of a transaction that is at another node."""

    def __init__(self, stream: RpcStream, routed: RoutedSession) -> None:
        self._stream = stream
        self._routed = routed

    def close(self) -> None:
        self._stream.abort()

    async def ask(self, talk: Conversation, principal: Principal, request: SqlRequest) -> bytes:
        """One request. Raises the error tree; Indeterminate when the node went away meanwhile."""
        message = encode_sql(principal, request, self._routed.catalog_version)
        parts: list[bytes] = []
        kind = _PIECE
        try:
            await self._stream.send(message)
        except Unavailable as error:
            talk.elsewhere = None
            raise Unavailable("the node of the transaction is gone, it was rolled back") from error
        while kind == _PIECE:
            kind, data = await self._next(talk)
            parts.append(data)
        if kind in (_CLOSED, _ERROR):
            talk.elsewhere = None
            self._stream.end()
        if kind in (_FAILED, _ERROR):
            raise decode_fault(parts[-1])
        return b"".join(parts)

    async def _next(self, talk: Conversation) -> tuple[bytes, bytes]:
        lost = Indeterminate("the node of the transaction went away; COMMIT may have been done")
        try:
            message = await self._stream.receive()
        except KalamError as error:
            talk.elsewhere = None
            raise lost from error
        if message is None:
            talk.elsewhere = None
            raise lost
        return message[:1], message[1:]


class TalkHost:
    """Carries on conversations of other processes over this node's session."""

    def __init__(self, session: LocalSession, admit: Admit) -> None:
        self._session = session
        self._admit = admit

    def serve(self, service: Service) -> None:
        service.on_stream(TALK, self._talk)

    async def _talk(self, peer: Peer, payload: bytes, stream: RpcStream) -> None:
        talk: Conversation | None = None
        try:
            while (data := await stream.receive()) is not None:
                message = decode_sql(data)
                if talk is None:
                    talk = Conversation(message.principal)
                try:
                    await self._admit(message)
                    answer = await self._session.converse(talk, message.request)
                except KalamError as error:
                    kind = _ERROR if talk.transaction is None else _FAILED
                    await stream.send(kind + encode_fault(error))
                    continue
                last = max(0, (len(answer) - 1) // PIECE_BYTES * PIECE_BYTES)
                for at in range(0, last, PIECE_BYTES):
                    await stream.send(_PIECE + answer[at : at + PIECE_BYTES])
                kind = _CLOSED if talk.transaction is None else _OPEN
                await stream.send(kind + answer[last:])
        finally:
            if talk is not None:
                self._session.hang_up(talk)
