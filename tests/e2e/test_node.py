"""One node as a stranger meets it: first boot, stop, restart, kill -9, refusals to start."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import aiohttp

from tests.e2e.server import JWT_SECRET, ROOT_PASSWORD, Server, running


async def test_first_boot_makes_a_root_password_and_says_it_once(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    del server._env["KALAMDB_ROOT_PASSWORD"], server._env["KALAMDB_JWT_SECRET"]
    await server.start()
    said = re.search(r"root password: (\S+)", server.log.read_text())
    assert said is not None, server.log.read_text()
    async with aiohttp.ClientSession() as http:
        root = await server.login(http, "root", said.group(1))
        assert (await root.ok("SELECT 1 AS one")).rows == [["1"]]
    assert server.stop() == 0
    server.log.write_text("")
    await server.start()
    assert "root password:" not in server.log.read_text()
    async with aiohttp.ClientSession() as http:
        await server.login(http, "root", said.group(1))
    assert server.stop() == 0


async def test_rows_survive_a_clean_restart_and_a_kill(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        await root.ok("INSERT INTO app.notes VALUES (1, 'clean')")
        assert server.stop() == 0
        await server.start()
        await root.ok("INSERT INTO app.notes VALUES (2, 'killed')")
        server.kill()
        await server.start()
        answer = await root.ok("SELECT id, body FROM app.notes ORDER BY id")
        assert answer.rows == [[1, "clean"], [2, "killed"]]
        assert (await root.sql("INSERT INTO app.notes VALUES (2, 'again')")).status == 400


async def test_a_weak_secret_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", {"KALAMDB_JWT_SECRET": "short"})
    server.spawn()
    assert server.process is not None
    assert server.process.wait(20) != 0
    assert "jwt_secret" in server.log.read_text().lower()


async def test_two_nodes_do_not_share_a_data_directory(tmp_path: Path) -> None:
    async with running(tmp_path / "data"):
        second = Server(tmp_path / "data")
        second.log = tmp_path / "second.log"
        second.spawn()
        assert second.process is not None
        assert second.process.wait(20) != 0
        assert "lock" in second.log.read_text().lower()


async def test_a_server_that_never_scans_loads_no_engine(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        await root.ok("INSERT INTO app.notes VALUES ($1, $2)", [1, "x"])
        assert (await root.ok("SELECT body FROM app.notes WHERE id = 1")).rows == [["x"]]
        assert server.process is not None
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "libarrow" not in maps
        assert "datafusion" not in maps
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert resident is not None
        assert int(resident.group(1)) < 170 * 1024


async def test_low_disk_refuses_writes_and_serves_reads(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        await root.ok("INSERT INTO app.notes VALUES (1, 'kept')")
        assert server.stop() == 0
        plenty = server._env.copy()
        server._env["KALAMDB_STORAGE_MIN_FREE_BYTES"] = str(1 << 50)
        await server.start()
        refused = await root.sql("INSERT INTO app.notes VALUES (2, 'no')")
        assert (refused.status, refused.code) == (503, "DISK_FULL")
        assert (await root.ok("SELECT body FROM app.notes WHERE id = 1")).rows == [["kept"]]
        assert server.stop() == 0
        server._env = plenty
        await server.start()
        await root.ok("INSERT INTO app.notes VALUES (2, 'yes')")


async def test_a_corrupt_log_is_named_and_not_guessed_at(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as server, aiohttp.ClientSession() as http:
        root = await server.login(http)
        await root.ok("CREATE NAMESPACE app")
        await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT)")
        for number in range(50):
            await root.ok("INSERT INTO app.notes VALUES ($1, $2)", [number, "x" * 200])
        server.kill()
        segment = sorted((tmp_path / "data").rglob("*.wal"))[0]
        raw = bytearray(segment.read_bytes())
        middle = len(raw.rstrip(b"\0")) // 2
        raw[middle : middle + 4] = bytes(byte ^ 0xFF for byte in raw[middle : middle + 4])
        segment.write_bytes(raw)
        server.log.write_text("")
        server.spawn()
        assert server.process is not None
        assert server.process.wait(20) != 0
        said = server.log.read_text()
        assert segment.name in said
        assert "offset" in said


def test_help_and_unknown_settings(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    program = ["env", "KALAMDB_NO_SUCH_SETTING=1"]
    from tests.e2e.server import PROGRAM

    done = subprocess.run(
        [*program, str(PROGRAM), "--data", str(server.data)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode != 0
    assert "no_such_setting" in (done.stdout + done.stderr).lower()
    helped = subprocess.run(
        [str(PROGRAM), "--help"], capture_output=True, text=True, timeout=20, check=True
    )
    for flag in ("--data", "--http", "--rpc", "--config", "--node-id", "--cluster-id"):
        assert flag in helped.stdout
    assert ROOT_PASSWORD not in helped.stdout
    assert JWT_SECRET not in helped.stdout
