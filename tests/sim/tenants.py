"""Tenants: they write and read while definitions change, bound to what some catalog shows.

A statement that meets another fence is bound again to the definition the group told of, as a
session does it. Operations on the main table go into the history, so that each key is judged by
itself; those on other tables are there to be in the way.

Keeps: an operation is `FAILED` only if every attempt was answered as surely not done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from kalamdb.errors import (
    CheckViolation,
    Conflict,
    Indeterminate,
    KalamError,
    LimitReached,
    NotNullViolation,
    SchemaChanged,
    Unavailable,
    UniqueViolation,
    UnknownTable,
)
from kalamdb.model import codec
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition
from kalamdb.model.table import TableDef
from kalamdb.model.work import ChangeKeys, CommitRows, InsertRows, PutRows, ReadSet, RequestTag
from tests.sim import calls
from tests.sim.bank import ROOM_BYTES
from tests.sim.calls import Lost, Refused
from tests.sim.clients import WRITER, Desk, Hints, Place, note_outcome, tag_of
from tests.sim.history import Elements, Kind, Operation, Result
from tests.sim.member import Member
from tests.sim.operators import MAIN, META
from tests.sim.reference import Violation
from tests.sim.rows import MARK_COLUMN, Versions, fault_of, new_row, writing
from tests.sim.schema import RETURNING, elements_of, key_bytes, request_id

BINDS_MAX = 4
ATTEMPTS_MAX = 4
KEYS_AT_ONCE = 4
KEYS_MOVE_AFTER_S = 1.5
BADGES = 400
MARKS = 100
THINK_S = (0.002, 0.06)


@dataclass(slots=True)
class Tenancy:
    """What tenants share: the desk of the clients, and the versions there are."""

    desk: Desk
    versions: Versions
    badge: int = 0  # taken last: somebody will want it too
    others: list[str] = field(default_factory=list[str])

    def bound(self, name: tuple[str, str]) -> TableDef | None:
        """The table as some member's catalog shows it, which may be old."""
        up = [member for member in self.desk.members.values() if member.up]
        if not up:
            return None
        return self.desk.dice.choice(up).replicas[META].catalog.tables.get(name)

    def values(self, number: int, table: TableDef) -> tuple[int | None, int | None]:
        """A badge and a mark."""
        dice = self.desk.dice
        badge = None
        if dice.random() < 0.5:
            badge = self.badge if dice.random() < 0.2 else dice.randrange(BADGES)
            self.badge = badge
        mark = dice.randrange(MARKS)
        if table.by_id[MARK_COLUMN].nullable and dice.random() < 0.2:
            return badge, None
        return badge, mark


async def live_in(tenancy: Tenancy) -> None:
    """One tenant, until the desk closes."""
    desk = tenancy.desk
    hints = Hints(desk, WRITER)
    while not desk.closed:
        await desk.calls.pause(desk.dice.uniform(*THINK_S))
        if desk.dice.random() < 0.2:
            await write_elsewhere(tenancy, hints)
        else:
            await perform(tenancy, hints, draw(desk))


def draw(desk: Desk) -> Operation:
    dice = desk.dice
    place = dice.choice(desk.places)
    first = int(desk.timeline.elapsed_s / KEYS_MOVE_AFTER_S) * KEYS_AT_ONCE
    kinds = (Kind.INSERT, Kind.APPEND, Kind.DELETE, Kind.READ, Kind.TRANSFER)
    kind = dice.choices(kinds, weights=(35, 30, 10, 20, 8))[0]
    count = 2 if kind is Kind.TRANSFER else 1
    keys = tuple(first + key for key in dice.sample(range(KEYS_AT_ONCE), count))
    desk.numbers += 1
    named = kind in (Kind.DELETE, Kind.TRANSFER) or dice.random() < 0.6
    return Operation(
        desk.numbers,
        kind,
        place.partition,
        keys,
        desk.timeline.now_s,
        None,
        kind is Kind.APPEND and dice.random() < 0.25,
        request_id(desk.numbers) if named and kind is not Kind.READ else None,
    )


