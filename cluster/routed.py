"""Statements to the leaders of what they touch, from any node and any router.

1. The text says the target (`session.target`), kept by text while the catalog stands.
2. Led here: this node's session. Else one call to the leader, whose answer goes on as it is.
3. A refusal that says nothing was done is asked again, of whom it names, for a while
   (`leaders.py`).

A request of several statements goes as a whole where one place has them all, else in pieces. A
transaction over several requests is where it began: its id, or its connection's stream, says it.

Keeps: nothing is asked a second time unless it was surely not done, only reads, or has a request
id. What a request defined is in this process's catalog before its answer leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from cluster.leaders import Leaders
from cluster.messages import PIECE, SQL, decode_done, encode_sql
from cluster.rpc.port import Rpc
from kalamdb.errors import (
    Indeterminate,
    KalamError,
    StatementFailed,
    Unavailable,
)
from kalamdb.lib.clock import Clock
from kalamdb.model.catalog import DEFAULT_NAMESPACE, CatalogView
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.model.principal import Principal
from kalamdb.session import answers
from kalamdb.session.data import off_loop
from kalamdb.session.prepared import TEXT_LENGTH_MAX
from kalamdb.session.reply import Reply
from kalamdb.session.run import Conversation, Done, Piece, SqlRequest
from kalamdb.session.run import written as written_result
from kalamdb.session.stale import STALE
from kalamdb.session.tally import Tally
from kalamdb.session.target import (
    ANYWHERE,
    Segment,
    Target,
    Where,
    next_segment,
    target_of,
)
from kalamdb.session.transaction_control import NEW
from kalamdb.session.transactions import node_of
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Begin, Statement

CALL_S = 3600.0
"""A node ends its own statements; a link that is dead is noticed by itself."""
ROUTES_MAX = 5000

T = TypeVar("T")


class LocalSession(Protocol):
    """The session of this node."""

    async def execute(self, principal: Principal, request: SqlRequest) -> Reply: ...

    async def piece(self, principal: Principal, request: SqlRequest, piece: Piece) -> Done: ...

    async def converse(self, talk: Conversation, request: SqlRequest) -> bytes: ...

    def hang_up(self, talk: Conversation) -> None: ...


class Catalog(Protocol):
    """The catalog as this process follows it."""

    @property
    def catalog(self) -> CatalogView: ...

    async def refresh_catalog(self) -> None:
        """As new as the meta group's, as of now. Raises Unavailable."""
        ...

    def check_catalog(self) -> None:
        """Raises Unavailable when it has not been heard of for too long."""
        ...

    async def catalog_reaches(self, version: int) -> None: ...


@dataclass(slots=True)
class Route:
    """A text's way. `target` is None for several statements."""

    version: int
    statements: tuple[Statement, ...]
    target: Target | None


