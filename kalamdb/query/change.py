"""UPDATE and DELETE that have to look for their rows, and INSERT … SELECT.

1. Scan a snapshot: with the statement's own predicate (over ranges of a key or an index, if one
   finds the rows: a few of them on the loop, more in a thread), or with the query engine in a
   worker.
2. Write the rows found as one piece of work with its read set: the rows seen, and the last change
   of every table that was looked at.
3. The sequencer refuses it with Conflict when another write came between; then again from 1, at
   most `ATTEMPTS_MAX` times.

Keeps: nothing is locked while rows are looked for; what is written rests on what is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from kalamdb.errors import Conflict, KalamError, LimitReached
from kalamdb.model import codec, keys
from kalamdb.model.change import Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition, Seq, Slot, TableId, slot_of
from kalamdb.model.table import Column, TableDef
from kalamdb.model.values import parser
from kalamdb.model.work import InsertRows, PutRows, ReadSet, RequestTag
from kalamdb.ports import Groups, Snapshot
from kalamdb.query import scan
from kalamdb.query.engine_pool import EnginePool, Stopped
from kalamdb.query.scan import ScanLimits, ScanValues
from kalamdb.query.system import OpenVirtual
from kalamdb.sql.bound import ChangePlan, EngineChangePlan, Env, InsertSelectPlan, ScanSelect

ATTEMPTS_MAX = 5
STOP_ROWS = 256
"""Rows a thread goes through before it looks whether anybody still waits for it."""

Put = tuple[bytes, Row | None]


async def change(
    plan: ChangePlan | EngineChangePlan | InsertSelectPlan,
    env: Env,
    groups: Groups,
    pool: EnginePool,
    *,
    limits: ScanLimits,
    tag: RequestTag | None,
    open_virtual: OpenVirtual | None = None,
) -> Outcome:
    """Carry out `plan`; a ChangePlan has no keys.

    Raises: Conflict after the last attempt; LimitReached when more would change than a result may
    hold; what reading, computing and writing raise.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return await _once(plan, _Run(env, groups, pool, limits, open_virtual), tag)
        except Conflict:
            if attempt == ATTEMPTS_MAX:
                raise
    raise AssertionError("the last attempt answers or raises")


@dataclass(frozen=True, slots=True)
class _Run:
    env: Env
    groups: Groups
    pool: EnginePool
    limits: ScanLimits
    open_virtual: OpenVirtual | None = None

    def partition(self, table: TableDef) -> Partition:
        return table.partition_for(self.env.principal.partition)

    async def values(self, plan: ScanSelect) -> ScanValues:
        return await scan.values(
            plan, self.env, self.groups, self.pool, self.limits, open_virtual=self.open_virtual
        )


async def _once(
    plan: ChangePlan | EngineChangePlan | InsertSelectPlan, run: _Run, tag: RequestTag | None
) -> Outcome:
    partition = run.partition(plan.table)
    match plan:
        case ChangePlan():
            found = await _by_predicate(plan, run)
        case EngineChangePlan():
            found = await _by_engine(plan, run)
        case InsertSelectPlan():
            rows, read_set = await _selected(plan, run)
            conflict = None if plan.conflict is None else plan.conflict(run.env)
            insert = InsertRows(
                plan.table,
                partition,
                rows,
                plan.drawn,
                conflict,
                plan.returning,
                read_set,
            )
            return await run.groups.write(partition, insert, tag)
        case _:
            assert_never(plan)
    if not found.rows and tag is None:  # nothing to agree on; a request id wants its outcome kept
        columns = None if plan.returning is None else plan.returning.columns
        return Outcome(0, found.seq, columns, None if columns is None else ())
    read_set = ReadSet(tables=found.tables, slots=found.slots)
    work = PutRows(plan.table, partition, found.rows, read_set, plan.returning, found.seen)
    return await run.groups.write(partition, work, tag)


@dataclass(slots=True)
class _Found:
    """What a scan came to: rows to put (None deletes), and what the decision rests on.

    `seq` is the last change of the table's chain that it saw; `tables` has it too, so the chain
    stands for the rows in `seen`.
    """

    table: TableDef
    partition: Partition
    limits: ScanLimits
    seq: Seq
    tables: Mapping[tuple[TableId, Partition], Seq]
    slots: Mapping[Slot, int]
    rows: list[Put] = field(default_factory=list[Put])
    seen: list[tuple[bytes, Row]] = field(default_factory=list[tuple[bytes, Row]])
    size_bytes: int = 0

    def put(self, key: bytes, raw: bytes, row: Row, new: Row | None) -> None:
        """Raises LimitReached."""
        self.rows.append((key, new))
        self.seen.append((raw, row))
        self.size_bytes += len(key) + len(raw)
        if len(self.rows) > self.limits.rows_max:
            raise LimitReached(
                "max_result_rows",
                f"the statement changes more than {self.limits.rows_max} rows; narrow its WHERE",
            )
        if self.size_bytes > self.limits.size_max_bytes:
            raise LimitReached(
                "max_result_bytes",
                f"the statement changes more than {self.limits.size_max_bytes} bytes of rows; "
                "narrow its WHERE",
            )


# ---- by our own predicate -----------------------------------------------------------------------


async def _by_predicate(plan: ChangePlan, run: _Run) -> _Found:
    partition = run.partition(plan.table)
    snapshot = await _snapshot(plan.table, partition, run.groups)

    def look(stopped: Stopped) -> _Found:
        return _look(plan, run, snapshot, stopped)

    is_long = plan.path is None
    try:
        if not is_long:
            return look(_first_slice())
    except _Long:
        is_long = True
    finally:
        if not is_long:
            snapshot.close()
    return await run.pool.look(look, snapshot.close)