async def perform(tenancy: Tenancy, hints: Hints, operation: Operation) -> None:
    """Do it, with retries, and enter it in the history."""
    desk = tenancy.desk
    group = desk.group_of(operation.partition)
    table = tenancy.bound(MAIN)
    if table is None:
        return
    desk.history.operations.append(operation)
    maybe = False
    while operation.attempts < ATTEMPTS_MAX:
        operation.attempts += 1
        member = hints.pick(group)
        result = await attempt(tenancy, hints, member, operation, table)
        hints.learn(group, member, good=result not in (Result.FAILED, Result.UNKNOWN))
        if result is Result.UNKNOWN:
            maybe = True
            if operation.request_id is None and operation.writes:
                break
        elif result is Result.OK or (result is not Result.FAILED and not maybe):
            operation.result, operation.end_s = result, desk.timeline.now_s
            return
        elif result is not Result.FAILED:
            break
        if desk.closed and operation.writes:
            break
        await desk.calls.pause(desk.dice.uniform(0.01, 0.2))
    operation.result = Result.UNKNOWN if maybe else Result.FAILED
    operation.end_s = desk.timeline.now_s


async def attempt(
    tenancy: Tenancy, hints: Hints, member: Member, operation: Operation, table: TableDef
) -> Result:
    """Bound again as long as the group has another definition."""
    desk = tenancy.desk
    group = desk.group_of(operation.partition)
    values = tenancy.values(operation.number, table)
    for _ in range(BINDS_MAX):
        try:
            await desk.calls.call(
                member,
                lambda there, table=table, values=values: run(
                    tenancy, there, operation, table, group=group, values=values
                ),
                timeout_s=hints.timeout_s,
            )
            return Result.OK
        except SchemaChanged as moved:
            table = moved.definition  # type: ignore[attr-defined]
            values = tenancy.values(operation.number, table)
        except Refused:
            return Result.FAILED
        except Lost:
            return Result.UNKNOWN
        except KalamError as error:
            return result_of(error)
    return Result.FAILED


def result_of(error: KalamError) -> Result:
    match error:
        case UniqueViolation():
            return Result.REFUSED_KEY if error.columns == ("id",) else Result.REFUSED_UNIQUE
        case Indeterminate():
            return Result.UNKNOWN
        case Unavailable() | Conflict() | NotNullViolation() | CheckViolation():
            return Result.FAILED
        case _:
            raise error


Values = tuple[int | None, int | None]


async def run(
    tenancy: Tenancy,
    there: Member,
    operation: Operation,
    table: TableDef,
    *,
    group: int,
    values: Values,
) -> None:
    """On the member: what it gave is put into the operation."""
    place = Place(operation.partition, group)
    tag = tag_of(operation)
    number, keys = operation.number, [key_bytes(key) for key in operation.keys]
    change = writing(table, number, *values)
    match operation.kind:
        case Kind.READ:
            operation.found = await read(tenancy, there, place, table, keys[0])
            return
        case Kind.INSERT:
            rows = [new_row(table, key, number, *values) for key in operation.keys]
            outcome = await calls.write(there, group, InsertRows(table, place.partition, rows), tag)
        case Kind.APPEND if operation.slow:
            outcome = await write_slowly(there, place, table, keys[0], tag, writing=change)
        case Kind.APPEND | Kind.DELETE:
            asked = ChangeKeys(
                table,
                place.partition,
                keys,
                change if operation.kind is Kind.APPEND else None,
                returning=RETURNING,
            )
            outcome = await calls.write(there, group, asked, tag)
        case Kind.TRANSFER:
            assert tag is not None
            outcome, operation.founds = await transact(there, place, table, operation, tag, change)
            operation.affected, operation.seq = outcome.affected, outcome.seq
            return
    note_outcome(operation, outcome)


