"""One member: a process with its hub, groups and replicas, over a disk and stores that outlive it.

1. `start` opens what the disk and the stores hold, as a node does.
2. The hub's cycle runs as events: begin, the time of a sync, write, end.
3. `kill` ends the process between or within disk operations; `lose_power` then takes what no sync
   has secured: part of the log file's tail, the last batches of each store.

Keeps: code of a member runs under its own loop only, so a dead process does nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NoReturn, Protocol
from uuid import UUID

from cluster.raft.core import NEVER, Timings
from cluster.raft.group import Group
from cluster.raft.hub import Hub
from cluster.raft.wal import Batch, Wal
from kalamdb.decide.plan import Checks, no_checks
from kalamdb.errors import KalamError, Unavailable
from kalamdb.model.ids import GroupId
from kalamdb.ports import AppliedMark, LogEntry, LogMachine
from kalamdb.replica.replica import Replica
from kalamdb.store import image
from kalamdb.store.memory import MemoryStore
from tests.sim.disk import ProcessDied, SimDisk
from tests.sim.network import Network
from tests.sim.reference import GroupReference, Violation, check_store
from tests.sim.streams import StreamSink
from tests.sim.timeline import START_S, Life, Loop, Timeline

CYCLE_S = 0.00002
SLOW_SYNC_S = (0.01, 0.15)
SLOW_SYNC_SHARE = 0.02
SEGMENT_BYTES = 48 << 10
IMAGE_PIECE_KEYS = 40
FIRST_WALL_MS = 1_764_000_000_000  # an hour begins here


@dataclass(frozen=True, slots=True)
class World:
    """What all members share. `late` is the fault of a log that appends a payload too late;
    `on_lead` is told of a member that begins to lead a group.
    """

    timeline: Timeline
    dice: Random
    network: Network
    references: dict[int, GroupReference]
    members: dict[int, Member]
    faults: list[str]
    late: LateAppends
    timings: Timings
    checks: Checks = no_checks
    on_lead: Callable[[Member, int], None] = lambda member, group: None


class LateAppends(Protocol):
    """May keep an entry back when the log takes it, to append it under a later term."""

    def swap(self, group: int, node: int, term: int, payload: bytes | None) -> bytes | None: ...


class NodeClock:
    """A member's clocks: the wall clock is off by `skew_ms` and may jump."""

    def __init__(self, timeline: Timeline, wall_start_ms: int, skew_ms: int) -> None:
        self._timeline = timeline
        self._wall_start_ms = wall_start_ms
        self.skew_ms = skew_ms

    def wall_ms(self) -> int:
        passed_ms = int((self._timeline.now_s - START_S) * 1000)
        return self._wall_start_ms + passed_ms + self.skew_ms

    def monotonic_s(self) -> float:
        return self._timeline.now_s


class NodeIds:
    """Random bytes from the run's dice."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def token(self, size_bytes: int) -> bytes:
        return self._dice.randbytes(size_bytes)

    def uuid4(self) -> UUID:
        return UUID(bytes=self.token(16), version=4)


class WatchedMachine:
    """The `LogMachine` the log gets: the replica, with the observer's eyes on each call."""

    def __init__(self, member: Member, group: int, replica: Replica) -> None:
        self._member = member
        self._group = group
        self._replica: LogMachine = replica
        self._reference = member.world.references[group]

    def applied(self) -> AppliedMark:
        return self._replica.applied()

    def lead(self, term: int) -> None:
        self._reference.led(self._member.node, term)
        self._member.note(f"lead g{self._group} term {term}")
        self._replica.lead(term)
        self._member.world.on_lead(self._member, self._group)

    def resign(self, reason: str) -> None:
        self._member.note(f"resign g{self._group}: {reason}")
        self._replica.resign(reason)

    def take(self, term: int, size_max: int) -> bytes | None:
        payload = self._replica.take(term, size_max)
        late = self._member.world.late
        return late.swap(self._group, self._member.node, term, payload)

    def apply(self, entries: Sequence[LogEntry]) -> None:
        now_s = self._member.world.timeline.now_s
        for entry in entries:
            self._reference.saw(self._member.node, entry, now_s)
        last = entries[-1].index
        self._member.note(f"apply g{self._group} upto {last} term {entries[-1].term}")
        self._replica.apply(entries)
        mark = self._replica.applied()
        if mark.index != last:
            raise Violation(f"node {self._member.node} applied {last}, its mark is {mark}")

    async def image(self, source: int) -> AppliedMark:
        mark = await self._replica.image(source)
        self._member.images += 1
        self._member.note(f"image g{self._group} from {source} at {mark.index}")
        self._member.check_group(self._group)
        return mark


