"""Groups for the simulation of slot moves: one leading member and one follower each, on one loop.

The log is a list with delays: what is appended may be lost with its leader or committed by the
next, as in Raft; that Raft does so is simulated elsewhere (`tests.sim.run`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from random import Random
from typing import Any, NoReturn

from cluster.moves import allows_reads
from kalamdb.errors import Indeterminate, KalamError, Unavailable
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, GroupId, Slot
from kalamdb.model.slot import SlotHead, SlotPiece
from kalamdb.model.work import RequestTag, Work
from kalamdb.ports import LogEntry, LogStatus
from kalamdb.replica.replica import Replica
from kalamdb.replica.slot_image import image_stream
from kalamdb.store.memory import MemoryStore
from kalamdb.store.slot_codec import SlotRecord, SlotState
from tests.sim.moves_checks import Observer, Silence
from tests.sim.reference import Violation
from tests.sim.streams import StreamSink
from tests.sim.timeline import START_S, Loop, Timeline

WALL_PER_S = 600_000  # ten minutes pass in a second, so that hours end
START_MS = 1_790_000_000_000


class SeatClock:
    def __init__(self, timeline: Timeline, skew_ms: int) -> None:
        self._timeline = timeline
        self.skew_ms = skew_ms

    def wall_ms(self) -> int:
        return START_MS + self.skew_ms + int((self._timeline.now_s - START_S) * WALL_PER_S)

    def monotonic_s(self) -> float:
        return self._timeline.now_s


class Seat:
    """See the module. `crash` may come at any time; another leads a moment later."""

    def __init__(self, world: Seats, group: int, skew_ms: int) -> None:
        self.world = world
        self.group = GroupId(group)
        self.store = MemoryStore(self.group)
        self.clock = SeatClock(world.timeline, skew_ms)
        self.term = 0
        self.index = 0
        self.pending: list[LogEntry] = []
        self.up = False
        self._kicked = False
        self._readers: list[asyncio.Future[int]] = []
        self._committed: list[LogEntry] = []
        self.follower_store = MemoryStore(self.group)
        self.follower_sink = Silence()
        self.follower = self._replica(self.follower_store, self.follower_sink)
        self.start()

    def _replica(self, store: MemoryStore, sink: Any) -> Replica:
        return Replica(
            self.group, store, sink, self.clock, meta_allows=self._meta_allows, fatal=_fatal
        )

    async def _meta_allows(self, slot: Slot, epoch: int) -> bool:
        return allows_reads(await self.world.catalog(), slot, epoch)

    def start(self) -> None:
        self.sink = StreamSink()
        self.replica = self._replica(self.store, self.sink)
        self.replica.attach(self)
        self.world.after((0.002, 0.05), self._lead)

    def _lead(self) -> None:
        self.term += 1
        self._append(b"")
        self._commit_all()
        self.up = True
        self.world.timeline.note(f"g{self.group} lead {self.term}")
        self.replica.lead(self.term)

    def crash(self) -> None:
        if not self.up:
            return
        self.world.timeline.note(f"g{self.group} crash")
        self.up = False
        kept = self.world.dice.randint(0, len(self.pending))
        self.index -= len(self.pending) - kept
        del self.pending[kept:]
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_exception(Unavailable("crashed"))
        self.replica.resign("crashed")
        self.sink.process_ended()
        self.start()

    # ports.Log

    def kick(self) -> None:
        if not self._kicked:
            self._kicked = True
            self.world.after((0.0001, 0.003), self._cycle)

    def _cycle(self) -> None:
        self._kicked = False
        if not self.up:
            return
        while (payload := self.replica.take(self.term, 1 << 20)) is not None:
            self._append(payload)
        self.world.after((0.0005, 0.01), self._commit)

    def read_index(self) -> Awaitable[int] | None:
        reader: asyncio.Future[int] = self.world.loop.create_future()
        self._readers.append(reader)
        self.world.after((0.0001, 0.003), self._confirm)
        return reader

    def _confirm(self) -> None:
        if self.up:
            readers, self._readers = self._readers, []
            for reader in readers:
                if not reader.done():
                    reader.set_result(self.index)

    def status(self) -> LogStatus:
        return LogStatus(self.group, 1, "leader", self.term, 1, 0, 0, 1, self.index, (1,))

    # Entries.

    def _append(self, payload: bytes) -> None:
        self.index += 1
        self.pending.append(LogEntry(self.index, self.term, payload))

    def _commit(self) -> None:
        if self.up and self.pending:
            self._apply(self.world.dice.randint(1, len(self.pending)))
            if self.pending:
                self.world.after((0.0005, 0.01), self._commit)

    def _commit_all(self) -> None:
        self._apply(len(self.pending))

    def _apply(self, count: int) -> None:
        entries, self.pending = self.pending[:count], self.pending[count:]
        for entry in entries:
            self.world.observer.saw(self.group, entry)
        self._committed += entries
        self.replica.apply(entries)
        self.world.observer.look(self.group, self.store)
        self._check_streams()
        if self.world.dice.random() < 0.2:
            self.follow()

    def _check_streams(self) -> None:
        slot = self.world.observer.slot
        record = self.replica.slots.records.get(slot)
        is_given_up = record is not None and record.state in (SlotState.PURGING, SlotState.GONE)
        if is_given_up and self.sink.open_in(slot):
            raise Violation(f"a stream of slot {slot} goes on in group {self.group}")

    def follow(self) -> None:
        """The follower applies what it lacks, in one batch."""
        self.follower.apply(self._committed)
        self._committed = []


class Seats:
    """All groups, and what joins them: calls that take time, fail, or are delivered once more."""

    def __init__(self, timeline: Timeline, dice: Random, loop: Loop, observer: Observer) -> None:
        self.timeline = timeline
        self.dice = dice
        self.loop = loop
        self.observer = observer
        self.calm = False
        self.seats: dict[int, Seat] = {}
        for group in (0, 1, 2):
            skew_ms = dice.choice((0, 0, -900_000, 900_000, 2_400_000, 7_200_000)) if group else 0
            self.seats[group] = Seat(self, group, skew_ms)

    def after(self, between_s: tuple[float, float], action: Callable[[], None]) -> None:
        self.loop.call_later(self.dice.uniform(*between_s), action)

    async def pause(self, duration_s: float) -> None:
        over = self.loop.create_future()
        self.loop.call_later(max(duration_s, 1e-6), lambda: over.done() or over.set_result(None))
        await over

    def leader(self, group: int) -> Replica:
        seat = self.seats[group]
        if not seat.up:
            raise Unavailable(f"group {group} has no leader")
        return seat.replica

    # cluster.moves.MoveGroups

    async def catalog(self) -> CatalogView:
        await self._travel()
        reading = self.leader(META_GROUP).barrier()
        if reading is not None:
            await reading
        view = self.leader(META_GROUP).catalog
        await self._travel()
        return view

    async def write_meta(self, work: Work, tag: RequestTag | None = None) -> Outcome:
        return await self.write(META_GROUP, work, tag)

    async def write(self, group: GroupId, work: Work, tag: RequestTag | None = None) -> Outcome:
        await self._travel()
        if not self.calm and tag is None and self.dice.random() < 0.1:
            self.after((0.01, 3.0), lambda: self._again(group, work))
        outcome = await self.leader(group).write(work, tag)
        await self._travel(done=True)
        return outcome

    def _again(self, group: GroupId, work: Work) -> None:
        """A copy that was under way for long."""
        if self.seats[group].up:
            self.seats[group].replica.write(work, None)

    async def slot(self, group: GroupId, slot: Slot) -> SlotRecord | None:
        await self._travel()
        record = await self.leader(group).slot(slot)
        await self._travel()
        return record

    async def image(
        self, group: GroupId, slot: Slot, epoch: int
    ) -> AsyncGenerator[SlotHead | SlotPiece]:
        await self._travel()
        seat = self.seats[group]
        replica = seat.follower if self.dice.random() < 0.3 else self.leader(group)
        term = seat.term
        async for part in image_stream(replica.slot_image(slot, epoch)):
            await self.pause(self.dice.uniform(0.0005, 0.02))
            if seat.term != term:
                raise Unavailable("the source went away")
            if isinstance(part, SlotHead) or self.calm or self.dice.random() > 0.02:
                yield part  # else a piece is lost on the way, and what follows does not fit

    async def purge(self, group: GroupId, slot: Slot, epoch: int, attempt: int | None) -> bool:
        await self._travel()
        keys_max = self.dice.choice((1, 30, 50_000))
        seat = self.leader(group)
        return await seat.purge_slot(slot, epoch, attempt=attempt, keys_max=keys_max)

    async def _travel(self, *, done: bool = False) -> None:
        await self.pause(self.dice.uniform(0.0001, 0.004))
        if not self.calm and self.dice.random() < 0.03:
            raise Indeterminate("lost") if done else Unavailable("lost")


def _fatal(error: KalamError) -> NoReturn:
    raise Violation(f"a member halted: {error}")
