"""The audit log: who did what, kept by the meta group like everything else that must last.

1. `note` takes an entry: a log line at once, and a place in a bounded queue.
2. `count` takes what may happen often (refused sign-ins, EXECUTE AS, KILL): one entry for each
   kind, user, target and address in a minute, with how often it happened.
3. `record` is `note` for what must be on disk before its answer: it returns when it is.
4. `run` writes the queue every so often as one command, and lets the oldest entries go.

Keeps: nothing here holds up a request that does not wait by itself. What does not fit in the queue
is counted, and the count is an entry. Distinct refused sign-ins of a minute are bounded, so that
strangers can't push entries out of the log; the rest of them becomes one entry. An entry may be
there twice when an answer was lost; none is lost but by a crash before it was written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from kalamdb.config import AuditSettings
from kalamdb.errors import Indeterminate, KalamError
from kalamdb.lib.clock import Clock
from kalamdb.lib.tasks import every
from kalamdb.model.audit import AuditEntry, NumberedAudit
from kalamdb.model.principal import Principal
from kalamdb.model.work import PutAudit, TrimAudit
from kalamdb.ports import MetaGroups
from kalamdb.store import audit as records
from kalamdb.store.kv import KeyReader

log: Any = structlog.get_logger("audit")

WINDOW_MS = 60_000
BATCH_MAX = 500
TRIM_S = 60.0
TRIM_STEPS_MAX = 100
RECORD_TIMEOUT_S = 10.0
NAME_LENGTH_MAX = 128
LOGIN, LOGIN_REFUSED, LOGOUT, SETUP = "LOGIN", "LOGIN_REFUSED", "LOGOUT", "SETUP"
EXECUTE_AS, EXECUTE_AS_DENIED = "EXECUTE_AS_USER", "EXECUTE_AS_USER_DENIED"
READ_ALL_USERS, KILL, OVERFLOW = "READ_ALL_USERS", "KILL", "AUDIT_OVERFLOW"
CLUSTER = "CLUSTER"
# Different ones in a minute. What anybody can cause has little room.
DISTINCT_MAX = {LOGIN_REFUSED: 50, EXECUTE_AS_DENIED: 200}
DISTINCT_MAX_ELSE = 2_000
_OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class Act:
    """What `count` tells apart."""

    action: str
    actor: str
    target: str
    address: str | None = None
    subject: str | None = None


@dataclass(slots=True)
class _Tally:
    first_ms: int
    count: int = 0


@dataclass(frozen=True, slots=True)
class AuditStatistics:
    """Entries that wait now; written and left out since the start."""

    waiting: int
    written_total: int
    overflowed_total: int


class Audit(Protocol):
    """What those who act need of it."""

    def note(self, act: Act, details: str | None = None) -> None: ...

    def count(self, act: Act) -> None: ...

    async def record(self, act: Act, details: str | None = None) -> None: ...


class NoAudit:
    """Keeps nothing: for sessions outside a node."""

    def note(self, act: Act, details: str | None = None) -> None:
        pass

    def count(self, act: Act) -> None:
        pass

    async def record(self, act: Act, details: str | None = None) -> None:
        pass


class AuditLog:
    """See the module. `reader`: the meta group's store on this node; None where there is none, and
    others let the oldest entries go.
    """

    def __init__(
        self, groups: MetaGroups, reader: KeyReader | None, clock: Clock, settings: AuditSettings
    ) -> None:
        self._groups = groups
        self._reader = reader
        self._clock = clock
        self._settings = settings
        self._queue: deque[AuditEntry] = deque()
        self._taken = 0  # entries ever queued
        self._written = 0  # of those, how many are on disk
        self._overflowed = 0
        self._overflow_told = 0
        self._tallies: dict[Act, _Tally] = {}
        self._distinct: dict[str, int] = {}
        self._window_ms = clock.wall_ms()
        self._writing = asyncio.Lock()

    # ── what happened ────────────────────────────────────────────────────────────────────────────

    def note(self, act: Act, details: str | None = None) -> None:
        """Something that happened once."""
        _say(act, details)
        self._put(_entry(act, self._clock.wall_ms(), details), waited_for=False)

    def count(self, act: Act) -> None:
        """Something that may happen often; takes a microsecond the second time."""
        tally = self._tallies.get(act)
        if tally is None:
            tally = self._first(act)
        tally.count += 1

    def _first(self, act: Act) -> _Tally:
        distinct = self._distinct.get(act.action, 0)
        if distinct >= DISTINCT_MAX.get(act.action, DISTINCT_MAX_ELSE):
            act = Act(act.action, _OTHERS, _OTHERS)
        else:
            self._distinct[act.action] = distinct + 1
            _say(act, None)
        return self._tallies.setdefault(act, _Tally(self._clock.wall_ms()))

    async def record(self, act: Act, details: str | None = None) -> None:
        """Returns when the entry is on disk. Raises Indeterminate when that can't be known: what it
        tells of was done, and the entry is still written later if it can be.
        """
        _say(act, details)
        self._put(_entry(act, self._clock.wall_ms(), details), waited_for=True)
        mine = self._taken
        try:
            async with asyncio.timeout(RECORD_TIMEOUT_S):
                while self._written < mine:
                    await self._write()
        except (KalamError, TimeoutError) as error:
            # Unavailable would say that nothing was done.
            raise Indeterminate("it was done, and is not in the audit log yet") from error

    def on_execute_as(self, principal: Principal, user: str, allowed: bool) -> None:
        """The session's hook: each use of EXECUTE AS."""
        action = EXECUTE_AS if allowed else EXECUTE_AS_DENIED
        named = user[:NAME_LENGTH_MAX]
        self.count(Act(action, principal.actor, named, None, named))

    def on_read_all_users(self, principal: Principal, table: str) -> None:
        """A read of `all_users.<table>`."""
        self.count(Act(READ_ALL_USERS, principal.actor, table))

    def on_kill(self, principal: Principal, what: str) -> None:
        """KILL of a query or a live query."""
        self.count(Act(KILL, principal.actor, what[:NAME_LENGTH_MAX]))

    def on_cluster(self, principal: Principal, what: str) -> None:
        """A CLUSTER statement that changes something."""
        self.note(Act(CLUSTER, principal.actor, what[:NAME_LENGTH_MAX]))

    def _put(self, entry: AuditEntry, *, waited_for: bool) -> None:
        """What somebody waits for always fits: there are as many as there are requests."""
        if not waited_for and len(self._queue) >= self._settings.queue_entries:
            self._overflowed += 1
            return
        self._queue.append(entry)
        self._taken += 1

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Write and trim until cancelled; what is queued then is for `close`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(every(self._settings.interval_s, self.step, name="audit"))
            if self._reader is not None:
                tasks.create_task(every(TRIM_S, self.trim, name="audit trim"))

    async def step(self) -> None:
        """Write what waits. Raises: the tree, when the meta group can't; it waits on then."""
        if self._clock.wall_ms() - self._window_ms >= WINDOW_MS:
            self._end_window()
        await self._write()

    async def close(self) -> None:
        """Write everything, counts of the minute included; best done before the groups stop."""
        self._end_window()
        try:
            await self._write()
        except KalamError as error:
            log.error("audit_not_written", entries=len(self._queue), reason=str(error))

    def _end_window(self) -> None:
        tallies, self._tallies = self._tallies, {}
        self._distinct.clear()
        self._window_ms = self._clock.wall_ms()
        for act, tally in tallies.items():
            times = None if tally.count == 1 else f"{tally.count} times within a minute"
            self._put(_entry(act, tally.first_ms, times), waited_for=False)

    async def _write(self) -> None:
        """Everything queued until now, in commands of bounded size. Raises: the tree."""
        async with self._writing:
            overflowed = self._overflowed - self._overflow_told
            if overflowed:
                act = Act(OVERFLOW, "system", "audit_log")
                details = f"{overflowed} entries did not fit in the queue"
                self._queue.append(_entry(act, self._clock.wall_ms(), details))
                self._taken += 1
                self._overflow_told += overflowed
            upto = self._taken
            while self._written < upto:
                batch = tuple(self._queue[at] for at in range(min(BATCH_MAX, len(self._queue))))
                await self._groups.write_meta(PutAudit(batch))
                for _ in batch:
                    self._queue.popleft()
                self._written += len(batch)

    async def trim(self) -> None:
        """Let go what is too old or too much. Raises: the tree."""
        days_ms = self._settings.retention_days * 86_400_000
        work = TrimAudit(self._clock.wall_ms() - days_ms, self._settings.entries_max)
        for _ in range(TRIM_STEPS_MAX):
            if not (await self._groups.write_meta(work)).affected:
                break

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def read(self, limit: int, before: int | None = None) -> Sequence[NumberedAudit]:
        """The newest `limit` entries numbered below `before`, newest first, as applied here."""
        assert self._reader is not None, "the log is read where it is"
        return records.newest(self._reader, limit, before)

    def statistics(self) -> AuditStatistics:
        return AuditStatistics(len(self._queue), self._written, self._overflowed)


def _entry(act: Act, at_ms: int, details: str | None) -> AuditEntry:
    return AuditEntry(at_ms, act.actor, act.action, act.target, details, act.address, act.subject)


def _say(act: Act, details: str | None) -> None:
    log.info(
        "audited",
        action=act.action,
        actor=act.actor,
        target=act.target,
        details=details,
        address=act.address,
        subject=act.subject,
    )
