"""Members that are not what they were: lost disks, images, those who are out; handing over."""

from __future__ import annotations

import pytest

from cluster.raft import handover, journal
from cluster.raft.core import NEVER
from cluster.raft.members import (
    AddLearner,
    Demote,
    Promote,
    Remove,
    Roster,
    encode_roster,
)
from cluster.raft.wire import (
    Accept,
    Append,
    AskMembers,
    AskVote,
    Gone,
    GrantVote,
    Pointer,
    RequestVote,
    Stale,
    TakeOver,
    TellMembers,
    WouldVote,
)
from kalamdb.errors import Conflict, InvalidInput, NotLeader, Unavailable
from kalamdb.ports import AppliedMark
from tests.raft.member_world import MemberWorld
from tests.raft.seat import Seat, append, rows

JOINER_LIFE = (1 << 62) - 1  # what the dice of a seat give


def entry(term: int, roster: Roster) -> tuple[int, bytes]:
    return (term, encode_roster(roster))


def joiner() -> Seat:
    return Seat(3, joining=True)


# ---- lives ---------------------------------------------------------------------------------------


def a_lost_disk_is_another_member() -> None:
    """1 and 3 hold an acknowledged entry, 3 loses its disk, 1 is away: 2 must not win."""
    world = MemberWorld(28, size=3)
    world.wait_leader()
    world.hand_over(world.wait_leader(), 1)
    world.run(2.0, lambda: world.leader() == 1)
    world.run(0.5)
    world.isolate(2)
    world.write(30)
    world.wait_acked(30)
    world.lose_disk(3)
    world.stop(1)
    world.cut.clear()
    world.start(3)
    world.run(10.0)
    assert world.leader() is None
    world.start(1)
    world.settle()
    (told,) = [each for each in world.nodes[1].group().progress() if each.node == 3]
    assert told.voter
    assert not told.counts
    world.make(Demote(3), Promote(3))
    assert world.roster(1).life(3) > 0
    world.stop(2)
    world.write_when_led(5)
    world.wait_acked(35)


def test_a_lost_disk_is_another_member() -> None:
    a_lost_disk_is_another_member()


def test_a_joining_member_answers_for_its_life_only() -> None:
    seat = joiner()
    assert seat.group.status().voters == ()
    assert seat.group.due_at_s() == NEVER
    assert seat.say(2, RequestVote(5, 99, 4)) == []
    assert seat.group.status().term == 5  # heard, not followed
    assert seat.say(2, AskVote(1, 5, 99, 5)) == []
    assert seat.say(3, AskVote(2, 5, 99, 5, JOINER_LIFE)) == [WouldVote(2)]
    assert seat.say(3, RequestVote(6, 99, 5, JOINER_LIFE)) == [GrantVote(6)]
    seat.start()
    assert seat.say(2, RequestVote(6, 99, 5, JOINER_LIFE)) == []
    assert seat.say(2, AskVote(1, 6, 99, 6)) == []


def test_a_joining_member_does_not_campaign_by_an_old_roster() -> None:
    seat = joiner()
    said = seat.say(2, append(3, (1, 0), rows(1, 3), 3))
    assert said == [AskMembers(3, 1), Accept(3, 0, 4, JOINER_LIFE)]
    assert seat.say(2, TellMembers(3, 1, 0, (1, 2, 3), (), ())) == []
    assert seat.group.status().voters == (1, 2, 3)  # an older life of it
    assert seat.group.status().role == "learner"
    assert seat.group.due_at_s() == NEVER
    seat.sent.clear()
    seat.cycle(9.0)
    assert seat.sent == []
    assert seat.say(2, TakeOver(3)) == []
    mine = Roster((1, 2, 3), (), ((1, JOINER_LIFE),))
    seat.say(2, append(3, (4, 1), [entry(3, mine)], 5))
    assert seat.group.status().role == "follower"
    assert any(isinstance(m, RequestVote) and m.asked_to for m in seat.say(2, TakeOver(3)))


def test_what_another_life_acknowledges_does_not_count() -> None:
    seat = Seat()
    term = seat.lead()
    last = seat.group.journal.last_index
    for peer in (2, 3):
        seat.say(peer, Accept(term, 0, last, 99))
    assert seat.group.commit_index < last
    assert [each.counts for each in seat.group.progress()] == [False, False]
    seat.say(2, Accept(term, 0, last))
    assert seat.group.commit_index == last


# ---- images --------------------------------------------------------------------------------------