class Member:
    """See the module."""

    def __init__(self, world: World, node: int, groups: Sequence[int], clock: NodeClock) -> None:
        self.world = world
        self.node = node
        self.clock = clock
        self.disk = SimDisk(world.dice)
        self.stores = {group: MemoryStore(GroupId(group)) for group in groups}
        self.sync_s = (0.0001, 0.002)
        self.life = Life()
        self.life.ended = True
        self.hub: Hub | None = None
        self._batch: Batch | None = None
        self._batch_at_s = 0.0
        self.images = 0
        self.on_start: Callable[[Member], None] = _nothing
        self.replicas: dict[int, Replica] = {}
        self.groups: dict[int, Group] = {}
        self.sinks: dict[int, StreamSink] = {}
        world.network.join(node, self)

    # Process.

    @property
    def up(self) -> bool:
        return not self.life.ended

    @property
    def writing_s(self) -> float:
        """For how long a batch of its log is on the way to the disk by now; 0 without one."""
        return 0.0 if self._batch is None else self.world.timeline.now_s - self._batch_at_s

    def start(self) -> None:
        assert self.life.ended
        self.life = Life()
        self.loop = Loop(self.world.timeline, self.life, self.world.faults)
        self._woken = self._busy = False
        self._batch = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER
        self.note("start")
        self.loop.step(self._open)
        self.world.network.started(self.node)
        self._checkpoint_later()
        self.on_start(self)

    def _open(self) -> None:
        clock, ids = self.clock, NodeIds(self.world.dice)
        uuid = bytes([self.node]) * 16
        wal = Wal(self.disk, uuid, segment_bytes=SEGMENT_BYTES, fatal=_fatal_disk)
        hub = self.hub = Hub(self.node, wal, self, clock=clock, ids=ids, drive=self)
        voters = tuple(sorted(self.world.members))
        for number, store in self.stores.items():
            self.check_group(number)
            sink = self.sinks[number] = StreamSink()
            replica = Replica(
                store.group,
                store,
                sink,
                clock,
                checks=self.world.checks,
                pull_image=self._pull_image,
                fatal=_fatal,
            )
            machine = WatchedMachine(self, number, replica)
            group = hub.open(number, voters, machine, self.world.timings)
            replica.attach(group)
            self.replicas[number], self.groups[number] = replica, group
        self.wake()

    def kill(self) -> None:
        """kill -9: what was written stays, also when it was not synced."""
        assert self.up
        assert self.hub is not None
        self.note("kill")
        if self._batch is not None:
            self.disk.die_after(self.world.dice.randint(0, 3))
            with contextlib.suppress(ProcessDied):
                self.hub.write(self._batch)
            self.disk.die_after(None)
        self.life.ended = True
        self.hub = None
        for sink in self.sinks.values():
            sink.process_ended()
        self.replicas, self.groups, self.sinks = {}, {}, {}
        self.world.network.ended(self.node)

    def lose_power(self) -> None:
        """After `kill`: the machine went down with it."""
        self.note("lose power")
        self.disk.lose_power()
        for store in self.stores.values():
            store.crash(self.world.dice.randint(0, store.unsynced))

    def stop_for(self, duration_s: float) -> None:
        """SIGSTOP: everything waits, and goes on in the order it came."""
        self.note(f"stop for {duration_s:.2f}")
        until_s = self.world.timeline.now_s + duration_s
        self.life.stopped_until_s = max(self.life.stopped_until_s, until_s)

    def note(self, text: str) -> None:
        self.world.timeline.note(f"n{self.node} {text}")

    def check_group(self, group: int) -> None:
        """The store is what the log says at its index."""
        store = self.stores[group]
        pairs = store.scan(b"\x00", b"\xff")
        check_store(self.world.references[group], self.node, store.mark().index, pairs)

    # The hub's cycle.

    def wake(self) -> None:
        if not (self._woken or self._busy):
            self._woken = True
            self.loop.call_later(CYCLE_S, self._cycle)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.create_task(work).add_done_callback(_raise_fault)

    def _cycle(self) -> None:
        self._woken = False
        assert self.hub is not None
        self._busy = True  # what the cycle itself queues must not begin another one
        batch = self._batch = self.hub.cycle_begin()
        if batch is None:
            self._busy = False
            self._finish()
            return
        self._batch_at_s = self.world.timeline.now_s
        dice = self.world.dice
        sync_s = SLOW_SYNC_S if dice.random() < SLOW_SYNC_SHARE else self.sync_s
        self.loop.call_later(dice.uniform(*sync_s), self._written)

    def _written(self) -> None:
        assert self.hub is not None
        assert self._batch is not None
        self.hub.write(self._batch)
        self._busy, self._batch = False, None
        self._finish()

    def _finish(self) -> None:
        assert self.hub is not None
        if self.hub.cycle_end():
            self.wake()
        due_at_s = self.hub.due_at_s()
        if due_at_s == self._timer_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at_s = None, due_at_s
        if due_at_s != NEVER:
            at_s = max(due_at_s, self.world.timeline.now_s + 0.001)
            self._timer = self.loop.call_at(at_s, self._due)

    def _due(self) -> None:
        self._timer, self._timer_at_s = None, NEVER
        assert self.hub is not None
        self.hub.mark_due()
        self.wake()

    def _checkpoint_later(self) -> None:
        self.loop.call_later(self.world.dice.uniform(0.3, 1.5), self._checkpoint)

    def _checkpoint(self) -> None:
        """Some stores reach the disk; the log may then begin later."""
        for number, store in self.stores.items():
            if self.world.dice.random() < 0.7:
                store.sync()
            if number in self.groups:
                self.groups[number].compact_to(self.replicas[number].durable_index)
        self._checkpoint_later()

    # Network: `Link` for the hub, `End` for the network.

    def send(self, node: int, frame: bytes) -> bool:
        return self.world.network.send(self.node, node, frame)

    def link_up(self, peer: int) -> None:
        self.loop.call_soon(self._hub_hears, "connected", peer)

    def link_down(self, peer: int) -> None:
        self.loop.call_soon(self._hub_hears, "disconnected", peer)

    def link_frame(self, peer: int, frame: bytes) -> None:
        self.loop.call_soon(self._hub_hears, "receive", peer, frame)

    def _hub_hears(self, what: str, *values: Any) -> None:
        assert self.hub is not None
        match what:
            case "connected":
                self.hub.connected(*values)
            case "disconnected":
                self.hub.disconnected(*values)
            case _:
                assert self.hub.receive(*values), "a frame could not be read"

    # Images.

    async def pause(self, duration_s: float) -> None:
        over = self.loop.create_future()
        self.loop.call_later(duration_s, _end_pause, over)
        await over

    async def _pull_image(self, group: GroupId, source: int) -> AsyncIterator[image.Pairs]:
        """Piece by piece from the member `source`, which may die or become unreachable
        meanwhile.
        """
        dice, network = self.world.dice, self.world.network
        there = self.world.members[source]
        life = there.life
        await self.pause(dice.uniform(0.001, 0.02))
        if not network.reaches(self.node, source) or not there.up:
            raise Unavailable(f"node {source} cannot be reached")
        for pairs in list(there.replicas[group].image_chunks()):
            for at in range(0, len(pairs), IMAGE_PIECE_KEYS):
                await self.pause(dice.uniform(0.0005, 0.01))
                if not network.reaches(self.node, source) or life.ended:
                    raise Unavailable(f"node {source} went away")
                yield pairs[at : at + IMAGE_PIECE_KEYS]


def _end_pause(over: asyncio.Future[None]) -> None:
    if not over.done():  # who waits may have been cancelled
        over.set_result(None)


def _nothing(member: Member) -> None:
    pass


def _raise_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        error = task.exception()
        if error is not None:
            raise error


def _fatal(error: KalamError) -> NoReturn:
    raise Violation(f"a member halted: {error}")


def _fatal_disk(error: OSError) -> None:
    raise Violation(f"the log could not be written: {error}")
