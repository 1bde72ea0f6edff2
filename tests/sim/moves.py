"""One slot goes to and fro between two groups while clients work on it, from one seed.

1. Meta and two data groups start; a table, a STREAM table and the slots are put.
2. Writers, readers, subscribers, a definer, trims and expiry work; moves begin, are driven by
   drivers that die and overlap, some are aborted; leaders crash; copies of commands arrive late.
3. All heals; moves end; every client is through. Then the judges have the whole of it.

`run(seed)` gives a `Report`; PYTHONHASHSEED must be 0 for two runs to be one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import cast

from cluster.moves import Driver, MoveSettings
from kalamdb.errors import AlreadyExists, KalamError
from kalamdb.model.command import Outcome
from kalamdb.model.ids import (
    META_GROUP,
    SEQ_TIME_SHIFT,
    GroupId,
    Partition,
    Seq,
    Slot,
    TenantId,
    slot_of,
    tenant_partition,
)
from kalamdb.model.table import Index, IndexState, TableDef, TableKind
from kalamdb.model.work import (
    AbortMove,
    ActivateTable,
    BeginMove,
    BuildIndex,
    CreateNamespace,
    DefineTable,
    ExpireRows,
    OpenSlots,
    PutFence,
    PutPlacement,
    TrimBefore,
    Work,
)
from kalamdb.store import slot_keys
from kalamdb.store.rows import expired_upto
from kalamdb.store.slot_codec import SlotState
from tests.sim.moves_checks import Observer, check_indexes
from tests.sim.moves_clients import Reader, Shared, Subscriber, Tallier, Writer
from tests.sim.moves_seats import Seats
from tests.sim.reference import Violation
from tests.sim.timeline import Life, Loop, Timeline
from tests.unit.replica.harness import message_table

LOAD_S = 14.0
CALM_S = 30.0
PIECE_BYTES = 700
HOUR_MS = 3_600_000
SETTINGS = MoveSettings(bytes_per_s=1 << 20, frozen_max_s=2.0, retry_s=0.02, idle_s=0.05)


@dataclass(slots=True)
class Report:
    seed: int
    faults: list[str]
    counts: Counter[str] = field(default_factory=Counter[str])
    trace: str = ""

    def __str__(self) -> str:
        counts = " ".join(f"{name}={count}" for name, count in sorted(self.counts.items()))
        lines = [f"seed {self.seed}: {counts}", f"  trace {self.trace}"]
        return "\n".join([*lines, *(f"  FAULT {fault}" for fault in self.faults)])


def run(seed: int, *, verbose: bool = False) -> Report:
    before = slot_keys.PIECE_BYTES
    world = MovesWorld(seed, verbose=verbose)
    report = Report(seed, [])
    try:
        world.play()
        report.faults += world.judge()
    except (AssertionError, KalamError) as error:
        report.faults.append(f"{type(error).__name__}: {error}")
    finally:
        slot_keys.PIECE_BYTES = before
    report.faults += world.errors
    report.counts = Counter(world.observer.counts) + world.shared.counts
    report.trace = world.timeline.trace
    return report


def table_pair() -> tuple[TableDef, TableDef]:
    kept = message_table(1)
    passing = message_table(2, kind=TableKind.STREAM, ttl_s=3600, uniques=())
    return replace(kept, next_index_id=10), passing


def partitions() -> tuple[Slot, list[Partition], list[Partition]]:
    """A slot with two tenants in group 1's half, and one tenant each of the groups that stay."""
    by_slot: dict[int, list[Partition]] = {}
    for number in range(4000):
        partition = tenant_partition(TenantId(f"t{number}"))
        by_slot.setdefault(slot_of(partition), []).append(partition)
    moving = next(s for s, found in sorted(by_slot.items()) if s < 2048 and len(found) >= 2)
    first = next(found[0] for s, found in sorted(by_slot.items()) if s < 2048 and s != moving)
    second = next(found[0] for s, found in sorted(by_slot.items()) if s >= 2048)
    return Slot(moving), by_slot[moving][:2], [first, second]