def an_image_leaves_the_roster_open() -> None:
    seat = Seat()
    seat.say(2, append(1, (1, 0), rows(1, 3), 4))
    seat.say(2, Pointer(2, 0, 20, 2))
    seat.machine.image_mark = AppliedMark(25, 2)
    seat.work()
    seat.cycle()
    seat.start()
    seat.sent.clear()
    seat.cycle(9.0)
    assert seat.sent == [], "it may not know who votes"
    said = seat.say(2, append(2, (25, 2), []))
    assert said == [AskMembers(2, 25), Accept(2, 0, 25)]
    seat.say(3, TellMembers(2, 25, 24, (1, 2, 3, 4), (5,), ()))  # does not lead
    seat.say(2, TellMembers(2, 24, 24, (1, 2, 3, 4), (5,), ()))  # as of another index
    assert not seat.group.journal.members.known
    seat.say(2, TellMembers(2, 25, 24, (1, 2, 3, 4), (5,), ()))
    assert (seat.group.members().voters, seat.group.members().index) == ((1, 2, 3, 4), 24)
    seat.start()
    assert seat.group.status().learners == (5,)
    seat.hub.connected(4)
    seat.cycle(9.0)
    assert {peer for peer, m in seat.sent if isinstance(m, AskVote)} == {2, 3, 4}


def test_an_image_leaves_the_roster_open() -> None:
    an_image_leaves_the_roster_open()


def test_a_leader_tells_who_was_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEEP_ENTRIES", 5)
    seat = Seat()
    roster = Roster((1, 2, 3), (4,))
    seat.say(2, append(1, (1, 0), [*rows(1, 3), entry(1, roster), *rows(1, 9)], 14))
    term = seat.lead()
    assert seat.say(3, AskMembers(term, 4)) == [TellMembers(term, 4, 0, (1, 2, 3), (), ())]
    assert seat.say(3, AskMembers(term, 5)) == [TellMembers(term, 5, 5, (1, 2, 3), (4,), ())]
    seat.group.journal.start_after(9)
    assert seat.say(3, AskMembers(term, 4)) == []
    assert seat.say(3, AskMembers(term, 7)) == [TellMembers(term, 7, 5, (1, 2, 3), (4,), ())]
    assert seat.say(3, AskMembers(term, 99)) == []
    assert seat.say(3, AskMembers(term - 1, 7)) == []


# ---- those who are out ---------------------------------------------------------------------------


def a_removed_member_disturbs_nobody() -> None:
    world = MemberWorld(29, size=4)
    leader = world.wait_leader()
    world.make(AddLearner(4), Promote(4))
    world.isolate(4)
    world.make(Demote(4), Remove(4))
    term = world.nodes[leader].group().status().term
    world.run(5.0)
    world.heal()
    world.run(10.0)
    assert world.leader() == leader
    assert {world.nodes[id].group().status().term for id in (1, 2, 3)} == {term}
    gone = world.nodes[4].group()
    assert gone.removed
    assert gone.due_at_s() == NEVER, "it was told, and asks no more"
    world.make(AddLearner(4), Promote(4))
    world.settle()
    assert not gone.removed


def test_a_removed_member_disturbs_nobody() -> None:
    a_removed_member_disturbs_nobody()


def test_who_is_out_is_told_when_it_asks() -> None:
    seat = Seat()
    seat.hub.connected(4)
    seat.hub.connected(5)
    seat.say(2, append(1, (1, 0), [entry(1, Roster((1, 2, 3), (4,)))]))
    assert seat.say(4, AskVote(1, 0, 99, 9, 0, 1)) == [Stale(1)]  # it is not committed
    seat.say(2, append(1, (2, 1), [], 2))
    assert seat.say(4, AskVote(1, 1, 99, 9, 0, 1)) == [Gone(2, learner=True)]
    assert seat.say(5, AskVote(1, 1, 99, 9, 0, 1)) == [Gone(2, learner=False)]
    seat.now_s += 2
    assert seat.say(5, AskVote(1, 1, 99, 9, 0, 3)) == [WouldVote(1)]  # by a newer entry


def a_vote_is_not_given_while_a_leader_is_heard() -> None:
    seat = Seat()
    seat.say(2, append(1, (1, 0), rows(1, 3)))
    assert seat.say(3, RequestVote(9, 99, 9)) == []
    assert seat.group.status().term == 1
    assert seat.say(3, RequestVote(9, 99, 9, asked_to=True)) == [GrantVote(9)]


def test_a_vote_is_not_given_while_a_leader_is_heard() -> None:
    a_vote_is_not_given_while_a_leader_is_heard()


