"""Clients of the simulation of slot moves. Each knows exactly what may be true.

A writer is the only one to change its register, by one at a time and with request ids, so every
value has its place in time; a tallier writes how many rows it saw, which must be how many there
were when that was decided; a subscriber follows its chain and must be given all of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from kalamdb.errors import (
    Conflict,
    CursorExpired,
    Indeterminate,
    KalamError,
    SchemaChanged,
    Unavailable,
    UniqueViolation,
)
from kalamdb.model import codec
from kalamdb.model.change import Change
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, Partition, Seq, partition_tenant, slot_of
from kalamdb.model.table import TableDef
from kalamdb.model.work import ChangeKeys, InsertRows, PutRows, ReadSet, RequestTag, Work
from kalamdb.replica.replica import Replica
from tests.sim.moves_checks import TALLY, Observer
from tests.sim.moves_seats import Seats
from tests.sim.reference import Violation
from tests.sim.streams import Message, Stream
from tests.unit.replica.harness import pk_of

REGISTER, TALLIED = 1, 2
RETRY = (Unavailable, Indeterminate)


class Shared:
    """What all clients use."""

    def __init__(
        self,
        seats: Seats,
        dice: Random,
        observer: Observer,
        table: TableDef,
        passing: TableDef,
    ) -> None:
        self.seats = seats
        self.dice = dice
        self.observer = observer
        self.table = table  # as the newest that is active
        self.passing = passing
        self.closed = False
        self.trimmable = Seq(0)  # no change above it was ever to be trimmed
        self.counts: Counter[str] = Counter()

    def group_of(self, partition: Partition) -> int:
        """By what meta said last here, which may be old."""
        placement = self.seats.seats[META_GROUP].replica.catalog.placement
        assert placement is not None
        if self.dice.random() < 0.05 and not self.seats.calm:
            return self.dice.choice((1, 2))
        return placement.group_of(slot_of(partition))

    def replica_of(self, partition: Partition) -> Replica:
        return self.seats.leader(self.group_of(partition))

    def newest(self, partition: Partition) -> Seq:
        chain = self.observer.chains.get((int(self.table.id), partition), [])
        return chain[-1][0] if chain else Seq(0)

    async def think(self, most_s: float = 0.05) -> None:
        await self.seats.pause(self.dice.uniform(0.001, most_s))


class Writer:
    """INSERT and UPDATE by key, one after the other. `acked` and `asked`: of its register."""

    def __init__(self, shared: Shared, partition: Partition, number: int) -> None:
        self.shared = shared
        self.partition = partition
        self.tenant = str(partition_tenant(partition))
        self.acked = self.asked = 0
        self.next_row = 10
        self.numbers = 0
        self.live: dict[int, int] = {}  # row → mail

    async def run(self) -> None:
        shared = self.shared
        await self.sure(lambda table: InsertRows(table, self.partition, [{1: REGISTER, 2: "0"}]))
        await self.sure(lambda table: InsertRows(table, self.partition, [{1: TALLIED, 2: "t"}]))
        while not shared.closed:
            await shared.think()
            match shared.dice.randrange(8):
                case 0 | 1 | 2:
                    await self.count_up()
                case 3 | 4:
                    await self.add()
                case 5:
                    await self.add_again()
                case 6:
                    await self.remove()
                case _:
                    await self.passing()

    async def count_up(self) -> None:
        self.asked += 1
        key = [pk_of(self.shared.table, REGISTER)]
        outcome = await self.sure(
            lambda table: ChangeKeys(
                table, self.partition, key, lambda row: {**row, 2: str(int(row[2]) + 1)}
            )
        )
        if outcome.affected != 1:
            raise Violation(f"the register of {self.tenant} is not there")
        self.acked = self.asked

    async def add(self) -> None:
        row = self.next_row
        self.next_row += 1
        made = {1: row, 2: f"body{row % 7}" + "x" * self.shared.dice.choice((0, 0, 300))}
        made[3] = f"mail{row}"
        await self.sure(lambda table: InsertRows(table, self.partition, [made]))
        self.live[row] = row

    async def add_again(self) -> None:
        """A mail that is taken, under a new key: it must be refused."""
        if not self.live:
            return
        taken = self.shared.dice.choice(sorted(self.live))
        made = {1: self.next_row, 2: "again", 3: f"mail{taken}"}
        self.next_row += 1
        try:
            await self.sure(lambda table: InsertRows(table, self.partition, [made]))
        except UniqueViolation:
            self.shared.counts["refused"] += 1
            return
        raise Violation(f"mail{taken} of {self.tenant} was taken twice")

    async def remove(self) -> None:
        if len(self.live) < 3:
            return
        row = self.shared.dice.choice(sorted(self.live))
        key = [pk_of(self.shared.table, row)]
        outcome = await self.sure(lambda table: ChangeKeys(table, self.partition, key, None))
        if outcome.affected != 1:
            raise Violation(f"row {row} of {self.tenant} is not there")
        del self.live[row]

    async def passing(self) -> None:
        row = {1: self.next_row, 2: "passes"}
        self.next_row += 1
        table = self.shared.passing
        await self.sure(lambda _: InsertRows(table, self.partition, [row]))

    async def sure(self, make) -> Outcome:
        """Once, whatever happens on the way: the request id says which it is."""
        self.numbers += 1
        tag = RequestTag(self.tenant, self.tenant, f"w{self.numbers}", 1, b"h")
        table = self.shared.table
        while True:
            work: Work = make(table)
            try:
                group = self.shared.group_of(self.partition)
                return await self.shared.seats.write(group, work, tag)  # type: ignore[arg-type]
            except SchemaChanged as changed:
                table = changed.definition
            except RETRY as error:
                self.shared.counts[type(error).__name__] += 1
                await self.shared.think(0.03)

    def faults(self) -> list[str]:
        shared = self.shared
        rows = shared.observer.rows.get((int(shared.table.id), self.partition), {})
        register = rows.get(pk_of(shared.table, REGISTER))
        if register is None or int(str(register[2])) != self.acked:
            return [f"the register of {self.tenant} is {register}, {self.acked} were counted"]
        held = {int(str(row[1])) for row in rows.values()} - {REGISTER, TALLIED}
        if held != set(self.live):
            return [f"rows of {self.tenant}: {held ^ set(self.live)} are over or missing"]
        replica = shared.replica_of(self.partition)
        found: list[str] = []
        for key, row in rows.items():
            raw = replica.get(shared.table, self.partition, key)
            if raw is None or codec.decode_row(raw)[1] != row:
                found.append(f"{self.tenant}: a row is not what the log says")
        return found


class Reader:
    """Linearizable reads of a writer's register."""

    def __init__(self, shared: Shared, partition: Partition, writer: Writer) -> None:
        self.shared = shared
        self.partition = partition
        self.writer = writer

    async def run(self) -> None:
        shared = self.shared
        key = pk_of(shared.table, REGISTER)
        while not shared.closed:
            await shared.think(0.02)
            least = self.writer.acked
            try:
                await shared.seats._travel()
                replica = shared.replica_of(self.partition)
                if shared.dice.random() < 0.3:
                    replica = shared.seats.leader(shared.dice.choice((1, 2)))
                frozen = slot_of(self.partition) in replica.slots.frozen
                barrier = replica.barrier(self.partition)
                if barrier is not None:
                    await barrier
                raw = replica.get(shared.table, self.partition, key)
            except KalamError:
                continue
            if raw is None:
                if self.writer.acked:
                    raise Violation(f"a read finds no register of {self.writer.tenant}")
                continue
            row = codec.decode_row(raw)[1]
            assert row is not None
            seen = int(row[2])
            shared.counts["read frozen" if frozen else "read"] += 1
            if not least <= seen <= self.writer.asked:
                raise Violation(f"read {seen}, between {least} and {self.writer.asked} are true")


