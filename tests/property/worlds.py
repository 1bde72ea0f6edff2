"""Two histories of one node that differ in one thing: whether tenant B exists.

`play` runs a history and keeps every byte tenant A was sent: status and body of each request, and
the frames of its live queries, which begin, break off and resume as it goes. Where B is left out,
time passes instead. Nothing is taken out of what is compared, cursors and seqs least of all.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from kalamdb.edge.ws.binding import LiveBinder
from kalamdb.edge.ws.limits import WsLimits
from kalamdb.edge.ws.outbox import Flusher, Outbox
from kalamdb.edge.ws.protocol import Options, Wish
from kalamdb.edge.ws.services import LiveServices
from kalamdb.edge.ws.streams import Streams
from kalamdb.feed.hub import Hub
from kalamdb.model.ids import Partition, Seq, TenantId, slot_of, tenant_partition
from kalamdb.model.principal import Principal, Role
from kalamdb.query.engine_pool import EnginePool
from kalamdb.session.live_rights import LiveRights
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from tests.fuzz import grammar as fuzz
from tests.fuzz.speaker import Speaker
from tests.property import grammar
from tests.property.grammar import Request
from tests.small_node import DATA_GROUPS, SmallNode

LIVE = (
    "SELECT * FROM app.notes",
    "SELECT id, txt FROM app.notes WHERE n > 2 OR txt IS NULL",
    "SELECT * FROM app.pairs WHERE a LIKE '%a%'",
    "SELECT who FROM app.typing",
    "SELECT * FROM app.logs WHERE n < 5",
    "SELECT * FROM app.priv",
)
# Statements of the powerful that look at all tenants, or are checked against the rows of all.
OVERSEES = re.compile(
    r"all_users|system|SHOW (STATS|USERS|TRANSACTIONS|QUERIES|CONNECTIONS|LIVE)|ALTER TABLE|UNIQUE"
    r"|KILL|CREATE USER|DROP",
    re.IGNORECASE,
)
# One live query begins anew every so many of A's requests; a resumed one, from where it stood then.
RENEWED_EVERY = 2


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request from the fuzzer's grammar, over the tables there are when it is sent. It writes
    `words` and reaches for `others`.
    """

    seed: int
    words: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A request of A or of B, `wait_ms` after the one before."""

    is_b: bool
    request: Request | Drawn
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


def unheard(principal: Principal, table: str) -> None:
    """Nobody audits here."""


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
        self._clock = node.clock
        self._renewed = 0
        self._cursors: Mapping[str, Seq | str] = {}

        def hub_of(partition: Partition) -> Hub:
            return node.hubs[node.groups.of(partition).group]

        check = LiveRights(unheard).check
        binder = LiveBinder(node.groups, parse, bind_live, check, node.clock, node.ids)
        limits = WsLimits(position_interval_s=0)
        services = LiveServices(
            node.groups, hub_of, binder, node.clock, limits, packer, Counter[TenantId]()
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
        self._cursors = self._streams.cursors()

    async def renew(self, principal: Principal) -> None:
        """Begin one of them anew: all rows, the newest, no rows, or from where it stood before."""
        number = self._renewed % len(LIVE)
        name = f"live {number}"
        starts = (
            Options(),
            Options(from_=self._cursors.get(name, 0)),
            Options(last_rows=3),
            Options(from_=self._cursors.get(name, 0), on_expired="snapshot"),
            None,
        )
        options = starts[self._renewed % len(starts)]
        self._renewed += 1
        await self._streams.subscribe(Wish(name, LIVE[number], options), principal)
        if number == 0:
            self._cursors = self._streams.cursors()

    def tick(self) -> None:
        """What the heartbeat does: positions are due at each."""
        self._streams.tick(self._clock.monotonic_s())

    def cursors(self) -> bytes:
        """What a slow consumer is told."""
        return repr(self._streams.cursors()).encode()

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
        self._opened: dict[str, str] = {}

    def close(self) -> None:
        self._a.close()
        self._b.close()

    async def run(
        self, steps: Sequence[Step], *, with_b: bool
    ) -> list[tuple[Request, int, bytes, bytes]]:
        cast, node = self._cast, self._node
        a = Principal.of(cast.a, cast.role)
        await self._a.listen(a)
        if with_b:
            await self._b.listen(Principal.of(cast.b, Role.USER))
        got = [(Request("the live queries"), 0, self._a.cursors(), self._a.take())]
        for number, step in enumerate(steps):
            # Dice are the node's; what a step draws must not depend on what others drew.
            node.ids._drawn = number << 20
            node.clock.now_ms += step.wait_ms
            if not step.is_b:
                request = self._drawn(step.request, cast.a)
                status, body = await self._ask(cast.a, cast.role, request)
                if number % RENEWED_EVERY == 0:
                    await self._a.renew(a)
                self._a.tick()
                got.append((request, status, body, self._a.take()))
                continue
            if with_b:
                await self._ask(cast.b, Role.USER, self._drawn(step.request, cast.b))
                self._b.take()
            else:
                node.clock.now_ms += 1
            self._a.tick()
            assert self._a.take() == b"", "B's request reached A's socket"
        cursors = self._a.cursors()
        for hub in node.hubs.values():
            hub.close_all("the end")
        got.append((Request("the end"), 0, cursors, self._a.take()))
        return got

    def _drawn(self, step: Request | Drawn, name: str) -> Request:
        """The request itself, written now if it was only drawn."""
        if isinstance(step, Request):
            return step
        opened = {name: self._opened[name]} if name in self._opened else {}
        if name == self._cast.b and self._cast.a in self._opened and step.seed % 4 == 0:
            opened = {name: self._opened[self._cast.a]}
        made = fuzz.request(Random(step.seed), self._speaker(step, name), opened, often=0.5)
        if self._cast.role is not Role.USER and OVERSEES.search(made.sql):
            return Request("SELECT 1 AS one")
        return Request(made.sql, made.params, made.request_id, made.namespace, made.transaction)

    def _speaker(self, step: Drawn, name: str) -> Callable[[str], Speaker]:
        """Whoever the dice say, it is `name` who speaks."""
        catalog = self._node.groups.catalog
        dice = Random(step.seed + 1)
        # B may find A's ids; A does not know that there is a B.
        ids = list(self._opened.values()) if name == self._cast.b else []
        return lambda _: Speaker(dice, catalog, name, step.words, step.others, ids)

    async def _ask(self, name: str, role: Role, request: Request) -> tuple[int, bytes]:
        status, body = await self._node.raw(
            name,
            request.sql,
            request.params,
            role=role,
            namespace=request.namespace,
            request_id=request.request_id,
            transaction_id=request.transaction,
        )
        if status == 200 and (found := orjson.loads(body).get("transaction_id")):
            self._opened[name] = found
        elif request.transaction is not None:
            self._opened.pop(name, None)
        return status, body
