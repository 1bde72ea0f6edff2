"""Rules of changing a group's members, one by one."""

from __future__ import annotations

import pytest

from cluster.raft import journal, progress
from cluster.raft.core import NEVER
from cluster.raft.members import (
    AddLearner,
    Base,
    Demote,
    MemberChange,
    Promote,
    Remove,
    Roster,
    changed,
    decode_base,
    decode_roster,
    encode_base,
    encode_roster,
)
from cluster.raft.wal import Wal
from cluster.raft.wal_recovery import GroupState
from cluster.raft.wire import (
    Accept,
    AskVote,
    GrantVote,
    WouldVote,
)
from kalamdb.errors import Conflict, Indeterminate, InvalidInput, NotLeader, Unavailable
from tests.raft.member_world import MemberWorld
from tests.raft.seat import Seat, append, rows
from tests.raft.world import ModelDisk

JOINER_LIFE = (1 << 62) - 1  # what the dice of a seat give


def entry(term: int, roster: Roster) -> tuple[int, bytes]:
    return (term, encode_roster(roster))


def joiner() -> Seat:
    return Seat(3, joining=True)


# ---- steps and bytes -----------------------------------------------------------------------------


def test_bytes_round_trip() -> None:
    roster = Roster((1, 3, 7), (2, 9), ((3, 77),))
    assert decode_roster(encode_roster(roster)) == roster
    base = Base(roster, 12, known=False, life=5)
    assert decode_base(encode_base(base)) == base
    for data in (
        b"",
        b"\x11",
        b"\x10row",
        encode_roster(roster)[:-1],
        b"\x11\x94\x09\x91\x01\x90\x90",
    ):
        assert decode_roster(data) is None
    for bad in (Roster(()), Roster((2, 1)), Roster((1,), (1,)), Roster((1,), (), ((2, 3),))):
        assert not bad.well_formed()


def test_a_step_moves_one_node() -> None:
    one = Roster((1,))
    two = changed(one, AddLearner(2))
    assert two == Roster((1,), (2,))
    both = changed(two, Promote(2), life=9)
    assert both == Roster((1, 2), (), ((2, 9),))
    assert changed(both, Demote(2)) == two
    assert changed(two, Remove(2)) == one


@pytest.mark.parametrize(
    "change",
    [
        AddLearner(1),
        AddLearner(3),
        Promote(1),
        Promote(9),
        Demote(3),
        Demote(9),
        Remove(1),
        Remove(9),
    ],
)
def test_what_does_not_fit_is_refused(change: MemberChange) -> None:
    with pytest.raises(InvalidInput):
        changed(Roster((1, 2), (3,)), change)


def test_the_last_voter_stays() -> None:
    with pytest.raises(InvalidInput, match="last voter"):
        changed(Roster((1,), (2,)), Demote(1))


# ---- in force ------------------------------------------------------------------------------------


def test_a_roster_is_in_force_when_appended_and_gone_when_cut() -> None:
    seat = Seat()
    seat.say(2, append(1, (1, 0), [*rows(1, 1), entry(1, Roster((1, 2, 3), (4,)))]))
    assert seat.group.members().learners == (4,)
    assert not seat.group.members().committed
    seat.say(2, append(1, (3, 1), [entry(1, Roster((1, 2, 3, 4)))]))
    assert seat.group.status().voters == (1, 2, 3, 4)
    seat.start()  # from the log's window
    assert seat.group.status().voters == (1, 2, 3, 4)
    seat.say(3, append(2, (3, 1), rows(2, 1)))
    assert seat.group.status().voters == (1, 2, 3)
    assert seat.group.members().index == 3
    seat.say(3, append(2, (2, 1), rows(2, 2)))
    assert seat.group.members().index == 0
    seat.start()
    assert seat.group.status().voters == (1, 2, 3)
    assert seat.group.status().learners == ()


def restarts_behind_compaction() -> None:
    seat = Seat(segment_bytes=400)
    seat.say(2, append(1, (1, 0), [entry(1, Roster((1, 2, 3), (4,))), *rows(1, 9)], 11))
    seat.group.journal.start_after(8)
    for index in range(11, 40):  # segments are closed, the first are deleted
        seat.say(2, append(1, (index, 1), rows(1, 1, 60), index + 1))
        seat.group.journal.start_after(index - 1)
    assert len(seat.disk.files) < 9
    seat.start()
    assert seat.group.status().learners == (4,)
    assert seat.group.members().index == 2
    assert seat.group.members().committed


def test_compaction_keeps_the_roster() -> None:
    restarts_behind_compaction()


