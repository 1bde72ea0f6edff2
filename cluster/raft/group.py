"""One Raft group on one node: the `Log` port over a `LogMachine`.

Main flow of a write at the leader:
1. `kick` marks the group for the next cycle.
2. `tick` lets pysyncobj do its timers and commits, then *pulls* entries from the machine and
   appends them in the same step, so an entry is in the log of the very term it was decided in.
3. The cycle puts the log on disk, then sends; `synced` tells the group how far its own log is
   durable.
4. `apply_ready` hands committed and durable entries to the machine, in order, bounded by bytes.

Keeps:
- `lead(term)` once per leadership, after this node's own no-op is applied; `resign` before
  anything else happens once leadership is lost; `take` only in between.
- Nothing is applied that is not on this node's disk: a sole voter commits without asking anybody,
  and a store that is synced by chance must not be ahead of the log.
- No callback waits inside pysyncobj: the machine answers its own waiters in `apply` and `resign`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.raft.core import NEVER, RAW, Core, Timings
from cluster.raft.handover import HandOver
from cluster.raft.journal import GroupJournal
from cluster.raft.members import Base, MemberChange, MemberProgress, Members
from cluster.raft.membership import Membership
from cluster.raft.transport import Guard
from cluster.raft.wal import Wal
from cluster.raft.wire import Accept, Append, Message
from kalamdb.errors import Conflict, Corruption, InvalidInput, KalamError, NotLeader, Unavailable
from kalamdb.ports import LogEntry, LogMachine, LogStatus

ENTRY_BYTES_MAX = 1 << 20
PULL_BYTES_MAX = 4 << 20  # appended in one tick
UNCOMMITTED_BYTES_MAX = 16 << 20  # then `take` waits for the followers
APPLY_BYTES_MAX = 4 << 20  # applied in one tick

log = logging.getLogger(__name__)


class GroupHub(Protocol):
    """What a group asks of its hub."""

    def now_s(self) -> float: ...

    def dice(self) -> float: ...

    def post(self, peer: int, gid: int, message: Message, *, early: bool = False) -> bool: ...

    def kick(self, gid: int) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...


@dataclass(slots=True)
class _ReadRound:
    """Readers that share one confirmation. `number` is None until it was sent."""

    index: int
    readers: list[asyncio.Future[int]] = field(default_factory=list["asyncio.Future[int]"])
    number: int | None = None


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    appended: int
    applied: int
    dropped: int
    log_bytes: int


class Group:
    """See the module. Implements `kalamdb.ports.Log`."""

    def __init__(
        self,
        hub: GroupHub,
        wal: Wal,
        machine: LogMachine,
        *,
        gid: int,
        node: int,
        founding: Callable[[], Base],
        timings: Timings,
    ) -> None:
        self.gid = gid
        self._hub = hub
        self._machine = machine
        self._node = node
        self._led: int | None = None  # the term the machine was told to lead in
        self._read_rounds: list[_ReadRound] = []
        self._uncommitted_bytes = 0
        self._core_due_s = 0.0
        self._full = False  # what was appended is to be agreed on before more is
        self._confirmed_at_s = float("-inf")  # when it led last: by a majority
        self._appended = self._applied = 0
        self.halted = False
        mark = machine.applied()
        self.journal = GroupJournal(wal, gid, mark.index, node=node, founding=founding)
        self._resume_at(mark.index, mark.term)
        self._guards: list[Guard] = []
        self._core = Core(self, self.journal, self._make_guard, node=node, timings=timings)
        self.guard = self._guards[0]
        self.journal.on_members = self.guard.members_changed
        self._hand = HandOver(self, self._core, self.guard)
        self._membership = Membership(self, self._core, self.guard, timings)

    def _make_guard(self, core: Core) -> Guard:
        self._guards.append(Guard(self, core, core.timings))
        return self._guards[0]

    def _resume_at(self, index: int, term: int) -> None:
        """Let the log begin where the machine's state ends, if a crash came between the two."""
        journal = self.journal
        if max(1, index) < journal.base_index:
            detail = f"state is as of entry {index}, the log starts after {journal.base_index}"
            raise Corruption(path=f"group {self.gid}", offset=index, detail=detail)
        if index > 1 and journal.term_at(index) != term:
            journal.reset(index, term)  # an image was installed, its log record was not written

    # The Log port.

    def kick(self) -> None:
        self._hub.kick(self.gid)

    def read_index(self) -> Awaitable[int] | None:
        if not self.ready:
            raise Unavailable(reason=f"group {self.gid} is not led by this node")
        if self.journal.members.sole:
            return None
        rounds = self._read_rounds
        if not rounds or rounds[-1].number is not None:
            rounds.append(_ReadRound(self._core.commit_index()))
            self.kick()
        reader: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        rounds[-1].readers.append(reader)
        return reader

    def status(self) -> LogStatus:
        core, journal = self._core, self.journal
        roster, role = journal.members.roster, core.role()
        if not journal.members.counts and role == "follower":
            role = "learner"
        return LogStatus(
            group=self.gid,
            node=self._node,
            role=role,
            term=core.term(),
            leader=core.leader(),
            commit_index=min(core.commit_index(), journal.durable_index),
            applied_index=core.applied_index(),
            first_index=journal.base_index + 1,
            last_index=journal.last_index,
            voters=roster.voters,
            learners=roster.learners,
        )

    # The owner's controls.

    def leader(self) -> int | None:
        """Who leads, as far as this member knows."""
        return self._core.leader()

    @property
    def outside(self) -> bool:
        """This node is no member any more, or has not heard yet that it is one."""
        members = self.journal.members
        return self.removed or not members.known or self._node not in members.roster.nodes

    @property
    def ready(self) -> bool:
        """This node leads and has applied all that was committed before it did."""
        return self._led is not None

    @property
    def commit_index(self) -> int:
        return self._core.commit_index()

    def compact_to(self, index: int) -> None:
        """The machine's state up to `index` is durable: entries up to there may be dropped.

        Some are kept for members that restart (journal.KEEP_ENTRIES, KEEP_BYTES).
        """
        self.journal.compact_to(min(index, self._core.applied_index()))

    def hand_over(self, peer: int) -> asyncio.Future[None]:
        """Let `peer` lead; resolves when this node follows it (handover.py).

        Raises: NotLeader, Conflict (a hand-over or a change of members is under way), InvalidInput
        (no other voter). The future: Unavailable, nothing has changed or another node leads.
        """
        self._expect_leader()
        if peer == self._node or peer not in self.journal.members.roster.voters:
            raise InvalidInput(f"node {peer} is not another voter of group {self.gid}")
        self._expect_quiet()
        return self._hand.begin(peer)

    def propose_members(self, change: MemberChange) -> asyncio.Future[Members]:
        """Append a change of members; resolves when it is committed (membership.py).

        Raises: NotLeader, Conflict (another one, or a hand-over, is under way), InvalidInput (it
        does not fit the members), LimitReached, Unavailable (a learner has not caught up; no
        majority would answer): nothing was done. The future: Indeterminate.
        """
        self._expect_leader()
        self._expect_quiet()
        return self._membership.propose(change)

    def _expect_leader(self) -> None:
        if not self.ready:
            raise NotLeader(self.gid, self._core.leader())

    def _expect_quiet(self) -> None:
        if self._hand.busy or not self.journal.members.counts:
            raise Conflict(f"leadership of group {self.gid} is being handed over")

    def members(self) -> Members:
        return self._membership.members()

    def progress(self) -> tuple[MemberProgress, ...]:
        """Of every other member, as the leader knows it; empty at others."""
        return self._membership.progress()

    @property
    def removed(self) -> bool:
        """A member said that this node is none any more; the group may be closed here."""
        return self.guard.elections.removed

    def heard_age_s(self) -> float:
        """Seconds since this node was in touch with a leader that has a majority: a leader since
        a majority answered last, others since they heard from the leader; infinite for never.
        """
        now_s = self.now_s()
        if self._core.leads():
            return now_s - self.guard.majority_at_s(self.journal.members.roster)
        return now_s - max(self.guard.elections.heard_at_s, self._confirmed_at_s)

    def statistics(self) -> GroupStatistics:
        return GroupStatistics(
            self._appended, self._applied, self.guard.dropped, self.journal.size_bytes
        )

    # The hub's cycle.

    def due_at_s(self) -> float:
        """When the group's timers want a tick."""
        core = self._core
        if self.halted:
            return NEVER
        hand_at_s = self._hand.due_at_s()
        if core.leads():
            return min(hand_at_s, core.heartbeat_at_s()) if self.guard.progress else hand_at_s
        elections = self.guard.elections
        if self.guard.installing or not elections.stands():
            return hand_at_s
        return min(hand_at_s, max(core.election_at_s(), elections.asks_again_at_s()))

    def tick(self, slack_s: float = 0.0) -> None:
        """Timers, commits, then new entries. Heartbeats due within `slack_s` go now."""
        if self.halted:
            return
        core = self._core
        now_s = self.now_s()
        if not core.leads() or self._led is None or now_s >= self._core_due_s:
            # At a leader it looks whether a majority still answers; the rest is done elsewhere.
            core.doTick(0.0)
            self._core_due_s = now_s + core.timings.heartbeat_s / 2
        self._settle()
        self._hand.tick()
        if core.leads():
            if self._led is not None and not self._hand.paused and self.journal.members.counts:
                self._pull()
            forced = core.heartbeat_at_s() <= self.now_s() + slack_s
            for waiting in self._read_rounds:
                if waiting.number is None:
                    waiting.number = self.guard.open_round()
                    forced = True
            self.guard.broadcast(forced=forced)
        self._answer_reads()

    def deliver(self, peer: int, message: Message) -> bool:
        """Hear it. True: a tick has something to do for it."""
        if self.halted:
            return False
        self.guard.deliver(peer, message)
        core = self._core
        if isinstance(message, Accept) and core.leads():
            self._agree()
            return self._hand.busy or self._full or not self.guard.is_level(peer)
        if isinstance(message, Append) and not core.leads():
            if core.commit_index() > core.applied_index():
                self.apply_ready()
                self._settle()
            return self._hand.busy
        return True

    def _agree(self) -> None:
        """Others have more of the log: answer whom that is enough for, without waiting for a
        cycle.
        """
        core = self._core
        core.advance()
        if core.commit_index() > core.applied_index():
            self.apply_ready()
        self._settle()
        self._answer_reads()

    def synced(self) -> None:
        """The journal's `durable_index` has moved."""
        if self.halted:
            return
        core = self._core
        if core.leads():
            if self.journal.members.sole:
                core.commit_alone()
            else:
                self.guard.synced()
                core.advance()
        if core.commit_index() > core.applied_index():
            self.apply_ready()
        self._settle()
        self._answer_reads()

    def stop(self, reason: str) -> None:
        """Nothing is said, appended or applied from here on."""
        self.halted = True
        self._resign(reason)
        self._hand.stop(reason)

    def _settle(self) -> None:
        core = self._core
        if self._led is None and core.leads() and core.applied_index() >= core.no_op_index():
            self._led = core.term()
            self._uncommitted_bytes = 0
            self._machine.lead(self._led)
        self._membership.settle()
        members = self.journal.members
        if core.leads() and not members.counts and members.index <= core.commit_index():
            self._hand.leave()

    def _pull(self) -> None:
        core, journal, term = self._core, self.journal, self._core.term()
        pulled_bytes = 0
        self._full = False
        while self._uncommitted_bytes < UNCOMMITTED_BYTES_MAX:
            if pulled_bytes >= PULL_BYTES_MAX:
                self.kick()
                return
            payload = self._machine.take(term, ENTRY_BYTES_MAX)
            if payload is None:
                return
            assert len(payload) <= ENTRY_BYTES_MAX, "the machine's entry is too large"
            assert core.leads()
            assert core.term() == term
            journal.add(RAW + payload, journal.last_index + 1, term)
            pulled_bytes += len(payload)
            self._uncommitted_bytes += len(payload)
            self._appended += 1
        self._full = True

    def _resign(self, reason: str) -> None:
        if self._led is None:
            return
        self._led = None
        rounds, self._read_rounds = self._read_rounds, []
        for waiting in rounds:
            for reader in waiting.readers:
                if not reader.done():
                    reader.set_exception(Unavailable(reason=reason))
        self._membership.resign(reason)
        self._machine.resign(reason)

    def _answer_reads(self) -> None:
        if not self._read_rounds:
            return
        applied, left = self._core.applied_index(), list[_ReadRound]()
        for waiting in self._read_rounds:
            number = waiting.number
            if number is None or applied < waiting.index or not self.guard.confirmed(number):
                left.append(waiting)
                continue
            for reader in waiting.readers:
                if not reader.done():
                    reader.set_result(applied)
        self._read_rounds = left

    # What the core and the guard ask of their group.

    def now_s(self) -> float:
        return self._hub.now_s()

    def dice(self) -> float:
        return self._hub.dice()

    def post(self, peer: int, message: Message) -> bool:
        # A leader's entries may be on others' disks before its own: it does not count for them
        # until then. Only its term has to be kept first, which its no-op stands behind.
        early = isinstance(message, Append) and self._is_led_on_disk
        return self._hub.post(peer, self.gid, message, early=early)

    @property
    def _is_led_on_disk(self) -> bool:
        return self.journal.durable_index >= self._core.no_op_index()

    def may_campaign(self) -> bool:
        return not self.guard.installing and self.guard.elections.may_campaign()

    def broadcast(self, *, forced: bool) -> None:
        self.guard.broadcast(forced=forced)

    def began_leading(self) -> None:
        self.guard.began_leading()

    def state_changed(self, leads: bool) -> None:
        if not leads and self._led is not None:
            self._confirmed_at_s = self.guard.majority_at_s(self.journal.members.roster)
            same = self._core.term() == self._led
            self._resign("the quorum was lost" if same else "another term began")

    def apply_ready(self) -> None:
        """Hand what is committed and durable to the machine, at most APPLY_BYTES_MAX."""
        core, journal = self._core, self.journal
        first = core.applied_index() + 1
        last = min(core.commit_index(), journal.durable_index)
        if first > last or self.guard.installing or self.halted:
            return
        entries = journal.entries_from(first, APPLY_BYTES_MAX, last)
        batch = [
            LogEntry(index, term, command[1:] if command[:1] == RAW else b"")
            for command, index, term in entries
        ]
        self.halted = True  # stays so if the machine breaks its promise not to raise
        self._machine.apply(batch)
        self.halted = False
        core.applied(batch[-1].index)
        self._applied += len(batch)
        if self._led is not None:
            size = sum(len(entry.payload) for entry in batch if entry.term == self._led)
            self._uncommitted_bytes -= size
        if batch[-1].index < last:
            self.kick()

    # Images.

    def install(self, source: int) -> None:
        """Pull an image from `source`; the log and the machine stand still meanwhile."""
        self._hub.spawn(self._install(source))

    async def _install(self, source: int) -> None:
        try:
            mark = await self._machine.image(source)
        except KalamError as error:
            log.warning("image_failed group=%d source=%d error=%s", self.gid, source, error)
            self.guard.installing = False  # the leader's next pointer starts it again
            return
        self._installed(mark.index, mark.term)
        self.kick()

    def _installed(self, index: int, term: int) -> None:
        self.guard.installing = False
        if self.halted:
            return
        journal, core = self.journal, self._core
        assert index > core.applied_index(), "an image set the group back"
        if journal.term_at(index) == term:  # so the roster as of `index` is in the log, too
            journal.start_after(index)  # what follows may be acknowledged: it stays
        else:
            journal.reset(index, term)
        core.installed(index)
        self.guard.installed(index)