async def read(
    tenancy: Tenancy, there: Member, place: Place, table: TableDef, pk: bytes
) -> Elements | None:
    """By key, and all rows of the partition: each as its writer left it, under this version."""
    await calls.confirm(there, place.group)
    replica = there.replicas[place.group]
    raw = replica.get(table, place.partition, pk)
    decode = codec.row_reader(table)
    with replica.snapshot() as snapshot:
        raws = [found for _, found in snapshot.scan(table, place.partition)]
    for found in raws if raw is None else [raw, *raws]:
        row = decode(found)[1]
        assert row is not None
        fault = fault_of(table, tenancy.versions, row)
        if fault is not None:
            raise Violation(f"a read of group {place.group} at version {table.version}: {fault}")
    row = None if raw is None else decode(raw)[1]
    return None if row is None else elements_of(row)


async def write_slowly(
    there: Member,
    place: Place,
    table: TableDef,
    pk: bytes,
    tag: RequestTag | None,
    *,
    writing,
) -> Outcome:
    """An UPDATE worked out on a snapshot. Raises Conflict when it is too late."""
    with there.replicas[place.group].snapshot() as snapshot:
        raw = snapshot.get(table, place.partition, pk)
        last = snapshot.last_change(table, place.partition)
    await there.pause(there.world.dice.choice((0.0, 0.005, 0.05)))
    row = None if raw is None else codec.row_reader(table)(raw)[1]
    rows = () if row is None else ((pk, writing(row)),)
    read_set = ReadSet(tables={(table.id, place.partition): last})
    asked = PutRows(table, place.partition, rows, read_set, RETURNING)
    return await calls.write(there, place.group, asked, tag)


async def transact(
    there: Member,
    place: Place,
    table: TableDef,
    operation: Operation,
    tag: RequestTag,
    change,
) -> tuple[Outcome, tuple[Elements, ...] | None]:
    """Append to all keys in one transaction. Raises Conflict when one of them has no row."""
    replica = there.replicas[place.group]
    await calls.confirm(there, place.group)
    done = replica.recall(tag)
    if done is not None:
        return await done, None
    dice: Random = there.world.dice
    part = replica.open_transaction(place.partition)
    try:
        seen: list[Elements] = []
        for key in operation.keys:
            asked = ChangeKeys(table, place.partition, [key_bytes(key)], change)
            if not (await part.write(asked, ROOM_BYTES)).affected:
                raise Conflict("a row is missing")
            raw = part.get(table, key_bytes(key))
            row = None if raw is None else codec.decode_row(raw)[1]
            assert row is not None
            seen.append(elements_of(row))
            await there.pause(dice.choice((0.0, 0.003, 0.03)))
        name = f"t{operation.number}-{there.node}"
        commit = CommitRows(place.partition, name, (), 0, len(operation.keys), 0)
        outcome = await calls.within(part.commit(commit, tag))
        return outcome, tuple(seen) if outcome.rows == ((name,),) else None
    finally:
        part.close()


async def write_elsewhere(tenancy: Tenancy, hints: Hints) -> None:
    """Rows of the other tables come and go, and tables under them."""
    desk = tenancy.desk
    name = ("sim", desk.dice.choice(tenancy.others)) if tenancy.others else None
    table = None if name is None else tenancy.bound(name)
    if table is None:
        return
    place: Place = desk.dice.choice(desk.places)
    desk.numbers += 1
    values = tenancy.values(desk.numbers, table)
    key = desk.dice.randrange(20)
    member = hints.pick(place.group)
    try:
        await desk.calls.call(
            member,
            lambda there: elsewhere(there, place, table, key, desk.numbers, values=values),
            timeout_s=hints.timeout_s,
        )
    except (SchemaChanged, UnknownTable, UniqueViolation, LimitReached):
        return
    except (Unavailable, Indeterminate, Conflict, Refused, Lost):
        hints.learn(place.group, member, good=False)


async def elsewhere(
    there: Member, place: Place, table: TableDef, key: int, number: int, *, values: Values
) -> None:
    partition: Partition = place.partition
    if there.world.dice.random() < 0.6:
        row = new_row(table, key, number, *values)
        asked = InsertRows(table, partition, [row])
    elif table.accepts_update and there.world.dice.random() < 0.5:
        asked = ChangeKeys(table, partition, [key_bytes(key)], writing(table, number, *values))
    else:
        asked = ChangeKeys(table, partition, [key_bytes(key)], None)
    await calls.write(there, place.group, asked, None)
