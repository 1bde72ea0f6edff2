"""A data directory of each release is opened by this one, and says what it said then."""

from __future__ import annotations

import contextlib
from pathlib import Path

import aiohttp
import pytest

from tests.compat.recorded import CLUSTER, DATA, read_all, unpack
from tests.e2e.server import running

RELEASES = sorted(path.name.removesuffix(".tar.gz") for path in DATA.glob("*.tar.gz"))


def test_there_is_one() -> None:
    assert RELEASES


@pytest.mark.parametrize("version", RELEASES)
async def test_it_reads_what_was_read_then(version: str, tmp_path: Path) -> None:
    told = unpack(version, tmp_path / "data")
    for _ in range(2):  # the second start reads what this release made of it
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(running(tmp_path / "data", CLUSTER))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            assert await read_all(http, server) == told
            assert server.stop() == 0


@pytest.mark.parametrize("version", RELEASES)
async def test_it_goes_on(version: str, tmp_path: Path) -> None:
    told = unpack(version, tmp_path / "data")
    async with (
        running(tmp_path / "data", CLUSTER) as server,
        aiohttp.ClientSession() as http,
    ):
        ann = await server.login(http, "ann")
        clash = await ann.sql("INSERT INTO app.pairs VALUES ('new', 1, 'changed', 1)")
        assert clash.body["error"]["sqlstate"] == "23505", "UNIQUE values are kept"
        check = await ann.sql("UPDATE app.pairs SET n = 100 WHERE a = 'é' AND b = 0")
        assert check.body["error"]["sqlstate"] == "23514", "and so are CHECKs"
        again = await ann.ok("INSERT INTO app.pairs VALUES ('new', 1, 'two', 1) RETURNING _seq")
        logs = told["ann"]["SELECT * FROM app.logs ORDER BY _seq"]["rows"]
        newest = max(int(row[-2]) for row in logs)
        assert int(again.rows[0][0]) > newest
        assert (await ann.ok("UPDATE app.every SET t = 'now' WHERE id = 4 RETURNING t")).rows == [
            ["now"]
        ]
        assert (await ann.ok("SELECT count(*) FROM app.every")).rows == [["3"]]
        root = await server.login(http)
        await root.ok("CREATE USER TABLE app.dropped (id INT PRIMARY KEY)")
        assert (await root.ok("SELECT * FROM app.dropped")).rows == []
