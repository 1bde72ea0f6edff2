"""What `docs/reference/sql.md` shows and what the table of statements gives as examples is run."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kalamdb.model.principal import Principal, Role
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.session.run import Conversation
from kalamdb.sql import statement as s
from kalamdb.sql.statement_entry import Entry, Theme
from kalamdb.sql.statement_table import TABLE
from tests.small_node import SmallNode, small_node

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/sql.md"
BLOCKS = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
LISTS = [[1, 2], ["a", "b"]]

EXPLAINED = (
    "CREATE NAMESPACE chat",
    "CREATE USER TABLE chat.messages (id INT PRIMARY KEY, room TEXT, body TEXT)",
    "CREATE INDEX by_item ON shop.orders (item, placed)",
)

# What only a whole node has, and what names something that is not there.
ELSEWHERE = (s.ShowSettings, s.Kill)


@pytest.fixture
def talk() -> Conversation:
    return Conversation(Principal.of("ann", Role.SYSTEM))


async def run(node: SmallNode, talk: Conversation, sql: str, params: list[Any] | None) -> str:
    """Empty when it was done."""
    status, body = await node.talk(talk, sql, params)
    return "" if status == 200 else f"{sql}: {body['error']['message']}"


async def test_the_page_runs_from_top_to_bottom(talk: Conversation) -> None:
    wrong: list[str] = []
    async with small_node() as node:
        for block in BLOCKS:
            alone = "$1" in block or "KILL" in block
            for sql in block.split(";\n") if alone else [block]:
                if not sql.strip() or sql.startswith("KILL"):
                    continue
                params = LISTS[: len(set(re.findall(r"\$\d", sql)))]
                wrong.append(await run(node, talk, sql, params or None))
    assert not any(wrong), "\n".join(filter(None, wrong))


async def test_explain_says_what_the_page_shows(talk: Conversation) -> None:
    (block,) = re.findall(
        r"^```text\n(EXPLAIN.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    shown = re.findall(r"^(EXPLAIN .*)\n((?:  .*\n)+)", block, re.MULTILINE)
    assert len(shown) > 4
    async with small_node() as node:
        for sql in (*BLOCKS[0].split(";\n")[:3], *EXPLAINED):
            assert await run(node, talk, sql, None) == ""
        for sql, plan in shown:
            _, body = await node.talk(talk, sql)
            lines = [line for (line,) in body["results"][0]["rows"]]
            assert lines == [line.removeprefix("  ") for line in plan.splitlines()]


# ---- examples of the table ----------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    pool = EnginePool(PoolSettings(workers_max=1))
    yield pool
    await pool.close()


def params_of(sql: str) -> list[Any] | None:
    return [str(number) for number in range(1, len(set(re.findall(r"\$\d", sql))) + 1)] or None


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "entry", [pytest.param(entry, id=entry.title) for entry in TABLE if entry.kind not in ELSEWHERE]
)
async def test_examples_of_the_table_run(
    entry: Entry, pool: EnginePool, talk: Conversation
) -> None:
    async with small_node(pool=pool) as node:
        await prepare(node, talk, entry)
        for sql in entry.examples:
            assert await run(node, talk, sql, params_of(sql)) == ""
            if entry.kind is s.Begin:
                await node.talk(talk, "ROLLBACK")


async def prepare(node: SmallNode, talk: Conversation, entry: Entry) -> None:
    """The tour's namespace and tables, a user, and for what ends or marks transactions: one."""
    if entry.kind is s.CreateNamespace:
        return
    for sql in BLOCKS[0].split(";\n")[:4]:
        assert await run(node, talk, sql, None) == ""
    if entry.kind in (s.AlterUser, s.DropUser):
        user = "CREATE USER 'Zoë' WITH PASSWORD 'a long one 55' ROLE user"
        assert await run(node, talk, user, None) == ""
    if entry.theme is Theme.TRANSACTION and entry.kind is not s.Begin:
        assert await run(node, talk, "BEGIN", None) == ""
        if entry.kind in (s.RollbackTo, s.ReleaseSavepoint):
            assert await run(node, talk, "SAVEPOINT before_payment", None) == ""
