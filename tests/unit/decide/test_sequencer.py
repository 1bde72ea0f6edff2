"""The sequencer's promises: order, verdicts, what survives a lost leadership, request ids."""

from __future__ import annotations

import asyncio

import pytest

from kalamdb.decide.sequencer import SequencerLimits
from kalamdb.errors import (
    Indeterminate,
    NotLeader,
    Overloaded,
    RequestIdReused,
    Unavailable,
    UniqueViolation,
)
from kalamdb.model import codec
from kalamdb.model.command import Entry
from kalamdb.model.ids import (
    HOUR_MS,
    SEQ_EPOCH_MS,
    GroupId,
    Seq,
    TenantId,
    slot_of,
    tenant_partition,
)
from kalamdb.model.work import OpenSlots, PutFence, PutRows, ReadSet, TrimBefore
from kalamdb.replica.replica import Replica, ReplicaLimits
from kalamdb.store.memory import MemoryStore
from tests.unit.replica.harness import (
    ALICE,
    BOB,
    RETURNING_ALL,
    START_MS,
    HandLog,
    ListSink,
    TestClock,
    World,
    delete,
    insert,
    message,
    message_table,
    pk_of,
    tag,
    update,
)

TABLE = message_table()


def made(*, sole: bool = True, **limits: int) -> World:
    world = World(sole=True, limits=ReplicaLimits(SequencerLimits(**limits)))
    world.add(TABLE)
    world.log.sole = sole
    return world


def entries_of(world: World) -> list[Entry]:
    return [codec.decode_entry(entry.payload) for entry in world.log.entries if entry.payload]


async def turns(count: int = 3) -> None:
    """Let callbacks of answered read indexes run."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---- order ---------------------------------------------------------------------------------------


async def test_nothing_is_decided_before_the_own_first_entry_is_applied() -> None:
    clock, store = TestClock(), MemoryStore(GroupId(1))
    replica = Replica(GroupId(1), store, ListSink(), clock)
    HandLog(replica)
    with pytest.raises(NotLeader):
        replica.write(insert(TABLE, message(1))).result()
    assert replica.take(1, 1 << 20) is None
    with pytest.raises(NotLeader):
        replica.barrier()


async def test_entries_chain_by_prev_seq() -> None:
    world = made()
    for number in range(3):
        world.ask(insert(TABLE, message(number)))
        world.log.pull()
    world.log.commit()
    found = entries_of(world)
    assert [entry.prev_seq for entry in found[1:]] == [entry.seq_last for entry in found[:-1]]
    assert all(entry.term == 1 for entry in found)


async def test_queued_commands_go_in_one_entry_up_to_its_size() -> None:
    world = made()
    asked = [world.ask(insert(TABLE, message(n, "x" * 300))) for n in range(20)]
    assert world.log.pull() == 1
    asked += [world.ask(insert(TABLE, message(100 + n, "x" * 300))) for n in range(20)]
    assert world.log.pull(2048) > 3
    world.log.commit()
    assert all(each.result().affected == 1 for each in asked)


async def test_take_of_another_term_gives_nothing() -> None:
    world = made()
    asked = world.ask(insert(TABLE, message(1)))
    assert world.replica.take(2, 1 << 20) is None
    world.log.turn()
    assert asked.result().affected == 1


async def test_seqs_rise_when_the_clock_goes_back_and_over_terms() -> None:
    world = made()
    seqs = [world.do(insert(TABLE, message(1))).seq]
    world.clock.now_ms = START_MS - 3_600_000
    seqs.append(world.do(insert(TABLE, message(2))).seq)
    world.log.lose()
    world.log.elect(2)
    seqs.append(world.do(insert(TABLE, message(3))).seq)
    assert seqs == sorted(set(seqs))
    assert all(seq % 1024 == 1 for seq in seqs)


async def test_a_new_leader_goes_on_above_seqs_it_only_applied() -> None:
    """Another member's entries were applied here; this one leads next, with a clock far behind."""
    world = made()
    world.do(insert(TABLE, message(1)))
    follower = Replica(GroupId(1), MemoryStore(GroupId(1)), ListSink(), TestClock(START_MS - 10**9))
    log = HandLog(follower)
    log.follow(world.log)
    log.commit()
    log.elect(2)
    asked = follower.write(insert(TABLE, message(2)))
    log.turn()
    assert asked.result().seq > world.replica.seq_last
    assert follower.digest() != world.replica.digest()


