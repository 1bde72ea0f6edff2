"""One simulated world in which definitions change while everything fails, from one seed, judged.

1. Members start with the meta group and two data groups; an operator makes the main table.
2. Tenants write and read, operators define, retention purges, the nemesis does its work. Whoever
   begins to lead the meta group finishes what a dead operator left, soon or later.
3. Everything heals; what is pending is finished, what was dropped is purged, each key is read.
4. The logs have been judged while they grew (`defined_log`); the end is judged here: members are
   equal, every fence is the catalog's, every answer is true.

`run(seed)` returns a `Report`; `python -m tests.sim.definitions SEED` prints one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import cast

from cluster.raft.core import Timings
from kalamdb.errors import Conflict, Indeterminate, KalamError, Unavailable
from kalamdb.jobs.retention import Retention, RetentionSettings
from kalamdb.model.ids import TableId, slot_of
from kalamdb.model.work import CreateNamespace, OpenSlots, RequestTag, Work
from kalamdb.ports import DefiningGroups
from kalamdb.session.ddl import Definition, Definitions
from kalamdb.sql.constraint import checks
from kalamdb.sql.parse import parse
from kalamdb.store.catalog_codec import FenceState
from tests.sim import calls, run
from tests.sim.calls import Calls, Lost, Refused
from tests.sim.checkers import linear
from tests.sim.clients import WRITER, Desk, Hints, Place
from tests.sim.defined_log import DataReference, Ledger, MetaReference
from tests.sim.faults import Nemesis
from tests.sim.history import History, Kind, Operation, Result
from tests.sim.late import HeldAppends
from tests.sim.member import FIRST_WALL_MS, Member, NodeClock, World
from tests.sim.network import Network
from tests.sim.operators import META, OPERATOR, Office, RoutedGroups, Statement, operate
from tests.sim.reference import GroupReference, Violation, difference
from tests.sim.rows import COLUMNS
from tests.sim.run import CALM_S_MAX, NODES, Report, small_log
from tests.sim.tenants import Tenancy, live_in, perform
from tests.sim.timeline import Life, Loop, Timeline

DATA_GROUPS = (1, 2)
LOAD_S = 8.0
TENANTS, OPERATORS = 6, 2
STATEMENTS_MIN, ACKNOWLEDGED_MIN = 2, 15
BROUGHT_SHARE = 0.3  # of statements, by other nodes
RETENTION = RetentionSettings(interval_s=0.0)


def replay(seed: int, trace: bool = False) -> bool:
    """Run the world of `seed` again and print what came out; False when a promise was broken."""
    report, statements = _run(seed, verbose=trace)
    for statement in statements:
        print(f"  {statement.number} {statement.result.name} {statement.sql} {statement.answer}")
    print(report)
    return not report.faults


def run_world(seed: int) -> Report:
    """The world of `seed`. PYTHONHASHSEED must be 0 for two runs to be one."""
    return _run(seed)[0]


def _run(seed: int, *, verbose: bool = False) -> tuple[Report, list[Statement]]:
    with small_log():
        world = DefinitionWorld(seed, verbose=verbose)
        return world.report(), world.office.statements


async def _no_passwords(name: str, password: str) -> str:
    raise AssertionError("operators make no users")


class DefinitionWorld:
    """See the module."""

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.seed = seed
        self._dice = dice = Random(f"definitions {seed}")
        self.timeline = timeline = Timeline(verbose=verbose)
        self._errors: list[str] = []
        self.ledger = Ledger()
        self.references: dict[int, GroupReference] = {META: MetaReference(META, self.ledger)}
        self._data = {group: DataReference(group, self.ledger) for group in DATA_GROUPS}
        self.references.update(self._data)
        network = Network(timeline, dice)
        self.members: dict[int, Member] = {}
        world = World(
            timeline=timeline,
            dice=dice,
            network=network,
            references=self.references,
            members=self.members,
            faults=self._errors,
            late=HeldAppends(dice, share=dice.choice((0.0, 0.0, 0.02))),
            timings=Timings(fallback_s=dice.choice((1.0, 1.0, 4.0))),
            checks=checks,
            on_lead=self._finish_later,
        )
        start_ms = FIRST_WALL_MS - dice.randrange(2_000, 12_000)
        for node in NODES:
            clock = NodeClock(timeline, start_ms, dice.choice((0, 0, -200, 100)))
            self.members[node] = Member(world, node, (META, *DATA_GROUPS), clock)
            self.members[node].on_start = self._started
        self._loop = Loop(timeline, Life(), self._errors)
        client_calls = Calls(timeline, dice, self._loop)
        self.calls = client_calls
        places = [Place(partition, group) for partition, group in run.partitions(DATA_GROUPS)]
        self.desk = Desk(timeline, dice, client_calls, self.members, places, History())
        self.office = Office(timeline, dice, client_calls, self.members)
        self.office.carry_out = self._carry_out
        self.tenancy = Tenancy(self.desk, self.ledger.versions, others=self.office.tables)
        self.nemesis = Nemesis(timeline, dice, client_calls, network, self.members)
        self._definitions: dict[int, Definitions] = {}

    # What members do besides.

    def _started(self, member: Member) -> None:
        self._definitions[member.node] = self._define_at(member)
        member.loop.call_later(self._dice.uniform(0.5, 2.0), self._retain_later, member)

    def _define_at(self, member: Member) -> Definitions:
        groups = cast(DefiningGroups, RoutedGroups(member, self._dice))
        return Definitions(groups, member.clock, _no_passwords)

    def _retain_later(self, member: Member) -> None:
        member.spawn(self._retain(member))
        member.loop.call_later(self._dice.uniform(0.5, 2.0), self._retain_later, member)

    async def _retain(self, member: Member) -> None:
        data = [replica for group, replica in member.replicas.items() if group != META]
        try:
            await Retention(lambda: data, member.clock, RETENTION).round()
        except KalamError as error:  # as `lib.tasks.every` takes it
            member.note(f"retention: {error}")

    def _finish_later(self, member: Member, group: int) -> None:
        if group == META:
            after_s = self._dice.choice((0.0, 0.05, 0.5))
            member.loop.call_later(after_s, self._finish_now, member)

    def _finish_now(self, member: Member) -> None:
        member.spawn(self._finish(member))

    async def _finish(self, member: Member) -> None:
        """As a node does it when it begins to lead the meta group; until it is done."""
        while member.replicas[META].leads:
            try:
                await self._finish_once(member)
                return
            except (Unavailable, Indeterminate, Conflict) as error:
                member.note(f"finish: {error}")
                await member.pause(self._dice.uniform(0.1, 0.5))

    async def _finish_once(self, member: Member) -> None:
        await calls.confirm(member, META)
        await self._definitions[member.node].finish_pending()

    async def _carry_out(
        self, member: Member, statement: Definition, tag: RequestTag | None
    ) -> str:
        """At the leader of the meta group, on its catalog once leadership is confirmed. A
        statement that another node brings does not wait for those of this one.
        """
        await calls.confirm(member, META)
        made = self._definitions[member.node]
        if self._dice.random() < BROUGHT_SHARE:
            made = self._define_at(member)
        return await made.carry_out(OPERATOR, statement, "sim", tag)

    # The run.

    def report(self) -> Report:
        report = Report(self.seed, [], "")
        try:
            self._play(report)
            report.faults += self._judge()
        except (AssertionError, KalamError) as error:
            report.faults.append(f"{type(error).__name__}: {error}{run.where(error)}")
        report.faults += self._errors
        report.trace = self.timeline.trace
        report.elapsed_s = self.timeline.elapsed_s
        report.results = Counter(one.result for one in self.desk.history.operations)
        report.statements = Counter(one.result for one in self.office.statements)
        report.hits = self.nemesis.hits
        report.images = sum(member.images for member in self.members.values())
        report.void = sum(reference.void for reference in self.references.values())
        return report

    def _play(self, report: Report) -> None:
        timeline = self.timeline
        self._begin()
        working = [self.spawn(live_in(self.tenancy)) for _ in range(TENANTS)]
        working += [self.spawn(operate(self.office)) for _ in range(OPERATORS)]
        self.spawn(self.nemesis.run())
        timeline.run(LOAD_S)
        self.desk.closed = self.office.closed = True
        timeline.note("heal")
        timeline.run(max(0.0, self.nemesis.heal() - timeline.now_s))
        if not timeline.run(CALM_S_MAX, lambda: all(task.done() for task in working)):
            raise Violation("somebody still waits for an answer long after everything healed")
        calm_from_s = timeline.now_s
        for what in (self._settle, self._read_all):
            ending = self.spawn(what())
            if not timeline.run(CALM_S_MAX, ending.done):
                raise Violation(f"no end within {CALM_S_MAX} s of calm, pending: {self._pending()}")
            ending.result()
        if not timeline.run(CALM_S_MAX, self._is_equal):
            raise Violation(f"members differ after {CALM_S_MAX} s of calm")
        report.calm_s = timeline.now_s - calm_from_s

    def _pending(self) -> list[str]:
        pending = self.ledger.catalog.pending.values()
        return [f"{table.full_name} version {table.version}" for table in pending]

    def _begin(self) -> None:
        for member in self.members.values():
            member.start()
        beginning = self.spawn(self._make_main())
        if not self.timeline.run(20.0, beginning.done):
            raise Violation("the main table was not made within 20 s")
        beginning.result()

    async def _make_main(self) -> None:
        for group in DATA_GROUPS:
            slots = tuple(slot_of(p.partition) for p in self.desk.places if p.group == group)
            await self._surely(group, OpenSlots(slots, 1))
        await self._surely(META, CreateNamespace("sim", True))
        made = parse(f"CREATE TABLE IF NOT EXISTS sim.lists ({COLUMNS}) WITH (TYPE = 'USER')")[0]
        main = cast(Definition, made)
        await self._at_leader(META, lambda there: self._carry_out(there, main, None))

    async def _surely(self, group: int, work: Work) -> None:
        await self._at_leader(group, lambda there: calls.write(there, group, work, None))

    async def _at_leader(self, group: int, handle):
        hints = Hints(self.desk, WRITER)
        while True:
            member = hints.pick(group)
            try:
                done = await self.calls.call(member, handle)
                hints.learn(group, member, good=True)
                return done
            except (Unavailable, Indeterminate, Conflict, Refused, Lost):
                hints.learn(group, member, good=False)
                await self.calls.pause(0.05)

    async def _settle(self) -> None:
        """What was left is finished, and what was dropped purged."""
        while True:
            await self._at_leader(META, self._finish_once)
            if not self.ledger.catalog.pending and self._purged():
                return
            await self.calls.pause(0.2)

    def _purged(self) -> bool:
        return not any(
            fence.state is FenceState.DROPPED
            for group in self._data.values()
            for fence in group.fences.values()
        )

    async def _read_all(self) -> None:
        wanted = {
            (operation.partition, key)
            for operation in self.desk.history.operations
            for key in operation.keys
        }
        hints = Hints(self.desk, WRITER)
        for partition, key in sorted(wanted):
            read = Operation(0, Kind.READ, partition, (key,), self.timeline.now_s)
            while read.result is not Result.OK:
                self.desk.numbers += 1
                read = Operation(
                    self.desk.numbers, Kind.READ, partition, (key,), self.timeline.now_s
                )
                await perform(self.tenancy, hints, read)

    def spawn(self, work):
        task = self._loop.create_task(work)
        task.add_done_callback(run.surface)
        return task

    def _is_equal(self) -> bool:
        return run.are_equal(self.members, self.references)

    # The verdict.

    def _judge(self) -> Iterator[str]:
        yield from linear.faults(self.desk.history.operations)
        for group, reference in self.references.items():
            for member in self.members.values():
                pairs = list(member.stores[group].scan(b"\x00", b"\xff"))
                held = {key: value for key, value in pairs if key != b"\x01"}
                if held != reference.state:
                    yield f"node {member.node}: {difference(reference, pairs)}"
        for data in self._data.values():
            data.judge("at the end")
        yield from self._judge_fences()
        for statement in self.office.statements:
            yield from self._judge_answer(statement)
        yield from self._judge_vacuity()

    def _judge_fences(self) -> Iterator[str]:
        """A definition is fully there or fully not."""
        catalog = self.ledger.catalog
        for table in catalog.tables_by_id.values():
            for number, data in self._data.items():
                fence = data.fences.get(table.id)
                if fence is None or fence.state is not FenceState.ACTIVE or fence.table != table:
                    yield (
                        f"{table.full_name} version {table.version} is active,"
                        f" group {number} has {fence}"
                    )
        for number, data in self._data.items():
            for table_id, fence in data.fences.items():
                # A first definition that gave way to another of its name has no rows anywhere.
                gave_way = fence.table.version == 1 and table_id not in self._ever_active
                if (
                    fence.state is FenceState.ACTIVE
                    and table_id not in catalog.tables_by_id
                    and not (gave_way and not data.has_keys(table_id))
                ):
                    yield f"group {number} has {fence.table.full_name}, which the catalog has not"
        for member in self.members.values():
            if member.replicas[META].catalog != catalog:
                yield f"node {member.node} has another catalog than its group's log"

    @property
    def _ever_active(self) -> set[TableId]:
        return {table for _, catalog in self.ledger.catalogs for table in catalog.tables_by_id}

    def _judge_answer(self, statement: Statement) -> Iterator[str]:
        """What was answered ok is in force by then; what was refused never is."""
        name = f"statement {statement.number} ({statement.sql})"
        catalogs = self.ledger.catalogs
        first = max(at for at, (time_s, _) in enumerate(catalogs) if time_s <= statement.start_s)
        seen = [time_s for time_s, catalog in catalogs[first:] if statement.seen(catalog)]
        match statement.result:
            case Result.OK:
                if not seen or seen[0] > statement.end_s:
                    yield f"{name} was answered ok at {statement.end_s:.4f} and is not in force"
                elif self._stays(statement) and not statement.seen(self.ledger.catalog):
                    yield f"{name} was answered ok, and is lost at the end"
            case Result.UNKNOWN:
                pass
            case _:
                before = statement.seen(catalogs[first][1])
                if statement.alone and seen and not before:
                    yield f"{name} was refused, and is in force from {seen[0]:.4f} on"

    def _stays(self, statement: Statement) -> bool:
        """No other statement has taken away what this one made."""
        made = {f"{letter}{statement.number}" for letter in "ckrtw"}
        # An index may have gone with its column.
        return statement.alone and "INDEX" not in statement.sql and not made & self.office.taken

    def _judge_vacuity(self) -> Iterator[str]:
        done = sum(one.result is Result.OK for one in self.office.statements)
        finished = [table.version for table in self.ledger.catalog.tables_by_id.values()]
        if max(done, *finished) < STATEMENTS_MIN:
            yield f"vacuous: {done} statements, at least {STATEMENTS_MIN}"
        acknowledged = sum(
            one.writes and one.result is Result.OK for one in self.desk.history.operations
        )
        if acknowledged < ACKNOWLEDGED_MIN:
            yield f"vacuous: {acknowledged} acknowledged writes, at least {ACKNOWLEDGED_MIN}"


if __name__ == "__main__":
    sys.exit(not replay(int(sys.argv[1]), trace="-v" in sys.argv))
