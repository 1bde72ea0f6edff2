"""The suites of this directory run against both ways in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.edge_http.world import NodeServer


@pytest.fixture(params=[True, False], ids=["front", "aiohttp"])
def each_front(request: pytest.FixtureRequest) -> Iterator[bool]:
    """The fast front is on, then off."""
    NodeServer.fast_front = request.param
    yield request.param
    NodeServer.fast_front = True
