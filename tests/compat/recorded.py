"""A small data directory of a release, kept for ever: how it is recorded, what is read in it.

1. A real `kalamdb-server` of the release starts on an empty directory, makes tables of every kind
   and a user, writes rows of every type, updates and deletes some, and stops cleanly.
2. It starts again, writes more, and is killed: what the log holds beyond the tables counts too.
3. `data/<version>.tar.gz` is the directory then, `data/<version>.json` what each user read in it.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.server import Client, Server

VERSION = "0.1.0"
DATA = Path(__file__).with_name("data")
CLUSTER = {"KALAMDB_CLUSTER_ID": "recorded"}
SIZE_MAX_BYTES = 100_000

DEFINITIONS = (
    "CREATE NAMESPACE app",
    "CREATE USER TABLE app.every (id INT PRIMARY KEY, b BOOLEAN, s SMALLINT, n BIGINT, f FLOAT,"
    " d DOUBLE, c DECIMAL(10, 2), t TEXT, y BYTES, j JSON, ts TIMESTAMP, dt DATETIME, da DATE,"
    " ti TIME, u UUID, e EMBEDDING(3))",
    "CREATE USER TABLE app.pairs (a TEXT, b BIGINT, v TEXT UNIQUE, n INT DEFAULT 7,"
    " CHECK (n < 100), PRIMARY KEY (a, b))",
    "CREATE USER TABLE app.logs (line TEXT NOT NULL, who TEXT DEFAULT CURRENT_USER())",
    "CREATE STREAM TABLE app.typing (who TEXT) WITH (TTL_SECONDS = 315360000)",
    "CREATE SHARED TABLE app.public (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'PUBLIC')",
    "CREATE USER TABLE app.dropped (id INT PRIMARY KEY)",
    "INSERT INTO app.public VALUES (1, 'for all'), (2, 'gone'), (3, 'old')",
    "INSERT INTO app.pairs VALUES ('root', 1, 'of root', 1)",
    "INSERT INTO app.dropped VALUES (1)",
    "DROP TABLE app.dropped",
)
ROW: list[Any] = [
    *(1, True, -7, "9007199254740993", 1.5, 0.1, "200.75", "héllo 𝄞", [0, 255], {"a": [1, None]}),
    *("2026-01-02T03:04:05.000006", "2026-01-02T03:04:05+02:00", "2026-01-02", "03:04:05.5"),
    *("9f8b0c1e-0000-4000-8000-00000000000a", [1, 0.5, -2]),
]
FIRST = (
    "INSERT INTO app.every (id) VALUES (2), (3)",
    "INSERT INTO app.pairs VALUES ('é', -1, 'one', NULL), ('é', 0, 'two', 5), ('', 1, NULL, 6)",
    "INSERT INTO app.logs (line) VALUES ('first'), ('second')",
    "INSERT INTO app.typing VALUES ('ann')",
    "UPDATE app.pairs SET n = 99, v = 'changed' WHERE a = 'é' AND b = 0",
    "DELETE FROM app.every WHERE id = 3",
)
SECOND = (
    "INSERT INTO app.every (id, t) VALUES (4, 'after the restart')",
    "UPDATE app.every SET t = 'twice' WHERE id = 1",
    "DELETE FROM app.pairs WHERE a = ''",
    "INSERT INTO app.logs (line) VALUES ('third')",
)
READS = (
    "SELECT * FROM app.every WHERE id = 1",
    "SELECT * FROM app.every ORDER BY id",
    "SELECT * FROM app.pairs ORDER BY a, b",
    "SELECT * FROM app.logs ORDER BY _seq",
    "SELECT * FROM app.typing ORDER BY _seq",
    "SELECT * FROM app.public ORDER BY id",
    "SHOW TABLES IN app",
    "DESCRIBE app.every",
    "DESCRIBE app.pairs",
)
REQUEST = "INSERT INTO app.logs (line) VALUES ('exactly once') RETURNING line"


async def write_first(http: aiohttp.ClientSession, server: Server) -> None:
    root = await server.login(http)
    for sql in DEFINITIONS:
        await root.ok(sql)
    ann = await server.new_user(http, root, "ann")
    places = ", ".join(f"${number}" for number in range(1, len(ROW) + 1))
    await ann.ok(f"INSERT INTO app.every VALUES ({places})", ROW)
    for sql in FIRST:
        await ann.ok(sql)


async def write_second(http: aiohttp.ClientSession, server: Server) -> Client:
    root, ann = await server.login(http), await server.login(http, "ann")
    await root.ok("UPDATE app.public SET v = 'new' WHERE id = 3")
    await root.ok("DELETE FROM app.public WHERE id = 2")
    for sql in SECOND:
        await ann.ok(sql)
    await ann.ok(REQUEST, request_id="recorded-1")
    return ann


async def read_all(http: aiohttp.ClientSession, server: Server) -> dict[str, dict[str, Any]]:
    """What each user reads, by statement: schema and rows."""
    found: dict[str, dict[str, Any]] = {}
    for user in ("root", "ann"):
        client = await server.login(http, user)
        found[user] = {}
        for sql in READS:
            (result,) = (await client.ok(sql)).body["results"]
            found[user][sql] = {name: result[name] for name in ("schema", "rows")}
    return found


async def _record(folder: Path) -> dict[str, Any]:
    server = Server(folder / "data", CLUSTER)
    async with aiohttp.ClientSession() as http:
        await server.start()
        await write_first(http, server)
        assert server.stop() == 0
        await server.start()
        try:
            await write_second(http, server)
            return await read_all(http, server)
        finally:
            server.kill()


def record() -> str:
    """Record this release, unless that was done. Gives what it did."""
    archive = DATA / f"{VERSION}.tar.gz"
    if archive.exists():
        return f"{archive.name} is there already"
    with tempfile.TemporaryDirectory() as folder:
        read = asyncio.run(_record(Path(folder)))
        packed = pack(Path(folder) / "data")
    assert len(packed) < SIZE_MAX_BYTES, len(packed)
    DATA.mkdir(exist_ok=True)
    archive.write_bytes(packed)
    told = json.dumps(read, ensure_ascii=False, indent=1) + "\n"
    archive.with_name(f"{VERSION}.json").write_text(told)
    return f"{archive.name}: {len(packed)} bytes"


def pack(directory: Path) -> bytes:
    """The files of a data directory, without the lock and without anybody's name or time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=9) as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.name not in ("lock", "LOCK", "ballast"):
                raw = path.read_bytes()
                member = tarfile.TarInfo(str(path.relative_to(directory)))
                member.size, member.mode = len(raw), 0o600
                archive.addfile(member, io.BytesIO(raw))
    return out.getvalue()


def unpack(version: str, directory: Path) -> dict[str, Any]:
    """The directory of a release under `directory`; gives what its users read in it."""
    with tarfile.open(DATA / f"{version}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return json.loads((DATA / f"{version}.json").read_text())
