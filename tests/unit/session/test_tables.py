"""A table's definition on its way: cut off at every step, met by another statement, undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from kalamdb.errors import (
    CheckViolation,
    Conflict,
    Indeterminate,
    NotNullViolation,
    StatementFailed,
    Unavailable,
    Unsupported,
)
from kalamdb.model import work
from kalamdb.model.ids import META_GROUP, GroupId
from kalamdb.model.principal import Role
from kalamdb.model.table import TableDef
from kalamdb.model.work import RequestTag
from kalamdb.ports import DefiningGroups
from kalamdb.session.tables import Tables, Turns
from kalamdb.sql.alter import altered_table
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import AlterTable
from tests.small_node import SmallNode, small_node


class CutOff(Exception):
    """The node is gone."""


class Cut:
    """Groups of a node that is gone after some writes; of a fence it may write the first group."""

    def __init__(self, node: SmallNode, writes: int, *, half: bool = False) -> None:
        self._node = node
        self._left = writes
        self._half = half

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node.groups, name)

    def _count(self) -> None:
        if self._left == 0:
            raise CutOff
        self._left -= 1

    async def write_meta(self, asked: Any, tag: Any = None) -> Any:
        self._count()
        return await self._node.groups.write_meta(asked, tag)

    async def write_everywhere(self, asked: Any) -> None:
        if self._left == 0 and self._half:
            await self._node.replicas[GroupId(1)].write(asked)
        self._count()
        await self._node.groups.write_everywhere(asked)

    async def step_everywhere(self, step: Any) -> None:
        self._count()
        await self._node.groups.step_everywhere(step)


def tables(groups: object) -> Tables:
    return Tables(cast("DefiningGroups", groups))


def change(sql: str) -> Callable[[TableDef], TableDef]:
    (statement,) = parse(sql)
    assert isinstance(statement, AlterTable)
    return lambda table: altered_table(table, statement.changes, 1_000)


@pytest.fixture
async def node() -> AsyncIterator[SmallNode]:
    async with small_node() as made:
        await made.setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.m (id INT PRIMARY KEY, body TEXT, n INT)",
        )
        for user in ("alice", "bob", "carol", "dave"):  # of both groups
            await made.ok(user, "INSERT INTO app.m VALUES (1, 'x', 1), (2, NULL, 2)")
        yield made


def table_of(node: SmallNode, name: str = "m") -> TableDef:
    return node.groups.catalog.table("app", name)


def fences(node: SmallNode, table: TableDef) -> set[int]:
    return {
        fence.table.version
        for group, replica in node.replicas.items()
        if group != META_GROUP
        for fence in replica.fences()
        if fence.table.id == table.id
    }


ALTERS = [
    "ALTER TABLE app.m ADD COLUMN stars INT NOT NULL DEFAULT 5",
    "ALTER TABLE app.m ALTER n SET NOT NULL, ADD CONSTRAINT some CHECK (n > 0)",
    "ALTER TABLE app.m ADD CONSTRAINT one UNIQUE (n)",
    "ALTER TABLE app.m RENAME COLUMN body TO text",
    "ALTER TABLE app.m ALTER body SET NOT NULL",  # a row is not so
    "ALTER TABLE app.m ADD CONSTRAINT all_one CHECK (n = 1)",
]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("sql", ALTERS)
async def test_a_change_cut_off_at_any_step_is_finished_or_undone(
    node: SmallNode, sql: str, half: bool
) -> None:
    writes = 0
    while True:
        before = table_of(node)
        cut = tables(Cut(node, writes, half=half))
        try:
            await cut.alter(before, change(sql), None)
        except CutOff:
            pass
        except StatementFailed:
            break
        else:
            break
        # Nobody fails meanwhile, whichever groups have the fence.
        for user in ("alice", "bob", "carol", "dave"):
            await node.ok(user, "SELECT id, n FROM app.m WHERE id = 1")
            await node.ok(user, "UPDATE app.m SET n = 1 WHERE id = 1")
        await tables(node.groups).finish_pending()
        after = table_of(node)
        assert not node.groups.catalog.pending
        assert fences(node, after) == {after.version}
        if after.version > before.version:  # back, for the next round
            back = replace(
                before,
                version=after.version + 1,
                next_column_id=after.next_column_id,
                next_index_id=after.next_index_id,
            )
            await tables(node.groups).revise(back)
        writes += 1
        assert writes < 20
    assert writes >= 3
    assert fences(node, table_of(node)) == {table_of(node).version}


async def test_an_undone_change_leaves_the_definition_and_no_number_is_reused(
    node: SmallNode,
) -> None:
    before = table_of(node)
    made = tables(node.groups)
    with pytest.raises(NotNullViolation):
        await made.alter(
            before, change("ALTER TABLE app.m ADD c INT DEFAULT 1, ALTER body SET NOT NULL"), None
        )
    after = table_of(node)
    assert after.columns == before.columns
    assert (after.version, after.next_column_id) == (before.version + 2, before.next_column_id + 1)
    with pytest.raises(CheckViolation):
        await made.alter(after, change("ALTER TABLE app.m ADD CHECK (n < 2)"), None)
    await node.ok("alice", "INSERT INTO app.m VALUES (3, NULL, 3)")


async def test_a_change_made_from_an_older_version_is_a_conflict(node: SmallNode) -> None:
    first = table_of(node)
    one = altered("ALTER TABLE app.m ADD a INT", first)
    other = altered("ALTER TABLE app.m ADD b INT", first)
    await node.groups.write_meta(work.DefineTable(one, False))
    with pytest.raises(Conflict):
        await tables(node.groups).revise(other)
    await tables(node.groups).finish_pending()
    with pytest.raises(Conflict):
        await tables(node.groups).revise(other)
    assert [column.name for column in table_of(node).columns] == ["id", "body", "n", "a"]


def altered(sql: str, table: TableDef) -> TableDef:
    return change(sql)(table)


async def test_changes_at_once_come_one_after_the_other(node: SmallNode) -> None:
    names = [f"c{number}" for number in range(8)]
    answers = await asyncio.gather(
        *(node.sql("root", f"ALTER TABLE app.m ADD {name} INT", role=Role.SYSTEM) for name in names)
    )
    assert [status for status, _ in answers] == [200] * 8
    assert {column.name for column in table_of(node).columns} >= set(names)


async def test_statements_prepared_before_go_on_while_a_fence_is_ahead(node: SmallNode) -> None:
    select = "SELECT * FROM app.m WHERE id = 1"
    assert len((await node.ok("alice", select))[0]["rows"][0]) == 5
    with pytest.raises(CutOff):  # the fences stand, the catalog does not know
        await tables(Cut(node, 2)).alter(
            table_of(node), change("ALTER TABLE app.m ADD c INT DEFAULT 9"), None
        )
    assert table_of(node).version == 1
    for _ in range(2):
        row = (await node.ok("alice", select))[0]["rows"][0]
        assert row[:4] == [1, "x", 1, 9]
    await node.ok("alice", "INSERT INTO app.m (id) VALUES (7)")
    found = await node.ok(
        "alice", "SELECT c FROM app.m WHERE id = 7"
    )  # only the pending one has it
    assert found[0]["rows"] == [[9]]
    status, _ = await node.sql("alice", "SELECT d FROM app.m WHERE id = 7")
    assert status == 400
    await tables(node.groups).finish_pending()
    await node.ok("alice", "INSERT INTO app.m (id, c) VALUES (8, NULL)")
    for key, value in ((1, 9), (2, 9), (7, 9), (8, None)):
        found = await node.ok("alice", f"SELECT id, c FROM app.m WHERE id = {key}")
        assert found[0]["rows"] == [[key, value]]


async def test_a_repeated_request_is_answered_and_not_done_twice(node: SmallNode) -> None:
    sql = "ALTER TABLE app.m ADD c INT"
    for _ in range(2):
        status, body = await node.sql("root", sql, role=Role.SYSTEM, request_id="r1")
        assert status == 200, body
    assert table_of(node).version == 2
    status, body = await node.sql("root", sql, role=Role.SYSTEM, request_id="r2")
    assert (status, body["error"]["sqlstate"]) == (400, "42710")
    assert table_of(node).version == 2


async def test_a_statement_left_half_done_is_finished_by_the_next_one(node: SmallNode) -> None:
    with pytest.raises(CutOff):
        await tables(Cut(node, 1, half=True)).alter(
            table_of(node), change("ALTER TABLE app.m ADD a INT"), None
        )
    await node.ok("root", "ALTER TABLE app.m ADD b INT", role=Role.SYSTEM)
    assert [column.name for column in table_of(node).columns] == ["id", "body", "n", "a", "b"]


async def test_a_table_is_dropped_from_under_a_change_that_was_cut_off(node: SmallNode) -> None:
    with pytest.raises(CutOff):
        await tables(Cut(node, 1, half=True)).alter(
            table_of(node), change("ALTER TABLE app.m ADD a INT"), None
        )
    await node.ok("root", "DROP TABLE app.m", role=Role.SYSTEM)
    assert not node.groups.catalog.tables
    assert not node.groups.catalog.pending
    assert await tables(node.groups).finish_pending() == 0


async def test_a_version_of_history_for_each_change_and_at_most_a_hundred(
    node: SmallNode,
) -> None:
    made = tables(node.groups)
    for number in range(105):
        table = table_of(node)
        await made.revise(
            replace(table, version=table.version + 1, options=replace(table.options, ttl_s=number))
        )
    kept = node.groups.catalog.history[table_of(node).id]
    assert sorted(kept) == list(range(7, 106))
    await node.ok("root", "DROP TABLE app.m", role=Role.SYSTEM)
    assert not node.groups.catalog.history


async def test_turns_are_taken_in_one_order_and_forgotten() -> None:
    turns = Turns()
    order: list[str] = []

    async def take(name: str, *names: str) -> None:
        async with turns.of(*(("app", one) for one in names)):
            order.append(name)

    await asyncio.gather(take("a", "x", "y"), take("b", "y", "x"), take("c", "x"))
    assert sorted(order) == ["a", "b", "c"]
    assert not turns._turns  # pyright: ignore[reportPrivateUsage]


# ---- what is told, and what is left --------------------------------------------------------------


async def test_a_drop_cut_off_is_finished(node: SmallNode) -> None:
    table = table_of(node)
    with pytest.raises(CutOff):
        await tables(Cut(node, 0, half=True)).drop(table)  # one group knows
    assert await tables(node.groups).finish_pending() == 1
    assert table.id not in node.groups.catalog.tables_by_id
    status, _ = await node.sql("alice", "SELECT id FROM app.m WHERE id = 1")
    assert status == 400  # there is no such table


async def test_no_table_is_dropped_at_start(node: SmallNode) -> None:
    assert await tables(node.groups).finish_pending() == 0
    assert (await node.ok("alice", "SELECT id FROM app.m WHERE id = 1"))[0]["rows"] == [[1]]


class Refusing(Cut):
    """Groups that take no more writes, and say truly that this one was not done."""

    def _count(self) -> None:
        if self._left == 0:
            raise Unavailable("the queue is full")
        self._left -= 1


@pytest.mark.parametrize("writes", range(5))
async def test_it_is_not_done_only_before_meta_knows(node: SmallNode, writes: int) -> None:
    made = tables(Refusing(node, writes))
    begun = change("ALTER TABLE app.m ADD CONSTRAINT some CHECK (n > 0)")
    if writes == 4:
        await made.alter(table_of(node), begun, None)
        return
    with pytest.raises(Indeterminate if writes else Unavailable):
        await made.alter(table_of(node), begun, None)
    await tables(node.groups).finish_pending()
    assert bool(table_of(node).checks) is bool(writes)


async def test_a_drop_on_its_way_is_not_called_undone(node: SmallNode) -> None:
    with pytest.raises(Indeterminate):
        await tables(Refusing(node, 1)).drop(table_of(node))


async def test_a_repeat_of_what_was_undone_is_refused_as_it_was(node: SmallNode) -> None:
    tag = RequestTag("root", "root", "once", 1, b"same")
    one = change("ALTER TABLE app.m ADD CONSTRAINT all_one CHECK (n = 1)")
    with pytest.raises(CutOff):
        await tables(Cut(node, 2)).alter(table_of(node), one, tag)
    await tables(node.groups).finish_pending()
    assert not table_of(node).checks
    for _ in range(2):
        with pytest.raises(CheckViolation):
            await tables(node.groups).alter(table_of(node), one, tag)
    assert not table_of(node).checks


async def test_a_repeat_of_what_came_through_is_ok(node: SmallNode) -> None:
    tag = RequestTag("root", "root", "once", 1, b"same")
    made = tables(node.groups)
    for sql in ("ALTER TABLE app.m ADD CONSTRAINT one UNIQUE (n)", "ALTER TABLE app.m ADD c INT"):
        named = replace(tag, request_id=sql)
        for _ in range(2):
            assert await made.alter(table_of(node), change(sql), named)


TAKES_AWAY = [
    "ALTER TABLE app.k DROP CONSTRAINT small, ADD CONSTRAINT other CHECK (n < 5)",
    "ALTER TABLE app.k DROP COLUMN body, ADD CONSTRAINT other CHECK (n < 5)",
    "ALTER TABLE app.k ALTER body DROP NOT NULL, ALTER n SET NOT NULL",
    "ALTER TABLE app.k DROP CONSTRAINT one, ADD CONSTRAINT two UNIQUE (body)",
]


@pytest.mark.parametrize("sql", TAKES_AWAY)
async def test_what_undoing_could_not_bring_back_is_refused(node: SmallNode, sql: str) -> None:
    await node.setup(
        "CREATE USER TABLE app.k (id INT PRIMARY KEY, body TEXT NOT NULL, n INT,"
        " CONSTRAINT small CHECK (n < 9), CONSTRAINT one UNIQUE (n))"
    )
    before = table_of(node, "k")
    with pytest.raises(Unsupported, match="two statements"):
        await tables(node.groups).alter(before, change(sql), None)
    assert table_of(node, "k") == before
    for part in sql.removeprefix("ALTER TABLE app.k ").split(", "):
        await tables(node.groups).alter(
            table_of(node, "k"), change(f"ALTER TABLE app.k {part}"), None
        )


async def test_a_wider_type_stays_when_its_statement_is_undone(node: SmallNode) -> None:
    sql = "ALTER TABLE app.m ALTER n TYPE BIGINT, ADD CONSTRAINT all_one CHECK (n = 1)"
    with pytest.raises(CheckViolation):
        await tables(node.groups).alter(table_of(node), change(sql), None)
    assert not table_of(node).checks
    assert table_of(node).by_name["n"].type.sql == "BIGINT"  # a row may need it by now
