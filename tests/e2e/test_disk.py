"""A disk that really fills up: writes are refused, reads go on, and room brings the writes back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.server import running
from tests.waiting import wait_until

DISK_MIB = 160
MIN_FREE_BYTES = 48 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own. Needs root and the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={DISK_MIB}m"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_refuses_writes_until_there_is_room(small_disk: Path) -> None:
    env = {"KALAMDB_STORAGE_MIN_FREE_BYTES": str(MIN_FREE_BYTES)}
    async with running(small_disk / "data", env) as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        await root.ok("INSERT INTO app.notes VALUES (1, 'kept')")
        filler = small_disk / "filler"
        free = os.statvfs(small_disk)
        with filler.open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, free.f_bavail * free.f_frsize - MIN_FREE_BYTES // 2)

        async def status_is(word: str) -> None:
            def said() -> bool:
                return word in server.log.read_text()

            await wait_until(said, what=f"{word} in the log", timeout_s=10)

        await status_is("disk_low")
        refused = await root.sql("INSERT INTO app.notes VALUES (2, 'no')")
        assert (refused.status, refused.code) == (503, "DISK_FULL")
        assert (await root.ok("SELECT body FROM app.notes WHERE id = 1")).rows == [["kept"]]
        async with http.get(f"{server.url}/health") as response:
            assert response.status == 200
            assert (await response.json())["status"] == "degraded"
        filler.unlink()
        await status_is("disk_recovered")
        await root.ok("INSERT INTO app.notes VALUES (2, 'yes')")
