"""What stands in the audit log, and that it is still there after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.contract import CHEAP_HASHES, Node, one_node
from tests.e2e.server import ROOT_PASSWORD, Client, running

READ = (
    "SELECT actor_user_id, action, target, details, ip_address, subject_user_id"
    " FROM system.audit_log ORDER BY timestamp, audit_id"
)
OTHER = "another-long-password-17"


async def entries(root: Client) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in (await root.ok(READ)).rows]


async def refused(node: Node, user: str, address: str) -> None:
    url = f"{node.server.url}/v1/api/auth/login"
    said = {"user": user, "password": "wrong-password-here"}
    headers = {"X-Forwarded-For": address}
    async with node.http.post(url, json=said, headers=headers) as response:
        assert response.status == 401


async def test_who_did_what_is_kept(tmp_path: Path) -> None:
    data = tmp_path / "data"
    env = {"KALAMDB_AUDIT_INTERVAL_S": "0.05"}
    async with one_node(data, env) as node:
        root = node.root
        await root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY)")
        boss = await node.user("boss", "dba")
        await node.user("worker", "service")
        await boss.ok("ALTER USER worker SET EMAIL 'w@example.org'")
        await root.ok(f"ALTER USER worker SET PASSWORD '{OTHER}'")
        await root.ok("ALTER USER worker SET ROLE user")
        assert (await root.sql("CREATE USER worker WITH INTERNAL ROLE dba")).status == 400
        await root.ok("DROP USER worker")
        await root.ok("DROP TABLE app.notes")
        server = node.server
        server.kill()  # what was answered is on disk
        await server.start()
        root = await server.login(node.http)
        found = await entries(root)
        assert ("root", "CREATE_NAMESPACE", "app", None, None, None) in found
        assert ("root", "CREATE_TABLE", "app.notes", None, None, None) in found
        assert [entry[1:] for entry in found if entry[5] == "worker"] == [
            ("CREATE_USER", "worker", "role service", None, "worker"),
            ("ALTER_USER", "worker", "email", None, "worker"),
            ("ALTER_USER", "worker", "password", None, "worker"),
            ("ALTER_USER", "worker", "role user", None, "worker"),
            ("DROP_USER", "worker", None, None, "worker"),
        ]
        assert ("root", "DROP_TABLE", "app.notes", None, None, None) in found
        said = server.log.read_text()
        for secret in (OTHER, ROOT_PASSWORD):
            assert secret not in json.dumps(found) + said
        assert (await boss_again(node)).body["error"]["code"] == "PERMISSION_DENIED"


async def boss_again(node: Node) -> Any:
    """Someone who is no administrator."""
    client = await node.user("plain")
    return await client.sql(READ)


async def test_signing_in_and_acting_for_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with one_node(data) as node:
        await node.root.ok("CREATE USER TABLE app.notes (id INT PRIMARY KEY)")
        worker = await node.user("worker", "service")
        plain = await node.user("plain")
        for _ in range(3):
            await refused(node, "worker", "203.0.113.1")
        await refused(node, "nobody", "203.0.113.2")
        for _ in range(4):
            await worker.ok("EXECUTE AS 'plain' (SELECT id FROM app.notes)")
        assert (await plain.sql("EXECUTE AS 'worker' (SELECT id FROM app.notes)")).status == 403
        await node.root.ok("SELECT id FROM all_users.app.notes")
        url = f"{node.server.url}/v1/api/auth/logout"
        headers = {"Authorization": f"Bearer {plain.token}"}
        async with node.http.post(url, headers=headers) as response:
            assert response.status == 200
        assert node.server.stop() == 0
    async with running(data, CHEAP_HASHES) as server, aiohttp.ClientSession() as http:
        found = await entries(await server.login(http))
        often = "{} times within a minute"
        for entry in (
            ("root", "LOGIN", "password", None, "127.0.0.1", None),
            ("worker", "LOGIN_REFUSED", "password", often.format(3), "203.0.113.1", None),
            ("nobody", "LOGIN_REFUSED", "password", None, "203.0.113.2", None),
            ("worker", "EXECUTE_AS_USER", "plain", often.format(4), None, "plain"),
            ("plain", "EXECUTE_AS_USER_DENIED", "worker", None, None, "worker"),
            ("root", "READ_ALL_USERS", "app.notes", None, None, None),
            ("plain", "LOGOUT", "plain", None, "127.0.0.1", None),
        ):
            assert found.count(entry) == 1, (entry, found)
        assert not [entry for entry in found if entry[:2] == ("worker", "LOGIN")]
