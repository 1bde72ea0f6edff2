"""Several nodes in the test's own process: each leads some groups and follows others.

As in `small_node` everything is real but the edges of the world: what a leader's log takes is
committed at once, and applied by the followers in the same turn (or, once `hold` was called, when
`release` is). The nodes talk over `tests.loopback`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from cluster.bootstrap import bootstrap
from cluster.gather import ActivityHost, GatheredReads, GatherLimits, NodesActivity, RowsHost
from cluster.route import LocalGroups
from kalamdb.config import TransactionSettings
from kalamdb.errors import KalamError, NotLeader
from kalamdb.feed.hub import Hub
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Partition, slot_of
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import LogEntry, LogStatus
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.query.scan import ScanLimits
from kalamdb.replica.replica import Replica
from kalamdb.session.activity import TransactionsSource
from kalamdb.session.ddl import Definitions
from kalamdb.session.oversight import oversight
from kalamdb.session.run import SessionLimits
from kalamdb.session.session import Session
from kalamdb.session.transactions import Transactions
from kalamdb.sql.constraint import checks
from kalamdb.sql.statement import Ongoing
from kalamdb.store.memory import MemoryStore
from tests.loopback import Loopback
from tests.small_node import CountingIds, InstantLog, SmallNode, StepClock, no_hash

LED_BY: Mapping[int, int] = {0: 1, 1: 1, 2: 2, 3: 3}
"""The leader of each group."""
WAIT_S = 0.2


class FollowerLog:
    """Implements `ports.Log` where another node leads."""

    def __init__(self, group: GroupId, replica: Replica, node: int) -> None:
        self.group, self.replica, self.node = group, replica, node
        self.held: list[LogEntry] | None = None
        replica.attach(self)

    def came(self, entry: LogEntry) -> None:
        if self.held is None:
            self.replica.apply([entry])
        else:
            self.held.append(entry)

    def kick(self) -> None:
        raise AssertionError("a follower has nothing to append")

    def read_index(self) -> Awaitable[int] | None:
        raise NotLeader(self.group, LED_BY[self.group])

    def status(self) -> LogStatus:
        leader = LED_BY[self.group]
        return LogStatus(self.group, self.node, "follower", 1, leader, 0, 0, 1, 0, (1, 2, 3))


class SpreadLog(InstantLog):
    """A leader's log, whose entries go to the followers, too."""

    def __init__(self, group: GroupId, replica: Replica, followers: Sequence[FollowerLog]) -> None:
        self._followers = followers
        super().__init__(group, replica, None)

    def _commit(self, payload: bytes) -> None:
        super()._commit(payload)
        for follower in self._followers:
            follower.came(LogEntry(self._index, 1, payload))


class SpreadGroups(LocalGroups):
    """Definitions go straight to the leaders, wherever they are."""

    led: Mapping[GroupId, Replica]

    def write_meta(self, work: Work, tag: RequestTag | None = None) -> Awaitable[Outcome]:
        return self.led[META_GROUP].write(work, tag)

    async def write_group(
        self, group: GroupId, work: Work, tag: RequestTag | None = None
    ) -> Outcome:
        return await self.led[group].write(work, tag)

    async def write_everywhere(self, work: Work) -> None:
        for group, replica in self.led.items():
            if group != META_GROUP:
                await replica.write(work, None)

    async def step_everywhere(self, step: Callable[[bytes], Work]) -> None:
        for group, replica in self.led.items():
            after: object = "" if group != META_GROUP else None
            while after is not None:
                assert isinstance(after, str)
                outcome = await replica.write(step(bytes.fromhex(after)), None)
                assert outcome.rows is not None
                after = outcome.rows[0][0]


class Hints:
    """Who leads, as a node has heard: right, unless the test says otherwise."""

    def __init__(self) -> None:
        self.wrong: dict[int, int | None] = {}
        self.refusals: list[tuple[int, int | None]] = []

    def of(self, group: GroupId) -> int | None:
        return self.wrong.get(group, LED_BY[group])

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None:
        self.refusals.append((group, asked))
        if isinstance(error, NotLeader):
            self.wrong.pop(group, None)