class _Long(Exception):
    """More rows than are looked at on the loop. Never leaves the file."""


def _first_slice() -> Stopped:
    """Lets one slice of rows pass, and stops the look at the next."""
    slices = iter((None,))

    def stopped() -> None:
        if next(slices, _Long) is _Long:
            raise _Long

    return stopped


async def _snapshot(table: TableDef, partition: Partition, groups: Groups) -> Snapshot:
    """A linearizable snapshot in which `table` still has this definition.

    Raises: Unavailable, SchemaChanged.
    """
    barrier = groups.barrier(partition)
    if barrier is not None:
        await barrier
    snapshot = groups.snapshot(partition)
    try:
        scan.check_schema(table, partition, groups)
    except KalamError:
        snapshot.close()
        raise
    return snapshot


def _slots(snapshot: Snapshot, *partitions: Partition) -> dict[Slot, int]:
    """The slots of what is read, all of them open: slow work begins in no other. Raises Moved."""
    return {slot_of(partition): snapshot.open_epoch(partition) for partition in partitions}


def _look(plan: ChangePlan, run: _Run, snapshot: Snapshot, stopped: Stopped) -> _Found:
    """In a thread. Raises what the predicate and the assignments raise."""
    table = plan.table
    partition = run.partition(table)
    where = None if plan.where is None else plan.where(run.env)
    assign = None if plan.change is None else plan.change(run.env)
    last_change = snapshot.last_change(table, partition)
    seen = {(table.id, partition): last_change}
    slots = _slots(snapshot, partition)
    found = _Found(table, partition, run.limits, last_change, seen, slots)
    read = codec.row_reader(table)
    for number, (key, raw) in enumerate(_candidates(plan, run, snapshot, partition)):
        if number % STOP_ROWS == 0:
            stopped()
        if raw is None:
            continue
        seq, row = read(raw)
        if row is not None and (where is None or where(row, seq)):
            found.put(key, raw, row, None if assign is None else assign(row))
    return found


def _candidates(
    plan: ChangePlan, run: _Run, snapshot: Snapshot, partition: Partition
) -> Iterator[tuple[bytes, bytes | None]]:
    """Every row that may match: those of the plan's ranges, or all."""
    if plan.path is None:
        yield from snapshot.scan(plan.table, partition)
        return
    for keys_range in plan.path.ranges(run.env):
        yield from snapshot.scan_range(plan.table, partition, keys_range)


# ---- by the query engine ------------------------------------------------------------------------


async def _by_engine(plan: EngineChangePlan, run: _Run) -> _Found:
    """Keys and new values come from the engine, the rows they belong to from a second snapshot.

    Raises: Conflict when the table changed between the two.
    """
    result = await run.values(plan.scan)
    partition = run.partition(plan.table)
    snapshot = await _snapshot(plan.table, partition, run.groups)

    def look(stopped: Stopped) -> _Found:
        return _merge(plan, run, result, snapshot, stopped)

    return await run.pool.look(look, snapshot.close)


def _merge(
    plan: EngineChangePlan, run: _Run, result: ScanValues, snapshot: Snapshot, stopped: Stopped
) -> _Found:
    """In a thread. Of several results for one row the first counts."""
    table = plan.table
    partition = run.partition(table)
    seen = result.last_changes(snapshot.group)
    last_change = snapshot.last_change(table, partition)
    if seen.get((table.id, partition)) != last_change:
        raise Conflict(f"{table.full_name} changed while it was read")
    slots = _slots(snapshot, *(place[1] for place in seen))
    found = _Found(table, partition, run.limits, last_change, seen, slots)
    done: set[bytes] = set()
    read_key = _key_reader(table)
    read = codec.row_reader(table)
    width = len(table.primary_key)
    assign = None if plan.assigned is None else _assigner(plan.assigned)
    for number, values in enumerate(result.rows):
        if number % STOP_ROWS == 0:
            stopped()
        key = read_key(values[:width])
        raw = snapshot.get(table, partition, key)
        if raw is None or key in done:
            continue
        row = read(raw)[1]
        if row is not None:
            done.add(key)
            found.put(key, raw, row, None if assign is None else assign(row, values[width:]))
    return found


def _key_reader(table: TableDef) -> Callable[[Sequence[Any]], bytes]:
    columns = table.key_columns
    parsers = [parser(column.type, column.name) for column in columns]
    encoders = [keys.key_encoder(column.type) for column in columns]

    def read(values: Sequence[Any]) -> bytes:
        parts = zip(encoders, parsers, values, strict=True)
        return b"".join([encode(parse(value)) for encode, parse, value in parts])

    return read


def _assigner(columns: Sequence[Column]) -> Callable[[Row, Sequence[Any]], Row]:
    targets = [(column.id, parser(column.type, column.name)) for column in columns]

    def assign(row: Row, values: Sequence[Any]) -> Row:
        new = dict(row)
        for (column_id, parse), value in zip(targets, values, strict=True):
            if value is None:
                new.pop(column_id, None)
            else:
                new[column_id] = parse(value)
        return new

    return assign


async def _selected(plan: InsertSelectPlan, run: _Run) -> tuple[list[Row], ReadSet]:
    """The rows to insert, and the tables of the target's group that they come from."""
    result = await run.values(plan.scan)
    with run.groups.snapshot(run.partition(plan.table)) as snapshot:
        seen = result.last_changes(snapshot.group)
        read_set = ReadSet(tables=seen, slots=_slots(snapshot, *(place[1] for place in seen)))

    def complete(stopped: Stopped) -> list[Row]:
        rows: list[Row] = []
        for number, values in enumerate(result.rows):
            if number % STOP_ROWS == 0:
                stopped()
            rows.append(plan.complete(run.env, values))
        return rows

    return await run.pool.look(complete, lambda: None), read_set
