"""Each checker finds what it is there for, and only that: histories with a planted violation and
without.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kalamdb.model.change import Op
from kalamdb.model.ids import Partition, Seq
from tests.sim.checkers import feed, ledger, linear
from tests.sim.history import (
    Began,
    Expired,
    Frame,
    Kind,
    Operation,
    Result,
    Resumed,
    Sighting,
    Subscription,
)
from tests.sim.reference import CommittedCommand, GroupReference, Span

P = Partition(b"talice")


def operation(number: int, kind: Kind, span: tuple[float, float], **fields: object) -> Operation:
    made = Operation(number, kind, P, (1,), span[0], end_s=span[1], result=Result.OK)
    if kind is not Kind.READ:
        made.affected = 1
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def life_of_a_key() -> list[Operation]:
    """insert, two appends at one time, a read after, a delete, a read of nothing."""
    return [
        operation(1, Kind.INSERT, (0.0, 1.0)),
        operation(2, Kind.APPEND, (2.0, 5.0), found=(1, 3, 2)),
        operation(3, Kind.APPEND, (3.0, 4.0), found=(1, 3)),
        operation(4, Kind.READ, (6.0, 7.0), found=(1, 3, 2)),
        operation(5, Kind.DELETE, (8.0, 9.0), found=(1, 3, 2)),
        operation(6, Kind.READ, (10.0, 11.0), found=None),
    ]


# Linearizability.


def test_a_life_of_a_key_is_linearizable() -> None:
    assert linear.check(life_of_a_key()) is None


@pytest.mark.parametrize(
    ("number", "found"),
    [(4, (1, 3)), (4, (1, 2, 3)), (4, None), (6, (1, 3, 2)), (2, (1, 2)), (5, (1, 3))],
    ids=["stale", "reordered", "lost", "undead", "overlooked", "stale delete"],
)
def test_a_wrong_answer_is_found(number: int, found: tuple[int, ...] | None) -> None:
    operations = life_of_a_key()
    operations[number - 1].found = found
    assert linear.check(operations) is not None


def test_an_unknown_write_may_have_happened_later_or_never() -> None:
    unknown = operation(7, Kind.APPEND, (1.5, 1.6), result=Result.UNKNOWN)
    seen = operation(8, Kind.READ, (7.1, 7.2), found=(1, 3, 2, 7))
    gone = operation(5, Kind.DELETE, (8.0, 9.0), found=(1, 3, 2, 7))
    assert linear.check([*life_of_a_key(), unknown]) is None
    assert linear.check([*life_of_a_key()[:4], unknown, seen, gone]) is None
    assert linear.check([*life_of_a_key(), unknown, seen]) is not None  # deleted without it


def test_a_refused_insert_needs_a_row() -> None:
    refused = operation(7, Kind.INSERT, (5.5, 5.6), result=Result.REFUSED_KEY, affected=0)
    assert linear.check([*life_of_a_key(), refused]) is None
    late = replace(refused, start_s=12.0, end_s=13.0)
    assert linear.check([*life_of_a_key(), late]) is not None


def test_an_undecided_search_is_a_fault() -> None:
    why = linear.check(life_of_a_key(), steps_max=3)
    assert why is not None
    assert why.startswith("undecided")


# Acknowledged writes.


def reference_with(*commands: CommittedCommand) -> GroupReference:
    reference = GroupReference(1)
    reference.commands.extend(commands)
    return reference


def ledger_faults(operations: list[Operation], *commands: CommittedCommand) -> list[str]:
    return list(ledger.faults(operations, [reference_with(*commands)]))


INSERTED = CommittedCommand(7, Seq(1024), None, (1,))


def test_an_acknowledged_write_is_in_the_log_once() -> None:
    asked = operation(1, Kind.INSERT, (0.0, 1.0), seq=Seq(1024))
    assert ledger_faults([asked], INSERTED) == []
    assert "lost" in ledger_faults([asked])[0]
    assert "executed 2 times" in ledger_faults([asked], INSERTED, replace(INSERTED, index=9))[0]
    assert "answered seq" in ledger_faults([asked], replace(INSERTED, seq=Seq(2048)))[0]


@pytest.mark.parametrize("result", [Result.FAILED, Result.REFUSED_KEY, Result.REFUSED_UNIQUE])
def test_what_was_not_done_is_not_in_the_log(result: Result) -> None:
    asked = operation(1, Kind.APPEND, (0.0, 1.0), result=result, affected=0)
    assert ledger_faults([asked]) == []
    assert "answered as not done" in ledger_faults([asked], INSERTED)[0]


def test_nobody_asked_for_it() -> None:
    assert "nobody asked for" in ledger_faults([], INSERTED)[0]


def test_a_request_is_executed_once() -> None:
    key = b"request"
    first, again = replace(INSERTED, request_key=key), replace(INSERTED, index=8, request_key=key)
    asked = operation(1, Kind.INSERT, (0.0, 1.0), seq=Seq(1024))
    assert any("request" in fault for fault in ledger_faults([asked], first, again))


@pytest.mark.parametrize(
    ("span", "justified"),
    [(Span(0.0, 4.0), False), (Span(7.0), False), (Span(0.0, 5.2), True), (Span(5.5), True)],
)
def test_a_unique_refusal_needs_a_row_with_the_value(span: Span, justified: bool) -> None:
    asked = operation(
        1, Kind.INSERT, (5.0, 6.0), result=Result.REFUSED_UNIQUE, affected=0, unique=2
    )
    reference = reference_with()
    reference.unique_spans[P, 2] = [span]
    assert (list(ledger.faults([asked], [reference])) == []) is justified


# Streams.

CHAIN = [
    Frame(Seq(10), Seq(0), Op.INSERT, b"a", (1,), True),
    Frame(Seq(20), Seq(10), Op.INSERT, b"b", (2,), False),
    Frame(Seq(30), Seq(20), Op.UPDATE, b"a", (1, 2), True),
    Frame(Seq(40), Seq(30), Op.DELETE, b"b", None, True),
]
BEGAN = Began(Seq(15), Seq(10), ((b"a", (1,)),))


def feed_faults(*seen: Sighting) -> list[str]:
    reference = GroupReference(1)
    reference.chain(P).extend(CHAIN)
    return list(feed.faults(Subscription(0, P, list(seen)), reference))


def test_a_stream_of_all_changes_is_right() -> None:
    assert feed_faults(BEGAN, *CHAIN[1:]) == []
    assert feed_faults(BEGAN, *CHAIN[1:3], Resumed(Seq(35)), CHAIN[3]) == []


@pytest.mark.parametrize(
    "seen",
    [
        (BEGAN, *CHAIN[2:]),
        (BEGAN, CHAIN[1], CHAIN[1], *CHAIN[2:]),
        (BEGAN, CHAIN[2], CHAIN[1], CHAIN[3]),
        (BEGAN, *CHAIN[1:3]),
        (BEGAN, *CHAIN[1:3], Resumed(Seq(30))),
        (BEGAN, CHAIN[1], Resumed(Seq(30)), CHAIN[3]),
        (BEGAN, *CHAIN[1:3], Resumed(Seq(15)), *CHAIN[1:]),
        (BEGAN, replace(CHAIN[1], after=(9,)), *CHAIN[2:]),
        (BEGAN, *CHAIN[1:], Frame(Seq(50), Seq(40), Op.INSERT, b"z", (7,), True)),
        (replace(BEGAN, rows=()), *CHAIN[1:]),
        (replace(BEGAN, last_change=Seq(0)), *CHAIN[1:]),
        (BEGAN, *CHAIN[1:], Expired(Seq(40), "ahead", Seq(0), Seq(40))),
        (BEGAN, *CHAIN[1:], Expired(Seq(40), "expired", Seq(30), Seq(40))),
        (BEGAN, *CHAIN[1:], Expired(Seq(40), "expired", Seq(99), Seq(40))),
    ],
    ids=[
        "gap",
        "twice",
        "order",
        "missing tail",
        "missing tail after resume",
        "gap after resume",
        "resumed too early",
        "wrong row",
        "phantom",
        "snapshot without a row",
        "snapshot of another chain end",
        "called ahead",
        "expired above the floor",
        "floor above the group",
    ],
)
def test_a_wrong_stream_is_found(seen: tuple[Sighting, ...]) -> None:
    assert feed_faults(*seen)