class RoutedSession:
    """Implements `edge.http.sql.Executes`. `local` is None at a router."""

    def __init__(
        self,
        catalog: Catalog,
        leaders: Leaders,
        rpc: Rpc,
        clock: Clock,
        *,
        local: LocalSession | None,
    ) -> None:
        self._catalog = catalog
        self._leaders = leaders
        self._rpc = rpc
        self._clock = clock
        self._node = leaders.node
        self._local = local
        self._routes: dict[tuple[str, str], Route] = {}

    @property
    def catalog_version(self) -> int:
        return self._catalog.catalog.version

    async def execute(self, principal: Principal, request: SqlRequest) -> Reply:
        """The JSON success envelope of a request. Raises the error tree, as `Session.execute`."""
        self._catalog.check_catalog()
        if request.transaction_id is not None:
            return await self.in_transaction(principal, request)
        namespace = request.namespace_id or DEFAULT_NAMESPACE
        route = self._routes.get((request.sql, namespace))
        if route is None or route.version != self.catalog_version:
            route = await self._find(request.sql, namespace)
        if route.target is None:
            return await self._in_segments(principal, request, route.statements)
        return await self._whole(principal, request, route.target)

    # ---- ways -----------------------------------------------------------------------------------

    async def _find(self, text: str, namespace: str) -> Route:
        statements = await off_loop(text, lambda: parse(text))
        version, target = self.catalog_version, None
        if len(statements) == 1:
            target = await self._seen(
                lambda: target_of(statements[0], self._catalog.catalog, namespace)
            )
            version = self.catalog_version
        route = Route(version, statements, target)
        if len(text) <= TEXT_LENGTH_MAX:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            self._routes[text, namespace] = route
        return route

    async def _seen(self, look: Callable[[], T]) -> T:
        """What `look` finds in the catalog; in the newest one, when it is not in this one."""
        try:
            return look()
        except StatementFailed:
            await self._catalog.refresh_catalog()
            return look()

    def _group(self, target: Target, principal: Principal) -> GroupId | None:
        """None: anywhere. Raises Unavailable before the cluster has a placement."""
        if target.where is Where.META:
            return META_GROUP
        partition = target.partition(principal)
        return None if partition is None else self._catalog.catalog.group_of(partition)

    # ---- one place ------------------------------------------------------------------------------

    async def _whole(self, principal: Principal, request: SqlRequest, target: Target) -> Reply:
        if self._local is not None and target is ANYWHERE:
            return await self._local.execute(principal, request)
        if request.consistency == STALE and not target.writes:
            near = await self._stale(principal, request)
            if near is not None:
                return near
        twice = not target.writes or request.request_id is not None

        def group_of() -> GroupId | None:
            return self._group(target, principal)

        async def ask(node: int) -> Reply:
            return await self._at(node, principal, request)

        reply = await self._leaders.ask(group_of, ask, twice=twice)
        if target.where is Where.META:
            with suppress(Unavailable):  # it is done, whatever comes of this
                await self._catalog.refresh_catalog()
        return reply

    async def _stale(self, principal: Principal, request: SqlRequest) -> Reply | None:
        """What a replica near answers; None: there is none, or it is behind: the leader is not."""
        try:
            return await self._at(self._leaders.anybody(), principal, request)
        except (Unavailable, Indeterminate):
            return None

    async def _at(self, node: int, principal: Principal, request: SqlRequest) -> Reply:
        if node == self._node:
            assert self._local is not None
            return await self._local.execute(principal, request)
        message = encode_sql(principal, request, self.catalog_version)
        reply = await self._rpc.ask(node, SQL, message, CALL_S)
        return reply if isinstance(reply, bytes) else RelayedStream(reply)

    # ---- several places -------------------------------------------------------------------------

    async def _in_segments(
        self, principal: Principal, request: SqlRequest, statements: tuple[Statement, ...]
    ) -> Reply:
        started_s = self._clock.monotonic_s()
        results: list[bytes] = []
        tally = Tally()
        at, namespace = 0, request.namespace_id or DEFAULT_NAMESPACE
        stale = request.consistency == STALE
        while at < len(statements):
            segment = await self._segment(statements, at, namespace=namespace, stale=stale)
            if segment.stop - at == len(statements):
                return await self._whole(principal, request, _retargeted(segment))
            piece = Piece(at, segment.stop, namespace, stale)
            done = await self._piece(principal, request, piece, segment.target)
            results += done.results
            for total in done.totals:
                tally.add(total)
            at, namespace, stale = segment.stop, segment.namespace, segment.stale
        results += [written_result(total, principal.user) for total in tally.totals()]
        took_ms = (self._clock.monotonic_s() - started_s) * 1000
        return answers.envelope(results, took_ms)

    async def _segment(
        self, statements: tuple[Statement, ...], at: int, *, namespace: str, stale: bool
    ) -> Segment:
        try:
            return await self._seen(
                lambda: next_segment(
                    statements, at, self._catalog.catalog, namespace=namespace, stale=stale
                )
            )
        except KalamError as error:
            error.__dict__["statement"] = at + 1
            raise

    async def _piece(
        self, principal: Principal, request: SqlRequest, piece: Piece, target: Target
    ) -> Done:
        alone = piece.stop - piece.start == 1
        twice = alone and (request.request_id is not None or not target.writes)

        async def ask(node: int) -> Done:
            if node == self._node:
                assert self._local is not None
                return await self._local.piece(principal, request, piece)
            message = encode_sql(principal, request, self.catalog_version, piece)
            reply = await self._rpc.ask(node, PIECE, message, CALL_S)
            done, version = decode_done(await joined(reply))
            if target.where is Where.META:
                with suppress(Unavailable):
                    await self._catalog.catalog_reaches(version)
            return done

        try:
            return await self._leaders.ask(lambda: self._group(target, principal), ask, twice=twice)
        except KalamError as error:
            error.__dict__.setdefault("statement", piece.start + 1)
            raise

    # ---- transactions over several requests -----------------------------------------------------

    async def in_transaction(self, principal: Principal, request: SqlRequest) -> Reply:
        """A request that names a transaction, or begins one to be named."""
        if request.transaction_id != NEW:
            home = node_of(request.transaction_id or "")
            if home is not None and (home == self._node or self._rpc.connected(home)):
                return await self._at(home, principal, request)
        namespace = request.namespace_id or DEFAULT_NAMESPACE
        target = await self.transaction_target(request.sql, namespace)
        return await self._leaders.ask(
            lambda: self._group(target, principal),
            lambda node: self._at(node, principal, request),
            twice=False,
        )

    async def transaction_target(self, text: str, namespace: str) -> Target:
        """Where a transaction that begins with this text belongs."""
        statements = (await self._find(text, namespace)).statements
        if not isinstance(statements[0], Begin):
            return Target(Where.TENANT)
        segment = await self._segment(statements, 0, namespace=namespace, stale=False)
        return segment.target

    async def begins(self, request: SqlRequest) -> bool:
        """Does a request begin a transaction that it may leave open?"""
        route = await self._find(request.sql, request.namespace_id or DEFAULT_NAMESPACE)
        return any(isinstance(statement, Begin) for statement in route.statements)

    async def leader_for(self, target: Target, principal: Principal) -> int:
        """The node that a transaction is begun at. Raises Unavailable."""

        async def found(node: int) -> int:
            return node

        return await self._leaders.ask(lambda: self._group(target, principal), found, twice=False)


async def joined(reply: bytes | AsyncIterator[bytes]) -> bytes:
    """An answer of another node, whole."""
    return reply if isinstance(reply, bytes) else await whole(RelayedStream(reply))


async def whole(reply: Reply) -> bytes:
    """An answer for an edge that does not stream."""
    if isinstance(reply, bytes):
        return reply
    try:
        return b"".join([piece async for piece in reply])
    finally:
        await reply.aclose()


def _retargeted(segment: Segment) -> Target:
    """A whole request of several statements is not asked again once it may have begun."""
    return replace(segment.target, writes=True)


class RelayedStream:
    """Implements `reply.BodyStream` over the pieces that another node sends."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()