class Tallier:
    """Slow work: it counts the rows of a snapshot, and writes the count with what it rests on."""

    def __init__(self, shared: Shared, partition: Partition, number: int) -> None:
        self.shared = shared
        self.partition = partition

    async def run(self) -> None:
        shared = self.shared
        while not shared.closed:
            await shared.think(0.1)
            try:
                await self.once()
            except (KalamError, Conflict):
                continue

    async def once(self) -> None:
        shared, partition, table = self.shared, self.partition, self.shared.table
        replica = shared.replica_of(partition)
        barrier = replica.barrier(partition)
        if barrier is not None:
            await barrier
        with replica.snapshot(partition) as snapshot:
            replica.get(table, partition, b"")
            slots = {slot_of(partition): snapshot.open_epoch(partition)}
            last = snapshot.last_change(table, partition)
            rows = [codec.decode_row(raw)[1] for _, raw in snapshot.scan(table, partition)]
        await shared.think(0.3)
        key = pk_of(table, TALLIED)
        old = next((row for row in rows if row is not None and row[1] == TALLIED), None)
        if old is None:
            return
        read_set = ReadSet(tables={(table.id, partition): last}, slots=slots)
        new = {**old, TALLY: len(rows)}
        asked = PutRows(table, partition, [(key, new)], read_set)
        group = shared.group_of(partition)
        chain = (int(table.id), partition)
        before = shared.observer.tallied(chain)
        outcome = await shared.seats.leader(group).write(asked)
        shared.counts["tallied"] += 1
        if (
            outcome.affected
            and len(rows) != shared.observer.tallied(chain)
            and (before == shared.observer.tallied(chain))
        ):
            raise Violation(f"a tally of {len(rows)} rows where there were {before}")