def test_a_member_closed_is_forgotten() -> None:
    seat = Seat(segment_bytes=400)
    for index in range(1, 20):
        seat.say(2, append(1, (index, 1 if index > 1 else 0), rows(1, 1, 60), index + 1))
    assert len(seat.disk.files) > 1
    seat.hub.close_group(0)
    seat.cycle()
    seat.hub.close_group(0)  # twice is once
    seat.machine.mark = AppliedMark(0, 0)
    group = seat.hub.open(0, (), seat.machine)
    assert group.journal.last_index == 1
    assert group.status().term == 0
    seat.cycle()
    assert seat.say(2, append(3, (1, 0), rows(3, 1)))[-1] == Accept(3, 0, 2, JOINER_LIFE)
    assert len(seat.disk.files) == 1
    seat.joining = True
    seat.start()
    assert seat.log() == [(1, 0), (2, 3)]


def test_a_group_nobody_opens_can_be_closed() -> None:
    seat = Seat()
    other = seat.hub.open(7, seat.voters, type(seat.machine)())
    seat.cycle()
    assert other.status().voters == (1, 2, 3)
    seat.start()
    assert seat.hub.unopened() == [7]
    seat.hub.close_group(7)
    seat.cycle()
    seat.start()
    assert seat.hub.unopened() == []


def test_a_member_is_not_closed_while_it_installs() -> None:
    seat = Seat()
    seat.say(2, Pointer(2, 0, 20, 2))
    with pytest.raises(Unavailable):
        seat.hub.close_group(0)
    seat.spawned.pop().close()


# ---- handing over, and being in touch ------------------------------------------------------------


def test_a_hand_over_waits_for_the_peer_and_the_answers() -> None:
    world = MemberWorld(30)
    leader = world.wait_leader()
    other = next(id for id in world.founders if id != leader)
    world.write(300, size_bytes=2000)
    machine = world.nodes[leader].machines[0]
    world.run(1.0, lambda: not machine.queue)
    assert not world.acked
    asked = world.hand_over(leader, other)
    again = world.hand_over(leader, other)
    assert isinstance(again.error, Conflict)
    world.write(9)
    assert world.run(2.0, lambda: asked.well)
    assert len(world.acked) == 300, "nobody who waited was left alone"
    assert len(machine.queue) == 9
    assert world.run(0.2, lambda: world.leader() == other)


def test_a_hand_over_that_fails_says_so() -> None:
    world = MemberWorld(31, size=4)
    leader = world.wait_leader()
    world.make(AddLearner(4))
    assert isinstance(world.hand_over(leader, 4).error, InvalidInput)
    assert isinstance(world.hand_over(leader, leader).error, InvalidInput)
    other = next(id for id in world.founders if id != leader)
    assert isinstance(world.hand_over(other, leader).error, NotLeader)
    world.cut |= {(other, leader), (leader, other)}
    world.write(10)
    world.wait_acked(10)
    asked = world.hand_over(leader, other)
    start_s = world.now_s
    assert world.run(2.0, lambda: asked.done)
    assert world.now_s - start_s < handover.CATCH_UP_S + 0.1
    assert isinstance(asked.error, Unavailable)
    assert "lacks entries" in str(asked.error)
    world.write(1)
    world.wait_acked(11)


def test_members_know_how_long_ago_they_heard() -> None:
    world = MemberWorld(32, size=4)
    assert world.nodes[1].group().heard_age_s() == float("inf")
    leader = world.wait_leader()
    world.make(AddLearner(4))
    world.run(1.0)
    ages = {id: world.nodes[id].group().heard_age_s() for id in (1, 2, 3, 4)}
    assert max(ages.values()) < 0.3
    world.isolate(leader)
    world.isolate(4)
    world.run(3.0)
    assert world.leader() not in (None, leader)
    ages = {id: world.nodes[id].group().heard_age_s() for id in (1, 2, 3, 4)}
    assert 2.5 < ages[leader] < 3.5
    assert 2.5 < ages[4] < 3.5
    assert all(age < 0.3 for id, age in ages.items() if id not in (leader, 4))
    alone = MemberWorld(33, founders=1, size=1)
    alone.wait_leader()
    alone.run(9.0)
    assert alone.nodes[1].group().heard_age_s() == 0


def test_a_stale_take_over_changes_nothing() -> None:
    seat = Seat()
    seat.say(2, append(3, (1, 0), rows(1, 3)))
    assert seat.say(3, TakeOver(3)) == []  # does not lead
    seat.say(2, append(3, (4, 1), [entry(3, Roster((2, 3), (1,)))], 5))
    assert seat.say(2, TakeOver(3)) == []
    assert seat.group.status().role == "learner"
    assert seat.group.status().term == 3


def test_heartbeats_reach_learners_of_a_sole_voter() -> None:
    seat = Seat(1)
    seat.hub.connected(2)
    assert seat.group.due_at_s() == NEVER
    seat.hub.connected(2)
    assert not [m for _, m in seat.sent if isinstance(m, Append)]
