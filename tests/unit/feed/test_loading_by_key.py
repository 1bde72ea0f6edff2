"""A filter that gives the beginning of a key is loaded from that key, in the same order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kalamdb.feed import loading
from kalamdb.feed.events import Renderer
from kalamdb.feed.loading import Load, Newest, Whole
from kalamdb.model.catalog import DEFAULT_NAMESPACE
from kalamdb.model.principal import Principal, Role
from kalamdb.ports import Snapshot
from kalamdb.sql.bound import Env, LivePlan
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select
from tests.small_node import SmallNode, small_node

ALICE = Principal.of("alice", Role.USER)
WANTED = [Whole(1), Whole(3), Whole(100), Newest(1), Newest(4), Newest(100)]


@pytest_asyncio.fixture
async def node() -> AsyncIterator[SmallNode]:
    async with small_node() as made:
        await made.setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.m (id INT PRIMARY KEY, thread INT, n INT)",
            "CREATE INDEX by_thread ON app.m (thread)",
        )
        for number in (5, 3, 9, 1, 7, 2, 8, 4, 6):
            await made.ok("alice", f"INSERT INTO app.m VALUES ({number}, {number % 2}, 0)")
            await made.ok("bob", f"INSERT INTO app.m VALUES ({number}, 1, 100)")
        await made.ok("alice", "UPDATE app.m SET n = n + 1 WHERE id IN (3, 7)")
        await made.ok("alice", "UPDATE app.m SET thread = 1 WHERE id = 4")
        await made.ok("alice", "DELETE FROM app.m WHERE id = 9")
        yield made


def bound(node: SmallNode, where: str) -> LivePlan:
    (select,) = parse(f"SELECT * FROM app.m WHERE {where}")
    assert isinstance(select, Select)
    env = Env(ALICE, node.clock.wall_ms(), node.ids, ())
    plan = bind_live(select, node.groups.catalog, DEFAULT_NAMESPACE, env)
    assert isinstance(plan, LivePlan)
    return plan


class Counting:
    """A snapshot that says how its rows were looked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.by_seq = 0

    def scan_by_seq(self, *args: Any, **named: Any) -> Any:
        self.by_seq += 1
        return self.snapshot.scan_by_seq(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.snapshot, name)


def pages(
    node: SmallNode, plan: LivePlan, wanted: Whole | Newest, *, by_key: bool, after: int = 0
) -> tuple[list[Any], int]:
    partition = plan.table.partition_for(ALICE.partition)
    counting: Any = Counting(node.groups.snapshot(partition))
    ranges = plan.ranges if by_key else None
    load = Load(
        plan, partition, Renderer(plan), wanted, snapshot=counting, opened_s=0, ranges=ranges
    )
    found: list[Any] = []
    try:
        while True:
            page = load.scan(2, 1 << 20)
            if page is not None:
                found.append(page)
                if len(found) == after:
                    load.restart(found[0][0].last_row)
                if not page[0].has_more:
                    return found, counting.by_seq
    finally:
        load.close()


@pytest.mark.parametrize("wanted", WANTED, ids=str)
@pytest.mark.parametrize(
    "where", ["thread = 1", "thread IN (0, 1)", "id = 4", "thread = 1 AND n > 0"]
)
async def test_the_same_pages_as_by_seq(
    node: SmallNode, where: str, wanted: Whole | Newest
) -> None:
    plan = bound(node, where)
    assert plan.ranges
    by_seq, _ = pages(node, plan, wanted, by_key=False)
    by_key, scans_by_seq = pages(node, plan, wanted, by_key=True)
    assert by_key == by_seq
    assert any(rows for _, rows in by_seq)
    assert scans_by_seq == 0


async def test_going_on_after_a_row(node: SmallNode) -> None:
    plan = bound(node, "thread = 1")
    by_seq, _ = pages(node, plan, Whole(2), by_key=False, after=2)
    by_key, _ = pages(node, plan, Whole(2), by_key=True, after=2)
    assert by_key == by_seq


async def test_many_rows_are_found_by_seq(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "KEYED_ROWS_MAX", 2)
    plan = bound(node, "thread = 1")
    by_seq, _ = pages(node, plan, Whole(100), by_key=False)
    by_key, scans_by_seq = pages(node, plan, Whole(100), by_key=True)
    assert by_key == by_seq
    assert scans_by_seq == 1


@pytest.mark.parametrize("where", ["n = 0", "thread > 0", "id > 3", "thread = 1 OR n = 0"])
async def test_a_filter_without_a_leading_value_has_no_ranges(node: SmallNode, where: str) -> None:
    assert bound(node, where).ranges is None
