"""Statements that other processes send to this node because it leads what they touch.

Keeps: who asks is checked here again, with the catalog of this node, which is not older than the
one the sender looked in. Nothing is sent on from here: what this node does not lead is NotLeader,
with the leader's number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from cluster.messages import PIECE, SQL, SqlMessage, decode_sql, encode_done
from cluster.routed import Catalog, LocalSession
from cluster.rpc.port import Peer, Service
from kalamdb.errors import InvalidCredentials
from kalamdb.session.reply import BodyStream
from kalamdb.session.tokens import stands

WHOLE_BYTES_MAX = 4 << 20
PIECE_BYTES = 256 << 10

Admit = Callable[[SqlMessage], Awaitable[None]]


class SqlHost:
    """See the module."""

    def __init__(self, session: LocalSession, catalog: Catalog) -> None:
        self._session = session
        self._catalog = catalog

    def serve(self, service: Service) -> None:
        service.on_ask(SQL, self._sql)
        service.on_ask(PIECE, self._piece)

    async def admit(self, message: SqlMessage) -> None:
        """Raises InvalidCredentials for who has been dropped, changed or signed out, Unavailable
        when this node's catalog does not come to the sender's.
        """
        catalog = self._catalog
        catalog.check_catalog()
        if catalog.catalog.version < message.catalog_version:
            await catalog.catalog_reaches(message.catalog_version)
        if not stands(message.principal, catalog.catalog):
            raise InvalidCredentials("the token is no longer valid; sign in again")

    async def _sql(self, peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        message = decode_sql(payload)
        await self.admit(message)
        reply = await self._session.execute(message.principal, message.request)
        return _sent(reply) if isinstance(reply, bytes) else _pieces(reply)

    async def _piece(self, peer: Peer, payload: bytes) -> bytes | AsyncIterator[bytes]:
        message = decode_sql(payload)
        await self.admit(message)
        assert message.piece is not None
        done = await self._session.piece(message.principal, message.request, message.piece)
        return _sent(encode_done(done, self._catalog.catalog.version))


def _sent(reply: bytes) -> bytes | AsyncIterator[bytes]:
    """Whole when it is small."""
    return reply if len(reply) <= WHOLE_BYTES_MAX else _cut(reply)


async def _cut(reply: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(reply), PIECE_BYTES):
        yield reply[at : at + PIECE_BYTES]


async def _pieces(stream: BodyStream) -> AsyncIterator[bytes]:
    try:
        async for piece in stream:
            yield piece
    finally:
        await stream.aclose()