async def test_overlay_keeps_a_key_until_its_last_command_is_applied() -> None:
    world = made()
    world.do(insert(TABLE, message(1, mail="m")))
    for step in (
        delete(TABLE, 1),
        insert(TABLE, message(1, "second", mail="m")),
        delete(TABLE, 1),
    ):
        world.ask(step)
        world.log.pull()
    world.log.commit(1)
    clash = world.ask(insert(TABLE, message(1, "third", mail="m")))
    world.log.commit(1)
    same = world.ask(insert(TABLE, message(1)))
    world.log.turn()
    assert clash.result().inserted == 1
    with pytest.raises(UniqueViolation):
        same.result()
    assert world.replica.statistics().sequencer.overlay_keys == 0


async def test_overlay_outlives_the_first_of_two_commands_on_a_key() -> None:
    world = made()
    world.do(insert(TABLE, message(1)))
    for step in (delete(TABLE, 1), insert(TABLE, message(1, "second"))):
        world.ask(step)
        world.log.pull()
    world.log.commit(1)
    refused = world.ask(insert(TABLE, message(1, "third")))
    world.log.turn()
    assert isinstance(refused.exception(), UniqueViolation)
    assert world.row(TABLE, 1) == message(1, "second")


async def test_chain_that_was_let_go_within_a_decision_does_not_fork() -> None:
    world = made(chains_max=1)
    seen = world.do(insert(TABLE, message(1))).seq
    read_set = ReadSet(tables={(TABLE.id, BOB): Seq(0), (TABLE.id, ALICE): seen})
    world.ask(PutRows(TABLE, ALICE, [(pk_of(TABLE, 1), message(1, "b"))], read_set))
    world.ask(insert(TABLE, message(2)))
    world.log.turn()
    one, two, three = world.sink.changes
    assert (two.prev_seq, three.prev_seq) == (one.seq, two.seq)


async def test_chain_survives_a_cache_that_lets_go() -> None:
    world = made(chains_max=1)
    seqs: dict[bytes, list[Seq]] = {ALICE: [], BOB: []}
    for number in range(3):
        for partition in (ALICE, BOB):
            world.ask(insert(TABLE, message(number), partition=partition))
    world.log.turn()
    for change in world.sink.changes:
        assert change.prev_seq == (seqs[change.partition] or [0])[-1]
        seqs[change.partition].append(change.seq)
    assert all(len(chain) == 3 for chain in seqs.values())


async def test_slot_that_is_not_open_here_is_refused() -> None:
    world = World()
    store = MemoryStore(GroupId(2))
    other = Replica(GroupId(2), store, ListSink(), world.clock)
    log = HandLog(other)
    log.elect(1)
    carol = tenant_partition(TenantId("carol"))
    assert not other.owns_slots
    other.write(OpenSlots((slot_of(carol),), 1))
    log.turn()
    assert other.owns_slots
    with pytest.raises(Unavailable):  # open, but no fence yet
        other.write(insert(TABLE, message(1), partition=carol)).result()
    world.add(TABLE)
    assert slot_of(ALICE) != slot_of(carol)
    other.write(PutFence(TABLE))
    log.turn()
    with pytest.raises(NotLeader):
        other.write(insert(TABLE, message(1))).result()


async def test_bounded_queue() -> None:
    world = made(commands_max=4)
    asked = [world.ask(insert(TABLE, message(n))) for n in range(5)]
    with pytest.raises(Overloaded):
        asked[4].result()
    world.log.turn()
    assert all(each.result().affected == 1 for each in asked[:4])


# ---- verdicts: answers without an entry ---------------------------------------------------------


async def test_refusal_waits_for_what_was_decided_before_it() -> None:
    world = made()
    first = world.ask(insert(TABLE, message(1)))
    refused = world.ask(insert(TABLE, message(1)))
    world.log.pull()
    assert not refused.done()
    world.log.commit()
    assert first.done()
    assert isinstance(refused.exception(), UniqueViolation)


