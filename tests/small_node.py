"""A node in the test's own process, with a clock, dice and a log in the test's hand.

Everything is real but the edges of the world: the log commits what it takes at once, the clock
moves a millisecond for each request, the dice count. The same requests give the same bytes, seqs
included.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from cluster.bootstrap import bootstrap
from cluster.cluster_tables import provide_cluster
from cluster.route import LocalGroups
from kalamdb.config import TransactionSettings
from kalamdb.edge import faults
from kalamdb.errors import KalamError
from kalamdb.feed.hub import Hub
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.model.principal import Principal, Role
from kalamdb.ports import LogEntry, LogStatus
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.query.scan import ScanLimits
from kalamdb.replica.replica import Replica
from kalamdb.session.activity import TransactionsSource
from kalamdb.session.ddl import Definitions
from kalamdb.session.oversight import oversight
from kalamdb.session.run import Conversation, SessionLimits, SqlRequest
from kalamdb.session.session import Session
from kalamdb.session.transactions import Transactions
from kalamdb.sql.constraint import checks
from kalamdb.sql.statement import Ongoing
from kalamdb.store.memory import MemoryStore
from tests.small_operators import enrol_small, small_operations

START_MS = 1_790_000_000_000
ENTRY_BYTES_MAX = 1 << 20
DATA_GROUPS = 2

Watch = Callable[[GroupId, LogEntry], None]


class StepClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_s(self) -> float:
        return self.now_ms / 1000


class CountingIds:
    """Dice that count."""

    def __init__(self) -> None:
        self._drawn = 0

    def token(self, size_bytes: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(size_bytes, "big")

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(bytes=self.token(16), version=4)


class InstantLog:
    """Implements `ports.Log` for a sole voter: what is taken is committed in the same turn."""

    def __init__(self, group: GroupId, replica: Replica, watch: Watch | None) -> None:
        self._group = group
        self._replica = replica
        self._watch = watch
        self._index = replica.applied().index
        self._woken = False
        replica.attach(self)
        self._commit(b"")
        replica.lead(1)

    def kick(self) -> None:
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._woken = False
        while (payload := self._replica.take(1, ENTRY_BYTES_MAX)) is not None:
            self._commit(payload)

    def _commit(self, payload: bytes) -> None:
        self._index += 1
        entry = LogEntry(self._index, 1, payload)
        if self._watch is not None and payload:
            self._watch(self._group, entry)
        self._replica.apply([entry])

    def read_index(self) -> Awaitable[int] | None:
        return None

    def status(self) -> LogStatus:
        index = self._index
        return LogStatus(self._group, 1, "leader", 1, 1, index, index, 1, index, (1,))


class SmallNode:
    """Sessions over two data groups in memory."""

    def __init__(
        self,
        pool: EnginePool,
        watch: Watch | None = None,
        stores: Mapping[GroupId, MemoryStore] | None = None,
    ) -> None:
        """`stores`: what another node left behind."""
        self.clock = StepClock()
        self.ids = CountingIds()
        self.hubs: dict[GroupId, Hub] = {}
        self.replicas: dict[GroupId, Replica] = {}
        self.stores: dict[GroupId, MemoryStore] = {}
        self.pool = pool
        self.logs: dict[GroupId, InstantLog] = {}
        for number in range(DATA_GROUPS + 1):
            group = GroupId(number)
            self.hubs[group] = Hub()
            self.stores[group] = MemoryStore(group) if stores is None else stores[group]
            replica = Replica(
                group,
                self.stores[group],
                self.hubs[group],
                self.clock,
                checks=checks,
            )
            self.replicas[group] = replica
            self.logs[group] = InstantLog(group, replica, watch)
        self.groups = LocalGroups(self.replicas)
        definitions = Definitions(self.groups, self.clock, no_hash)
        self.transactions = Transactions(
            self.groups, self.groups, self.clock, self.ids, TransactionSettings()
        )
        self.operations = small_operations(self.logs, self.groups, self.clock)
        around = oversight(lambda: self.groups.catalog, self.clock, cluster=self.operations.control)
        provide_cluster(around.system, lambda: self.groups.catalog, self.operations.facts)
        around.offer(Ongoing.TRANSACTION, TransactionsSource(self.transactions))
        self.session = Session(
            self.groups,
            pool,
            definitions,
            self.clock,
            ids=self.ids,
            limits=SessionLimits(10_000, 1 << 20, ScanLimits()),
            on_execute_as=lambda actor, target, allowed: None,
            transactions=self.transactions,
            oversight=around,
        )

    async def boot(self) -> None:
        await bootstrap(self.groups, DATA_GROUPS, "test", (1,))
        await enrol_small(self.groups)

    async def sql(
        self,
        user: str,
        sql: str,
        params: list[Any] | None = None,
        *,
        role: Role = Role.USER,
        namespace: str | None = None,
        request_id: str | None = None,
        transaction_id: str | None = None,
        **fresh: Any,
    ) -> tuple[int, dict[str, Any]]:
        """Status and body, as the HTTP edge would answer. One request is one millisecond."""
        status, body = await self.raw(
            user,
            sql,
            params,
            role=role,
            namespace=namespace,
            request_id=request_id,
            transaction_id=transaction_id,
            **fresh,
        )
        return status, orjson.loads(body)

    async def raw(
        self,
        user: str,
        sql: str,
        params: list[Any] | None = None,
        *,
        role: Role = Role.USER,
        namespace: str | None = None,
        request_id: str | None = None,
        transaction_id: str | None = None,
        **fresh: Any,
    ) -> tuple[int, bytes]:
        """`fresh`: `consistency`, `min_cursor`."""
        self.clock.now_ms += 1
        principal = Principal.of(user, role)
        request = SqlRequest(
            sql, params, namespace, request_id, transaction_id=transaction_id, **fresh
        )
        try:
            reply = await self.session.execute(principal, request)
            assert isinstance(reply, bytes), "no request here asks for a stream"
            return 200, reply
        except KalamError as error:
            fault = faults.fault_of(error)
            return fault.status, faults.envelope(error, 0.0, principal, sql)

    async def talk(
        self,
        talk: Conversation,
        sql: str,
        params: list[Any] | None = None,
        *,
        request_id: str | None = None,
        transaction_id: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """As `sql`, over a connection."""
        self.clock.now_ms += 1
        request = SqlRequest(sql, params, None, request_id, transaction_id=transaction_id)
        try:
            return 200, orjson.loads(await self.session.converse(talk, request))
        except KalamError as error:
            fault = faults.fault_of(error)
            return fault.status, orjson.loads(faults.envelope(error, 0.0, talk.principal, sql))

    async def ok(self, user: str, sql: str, params: list[Any] | None = None, **more: Any) -> Any:
        status, body = await self.sql(user, sql, params, **more)
        assert status == 200, (sql, body)
        return body["results"]

    async def setup(self, *statements: str) -> None:
        """Run as the built-in administrator."""
        for statement in statements:
            await self.ok("root", statement, role=Role.SYSTEM)


async def no_hash(user: str, password: str) -> str:
    """Passwords are not this node's business."""
    return f"hashed {len(password)}"


@asynccontextmanager
async def small_node(
    watch: Watch | None = None, pool: EnginePool | None = None
) -> AsyncIterator[SmallNode]:
    """A booted node; its own query workers unless some are lent."""
    own = pool or EnginePool(PoolSettings())
    try:
        node = SmallNode(own, watch)
        await node.boot()
        yield node
    finally:
        if pool is None:
            await own.close()


__all__ = ["META_GROUP", "SmallNode", "small_node"]
