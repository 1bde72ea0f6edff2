"""The hub: all groups of a node, their shared log, their links, and the cycle that ties them.

A cycle, in this order:
1. `cycle_begin`: tick the groups with something to do; close the log buffer and the outboxes; send
   entries of groups that lead.
2. `write` the batch (a thread, or inline): fdatasync.
3. `cycle_end`: raise durable indexes, send what step 1 closed, apply what became durable.

Whatever arrives during 2 goes into the next cycle: group commit without a timer.

Keeps:
- What was produced in a cycle leaves only after the log records of that cycle are on disk; but for
  a leader's entries, which the others may have first: it is not counted for them until it has them.
- One cycle at a time. Everything but `write` runs on one thread.
- No timer while nothing is due: a sole voter at rest wakes nobody.
- A peer that does not drain its outbox is treated as disconnected; so is one whose frames are not
  frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.raft.audit import audit_installed
from cluster.raft.core import NEVER, Timings, use_clock
from cluster.raft.group import Group
from cluster.raft.members import Base, founding
from cluster.raft.wal import Batch, Wal, WalStatistics
from cluster.raft.wire import (
    FRAME_BYTES_MAX,
    Message,
    decode_frame,
    decode_message,
    encode_frame,
    encode_message,
)
from kalamdb.errors import Unavailable
from kalamdb.lib.clock import Clock, Ids
from kalamdb.ports import LogMachine

GROUPS_MAX = 64
OUTBOX_BYTES_MAX = 32 << 20
CYCLE_S_MAX = 0.02
HEARTBEAT_SLACK_S = 0.05  # groups whose heartbeats are this near share one wake-up and one frame
LOG_AGAIN_BYTES_MAX = 16 << 20


class Link(Protocol):
    """Carries frames to peers. Order is kept; a lost frame shows as a disconnect."""

    def send(self, node: int, frame: bytes) -> bool:
        """False: not connected, or its buffer is full. Then call `Hub.connected` when it can go
        on.
        """
        ...


class Drive(Protocol):
    """Runs the hub: cycles soon after `wake`, and what groups start in the background."""

    def wake(self) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...


@dataclass(slots=True)
class _Outbox:
    """`early`: what need not wait for this node's disk."""

    early: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    messages: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HubStatistics:
    cycles: int
    frames_sent: int
    messages_dropped: int
    overflows: int
    wal: WalStatistics


