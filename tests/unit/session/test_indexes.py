"""Indexes from SQL: built while others write, undone, resumed, read, dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from kalamdb.errors import Unavailable
from kalamdb.jobs.retention import Retention, RetentionSettings
from kalamdb.model import codec, keys
from kalamdb.model.keys import Family
from kalamdb.model.principal import Role
from kalamdb.model.table import IndexState, TableDef
from kalamdb.model.work import BuildIndex, Work
from kalamdb.query import ranged
from kalamdb.store.snapshot import HotSnapshot
from tests.property.test_index_history import expected
from tests.small_node import SmallNode, small_node

ROWS = 700  # more than a step of a build


@pytest.fixture
async def node() -> AsyncIterator[SmallNode]:
    async with small_node() as made:
        await made.setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.chat (id BIGINT PRIMARY KEY, thread INT, body TEXT, mark INT)",
        )
        for user in ("alice", "bob"):
            for first in (0, ROWS // 2):
                listed = range(first, first + ROWS // 2)
                values = ", ".join(f"({n}, {n % 7}, 'b{n}', NULL)" for n in listed)
                await made.ok(user, f"INSERT INTO app.chat VALUES {values}")
        yield made


async def admin(node: SmallNode, sql: str) -> tuple[int, Any]:
    status, body = await node.sql("root", sql, role=Role.SYSTEM)
    return status, body["results"][0].get("message") if status == 200 else body["error"]


def chat(node: SmallNode) -> TableDef:
    return node.groups.catalog.table("app", "chat")


def stored(node: SmallNode) -> dict[bytes, bytes]:
    """Every INDEX and UNIQUE entry of the data groups."""
    found: dict[bytes, bytes] = {}
    for group, replica in node.replicas.items():
        if group:
            with replica.snapshot() as snapshot:
                reader = snapshot._reader  # type: ignore[reportPrivateUsage]
                for family in (Family.INDEX, Family.UNIQUE):
                    found |= dict(reader.scan(bytes([family]), bytes([family + 1])))
    return found


def wanted(node: SmallNode) -> dict[bytes, bytes]:
    """The entries that the rows should have."""
    table, rows = chat(node), {}
    for group, replica in node.replicas.items():
        if group:
            with replica.snapshot() as snapshot:
                for partition, _, raw in snapshot.scan_table(table):
                    rows.setdefault(partition, []).append(codec.decode_row(raw)[1])
    return expected(table, rows)


def on_build(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], Awaitable[None]]
) -> None:
    """`act(n)` before the n-th step of a build."""
    step_everywhere = node.groups.step_everywhere
    steps = iter(range(1000))

    async def stepped(step: Callable[[bytes], Work]) -> None:
        for replica in [replica for group, replica in node.replicas.items() if group]:
            after: str | None = ""
            while after is not None:
                work = step(bytes.fromhex(after))
                if isinstance(work, BuildIndex):
                    await act(next(steps))
                outcome = await replica.write(work)
                assert outcome.rows is not None
                after = outcome.rows[0][0]  # type: ignore[assignment]

    assert step_everywhere is not None
    monkeypatch.setattr(node.groups, "step_everywhere", stepped)


# ---- building -----------------------------------------------------------------------------------


async def test_built_while_others_write(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def write(step: int) -> None:
        (shown,) = await node.ok("alice", "SHOW INDEXES ON app.chat")
        seen.append([row[2:6] for row in shown["rows"] if row[2] == "by_thread"])
        await node.ok("alice", "UPDATE app.chat SET thread = $1 WHERE id = 699", [100 + step])
        await node.ok("alice", "INSERT INTO app.chat VALUES ($1, 3, 'new', NULL)", [1000 + step])
        await node.ok("bob", "DELETE FROM app.chat WHERE id = $1", [600 + step])
        await node.ok("bob", "UPDATE app.chat SET mark = $1 WHERE thread = 2", [step])

    on_build(node, monkeypatch, write)
    assert await admin(node, "CREATE INDEX by_thread ON app.chat (thread)") == (
        200,
        "index by_thread created",
    )
    assert len(seen) >= 6
    assert seen == [[["by_thread", False, '["thread"]', "building"]]] * len(seen)
    assert chat(node).indexes[0].state is IndexState.READY
    assert stored(node) == wanted(node)
    (found,) = await node.ok("alice", "SELECT id FROM app.chat WHERE thread = $1", [99 + len(seen)])
    assert found["rows"] == [["699"]]


async def test_equal_values_undo_it(node: SmallNode) -> None:
    before = chat(node)
    status, error = await admin(node, "CREATE UNIQUE INDEX one_body ON app.chat (thread)")
    assert (status, error["sqlstate"]) == (400, "23505")
    assert error["message"] == (
        "index one_body was not created: rows of app.chat have equal values in its columns"
    )
    after = chat(node)
    assert (after.uniques, after.indexes) == (before.uniques, before.indexes)
    assert after.next_index_id == before.next_index_id + 1  # numbers are not given again
    await retained(node)
    assert stored(node) == {}
    assert await admin(node, "CREATE UNIQUE INDEX one_body ON app.chat (body)") == (
        200,
        "index one_body created",
    )
    status, body = await node.sql("alice", "INSERT INTO app.chat VALUES (9000, 1, 'b5', 1)")
    assert (status, body["error"]["sqlstate"]) == (400, "23505")
    assert stored(node) == wanted(node)


async def test_equal_values_written_meanwhile_undo_it(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(step: int) -> None:
        if step == 0:  # its value is that of a row that has not been come to
            await node.ok("alice", "INSERT INTO app.chat VALUES (9000, 1, 'b600', 1)")

    on_build(node, monkeypatch, write)
    status, error = await admin(node, "CREATE UNIQUE INDEX one_body ON app.chat (body)")
    assert (status, error["sqlstate"]) == (400, "23505")
    assert chat(node).uniques == ()
    await node.ok("alice", "INSERT INTO app.chat VALUES (9001, 1, 'b600', 1)")


async def test_values_that_are_too_long_undo_it(node: SmallNode) -> None:
    await node.ok("bob", "INSERT INTO app.chat VALUES (9000, 1, $1, 1)", ["x" * 3000])
    status, error = await admin(node, "CREATE INDEX ON app.chat (body)")
    assert (status, error["code"]) == (400, "LIMIT_REACHED")
    assert chat(node).indexes == ()


async def test_cancelled_means_undone(node: SmallNode, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def wait(step: int) -> None:
        if step == 2:
            begun.set()
            await asyncio.Event().wait()

    on_build(node, monkeypatch, wait)
    task = asyncio.ensure_future(admin(node, "CREATE INDEX ON app.chat (thread)"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert chat(node).indexes == ()
    assert not node.groups.catalog.pending
    await node.ok("alice", "INSERT INTO app.chat VALUES (9000, 1, 'x', 1)")
    await retained(node)
    assert stored(node) == {}


async def test_a_crash_in_the_middle_is_finished_at_start(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(step: int) -> None:
        if step == 3:
            raise Unavailable("the process ends here")

    with monkeypatch.context() as patch:
        on_build(node, patch, crash)
        status, _ = await admin(node, "CREATE INDEX by_thread ON app.chat (thread)")
        assert status == 504
    assert chat(node).indexes == ()
    assert node.groups.catalog.pending
    await node.ok("alice", "INSERT INTO app.chat VALUES (9000, 1, 'x', 1)")
    (found,) = await node.ok("alice", "SELECT count(*) FROM app.chat WHERE thread = 1")
    assert found["rows"] == [["101"]]
    assert await node.session._definitions.finish_pending() == 1  # type: ignore[reportPrivateUsage]
    assert chat(node).indexes[0].state is IndexState.READY
    assert stored(node) == wanted(node)


async def retained(node: SmallNode) -> None:
    """A round of retention over the data groups."""
    data = [replica for group, replica in node.replicas.items() if group]
    await Retention(lambda: data, node.clock, RetentionSettings()).round()


# ---- definitions --------------------------------------------------------------------------------


async def test_drop_takes_the_entries_with_it(node: SmallNode) -> None:
    await node.setup("CREATE INDEX by_thread ON app.chat (thread)")
    query = "SELECT id FROM app.chat WHERE thread = 3 ORDER BY id DESC LIMIT 2"
    first = await node.ok("alice", query)
    assert (await explained(node, query)).startswith("read of app.chat by index by_thread")
    assert await admin(node, "DROP INDEX app.by_thread") == (200, "index by_thread dropped")
    await node.ok("alice", "UPDATE app.chat SET thread = 0 WHERE id = 699")
    assert (await explained(node, query)).startswith("query engine")
    assert await node.ok("alice", query) == [first[0] | {"cursor": (await cursor(node))}]
    assert len(stored(node)) == 2 * ROWS
    await retained(node)
    assert stored(node) == {}
    await node.setup("CREATE INDEX by_thread ON app.chat (thread, id)")
    assert chat(node).indexes[0].id == 2
    assert stored(node) == wanted(node)


async def explained(node: SmallNode, query: str) -> str:
    (result,) = await node.ok("root", f"EXPLAIN {query}", role=Role.SYSTEM)
    return result["rows"][0][0]


async def cursor(node: SmallNode) -> str:
    (result,) = await node.ok("alice", "SELECT id FROM app.chat WHERE id = 1")
    return result["cursor"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("CREATE INDEX ON app.nope (id)", "table app.nope does not exist"),
        ("CREATE INDEX ON app.chat (nope)", "column nope does not exist in app.chat"),
        ("CREATE INDEX ON app.chat (id, id)", "an index names each of its columns once"),
        ("CREATE INDEX ON app.chat (_seq)", "not supported: an index on _seq"),
        ("CREATE INDEX IF NOT EXISTS ON app.chat (id)", "IF NOT EXISTS needs the name"),
        ('CREATE INDEX "1x" ON app.chat (id)', "index name '1x'"),
        ("DROP INDEX app.nope", "index nope does not exist"),
        ("DROP INDEX nope ON app.chat", "index nope does not exist on app.chat"),
        ("ALTER TABLE app.chat DROP INDEX nope", "index nope does not exist on app.chat"),
        ("CREATE INDEX ON app.chat USING hash (id)", "not supported: CREATE INDEX … USING HASH"),
        ("CREATE INDEX ON app.chat (thread DESC NULLS LAST)", "not supported: DESC NULLS LAST"),
    ],
)
async def test_refused(node: SmallNode, sql: str, said: str) -> None:
    status, error = await admin(node, sql)
    assert status == 400
    assert said in error["message"]


async def test_names(node: SmallNode) -> None:
    await node.setup("CREATE USER TABLE app.other (id INT PRIMARY KEY, thread INT UNIQUE)")
    made = [await admin(node, "CREATE INDEX ON app.chat (thread DESC, mark DESC)") for _ in "ab"]
    assert [text for _, text in made] == [
        "index chat_thread_mark_idx created",
        "index chat_thread_mark_idx1 created",
    ]
    status, error = await admin(node, "CREATE INDEX chat_thread_mark_idx ON app.other (thread)")
    assert (status, error["sqlstate"]) == (400, "42710")
    again = "CREATE INDEX IF NOT EXISTS chat_thread_mark_idx ON app.other (thread)"
    assert await admin(node, again) == (200, "index chat_thread_mark_idx already exists")
    status, error = await admin(node, "DROP INDEX app.other_thread_key")
    assert "DROP CONSTRAINT" in error["message"]
    assert (await admin(node, "DROP INDEX IF EXISTS app.nope"))[0] == 200
    for number in range(14):
        await node.setup(f"ALTER TABLE app.chat CREATE INDEX i{number} (mark)")
    status, error = await admin(node, "CREATE INDEX ON app.chat (id)")
    assert (status, "at most 16 indexes" in error["message"]) == (400, True)
    await node.setup("ALTER TABLE app.chat DROP INDEX i3")


async def test_only_service_and_above_define(node: SmallNode) -> None:
    status, body = await node.sql("alice", "CREATE INDEX ON app.chat (id)")
    assert (status, body["error"]["code"]) == (403, "PERMISSION_DENIED")
    status, body = await node.sql("alice", "DROP INDEX app.nope")
    assert (status, body["error"]["code"]) == (403, "PERMISSION_DENIED")
    await node.ok("worker", "CREATE INDEX ON app.chat (mark)", role=Role.SERVICE)


async def test_stream_rows_and_their_entries(node: SmallNode) -> None:
    await node.setup(
        "CREATE STREAM TABLE app.events (id INT PRIMARY KEY, kind TEXT) WITH (TTL_SECONDS = 60)",
        "CREATE INDEX by_kind ON app.events (kind)",
    )
    await node.ok("alice", "INSERT INTO app.events VALUES (1, 'a'), (2, 'a'), (3, 'b')")
    query = "SELECT id FROM app.events WHERE kind = 'a'"
    assert (await node.ok("alice", query))[0]["rows"] == [[1], [2]]
    node.clock.now_ms += 61_000
    assert (await node.ok("alice", query))[0]["rows"] == []
    assert len(stored(node)) == 3
    await retained(node)
    assert stored(node) == {}
    status, error = await admin(node, "CREATE UNIQUE INDEX ON app.events (kind)")
    assert (status, error["code"]) == (400, "UNSUPPORTED")


# ---- reading ------------------------------------------------------------------------------------


class Counted:
    """How many entries reads look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries = 0
        scan_range = HotSnapshot.scan_range

        def counted(*args: Any, **more: Any) -> Iterator[Any]:
            for found in scan_range(*args, **more):
                self.entries += 1
                yield found

        monkeypatch.setattr(HotSnapshot, "scan_range", counted)