async def test_refusal_is_unavailable_when_what_it_rests_on_is_lost() -> None:
    world = made()
    first = world.ask(insert(TABLE, message(1)))
    refused = world.ask(insert(TABLE, message(1)))
    world.log.pull()
    world.log.lose()
    assert isinstance(first.exception(), Indeterminate)
    assert type(refused.exception()) is Unavailable


async def test_refusal_waits_for_confirmed_leadership() -> None:
    world = made(sole=False)
    world.ask(insert(TABLE, message(1)))
    world.log.turn()
    refused = world.ask(insert(TABLE, message(1)))
    await turns()
    assert not refused.done()
    world.log.confirm()
    await turns()
    assert isinstance(refused.exception(), UniqueViolation)


async def test_refusal_is_unavailable_when_leadership_is_not_confirmed() -> None:
    world = made(sole=False)
    world.ask(insert(TABLE, message(1)))
    world.log.turn()
    refused = world.ask(insert(TABLE, message(1)))
    world.log.confirm(Unavailable("deposed"))
    await turns()
    assert type(refused.exception()) is Unavailable


async def test_confirmation_alone_is_not_enough() -> None:
    world = made(sole=False)
    world.ask(insert(TABLE, message(1)))
    refused = world.ask(insert(TABLE, message(1)))
    world.log.confirm()
    await turns()
    assert not refused.done()
    world.log.turn()
    assert isinstance(refused.exception(), UniqueViolation)


async def test_nothing_to_do_is_a_verdict_too() -> None:
    world = made(sole=False)
    asked = world.ask(update(TABLE, 1, {2: "x"}))
    assert world.log.pull() == 0
    assert not asked.done()
    world.log.confirm()
    await turns()
    assert asked.result().affected == 0


# ---- leadership lost ----------------------------------------------------------------------------


async def test_queued_is_surely_not_done_and_appended_may_be() -> None:
    world = made()
    appended = world.ask(insert(TABLE, message(1)))
    world.log.pull()
    queued = world.ask(insert(TABLE, message(2)))
    world.log.lose()
    assert isinstance(appended.exception(), Indeterminate)
    assert type(queued.exception()) is Unavailable
    assert world.sink.closed == ["the quorum was lost"]
    world.log.elect(2)
    world.log.commit()
    assert world.row(TABLE, 1) == message(1)
    assert world.row(TABLE, 2) is None


async def test_overlay_does_not_outlive_the_term() -> None:
    world = made()
    world.ask(insert(TABLE, message(1)))
    world.log.pull()
    world.log.forget()  # the entry never got anywhere
    world.log.lose()
    world.log.elect(2)
    assert world.do(insert(TABLE, message(1, "anew"))).inserted == 1
    assert world.row(TABLE, 1) == message(1, "anew")


async def test_entry_under_another_term_is_void_and_unavailable() -> None:
    world = made()
    asked = world.ask(insert(TABLE, message(1)))
    after = world.ask(insert(TABLE, message(2)))
    payload = world.replica.take(1, 300)
    assert payload is not None
    world.log.append(payload, term=2)
    world.log.commit()
    assert type(asked.exception()) is Unavailable
    assert type(after.exception()) is Unavailable
    assert not world.replica.leads
    assert world.row(TABLE, 1) is None
    world.log.lose()
    world.log.elect(3)
    assert world.do(insert(TABLE, message(1))).inserted == 1


async def test_own_entry_of_an_earlier_term_is_applied_later() -> None:
    world = made()
    world.ask(insert(TABLE, message(1)))
    world.log.pull()
    world.log.lose()
    world.log.elect(2)
    with pytest.raises(UniqueViolation):
        world.do(insert(TABLE, message(1)))


async def test_chunks_without_their_commit_are_removed_by_the_next_leader() -> None:
    world = made()
    world.ask(insert(TABLE, *(message(n, "x" * 1000) for n in range(2000))))
    world.log.pull()
    world.log.forget()  # the commit is lost, its chunks are not
    world.log.lose()
    world.log.elect(2)
    assert list(world.store.scan(b"\x1a", b"\x1b")) != []
    world.log.turn()
    assert list(world.store.scan(b"\x1a", b"\x1b")) == []
    assert world.rows(TABLE) == []


