"""One simulated cluster from one seed, judged.

1. Nodes with the meta group and two data groups start, and routers; the table is made.
2. Clients, subscribers, operators and the nemesis work for a while.
3. Everything heals; what clients still wait for ends; each key is read once more.
4. Within a bound all members must be equal and all subscribers at the end of their chains.
5. The checkers judge what was seen; a run in which little happened is a fault too.

`run(seed)` returns a `Report`; the same seed is the same run, event for event.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import cast
from unittest.mock import patch

from cluster.raft.core import Timings
from kalamdb.errors import KalamError
from kalamdb.model import keys
from kalamdb.model.catalog import Placement
from kalamdb.model.ids import (
    HOUR_MS,
    META_GROUP,
    SEQ_EPOCH_MS,
    Partition,
    Seq,
    TenantId,
    slot_of,
    tenant_partition,
)
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import BIGINT, TEXT
from kalamdb.model.work import (
    ActivateTable,
    CreateNamespace,
    DefineTable,
    OpenSlots,
    PutFence,
    PutPlacement,
    TrimBefore,
    Work,
)
from kalamdb.replica import slot_image
from kalamdb.replica.replica import Replica
from kalamdb.sql.constraint import checks
from kalamdb.store import slot_keys
from kalamdb.store.changes import change_floor
from kalamdb.store.kv import KeyReader
from kalamdb.store.slot_codec import SlotState
from tests.sim import calls
from tests.sim.calls import Calls, Lost, Refused
from tests.sim.checkers import feed, ledger, linear
from tests.sim.cluster.changers import Changers
from tests.sim.cluster.clients import Desk, perform, work_on
from tests.sim.cluster.ends import late_ends
from tests.sim.cluster.faults import ClusterNemesis
from tests.sim.cluster.followers import Following, follow, subscriptions
from tests.sim.cluster.links import ROUTERS_FROM, watched_links
from tests.sim.cluster.logs import TABLE_ID, DataLog, MetaLog, Ownership
from tests.sim.cluster.movers import Movers
from tests.sim.cluster.node import FOUNDERS, DataNode
from tests.sim.cluster.router import Router
from tests.sim.history import History, Kind, Operation, Result
from tests.sim.late import HeldAppends
from tests.sim.member import FIRST_WALL_MS, Member, NodeClock, World
from tests.sim.network import Network
from tests.sim.reference import GroupReference, Violation, difference
from tests.sim.run import small_log, surface, where
from tests.sim.schema import KEY_COLUMN, LIST_COLUMN
from tests.sim.timeline import Life, Loop, Timeline

DATA_GROUPS = (1, 2)
NODES = (3, 3, 4, 5)  # one of these numbers
ROUTERS = (ROUTERS_FROM, ROUTERS_FROM + 1)
CLIENTS = 8
TENANTS_EACH = 2
FOLLOWERS_EACH = 2
LOAD_S = 7.0
ENDING_S = 20.0
CALM_S_MAX = 25.0
IMAGE_PIECE_BYTES = 700
ACKNOWLEDGED_MIN = 20
FIRST_PLACEMENT = Placement("sim", len(DATA_GROUPS), FOUNDERS)
TABLE = TableDef(
    id=TABLE_ID,
    namespace="sim",
    name="lists",
    kind=TableKind.USER,
    columns=(
        Column(KEY_COLUMN, "id", BIGINT, nullable=False),
        Column(LIST_COLUMN, "numbers", TEXT, nullable=False),
    ),
    primary_key=(KEY_COLUMN,),
    next_column_id=3,
)


@dataclass(slots=True)
class Report:
    """What one run came to. `faults` is empty when every promise was kept."""

    seed: int
    faults: list[str]
    trace: str = ""
    results: Counter[Result] = field(default_factory=Counter[Result])
    hits: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    elapsed_s: float = 0.0
    calm_s: float = 0.0

    def __str__(self) -> str:
        parts = [
            " ".join(f"{result.name}={count}" for result, count in self.results.items()),
            " ".join(f"{name}={count}" for name, count in sorted(self.hits.items())),
            " ".join(f"{name}={count}" for name, count in sorted(self.counts.items())),
        ]
        lines = [
            f"seed {self.seed}: {self.elapsed_s:.1f} s, equal after {self.calm_s:.2f} s",
            *(f"  {part}" for part in parts),
            f"  trace {self.trace}",
            *(f"  FAULT {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)


def run(seed: int, *, verbose: bool = False) -> Report:
    """The cluster of `seed`. PYTHONHASHSEED must be 0 for two runs to be one."""
    with small_log(), small_images(), late_ends():
        report = Cluster(seed, verbose=verbose).report()
    return report


@contextmanager
def small_images() -> Iterator[None]:
    """Images of slots take many pieces, and their keys go in many steps."""
    small = partial(slot_keys.pieces, size_bytes=IMAGE_PIECE_BYTES)
    limits = cast("dict[str, object]", Replica.purge_slot.__kwdefaults__)
    with (
        patch.object(slot_image, "pieces", small),
        patch.object(slot_image, "STEP_KEYS", 15),
        patch.dict(limits, keys_max=40),
    ):
        yield


class Cluster:
    """See the module."""

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.seed = seed
        self.dice = dice = Random(f"cluster {seed}")
        self.timeline = timeline = Timeline(verbose=verbose)
        self._errors: list[str] = []
        self.ownership = Ownership()
        self.meta = MetaLog()
        self.data = {group: DataLog(group, self.ownership) for group in DATA_GROUPS}
        self.references: dict[int, GroupReference] = {META_GROUP: self.meta, **self.data}
        self.network = Network(timeline, dice)
        self.nodes: dict[int, DataNode] = {}
        self.world = World(
            timeline=timeline,
            dice=dice,
            network=self.network,
            references=self.references,
            members=self.nodes,  # type: ignore[arg-type]
            faults=self._errors,
            late=HeldAppends(dice, share=dice.choice((0.0, 0.0, 0.02))),
            timings=Timings(fallback_s=dice.choice((1.0, 1.0, 4.0))),
            checks=checks,
        )
        start_ms = FIRST_WALL_MS - dice.randrange(1_000, 6_000)
        for node in range(1, dice.choice(NODES) + 1):
            clock = NodeClock(timeline, start_ms, dice.choice((0, 0, -200, 100, 1500)))
            groups = (META_GROUP, *DATA_GROUPS) if node in FOUNDERS else ()
            made = self.nodes[node] = DataNode(self.world, node, groups, clock)
            made.wished = partial(self._wished_at, node)
        self.routers = {
            node: Router(self.world, node, NodeClock(timeline, start_ms, 0)) for node in ROUTERS
        }
        self._loop = Loop(timeline, Life(), self._errors)
        self.calls = Calls(timeline, dice, self._loop)
        self.desk = Desk(timeline, dice, self.calls, self.nodes, self.routers, tenants(), History())
        self.desk.newer_than = self.meta.newer_than
        self.following = Following(self.desk, self._may_expire)
        self.subscriptions = subscriptions(self.desk.tenants, FOLLOWERS_EACH)
        self.movers = Movers(self.desk, self.meta)
        self.changers = Changers(self.desk, sorted(self.references))
        self.nemesis = ClusterNemesis(
            timeline, dice, self.calls, self.network, self.nodes, routers=self.routers
        )

    # The run.

    def report(self) -> Report:
        report = Report(self.seed, [])
        try:
            with watched_links(self._errors):
                self._play(report)
            report.faults += self._judge()
        except Exception as error:  # noqa: BLE001 — whatever ends a run is its fault
            report.faults.append(f"{type(error).__name__}: {error}{where(error)}")
            if verbose_faults():
                traceback.print_exc()
        report.faults += self._errors
        report.trace = self.timeline.trace
        report.elapsed_s = self.timeline.elapsed_s
        report.results = Counter(one.result for one in self.desk.history.operations)
        report.hits = self.nemesis.hits
        report.counts = self.desk.answers + self.following.ends
        report.counts.update(self.movers.counts)
        report.counts.update(self.changers.counts)
        report.counts["opened"] = sum(self.ownership.opened.values()) - len(self.ownership.opened)
        report.counts["resumed"] = self.following.resumed
        report.counts["seen"] = sum(len(one.seen) for one in self.subscriptions)
        report.counts["images"] = sum(node.images for node in self.nodes.values())
        report.counts["void"] = sum(reference.void for reference in self.references.values())
        report.counts["frames"] = self.network.frames
        self.timeline.forget()
        return report

    def _play(self, report: Report) -> None:
        timeline = self.timeline
        self.begin()
        working = [self.spawn(work_on(self.desk)) for _ in range(CLIENTS)]
        for one in self.subscriptions:
            self.spawn(follow(self.following, one))
        self.spawn(self.nemesis.run())
        self.spawn(self._trim())
        self.spawn(self.movers.run())
        self.spawn(self.changers.run())
        timeline.run(LOAD_S)
        self.desk.closed = True
        timeline.note("heal")
        timeline.run(max(0.0, self.nemesis.heal() - timeline.now_s))
        if not timeline.run(ENDING_S, lambda: all(task.done() for task in working)):
            raise Violation("a client still waits for an answer long after everything healed")
        calm_from_s = timeline.now_s
        reads = self.spawn(self._read_all())
        if not timeline.run(CALM_S_MAX, reads.done):
            raise Violation(f"no final reads within {CALM_S_MAX} s of calm: {self._status()}")
        reads.result()
        if not timeline.run(CALM_S_MAX, lambda: not self.meta.catalog.moves):
            raise Violation(f"moves go on for ever: {self.meta.catalog.moves}")
        if not timeline.run(CALM_S_MAX, self._is_equal):
            raise Violation(f"members differ after {CALM_S_MAX} s of calm: {self._status()}")
        if not timeline.run(CALM_S_MAX, self._streams_are_done):
            pass  # the feed checker names what is missing
        report.calm_s = timeline.now_s - calm_from_s

    def begin(self) -> None:
        """Nodes and routers start; the cluster is placed and has its table."""
        for process in (*self.nodes.values(), *self.routers.values()):
            process.start()
        making = self.spawn(self._make())
        if not self.timeline.run(20.0, making.done):
            raise Violation(f"the table was not made within 20 s: {self._status()}")
        making.result()
        if not self.timeline.run(10.0, self._is_equal):
            raise Violation(f"the first members differ: {self._status()}")

    def spawn(self, work):
        task = self._loop.create_task(work)
        task.add_done_callback(surface)
        return task

    async def _make(self) -> None:
        placement = FIRST_PLACEMENT
        await self._surely(META_GROUP, PutPlacement(placement.groups, FOUNDERS, "sim"))
        for group in DATA_GROUPS:
            slots = {slot_of(one) for one in self.desk.tenants}  # no other is ever used
            mine = sorted(slot for slot in slots if placement.group_of(slot) == group)
            await self._surely(group, OpenSlots(tuple(mine), 1))
        await self._surely(META_GROUP, CreateNamespace("sim", True))
        await self._surely(META_GROUP, DefineTable(TABLE, True))
        for group in DATA_GROUPS:
            await self._surely(group, PutFence(TABLE))
        await self._surely(META_GROUP, ActivateTable(TABLE_ID, 1))

    async def _surely(self, group: int, work: Work) -> None:
        while True:
            for node in FOUNDERS:
                try:
                    await self.calls.call(
                        self.nodes[node], lambda there: calls.write(there, group, work, None)
                    )
                    return
                except (KalamError, Refused, Lost):
                    await self.calls.pause(0.05)

    async def _trim(self) -> None:
        """The retention job: now and then the changes of past hours may go."""
        while not self.desk.closed:
            await self.calls.pause(self.dice.uniform(0.1, 1.0))
            group = self.dice.choice(DATA_GROUPS)
            node = self.nodes[self.dice.choice(sorted(self.nodes))]
            hour = (node.clock.wall_ms() - SEQ_EPOCH_MS) // HOUR_MS
            trim = TrimBefore(hour, 0)
            with contextlib.suppress(KalamError, Refused, Lost):
                await self.calls.call(node, partial(_write_here, group=group, work=trim))

    def _may_expire(self, cursor: Seq) -> bool:
        """A group has trimmed changes above it."""
        return any(floor_of(log) > cursor for log in self.data.values())

    def _streams_are_done(self) -> bool:
        for one in self.subscriptions:
            chain = self.ownership.chains.get(one.partition)
            if one.cursor is None or (chain and one.cursor < chain[-1].seq):
                return False
        return True

    async def _read_all(self) -> None:
        wanted = {
            (operation.partition, key)
            for operation in self.desk.history.operations
            for key in operation.keys
        }
        for partition, key in sorted(wanted):
            while True:
                self.desk.numbers += 1
                now_s = self.timeline.now_s
                read = Operation(self.desk.numbers, Kind.READ, partition, (key,), now_s)
                await perform(self.desk, self.desk.door(), read)
                if read.result is Result.OK:
                    break
                self.desk.history.operations.pop()
                await self.calls.pause(0.05)

    def _wished_at(self, node: int) -> list[int]:
        """The groups a node is to hold: those whose leader has it among the members."""
        return [
            group
            for group in self.references
            if any(member.node == node for member in self.members_of(group))
        ]

    def members_of(self, group: int) -> list[DataNode]:
        """As the group's leader says; nobody when there is none."""
        for node in self.nodes.values():
            log = node.groups.get(group) if node.up else None
            if log is not None and log.ready and log.members().committed:
                members = log.members()
                return [self.nodes[one] for one in (*members.voters, *members.learners)]
        return []

    def _is_equal(self) -> bool:
        """Every member of each group is up and has applied the whole log."""
        for group in self.references:
            members = self.members_of(group)
            if not members or not all(node.up and group in node.groups for node in members):
                return False
            last = {node.groups[group].journal.last_index for node in members}
            applied = {node.stores[group].mark().index for node in members}
            if len(last) != 1 or last != applied:
                return False
        return True

    def _status(self) -> str:
        return "; ".join(
            f"n{node.node} g{group}: {node.groups[group].status()}"
            for node in self.nodes.values()
            for group in node.groups
        )

    # The verdict.

    def _judge(self) -> Iterator[str]:
        operations = self.desk.history.operations
        yield from ledger.faults(operations, list(self.data.values()))
        yield from linear.faults(operations)
        for one in self.subscriptions:
            # Any group's log gives the chain, which is of all of them.
            yield from feed.faults(one, self.data[DATA_GROUPS[0]])
        yield from self._judge_members()
        yield from self._judge_slots()
        yield from self._judge_vacuity()

    def _judge_members(self) -> Iterator[str]:
        for group, reference in self.references.items():
            digests: set[str] = set()
            for node in self.members_of(group):
                node.check_group(group)
                digests.add(node.replicas[group].digest())
                pairs = list(node.stores[group].scan(b"\x00", b"\xff"))
                held = {key: value for key, value in pairs if key != b"\x01"}
                if held != reference.state:
                    yield f"node {node.node}: {difference(reference, pairs)}"
            if len(digests) != 1:
                yield f"group {group}: the members' digests differ"

    def _judge_slots(self) -> Iterator[str]:
        """A group keeps nothing of a slot it has given up."""
        for group, log in self.data.items():
            for partition in self.desk.tenants:
                slot = slot_of(partition)
                record = log.slots.get(slot)
                if record is not None and record.state is not SlotState.GONE:
                    continue
                mine = keys.terminated(partition)
                requests = bytes([keys.Family.REQUEST]) + keys.U16.pack(slot)
                left = [key for key in log.state if mine in key or key.startswith(requests)]
                if left:
                    yield f"group {group} has given up slot {slot} and keeps {left[:2]}"

    def _judge_vacuity(self) -> Iterator[str]:
        acknowledged = sum(
            operation.writes and operation.result is Result.OK
            for operation in self.desk.history.operations
        )
        if acknowledged < ACKNOWLEDGED_MIN:
            yield f"vacuous: {acknowledged} acknowledged writes, at least {ACKNOWLEDGED_MIN}"
        if not self.nemesis.hits:
            yield "vacuous: no fault during the load"


async def _write_here(there: Member, *, group: int, work: Work) -> None:
    if group in there.replicas:
        await calls.write(there, group, work, None)


def verbose_faults() -> bool:
    return bool(os.environ.get("SIM_TRACE"))


def floor_of(log: DataLog) -> Seq:
    """The change floor as the log has it."""

    class State:
        get = staticmethod(log.state.get)

    return change_floor(cast("KeyReader", State))


def tenants() -> list[Partition]:
    """Some whose slots are in each group at first."""
    found: list[Partition] = []
    made = [tenant_partition(TenantId(f"tenant{number}")) for number in range(1000)]
    for group in DATA_GROUPS:
        mine = [one for one in made if FIRST_PLACEMENT.group_of(slot_of(one)) == group]
        found += mine[:TENANTS_EACH]
    return found