async def test_a_page_of_a_thread_looks_at_a_page(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.setup("CREATE INDEX by_thread ON app.chat (thread)")
    counted = Counted(monkeypatch)
    query = "SELECT id FROM app.chat WHERE thread = $1 ORDER BY id DESC LIMIT 50"
    (found,) = await node.ok("alice", query, [3])
    newest = [n for n in range(699, 0, -1) if n % 7 == 3][:50]
    assert [int(row[0]) for row in found["rows"]] == newest
    assert counted.entries == 50
    assert node.pool.statistics().queries == 0  # the engine was not asked
    (found,) = await node.ok("alice", "SELECT id FROM app.chat ORDER BY id LIMIT 2 OFFSET 3")
    assert (found["rows"], counted.entries) == ([["3"], ["4"]], 55)
    (found,) = await node.ok("carol", query, [3])
    assert (found["rows"], counted.entries) == ([], 55)


async def test_changes_look_where_the_rows_are(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.setup("CREATE INDEX by_thread ON app.chat (thread)")
    counted = Counted(monkeypatch)
    update = "UPDATE app.chat SET mark = 1 WHERE thread = 3 AND id < 10 RETURNING id"
    (found,) = await node.ok("alice", update)
    assert (found["rows"], counted.entries) == ([["3"]], 1)
    (found,) = await node.ok("alice", "DELETE FROM app.chat WHERE thread IN (4, 5, 77)")
    assert (found["row_count"], counted.entries) == (200, 201)
    assert stored(node) == wanted(node)


async def test_long_reads_leave_the_loop_and_too_long_ones_go_to_the_engine(
    node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "SELECT id, body FROM app.chat WHERE id >= 0 ORDER BY body DESC, id LIMIT 3 OFFSET 1"
    assert (await explained(node, query)).startswith("read of")
    expected = [["98", "b98"], ["97", "b97"], ["96", "b96"]]
    assert (await node.ok("alice", query))[0]["rows"] == expected
    assert node.pool.statistics().queries == 0
    monkeypatch.setattr(ranged, "ENTRIES_MAX", 500)
    assert (await node.ok("alice", query))[0]["rows"] == expected
    assert node.pool.statistics().queries == 1
    status, body = await node.sql("alice", f"{query.partition(' LIMIT')[0]} LIMIT $1", ["x"])
    assert (status, node.pool.statistics().queries) == (400, 2)
    assert body["error"]["code"] in ("INVALID_PARAMETER", "SQL_EXECUTION_ERROR", "INVALID_SQL")


async def test_entries_name_no_other_tenant(node: SmallNode) -> None:
    await node.setup("CREATE UNIQUE INDEX one_body ON app.chat (body)")
    await node.ok("bob", "INSERT INTO app.chat VALUES (5000, 1, 'only bob', 1)")
    await node.ok("alice", "INSERT INTO app.chat VALUES (5000, 1, 'only bob', 1)")
    (found,) = await node.ok("alice", "SELECT id FROM app.chat WHERE body LIKE 'only%'")
    assert found["rows"] == [["5000"]]
    await node.ok("alice", "DELETE FROM app.chat WHERE body = 'only bob'")
    (found,) = await node.ok("bob", "SELECT id FROM app.chat WHERE body = 'only bob'")
    assert found["rows"] == [["5000"]]
    assert {key[0] for key in stored(node)} == {keys.Family.UNIQUE}