def test_the_log_rules_over_what_is_given() -> None:
    seat = Seat()
    seat.voters = (1, 2)
    seat.start()
    assert seat.group.status().voters == (1, 2, 3)
    seat.joining = True
    seat.start()
    assert seat.group.status().voters == (1, 2, 3)


def test_an_old_log_takes_what_is_given() -> None:
    disk = ModelDisk()
    old = Wal(disk, bytes(16))
    old.term(0, 4, None)
    old.add(0, 2, 4, b"\x10row")
    batch = old.take()
    assert batch is not None
    old.write(batch)
    assert Wal(disk, bytes(16)).recovered(0) == GroupState(4, None, 1, 0, 2, [(b"\x10row", 2, 4)])
    log = journal.GroupJournal(
        Wal(disk, bytes(16)), 0, 1, node=1, founding=lambda: Base(Roster((1, 2, 3)))
    )
    assert log.members.roster.voters == (1, 2, 3)
    assert log.last_index == 2


# ---- counting ------------------------------------------------------------------------------------


def learners_do_not_count() -> None:
    seat = Seat()
    seat.say(2, append(1, (1, 0), [entry(1, Roster((1, 2, 3), (4, 5, 6)))], 2))
    seat.hub.connected(4)
    seat.hub.connected(5)
    seat.cycle(1.5)
    asks = [(peer, m) for peer, m in seat.sent if isinstance(m, AskVote)]
    assert {peer for peer, _ in asks} == {2, 3}
    ask = asks[0][1]
    assert isinstance(ask, AskVote)
    for peer in (4, 5):
        seat.hear(peer, WouldVote(ask.ask))
    seat.cycle()
    assert seat.group.status().role == "follower"
    seat.hear(2, WouldVote(ask.ask))
    seat.cycle()
    term = seat.group.status().term
    for peer in (4, 5):
        seat.say(peer, GrantVote(term))
    assert seat.group.status().role == "candidate"
    seat.say(2, GrantVote(term))
    assert seat.group.status().role == "leader"
    last = seat.group.journal.last_index
    for peer in (4, 5):
        seat.say(peer, Accept(term, 0, last, 7))
    assert seat.group.commit_index < last
    seat.say(3, Accept(term, 0, last))
    assert seat.group.commit_index == last
    number = seat.group.guard.open_round()
    for peer in (4, 5):
        seat.say(peer, Accept(term, number, last, 7))
    assert not seat.group.guard.confirmed(number)
    seat.now_s += 5
    seat.hear(4, Accept(term, 0, last, 7))
    seat.hear(5, Accept(term, 0, last, 7))
    seat.cycle()
    assert seat.group.status().role == "follower"  # only learners have answered


def test_learners_do_not_count() -> None:
    learners_do_not_count()


def a_demoted_leader_does_not_count_itself() -> None:
    world = MemberWorld(21, size=3)
    leader = world.wait_leader()
    world.run(0.5)
    others = [id for id in world.founders if id != leader]
    group = world.nodes[leader].group()
    asked = world.change(Demote(leader))
    for other in others[1:]:
        world.cut |= {(leader, other), (other, leader)}
    world.run(0.3)
    assert group.members().voters == tuple(others)
    assert group.journal.last_index > group.commit_index, "one of two voters is no majority"
    world.cut.clear()
    assert world.run(5.0, lambda: asked.done)
    assert world.run(5.0, lambda: world.leader() in others)
    world.settle()
    assert group.status().role == "learner"


def test_a_demoted_leader_does_not_count_itself() -> None:
    a_demoted_leader_does_not_count_itself()


def test_a_leader_that_demotes_itself_hands_over() -> None:
    world = MemberWorld(22)
    leader = world.wait_leader()
    world.write(20)
    world.wait_acked(20)
    world.run(0.3)
    start_s = world.now_s
    asked = world.change(Demote(leader))
    assert world.run(1.0, lambda: asked.well and world.leader() not in (None, leader))
    assert world.now_s - start_s < 0.2
    world.write(20)
    world.wait_acked(40)
    world.settle()
    world.make(Remove(leader))
    assert world.run(1.0, lambda: world.nodes[leader].group().removed)
    assert world.nodes[leader].group().due_at_s() == NEVER


# ---- growing -------------------------------------------------------------------------------------


def test_one_grows_to_three_and_shrinks() -> None:
    world = MemberWorld(23, founders=1, size=3)
    world.wait_leader()
    world.write(50)
    world.wait_acked(50)
    world.make(AddLearner(2))
    assert world.nodes[1].group().read_index() is None
    world.make(AddLearner(3), Promote(2), Promote(3))
    assert world.roster(1).voters == (1, 2, 3)
    world.settle()
    assert {id: world.roster(1).life(id) > 0 for id in (1, 2, 3)} == {1: False, 2: True, 3: True}
    world.stop(1)
    world.write_when_led(20)
    world.wait_acked(70)
    world.start(1)
    world.settle()
    for id in (2, 3):
        if world.leader() == id:
            world.hand_over(id, 1)
            assert world.run(2.0, lambda: world.leader() == 1)
    world.run(0.3)
    world.make(Demote(3), Demote(2), Remove(2), Remove(3))
    world.write(10)
    world.wait_acked(80)
    assert world.roster(1) == Roster((1,))
    assert world.nodes[1].group().due_at_s() == NEVER


