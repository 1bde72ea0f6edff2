"""A pool whose workers are real, and groups that are not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.unit.query.world import FakeGroups

MIB = 1 << 20


@pytest_asyncio.fixture(loop_scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    """One worker, so that the next query meets what the last one left."""
    found = EnginePool(PoolSettings(workers_max=1, timeout_s=20, memory_max_bytes=128 * MIB))
    yield found
    await found.close()


@pytest_asyncio.fixture(loop_scope="module")
async def groups() -> FakeGroups:
    return FakeGroups()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def warm() -> AsyncIterator[EnginePool]:
    """One pool for many small queries."""
    found = EnginePool(PoolSettings(workers_max=1, timeout_s=20, memory_max_bytes=128 * MIB))
    yield found
    await found.close()
