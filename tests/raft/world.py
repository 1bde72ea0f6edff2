"""A whole cluster of hubs in one thread: virtual clock, FIFO network, a disk that loses unsynced
bytes.

One seed is one run. Checked all the time: one leader a term, one entry an index on every member
for ever, applied in order and durable, `lead`/`take`/`resign` in order. Checked by `settle`: all
members equal, every acknowledged write there once.
"""

from __future__ import annotations

import contextlib
import heapq
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from cluster.raft.core import NEVER, Timings
from cluster.raft.group import Group
from cluster.raft.hub import Hub
from cluster.raft.wal import Batch, Wal
from kalamdb.errors import Unavailable
from kalamdb.ports import AppliedMark, LogEntry
from tests.raft.asking import Ask, WorldLoop, step

SECTOR = 512


class Crash(Exception):
    """The machine stops here."""


class ModelDisk:
    """`Disk` in RAM. What was appended after the last sync is lost in part by `lose_power`."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.synced: dict[str, int] = {}
        self.before: Callable[[str], None] = lambda operation: None

    def list(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name])

    def create(self, name: str, data: bytes) -> None:
        self.before("create")
        assert name not in self.files
        self.files[name] = bytearray(data)
        self.synced[name] = len(data)

    def append(self, name: str, data: bytes) -> None:
        self.before("append")
        self.files[name] += data

    def sync(self, name: str) -> None:
        self.before("sync")
        self.synced[name] = len(self.files[name])

    def delete(self, name: str) -> None:
        self.before("delete")
        del self.files[name]

    def lose_power(self, dice: Random) -> None:
        """Each sector after the synced end is written or not, on its own; the end may be cut."""
        for name, data in self.files.items():
            start = self.synced[name]
            if len(data) == start:
                continue
            end = dice.randint(start, len(data)) if dice.random() < 0.5 else len(data)
            del data[end:]
            for at in range(start - start % SECTOR, end, SECTOR):
                if dice.random() < 0.4:
                    low, high = max(at, start), min(at + SECTOR, end)
                    data[low:high] = bytes(high - low)


@types.coroutine
def pause(duration_s: float) -> Generator[float, None, None]:
    yield duration_s


class Machine:
    """A list of payloads. Its store survives kill -9; a power cut sets it back to what was
    synced.
    """

    def __init__(self, world: World, node: int, gid: int) -> None:
        self.world, self.node, self.gid = world, node, gid
        self.mark = self.synced_mark = AppliedMark(0, 0)
        self.rows: list[tuple[int, bytes]] = []
        self.begin()

    def begin(self) -> None:
        self.queue: list[bytes] = []
        self.term: int | None = None
        self.open: dict[bytes, None] = {}
        self.images = 0

    def lose_power(self) -> None:
        self.mark = self.synced_mark
        self.rows = [row for row in self.rows if row[0] <= self.mark.index]

    def write(self, payload: bytes) -> None:
        self.queue.append(payload)
        self.world.nodes[self.node].group(self.gid).kick()

    def applied(self) -> AppliedMark:
        return self.mark

    def lead(self, term: int) -> None:
        assert self.term is None
        self.term = term
        first = self.world.leaders.setdefault((self.gid, term), self.node)
        assert first == self.node, f"two leaders in term {term}"
        self.world.led += 1

    def resign(self, reason: str) -> None:
        assert self.term is not None
        self.term = None
        self.open.clear()
        self.world.resigned.append(reason)

    def take(self, term: int, size_max: int) -> bytes | None:
        assert term == self.term
        if not self.queue:
            return None
        payload = self.queue.pop(0)
        self.open[payload] = None
        return payload

    def apply(self, entries: Sequence[LogEntry]) -> None:
        group = self.world.nodes[self.node].group(self.gid)
        assert entries[-1].index <= group.journal.durable_index
        for entry in entries:
            assert entry.index == max(1, self.mark.index) + 1, (entry.index, self.mark)
            said = (entry.term, entry.payload)
            known = self.world.history.setdefault((self.gid, entry.index), said)
            assert known == said, f"entry {entry.index} differs: {known} {said}"
            self.mark = AppliedMark(entry.index, entry.term)
            if entry.payload:
                self.rows.append((entry.index, entry.payload))
            if entry.payload in self.open and entry.term == self.term:
                del self.open[entry.payload]
                self.world.acked[(self.gid, entry.payload)] = entry.index

    async def image(self, source: int) -> AppliedMark:
        await pause(self.world.dice.uniform(0.01, self.world.image_s_max))
        there = self.world.nodes[source]
        if there.hub is None or (source, self.node) in self.world.cut:
            raise Unavailable(reason="source is gone")
        other = there.machines[self.gid]
        await pause(0.01)
        self.rows, self.mark = list(other.rows), other.mark
        self.synced_mark = self.mark
        self.images += 1
        self.world.images += 1
        return self.mark


@dataclass(slots=True)
class Node:
    """One process: its disk and stores outlive `hub`."""

    id: int
    disk: ModelDisk
    machines: dict[int, Machine]
    hub: Hub | None = None
    groups: dict[int, Group] = field(default_factory=dict)
    life: int = 0
    woken: bool = False
    batch: Batch | None = None
    busy: bool = False
    down_until_s: float = 0.0

    def group(self, gid: int = 0) -> Group:
        return self.groups[gid]


class NodeDrive:
    """Drive and Link of one life of a node."""

    def __init__(self, world: World, node: Node) -> None:
        self.world, self.node, self.life = world, node, node.life

    def wake(self) -> None:
        if not self.node.woken and not self.node.busy:
            self.node.woken = True
            self.world.at(self.world.now_s + 1e-5, lambda: self.world.cycle(self.node, self.life))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.resume(work)

    def resume(self, work: Coroutine[Any, Any, None]) -> None:
        if self.node.life != self.life:
            work.close()
            return
        try:
            delay_s = work.send(None)
        except StopIteration:
            return
        self.world.at(self.world.now_s + delay_s, lambda: self.resume(work))

    def send(self, node: int, frame: bytes) -> bool:
        return self.world.send(self.node.id, node, frame)


class World:
    """See the module. `nodes` are 1..n, each a voter of every group."""

    def __init__(
        self,
        seed: int,
        *,
        size: int = 3,
        groups: int = 1,
        timings: Timings | None = None,
        segment_bytes: int = 64 << 20,
    ) -> None:
        self.dice = Random(seed)
        self.now_s = 1000.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.timings = timings or Timings()
        self.segment_bytes = segment_bytes
        self.lag_s = (0.0005, 0.005)
        self.sync_s = (0.0002, 0.003)
        self.image_s_max = 0.2
        self.cut: set[tuple[int, int]] = set()
        self.linked: dict[tuple[int, int], int] = {}  # pair -> epoch
        self.epoch = 0
        self.last_at_s: dict[tuple[int, int], float] = {}
        self.leaders: dict[tuple[int, int], int] = {}
        self.history: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.acked: dict[tuple[int, bytes], int] = {}
        self.resigned: list[str] = []
        self.images = self.led = self.written = 0
        self.loop = WorldLoop(self)
        self.voters = tuple(range(1, size + 1))
        self.gids = tuple(range(groups))
        self.nodes: dict[int, Node] = {}
        for voter in self.voters:
            machines = {gid: Machine(self, voter, gid) for gid in self.gids}
            self.nodes[voter] = Node(voter, ModelDisk(), machines)
        for voter in self.voters:
            self.start(voter)

    # Clock and Ids.

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    def token(self, size_bytes: int) -> bytes:
        return self.dice.randbytes(size_bytes)

    def uuid4(self) -> UUID:
        return UUID(bytes=self.token(16), version=4)

    # Time.

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (time_s, self.count, event))

    def run(self, duration_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; True as soon as `until` holds."""
        end_s = self.now_s + duration_s
        while not until():
            due = [
                node.hub.due_at_s()
                for node in self.nodes.values()
                if node.hub is not None and not node.busy and not node.woken
            ]
            next_s = min([*due, self.events[0][0] if self.events else NEVER])
            if next_s > end_s:
                self.now_s = max(self.now_s, end_s)
                return until()
            self.now_s = max(self.now_s + 1e-6, next_s)
            for node in self.nodes.values():
                if node.hub is not None and not node.busy and not node.woken:
                    node.hub.mark_due()
                    if node.hub.pending:
                        NodeDrive(self, node).wake()
            while self.events and self.events[0][0] <= self.now_s:
                heapq.heappop(self.events)[2]()
        return True

    # Processes.

    def start(self, id: int) -> None:
        node = self.nodes[id]
        assert node.hub is None
        node.life += 1
        node.woken = node.busy = False
        node.batch = None
        drive = NodeDrive(self, node)
        wal = Wal(
            node.disk, bytes([id]) * 16, segment_bytes=self.segment_bytes, fatal=lambda error: None
        )
        node.hub = Hub(id, wal, drive, clock=self, ids=self, drive=drive)
        for gid, machine in node.machines.items():
            machine.begin()
            node.groups[gid] = self.open(node.hub, gid, machine)
        for other in self.voters:
            self.connect(id, other)

    def open(self, hub: Hub, gid: int, machine: Machine) -> Group:
        return hub.open(gid, self.voters, machine, self.timings)

    def stop(self, id: int, *, power: bool = False) -> None:
        """kill -9, or a power cut."""
        node = self.nodes[id]
        self.die_writing(node)
        for other in self.voters:
            self.disconnect(id, other)
        node.hub = None
        node.groups = {}
        node.life += 1
        if power:
            node.disk.lose_power(self.dice)
            for machine in node.machines.values():
                machine.lose_power()

    def cycle(self, node: Node, life: int) -> None:
        if node.life != life or node.hub is None:
            return
        node.woken, node.busy = False, True
        node.batch = node.hub.cycle_begin()
        if node.batch is None:
            self.finish(node, life)
            return
        self.at(self.now_s + self.dice.uniform(*self.sync_s), lambda: self.finish(node, life))

    def die_writing(self, node: Node) -> None:
        """The process ends while a batch is on its way to the disk."""
        if node.hub is None or node.batch is None:
            return
        node.disk.before = self.dying(node)
        with contextlib.suppress(Crash):
            node.hub.write(node.batch)
        node.disk.before = _alive

    def dying(self, node: Node) -> Callable[[str], None]:
        left = self.dice.randint(0, 3)

        def before(operation: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        return before

    def revive(self, id: int) -> None:
        if self.nodes[id].hub is None:
            self.start(id)

    def finish(self, node: Node, life: int) -> None:
        if node.life != life or node.hub is None:
            return
        if node.batch is not None:
            node.hub.write(node.batch)
            node.batch = None
        again = node.hub.cycle_end()
        node.busy = False
        if again:
            NodeDrive(self, node).wake()

    # Network.

    def send(self, source: int, target: int, frame: bytes) -> bool:
        pair = (source, target)
        epoch = self.linked.get(pair)
        if epoch is None:
            return False
        if pair in self.cut:
            return True  # bytes into a black hole
        at_s = self.now_s + self.dice.uniform(*self.lag_s)
        at_s = max(at_s, self.last_at_s.get(pair, 0.0) + 1e-7)
        self.last_at_s[pair] = at_s

        def arrive() -> None:
            there = self.nodes[target]
            if self.linked.get(pair) == epoch and there.hub is not None and pair not in self.cut:
                assert there.hub.receive(source, frame)

        self.at(at_s, arrive)
        return True

    def connect(self, a: int, b: int) -> None:
        there, here = self.nodes[a].hub, self.nodes[b].hub
        if a == b or there is None or here is None or (a, b) in self.linked:
            return
        self.epoch += 1
        self.linked[(a, b)] = self.linked[(b, a)] = self.epoch
        there.connected(b)
        here.connected(a)

    def disconnect(self, a: int, b: int) -> None:
        if self.linked.pop((a, b), None) is None:
            return
        del self.linked[(b, a)]
        for x, y in ((a, b), (b, a)):
            hub = self.nodes[x].hub
            if hub is not None:
                hub.disconnected(y)

    def reset(self, a: int, b: int) -> None:
        """A TCP reset: what is in flight is lost, both ends know, the link comes back."""
        self.disconnect(a, b)
        self.connect(a, b)

    def isolate(self, id: int) -> None:
        for other in self.voters:
            if other != id:
                self.cut |= {(id, other), (other, id)}

    def heal(self) -> None:
        self.cut.clear()
        for a in self.voters:
            for b in self.voters:
                if a < b:
                    self.reset(a, b)

    # Asking a group for what takes time.

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        return step(self.loop, action, args)

    def hand_over(self, id: int, peer: int) -> Ask:
        return Ask(self, self.nodes[id].group().hand_over, (peer,))

    # Looking.

    def leader(self, gid: int = 0) -> int | None:
        """The node that leads in the highest term and is ready."""
        best: tuple[int, int] | None = None
        for node in self.nodes.values():
            if node.hub is not None and node.group(gid).ready:
                best = max(best or (0, 0), (node.group(gid).status().term, node.id))
        return best[1] if best else None

    def write(self, count: int = 1, *, gid: int = 0, size_bytes: int = 8) -> None:
        """Queue writes at the leader."""
        id = self.leader(gid)
        assert id is not None
        for _ in range(count):
            self.written += 1
            payload = self.written.to_bytes(8, "big").ljust(size_bytes, b".")
            self.nodes[id].machines[gid].write(payload)

    def wait_leader(self, gid: int = 0, duration_s: float = 10.0) -> int:
        assert self.run(duration_s, lambda: self.leader(gid) is not None)
        id = self.leader(gid)
        assert id is not None
        return id

    def wait_acked(self, count: int, duration_s: float = 10.0) -> None:
        assert self.run(duration_s, lambda: len(self.acked) >= count), len(self.acked)

    def equal(self) -> bool:
        for gid in self.gids:
            id = self.leader(gid)
            if id is None:
                return False
            last = self.nodes[id].group(gid).journal.last_index
            for node in self.nodes.values():
                if node.hub is None or node.machines[gid].mark.index != last:
                    return False
        return True

    def settle(self, duration_s: float = 30.0) -> float:
        """Heal all; seconds until all members are equal. Asserts that nothing acknowledged is
        lost.
        """
        for id in self.voters:
            self.revive(id)
        self.heal()
        start_s = self.now_s
        assert self.run(duration_s, self.equal), [
            (node.id, node.group(gid).status()) for node in self.nodes.values() for gid in self.gids
        ]
        for gid in self.gids:
            rows = [node.machines[gid].rows for node in self.nodes.values()]
            assert all(row == rows[0] for row in rows)
            payloads = [payload for _, payload in rows[0]]
            assert len(payloads) == len(set(payloads))
            lost = {payload for at, payload in self.acked if at == gid} - set(payloads)
            assert not lost, f"{len(lost)} acknowledged writes lost"
        return self.now_s - start_s


def _alive(operation: str) -> None:
    pass
