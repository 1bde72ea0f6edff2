"""Definitions tell nothing that their reader may not know: of rows of others, of closed tables."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.model.principal import Role
from tests.small_node import SmallNode, small_node


async def code(node: SmallNode, sql: str, role: Role = Role.USER) -> str:
    """The code of a refusal; "" for none."""
    status, body = await node.sql("bob", sql, role=role)
    found: Any = "" if status == 200 else body["error"]["code"]
    return found


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE app.m ADD CONSTRAINT c CHECK (body <> 'of alice')",
        "ALTER TABLE app.m ALTER COLUMN body SET NOT NULL",
        "ALTER TABLE app.m ADD CONSTRAINT u UNIQUE (body)",
        "CREATE UNIQUE INDEX u ON app.m (body)",
    ],
)
async def test_role_user_defines_nothing_that_rows_of_others_answer(sql: str) -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.m (id INT PRIMARY KEY, body TEXT)"
        )
        await node.ok("alice", "INSERT INTO app.m VALUES (1, 'of alice')")
        node.session._definitions.user_ddl = True
        assert await code(node, "ALTER TABLE app.m ADD COLUMN more TEXT") == ""
        assert await code(node, "CREATE INDEX i ON app.m (more)") == ""
        assert await code(node, sql) == "PERMISSION_DENIED"
        assert await code(node, sql, Role.SERVICE) != "PERMISSION_DENIED"


async def test_the_text_of_what_is_closed_is_closed() -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app",
            "CREATE SHARED TABLE app.s (id INT PRIMARY KEY, v TEXT DEFAULT 'hush')"
            " WITH (ACCESS_LEVEL = 'dba')",
            "CREATE VIEW app.v AS SELECT id FROM app.s WHERE v <> 'hush'",
            "CREATE VIEW app.w AS SELECT id FROM app.v",
        )
        for what in ("TABLE app.s", "VIEW app.v", "VIEW app.w"):
            assert await code(node, f"SHOW CREATE {what}") == "PERMISSION_DENIED"
            assert await code(node, f"SHOW CREATE {what}", Role.DBA) == ""


CLOSED = (
    "CREATE NAMESPACE app",
    "CREATE NAMESPACE vault",
    "CREATE SHARED TABLE vault.s (id INT PRIMARY KEY, v TEXT)",
    "CREATE VIEW app.v AS SELECT id FROM vault.s",
    "CREATE USER TABLE app.m (id INT PRIMARY KEY)",
    "CREATE SHARED TABLE app.open (id INT PRIMARY KEY) WITH (ACCESS_LEVEL = 'public')",
    "CREATE SHARED TABLE app.closed (id INT PRIMARY KEY)",
)


@pytest.mark.parametrize("name", ["vault.s", "app.closed", "app.v"])
async def test_what_may_not_be_read_is_not_described(name: str) -> None:
    async with small_node() as node:
        await node.setup(*CLOSED)
        for look in (f"DESCRIBE {name}", f"DESC TABLE {name}", f"SHOW COLUMNS FROM {name}"):
            assert await code(node, look) == "PERMISSION_DENIED"
            assert await code(node, look, Role.SERVICE) == ""
        if name != "app.v":
            for look in (f"DESCRIBE {name} HISTORY", f"SHOW STATS FOR TABLE {name}"):
                assert await code(node, look) == "PERMISSION_DENIED"
                assert await code(node, look, Role.SERVICE) == ""


async def test_lists_leave_out_what_may_not_be_read_as_information_schema_does() -> None:
    async with small_node() as node:
        await node.setup(*CLOSED)

        async def rows(sql: str, role: Role) -> Any:
            return (await node.ok("bob", sql, role=role))[0]["rows"]

        for role, names, counts in (
            (Role.USER, ["app.m", "app.open"], {"app": 2, "default": 0}),
            (
                Role.SERVICE,
                ["app.closed", "app.m", "app.open", "app.v", "vault.s"],
                {"app": 3, "default": 0, "vault": 1},
            ),
        ):
            shown = [f"{row[0]}.{row[1]}" for row in await rows("SHOW TABLES", role)]
            assert shown == names
            told = await rows(
                "SELECT table_schema, table_name FROM information_schema.tables"
                " WHERE table_schema IN ('app', 'vault') ORDER BY 1, 2",
                role,
            )
            assert [".".join(row) for row in told] == names
            found = await rows("SHOW NAMESPACES", role)
            assert {row[0]: row[4] for row in found} == counts
        assert len(await rows("SHOW TABLES IN vault", Role.USER)) == 0


async def test_a_view_that_is_not_there_is_called_a_view() -> None:
    async with small_node() as node:
        for sql in ("DROP VIEW nope", "SHOW CREATE VIEW nope"):
            _, body = await node.sql("root", sql, role=Role.DBA)
            assert body["error"]["message"] == "view default.nope does not exist"
            assert body["error"]["sqlstate"] == "42P01"
