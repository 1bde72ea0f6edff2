"""Calls of clients to members, and what a member does with them.

A call takes time to arrive and to come back; a member that dies meanwhile breaks the connection,
and then nobody knows. Clients reach every member always: a partition is between members only, so
that a leader that is cut off is asked too.

Keeps: `Refused` means that the call never reached a process; everything else that is no answer is
`Lost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from kalamdb.errors import CursorExpired, Indeterminate, KalamError, NotLeader, Unavailable
from kalamdb.model import codec
from kalamdb.model.change import Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition, Seq
from kalamdb.model.work import PutRows, ReadSet, RequestTag, Work
from kalamdb.replica.writer import write_within
from kalamdb.store.changes import change_floor
from tests.sim.history import Began, Elements, Expired, Resumed
from tests.sim.member import Member
from tests.sim.reference import Violation
from tests.sim.schema import RETURNING, TABLE, elements_of
from tests.sim.streams import Stream
from tests.sim.timeline import Loop, Timeline

WRITE_TIMEOUT_S = 1.2
READ_TIMEOUT_S = 1.0
CALL_TIMEOUT_S = 2.0
DELAY_S = (0.0002, 0.003)
REPLAY_CHANGES = 8  # then other things happen first

Answer = TypeVar("Answer")


class Refused(Exception):
    """Nobody listens there."""


class Lost(Exception):
    """No answer: the connection broke, or it took too long."""


class Calls:
    """The clients' side of the connections to all members."""

    def __init__(self, timeline: Timeline, dice: Random, loop: Loop) -> None:
        self._timeline = timeline
        self._dice = dice
        self._loop = loop

    async def pause(self, duration_s: float) -> None:
        over = self._loop.create_future()
        self._loop.call_later(duration_s, _end_pause, over)
        await over

    async def call(
        self,
        member: Member,
        handle: Callable[[Member], Awaitable[Answer]],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Answer:
        """Run `handle` at `member`. Raises KalamError as it does, Refused, Lost."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._timeline.after(self._delay_s(), lambda: self._arrive(member, handle, answer))
        self._timeline.after(timeout_s, lambda: self._settle(answer, Lost("timeout")))
        return await answer

    def _arrive(
        self,
        member: Member,
        handle: Callable[[Member], Awaitable[Answer]],
        answer: asyncio.Future[Answer],
    ) -> None:
        if not member.up:
            self._back(answer, Refused())
            return
        life = member.life

        async def run() -> Answer:
            return await handle(member)

        def done(task: asyncio.Task[Answer]) -> None:
            error = task.exception()
            if error is None:
                self._timeline.after(
                    self._delay_s(), lambda: self._settle(answer, None, task.result())
                )
            elif isinstance(error, KalamError):
                self._back(answer, error)
            else:
                raise error

        def start() -> None:
            member.loop.create_task(run()).add_done_callback(done)

        def watch() -> None:
            if life.ended:
                self._settle(answer, Lost("connection reset"))
            elif not answer.done():
                self._timeline.after(0.02, watch)

        member.loop.call_soon(start)
        self._timeline.after(0.02, watch)

    def _back(self, answer: asyncio.Future[Answer], error: Exception) -> None:
        self._timeline.after(self._delay_s(), lambda: self._settle(answer, error))

    def _settle(
        self,
        answer: asyncio.Future[Answer],
        error: Exception | None,
        result: Answer | None = None,
    ) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def _delay_s(self) -> float:
        return self._dice.uniform(*DELAY_S)


def _end_pause(over: asyncio.Future[None]) -> None:
    if not over.done():  # who waits may have been cancelled
        over.set_result(None)


# What a member does.


async def write(member: Member, group: int, work: Work, tag: RequestTag | None) -> Outcome:
    return await write_within(member.replicas[group], work, tag, timeout_s=WRITE_TIMEOUT_S)


async def write_slowly(
    member: Member,
    group: int,
    partition: Partition,
    pk: bytes,
    change: Callable[[Row], Row],
    *,
    tag: RequestTag | None,
    dice: Random,
) -> Outcome:
    """An UPDATE worked out on a snapshot, as slow work is. Raises Conflict when it is too late."""
    with member.replicas[group].snapshot() as snapshot:
        raw = snapshot.get(TABLE, partition, pk)
        last = snapshot.last_change(TABLE, partition)
    await member.pause(dice.choice((0.0, 0.005, 0.05)))
    rows = () if raw is None else ((pk, change(_row(raw))),)
    if dice.random() < 0.5:
        seen = Seq(0) if raw is None else codec.row_seq(raw)
        read_set = ReadSet(rows={(TABLE.id, partition, pk): seen})
    else:
        read_set = ReadSet(tables={(TABLE.id, partition): last})
    return await write(member, group, PutRows(TABLE, partition, rows, read_set, RETURNING), tag)


async def within(waiting: Awaitable[Outcome]) -> Outcome:
    """As `write_within` waits. Raises Indeterminate."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            return await waiting
    except TimeoutError as error:
        raise Indeterminate("no answer in time") from error


async def confirm(member: Member, group: int) -> None:
    """A read may start. Raises Unavailable when this takes too long, too."""
    waiting = member.replicas[group].barrier()
    if waiting is None:
        return
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await waiting
    except TimeoutError as error:
        raise Unavailable("leadership was not confirmed in time") from error


async def read(member: Member, group: int, partition: Partition, pk: bytes) -> Elements | None:
    await confirm(member, group)
    raw = member.replicas[group].get(TABLE, partition, pk)
    return None if raw is None else elements_of(_row(raw))


def _row(raw: bytes) -> Row:
    _, row = codec.decode_row(raw)
    assert row is not None
    return row


async def begin_stream(
    member: Member, group: int, partition: Partition, deliver: Callable[[object], None]
) -> None:
    """A stream from now on: `Began`, then changes."""
    await confirm(member, group)
    replica = member.replicas[group]
    with replica.snapshot() as snapshot:
        found = list(snapshot.scan(TABLE, partition))
        rows = tuple((pk, elements_of(_row(raw))) for pk, raw in found)
        by_seq = list(snapshot.scan_by_seq(TABLE, partition, Seq(0)))
        if sorted(by_seq) != sorted(raw for _, raw in found):
            raise Violation(f"a snapshot of {partition.decode()} has other rows by seq than by key")
        began = Began(snapshot.seq, snapshot.last_change(TABLE, partition), rows)
    deliver(began)
    stream = Stream(began.seq, deliver)
    member.sinks[group].open(partition, stream)
    stream.follow()


async def resume_stream(
    member: Member,
    group: int,
    partition: Partition,
    cursor: Seq,
    deliver: Callable[[object], None],
) -> None:
    """Go on after `cursor`: `Resumed`, the changes since, then what comes; or `Expired`."""
    replica = member.replicas[group]
    if replica.leads:
        await confirm(member, group)
    elif cursor > replica.seq_last:
        raise NotLeader(group, None)  # a follower may be behind: that says nothing of the cursor
    snapshot = replica.snapshot()
    stream = Stream(snapshot.seq, deliver)
    with snapshot:
        try:
            changes = snapshot.changes(TABLE, partition, cursor, snapshot.seq)
        except CursorExpired as error:
            floor = change_floor(member.stores[group])
            deliver(Expired(cursor, error.reason, floor, snapshot.seq))
            return
        deliver(Resumed(cursor))
        member.sinks[group].open(partition, stream)
        for number, change in enumerate(changes):
            if number % REPLAY_CHANGES == 0:
                await member.pause(0.001)
            stream.replay(change)
        stream.follow()
