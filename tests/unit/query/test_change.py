"""UPDATE, DELETE and INSERT … SELECT by scan: what is written, on what it rests, what makes it run
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from kalamdb.errors import Conflict, LimitReached, QueryFailed, TypeMismatch
from kalamdb.model import codec
from kalamdb.model.change import Row
from kalamdb.model.ids import Partition, Seq, shared_partition, slot_of
from kalamdb.model.table import Column
from kalamdb.model.work import InsertRows, PutRows, RequestTag, ReturningClause
from kalamdb.query import change
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.scan import ScanLimits
from kalamdb.sql.bound import ChangePlan, EngineChangePlan, Env, InsertSelectPlan
from tests.unit.query.world import (
    GROUPS,
    MESSAGES,
    ROOMS,
    FakeGroups,
    FakeSnapshot,
    env,
    key_of,
    message,
    scan_plan,
    tenant,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = ScanLimits()
BODY = MESSAGES.by_name["body"]
SCORE = MESSAGES.by_name["score"]
MOVED = "SELECT id + 1000, body, at FROM t0"


def by_predicate(
    low: float, *, delete: bool = False, returning: ReturningClause | None = None
) -> ChangePlan:
    """UPDATE messages SET body = body || '!' WHERE score >= low, or DELETE."""
    return ChangePlan(
        MESSAGES,
        None,
        lambda env: lambda row, seq: row[SCORE.id] >= low,
        None if delete else lambda env: lambda row: {**row, BODY.id: row[BODY.id] + "!"},
        returning,
        (),
    )


def by_engine(text: str, *assigned: Column, delete: bool = False) -> EngineChangePlan:
    return EngineChangePlan(
        MESSAGES, scan_plan(text, MESSAGES, ROOMS), None if delete else assigned, None, ()
    )


async def run(
    plan: ChangePlan | EngineChangePlan | InsertSelectPlan,
    groups: FakeGroups,
    pool: EnginePool,
    *,
    limits: ScanLimits = LIMITS,
    tag: RequestTag | None = None,
    user: str = "alice",
) -> int:
    found = await change.change(plan, env(user), groups, pool, limits=limits, tag=tag)
    return found.affected


async def test_update_and_delete_by_predicate(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant("alice"), *map(message, range(4)))
    groups.put(MESSAGES, tenant("bob"), *map(message, range(4)))
    before = groups.stored(MESSAGES, tenant("bob"))
    last = groups.last[MESSAGES.id, tenant("alice")]
    assert await run(by_predicate(1.0), groups, warm) == 2
    bodies = [row[BODY.id] for row in groups.stored(MESSAGES, tenant("alice"))]
    assert bodies == [
        "message number 0",
        "message number 1",
        "message number 2!",
        "message number 3!",
    ]
    (work,) = groups.works
    assert isinstance(work, PutRows)
    assert work.read_set.tables == {(MESSAGES.id, tenant("alice")): last}
    assert [key for key, _ in work.rows] == [key_of(MESSAGES, message(at)) for at in (2, 3)]
    assert work.seen is not None
    assert [codec.decode_row(raw)[1] for raw, _ in work.seen] == [message(2), message(3)]
    assert [row for _, row in work.seen] == [message(2), message(3)]

    assert await run(by_predicate(1.5, delete=True), groups, warm) == 1
    assert len(groups.stored(MESSAGES, tenant("alice"))) == 3
    assert groups.stored(MESSAGES, tenant("bob")) == before
    assert all(snapshot.closed for snapshot in groups.snapshots)


async def test_nothing_found_needs_no_agreement(warm: EnginePool, groups: FakeGroups) -> None:
    returning = ReturningClause(("id",), lambda row, seq: (row[1],))
    plan = by_predicate(9.0, returning=returning)
    last = groups.last[MESSAGES.id, tenant("alice")] = Seq(900)
    assert groups.seq > last, "others of the group wrote since"
    found = await change.change(plan, env(), groups, warm, limits=LIMITS, tag=None)
    assert (found.affected, found.seq, found.columns, found.rows) == (0, last, ("id",), ())
    assert groups.works == []
    # A request id is answered the same way for ever, so its outcome is written.
    tag = RequestTag("alice", "alice", "r1", 0, b"")
    assert await run(plan, groups, warm, tag=tag) == 0
    assert len(groups.works) == 1


def interfere(groups: FakeGroups, times: int, partition: Partition) -> list[int]:
    """A write by somebody else after each of the first `times` snapshots."""
    done: list[int] = []

    def write(snapshot: FakeSnapshot) -> None:
        if len(done) < times:
            done.append(1)
            groups.put(MESSAGES, partition, message(100 + len(done)))

    groups.on_snapshot = write
    return done


async def test_a_write_in_between_makes_it_run_again(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(4)))
    interfere(groups, 4, tenant())
    assert await run(by_predicate(1.0), groups, warm) == 6
    assert len(groups.works) == 5


async def test_five_times_is_enough(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(4)))
    interfere(groups, 5, tenant())
    with pytest.raises(Conflict):
        await run(by_predicate(1.0), groups, warm)
    assert len(groups.works) == 5


async def test_errors_of_an_expression(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), message(1))

    def divide(row: Row) -> Row:
        raise QueryFailed("division by zero")

    plan = ChangePlan(MESSAGES, None, None, lambda env: divide, None, ())
    with pytest.raises(QueryFailed, match="division by zero"):
        await run(plan, groups, warm)
    assert groups.works == []
    assert groups.snapshots[-1].closed


async def test_changes_are_bounded(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(10)))
    with pytest.raises(LimitReached, match="more than 9 rows"):
        await run(by_predicate(0), groups, warm, limits=ScanLimits(9, 1 << 20))
    with pytest.raises(LimitReached, match="more than 100 bytes"):
        await run(by_predicate(0), groups, warm, limits=ScanLimits(10, 100))
    assert groups.works == []


async def test_update_by_the_engine(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(4)))
    groups.put(ROOMS, shared_partition(ROOMS.id), {1: 2, 2: "lobby"}, {1: 3, 2: "attic"})
    text = (
        "SELECT t0.id, upper(t1.title), CAST(NULL AS DOUBLE) AS score "
        "FROM t0 JOIN t1 ON t0.id = t1.id"
    )
    assert await run(by_engine(text, BODY, SCORE), groups, warm) == 2
    rows = groups.stored(MESSAGES, tenant())
    assert [row[BODY.id] for row in rows[2:]] == ["LOBBY", "ATTIC"]
    assert [SCORE.id in row for row in rows] == [True, True, False, False]
    assert rows[2] == {
        **message(2, score=None),
        BODY.id: "LOBBY",
    }
    (work,) = groups.works
    assert isinstance(work, PutRows)
    # A group checks the chains it has: the shared table lives in another one here.
    assert slot_of(tenant()) % GROUPS != slot_of(shared_partition(ROOMS.id)) % GROUPS
    assert list(work.read_set.tables) == [(MESSAGES.id, tenant())]


async def test_a_subquery_in_the_same_group_is_checked(
    warm: EnginePool, groups: FakeGroups
) -> None:
    rooms = slot_of(shared_partition(ROOMS.id)) % GROUPS
    users = (f"user-{number}" for number in range(1000))
    user = next(user for user in users if slot_of(tenant(user)) % GROUPS == rooms)
    groups.put(MESSAGES, tenant(user), message(1))
    groups.put(ROOMS, shared_partition(ROOMS.id), {1: 1, 2: "lobby"})
    seen = dict(groups.last)
    text = "SELECT t0.id FROM t0 WHERE t0.id IN (SELECT t1.id FROM t1)"
    assert await run(by_engine(text, delete=True), groups, warm, user=user) == 1
    (work,) = groups.works
    assert isinstance(work, PutRows)
    assert work.read_set.tables == seen
    assert groups.stored(MESSAGES, tenant(user)) == []


async def test_several_results_for_one_row(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), message(1))
    groups.put(ROOMS, shared_partition(ROOMS.id), {1: 1, 2: "a"}, {1: 2, 2: "b"})
    text = "SELECT t0.id, t1.title FROM t0 CROSS JOIN t1 ORDER BY t1.title"
    assert await run(by_engine(text, BODY), groups, warm) == 1
    assert groups.stored(MESSAGES, tenant())[0][BODY.id] == "a"


async def test_a_write_between_engine_and_rows(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), message(1, score=1.0))
    done = interfere(groups, 1, tenant())
    text = "SELECT t0.id, 'new' AS body FROM t0"
    assert await run(by_engine(text, BODY), groups, warm) == 2
    assert done == [1]
    assert len(groups.works) == 1


async def test_a_value_that_does_not_fit(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), message(1))
    with pytest.raises(TypeMismatch):
        await run(by_engine("SELECT t0.id, t0.body FROM t0", SCORE), groups, warm)


async def test_insert_select(warm: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(3)))

    def complete(env: Env, values: Sequence[Any]) -> Row:
        return message(values[0], body=values[1], at=values[2])

    plan = InsertSelectPlan(
        MESSAGES,
        scan_plan("SELECT id + 10, upper(body), at FROM t0", MESSAGES),
        complete,
        (),
        None,
        None,
        (),
    )
    assert await run(plan, groups, warm) == 3
    (work,) = groups.works
    assert isinstance(work, InsertRows)
    rows = groups.stored(MESSAGES, tenant())
    assert len(rows) == 6
    assert rows[-1] == message(12, body="MESSAGE NUMBER 2", at=1_700_000_000_000_002)
    # It rests on what it read: a write in between makes it run again, over the newer rows.
    groups.works.clear()
    interfere(groups, 1, tenant())
    assert await run(replace(plan, scan=scan_plan(MOVED, MESSAGES)), groups, warm) == 7
    assert len(groups.works) == 2
    interfere(groups, 20, tenant())
    with pytest.raises(Conflict):
        await run(replace(plan, scan=scan_plan(MOVED, MESSAGES)), groups, warm)
    assert groups.last[MESSAGES.id, tenant()] > Seq(0)