class ClusterNode(SmallNode):
    """One node. `members` says where replicas are: group → nodes."""

    def __init__(  # pyright: ignore[reportMissingSuperCall] — all of it is put together here
        self,
        number: int,
        net: Loopback,
        pool: EnginePool,
        clock: StepClock,
        *,
        members: Mapping[int, Sequence[int]],
        limits: GatherLimits,
    ) -> None:
        self.number = number
        self.clock, self.ids, self.pool = clock, CountingIds(), pool
        self.hubs, self.replicas, self.stores = {}, {}, {}
        for group in map(GroupId, members):
            if number in members[group]:
                self.hubs[group] = Hub()
                self.stores[group] = MemoryStore(group)
                self.replicas[group] = Replica(
                    group, self.stores[group], self.hubs[group], clock, checks=checks
                )
        self.hints = Hints()
        self.host = RowsHost(self.replicas, lambda: self.groups.catalog, limits)
        self.host.serve(net[number])
        far = GatheredReads(
            number, net[number], self.hints, lambda group: members[group], host=self.host
        )
        self.groups = SpreadGroups(self.replicas, far)
        self.transactions = Transactions(
            self.groups, self.groups, clock, self.ids, TransactionSettings(), node=number
        )
        self.around = oversight(lambda: self.groups.catalog, clock, node=number)
        self.around.offer(Ongoing.TRANSACTION, TransactionsSource(self.transactions, number))
        others = sorted({node for held in members.values() for node in held})
        others.remove(number)
        ActivityHost(self.around.activity).serve(net[number])
        self.around.activity.join(NodesActivity(net[number], lambda: others))
        self.session = Session(
            self.groups,
            pool,
            Definitions(self.groups, clock, no_hash),
            clock,
            ids=self.ids,
            limits=SessionLimits(10_000, 1 << 20, ScanLimits(), stale_wait_s=limits.wait_s),
            on_execute_as=lambda actor, target, allowed: None,
            transactions=self.transactions,
            oversight=self.around,
        )


class SmallCluster:
    """Three nodes, three data groups; group n is led by node n, meta by node 1."""

    def __init__(self, net: Loopback, nodes: Mapping[int, ClusterNode]) -> None:
        self.net = net
        self.nodes = nodes
        self.followers: dict[tuple[int, int], FollowerLog] = {}

    def __getitem__(self, number: int) -> ClusterNode:
        return self.nodes[number]

    async def boot(self) -> None:
        led: dict[GroupId, Replica] = {}
        for number, leader in LED_BY.items():
            group = GroupId(number)
            followers = [
                FollowerLog(group, node.replicas[group], node.number)
                for node in self.nodes.values()
                if node.number != leader and group in node.replicas
            ]
            self.followers |= {(log.node, log.group): log for log in followers}
            led[group] = self.nodes[leader].replicas[group]
            SpreadLog(group, led[group], followers)
        for node in self.nodes.values():
            assert isinstance(node.groups, SpreadGroups)
            node.groups.led = led
        await bootstrap(self.nodes[1].groups, len(led) - 1, "test", (1, 2, 3))

    def group_of(self, partition: Partition) -> int:
        placement = self.nodes[1].groups.catalog.placement
        assert placement is not None
        return placement.group_of(slot_of(partition))

    def tenant_of(self, group: int) -> str:
        """A name whose rows are in the group."""
        names = (f"user{number}" for number in range(1000))
        return next(n for n in names if self.group_of(Partition(b"t" + n.encode())) == group)

    def hold(self, node: int, group: int) -> None:
        """The follower gets no further."""
        self.followers[node, group].held = []

    def release(self, node: int, group: int) -> None:
        log = self.followers[node, group]
        held, log.held = log.held, None
        log.replica.apply(held or [])


EVERYWHERE: Mapping[int, Sequence[int]] = dict.fromkeys(LED_BY, (1, 2, 3))


@asynccontextmanager
async def small_cluster(
    members: Mapping[int, Sequence[int]] = EVERYWHERE, limits: GatherLimits | None = None
) -> AsyncIterator[SmallCluster]:
    """A booted cluster over one set of query workers."""
    pool, clock = EnginePool(PoolSettings()), StepClock()
    bounds = limits or GatherLimits(wait_s=WAIT_S)
    try:
        async with Loopback(1, 2, 3) as net:
            nodes = {
                number: ClusterNode(number, net, pool, clock, members=members, limits=bounds)
                for number in (1, 2, 3)
            }
            cluster = SmallCluster(net, nodes)
            await cluster.boot()
            yield cluster
            for node in nodes.values():
                node.host.close()
    finally:
        await pool.close()
