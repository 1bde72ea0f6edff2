"""One simulated world from one seed, judged.

1. Three members start and the schema is put; clients, subscribers and the nemesis work for a while.
2. Everything heals; what clients still wait for ends; each key is read once more.
3. Within a bound all members must be equal and all subscribers at the end of their chains.
4. The checkers judge what was seen; a run in which little happened is a fault too.

`replay(seed)` does it again, event for event, and says what is wrong; `run(seed)` returns a
`Report`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from cluster.raft import journal
from cluster.raft.core import Timings
from kalamdb.decide import sequencer
from kalamdb.errors import KalamError
from kalamdb.model.ids import SLOTS, GroupId, Partition, TenantId, slot_of, tenant_partition
from kalamdb.model.keys import row_prefix
from kalamdb.model.work import OpenSlots, PutFence, TrimBefore
from kalamdb.store import staged
from tests.sim import bank, calls
from tests.sim.calls import Calls, Lost, Refused
from tests.sim.checkers import feed, ledger, linear
from tests.sim.clients import (
    BANK_CLIENTS,
    CLIENTS,
    WRITER,
    Desk,
    Hints,
    Place,
    bank_with,
    perform,
    work_on,
)
from tests.sim.faults import Nemesis
from tests.sim.history import History, Kind, Operation, Result, Subscription
from tests.sim.late import HeldAppends
from tests.sim.member import FIRST_WALL_MS, Member, NodeClock, World
from tests.sim.network import Network
from tests.sim.reference import GroupReference, Violation, difference
from tests.sim.schema import TABLE
from tests.sim.subscribers import subscribe, tell_positions_later
from tests.sim.timeline import Life, Loop, Timeline

NODES = (1, 2, 3)
LOAD_S = 20.0
ENDING_S = 6.0  # clients come to an end
CALM_S_MAX = 20.0  # from then on until all is equal
KEEP_ENTRIES = 30
ACKNOWLEDGED_MIN = 60
TRANSFERS_MIN = 20
# So that transactions, and rows with a long list, take several entries.
COMMAND_BYTES_MAX = 700
CHUNK_BYTES = 300


@dataclass(slots=True)
class Report:
    """What one run came to. `faults` is empty when every promise was kept."""

    seed: int
    faults: list[str]
    trace: str
    results: Counter[Result] = field(default_factory=Counter[Result])
    hits: Counter[str] = field(default_factory=Counter[str])
    images: int = 0
    frames: int = 0
    void: int = 0
    elapsed_s: float = 0.0
    calm_s: float = 0.0
    statements: Counter[Result] = field(default_factory=Counter[Result])  # of operators

    def __str__(self) -> str:
        counts = " ".join(f"{result.name}={count}" for result, count in self.results.items())
        hits = " ".join(f"{name}={count}" for name, count in sorted(self.hits.items()))
        lines = [
            f"seed {self.seed}: {self.elapsed_s:.1f} s, equal after {self.calm_s:.2f} s, {counts}",
            f"  {hits}; images={self.images} void={self.void} frames={self.frames}",
            f"  trace {self.trace}",
            *(f"  FAULT {fault}" for fault in self.faults),
        ]
        return "\n".join(lines)


def replay(seed: int, trace: bool = False) -> bool:
    """Run the world of `seed` again and print what came out; False when a promise was broken."""
    report = run(seed, verbose=trace or bool(os.environ.get("SIM_TRACE")))
    print(report)
    return not report.faults


def run(seed: int, *, alone: bool = False, verbose: bool = False) -> Report:
    """The world of `seed`; `alone` has one member. PYTHONHASHSEED must be 0 for two runs to be
    one.
    """
    with small_log():
        simulation = Simulation(seed, nodes=NODES[:1] if alone else NODES, verbose=verbose)
        return simulation.report()


@contextmanager
def small_log() -> Iterator[None]:
    """Few entries are kept for members that lag, so that images are needed; commands are staged
    that are not large.
    """
    before = journal.KEEP_ENTRIES, sequencer.COMMAND_BYTES_MAX, staged.CHUNK_BYTES
    journal.KEEP_ENTRIES = KEEP_ENTRIES
    sequencer.COMMAND_BYTES_MAX, staged.CHUNK_BYTES = COMMAND_BYTES_MAX, CHUNK_BYTES
    try:
        yield
    finally:
        journal.KEEP_ENTRIES, sequencer.COMMAND_BYTES_MAX, staged.CHUNK_BYTES = before


class Simulation:
    """See the module."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: tuple[int, ...] = NODES,
        timings: Timings | None = None,
        verbose: bool = False,
    ) -> None:
        self.seed = seed
        self._dice = dice = Random(seed)
        self.timeline = timeline = Timeline(verbose=verbose)
        self._errors: list[str] = []
        groups = dice.choice(((1,), (1, 2)))
        self.references = {group: GroupReference(group) for group in groups}
        network = Network(timeline, dice)
        self.members: dict[int, Member] = {}
        late = HeldAppends(dice, share=dice.choice((0.0, 0.0, 0.02)))
        # No promise may rest on how soon a leader that is cut off notices.
        drawn = Timings(fallback_s=dice.choice((1.0, 1.0, 4.0)))
        world = World(
            timeline=timeline,
            dice=dice,
            network=network,
            references=self.references,
            members=self.members,
            faults=self._errors,
            late=late,
            timings=timings or drawn,
        )
        # An hour ends during the run in most seeds, so that changes can be trimmed.
        start_ms = FIRST_WALL_MS - dice.randrange(2_000, 12_000)
        for node in nodes:
            clock = NodeClock(timeline, start_ms, dice.choice((0, 0, -200, 100, 1500)))
            self.members[node] = Member(world, node, groups, clock)
        self._clients_loop = Loop(timeline, Life(), self._errors)
        self.calls = Calls(timeline, dice, self._clients_loop)
        self.history = History()
        places = [Place(partition, group) for partition, group in partitions(groups)]
        banks = [Place(partition, group) for partition, group in partitions(groups, first=2)]
        self.desk = Desk(timeline, dice, self.calls, self.members, places, self.history, banks)
        self.nemesis = Nemesis(timeline, dice, self.calls, network, self.members)
        self.network = network

    # The run.

    def report(self) -> Report:
        report = Report(self.seed, [], "")
        try:
            self._play(report)
            report.faults += self._judge()
        except (AssertionError, KalamError) as error:
            report.faults.append(f"{type(error).__name__}: {error}{where(error)}")
        report.faults += self._errors
        report.trace = self.timeline.trace
        report.elapsed_s = self.timeline.elapsed_s
        operations = self.history.operations
        report.results = Counter(operation.result for operation in operations)
        report.hits = self.nemesis.hits
        report.images = sum(member.images for member in self.members.values())
        report.void = sum(reference.void for reference in self.references.values())
        report.frames = self.network.frames
        return report

    def _play(self, report: Report) -> None:
        timeline = self.timeline
        self.begin()
        clients = [self.spawn(work_on(self.desk, mix)) for mix in CLIENTS]
        clients += [self.spawn(bank_with(self.desk, mix)) for mix in BANK_CLIENTS]
        for place in (*self.desk.places, *self.desk.banks):
            for _ in range(2):
                subscription = Subscription(len(self.history.subscriptions), place.partition)
                self.history.subscriptions.append(subscription)
                self.spawn(subscribe(self.desk, place, subscription))
        self.spawn(self.nemesis.run())
        self.spawn(self._trim())
        timeline.run(LOAD_S)
        self.desk.closed = True
        timeline.note("heal")
        timeline.run(max(0.0, self.nemesis.heal() - timeline.now_s))
        if not timeline.run(ENDING_S * 2, lambda: all(client.done() for client in clients)):
            raise Violation("a client still waits for an answer long after everything healed")
        calm_from_s = timeline.now_s
        reads = self.spawn(self._read_all())
        if not timeline.run(CALM_S_MAX, reads.done):
            raise Violation(f"no final reads within {CALM_S_MAX} s of calm: {self._status()}")
        reads.result()
        if not timeline.run(CALM_S_MAX, self._is_equal):
            raise Violation(f"members differ after {CALM_S_MAX} s of calm: {self._status()}")
        if not timeline.run(CALM_S_MAX, self._streams_are_done):
            pass  # the feed checker names what is missing
        report.calm_s = timeline.now_s - calm_from_s

    def begin(self) -> None:
        """All members start, each group takes its schema."""
        for member in self.members.values():
            member.on_start = tell_positions_later
            member.start()
        for group in self.references:
            ready = self.spawn(self._put_schema(group))
            if not self.timeline.run(10.0, ready.done):
                raise Violation(f"group {group} did not take its schema within 10 s")
            ready.result()

    def spawn(self, work):
        task = self._clients_loop.create_task(work)
        task.add_done_callback(surface)
        return task

    async def _put_schema(self, group: int) -> None:
        places = (*self.desk.places, *self.desk.banks)
        slots = tuple(slot_of(p.partition) for p in places if p.group == group)
        hints = Hints(self.desk, WRITER)
        for work in (OpenSlots(slots, 1), PutFence(TABLE)):
            while True:
                member = hints.pick(group)
                try:
                    await self.calls.call(
                        member, lambda there, work=work: calls.write(there, group, work, None)
                    )
                    hints.learn(group, member, good=True)
                    break
                except (KalamError, Refused, Lost):
                    hints.learn(group, member, good=False)
                    await self.calls.pause(0.05)

    async def _trim(self) -> None:
        """The retention job: now and then the changes of past hours may go."""
        hints = Hints(self.desk, WRITER)
        while not self.desk.closed:
            await self.calls.pause(self._dice.uniform(0.2, 2.0))
            group = self._dice.choice(sorted(self.references))
            member = hints.pick(group)
            hour = (member.clock.wall_ms() - 1_704_067_200_000) // 3_600_000
            try:
                await self.calls.call(
                    member,
                    lambda there, group=group, hour=hour: calls.write(
                        there, group, TrimBefore(hour, 0), None
                    ),
                )
                hints.learn(group, member, good=True)
            except (KalamError, Refused, Lost):
                hints.learn(group, member, good=False)

    async def _read_all(self) -> None:
        wanted = {
            (operation.partition, key)
            for operation in self.history.operations
            for key in operation.keys
        }
        hints = Hints(self.desk, WRITER)
        for partition, key in sorted(wanted):
            self.desk.numbers += 1
            while True:
                read = Operation(
                    self.desk.numbers, Kind.READ, partition, (key,), self.timeline.now_s
                )
                await perform(self.desk, hints, read)
                if read.result is Result.OK:
                    break
                self.history.operations.pop()
                await self.calls.pause(0.05)

    def _is_equal(self) -> bool:
        return are_equal(self.members, self.references)

    def _streams_are_done(self) -> bool:
        for subscription in self.history.subscriptions:
            chain = self._reference_of(subscription.partition).chain(subscription.partition)
            newest = chain[-1].seq if chain else 0
            if subscription.cursor is None or subscription.cursor < newest:
                return False
        return True

    def _reference_of(self, partition: Partition) -> GroupReference:
        return self.references[self.desk.group_of(partition)]

    def _status(self) -> str:
        return "; ".join(
            f"n{member.node} g{group}: {member.groups[group].status()}"
            for member in self.members.values()
            for group in member.groups
        )

    # The verdict.

    def _judge(self) -> Iterator[str]:
        operations = self.history.operations
        references = list(self.references.values())
        yield from ledger.faults(operations, references)
        yield from linear.faults(operations)
        for subscription in self.history.subscriptions:
            reference = self._reference_of(subscription.partition)
            yield from feed.faults(subscription, reference)
        yield from self._judge_members()
        yield from self._judge_banks()
        yield from self._judge_vacuity()

    def _judge_members(self) -> Iterator[str]:
        for group, reference in self.references.items():
            digests = set()
            for member in self.members.values():
                pairs = list(member.stores[group].scan(b"\x00", b"\xff"))
                member.check_group(group)
                digests.add(member.replicas[group].digest())
                if member.stores[group].mark().index == reference.index:
                    held = {key: value for key, value in pairs if key != b"\x01"}
                    if held != reference.state:
                        yield f"node {member.node}: {difference(reference, pairs)}"
            if len(digests) != 1:
                yield f"group {group}: the members' digests differ"

    def _judge_banks(self) -> Iterator[str]:
        """The total of each bank, and that money moved, in one piece and in chunks."""
        for place in self.desk.banks:
            prefix = row_prefix(TABLE.id, place.partition)
            state = self.references[place.group].state
            rows = [raw for key, raw in state.items() if key.startswith(prefix)]
            bank.check_total(f"group {place.group} at the end", rows)
        moved = sum(
            operation.kind is Kind.TRANSFER and operation.result is Result.OK
            for operation in self.history.operations
        )
        if moved < TRANSFERS_MIN:
            yield f"vacuous: {moved} transfers, at least {TRANSFERS_MIN}"
        if not any(reference.staged for reference in self.references.values()):
            yield "vacuous: no command was staged"

    def _judge_vacuity(self) -> Iterator[str]:
        acknowledged = sum(
            operation.writes and operation.result is Result.OK
            for operation in self.history.operations
        )
        if acknowledged < ACKNOWLEDGED_MIN:
            yield f"vacuous: {acknowledged} acknowledged writes, at least {ACKNOWLEDGED_MIN}"
        if not self.nemesis.hits:
            yield "vacuous: no fault during the load"


def partitions(groups: tuple[int, ...], *, first: int = 0) -> list[tuple[Partition, int]]:
    """Two partitions in each group, as slots place them; one for a bank, behind the `first`."""
    found: list[tuple[Partition, int]] = []
    for group in groups:
        names = (f"tenant{number}" for number in range(1000))
        made = [tenant_partition(TenantId(name)) for name in names]
        mine = [p for p in made if slot_of(p) * len(groups) // SLOTS + 1 == group]
        end = first + 1 if first else 2
        found += [(partition, GroupId(group)) for partition in mine[first:end]]
    return found


def are_equal(members: Mapping[int, Member], references: Mapping[int, GroupReference]) -> bool:
    """Everybody is up and has applied the whole log of each group, which is led."""
    if not all(member.up for member in members.values()):
        return False
    for group in references:
        last = {member.groups[group].journal.last_index for member in members.values()}
        applied = {member.stores[group].mark().index for member in members.values()}
        ready = any(member.groups[group].ready for member in members.values())
        if not ready or len(last) != 1 or last != applied:
            return False
    return True


def surface(task) -> None:
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()


def where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
