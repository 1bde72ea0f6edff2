"""Statements of many rows: the loops for them put what single rows put, and their number is
bounded.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.decide import rows
from kalamdb.decide.draft import Chain, Draft
from kalamdb.decide.plan import TablePlan, no_checks
from kalamdb.decide.row_writer import RowChange, RowWriter
from kalamdb.decide.rows import MANY_ROWS
from kalamdb.decide.sequencer import SequencerLimits
from kalamdb.errors import LimitReached, UniqueViolation
from kalamdb.model import codec, types
from kalamdb.model.change import Op, Row
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.table import Column, Index, TableDef
from kalamdb.model.work import CommitRows, PutRows, ReadSet, WrittenTable
from kalamdb.replica.replica import ReplicaLimits
from kalamdb.store.catalog_codec import FenceState
from tests.unit.replica.harness import (
    ALICE,
    START_MS,
    World,
    delete,
    insert,
    message,
    message_table,
    pk_of,
)

PLAIN = message_table(uniques=())
INDEXED = replace(
    PLAIN,
    columns=(*PLAIN.columns, Column(5, "extra", types.INT, initial=7)),
    indexes=(Index(2, (4, 2), "by_stars"), Index(3, (5,), "by_extra")),
)
OLD = [Seq((number + 1) << 40) for number in range(5)]


def writer(table: TableDef) -> RowWriter:
    draft = Draft({}, lambda _: None, GroupId(1), OLD[-1], START_MS)
    plan = TablePlan(table, FenceState.ACTIVE, no_checks)
    return RowWriter(draft, plan, Chain(table.id, ALICE, OLD[-1]))


@pytest.mark.parametrize("table", [PLAIN, INDEXED])
def test_many_inserts_put_what_one_by_one_they_put(table: TableDef) -> None:
    given: list[tuple[bytes, Row, bytes | None]] = [
        (pk_of(table, 1), message(1), None),
        (pk_of(table, 2), message(2, "x" * 2_000) | {4: 5, 5: 1}, codec.encode_tombstone(OLD[0])),
        (pk_of(table, 3), message(3) | {4: 5}, None),
    ]
    one, many = writer(table), writer(table)
    for pk, row, old in given:
        one.insert(pk, row, old)
    many.insert_all(given, many.draft.draw_all(len(given)))
    assert many.finish() == one.finish()
    assert many.draft.effects == one.draft.effects
    assert many.draft.fresh == one.draft.fresh
    assert many.draft.seq == one.draft.seq


@pytest.mark.parametrize("table", [PLAIN, INDEXED])
def test_many_changes_put_what_one_by_one_they_put(table: TableDef) -> None:
    befores = [message(number) | {4: number, 5: 7} for number in range(5)]
    afters = [befores[0] | {2: "new"}, None, befores[2] | {4: 9}, None, message(4)]
    changes: list[RowChange] = [
        (pk_of(table, number), codec.encode_row(OLD[number], row), row, after)
        for number, (row, after) in enumerate(zip(befores, afters, strict=True))
    ]
    one, many = writer(table), writer(table)
    for pk, old, before, after in changes:
        if after is None:
            one.remove(pk, old, Op.DELETE, before)
        else:
            one.update(pk, after, old, before)
    many.change_all(changes)
    assert many.finish() == one.finish()
    assert many.draft.effects == one.draft.effects
    assert many.draft.fresh == one.draft.fresh
    assert many.draft.seq == one.draft.seq


def test_numbers_drawn_at_once_are_those_drawn_one_by_one() -> None:
    for last in (OLD[0], Seq((START_MS + 1) << 30)):
        one = Draft({}, lambda _: None, GroupId(3), last, START_MS)
        many = Draft({}, lambda _: None, GroupId(3), last, START_MS)
        assert [one.draw() for _ in range(5)] == list(many.draw_all(5))
        assert many.seq == one.seq
        assert (list(many.draw_all(0)), many.seq) == ([], one.seq)


async def test_a_large_insert_meets_rows_stored_and_rows_decided() -> None:
    world = World()
    world.add(PLAIN)
    many = [message(number) for number in range(MANY_ROWS)]
    at = MANY_ROWS // 2
    world.do(insert(PLAIN, message(at)))
    with pytest.raises(UniqueViolation, match=str(at)):
        world.do(insert(PLAIN, *many))
    world.do(delete(PLAIN, at))
    assert world.do(insert(PLAIN, *many)).inserted == MANY_ROWS  # over the tombstone

    beyond = [message(MANY_ROWS + number) for number in range(MANY_ROWS)]
    decided = world.ask(insert(PLAIN, beyond[-1]))  # nothing of it is applied
    refused = world.ask(insert(PLAIN, *beyond))
    world.log.turn()
    assert decided.result().inserted == 1
    with pytest.raises(UniqueViolation):
        refused.result()
    twice = [*(message(1000 + number) for number in range(MANY_ROWS)), message(1000)]
    with pytest.raises(UniqueViolation, match="1000"):
        world.do(insert(PLAIN, *twice))
    assert len(world.rows(PLAIN)) == MANY_ROWS + 1


async def test_members_put_the_same_for_a_staged_command() -> None:
    """The leader puts what it holds, the others what the chunks say."""
    leader, follower = World(), World(slots=())
    leader.add(PLAIN)
    leader.do(insert(PLAIN, *(message(number, "x" * 1000) for number in range(2000))))
    follower.replica.resign("it follows")
    follower.log.entries = leader.log.entries[follower.replica.applied().index :]
    follower.log.commit()
    assert len(follower.rows(PLAIN)) == 2000
    assert follower.replica.digest() == leader.replica.digest()


async def test_more_rows_than_are_decided_at_once_are_refused() -> None:
    world = World(limits=ReplicaLimits(SequencerLimits(rows_max=3)))
    world.add(PLAIN)
    world.do(insert(PLAIN, *map(message, range(3))))
    read_set = ReadSet(tables={(PLAIN.id, ALICE): world.replica.last_change(PLAIN, ALICE)})
    gone = [(pk_of(PLAIN, number), None) for number in range(4)]
    written = WrittenTable(PLAIN, [(pk, Seq(0), None) for pk, _ in gone])
    for work in (
        insert(PLAIN, *map(message, range(10, 14))),
        PutRows(PLAIN, ALICE, gone, read_set),
        CommitRows(ALICE, "tx", (written,)),
    ):
        with pytest.raises(LimitReached, match=r"max_statement_rows.*writes 4 rows, at most 3"):
            world.do(work)
    assert len(world.rows(PLAIN)) == 3


async def test_a_large_commit_puts_what_row_by_row_it_puts(monkeypatch: pytest.MonkeyPatch) -> None:
    digests: list[str] = []
    for many in (rows.MANY_ROWS, 1_000_000):
        monkeypatch.setattr(rows, "MANY_ROWS", many)
        world = World()
        world.add(INDEXED)
        new = [(pk_of(INDEXED, number), Seq(0), message(number)) for number in range(40)]
        world.do(CommitRows(ALICE, "first", (WrittenTable(INDEXED, new),)))
        seen = {pk: codec.row_seq(world.replica.get(INDEXED, ALICE, pk) or b"") for pk, *_ in new}
        changed = [
            (pk, seen[pk], None if number % 3 else message(number, "new"))
            for number, (pk, *_) in enumerate(new)
        ]
        world.do(CommitRows(ALICE, "second", (WrittenTable(INDEXED, changed),)))
        assert len(world.rows(INDEXED)) == 14
        digests.append(world.replica.digest())
    assert digests[0] == digests[1]
