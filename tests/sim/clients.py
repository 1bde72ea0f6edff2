"""Clients: each calls again and again, with retries where a retry is allowed, and writes down what
it saw.

Keeps: an operation is `FAILED` only if every attempt was answered as surely not done; after an
attempt nobody knows about it is `UNKNOWN`, unless a retry under the same request id was answered.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from random import Random

from kalamdb.errors import (
    Conflict,
    Indeterminate,
    KalamError,
    Unavailable,
    UniqueViolation,
)
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition, partition_tenant
from kalamdb.model.work import ChangeKeys, InsertRows, RequestTag, Work
from tests.sim import bank, calls
from tests.sim.calls import Calls, Lost, Refused
from tests.sim.history import History, Kind, Operation, Result
from tests.sim.member import Member
from tests.sim.schema import (
    RETURNING,
    TABLE,
    appending,
    key_bytes,
    new_row,
    request_id,
    returned,
)
from tests.sim.timeline import Timeline

ATTEMPTS_MAX = 5
KEYS_AT_ONCE = 3
KEYS_MOVE_AFTER_S = 1.0
BADGES = 3
SLOW_SHARE = 0.25
THINK_S = (0.002, 0.08)


@dataclass(frozen=True, slots=True)
class Place:
    """A partition and the group that owns it."""

    partition: Partition
    group: int


@dataclass(frozen=True, slots=True)
class Mix:
    """How one client behaves: weights of INSERT, APPEND, DELETE, READ, how sure it is of its hints,
    how long it waits for an answer.
    """

    weights: tuple[int, int, int, int]
    trust: float
    timeout_s: float


WRITER = Mix((25, 40, 10, 25), 0.85, 2.0)
READER = Mix((15, 25, 0, 60), 0.97, 0.3)
ROVER = Mix((25, 40, 20, 15), 0.3, 1.0)
CLIENTS = (WRITER,) * 5 + (READER,) * 4 + (ROVER,) * 2
BANK_CLIENTS = (WRITER,) * 3 + (READER,)


@dataclass(slots=True)
class Desk:
    """What clients share: the members, where partitions live, who led last, the history."""

    timeline: Timeline
    dice: Random
    calls: Calls
    members: dict[int, Member]
    places: list[Place]
    history: History
    banks: list[Place] = field(default_factory=list[Place])
    written: tuple[Partition, int] | None = None  # the key written last
    numbers: int = 0
    closed: bool = False

    def group_of(self, partition: Partition) -> int:
        places = (*self.places, *self.banks)
        return next(place.group for place in places if place.partition == partition)


class Hints:
    """Who leads each group, as one client knows."""

    def __init__(self, desk: Desk, mix: Mix) -> None:
        self._desk = desk
        self._trust = mix.trust
        self.timeout_s = mix.timeout_s
        self._nodes: dict[int, int] = {}

    def pick(self, group: int) -> Member:
        """Mostly the leader as known."""
        desk = self._desk
        node = self._nodes.get(group)
        if node is None or desk.dice.random() >= self._trust:
            node = desk.dice.choice(sorted(desk.members))
        return desk.members[node]

    def learn(self, group: int, member: Member, *, good: bool) -> None:
        if good:
            self._nodes[group] = member.node
        elif self._nodes.get(group) == member.node:
            del self._nodes[group]


async def work_on(desk: Desk, mix: Mix) -> None:
    """One client, until the desk closes."""
    hints = Hints(desk, mix)
    while not desk.closed:
        await desk.calls.pause(desk.dice.uniform(*THINK_S))
        await perform(desk, hints, draw(desk, mix))


async def bank_with(desk: Desk, mix: Mix) -> None:
    """A client of the banks, until the desk closes: it opens accounts, moves money, audits."""
    hints = Hints(desk, mix)
    while not desk.closed:
        await desk.calls.pause(desk.dice.uniform(*THINK_S))
        place = desk.dice.choice(desk.banks)
        accounts = bank.accounts_at(desk.timeline.elapsed_s)
        choice = desk.dice.random()
        if choice < 0.3:
            await audit(desk, hints, place, accounts)
            continue
        desk.numbers += 1
        number, now_s = desk.numbers, desk.timeline.now_s
        if choice < 0.45:
            kind, keys = Kind.INSERT, accounts
        else:
            kind = Kind.TRANSFER
            keys = tuple(desk.dice.sample(accounts, desk.dice.choice((2, 2, 3))))
        name = request_id(number)
        made = Operation(number, kind, place.partition, keys, now_s, request_id=name)
        await perform(desk, hints, made)


async def audit(desk: Desk, hints: Hints, place: Place, accounts: tuple[int, ...]) -> None:
    member = hints.pick(place.group)
    with contextlib.suppress(KalamError, Refused, Lost):
        await desk.calls.call(
            member,
            lambda there: bank.audit(there, place.group, place.partition, accounts, desk.dice),
            timeout_s=hints.timeout_s,
        )


def draw(desk: Desk, mix: Mix) -> Operation:
    dice = desk.dice
    partition = dice.choice(desk.places).partition
    first = int(desk.timeline.elapsed_s / KEYS_MOVE_AFTER_S) * KEYS_AT_ONCE
    key = first + dice.randrange(KEYS_AT_ONCE)
    kind = dice.choices((Kind.INSERT, Kind.APPEND, Kind.DELETE, Kind.READ), weights=mix.weights)[0]
    if mix is not WRITER and desk.written is not None and dice.random() < 0.6:
        partition, key = desk.written  # where a stale answer would show
    desk.numbers += 1
    named = kind is Kind.DELETE or dice.random() < 0.6
    badge = None
    if kind in (Kind.INSERT, Kind.APPEND) and dice.random() < 0.35:
        badge = dice.randrange(BADGES)
    keys = (key,)
    if kind is Kind.INSERT and badge is None and dice.random() < 0.3:
        keys = (key, first + KEYS_AT_ONCE + dice.randrange(KEYS_AT_ONCE))
    return Operation(
        desk.numbers,
        kind,
        partition,
        keys,
        desk.timeline.now_s,
        badge,
        kind is Kind.APPEND and dice.random() < SLOW_SHARE,
        request_id(desk.numbers) if named and kind is not Kind.READ else None,
    )


def work_of(operation: Operation) -> Work:
    number, badge = operation.number, operation.unique
    keys = [key_bytes(key) for key in operation.keys]
    match operation.kind:
        case Kind.INSERT:
            rows = [new_row(key, number, badge) for key in operation.keys]
            return InsertRows(TABLE, operation.partition, rows)
        case Kind.APPEND:
            change = appending(number, badge)
            return ChangeKeys(TABLE, operation.partition, keys, change, returning=RETURNING)
        case _:
            return ChangeKeys(TABLE, operation.partition, keys, None, returning=RETURNING)


def tag_of(operation: Operation) -> RequestTag | None:
    if operation.request_id is None:
        return None
    tenant = str(partition_tenant(operation.partition))
    return RequestTag(tenant, tenant, operation.request_id, 1, b"%8d" % operation.number)


async def perform(desk: Desk, hints: Hints, operation: Operation) -> None:
    """Do it, with retries, and enter it in the history."""
    desk.history.operations.append(operation)
    group = desk.group_of(operation.partition)
    maybe = False  # an earlier attempt may have been done
    while operation.attempts < ATTEMPTS_MAX:
        operation.attempts += 1
        member = hints.pick(group)
        result = await attempt(desk, hints, member, operation)
        if result is not Result.UNKNOWN or desk.dice.random() < 0.5:
            hints.learn(group, member, good=result in (Result.OK, Result.REFUSED_KEY))
        match result:
            case Result.FAILED:
                if desk.closed:
                    break
                await desk.calls.pause(desk.dice.uniform(0.01, 0.2))
            case Result.UNKNOWN:
                maybe = True
                if operation.request_id is None and operation.writes:
                    break
                await desk.calls.pause(desk.dice.uniform(0.01, 0.3))
            case Result.REFUSED_KEY | Result.REFUSED_UNIQUE if maybe:
                # Answered about this attempt; an earlier one may still have been done.
                break
            case _:
                operation.result = result
                operation.end_s = desk.timeline.now_s
                in_bank = any(place.partition == operation.partition for place in desk.banks)
                if operation.writes and operation.affected and not in_bank:
                    desk.written = operation.partition, operation.keys[0]
                return
    operation.result = Result.UNKNOWN if maybe else Result.FAILED
    operation.end_s = desk.timeline.now_s


async def write(there: Member, group: int, operation: Operation, dice: Random) -> Outcome:
    """On the member: put, or work out and put."""
    tag = tag_of(operation)
    if not operation.slow:
        return await calls.write(there, group, work_of(operation), tag)
    change = appending(operation.number, operation.unique)
    pk = key_bytes(operation.keys[0])
    return await calls.write_slowly(
        there, group, operation.partition, pk, change, tag=tag, dice=dice
    )


async def attempt(desk: Desk, hints: Hints, member: Member, operation: Operation) -> Result:
    group = desk.group_of(operation.partition)
    try:
        if operation.kind is Kind.READ:
            pk = key_bytes(operation.keys[0])
            operation.found = await desk.calls.call(
                member,
                lambda there: calls.read(there, group, operation.partition, pk),
                timeout_s=hints.timeout_s,
            )
            return Result.OK
        if operation.kind is Kind.TRANSFER:
            return await attempt_transfer(desk, hints, member, operation)
        outcome = await desk.calls.call(
            member,
            lambda there: write(there, group, operation, desk.dice),
            timeout_s=hints.timeout_s,
        )
    except Refused:
        return Result.FAILED
    except Lost:
        return Result.UNKNOWN
    except KalamError as error:
        result = result_of(error)
        desk.timeline.note(f"op {operation.number} {result.name}")
        return result
    desk.timeline.note(f"op {operation.number} ok {outcome.affected}")
    note_outcome(operation, outcome)
    return Result.OK


async def attempt_transfer(
    desk: Desk, hints: Hints, member: Member, operation: Operation
) -> Result:
    """Raises as a call does."""
    tag = tag_of(operation)
    assert tag is not None
    outcome, founds = await desk.calls.call(
        member,
        lambda there: bank.transfer(
            there,
            desk.group_of(operation.partition),
            operation.partition,
            operation.keys,
            number=operation.number,
            tag=tag,
            dice=desk.dice,
        ),
        timeout_s=hints.timeout_s,
    )
    operation.founds = founds
    operation.affected, operation.seq = outcome.affected, outcome.seq
    desk.timeline.note(f"op {operation.number} transferred {outcome.affected}")
    return Result.OK


def result_of(error: KalamError) -> Result:
    match error:
        case Unavailable() | Conflict():
            return Result.FAILED
        case Indeterminate():
            return Result.UNKNOWN
        case UniqueViolation():
            return Result.REFUSED_KEY if error.columns == ("id",) else Result.REFUSED_UNIQUE
        case _:
            raise error


def note_outcome(operation: Operation, outcome: Outcome) -> None:
    operation.affected = outcome.affected
    operation.seq = outcome.seq
    if outcome.rows:
        operation.found = returned(outcome.rows[0][0])
