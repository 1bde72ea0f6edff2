"""Definitions on a real node: altered under load, and there again after the process is killed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import aiohttp

from tests.e2e.server import Client, Server, running

ROWS = 4000


async def filled(server: Server, http: aiohttp.ClientSession) -> tuple[Client, Client]:
    root = await server.login(http)
    await root.ok("CREATE NAMESPACE app")
    await root.ok("CREATE USER TABLE app.m (id INT PRIMARY KEY, body TEXT, n INT)")
    await root.ok("CREATE USER 'ann' WITH PASSWORD 'a-long-one-of-ann-55' ROLE user")
    ann = await server.login(http, "ann", "a-long-one-of-ann-55")
    values = ", ".join(f"({number}, 'text', {number})" for number in range(ROWS))
    await ann.ok(f"INSERT INTO app.m VALUES {values}")
    return root, ann


async def test_nobody_fails_while_a_table_is_altered(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server, aiohttp.ClientSession() as http:
        root, ann = await filled(server, http)
        altered = asyncio.Event()
        done = 0

        async def work(number: int) -> None:
            nonlocal done
            while not altered.is_set():
                await ann.ok("SELECT id FROM app.m WHERE id = $1", [number])
                await ann.ok("UPDATE app.m SET body = $1 WHERE id = $2", ["new", number])
                await ann.ok("INSERT INTO app.m (id) VALUES ($1)", [ROWS + number])
                await ann.ok("DELETE FROM app.m WHERE id = $1", [ROWS + number])
                done += 1

        async def alter() -> None:
            try:
                for change in (
                    "ADD COLUMN stars INT NOT NULL DEFAULT 5",
                    "ADD CONSTRAINT some CHECK (n >= 0 AND stars = 5)",
                    "ADD CONSTRAINT once UNIQUE (n)",
                    "RENAME COLUMN stars TO points",
                    "ALTER n TYPE BIGINT, DROP CONSTRAINT once",
                    "DROP COLUMN points CASCADE",
                ):
                    await root.ok(f"ALTER TABLE app.m {change}")
            finally:
                altered.set()

        await asyncio.gather(alter(), *(work(number) for number in range(4)))
        assert done
        assert (await ann.ok("SELECT count(*) FROM app.m")).rows == [[str(ROWS)]]


async def test_definitions_are_there_after_the_process_was_killed(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(tmp_path / "data"))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        root, ann = await filled(server, http)
        await root.ok("ALTER TABLE app.m ADD COLUMN stars INT DEFAULT 5, ADD CHECK (n >= 0)")
        await root.ok("CREATE VIEW app.v AS SELECT id, stars FROM app.m WHERE n < 2")
        await root.ok("ALTER NAMESPACE app SET DESCRIPTION 'kept'")
        history = (await ann.ok("DESCRIBE app.m HISTORY")).rows
        with contextlib.suppress(aiohttp.ClientError):
            async with asyncio.TaskGroup() as tasks:  # killed while it looks at the rows
                tasks.create_task(_killed(root))
                tasks.create_task(_kill_soon(server))
        await server.start()
        ann = await server.login(http, "ann", "a-long-one-of-ann-55")
        assert (await ann.ok("SELECT * FROM app.v ORDER BY id")).rows == [[0, 5], [1, 5]]
        after = (await ann.ok("DESCRIBE app.m HISTORY")).rows
        assert after[: len(history)] == history
        refused = await ann.sql("INSERT INTO app.m (id, n) VALUES (-1, -1)")
        assert refused.body["error"]["sqlstate"] == "23514"
        root = await server.login(http)
        assert (await root.ok("SHOW NAMESPACES")).rows[0][3] == '{"description":"kept"}'
        again = await root.sql("ALTER TABLE app.m ADD CONSTRAINT one UNIQUE (n)")
        assert again.status == 200 or again.body["error"]["sqlstate"] == "42710", again.body
        twice = await ann.sql("INSERT INTO app.m (id, n) VALUES (-1, 1)")
        assert twice.body["error"]["sqlstate"] == "23505"


async def _killed(root: Client) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await root.sql("ALTER TABLE app.m ADD CONSTRAINT one UNIQUE (n)")


async def _kill_soon(server: Server) -> None:
    """After the statement was sent, most often in the middle of its steps."""
    for _ in range(3):
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http:
                await http.get(f"{server.url}/health")
    server.kill()
