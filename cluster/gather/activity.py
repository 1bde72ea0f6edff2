"""What is under way on the other nodes, and KILL of it.

Every id names its node (`q2-17`, `c2-5`, the end of a transaction's), so KILL asks that one.

Keeps: a node that does not answer within `ANSWER_S` is named, never left out; what a principal may
see and end is decided on the node that has it; rows come in pages.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence

from cluster.gather import wire
from cluster.gather.wire import ActivityRequest
from cluster.rpc.port import Peer, Rpc, Service
from kalamdb.errors import Indeterminate, NothingToKill, Unavailable
from kalamdb.model.principal import Principal
from kalamdb.session.activity import Activity, Everywhere, Told
from kalamdb.session.transactions import node_of
from kalamdb.sql.statement import Ongoing

ACTIVITY, KILL = "activity", "kill"
ANSWER_S = 2.0
PAGE_ROWS = 500
ROWS_MAX = 100_000
"""Of one node; who has more is treated as one that does not answer."""

_NAMED = re.compile(r"[a-z]+([0-9]{1,7})-[0-9]+(?::.*)?", re.DOTALL)


class ActivityHost:
    """Answers for what is under way on this node."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def serve(self, service: Service) -> None:
        service.on_ask(ACTIVITY, self._listed)
        service.on_call(KILL, self._kill)

    async def _listed(self, peer: Peer, payload: bytes) -> AsyncIterator[bytes]:
        request = wire.read_activity(payload)
        found = self._activity.listed(Ongoing[request.kind], wire.principal_of(request))
        return _pages([[list(item.row), item.table] for item in found])

    async def _kill(self, peer: Peer, payload: bytes) -> bytes:
        request = wire.read_activity(payload)
        kind = Ongoing[request.kind]
        if not await self._activity.kill_here(kind, request.item_id, wire.principal_of(request)):
            raise NothingToKill(kind.value.lower(), request.item_id)
        return b""


async def _pages(rows: Sequence[object]) -> AsyncIterator[bytes]:
    for at in range(0, len(rows), PAGE_ROWS):
        yield wire.pack(rows[at : at + PAGE_ROWS])


class NodesActivity:
    """Implements `session.activity.OtherNodes`. `nodes` gives the others that serve clients."""

    def __init__(self, rpc: Rpc, nodes: Callable[[], Sequence[int]]) -> None:
        self._rpc = rpc
        self._nodes = nodes

    async def listed(self, kind: Ongoing, principal: Principal) -> Everywhere:
        payload = _request(kind, principal)
        nodes = sorted(self._nodes())
        answers = await asyncio.gather(*(self._of(node, payload) for node in nodes))
        known: list[Told] = []
        silent: list[int] = []
        for node, told in zip(nodes, answers, strict=True):
            if told is None:
                silent.append(node)
            else:
                known += told
        return Everywhere(known, tuple(silent))

    async def _of(self, node: int, payload: bytes) -> list[Told] | None:
        """What one node has; None when it does not say."""
        told: list[Told] = []
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._rpc.ask(node, ACTIVITY, payload, ANSWER_S)
                if isinstance(answer, bytes):
                    return _told(answer)
                try:
                    async for page in answer:
                        told += _told(page)
                        if len(told) > ROWS_MAX:
                            return None
                finally:
                    await _close(answer)
        except (Unavailable, Indeterminate, TimeoutError):
            return None
        return told

    async def kill(self, kind: Ongoing, item_id: str, principal: Principal) -> None:
        node = _node_of(kind, item_id)
        if node not in self._nodes():
            raise NothingToKill(kind.value.lower(), item_id)
        try:
            await self._rpc.call(node, KILL, _request(kind, principal, item_id), ANSWER_S)
        except Unavailable as error:
            raise Unavailable(f"node {node}, which has it, does not answer") from error


def _node_of(kind: Ongoing, item_id: str) -> int:
    """0 when the id names none."""
    if kind is Ongoing.TRANSACTION:
        return node_of(item_id) or 0
    named = _NAMED.fullmatch(item_id)
    return 0 if named is None else int(named[1])


def _request(kind: Ongoing, principal: Principal, item_id: str = "") -> bytes:
    request = ActivityRequest(
        wire.VERSION, kind.name, principal.user, principal.role.value, principal.actor, item_id
    )
    return wire.pack(request)


def _told(page: bytes) -> list[Told]:
    return [
        Told(row, None if table is None else (table[0], table[1]))
        for row, table in wire.unpack_values(page)
    ]


async def _close(answer: AsyncIterator[bytes]) -> None:
    """A stream of pieces is closed in any case; those of the links can be."""
    closing = getattr(answer, "aclose", None)
    if closing is not None:
        await closing()