class Hub:
    """See the module."""

    def __init__(
        self, node: int, wal: Wal, link: Link, *, clock: Clock, ids: Ids, drive: Drive
    ) -> None:
        audit_installed()
        use_clock(clock.monotonic_s)
        self._node = node
        self._wal = wal
        self._link = link
        self._clock = clock
        self._ids = ids
        self._drive = drive
        self._groups: dict[int, Group] = {}
        self._dirty: dict[int, None] = {}  # ordered, so that runs can be repeated
        self._outboxes: dict[int, _Outbox] = {}  # one for each connected peer
        self._closing: dict[int, _Outbox] = {}
        self._overflowed: list[int] = []
        self._logged: list[int] = []  # groups with records in the batch that is being written
        self._about: dict[int, None] = {}  # groups that the cycle has something to do with
        self._in_cycle = False
        self._unsynced: list[asyncio.Future[None]] = []  # wait for the next cycle's batch
        self._syncing: list[asyncio.Future[None]] = []  # wait for this cycle's
        self._cycles = self._frames = self._dropped = self._overflows = 0

    def open(
        self,
        gid: int,
        voters: tuple[int, ...],
        machine: LogMachine,
        timings: Timings | None = None,
        *,
        joining: bool = False,
    ) -> Group:
        """Add a group. A sole voter leads after the first cycle.

        The log says who the members are; only of a group it has never heard of it is asked here:
        `voters` found a new group. `joining`, or voters without this node: it begins with nothing,
        learns the members from their leader, and neither votes nor counts until it was promoted.
        A node whose disk is new must join.
        Raises: Corruption when the machine's state and the log don't meet.
        """
        assert gid not in self._groups
        assert len(self._groups) < GROUPS_MAX

        def begin() -> Base:
            joins = joining or self._node not in voters
            life = (int.from_bytes(self._ids.token(8), "big") >> 2 | 1) if joins else 0
            return founding(self._node, voters, joining=joins, life=life)

        group = Group(
            self,
            self._wal,
            machine,
            gid=gid,
            node=self._node,
            founding=begin,
            timings=timings or Timings(),
        )
        self._groups[gid] = group
        for peer in self._outboxes:
            group.guard.connected(peer)
        self.kick(gid)
        return group

    def close_group(self, gid: int) -> None:
        """This node is no member any more: the log forgets the group, also one that is not open.
        Opened again, it joins with nothing.

        The machine's state may go once `wait_synced` has resolved: a log without its state is
        corruption at the next start.
        Raises: Unavailable while it installs an image: the machine's state is being replaced.
        """
        group = self._groups.get(gid)
        if group is not None:
            if group.guard.installing:
                raise Unavailable(f"group {gid} is installing an image")
            group.stop("the group leaves this node")
            del self._groups[gid]
            self._dirty.pop(gid, None)
        if group is not None or gid in self._wal.unopened():
            self._wal.forget(gid)
            self._drive.wake()

    def wait_synced(self) -> asyncio.Future[None]:
        """Resolves when all that the log has been told so far is on disk."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsynced.append(waiter)
        self._drive.wake()
        return waiter

    def unopened(self) -> list[int]:
        """Groups in the log that were not opened since the start; they hold its oldest parts."""
        return self._wal.unopened()

    # Links.

    def connected(self, peer: int) -> None:
        if peer in self._outboxes:
            self.disconnected(peer)
        self._outboxes[peer] = _Outbox()
        for group in self._groups.values():
            group.guard.connected(peer)
            self.kick(group.gid)

    def disconnected(self, peer: int) -> None:
        if self._outboxes.pop(peer, None) is None:
            return
        for group in self._groups.values():
            group.guard.disconnected(peer)

    def receive(self, peer: int, frame: bytes) -> bool:
        """Hear a frame. False: it is none, the link should close."""
        messages = decode_frame(frame)
        if messages is None:
            self._dropped += 1
            return False
        if peer not in self._outboxes:
            return True  # of a link that has broken
        for gid, data in messages:
            group = self._groups.get(gid)
            message = decode_message(data)
            if group is None or message is None:
                self._dropped += 1
                continue
            if group.deliver(peer, message):
                self._dirty[gid] = None
        self._drive.wake()
        return True

    # What groups ask.

    def now_s(self) -> float:
        return self._clock.monotonic_s()

    def dice(self) -> float:
        """A number in [0, 1), for election timeouts."""
        return int.from_bytes(self._ids.token(4), "big") / 2**32

    def kick(self, gid: int) -> None:
        self._dirty[gid] = None
        self._drive.wake()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._drive.spawn(work)

    def post(self, peer: int, gid: int, message: Message, *, early: bool = False) -> bool:
        """Queue a message; it leaves when this cycle's log records are on disk, or `early`, before
        they are. False: the peer is not connected.
        """
        outbox = self._outboxes.get(peer)
        if outbox is None:
            return False
        data = encode_message(message)
        outbox.size_bytes += len(data) + 8
        (outbox.early if early else outbox.messages).append((gid, data))
        if outbox.size_bytes > OUTBOX_BYTES_MAX:
            self._overflows += 1
            self._overflowed.append(peer)
            self.disconnected(peer)
            return False
        self._drive.wake()
        return True

    # The cycle.

    @property
    def pending(self) -> bool:
        """A cycle would do something."""
        if self._dirty or self._wal.dirty or self._overflowed or self._unsynced:
            return True
        return any(outbox.messages or outbox.early for outbox in self._outboxes.values())

    def mark_due(self) -> None:
        """Put groups whose timers are due, or soon will be, into the next cycle."""
        now_s = self._clock.monotonic_s()
        due_s = {gid: group.due_at_s() for gid, group in self._groups.items()}
        if min(due_s.values(), default=NEVER) <= now_s:
            for gid, at_s in due_s.items():
                if at_s <= now_s + HEARTBEAT_SLACK_S:
                    self._dirty[gid] = None

    def due_at_s(self) -> float:
        """When `mark_due` should be called next; infinite when no timer runs."""
        return min((group.due_at_s() for group in self._groups.values()), default=NEVER)

    def cycle_begin(self) -> Batch | None:
        """Step 1. The batch to `write` before `cycle_end`, or None when there is nothing to
        write.
        """
        assert not self._in_cycle
        self._in_cycle = True
        self._cycles += 1
        until_s = self._clock.monotonic_s() + CYCLE_S_MAX
        dirty, self._dirty = list(self._dirty), {}
        ticked = 0
        while ticked < len(dirty) and self._clock.monotonic_s() <= until_s:
            group = self._groups.get(dirty[ticked])
            if group is not None:
                group.tick(HEARTBEAT_SLACK_S)
            ticked += 1
        # Those left over come first in the next cycle.
        self._dirty = dict.fromkeys(dirty[ticked:]) | self._dirty
        for gid in self._wal.pinning():
            if gid in self._groups:
                journal = self._groups[gid].journal
                if journal.size_bytes <= LOG_AGAIN_BYTES_MAX:
                    journal.log_again()
        batch = self._wal.take()
        self._syncing, self._unsynced = self._unsynced, []
        logged = () if batch is None else batch.groups
        self._logged = [gid for gid in logged if gid in self._groups]
        for gid in self._logged:
            self._groups[gid].journal.mark_taken()
        self._about = dict.fromkeys((*dirty[:ticked], *self._logged))
        self._closing = self._outboxes
        self._outboxes = {peer: _Outbox() for peer in self._closing}
        for peer, outbox in self._closing.items():
            if outbox.early and peer in self._outboxes:
                self._flush(peer, outbox.early)
        return batch

    def write(self, batch: Batch) -> None:
        """Step 2, on any thread. Does not return when the disk fails."""
        self._wal.write(batch)

    def cycle_end(self) -> bool:
        """Step 3. True when another cycle has something to do."""
        assert self._in_cycle
        for gid in self._logged:
            if gid in self._groups:
                self._groups[gid].journal.mark_synced()
        syncing, self._syncing = self._syncing, []
        for waiter in syncing:
            if not waiter.done():
                waiter.set_result(None)
        closing, self._closing = self._closing, {}
        for peer, outbox in closing.items():
            if outbox.messages and peer in self._outboxes:
                self._flush(peer, outbox.messages)
        overflowed, self._overflowed = self._overflowed, []
        for peer in overflowed:
            self.connected(peer)
        until_s = self._clock.monotonic_s() + CYCLE_S_MAX
        for gid in self._about:
            group = self._groups.get(gid)
            if group is None:
                continue
            if self._clock.monotonic_s() > until_s:
                self._dirty[gid] = None
            else:
                group.synced()
        self._in_cycle = False
        return self.pending

    def _flush(self, peer: int, messages: list[tuple[int, bytes]]) -> None:
        start = size = 0
        for end, (_, data) in enumerate(messages):
            if size + len(data) > FRAME_BYTES_MAX - (64 << 10) and end > start:
                if not self._send(peer, messages[start:end]):
                    return
                start, size = end, 0
            size += len(data) + 8
        self._send(peer, messages[start:])

    def _send(self, peer: int, messages: list[tuple[int, bytes]]) -> bool:
        self._frames += 1
        if self._link.send(peer, encode_frame(messages)):
            return True
        self.disconnected(peer)
        return False

    def stop(self, reason: str) -> None:
        """End all leaderships; nothing is ticked afterwards."""
        for group in self._groups.values():
            group.stop(reason)
        self._dirty.clear()

    def statistics(self) -> HubStatistics:
        return HubStatistics(
            self._cycles, self._frames, self._dropped, self._overflows, self._wal.statistics()
        )
