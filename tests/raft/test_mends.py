"""The faults of test_stock_faults.py, told again to cluster/raft, which holds."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from cluster.raft import group as group_module
from cluster.raft import progress, transport
from cluster.raft.wire import (
    Accept,
    Append,
    AskMembers,
    AskVote,
    Busy,
    GrantVote,
    Pointer,
    Reject,
    RequestVote,
    Stale,
    TakeOver,
    WouldVote,
    encode_frame,
    encode_message,
)
from kalamdb.errors import Unavailable
from kalamdb.ports import AppliedMark
from tests.raft.seat import Seat, append, rows
from tests.raft.world import World


def follower(count: int = 10, commit: int = 1) -> Seat:
    """A seat that follows node 2 in term 1, with entries 2 to `count` + 1."""
    seat = Seat()
    said = seat.say(2, append(1, (1, 0), rows(1, count), commit))
    assert said == [Accept(1, 0, count + 1)]
    return seat


def test_hole_1_duplicate_entries_cut_nothing() -> None:
    seat = follower(10)
    assert seat.say(2, append(1, (1, 0), rows(1, 3))) == [Accept(1, 0, 4)]
    assert seat.log()[-1] == (11, 1)
    assert seat.say(2, append(1, (4, 1), [])) == [Accept(1, 0, 4)]
    assert seat.log()[-1] == (11, 1)


def test_only_a_conflict_cuts() -> None:
    seat = follower(10, commit=4)
    said = seat.say(3, append(2, (1, 0), [*rows(1, 5), *rows(2, 1)]))
    assert said == [Accept(2, 0, 7)]
    assert seat.log()[-2:] == [(6, 1), (7, 2)]


def test_a_committed_entry_is_never_cut() -> None:
    seat = follower(10, commit=8)
    with pytest.raises(AssertionError, match="committed"):
        seat.hear(3, append(2, (1, 0), rows(2, 1)))


def test_hole_2_nothing_unverified_is_committed() -> None:
    seat = follower(10)
    seat.say(3, Pointer(2, 0, 9, 2))  # the new leader's log starts after (9, 2): ours differs
    assert seat.group.commit_index == 1
    assert seat.machine.entries == []
    seat.spawned.pop().close()
    seat = follower(10)
    seat.say(3, append(2, (1, 0), [], commit=9))
    assert seat.group.commit_index == 1


def test_hole_3_answers_count_in_their_term_only() -> None:
    seat = Seat(5)
    term = seat.lead()
    seat.machine.queue += [b"x"] * 3
    seat.cycle(0.2)
    last = seat.group.journal.last_index
    seat.say(2, Accept(term - 1, 0, last))
    seat.say(3, Accept(term - 1, 0, last), Accept(term + 1, 0, last))
    assert seat.group.commit_index == 1
    seat.say(2, Accept(term, 0, last + 500))  # more than there is
    seat.say(3, Accept(term, 0, last))
    assert seat.group.commit_index == 1
    seat.say(2, Accept(term, 0, last))
    assert seat.group.commit_index == last


def test_hole_3_votes_count_once_for_each_voter() -> None:
    seat = Seat(5)
    seat.cycle(1.5)
    ask = next(m for _, m in seat.sent if isinstance(m, AskVote))
    seat.hear(2, WouldVote(ask.ask))
    seat.hear(3, WouldVote(ask.ask))
    seat.cycle()
    term = seat.group.status().term
    seat.say(2, GrantVote(term), GrantVote(term), GrantVote(term - 1))
    assert seat.group.status().role == "candidate"
    seat.say(3, GrantVote(term))
    assert seat.group.status().role == "leader"


def test_hole_6_nothing_leaves_before_the_disk_has_it() -> None:
    seat = Seat()
    for message in (RequestVote(3, 9, 2), append(3, (1, 0), rows(3, 2))):
        seat.sent.clear()
        seat.hear(2, message)
        batch = seat.hub.cycle_begin()
        assert batch is not None
        assert seat.sent == []
        seat.hub.write(batch)
        assert seat.disk.synced == {name: len(data) for name, data in seat.disk.files.items()}
        seat.hub.cycle_end()
        assert [type(m) for _, m in seat.sent] in ([GrantVote], [Accept])


def test_what_arrives_during_a_write_waits_for_the_next() -> None:
    seat = Seat()
    seat.hear(2, append(1, (1, 0), rows(1, 1)))
    batch = seat.hub.cycle_begin()
    seat.hear(2, append(1, (2, 1), rows(1, 1), commit=3))
    assert batch is not None
    seat.hub.write(batch)
    seat.sent.clear()
    assert seat.hub.cycle_end()
    assert seat.sent == [(2, Accept(1, 0, 2))]
    assert seat.group.journal.durable_index == 2
    assert seat.machine.mark.index == 2  # 3 is committed, but not on disk here
    seat.cycle()
    assert seat.machine.mark.index == 3


def test_a_cut_during_a_write_lowers_what_is_durable() -> None:
    seat = Seat()
    seat.hear(2, append(1, (1, 0), rows(1, 9)))
    batch = seat.hub.cycle_begin()
    seat.hear(3, append(2, (4, 1), rows(2, 5)))
    assert batch is not None
    seat.hub.write(batch)
    seat.hub.cycle_end()
    assert seat.group.journal.durable_index == 4
    seat.cycle()
    assert seat.group.journal.durable_index == 9


def test_hole_7_a_vote_outlives_a_restart() -> None:
    seat = Seat()
    assert seat.say(2, RequestVote(7, 99, 6)) == [GrantVote(7)]
    assert seat.say(3, RequestVote(7, 99, 6)) == []
    seat.start()
    assert seat.say(3, RequestVote(7, 99, 6)) == []
    assert seat.group.status().term == 7
    assert seat.say(3, RequestVote(6, 99, 6)) == [Stale(7)]


def test_holes_9_and_10_a_raising_machine_stops_the_group() -> None:
    seat = Seat(1)
    seat.machine.queue.append(b"x")
    seat.machine.raising = KeyError()
    seat.group.kick()
    with pytest.raises(KeyError):
        seat.cycle()
    assert seat.group.halted
    applied = len(seat.machine.entries)
    seat.group.tick()
    seat.group.synced()
    assert len(seat.machine.entries) == applied  # once, not twice, and not for ever


@pytest.mark.parametrize("kind", [0, 2, 3, 9])
def test_holes_11_and_12_stock_commands_are_refused(kind: int) -> None:
    seat = Seat()
    command = bytes([kind]) + pickle.dumps(["add", 9])
    assert seat.say(2, append(1, (1, 0), [(1, command)])) == []
    assert seat.log() == [(1, 0)]
    assert seat.group.guard.dropped == 1
    core = seat.group._core
    for call in (
        lambda: core.setCodeVersion(0),
        lambda: core._applyCommand(b"", None),
        lambda: core._SyncObj__doApplyCommand(command),
    ):
        with pytest.raises(AssertionError):
            call()
    assert core._SyncObj__parseChangeClusterRequest(command) is None


def test_terms_of_entries_are_checked() -> None:
    seat = Seat()
    assert seat.say(2, append(3, (1, 0), [*rows(2, 1), *rows(1, 1)])) == []
    assert seat.say(2, append(3, (1, 0), rows(4, 1))) == []
    assert seat.group.guard.dropped == 2


def test_hole_13_a_deposed_leader_answers_at_once() -> None:
    world = World(3)
    old = world.wait_leader()
    world.write(1)
    world.wait_acked(1)
    world.isolate(old)
    world.write(3)
    assert world.run(2.0, lambda: bool(world.resigned))
    assert world.resigned == ["the quorum was lost"]
    assert world.nodes[old].machines[0].open == {}


def test_hole_14_nothing_is_forwarded() -> None:
    seat = follower()
    seat.machine.queue.append(b"x")
    seat.group.kick()
    seat.sent.clear()
    seat.cycle()
    assert seat.machine.queue == [b"x"]
    assert seat.sent == []
    for message in ({"type": "apply_command"}, {"type": "apply_command_response"}):
        assert not seat.group.guard.send(seat.group._core.node_of(2), message)


def test_hole_15_large_entries_replicate() -> None:
    world = World(4)
    world.wait_leader()
    world.write(20, size_bytes=group_module.ENTRY_BYTES_MAX)
    world.wait_acked(20)
    world.settle()


def test_hole_16_a_broken_link_deposes_nobody() -> None:
    world = World(5)
    leader = world.wait_leader()
    world.write(1)
    world.wait_acked(1)
    other = next(id for id in world.voters if id != leader)
    world.cut |= {(leader, other), (other, leader)}
    term = world.nodes[leader].group().status().term
    world.run(20.0)
    assert world.leader() == leader
    assert {node.group().status().term for node in world.nodes.values()} == {term}


def test_hole_16_a_stale_leader_is_told() -> None:
    seat = Seat()
    term = seat.lead()
    seat.say(2, Accept(term, 0, 2))
    assert seat.machine.told == [term]
    seat.say(3, Stale(term + 4))
    assert seat.machine.told == [term, "another term began"]
    assert seat.say(2, append(term, (1, 0), [])) == [Stale(term + 4)]


def test_pre_vote_needs_a_log_and_a_silent_leader() -> None:
    seat = follower(3)
    assert seat.say(3, AskVote(1, 1, 9, 9)) == []  # node 2 has just been heard
    seat.now_s += 0.6
    assert seat.say(3, AskVote(2, 1, 3, 1)) == []  # it lacks entry 4
    assert seat.say(3, AskVote(3, 0, 9, 9)) == [Stale(1)]
    assert seat.say(3, AskVote(4, 1, 4, 1)) == [WouldVote(4)]
    assert seat.group.status().term == 1


def test_hole_17_strangers_are_not_heard() -> None:
    seat = Seat()
    term = seat.lead()
    seat.hub.connected(9)
    seat.hear(9, Accept(term, 0, 2), RequestVote(99, 99, 99), Stale(99))
    assert seat.group.status().term == term
    assert seat.group.guard.dropped == 2  # and a leader gives its vote to nobody unasked


def test_hole_18_frames_that_are_none_close_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*args: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", loads)
    monkeypatch.setattr(pickle, "load", loads)
    seat = Seat()
    for frame in (b"", b"\x01", pickle.dumps({"type": "status"}), b"\x02\x90", b"\x01\xff" * 9):
        assert not seat.hub.receive(2, frame)
    unknown = [(0, b"\x92\xa1z\x01"), (7, encode_message(Stale(9))), (0, b"\xc0")]
    assert seat.hub.receive(2, encode_frame(unknown))
    assert seat.hub.statistics().messages_dropped == 8
    assert seat.group.status().term == 0
    world = World(6)
    world.wait_leader()
    world.write(5)
    world.wait_acked(5)


def test_hole_19_no_threads() -> None:
    before = threading.active_count()
    Seat(1)
    assert threading.active_count() == before


def test_hole_21_apply_is_cut_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "APPLY_BYTES_MAX", 1000)
    seat = Seat()
    seat.hear(2, append(1, (1, 0), rows(1, 50, 99), commit=51))
    seat.cycle()
    assert seat.machine.mark.index == 51
    assert max(seat.machine.batches) == 10


def test_hole_21_entries_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "IN_FLIGHT_BYTES_MAX", 10_000)
    monkeypatch.setattr(transport, "IN_FLIGHT_BYTES_MAX", 10_000)
    monkeypatch.setattr(transport, "BATCH_BYTES_MAX", 2_000)
    seat = Seat()
    term = seat.lead()
    seat.say(2, Accept(term, 0, 2))
    seat.machine.queue += [bytes(1000)] * 100
    seat.group.kick()
    seat.sent.clear()
    seat.cycle()
    sent = [m for peer, m in seat.sent if peer == 2 and isinstance(m, Append)]
    assert 8 <= sum(len(m.entries) for m in sent) <= 12
    assert not [m for peer, m in seat.sent if peer == 3]  # a probe is out, and no answer yet


def test_an_isolated_leader_resigns_within_the_fallback() -> None:
    world = World(7)
    old = world.wait_leader()
    world.write(1)
    world.wait_acked(1)
    start_s = world.now_s
    world.isolate(old)
    group = world.nodes[old].group()
    assert world.run(5.0, lambda: not group.ready)
    assert world.now_s - start_s < 1.2
    with pytest.raises(Unavailable):
        group.read_index()


def test_a_long_divergent_tail_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BATCH_BYTES_MAX", 4_000)
    monkeypatch.setattr(transport, "PROBE_BYTES_MAX", 1_000)
    world = World(8)
    old = world.wait_leader()
    world.write(1)
    world.wait_acked(1)
    world.isolate(old)
    world.write(400, size_bytes=1000)
    assert world.run(5.0, lambda: world.leader() not in (None, old))
    world.write(200, size_bytes=1000)
    world.wait_acked(201)
    second = world.wait_leader()
    third = next(id for id in world.voters if id not in (old, second))
    world.hand_over(second, third)
    assert world.run(5.0, lambda: world.leader() == third)  # it believes all logs are as its own
    world.cut.clear()  # nobody is told, nothing is reset
    world.lag_s = (0.02, 0.05)
    start_s = world.now_s
    assert world.run(5.0, world.equal)
    assert world.now_s - start_s < 1.0


def test_a_refusal_skips_a_whole_term() -> None:
    seat = Seat()
    entries = [*rows(1, 10), *rows(2, 10), *rows(4, 10)]
    seat.say(2, append(4, (1, 0), entries))
    assert seat.say(3, append(5, (40, 5), [])) == [Reject(5, 0, 40, 31, 4)]
    assert seat.say(3, append(5, (31, 3), [])) == [Reject(5, 0, 31, 21, 2)]
    assert seat.say(3, append(5, (21, 1), [])) == [Reject(5, 0, 21, 11, 1)]


def test_an_image_keeps_the_matching_suffix() -> None:
    seat = follower(10, commit=3)
    assert seat.say(2, Pointer(1, 0, 20, 1)) == [Busy(1, 0)]
    assert seat.say(2, append(1, (11, 1), rows(1, 1))) == [Busy(1, 0)]
    seat.machine.image_mark = AppliedMark(8, 1)
    seat.sent.clear()
    seat.work()
    seat.cycle()
    assert seat.sent == [(2, Accept(1, 0, 8))]
    assert seat.log() == [(8, 1), (9, 1), (10, 1), (11, 1)]  # acknowledged, so they stay
    seat.start()
    assert seat.log() == [(8, 1), (9, 1), (10, 1), (11, 1)]


def test_an_image_replaces_another_log() -> None:
    seat = follower(10, commit=3)
    seat.say(3, Pointer(2, 0, 20, 2))
    seat.machine.image_mark = AppliedMark(25, 2)
    seat.work()
    seat.cycle()
    assert seat.log() == [(25, 2)]
    assert seat.group.status().applied_index == 25
    said = seat.say(3, append(2, (25, 2), rows(2, 1), commit=26))
    assert said == [AskMembers(2, 25), Accept(2, 0, 26)]
    seat.start()
    assert seat.log() == [(25, 2), (26, 2)]


def test_an_image_at_or_below_the_applied_index_is_refused() -> None:
    seat = follower(10, commit=5)
    assert seat.say(2, Pointer(1, 0, 5, 1)) == [Accept(1, 0, 5)]
    assert seat.say(2, Pointer(1, 0, 9, 1)) == [Accept(1, 0, 9)]  # not applied, but in the log
    assert seat.spawned == []


def test_a_crash_between_image_and_log_is_mended() -> None:
    seat = follower(10, commit=3)
    seat.machine.mark = AppliedMark(25, 2)  # the image was flipped in, then the process died
    seat.start()
    assert seat.log() == [(25, 2)]
    assert seat.group.status().applied_index == 25


def test_take_over_skips_the_pre_vote() -> None:
    seat = follower(3)
    said = seat.say(2, TakeOver(1))
    assert said == [RequestVote(2, 4, 1, asked_to=True)]


def test_one_commit_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of an older term is not committed by counting (Raft's figure 8)."""
    seat = follower(3)
    term = seat.lead()
    seat.say(2, Accept(term, 0, 4))  # the old entries are on a majority
    assert seat.group.commit_index == 1
    seat.say(2, Accept(term, 0, 5))
    assert seat.group.commit_index == 5


def test_a_full_outbox_is_a_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.raft.hub.OUTBOX_BYTES_MAX", 50_000)
    monkeypatch.setattr(transport, "PROBE_BYTES_MAX", 20_000)
    seat = Seat()
    term = seat.lead()
    seat.say(2, Accept(term, 0, 2))
    seat.machine.queue += [bytes(10_000)] * 10
    seat.group.kick()
    seat.sent.clear()
    seat.cycle()
    assert seat.hub.statistics().overflows == 1
    probe = [m for peer, m in seat.sent if peer == 2][-1]
    assert isinstance(probe, Append)
    assert probe.prev_index == 2  # it starts over from what is known to match


def test_the_log_is_written_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk reaches `fatal` and nothing is acknowledged after it."""
    errors: list[OSError] = []
    seat = Seat(fatal=errors.append)

    def fail(operation: str) -> None:
        if operation == "sync":
            raise OSError(5, "Input/output error")

    seat.disk.before = fail
    seat.sent.clear()
    seat.hear(2, append(1, (1, 0), rows(1, 1)))
    batch = seat.hub.cycle_begin()
    assert batch is not None
    with pytest.raises(OSError):
        seat.hub.write(batch)
    assert len(errors) == 1
    assert seat.sent == []
