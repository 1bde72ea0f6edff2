"""Row writes: what is refused, what is put, what is answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.decide.sequencer import SequencerLimits
from kalamdb.errors import (
    CheckViolation,
    Conflict,
    DiskFull,
    InvalidStatement,
    NotNullViolation,
    SchemaChanged,
    StatementTooLarge,
    Unavailable,
    UniqueViolation,
    UnknownTable,
)
from kalamdb.model import codec, keys, types
from kalamdb.model.change import Op
from kalamdb.model.ids import Seq
from kalamdb.model.table import ROW_ID_COLUMN_ID, Check, Column, TableKind, Unique
from kalamdb.model.work import ChangeKeys, ConflictRule, PutFence, PutRows, ReadSet
from kalamdb.replica.replica import ReplicaLimits
from kalamdb.store.rows import PartitionKeys
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    DO_NOTHING,
    RETURNING_ALL,
    World,
    delete,
    insert,
    message,
    message_table,
    pk_of,
    update,
)

TABLE = message_table()
STREAM = message_table(8, kind=TableKind.STREAM, ttl_s=60)


@pytest.fixture
async def world() -> World:
    made = World()
    made.add(TABLE, STREAM)
    return made


async def test_insert_puts_row_seq_change_last(world: World) -> None:
    outcome = world.do(insert(TABLE, message(1, mail="a@b")))
    at = PartitionKeys(TABLE.id, ALICE)
    pk = pk_of(TABLE, 1)
    seq = outcome.seq
    assert (outcome.affected, outcome.inserted) == (1, 1)
    assert world.store.get(at.row + pk) == codec.encode_row(seq, message(1, mail="a@b"))
    assert world.store.get(at.seq_key(seq)) == pk
    assert world.store.get(at.last) == codec.encode_seq(seq)
    assert world.store.get(at.change_key(seq)) == codec.encode_change(
        Op.INSERT, Seq(0), Seq(0), True, pk
    )
    unique = keys.unique(TABLE.id, 1, ALICE, keys.encode_key([types.TEXT], ["a@b"]))
    assert world.store.get(unique) == pk


async def test_update_keeps_the_old_version_with_its_successor(world: World) -> None:
    first = world.do(insert(TABLE, message(1))).seq
    second = world.do(update(TABLE, 1, {2: "new"})).seq
    at, pk = PartitionKeys(TABLE.id, ALICE), pk_of(TABLE, 1)
    kept = world.store.get(at.history_key(pk, first))
    assert codec.decode_history(kept) == (second, codec.encode_row(first, message(1)))
    assert world.store.get(at.seq_key(first)) is None
    assert world.store.get(at.seq_key(second)) == pk
    change = codec.decode_change(world.store.get(at.change_key(second)))
    assert change == (Op.UPDATE, first, first, True, pk)


async def test_delete_leaves_a_tombstone_and_an_insert_takes_its_place(world: World) -> None:
    world.do(insert(TABLE, message(1, mail="x")))
    gone = world.do(delete(TABLE, 1))
    assert (gone.affected, gone.deleted) == (1, 1)
    assert world.row(TABLE, 1) is None
    assert world.rows(TABLE) == []
    world.do(insert(TABLE, message(1, "again", mail="x")))
    assert world.row(TABLE, 1) == message(1, "again", mail="x")
    with world.replica.snapshot() as snapshot:
        assert len(list(snapshot.scan_by_seq(TABLE, ALICE, Seq(0)))) == 1


async def test_duplicate_key_is_refused_and_leaves_no_trace(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    before = world.replica.digest()
    with pytest.raises(UniqueViolation) as refused:
        world.do(insert(TABLE, message(2), message(1)))
    assert refused.value.columns == ("id",)
    assert refused.value.value == "1"
    assert world.replica.digest() == before
    assert world.row(TABLE, 2) is None


async def test_duplicate_within_one_statement(world: World) -> None:
    with pytest.raises(UniqueViolation):
        world.do(insert(TABLE, message(1), message(1)))
    with pytest.raises(UniqueViolation) as refused:
        world.do(insert(TABLE, message(1, mail="m"), message(2, mail="m")))
    assert refused.value.columns == ("mail",)


async def test_unique_is_per_partition_and_ignores_null(world: World) -> None:
    world.do(insert(TABLE, message(1, mail="m"), message(2), message(3)))
    world.do(insert(TABLE, message(1, mail="m"), partition=BOB))
    with pytest.raises(UniqueViolation):
        world.do(insert(TABLE, message(4, mail="m")))


async def test_unique_value_follows_its_row(world: World) -> None:
    world.do(insert(TABLE, message(1, mail="m")))
    world.do(update(TABLE, 1, {3: "n"}))
    world.do(insert(TABLE, message(2, mail="m")))
    with pytest.raises(UniqueViolation):
        world.do(update(TABLE, 2, {3: "n"}))
    world.do(delete(TABLE, 1))
    world.do(update(TABLE, 2, {3: "n"}))
    assert world.row(TABLE, 2) == message(2, mail="n")


async def test_unique_values_swap_in_one_statement(world: World) -> None:
    world.do(insert(TABLE, message(1, mail="a"), message(2, mail="b")))
    swap = ChangeKeys(
        TABLE,
        ALICE,
        [pk_of(TABLE, 1), pk_of(TABLE, 2)],
        lambda row: row | {3: "b" if row[3] == "a" else "a"},
    )
    assert world.do(swap).updated == 2
    assert world.row(TABLE, 1) == message(1, mail="b")
    with pytest.raises(UniqueViolation):
        world.do(insert(TABLE, message(3, mail="a")))


async def test_uniqueness_holds_against_decisions_not_applied(world: World) -> None:
    first = world.ask(insert(TABLE, message(1, mail="m")))
    same_key = world.ask(insert(TABLE, message(1)))
    same_mail = world.ask(insert(TABLE, message(2, mail="m")))
    world.log.turn()
    assert first.result().affected == 1
    for refused in (same_key, same_mail):
        with pytest.raises(UniqueViolation):
            refused.result()


async def test_not_null_and_check(world: World) -> None:
    with pytest.raises(NotNullViolation) as refused:
        world.do(insert(TABLE, {1: 1}))
    assert refused.value.column == "body"
    with pytest.raises(NotNullViolation):
        world.do(insert(TABLE, {2: "no key"}))
    table = message_table(9, checks=(Check("stars_few", "stars < 6"),))
    checked = World(
        checks=lambda _: (("stars_few", lambda row: None if 4 not in row else row[4] < 6),)
    )
    checked.add(table)
    checked.do(insert(table, message(1), message(2) | {4: 5}))
    with pytest.raises(CheckViolation) as broken:
        checked.do(update(table, 1, {4: 6}))
    assert broken.value.check == "stars_few"


async def test_on_conflict_do_nothing(world: World) -> None:
    world.do(insert(TABLE, message(1, mail="m")))
    outcome = world.do(
        insert(
            TABLE,
            message(1, "other"),
            message(2, mail="m"),
            message(3),
            conflict=DO_NOTHING,
            returning=RETURNING_ALL,
        )
    )
    assert outcome.affected == 1
    assert outcome.rows is not None
    assert [row[0] for row in outcome.rows] == [3]
    assert world.row(TABLE, 1) == message(1, mail="m")


async def test_on_conflict_target_decides(world: World) -> None:
    world.do(insert(TABLE, message(1, mail="m")))
    by_mail = ConflictRule(unique=1, assign=lambda old, new: old | {2: new[2]})
    outcome = world.do(insert(TABLE, message(5, "later", mail="m"), conflict=by_mail))
    assert (outcome.inserted, outcome.updated) == (0, 1)
    assert world.row(TABLE, 1) == message(1, "later", mail="m")
    with pytest.raises(UniqueViolation):  # the primary key is not the target
        world.do(insert(TABLE, message(1, mail="n"), conflict=by_mail))


async def test_on_conflict_where_may_skip(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    rule = ConflictRule(assign=lambda old, new: new, where=lambda old, new: old[2] != "hi")
    assert world.do(insert(TABLE, message(1, "x"), conflict=rule)).affected == 0
    assert world.row(TABLE, 1) == message(1)


async def test_on_conflict_changes_a_row_once(world: World) -> None:
    rule = ConflictRule(assign=lambda old, new: new)
    with pytest.raises(InvalidStatement):
        world.do(insert(TABLE, message(1), message(1, "b"), conflict=rule))
    world.do(insert(TABLE, message(1)))
    with pytest.raises(InvalidStatement):
        world.do(insert(TABLE, message(1, "b"), message(1, "c"), conflict=rule))
    assert world.row(TABLE, 1) == message(1)


async def test_primary_key_cannot_be_changed(world: World) -> None:
    world.do(insert(TABLE, message(1)))
    with pytest.raises(InvalidStatement):
        world.do(update(TABLE, 1, {1: 2}))


async def test_returning_of_each_kind(world: World) -> None:
    made = world.do(insert(TABLE, message(1), message(2), returning=RETURNING_ALL))
    assert made.columns == ("id", "body", "_seq")
    assert made.rows is not None
    assert [row[:2] for row in made.rows] == [(1, "hi"), (2, "hi")]
    changed = world.do(update(TABLE, 2, {2: "x"}, returning=RETURNING_ALL))
    assert changed.rows == ((2, "x", changed.seq),)
    gone = world.do(delete(TABLE, 2, returning=RETURNING_ALL))
    assert gone.rows == ((2, "x", changed.seq),)


async def test_keys_without_a_matching_row_are_skipped(world: World) -> None:
    world.do(insert(TABLE, message(1), message(2, "x")))
    outcome = world.do(delete(TABLE, 1, 2, 2, 9, where=lambda row, seq: row[2] == "x"))
    assert outcome.affected == 1
    assert world.row(TABLE, 1) == message(1)
    nothing = world.do(update(TABLE, 9, {2: "y"}))
    assert nothing.affected == 0


async def test_put_rows_holds_while_the_read_set_does(world: World) -> None:
    seen = world.do(insert(TABLE, message(1), message(2))).seq
    read_set = ReadSet(tables={(TABLE.id, ALICE): seen})
    work = PutRows(TABLE, ALICE, [(pk_of(TABLE, 1), message(1, "x"))], read_set)
    assert world.do(work).updated == 1
    with pytest.raises(Conflict):
        world.do(work)


async def test_put_rows_sees_decisions_not_applied(world: World) -> None:
    seen = world.do(insert(TABLE, message(1))).seq
    world.ask(update(TABLE, 1, {2: "meanwhile"}))
    read_set = ReadSet(rows={(TABLE.id, ALICE, pk_of(TABLE, 1)): seen})
    late = world.ask(PutRows(TABLE, ALICE, [(pk_of(TABLE, 1), None)], read_set))
    world.log.turn()
    with pytest.raises(Conflict):
        late.result()
    assert world.row(TABLE, 1) == message(1, "meanwhile")


async def test_read_set_of_absent_rows(world: World) -> None:
    world.do(insert(TABLE, message(1), message(2)))
    world.do(delete(TABLE, 1))
    absent = ReadSet(rows={(TABLE.id, ALICE, pk_of(TABLE, 1)): Seq(0)})
    assert world.do(PutRows(TABLE, ALICE, [(pk_of(TABLE, 2), None)], absent)).deleted == 1


async def test_drawn_numbers_are_unique_and_below_the_group_seq(world: World) -> None:
    table = message_table(10, primary_key=(ROW_ID_COLUMN_ID,), uniques=())
    world.add(table)
    outcome = world.do(insert(table, {1: 1, 2: "a"}, {1: 1, 2: "b"}, drawn=(ROW_ID_COLUMN_ID,)))
    drawn = [row[ROW_ID_COLUMN_ID] for row in world.rows(table)]
    assert len(set(drawn)) == 2
    assert max(drawn) <= outcome.seq == world.replica.seq_last


async def test_work_is_not_changed_by_deciding_it(world: World) -> None:
    table = message_table(
        11, columns=(Column(1, "id", types.BIGINT), Column(2, "body", types.TEXT)), uniques=()
    )
    world.add(table)
    row = {2: "a"}
    work = insert(table, row, drawn=(1,))
    world.do(work)
    world.do(work)
    assert row == {2: "a"}
    assert len(world.rows(table)) == 2


async def test_stream_delete_leaves_nothing_of_the_row(world: World) -> None:
    world.do(insert(STREAM, message(1, mail="m")))
    world.do(delete(STREAM, 1))
    at = PartitionKeys(STREAM.id, ALICE)
    assert world.store.get(at.row + pk_of(STREAM, 1)) is None
    family = bytes([keys.Family.EXPIRY])
    assert list(world.store.scan(family, family + b"\xff" * 20)) == []


async def test_expired_row_is_hidden_and_makes_room(world: World) -> None:
    world.do(insert(STREAM, message(1, mail="m"), message(2, mail="n")))
    world.clock.pass_s(61)
    assert world.row(STREAM, 1) is None
    assert world.rows(STREAM) == []
    assert world.do(delete(STREAM, 1)).affected == 0
    world.sink.batches.clear()
    world.do(insert(STREAM, message(1, "new", mail="n")))
    ops = [(change.op, change.key) for change in world.sink.changes]
    one, two = pk_of(STREAM, 1), pk_of(STREAM, 2)
    assert ops == [(Op.EXPIRE, two), (Op.EXPIRE, one), (Op.INSERT, one)]
    assert [change.last_of_txn for change in world.sink.changes] == [False, False, True]
    assert world.rows(STREAM) == [message(1, "new", mail="n")]


async def test_schema_version_must_be_the_fences(world: World) -> None:
    newer = replace(TABLE, version=2)
    world.do(PutFence(newer))
    with pytest.raises(SchemaChanged) as changed:
        world.do(insert(TABLE, message(1)))
    assert changed.value.version == 2
    world.do(insert(newer, message(1)))
    with pytest.raises(Unavailable):
        world.do(insert(message_table(99), message(1)))
    assert not world.replica.has_fence(message_table(99))


async def test_dropped_table_takes_no_rows(world: World) -> None:
    world.do(PutFence(TABLE, dropped=True))
    with pytest.raises(UnknownTable):
        world.do(insert(TABLE, message(1)))
    with pytest.raises(UnknownTable):
        world.row(TABLE, 1)
    assert world.sink.closed_tables == [TABLE.id]


async def test_low_disk_refuses_writes_and_keeps_reads() -> None:
    full: list[DiskFull] = []
    world = World(disk_full=lambda: full[0] if full else None)
    world.add(TABLE)
    world.do(insert(TABLE, message(1)))
    full.append(DiskFull(1, 2))
    with pytest.raises(DiskFull):
        world.do(insert(TABLE, message(2)))
    assert world.row(TABLE, 1) == message(1)
    full.clear()
    world.do(insert(TABLE, message(2)))


async def test_large_statement_travels_in_chunks_and_shows_at_once(world: World) -> None:
    rows = [message(n, "x" * 1000, mail=f"m{n}") for n in range(3000)]
    asked = world.ask(insert(TABLE, *rows))
    assert world.log.pull() > 3
    world.log.commit(3)
    assert world.rows(TABLE) == []
    assert not asked.done()
    world.log.commit()
    assert asked.result().inserted == 3000
    assert len(world.rows(TABLE)) == 3000
    assert list(world.store.scan(b"\x1a", b"\x1b")) == []
    with pytest.raises(UniqueViolation):
        world.do(insert(TABLE, message(5000, mail="m7")))


async def test_too_large_a_statement_is_refused() -> None:
    limits = SequencerLimits(effects_bytes_max=2 << 20)
    world = World(limits=ReplicaLimits(limits))
    world.add(TABLE)
    rows = [message(n, "x" * 1000) for n in range(3000)]
    with pytest.raises(StatementTooLarge):
        world.do(insert(TABLE, *rows))
    assert world.rows(TABLE) == []
    world.do(insert(TABLE, message(1)))


async def test_composite_keys_and_unique_of_two(world: World) -> None:
    table = message_table(12, primary_key=(1, 2), uniques=(Unique(1, (3, 4), "pair"),))
    world.add(table)
    world.do(insert(table, {1: 1, 2: "a", 3: "x", 4: 1}, {1: 1, 2: "b", 3: "x", 4: 2}))
    with pytest.raises(UniqueViolation) as refused:
        world.do(insert(table, {1: 2, 2: "a", 3: "x", 4: 2}))
    assert refused.value.value == "x, 2"
    with pytest.raises(UniqueViolation) as refused:
        world.do(insert(table, {1: 1, 2: "a"}))
    assert refused.value.columns == ("id", "body")