# ---- request ids --------------------------------------------------------------------------------


async def test_repeat_waits_for_the_pending_command() -> None:
    world = made()
    first = world.ask(insert(TABLE, message(1)), tag("r"))
    again = world.ask(insert(TABLE, message(1)), tag("r"))
    gone = world.ask(insert(TABLE, message(1)), tag("r"))
    gone.cancel()
    assert not again.done()
    world.log.turn()
    assert first.result() == again.result()
    assert len(world.rows(TABLE)) == 1


async def test_repeat_later_gets_the_stored_outcome_over_terms() -> None:
    world = made()
    work = insert(TABLE, message(1), returning=RETURNING_ALL)
    first = world.do(work, tag("r"))
    world.log.lose()
    world.log.elect(2)
    assert world.do(work, tag("r")) == first
    with pytest.raises(UniqueViolation):
        world.do(work, tag("r", number=2))


async def test_another_text_under_an_id_is_refused() -> None:
    world = made()
    pending = world.ask(insert(TABLE, message(1)), tag("r"))
    clash = world.ask(insert(TABLE, message(2)), tag("r", b"other"))
    world.log.turn()
    assert pending.result().affected == 1
    assert isinstance(clash.exception(), RequestIdReused)
    with pytest.raises(RequestIdReused):
        world.do(insert(TABLE, message(2)), tag("r", b"other"))


async def test_statement_without_effect_keeps_its_outcome() -> None:
    world = made()
    assert world.do(delete(TABLE, 1), tag("r")).affected == 0
    world.do(insert(TABLE, message(1)))
    assert world.do(delete(TABLE, 1), tag("r")).affected == 0
    assert world.row(TABLE, 1) == message(1)


async def test_large_outcome_is_kept_without_rows() -> None:
    world = made()
    work = insert(TABLE, message(1, "x" * 5000), returning=RETURNING_ALL)
    assert world.do(work, tag("r")).rows is not None
    again = world.do(work, tag("r"))
    assert (again.affected, again.rows, again.columns) == (1, None, None)


async def test_ids_are_bounded_by_refusal_and_leave_with_their_hour() -> None:
    world = made(request_ids_max=2)
    world.do(insert(TABLE, message(1)), tag("a"))
    world.do(insert(TABLE, message(2)), tag("b"))
    with pytest.raises(Overloaded):
        world.do(insert(TABLE, message(3)), tag("c"))
    assert world.do(insert(TABLE, message(1)), tag("a")).affected == 1
    hour = (START_MS - SEQ_EPOCH_MS) // HOUR_MS
    while world.do(TrimBefore(hour, hour + 1)).affected:
        pass
    world.do(insert(TABLE, message(3)), tag("c"))
    with pytest.raises(UniqueViolation):  # the id is forgotten: a new statement
        world.do(insert(TABLE, message(1)), tag("a"))


async def test_staged_statement_keeps_its_request_id() -> None:
    world = made()
    work = insert(TABLE, *(message(n, "x" * 1000) for n in range(2000)))
    first = world.do(work, tag("r"))
    assert first.inserted == 2000
    assert world.do(work, tag("r")) == first
    assert len(world.rows(TABLE)) == 2000


async def test_an_answer_of_an_older_chain_does_not_set_the_group_back() -> None:
    """What a statement answers is its chain's seq; an entry's `seq_last` is the group's."""
    world = made()
    world.do(insert(TABLE, message(1), partition=BOB))
    world.do(insert(TABLE, message(1), partition=ALICE))
    before = world.replica.seq_last
    outcome = world.do(update(TABLE, 99, {2: "nobody"}, partition=BOB), tag("empty"))
    assert outcome.affected == 0
    assert outcome.seq < before
    assert world.replica.seq_last == before
    assert all(entry.seq_last >= entry.prev_seq for entry in entries_of(world))
    world.do(insert(TABLE, message(2), partition=ALICE))
    assert world.replica.seq_last > before
