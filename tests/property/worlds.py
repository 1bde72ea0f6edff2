"""Two histories of one node that differ in one thing: whether tenant B exists.

`play` runs a history and keeps every byte tenant A was sent: status and body of each request, and
the frames of its live queries. Where B is left out, time passes instead.

One thing A is told is not its own: the position of its group, which is where its answers are
current to (`cursor` of an answer, `seq` of a snapshot). It is taken out here, so that what is
compared is all the rest, the seqs of A's rows and changes among it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.protocol import Wish
from kalamdb.edge.ws.streams import LiveServices, Streams
from kalamdb.feed.hub import Hub
from kalamdb.model.ids import Partition, TenantId, slot_of, tenant_partition
from kalamdb.model.principal import Principal, Role
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session.permissions import check_read
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from tests.property import grammar
from tests.property.grammar import Request
from tests.small_node import DATA_GROUPS, SmallNode

CURSOR = re.compile(rb'"cursor":"[^"]*"')
# Of the frames of a live query only changes have a seq of their own.
FRAME_SEQ = re.compile(
    rb'"type":"(?:subscription_ack|initial_data_batch|position|error)".*?"seq":"\d+"', re.DOTALL
)
SEQ = re.compile(rb'"seq":"\d+"$')
LIVE = (
    "SELECT * FROM app.notes",
    "SELECT id, txt FROM app.notes WHERE n > 2 OR txt IS NULL",
    "SELECT * FROM app.pairs WHERE a LIKE '%a%'",
    "SELECT who FROM app.typing",
    "SELECT * FROM app.logs WHERE n < 5",
    "SELECT * FROM app.priv",
)


@dataclass(frozen=True, slots=True)
class Step:
    """A request of A or of B, `wait_ms` after the one before."""

    is_b: bool
    request: Request
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays. `start_ms` tells this history from others that used the same query workers."""

    a: str
    b: str
    role: Role
    start_ms: int


def group_of(name: str) -> int:
    """The data group of a tenant on a small node."""
    return slot_of(tenant_partition(TenantId(name))) * DATA_GROUPS // 4096


class Wire:
    """The transport of one tenant's socket."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def write(self, data: bytes, /) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Listener:
    """The live queries of one tenant, over the code of the WebSocket edge."""

    def __init__(self, node: SmallNode, loop: Any, packer: ThreadPoolExecutor) -> None:
        self.wire = Wire()
        self._outbox = Outbox(self.wire, Flusher(loop), 1 << 24)
        self._outbox.packed = False

        def hub_of(partition: Partition) -> Hub:
            return node.hubs[node.groups.of(partition).group]

        binder = LiveBinder(node.groups, parse, bind_live, check_read, node.clock, node.ids)
        services = LiveServices(
            node.groups, hub_of, binder, node.clock, WsLimits(), packer, Counter[TenantId]()
        )
        self._streams = Streams(services, self._outbox, self._drained, self._spawn)

    async def _drained(self) -> bool:
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> Any:
        work.close()
        raise AssertionError("a live query of a small table fell behind")

    async def listen(self, principal: Principal) -> None:
        for number, sql in enumerate(LIVE):
            await self._streams.subscribe(Wish(f"live {number}", sql), principal)

    def take(self) -> bytes:
        """What was sent since the last look."""
        self._outbox.flush()
        sent, self.wire.sent = bytes(self.wire.sent), bytearray()
        return sent

    def close(self) -> None:
        self._streams.close()


async def play(
    steps: Sequence[Step], cast: Cast, pool: EnginePool, *, with_b: bool
) -> list[tuple[Request, int, bytes, bytes]]:
    """What A asked and got: (request, status, body, frames)."""
    node = SmallNode(pool)
    node.clock.now_ms = cast.start_ms
    await node.boot()
    await node.setup(*grammar.DDL)
    if with_b:
        await node.setup(f"CREATE USER '{cast.b}' WITH PASSWORD 'Correct-Horse-9' ROLE user")
    else:
        node.clock.now_ms += 1
    with ThreadPoolExecutor(1) as packer:
        history = History(node, cast, packer)
        try:
            return await history.run(steps, with_b=with_b)
        finally:
            history.close()


class History:
    """One run: the node, and who listens."""

    def __init__(self, node: SmallNode, cast: Cast, packer: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        self._node = node
        self._cast = cast
        self._a = Listener(node, loop, packer)
        self._b = Listener(node, loop, packer)

    def close(self) -> None:
        self._a.close()
        self._b.close()

    async def run(
        self, steps: Sequence[Step], *, with_b: bool
    ) -> list[tuple[Request, int, bytes, bytes]]:
        cast, node = self._cast, self._node
        await self._a.listen(Principal.of(cast.a, cast.role))
        if with_b:
            await self._b.listen(Principal.of(cast.b, Role.USER))
        got = [(Request("the live queries"), 0, b"", self._frames())]
        for number, step in enumerate(steps):
            # Dice are the node's; what a step draws must not depend on what others drew.
            node.ids._drawn = number << 20
            node.clock.now_ms += step.wait_ms
            if not step.is_b:
                status, body = await self._ask(cast.a, cast.role, step.request)
                got.append((step.request, status, CURSOR.sub(b"", body), self._frames()))
            elif with_b:
                await self._ask(cast.b, Role.USER, step.request)
                assert self._a.take() == b"", "B's request reached A's socket"
                self._b.take()
            else:
                node.clock.now_ms += 1
        return got

    async def _ask(self, name: str, role: Role, request: Request) -> tuple[int, bytes]:
        return await self._node.raw(
            name,
            request.sql,
            request.params,
            role=role,
            namespace=request.namespace,
            request_id=request.request_id,
        )

    def _frames(self) -> bytes:
        return FRAME_SEQ.sub(lambda found: SEQ.sub(b"", found[0]), self._a.take())
