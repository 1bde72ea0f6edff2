"""Apply: what it voids, what it refuses to believe, what it publishes; the same on every member."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import pytest

from kalamdb.errors import Corruption, KalamError
from kalamdb.model import codec, keys
from kalamdb.model.change import Op
from kalamdb.model.command import Command
from kalamdb.model.ids import GroupId, Seq
from kalamdb.ports import LogEntry
from kalamdb.replica.replica import Replica
from kalamdb.store.memory import MemoryStore
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    HandLog,
    ListSink,
    TestClock,
    World,
    delete,
    insert,
    message,
    message_table,
    tag,
    update,
)

TABLE = message_table()


class Died(Exception):
    def __init__(self, error: KalamError) -> None:
        self.error = error


def die(error: KalamError) -> NoReturn:
    raise Died(error)


@pytest.fixture
async def world() -> World:
    made = World()
    made.add(TABLE)
    return made


def follower_of(world: World) -> tuple[Replica, HandLog]:
    """Another member that holds the same log."""
    replica = Replica(GroupId(1), MemoryStore(GroupId(1)), ListSink(), TestClock(0), fatal=die)
    log = HandLog(replica)
    log.follow(world.log)
    return replica, log


def busy(world: World) -> None:
    """A bit of everything, several commands in some entries."""
    for number in range(4):
        world.ask(insert(TABLE, message(number, mail=f"m{number}")), tag(f"r{number}"))
    world.log.turn()
    world.ask(update(TABLE, 1, {2: "b"}))
    world.ask(update(TABLE, 1, {2: "c"}))
    world.ask(delete(TABLE, 2))
    world.ask(insert(TABLE, message(2, "again"), partition=BOB))
    world.log.turn()
    world.do(insert(TABLE, *(message(100 + n, "x" * 1000) for n in range(1500))))


async def test_members_have_equal_digests_however_entries_are_grouped(world: World) -> None:
    busy(world)
    for step in (1, 3, None):
        replica, log = follower_of(world)
        while replica.applied() != world.replica.applied():
            log.commit(step)
        assert replica.digest() == world.replica.digest()
        assert replica.seq_last == world.replica.seq_last


async def test_leader_applies_what_it_decided_as_if_it_had_decoded_it(world: World) -> None:
    """The leader skips decoding: changes, catalog and store must not depend on it."""
    busy(world)
    replica, log = follower_of(world)
    log.commit()
    sink = replica._sink
    assert isinstance(sink, ListSink)
    assert sink.changes == world.sink.changes


async def test_applying_again_changes_nothing(world: World) -> None:
    busy(world)
    before = world.replica.digest()
    world.replica.apply(world.log.entries)
    assert world.replica.digest() == before
    # Also over what it did: the mark says the entry is not applied, its effects are there.
    world.do(update(TABLE, 1, {2: "z"}), tag("again"))
    before = world.replica.digest()
    older = world.store.mark()
    world.store.write([], replace(older, index=older.index - 1, seq_last=prev_of_last(world)))
    world.replica.apply(world.log.entries)
    assert world.replica.digest() == before


def prev_of_last(world: World) -> Seq:
    return codec.decode_entry(world.log.entries[-1].payload).prev_seq


async def test_entry_of_another_term_is_void_as_a_whole(world: World) -> None:
    before = world.replica.seq_last
    payload = codec.encode_entry(
        7, before, Seq(before + 1024), 0, [codec.encode_command(Command(((b"\x10k", b"v"),)))]
    )
    index = world.replica.applied().index
    world.replica.apply([LogEntry(index + 1, 8, payload)])
    assert world.store.get(b"\x10k") is None
    assert world.replica.seq_last == before
    assert world.replica.applied().index == index + 1
    assert world.replica.statistics().machine.void == 1


async def test_broken_chain_halts(world: World) -> None:
    world.ask(insert(TABLE, message(1)))
    world.log.pull()
    world.log.forget()
    replica, log = follower_of(world)
    log.commit()
    index = replica.applied().index
    bad = codec.encode_entry(1, Seq(5), Seq(1024), 0, [])
    with pytest.raises(Died) as died:
        replica.apply([LogEntry(index + 1, 1, bad)])
    assert isinstance(died.value.error, Corruption)
    assert died.value.error.offset == index + 1


@pytest.mark.parametrize("payload", [b"\x63", b"\x01\xff", b"\x01\x93\x01\x02\x03"])
async def test_entry_that_cannot_be_read_halts(world: World, payload: bytes) -> None:
    replica, log = follower_of(world)
    log.commit()
    before = replica.digest()
    with pytest.raises(Died):
        replica.apply([LogEntry(replica.applied().index + 1, 1, payload)])
    assert replica.digest() == before


async def test_missing_chunk_halts(world: World) -> None:
    world.ask(insert(TABLE, *(message(n, "x" * 1000) for n in range(1500))))
    world.log.pull()
    replica, log = follower_of(world)
    commit = log.entries.pop()
    log.commit()
    chunk = next(key for key, _ in replica.snapshot()._reader.scan(b"\x1a", b"\x1b"))
    store = replica._store
    store.write([(chunk, None)], store.mark())
    with pytest.raises(Died):
        replica.apply([commit])


async def test_changes_have_both_images(world: World) -> None:
    first = world.do(insert(TABLE, message(1))).seq
    world.sink.batches.clear()
    world.ask(update(TABLE, 1, {2: "b"}))
    world.ask(update(TABLE, 1, {2: "c"}))
    world.ask(delete(TABLE, 1))
    world.log.turn()
    assert len(world.sink.batches) == 1
    b, c, gone = world.sink.changes
    assert (b.before, b.before_seq, b.after) == (message(1), first, message(1, "b"))
    assert (c.before, c.before_seq, c.after) == (message(1, "b"), b.seq, message(1, "c"))
    assert (gone.op, gone.before, gone.after) == (Op.DELETE, message(1, "c"), None)
    assert [b.prev_seq, c.prev_seq, gone.prev_seq] == [first, b.seq, c.seq]
    assert world.sink.batches[0].seq_last == gone.seq == world.replica.seq_last


async def test_published_changes_are_what_a_snapshot_reads(world: World) -> None:
    busy(world)
    with world.replica.snapshot() as snapshot:
        for partition in (ALICE, BOB):
            read = list(snapshot.changes(TABLE, partition, Seq(0), snapshot.seq))
            published = [c for c in world.sink.changes if c.partition == partition]
            assert read == published


async def test_only_watched_chains_are_published(world: World) -> None:
    world.sink.watched = {keys.chain(TABLE.id, BOB)}
    world.do(insert(TABLE, message(1)))
    world.do(insert(TABLE, message(1), partition=BOB))
    assert [change.partition for change in world.sink.changes] == [BOB]


async def test_last_of_txn_marks_the_end_of_each_statement(world: World) -> None:
    world.ask(insert(TABLE, message(1), message(2)))
    world.ask(insert(TABLE, message(3)))
    world.log.turn()
    assert [change.last_of_txn for change in world.sink.changes] == [False, True, True]


async def test_no_op_entries_move_the_mark(world: World) -> None:
    before = world.replica.digest()
    index = world.replica.applied().index
    world.replica.apply([LogEntry(index + 1, 4, b""), LogEntry(index + 2, 5, b"")])
    assert world.replica.applied().index == index + 2
    assert world.replica.applied().term == 5
    assert world.replica.digest() != before  # the mark is part of it