class Subscriber:
    """Follows one chain; takes a fresh position only when what it missed is trimmed."""

    def __init__(self, shared: Shared, partition: Partition) -> None:
        self.shared = shared
        self.partition = partition
        self.cursor = Seq(0)
        self.seen: list[tuple[Seq, Seq]] = []
        self.skipped: list[tuple[Seq, Seq]] = []  # (from, to) of fresh starts
        self._ended: asyncio.Future[None] | None = None

    async def run(self) -> None:
        shared = self.shared
        while not shared.closed:
            try:
                await self._follow()
            except KalamError:
                await shared.think(0.1)

    async def to_the_end(self) -> None:
        """Until nothing is left to be given."""
        while self.cursor < self.shared.newest(self.partition):
            try:
                await self._follow()
            except KalamError:
                await self.shared.think(0.1)

    async def _follow(self) -> None:
        shared, partition, table = self.shared, self.partition, self.shared.table
        await shared.think(0.02)
        group = shared.group_of(partition)
        replica = shared.seats.leader(group)
        barrier = replica.barrier(partition)
        if barrier is not None:
            await barrier
        sink = shared.seats.seats[group].sink
        if shared.seats.leader(group) is not replica:
            raise Unavailable("it crashed")
        with replica.snapshot(partition) as snapshot:
            position = snapshot.seq
            ended = self._ended = shared.seats.loop.create_future()
            try:
                found = list(snapshot.changes(table, partition, self.cursor, position))
            except CursorExpired as expired:
                if expired.reason == "ahead":
                    raise Violation(f"cursor {self.cursor} is ahead in group {group}") from expired
                self._fresh(snapshot.last_change(table, partition))
                return
            stream = Stream(position, self._deliver)
            sink.open(partition, stream)
            for change in found:
                stream.replay(change)
            stream.follow()
        shared.counts["streams"] += 1
        if not shared.closed and shared.dice.random() < 0.15:
            # Away for so long that what it misses may be trimmed.
            stream.ended = True
            await shared.seats.pause(shared.dice.uniform(3.0, 9.0))
        elif shared.closed or shared.dice.random() < 0.3:
            await shared.seats.pause(shared.dice.uniform(0.05, 1.0))
            stream.ended = True
        else:
            while not ended.done() and not shared.closed:
                await shared.seats.pause(0.05)
            stream.ended = True

    def _fresh(self, last: Seq) -> None:
        self.shared.counts["expired"] += 1
        chain = self.shared.observer.chains[int(self.shared.table.id), self.partition]
        missed = next(seq for seq, _ in chain if seq > self.cursor)
        if missed > self.shared.trimmable:
            raise Violation(f"cursor {self.cursor} is expired, {missed} is too young for that")
        self.skipped.append((self.cursor, last))
        self.cursor = last

    def _deliver(self, message: Message) -> None:
        match message:
            case Change():
                if message.prev_seq > self.cursor or message.seq <= self.cursor:
                    raise Violation(
                        f"frame {message.seq} follows {message.prev_seq}, at {self.cursor}"
                    )
                self.cursor = message.seq
                self.seen.append((message.seq, message.prev_seq))
            case str():
                if "moved" in message:
                    self.shared.counts["slot ends"] += 1
                if self._ended is not None and not self._ended.done():
                    self._ended.set_result(None)
            case _:
                pass

    def faults(self) -> list[str]:
        chain = self.shared.observer.chains.get((int(self.shared.table.id), self.partition), [])
        wanted = [
            change
            for change in chain
            if not any(begin < change[0] <= end for begin, end in self.skipped)
        ]
        if self.seen != wanted:
            missing = set(wanted) - set(self.seen)
            return [f"a subscriber missed {sorted(missing)[:3]} of {len(wanted)} changes"]
        return []
