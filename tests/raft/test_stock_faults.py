# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
"""The faults of stock pysyncobj 0.3.17 that cluster/raft mends, each shown on the library itself.

When one of these fails, the library has changed: audit it anew. The same stories against the mends
are in test_mends.py.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pysyncobj.journal import FileJournal
from pysyncobj.node import Node

from tests.raft.stock import NAMES, Net, Stock, alone, cluster, elect, steps

# Its journal reads the .meta file without closing it.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def closed_journals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[FileJournal] = []
    init = FileJournal.__init__

    def recorded(self: FileJournal, path: str) -> None:
        init(self, path)
        opened.append(self)

    monkeypatch.setattr(FileJournal, "__init__", recorded)
    yield
    for journal in opened:
        journal._destroy()


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    return Net(monkeypatch)


def test_hole_1_duplicate_entries_cut_acknowledged_ones(net: Net) -> None:
    cores = cluster(net, appendEntriesBatchSizeBytes=2000)
    a = elect(net, cores, "a")
    steps(net, cores)
    net.link("a", "c", False)
    net.link("b", "c", False)
    acked: list[int] = []
    for i in range(60):
        a.put(f"{i}" + "x" * 80, callback=lambda _, error, i=i: acked.append(i) if not error else 0)
    a.tick(0.11)
    a.tick(0.11)
    net.link("a", "b", False)
    net.link("a", "b", True)
    a.tick(0.11)
    a.tick(0.11)
    net.deliver("a", "b")
    for _ in range(2):  # two refusals, so the leader sends the whole suffix twice
        net.deliver("b", "a", 1)
        a.tick(0.11)
    net.deliver("a", "b", len(net.queues[("a", "b")]) // 2)
    net.deliver("b", "a")
    a.tick(0.01)
    before = cores["b"].last()
    net.deliver("a", "b", 1)
    assert len(acked) == 60
    assert cores["b"].last() < before - 30


def test_hole_2_a_snapshot_commits_a_divergent_tail(net: Net) -> None:
    cores = cluster(net, logCompactionBatchSize=64)
    a = elect(net, cores, "a")
    steps(net, cores)
    net.link("a", "b", False)
    net.link("a", "c", False)
    answers: list[Any] = []
    for i in range(5):
        a.put(f"lost{i}", callback=lambda result, error: answers.append((result, error)))
    a.tick(0.11)
    a.tick()
    rest = {name: cores[name] for name in "bc"}
    b = elect(net, rest, "b")
    for i in range(50):
        b.put(f"new{i}")
    steps(net, rest, 6)
    b.forceLogCompaction()
    steps(net, rest, 4)
    net.link("a", "b", True)
    for _ in range(6):
        net.now_s += 0.11
        a.wait()
        b.wait()
        b.tick()
        net.deliver("b", "a", 1)
        a.tick()
        net.deliver("a", "b")
    assert ("lost0", 0) in answers
    assert "lost0" not in b.applied


def test_hole_3_an_answer_of_an_older_term_is_counted(net: Net) -> None:
    cores = cluster(net)
    a = elect(net, cores, "a")
    steps(net, cores)
    ack = {"type": "next_node_idx", "next_node_idx": a.last() + 500, "reset": False}
    a._SyncObj__onMessageReceived(Node("b"), ack | {"success": True})  # it could not say its term
    assert a._SyncObj__raftMatchIndex[Node("b")] > a.last()


def test_hole_3_a_repeated_vote_counts_twice(net: Net) -> None:
    names = tuple("abcde")
    a = cluster(net, names)["a"]
    a._SyncObj__raftElectionDeadline = 0
    a.tick()
    for _ in range(2):
        vote = {"type": "response_vote", "term": a.raftCurrentTerm}
        a._SyncObj__onMessageReceived(Node("b"), vote)
    assert a._isLeader()  # with two of five votes


def test_hole_4_a_crash_after_the_dump_clears_the_journal(net: Net, tmp_path: Path) -> None:
    conf = {"journalFile": str(tmp_path / "j"), "fullDumpFile": str(tmp_path / "d")}
    core = Stock(net, "b", NAMES, useFork=False, **conf)
    for i in range(30):
        core._SyncObj__raftLog.add(b"\1", i + 2, 1)
    core._SyncObj__raftLastApplied = 20
    core._SyncObj__forceLogCompaction = True
    core._SyncObj__tryLogCompaction()  # writes the dump; the journal is cut at a later tick
    core._SyncObj__raftLog.flush()
    again = Stock(net, "b", NAMES, useFork=False, **conf)
    again.wait()
    again.tick()
    assert again.last() == 20  # 21 to 31 were in the journal


def test_hole_5_a_crash_in_compaction_loses_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = FileJournal(str(tmp_path / "j"))
    for i in range(100):
        journal.add(b"x", i + 1, 1)
    add, left = FileJournal.add, iter(range(10))

    def dying(self: FileJournal, *entry: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(self, *entry)

    monkeypatch.setattr(FileJournal, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        journal.deleteEntriesTo(5)
    journal.flush()
    monkeypatch.undo()
    assert len(FileJournal(str(tmp_path / "j"))) == 10


def test_hole_6_nothing_is_synced(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    monkeypatch.setattr(os, "fdatasync", calls.append)
    core = Stock(net, "a", ("a",), journalFile=str(tmp_path / "j"))
    core._SyncObj__raftElectionDeadline = 0
    answers: list[int] = []
    core.put(1, callback=lambda _, error: answers.append(error))
    for _ in range(4):
        core.tick(0.2)
        core.put(1, callback=lambda _, error: answers.append(error))
    assert 0 in answers
    assert calls == []


def test_hole_7_a_lost_vote_is_given_again(net: Net, tmp_path: Path) -> None:
    votes = []
    for candidate in ("a", "c"):
        core = Stock(net, "b", NAMES, journalFile=str(tmp_path / "j"))
        request = {"type": "request_vote", "term": 7, "last_log_index": 99, "last_log_term": 6}
        core._SyncObj__onMessageReceived(Node(candidate), request)
        core._SyncObj__raftLog.flush()
        votes.append(len(net.queues[("b", candidate)]))
        (tmp_path / "j.meta").write_bytes(b"")  # what a power cut leaves of an unsynced file
    assert votes == [1, 1]


def test_hole_8_no_checksum(tmp_path: Path) -> None:
    journal = FileJournal(str(tmp_path / "j"))
    for i in range(50):
        journal.add(b"value", i + 1, 1)
    journal.flush()
    data = bytearray((tmp_path / "j").read_bytes())
    at = data.index(b"value")
    data[at] ^= 1
    (tmp_path / "j").write_bytes(data)
    assert FileJournal(str(tmp_path / "j"))[0][0] == b"walue"


def test_hole_9_a_raising_callback_applies_twice(net: Net) -> None:
    core = alone(net)

    def raising(result: Any, error: int) -> None:
        raise ValueError

    core.put("once", callback=raising)
    for _ in range(4):
        with contextlib.suppress(ValueError):
            core.tick(0.2)
    assert core.applied == ["once", "once"]


def test_hole_10_a_raising_method_is_run_for_ever(net: Net) -> None:
    core = alone(net)
    core.fail()
    for _ in range(20):
        with contextlib.suppress(KeyError):
            core.tick(0.2)
    assert core.applied.count("fail") > 10


def test_hole_11_an_unknown_version_applies_the_next_entry_twice(net: Net) -> None:
    core = alone(net)
    core._applyCommand(pickle.dumps(5, 2), None, 3)
    core.put("e1")
    core.put("e2")
    for _ in range(6):
        core.tick(0.2)
    assert core.applied == ["e1", "e2", "e2"]


def test_hole_12_and_17_membership(net: Net) -> None:
    cores = cluster(net, dynamicMembershipChange=True)
    a = elect(net, cores, "a")
    steps(net, cores, 4)
    a.addNodeToCluster(Node("d"))
    a.addNodeToCluster(Node("e"))  # while the first is not committed
    a.tick()
    assert len(a.otherNodes) == 4
    reply = {"type": "next_node_idx", "next_node_idx": 2, "reset": False, "success": True}
    with pytest.raises(KeyError):
        a._SyncObj__onMessageReceived(Node("nobody"), reply)


def test_hole_13_a_snapshot_leaves_waiters_unanswered(net: Net) -> None:
    cores = cluster(net)
    a = elect(net, cores, "a")
    steps(net, cores)
    net.link("a", "b", False)
    net.link("a", "c", False)
    answers: list[int] = []
    for i in range(5):
        a.put(i, callback=lambda _, error: answers.append(error))
    a.tick(0.11)
    a.tick()
    rest = {name: cores[name] for name in "bc"}
    b = elect(net, rest, "b")
    for i in range(50):
        b.put(i)
    steps(net, rest, 5)
    b.forceLogCompaction()
    steps(net, rest, 4)
    net.link("a", "b", True)
    for _ in range(10):
        b.tick(0.11)
        net.deliver("b", "a")
        net.deliver("a", "b")
    for _ in range(5):
        a.wait()
        a.tick(0.11)
    assert a.raftLastApplied >= 50
    assert answers == []


def test_hole_14_a_lost_forward_is_never_answered(net: Net) -> None:
    cores = cluster(net)
    elect(net, cores, "a")
    steps(net, cores)
    net.cut.add(("b", "a"))
    answers: list[int] = []
    cores["b"].put("x", callback=lambda _, error: answers.append(error))
    steps(net, cores, 300)
    assert answers == []


def test_hole_15_large_entries_break_the_follower(net: Net) -> None:
    cores = cluster(net, ("a", "b"))
    a = elect(net, cores, "a")
    steps(net, cores)
    a.put(Random(1).randbytes(70_000))
    with pytest.raises((EOFError, UnicodeDecodeError, ValueError)):
        steps(net, cores, 12)


def test_hole_16_one_broken_link_deposes_the_leader(net: Net) -> None:
    cores = cluster(net)
    a = elect(net, cores, "a")
    steps(net, cores)
    net.link("a", "c", False)
    term = a.raftCurrentTerm
    for _ in range(10):
        cores["c"].tick(1.5)
        cores["b"].wait()
        net.deliver("c", "b")
        net.deliver("b", "c")
        cores["b"].tick()
        a.tick(0.11)
        net.deliver("a", "b")
        net.deliver("b", "a")
    assert cores["c"].raftCurrentTerm > term
    assert a._isLeader()
    assert cores["c"]._isLeader()  # two at once, and the old one is not told


def test_an_isolated_leader_believes_for_30_s(net: Net) -> None:
    cores = cluster(net)
    a = elect(net, cores, "a")
    steps(net, cores)
    net.link("a", "b", False)
    net.link("a", "c", False)
    start_s = net.now_s
    while a._isLeader() and net.now_s < start_s + 60:
        a.tick(0.1)
    assert net.now_s - start_s > 29


def test_a_long_divergent_tail_never_recovers(net: Net) -> None:
    """The leader pipelines its suffix; each piece is refused, the last refusal moves it forward."""
    cores = cluster(net, appendEntriesBatchSizeBytes=4000)
    a = elect(net, cores, "a")
    steps(net, cores)
    for x in "bc":
        net.cut |= {("a", x), (x, "a")}  # a black hole: nobody is told
    for _ in range(200):
        a.put("y" * 1000)
    a.tick(0.11)
    a.tick(0.11)
    rest = {name: cores[name] for name in "bc"}
    b = elect(net, rest, "b")
    for _ in range(100):
        b.put("z" * 1000)
    steps(net, rest, 6)
    a._SyncObj__setState(0)
    net.cut.clear()
    steps(net, cores, 200)
    assert a.log()[-1] != b.log()[-1]


def test_a_snapshot_discards_the_acknowledged_tail(net: Net, tmp_path: Path) -> None:
    core = Stock(net, "b", NAMES, fullDumpFile=str(tmp_path / "d"), useFork=False)
    for i in range(30):
        core._SyncObj__raftLog.add(b"\1", i + 2, 1)
    core._SyncObj__raftLastApplied = 20
    core._SyncObj__forceLogCompaction = True
    core._SyncObj__tryLogCompaction()
    core._SyncObj__loadDumpFile(clearJournal=True)  # what installing a snapshot does
    assert core.last() == 20