def a_promoted_learner_votes_before_it_knows() -> None:
    """One grows to two, and dies before the entry leaves: it needs the vote of the other one."""
    world = MemberWorld(24, founders=1, size=2)
    world.wait_leader()
    world.make(AddLearner(2))
    world.run(1.0)
    world.cut |= {(1, 2)}
    world.change(Promote(2))
    world.run(0.1)
    world.stop(1)
    world.cut.clear()
    world.start(1)
    assert world.roster(1).voters == (1, 2)
    assert world.roster(2).voters == (1,)
    assert world.run(10.0, lambda: world.leader() == 1)
    world.settle()


def test_a_promoted_learner_votes_before_it_knows() -> None:
    a_promoted_learner_votes_before_it_knows()


def test_a_learner_is_promoted_when_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BEHIND_ENTRIES_MAX", 5)
    world = MemberWorld(25, size=4)
    leader = world.wait_leader()
    world.cut |= {(leader, 4), (4, leader)}
    world.make(AddLearner(4))
    world.write(50)
    world.wait_acked(50)
    asked = world.change(Promote(4))
    assert isinstance(asked.error, Unavailable)
    assert "lacks" in str(asked.error)
    (told,) = [each for each in world.nodes[leader].group().progress() if each.node == 4]
    assert (told.voter, told.counts, told.caught_up) == (False, False, False)
    assert told.behind_entries > 40
    world.cut.clear()
    world.make(Promote(4))
    assert world.nodes[leader].group().progress()[-1].counts


def test_one_change_at_a_time() -> None:
    world = MemberWorld(26, size=5)
    leader = world.wait_leader()
    first, second = world.change(AddLearner(4)), world.change(AddLearner(5))
    assert isinstance(second.error, Conflict)
    assert world.run(1.0, lambda: first.well)
    assert first.result.learners == (4,)
    assert first.result.committed
    other = next(id for id in world.founders if id != leader)
    refused = world.ask(world.nodes[other].group().propose_members, AddLearner(5))
    assert isinstance(refused.error, NotLeader)
    world.isolate(leader)
    lost = world.change(AddLearner(5))
    assert world.run(3.0, lambda: lost.done)
    assert isinstance(lost.error, Indeterminate)
    world.settle()


def a_minority_cannot_shrink_the_group() -> None:
    """Two of five, cut off, take the others' votes one after the other."""
    world = MemberWorld(34, founders=5, size=5)
    world.wait_leader()
    world.hand_over(world.wait_leader(), 1)
    assert world.run(2.0, lambda: world.leader() == 1)
    world.run(0.5)
    world.cut |= {(a, b) for a in (1, 2, 3, 4, 5) for b in (1, 2, 3, 4, 5) if (a < 3) != (b < 3)}
    for change in (Demote(5), Demote(4), Demote(3)):
        world.change(change)
    world.write(5)
    world.run(3.0)
    assert world.leader() in (3, 4, 5)
    world.write(5)
    world.run(1.0)
    world.settle()


def test_a_minority_cannot_shrink_the_group() -> None:
    a_minority_cannot_shrink_the_group()


def a_new_leader_waits_for_its_no_op() -> None:
    seat = Seat()
    seat.lead()
    try:
        seat.group.propose_members(AddLearner(4))
    except NotLeader:
        return
    except RuntimeError:  # it would have, had there been a loop to wait on
        pass
    raise AssertionError("it changed members before its own no-op was committed")


def test_a_new_leader_waits_for_its_no_op() -> None:
    a_new_leader_waits_for_its_no_op()


def test_no_change_to_voters_that_are_silent() -> None:
    world = MemberWorld(27, size=4)
    leader = world.wait_leader()
    world.make(AddLearner(4), Promote(4))
    others = [id for id in (1, 2, 3, 4) if id != leader]
    world.stop(others[0])
    world.run(2.0)
    group = world.nodes[leader].group()
    world.make(Demote(others[0]))
    world.stop(others[1])
    world.run(1.5, lambda: world.now_s - group.guard.majority_at_s(world.roster(leader)) > 1)
    refused = world.change(Demote(others[2])) if group.ready else None
    assert refused is None or isinstance(refused.error, Unavailable | NotLeader)
