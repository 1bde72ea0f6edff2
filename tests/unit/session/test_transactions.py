"""Transactions as clients have them: in one request, by id, on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from kalamdb.model.ids import TenantId, slot_of, tenant_partition
from kalamdb.model.principal import Principal, Role
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.session.run import Conversation
from tests.small_node import SmallNode, small_node


@pytest_asyncio.fixture
async def node() -> AsyncIterator[SmallNode]:
    pool = EnginePool(PoolSettings(workers_max=1))
    try:
        async with small_node(pool=pool) as made:
            await made.setup(
                "CREATE NAMESPACE app",
                "CREATE USER TABLE app.t (id INT PRIMARY KEY, body TEXT, u INT UNIQUE)",
                "CREATE USER TABLE app.drawn (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), n INT)",
                "CREATE SHARED TABLE app.s (id INT PRIMARY KEY, n INT)"
                " WITH (ACCESS_LEVEL = 'PUBLIC')",
                "CREATE SHARED TABLE app.s2 (id INT PRIMARY KEY, n INT)"
                " WITH (ACCESS_LEVEL = 'PUBLIC')",
                "CREATE STREAM TABLE app.pings (id INT PRIMARY KEY) WITH (TTL_SECONDS = 60)",
            )
            yield made
            assert made.transactions.statistics().write_bytes == 0
    finally:
        await pool.close()


def talk_of(user: str, role: Role = Role.USER) -> Conversation:
    return Conversation(Principal.of(user, role))


async def refused(node: SmallNode, user: str, sql: str, **more: Any) -> dict[str, Any]:
    status, body = await node.sql(user, sql, **more)
    assert status != 200, body
    return body["error"] | {"status": status}


async def ids(node: SmallNode, user: str = "alice") -> list[int]:
    results = await node.ok(user, "SELECT id FROM app.t ORDER BY id LIMIT 1000")
    return [row[0] for row in results[0]["rows"]]


# ---- in one request -----------------------------------------------------------------------------


async def test_one_request_commits_whole(node: SmallNode) -> None:
    results = await node.ok(
        "alice",
        "BEGIN; INSERT INTO app.t (id, body) VALUES (1, 'a'), (2, 'b');"
        " UPDATE app.t SET body = 'c' WHERE id = 2; SELECT body FROM app.t WHERE id = 2; COMMIT",
    )
    assert results[0]["message"].endswith(" started")
    assert results[1]["rows"] == [["c"]]
    assert results[2]["message"].endswith(" committed")
    assert results[2]["cursor"] != "0"
    assert [each["message"] for each in results[3:]] == ["Inserted 2 row(s)", "Updated 1 row(s)"]
    assert await ids(node) == [1, 2]


async def test_a_failed_statement_undoes_the_request(node: SmallNode) -> None:
    error = await refused(
        node,
        "alice",
        "BEGIN; INSERT INTO app.t (id) VALUES (1); INSERT INTO app.t (id) VALUES (1); COMMIT",
    )
    assert error["sqlstate"] == "23505"
    assert error["message"].startswith("Statement 3 failed")
    assert await ids(node) == []
    assert node.transactions.statistics().open == 0


async def test_an_open_transaction_does_not_outlive_its_request(node: SmallNode) -> None:
    error = await refused(node, "alice", "BEGIN; INSERT INTO app.t (id) VALUES (1)")
    assert (error["status"], error["code"], error["sqlstate"]) == (
        400,
        "SQL_EXECUTION_ERROR",
        "25000",
    )
    assert await ids(node) == []
    assert node.transactions.statistics().rolled_back_total == 1


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("COMMIT", "25000"),
        ("ROLLBACK", "25000"),
        ("SAVEPOINT a", "25000"),
        ("BEGIN; BEGIN; COMMIT", "25000"),
        ("BEGIN; ROLLBACK TO nowhere; COMMIT", "3B001"),
        ("BEGIN; SELECT id FROM app.t WHERE id = 1; SET TRANSACTION READ ONLY; COMMIT", "25000"),
        ("BEGIN; SET consistency = 'stale'; COMMIT", "25001"),
        ("BEGIN; CREATE NAMESPACE other; COMMIT", "25001"),
        ("BEGIN; INSERT INTO app.pings (id) VALUES (1); COMMIT", "25001"),
        ("BEGIN READ ONLY; DELETE FROM app.t WHERE body = 'x'; COMMIT", "25006"),
        ("BEGIN; SET TRANSACTION READ ONLY; INSERT INTO app.t (id) VALUES (1); COMMIT", "25006"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; COMMIT", "0A000"),
        ("BEGIN; SELECT * FROM all_users.app.t; COMMIT", "25001"),
    ],
)
async def test_what_cannot_be(node: SmallNode, sql: str, sqlstate: str) -> None:
    error = await refused(node, "root", sql, role=Role.SYSTEM)
    assert error["sqlstate"] == sqlstate, error
    assert node.transactions.statistics().open == 0


async def test_one_tenant_or_one_shared_table(node: SmallNode) -> None:
    service = Role.SERVICE
    for second in (
        "INSERT INTO app.s (id) VALUES (1)",
        "EXECUTE AS 'bob' (INSERT INTO app.t (id) VALUES (1))",
        "EXECUTE AS 'bob' (SELECT id FROM app.t)",
    ):
        sql = f"BEGIN; INSERT INTO app.t (id) VALUES (1); {second}; COMMIT"
        error = await refused(node, "alice", sql, role=service)
        assert (error["status"], error["code"]) == (400, "TRANSACTION_CROSS_GROUP")
    both = "BEGIN; INSERT INTO app.s (id) VALUES (1); INSERT INTO app.s2 (id) VALUES (1); COMMIT"
    error = await refused(node, "alice", both, role=service)
    assert error["code"] == "TRANSACTION_CROSS_GROUP"
    # One SHARED table is fine, and so is reading one beside the tenant's rows.
    await node.ok("alice", "BEGIN; INSERT INTO app.s (id) VALUES (1); COMMIT", role=service)
    results = await node.ok(
        "alice",
        "BEGIN; SELECT id FROM app.s; INSERT INTO app.t (id) SELECT id FROM app.s; COMMIT",
    )
    assert results[1]["rows"] == [[1]]
    assert await ids(node) == [1]
    await node.ok(
        "alice", "BEGIN; EXECUTE AS 'bob' (INSERT INTO app.t (id) VALUES (7)); COMMIT", role=service
    )
    assert await ids(node, "bob") == [7]


async def test_numbers_are_drawn_for_good(node: SmallNode) -> None:
    """What RETURNING said stays true; nobody else gets the number, committed or not."""
    first = await node.ok(
        "alice", "BEGIN; INSERT INTO app.drawn (n) VALUES (1) RETURNING id, _seq, n; COMMIT"
    )
    drawn, seq, _ = first[1]["rows"][0]
    assert seq is None
    lost = await node.ok(
        "alice", "BEGIN; INSERT INTO app.drawn (n) VALUES (2) RETURNING id; ROLLBACK"
    )
    third = await node.ok("alice", "INSERT INTO app.drawn (n) VALUES (3) RETURNING id")
    assert int(drawn) < int(lost[1]["rows"][0][0]) < int(third[0]["rows"][0][0])
    rows = (await node.ok("alice", "SELECT id, n, _seq FROM app.drawn ORDER BY n"))[0]["rows"]
    assert [row[:2] for row in rows] == [[drawn, 1], [third[0]["rows"][0][0], 3]]
    assert int(rows[0][2]) > int(drawn)


# ---- exactly once -------------------------------------------------------------------------------


async def test_a_repeated_request_runs_once(node: SmallNode) -> None:
    sql = "BEGIN; INSERT INTO app.t (id) VALUES (1); SAVEPOINT s; DELETE FROM app.t; COMMIT"
    sql += "; INSERT INTO app.t (id) VALUES (5)"
    sql = sql.replace("DELETE FROM app.t;", "UPDATE app.t SET body = 'x' WHERE id = 1;")
    first = await node.ok("alice", sql, request_id="r")
    again = await node.ok("alice", sql, request_id="r")
    committed = [each for each in first if each["message"].endswith("committed")]
    assert committed == [each for each in again if each["message"].endswith("committed")]
    assert [each["row_count"] for each in first[-2:]] == [2, 1]
    assert [each["row_count"] for each in again[-2:]] == [2, 1]
    assert await ids(node) == [1, 5]
    other = "BEGIN; DELETE FROM app.t WHERE id = 1; SAVEPOINT s; SAVEPOINT s; COMMIT"
    error = await refused(node, "alice", other, request_id="r")
    assert error["code"] == "REQUEST_ID_REUSED"


async def test_a_lost_commit_is_asked_for_again(node: SmallNode) -> None:
    """By id: the transaction is gone, its outcome is not."""
    begun = await node.sql("alice", "BEGIN", transaction_id="new")
    name = begun[1]["transaction_id"]
    await node.ok("alice", "INSERT INTO app.t (id) VALUES (1)", transaction_id=name)
    early = await refused(
        node, "alice", "SELECT id FROM app.t", transaction_id=name, request_id="r"
    )
    assert "belongs to the COMMIT" in early["message"]
    await node.ok("alice", "ROLLBACK", transaction_id=name)

    begun = await node.sql("alice", "BEGIN", transaction_id="new")
    name = begun[1]["transaction_id"]
    await node.ok("alice", "INSERT INTO app.t (id) VALUES (1)", transaction_id=name)
    first = await node.ok("alice", "COMMIT", transaction_id=name, request_id="r")
    again = await node.ok("alice", "COMMIT", transaction_id=name, request_id="r")
    assert first == again
    error = await refused(node, "alice", "COMMIT", transaction_id=name, request_id="other")
    assert (error["status"], error["code"]) == (404, "UNKNOWN_TRANSACTION")
    error = await refused(node, "alice", "COMMIT", transaction_id=name)
    assert error["code"] == "UNKNOWN_TRANSACTION"
    error = await refused(node, "bob", "COMMIT", transaction_id=name, request_id="r")
    assert error["code"] == "UNKNOWN_TRANSACTION"


async def test_a_commit_that_wrote_nothing_is_kept_too(node: SmallNode) -> None:
    begun = await node.sql("alice", "BEGIN", transaction_id="new")
    name = begun[1]["transaction_id"]
    first = await node.ok("alice", "COMMIT", transaction_id=name, request_id="r")
    assert await node.ok("alice", "COMMIT", transaction_id=name, request_id="r") == first


# ---- by id --------------------------------------------------------------------------------------


async def test_by_id_over_several_requests(node: SmallNode) -> None:
    status, body = await node.sql(
        "alice", "BEGIN; INSERT INTO app.t (id) VALUES (1)", transaction_id="new"
    )
    name = body["transaction_id"]
    assert (status, len(name)) == (200, 36)
    _, body = await node.sql("alice", "SELECT id FROM app.t", transaction_id=name)
    assert (body["results"][0]["rows"], body["transaction_id"]) == ([[1]], name)
    assert await ids(node) == []
    _, body = await node.sql("alice", "COMMIT", transaction_id=name)
    assert "transaction_id" not in body
    assert await ids(node) == [1]


async def test_an_id_is_its_users_own(node: SmallNode) -> None:
    _, body = await node.sql("alice", "BEGIN", transaction_id="new")
    name = body["transaction_id"]
    for user, role in (("bob", Role.USER), ("root", Role.SYSTEM), ("alice", Role.DBA)):
        error = await refused(node, user, "SELECT 1", transaction_id=name, role=role)
        absent = await refused(node, user, "SELECT 1", transaction_id="x", role=role)
        assert error["code"] == absent["code"] == "UNKNOWN_TRANSACTION"
    await node.ok("alice", "ROLLBACK", transaction_id=name)


async def test_a_failed_begin_leaves_nothing(node: SmallNode) -> None:
    error = await refused(node, "alice", "BEGIN; SELECT nothing FROM app.t", transaction_id="new")
    assert error["sqlstate"] == "42703"
    error = await refused(node, "alice", "SELECT 1", transaction_id="new")
    assert error["sqlstate"] == "25000"
    assert node.transactions.statistics().open == 0


async def test_one_request_at_a_time(node: SmallNode) -> None:
    _, body = await node.sql("alice", "BEGIN", transaction_id="new")
    name = body["transaction_id"]
    scan = "SELECT count(*) FROM app.t"
    answers = await asyncio.gather(
        node.sql("alice", scan, transaction_id=name), node.sql("alice", scan, transaction_id=name)
    )
    assert sorted(status for status, _ in answers) == [200, 409]
    refusal = next(body for status, body in answers if status == 409)
    assert refusal["error"]["code"] == "TRANSACTION_BUSY"
    await node.ok("alice", "COMMIT", transaction_id=name)


# ---- on a connection ----------------------------------------------------------------------------


async def test_the_postgresql_rule(node: SmallNode) -> None:
    """After an error nothing runs until ROLLBACK or ROLLBACK TO; COMMIT says that it did not."""
    talk = talk_of("alice")
    await node.talk(talk, "BEGIN")
    await node.talk(talk, "INSERT INTO app.t (id) VALUES (1)")
    await node.talk(talk, "SAVEPOINT s")
    assert (await node.talk(talk, "INSERT INTO app.t (id) VALUES (1)"))[0] == 400
    for sql in ("SELECT 1", "INSERT INTO app.t (id) VALUES (2)", "SAVEPOINT t", "nonsense"):
        status, body = await node.talk(talk, sql)
        code = "INVALID_SQL" if sql == "nonsense" else "TRANSACTION_ABORTED"
        assert (status != 200, body["error"]["code"]) == (True, code)
    assert (await node.talk(talk, "ROLLBACK TO s"))[0] == 200
    assert (await node.talk(talk, "INSERT INTO app.t (id) VALUES (2)"))[0] == 200
    assert (await node.talk(talk, "COMMIT"))[0] == 200
    assert await ids(node) == [1, 2]
    await node.talk(talk, "BEGIN")
    await node.talk(talk, "INSERT INTO app.t (id) VALUES (1)")
    status, body = await node.talk(talk, "COMMIT")
    assert (status, body["error"]["sqlstate"]) == (409, "25P02")
    assert talk.transaction is None


async def test_a_connection_that_goes_rolls_back(node: SmallNode) -> None:
    talk = talk_of("alice")
    await node.talk(talk, "BEGIN; INSERT INTO app.t (id) VALUES (1)")
    assert node.transactions.statistics().open == 1
    node.session.hang_up(talk)
    assert node.transactions.statistics().open == 0
    assert await ids(node) == []


async def test_nobody_sees_what_is_not_committed(node: SmallNode) -> None:
    """One query worker serves all: what it keeps of a table must never hold uncommitted rows."""
    await node.ok("alice", "INSERT INTO app.t (id, body) VALUES (1, 'old')")
    talk, other = talk_of("alice"), talk_of("alice")
    scan = "WITH w AS (SELECT * FROM app.t) SELECT id, body FROM w ORDER BY id"
    committed = [[1, "old"]]
    own = [[1, "new"], [2, "mine"]]
    assert (await node.ok("alice", scan))[0]["rows"] == committed
    await node.talk(other, "BEGIN")
    await node.talk(other, scan)
    await node.talk(talk, "BEGIN")
    await node.talk(talk, "UPDATE app.t SET body = 'new' WHERE id = 1")
    await node.talk(talk, "INSERT INTO app.t (id, body) VALUES (2, 'mine')")
    for _ in range(2):
        _, body = await node.talk(talk, scan)
        assert body["results"][0]["rows"] == own
        assert (await node.ok("alice", scan))[0]["rows"] == committed
        _, body = await node.talk(other, scan)
        assert body["results"][0]["rows"] == committed
        assert (await node.ok("bob", scan))[0]["rows"] == []
        assert (await node.ok("alice", "SELECT body FROM app.t WHERE id = 1"))[0]["rows"] == [
            ["old"]
        ]
        plan = await node.ok("alice", f"EXPLAIN {scan}", role=Role.DBA)
        assert "mine" not in str(plan)
    assert (await node.talk(talk, "COMMIT"))[0] == 200
    assert (await node.ok("alice", scan))[0]["rows"] == own
    _, body = await node.talk(other, scan)
    assert body["results"][0]["rows"] == committed  # its snapshot is older
    node.session.hang_up(other)


async def test_a_client_that_goes_away(node: SmallNode) -> None:
    """In the middle of a statement: in one request all is undone, by id it waits for ROLLBACK."""
    scan = "WITH w AS (SELECT * FROM app.t) SELECT count(*) FROM w"
    await cancelled(node.sql("alice", f"BEGIN; INSERT INTO app.t (id) VALUES (1); {scan}; COMMIT"))
    assert node.transactions.statistics().open == 0
    assert await ids(node) == []
    _, body = await node.sql("alice", "BEGIN", transaction_id="new")
    name = body["transaction_id"]
    await cancelled(node.sql("alice", scan, transaction_id=name))
    error = await refused(node, "alice", "SELECT 1", transaction_id=name)
    assert error["code"] == "TRANSACTION_ABORTED"
    await node.ok("alice", "ROLLBACK", transaction_id=name)


async def cancelled(work: Coroutine[Any, Any, Any]) -> None:
    """Run it until it waits for something, then end it."""
    task = asyncio.get_running_loop().create_task(work)
    done, _ = await asyncio.wait((task,), timeout=0.001)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ---- what comes between -------------------------------------------------------------------------


async def begun(node: SmallNode, sql: str, user: str = "alice") -> Conversation:
    talk = talk_of(user)
    assert (await node.talk(talk, "BEGIN"))[0] == 200
    status, body = await node.talk(talk, sql)
    assert status == 200, body
    return talk


async def test_the_first_committer_wins(node: SmallNode) -> None:
    await node.ok("alice", "INSERT INTO app.t (id, body) VALUES (1, 'a')")
    first = await begun(node, "UPDATE app.t SET body = body || '1' WHERE id = 1")
    second = await begun(node, "UPDATE app.t SET body = body || '2' WHERE id = 1")
    assert (await node.talk(first, "COMMIT"))[0] == 200
    status, body = await node.talk(second, "COMMIT")
    assert (status, body["error"]["code"], body["error"]["sqlstate"]) == (409, "CONFLICT", "40001")
    assert (await node.ok("alice", "SELECT body FROM app.t"))[0]["rows"] == [["a1"]]


async def test_a_unique_value_is_checked_again(node: SmallNode) -> None:
    talk = await begun(node, "INSERT INTO app.t (id, u) VALUES (1, 7)")
    await node.ok("alice", "INSERT INTO app.t (id, u) VALUES (2, 7)")
    status, body = await node.talk(talk, "COMMIT")
    assert (status, body["error"]["sqlstate"]) == (400, "23505")
    assert await ids(node) == [2]


async def test_write_skew_is_possible(node: SmallNode) -> None:
    """Snapshot isolation is not serializable; the documentation says so."""
    await node.ok("alice", "INSERT INTO app.t (id, body) VALUES (1, 'on'), (2, 'on')")
    count = "SELECT count(*) FROM app.t WHERE body = 'on'"
    first, second = await begun(node, count), await begun(node, count)
    await node.talk(first, "UPDATE app.t SET body = 'off' WHERE id = 1")
    await node.talk(second, "UPDATE app.t SET body = 'off' WHERE id = 2")
    assert (await node.talk(first, "COMMIT"))[0] == 200
    assert (await node.talk(second, "COMMIT"))[0] == 200


@pytest.mark.parametrize("meanwhile", ["ALTER TABLE app.t ADD COLUMN more INT", "DROP TABLE app.t"])
async def test_a_definition_that_changed(node: SmallNode, meanwhile: str) -> None:
    talk = await begun(node, "INSERT INTO app.t (id) VALUES (1)")
    await node.setup(meanwhile)
    status, body = await node.talk(talk, "COMMIT")
    assert (status, body["error"]["code"]) == (409, "CONFLICT"), body


async def test_a_definition_that_changed_is_seen_by_the_next_statement(node: SmallNode) -> None:
    talk = await begun(node, "SELECT id FROM app.t WHERE id = 1")
    await node.setup("ALTER TABLE app.t ADD COLUMN more INT")
    status, body = await node.talk(talk, "SELECT id FROM app.t WHERE id = 1")
    assert (status, body["error"]["code"]) == (409, "CONFLICT"), body
    node.session.hang_up(talk)


async def test_a_lost_leader_ends_it(node: SmallNode) -> None:
    talk = await begun(node, "INSERT INTO app.t (id) VALUES (1)")
    partition = tenant_partition(TenantId("alice"))
    assert node.groups.catalog.placement is not None
    group = node.groups.catalog.placement.group_of(slot_of(partition))
    node.replicas[group].resign("a test")
    node.replicas[group].lead(2)
    status, body = await node.talk(talk, "SELECT id FROM app.t WHERE id = 1")
    assert (status, body["error"]["code"]) == (503, "CLUSTER_UNAVAILABLE")
    await node.transactions.sweep()
    assert node.transactions.statistics().open == 0
    status, body = await node.talk(talk, "COMMIT")
    assert (status, body["error"]["code"]) == (503, "CLUSTER_UNAVAILABLE")
    assert talk.transaction is None


# ---- bounds -------------------------------------------------------------------------------------


async def test_time(node: SmallNode) -> None:
    _, body = await node.sql("alice", "BEGIN", transaction_id="new")
    name = body["transaction_id"]
    talk = await begun(node, "INSERT INTO app.t (id) VALUES (1)")
    node.clock.now_ms += 61_000
    await node.transactions.sweep()
    assert node.transactions.statistics().timed_out_total == 2
    error = await refused(node, "alice", "SELECT 1", transaction_id=name)
    assert (error["code"], error["sqlstate"]) == ("TRANSACTION_TIMEOUT", "25P04")
    # A connection keeps the dead transaction: what comes next must not run outside of it.
    status, body = await node.talk(talk, "INSERT INTO app.t (id) VALUES (2)")
    assert (status, body["error"]["code"]) == (409, "TRANSACTION_TIMEOUT")
    assert (await node.talk(talk, "ROLLBACK"))[0] == 200
    assert (await node.talk(talk, "INSERT INTO app.t (id) VALUES (3)"))[0] == 200
    assert await ids(node) == [3]
    talk = await begun(node, "SELECT 1")
    for _ in range(7):
        node.clock.now_ms += 50_000
        await node.transactions.sweep()
        status, body = await node.talk(talk, "SELECT id FROM app.t WHERE id = 1")
    assert "open for over 300 s" in body["error"]["message"]


async def test_counts_and_bytes(node: SmallNode) -> None:
    limits = node.transactions.limits
    talks = [talk_of("alice") for _ in range(limits.max_per_user + 1)]
    for talk in talks[:-1]:
        assert (await node.talk(talk, "BEGIN"))[0] == 200
    status, body = await node.talk(talks[-1], "BEGIN")
    assert (status, body["error"]["code"]) == (400, "LIMIT_REACHED")
    assert (await node.talk(talk_of("bob"), "BEGIN; ROLLBACK"))[0] == 200
    for number in range(limits.max_savepoints + 1):
        status, body = await node.talk(talks[0], f"SAVEPOINT s{number}")
    assert (status, body["error"]["code"]) == (400, "LIMIT_REACHED")
    for talk in talks:
        node.session.hang_up(talk)


async def test_what_is_too_large(node: SmallNode) -> None:
    talk = talk_of("alice")
    await node.talk(talk, "BEGIN")
    body = "x" * 1_000_000
    insert = "INSERT INTO app.t (id, body) VALUES ($1, $2)"
    number = 0
    while (await node.talk(talk, insert, [number, body]))[0] == 200:
        number += 1
    assert 90 < number < 106
    status, answer = await node.talk(talk, insert, [number, body])
    assert answer["error"]["code"] == "TRANSACTION_ABORTED"
    node.session.hang_up(talk)
    assert node.transactions.statistics().write_bytes == 0
    await node.talk(talk, "BEGIN")
    for number in range(70):
        assert (await node.talk(talk, insert, [number, body]))[0] == 200
    status, answer = await node.talk(talk, "COMMIT")
    assert (status, answer["error"]["code"]) == (413, "STATEMENT_TOO_LARGE")
    assert await ids(node) == []


async def test_a_large_one_is_staged(node: SmallNode) -> None:
    talk = talk_of("alice")
    await node.talk(talk, "BEGIN")
    body = "x" * 100_000
    for number in range(40):
        await node.talk(
            talk, "INSERT INTO app.t (id, body) VALUES ($1, $2)", [number, f"{number}{body}"]
        )
    assert await ids(node) == []
    assert (await node.talk(talk, "COMMIT"))[0] == 200
    assert await ids(node) == list(range(40))