class MovesWorld:
    """See the module. `playing` is the one that runs, for mutants."""

    playing: MovesWorld | None = None

    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        MovesWorld.playing = self
        self.dice = Random(seed)
        self.errors: list[str] = []
        self.timeline = Timeline(verbose=verbose)
        self.loop = Loop(self.timeline, Life(), self.errors)
        self.slot, self.moving, self.staying = partitions()
        self.observer = Observer(self.slot)
        self.table, self.passing = table_pair()
        self.seats = self.loop.step(Seats, self.timeline, self.dice, self.loop, self.observer)
        self.shared = Shared(self.seats, self.dice, self.observer, self.table, self.passing)
        slot_keys.PIECE_BYTES = PIECE_BYTES
        self.closed = False
        self.kept_h = {group: self.dice.choice((0, 1, 3)) for group in (1, 2)}
        self.drivers: list[asyncio.Task[None]] = []

    def spawn(self, work) -> asyncio.Task[None]:
        return self.loop.create_task(work)

    # The run.

    def play(self) -> None:
        self._finish(self.spawn(self._put_schema()), 10.0, "the schema was not put")
        clients: list[asyncio.Task[None]] = []
        self.subscribers: list[Subscriber] = []
        self.writers: list[Writer] = []
        for number, partition in enumerate((*self.moving, *self.staying)):
            writer = Writer(self.shared, partition, number)
            subscriber = Subscriber(self.shared, partition)
            self.writers.append(writer)
            self.subscribers.append(subscriber)
            clients += [
                self.spawn(writer.run()),
                self.spawn(Reader(self.shared, partition, writer).run()),
                self.spawn(Tallier(self.shared, partition, number).run()),
                self.spawn(subscriber.run()),
            ]
        for work in (self._move, self._drive, self._crash, self._upkeep, self._define):
            clients.append(self.spawn(work()))
        self._run(LOAD_S)
        self.closed = self.shared.closed = self.seats.calm = True
        self.timeline.note("heal")
        self._finish(self.spawn(self._at_rest()), CALM_S, "the move did not end")
        for client in clients:
            self._finish(client, CALM_S, f"a client is not through: {client.get_coro()}")
        self._finish(self.spawn(self._at_rest()), CALM_S, "the move did not end")
        self._run(1.0)  # copies of commands that are still under way
        for subscriber in self.subscribers:
            self._finish(self.spawn(subscriber.to_the_end()), CALM_S, "a subscriber is behind")

    def _run(self, duration_s: float, until=lambda: False) -> None:
        self.timeline.run(duration_s, lambda: bool(self.errors) or until())

    def _finish(self, task: asyncio.Task[None], within_s: float, fault: str) -> None:
        self._run(within_s, task.done)
        if self.errors:
            raise Violation(self.errors[0])
        if not task.done():
            raise Violation(fault)
        task.result()

    async def _sure(self, group: int, work: Work) -> Outcome | None:
        while True:
            try:
                return await self.seats.write(GroupId(group), work)
            except AlreadyExists:
                return None
            except KalamError:
                await self.seats.pause(0.05)

    async def _put_schema(self) -> None:
        await self._sure(0, PutPlacement(2, (1,), "sim"))
        await self._sure(0, CreateNamespace("chat", True))
        for table in (self.table, self.passing):
            await self._sure(0, DefineTable(table, True))
            for group in (1, 2):
                await self._sure(group, PutFence(table))
            await self._sure(0, ActivateTable(table.id, 1))
        await self._sure(1, OpenSlots(tuple(map(Slot, range(2048))), 1))
        await self._sure(2, OpenSlots(tuple(map(Slot, range(2048, 4096))), 1))

    # What goes on.

    async def _move(self) -> None:
        """Moves begin again and again; some are aborted by somebody else."""
        while not self.closed:
            await self.seats.pause(self.dice.uniform(0.05, 0.6))
            try:
                view = await self.seats.catalog()
                assert view.placement is not None
                move = view.moves.get(self.slot)
                if move is None:
                    source = view.placement.group_of(self.slot)
                    work = BeginMove(self.slot, source, GroupId(3 - source))
                    await self.seats.write_meta(work)
                    self.shared.counts["begun"] += 1
                elif self.dice.random() < 0.12:
                    await self.seats.write_meta(AbortMove(self.slot, move.epoch))
                    self.shared.counts["aborted"] += 1
            except KalamError:
                continue

    async def _drive(self) -> None:
        """Drivers die at any step; now and then two of them live."""
        while True:
            self.drivers = [task for task in self.drivers if not task.done()]
            if len(self.drivers) < self.dice.choice((1, 1, 1, 2)):
                self.drivers.append(self.spawn(self._one_driver()))
            await self.seats.pause(self.dice.uniform(0.01, 0.5))
            if self.closed:
                break
            if self.drivers and self.dice.random() < 0.3:
                self.timeline.note("driver dies")
                self.drivers.pop(self.dice.randrange(len(self.drivers))).cancel()

    async def _one_driver(self) -> None:
        driver = Driver(self.seats, self.seats.seats[0].clock, SETTINGS, pause=self.seats.pause)
        try:
            await driver.drive(self.slot)
        except KalamError:
            await self.seats.pause(0.05)

    async def _crash(self) -> None:
        while not self.closed:
            await self.seats.pause(self.dice.uniform(0.1, 1.5))
            self.seats.seats[self.dice.choice((0, 1, 2))].crash()

    async def _upkeep(self) -> None:
        """Hours end: changes are trimmed, rows of the STREAM table expire."""
        while not self.closed:
            await self.seats.pause(self.dice.uniform(0.2, 0.8))
            for group in (1, 2):
                seat = self.seats.seats[group]
                now_ms = seat.clock.wall_ms()
                hour = (now_ms - 1_704_067_200_000) // HOUR_MS
                begin = ((hour - self.kept_h[group]) * HOUR_MS) << SEQ_TIME_SHIFT
                self.shared.trimmable = max(self.shared.trimmable, Seq(begin))
                upto = expired_upto(self.passing, now_ms, seat.group)
                for work in (
                    TrimBefore(hour - self.kept_h[group], 0),
                    ExpireRows(self.passing, upto, 10),
                ):
                    try:
                        await self.seats.write(seat.group, work)
                    except KalamError:
                        continue

    async def _define(self) -> None:
        """An index comes, and goes, and comes."""
        while not self.closed:
            await self.seats.pause(self.dice.uniform(0.5, 2.0))
            table = self.shared.table
            if table.indexes:
                await self._revise(replace(table, version=table.version + 1, indexes=()))
                continue
            number = table.next_index_id
            index = Index(number, (2,), f"by_body{number}", IndexState.BUILDING)
            table = replace(
                table, version=table.version + 1, indexes=(index,), next_index_id=number + 1
            )
            await self._define_as(table)
            for group in (1, 2):
                await self._sure(group, PutFence(table))
            for group in (1, 2):
                await self._build(group, table, number)
            ready = (replace(index, state=IndexState.READY),)
            await self._revise(replace(table, version=table.version + 1, indexes=ready))
            self.shared.counts["indexes"] += 1

    async def _revise(self, table: TableDef) -> None:
        await self._define_as(table)
        for group in (1, 2):
            await self._sure(group, PutFence(table))
        await self._sure(0, ActivateTable(table.id, table.version))
        self.shared.table = table

    async def _define_as(self, table: TableDef) -> None:
        while True:
            try:
                await self.seats.write(META_GROUP, DefineTable(table, False))
                return
            except KalamError:
                await self.seats.pause(0.02)
            pending = self.seats.seats[0].replica.catalog.pending.get(table.id)
            if pending is not None and pending.version == table.version:
                return

    async def _build(self, group: int, table: TableDef, number: int) -> None:
        after: str | None = ""
        while after is not None:
            work = BuildIndex(table, number, bytes.fromhex(after), 20)
            outcome = await self._sure(group, work)
            assert outcome is not None
            assert outcome.rows is not None
            after = cast("str | None", outcome.rows[0][0])

    async def _at_rest(self) -> None:
        for task in self.drivers:
            task.cancel()
        while True:
            try:
                await self._one_driver()
                if self.slot not in (await self.seats.catalog()).moves:
                    return
            except KalamError:
                continue

    # The verdict.

    def judge(self) -> list[str]:
        faults: list[str] = []
        view = self.seats.seats[0].replica.catalog
        assert view.placement is not None
        owner = view.placement.group_of(self.slot)
        for group in (1, 2):
            seat = self.seats.seats[group]
            record = seat.replica.slots.records.get(self.slot)
            state = None if record is None else record.state
            allowed = (SlotState.OPEN,) if group == owner else (SlotState.GONE, None)
            if state not in allowed:
                faults.append(f"at rest slot {self.slot} is {state} in group {group}")
            seat.follow()
            if seat.follower.digest() != seat.replica.digest():
                faults.append(f"group {group}: the members' digests differ")
            held = [s for s, r in seat.replica.slots.records.items() if r.state is SlotState.OPEN]
            try:
                check_indexes(seat.store, self.shared.table, held)
            except Violation as violation:
                faults.append(str(violation))
        for writer in self.writers:
            faults += writer.faults()
        for subscriber in self.subscribers:
            faults += subscriber.faults()
        if self.observer.counts.get("PURGING", 0) < 2:
            faults.append("vacuous: hardly anything was moved")
        return faults
