"""The fuzzer itself: a short campaign in the quick gate, the same world twice, and faults planted
in the server that it must find.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kalamdb.decide.rows import RowWriter
from kalamdb.errors import KalamError
from kalamdb.model.ids import Partition, TenantId, tenant_partition
from kalamdb.model.table import TableDef
from kalamdb.query import point
from kalamdb.query.engine_pool import EnginePool
from tests.fuzz import campaign
from tests.fuzz.world import Broken, World

SEEDS = range(100, 108)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    found = EnginePool(campaign.settings())
    yield found
    await found.close()


async def test_some_worlds() -> None:
    tally, broken = await campaign.worlds(SEEDS, 400)
    assert not broken, "\n".join(map(str, broken))
    assert sum(tally.answered.values()) > 0.4 * sum(tally.asked.values())


async def test_a_seed_is_a_world(pool: EnginePool) -> None:
    said: list[list[Any]] = [[], []]
    for heard in said:
        await World(5, pool, lambda *told, heard=heard: heard.append(told[:3])).run(150)
    assert said[0] == said[1]


async def found(pool: EnginePool, why: str) -> None:
    """One of a few worlds goes wrong for this reason."""
    reasons: list[str] = []
    for seed in range(6):
        try:
            await World(seed, pool).run(300)
        except Broken as error:
            reasons.append(error.why)
            if why in error.why:
                return
    pytest.fail(f"not found; but {reasons}")


async def test_a_row_of_another(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> None:
    right, begin = TableDef.partition_for, World._begin

    alice, bob = (tenant_partition(TenantId(name)) for name in ("alice", "bob"))

    def wrong(self: TableDef, tenant: Partition) -> Partition:
        return right(self, alice if tenant == bob else tenant)

    async def begin_and_break(self: World) -> None:
        monkeypatch.setattr(TableDef, "partition_for", right)
        await begin(self)
        monkeypatch.setattr(TableDef, "partition_for", wrong)

    monkeypatch.setattr(World, "_begin", begin_and_break)
    await found(pool, "alone")


async def test_an_index_entry_left_behind(
    pool: EnginePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = RowWriter.remove

    def wrong(self: RowWriter, *arguments: Any, **more: Any) -> None:
        indexes, self.plan.indexes = self.plan.indexes, ()
        try:
            right(self, *arguments, **more)
        finally:
            self.plan.indexes = indexes

    monkeypatch.setattr(RowWriter, "remove", wrong)
    await found(pool, "index by_n")


async def test_a_bug_is_no_answer(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(point, "select", wrong)
    await found(pool, "ZeroDivisionError")


async def test_a_refusal_nobody_knows(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Any:
        raise KalamError

    monkeypatch.setattr(point, "select", wrong)
    await found(pool, "unknown refusal")
