"""Live queries that are evaluated anew: their cost, what they refuse, how they end and resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from kalamdb.edge.ws.protocol import NextBatch, Options, Wish
from kalamdb.feed.evaluations import EvaluationLimits
from kalamdb.model.ids import Partition, TenantId, seq_hour, tenant_partition
from kalamdb.model.principal import Role
from kalamdb.model.work import TrimBefore
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.property.live_world import QUICK, LiveWorld, Socket, live_world
from tests.property.worlds import group_of
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DDL = (
    "CREATE NAMESPACE app",
    "CREATE USER TABLE app.m (id INT PRIMARY KEY, room TEXT, n INT)",
    "CREATE SHARED TABLE app.s (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'public')",
)
COUNT = "SELECT room, count(*) AS c FROM app.m GROUP BY room"
TOP = "SELECT id, n FROM app.m ORDER BY n DESC, id LIMIT 3"
ALICE = tenant_partition(TenantId("alice"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    found = EnginePool(PoolSettings(workers_max=1))
    yield found
    await found.close()


@pytest_asyncio.fixture(loop_scope="module")
async def world(pool: EnginePool) -> AsyncIterator[LiveWorld]:
    async with live_world(pool, QUICK, *DDL) as found:
        await insert(found, 1, 2, 3)
        yield found


async def insert(world: LiveWorld, *numbers: int, user: str = "alice") -> None:
    values = ", ".join(f"({number}, 'r{number % 2}', {number})" for number in numbers)
    await world.node.ok(user, f"INSERT INTO app.m VALUES {values}")


async def told(world: LiveWorld, socket: Socket) -> list[dict[str, Any]]:
    """The frames since last time, once everything was given out."""
    await world.settle()
    frames, socket.frames = socket.frames, []
    return frames


async def refused(world: LiveWorld, socket: Socket, sql: str, options: Options) -> dict[str, Any]:
    await told(world, socket)
    await socket.streams.subscribe(Wish("r", sql, options), socket.principal)
    (frame,) = await told(world, socket)
    assert frame["type"] == "error", frame
    return frame


# ---- what they cost -----------------------------------------------------------------------------


async def test_what_nobody_waits_for_any_more_is_not_evaluated(world: LiveWorld) -> None:
    socket = world.socket("alice")
    await socket.subscribe("a", COUNT)
    await world.settle()
    before = Options(from_=socket.clients["a"].cursor)
    await insert(world, 50)
    await world.settle()
    for number in range(20):
        other = f"{COUNT} HAVING count(*) > {number}"
        for name, sql, options in (("past", COUNT, before), ("new", other, Options())):
            await socket.streams.subscribe(Wish(name, sql, options), socket.principal)
            socket.streams.unsubscribe(name)
    assert world.evaluations.statistics().waiting == 0
    socket.streams.unsubscribe("a")
    await world.settle()


async def test_equal_queries_of_one_tenant_share_an_evaluation(world: LiveWorld) -> None:
    sockets = [world.socket("alice"), world.socket("alice"), world.socket("bob")]
    for socket in sockets:
        await socket.subscribe("a", COUNT)
    await sockets[0].subscribe("b", COUNT.lower().replace("count(*) as c", "count(*) AS c"))
    await world.settle()
    assert world.evaluations.statistics().viewers == 4
    assert world.evaluations.statistics().queries == 3, "bob has one, and another text is another"
    before = world.evaluations.evaluations
    await insert(world, 4)
    await world.settle()
    assert world.evaluations.evaluations == before + 2
    assert [len(socket.clients["a"].rows) for socket in sockets] == [2, 2, 0]


async def test_what_others_write_evaluates_nothing(world: LiveWorld) -> None:
    neighbour = next(name for at in range(99) if group_of(name := f"n{at}") == group_of("alice"))
    socket = world.socket("alice")
    client = await socket.subscribe("a", COUNT)
    await told(world, socket)
    before, cursor = world.evaluations.evaluations, client.cursor
    await insert(world, 7, 8, user=neighbour)
    socket.streams.tick(0)
    assert await told(world, socket) == []
    assert world.evaluations.evaluations == before
    assert client.cursor == cursor == str(socket.streams.cursors()["a"])


async def test_a_burst_is_one_or_two_evaluations(pool: EnginePool) -> None:
    async with live_world(pool, EvaluationLimits(), *DDL) as world:
        socket = world.socket("alice")
        client = await socket.subscribe("a", TOP)
        await world.settle()
        before = world.evaluations.evaluations
        for number in range(40):
            await insert(world, number)
        await world.settle()
        client.check(await world.rows("alice", TOP))
        assert world.evaluations.evaluations - before < 20


async def test_who_has_used_up_its_share_is_evaluated_later(pool: EnginePool) -> None:
    limits = replace(QUICK, time_share=10.0)
    async with live_world(pool, limits, *DDL) as world:
        socket = world.socket("alice")
        client = await socket.subscribe("a", COUNT)
        await world.settle()
        world.evaluations._accounts["alice"].pay(2.0, world.node.clock.monotonic_s())
        await insert(world, 1)
        world.node.clock.now_ms += 1000
        await world.settle()
        client.check(await world.rows("alice", COUNT))
        assert world.evaluations.statistics().throttled


async def test_rows_are_let_go_and_put_together_again(pool: EnginePool) -> None:
    async with live_world(pool, replace(QUICK, kept_max_bytes=1), *DDL) as world:
        await insert(world, 1, 2, 3)
        socket = world.socket("alice")
        clients = {sql: await socket.subscribe(sql, sql) for sql in (COUNT, TOP)}
        await world.settle()
        await insert(world, 4)
        await world.settle()
        assert world.evaluations.statistics().evicted
        for sql, client in clients.items():
            client.check(await world.rows("alice", sql))
            assert client.resets == 0


# ---- what they refuse ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT m.id, k.id FROM app.m m JOIN app.m k ON true", "INVALID_SQL"),
        ("SELECT nothing, count(*) FROM app.m GROUP BY 1", "INVALID_SQL"),
        ("SELECT count(*) AS c FROM app.nothing", "NOT_FOUND"),
        ("SELECT count(*) AS c FROM all_users.app.m", "UNAUTHORIZED"),
        ("SELECT id / 0 AS x FROM app.m", "INVALID_SQL"),
        ("SELECT count(*) AS c FROM app.m WHERE room = now()", "UNSUPPORTED"),
    ],
)
async def test_refused(world: LiveWorld, sql: str, code: str) -> None:
    frame = await refused(world, world.socket("alice"), sql, Options())
    assert frame["code"] == code
    assert "seq" not in frame


async def test_last_rows_and_pages_from_a_row_are_refused(world: LiveWorld) -> None:
    socket = world.socket("alice")
    assert (await refused(world, socket, TOP, Options(last_rows=2)))["code"] == "UNSUPPORTED"
    await socket.streams.subscribe(Wish("p", TOP, Options(batch_size=2)), socket.principal)
    assert [frame["type"] for frame in await told(world, socket)] == [
        "subscription_ack",
        "initial_data_batch",
    ]
    socket.streams.next_batch(NextBatch("p", "12345"))
    (frame,) = await told(world, socket)
    assert frame["code"] == "UNSUPPORTED"
    socket.streams.next_batch(NextBatch("p"))
    (frame,) = await told(world, socket)
    assert len(frame["rows"]) == 1, "it goes on"


async def test_a_user_has_so_many(pool: EnginePool) -> None:
    async with live_world(pool, replace(QUICK, subscriptions_per_user=2), *DDL) as world:
        socket = world.socket("alice")
        await socket.subscribe("a", COUNT)
        await socket.subscribe("b", TOP)
        frame = await refused(world, socket, COUNT, Options())
        assert frame["code"] == "SUBSCRIPTION_LIMIT_EXCEEDED"
        socket.streams.unsubscribe("a")
        client = await socket.subscribe("c", COUNT)
        await world.settle()
        assert client.ready


# ---- how they end -------------------------------------------------------------------------------


async def test_a_result_that_grows_too_large_ends_the_stream_with_its_cursor(
    pool: EnginePool,
) -> None:
    async with live_world(pool, replace(QUICK, rows_max=3), *DDL) as world:
        await insert(world, 1, 2, 3)
        socket = world.socket("alice")
        client = await socket.subscribe("a", "SELECT id, n + 1 AS m FROM app.m")
        await world.settle()
        await insert(world, 4)
        await world.settle()
        assert client.error is not None
        assert client.error["code"] == "RESULT_TOO_LARGE"
        assert client.error["seq"] == client.cursor != "0"
        await world.node.ok("alice", "DELETE FROM app.m WHERE id = 1")
        await socket.resume("a", "SELECT id, n + 1 AS m FROM app.m")
        await world.settle()
        assert sorted(row["id"] for row in client.rows) == [2, 3, 4]
        assert client.resets == 0


async def test_a_query_that_fails_on_a_new_row_ends(world: LiveWorld) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", "SELECT id, 10 / n AS x FROM app.m")
    await world.settle()
    await world.node.ok("alice", "INSERT INTO app.m VALUES (9, 'r', 0)")
    await world.settle()
    assert client.error is not None
    assert client.error["code"] == "INVALID_SQL"
    assert client.error["seq"] == client.cursor


async def test_a_query_that_takes_too_long_is_killed(pool: EnginePool) -> None:
    async with live_world(pool, replace(QUICK, timeout_s=0.3), *DDL) as world:
        await insert(world, *range(200))
        socket = world.socket("alice")
        heavy = (
            "SELECT count(*) AS c FROM app.m a, app.m b, app.m c, app.m d"
            " WHERE a.n * b.n + c.n * d.n = 7"
        )
        frame = await refused(world, socket, heavy, Options())
        assert frame["code"] == "QUERY_TIMEOUT"
        client = await socket.subscribe("a", "SELECT count(*) AS c FROM app.m")
        await world.settle()
        assert client.rows == [{"c": "200"}], "others are served"


async def test_dropped_and_altered_tables(world: LiveWorld) -> None:
    socket = world.socket("alice")
    joined = await socket.subscribe(
        "j", "SELECT m.id, v FROM app.m m LEFT JOIN app.s s ON s.id = m.n"
    )
    count = await socket.subscribe("c", COUNT)
    plain = await socket.subscribe("p", TOP)
    await world.settle()
    await world.node.setup("DROP TABLE app.s")
    await world.settle()
    assert joined.error is not None
    assert joined.error["code"] == "TABLE_DROPPED"
    assert count.error is None
    table = world.node.groups.catalog.table("app", "m")
    for hub in world.node.hubs.values():
        hub.close_older(table)
    assert world.evaluations.statistics().viewers == 2, "this very version ends nothing"
    await world.node.setup("ALTER TABLE app.m ADD COLUMN more INT")
    await world.settle()
    for client in (count, plain):
        assert client.error is not None
        assert client.error["code"] == "SCHEMA_CHANGED"
        assert client.error["seq"] == client.cursor


async def test_an_index_ends_no_query_of_single_rows(world: LiveWorld) -> None:
    socket = world.socket("alice")
    sql = "SELECT id, room FROM app.m WHERE room = 'r1'"
    await socket.streams.subscribe(Wish("p", sql), socket.principal)
    await told(world, socket)
    await world.node.setup("CREATE INDEX by_room ON app.m (room)")
    socket.streams.tick(0)
    await insert(world, 11)
    (change,) = await told(world, socket)
    assert change["rows"][0]["id"] == 11


async def test_views_are_followed(world: LiveWorld) -> None:
    await world.node.setup("CREATE VIEW app.v AS SELECT room, count(*) AS c FROM app.m GROUP BY 1")
    socket = world.socket("alice")
    client = await socket.subscribe("v", "SELECT * FROM app.v ORDER BY room")
    await world.settle()
    await insert(world, 5)
    await world.settle()
    client.check(await world.rows("alice", "SELECT * FROM app.v ORDER BY room"))
    await world.node.setup("CREATE OR REPLACE VIEW app.v AS SELECT room, 1 AS c FROM app.m")
    socket.streams.tick(0)
    await world.settle()
    assert client.error is not None
    assert client.error["code"] == "SCHEMA_CHANGED"


async def test_a_view_does_not_open_what_is_closed(world: LiveWorld) -> None:
    await world.node.setup("CREATE VIEW app.w AS SELECT _user_id, id FROM all_users.app.m")
    await world.node.setup("CREATE VIEW app.late AS SELECT id FROM app.m WHERE room = now()")
    alice = world.socket("alice")
    frame = await refused(world, alice, "SELECT id FROM app.w", Options())
    assert frame["code"] == "UNAUTHORIZED"
    frame = await refused(world, alice, "SELECT id FROM app.late", Options())
    assert frame["code"] == "UNSUPPORTED"


async def test_leadership_lost_and_resumed(world: LiveWorld) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", COUNT)
    await world.settle()
    for hub in world.node.hubs.values():
        hub.close_all("another node leads")
    await world.settle()
    assert client.error is not None
    assert (client.error["code"], client.error["seq"]) == ("LEADERSHIP_LOST", client.cursor)
    await insert(world, 4)
    await socket.resume("a", COUNT)
    await world.settle()
    client.check(await world.rows("alice", COUNT))
    assert client.kinds == {"update": 1}


async def test_a_lost_worker_is_not_the_end(pool: EnginePool, world: LiveWorld) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", COUNT)
    await world.settle()
    for link in list(pool._links):
        os.kill(link.pid, signal.SIGKILL)
    await insert(world, 4)
    await world.settle()
    assert client.error is None
    client.check(await world.rows("alice", COUNT))


async def test_changes_wait_for_a_page_that_is_being_packed(world: LiveWorld) -> None:
    """Large pages are packed in a thread; what changes meanwhile comes after them."""
    sql = "SELECT id, n, room || 'x' AS long FROM app.m"
    await insert(world, *range(1000, 3000))
    socket, go_on = world.socket("alice", packed=True), threading.Event()
    world.services.packer.submit(go_on.wait, 10)
    client = await socket.subscribe("p", sql, Options(batch_size=10_000))
    packing = socket.streams._packing
    await wait_until(lambda: bool(packing), what="the page is being packed")
    assert socket.streams.cursors() == {"p": 0}
    await insert(world, 10_000)
    await wait_until(lambda: world.evaluations.is_quiet, what="the change was evaluated")
    go_on.set()
    await world.settle()
    client.check(await world.rows("alice", sql))
    assert client.kinds == {"insert": 1}


async def test_rows_that_wait_to_be_fetched_are_bounded(pool: EnginePool) -> None:
    async with live_world(pool, replace(QUICK, held_max_bytes=400), *DDL) as world:
        await insert(world, *range(12))
        socket = world.socket("alice")
        paged = Options(batch_size=2)
        first = "SELECT id, n FROM app.m ORDER BY id"
        await socket.streams.subscribe(Wish("p", first, paged), socket.principal)
        await told(world, socket)
        frame = await refused(world, socket, "SELECT id, n FROM app.m ORDER BY n", paged)
        assert frame["code"] == "OVERLOADED"
        socket.streams.unsubscribe("p")
        client = await socket.subscribe("q", "SELECT id, n FROM app.m ORDER BY n", paged)
        await world.settle()
        assert len(client.rows) == 12
        assert world.evaluations.held_bytes == 0


# ---- how they resume ----------------------------------------------------------------------------


async def test_without_options_only_what_changes_is_told(world: LiveWorld) -> None:
    socket = world.socket("alice")
    await socket.streams.subscribe(Wish("a", COUNT), socket.principal)
    (ack,) = await told(world, socket)
    assert ack["evaluated"] == {"ordered": False, "key": ["room"]}
    assert ack["seq"]
    await insert(world, 4)
    (change,) = await told(world, socket)
    assert (change["change_type"], change["old_values"]) == ("update", [{"room": "r0", "c": "1"}])


async def test_an_evaluation_without_a_difference_moves_the_position(world: LiveWorld) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", "SELECT max(n) AS top FROM app.m")
    await told(world, socket)
    cursor = client.cursor
    await insert(world, -5)
    assert await told(world, socket) == []
    socket.streams.tick(1e12)
    (position,) = await told(world, socket)
    assert position["type"] == "position"
    assert cursor != client.cursor == position["seq"]


def altered(cursor: str) -> dict[str, str]:
    """Cursors that are no use, by what is wrong with them."""
    head, query, digest, rest = cursor.split(".")
    time, seqs = rest.split("{")
    group, seq = seqs.rstrip("}").split(":")
    return {
        "foreign": f"{head}.{'0' * 16}.{digest}.{rest}",
        "expired": f"{head}.{query}.{'0' * 16}.{time}{{{group}:{int(seq) - 1}}}",
        "ahead": f"{head}.{query}.{digest}.{time}{{{group}:{int(seq) + (1 << 40)}}}",
    }


@pytest.mark.parametrize("reason", ["foreign", "expired", "ahead"])
async def test_cursors_of_no_use(world: LiveWorld, reason: str) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", COUNT)
    await world.settle()
    await insert(world, 4)
    await told(world, socket)
    cursor = altered(client.cursor)[reason]
    frame = await refused(world, socket, COUNT, Options(from_=cursor))
    assert (frame["code"], frame["reason"]) == ("CURSOR_EXPIRED", reason)
    client.cursor = cursor
    await socket.resume("a", COUNT, on_expired="snapshot")
    await world.settle()
    assert client.resets == 1
    client.check(await world.rows("alice", COUNT))


@pytest.mark.parametrize(
    "cursor",
    ["r1", "r1.0.0.0{}", "r2.0000000000000000.0000000000000000.0{1:5}", "-1", "1{", "٣",
     "r1.0000000000000000.0000000000000000.0{2:5,1:5}",
     "r1.0000000000000000.0000000000000000.0{1:5,1:6}",
     "r1.0000000000000000.0000000000000000.0{1:9999999999999999999}",
     "r1.0000000000000000.0000000000000000.0{999:5}",
     "r1.0000000000000000.0000000000000000.0{" + ",".join(["1:5"] * 9999) + "}"],
)  # fmt: skip
async def test_malformed_cursors(world: LiveWorld, cursor: str) -> None:
    frame = await refused(world, world.socket("alice"), COUNT, Options(from_=cursor))
    assert frame["code"] == "PROTOCOL"


async def test_cursors_of_the_other_kind(world: LiveWorld) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", COUNT)
    plain = "SELECT id FROM app.m"
    await told(world, socket)
    for sql, cursor in ((plain, client.cursor), (COUNT, "5")):
        frame = await refused(world, socket, sql, Options(from_=cursor))
        assert (frame["code"], frame["reason"]) == ("CURSOR_EXPIRED", "foreign")
        options = Options(from_=cursor, on_expired="snapshot")
        await socket.streams.subscribe(Wish("r", sql, options), socket.principal)
        ack, page = await told(world, socket)
        assert ack["reset"]
        assert page["rows"]


async def test_what_is_trimmed_cannot_be_resumed(world: LiveWorld) -> None:
    socket = world.socket("alice")
    client = await socket.subscribe("a", COUNT)
    await world.settle()
    old = client.cursor
    await insert(world, 4)
    await world.settle()
    fresh = client.cursor
    socket.streams.unsubscribe("a")
    world.node.clock.now_ms += 3 * 3_600_000
    await trim(world, ALICE)
    frame = await refused(world, socket, COUNT, Options(from_=old))
    assert (frame["code"], frame["reason"]) == ("CURSOR_EXPIRED", "expired")
    client.cursor = fresh
    await socket.resume("a", COUNT)
    await world.settle()
    assert client.resets == 0, "a table at rest does not age a cursor"
    client.check(await world.rows("alice", COUNT))


async def trim(world: LiveWorld, partition: Partition) -> None:
    snapshot = world.node.groups.snapshot(partition)
    hour = seq_hour(snapshot.seq) + 2
    snapshot.close()
    for _ in range(100):
        outcome = await world.node.groups.write(partition, TrimBefore(hour))
        if not outcome.affected:
            return


async def test_all_users_is_for_administrators_and_sees_everybody(world: LiveWorld) -> None:
    sql = "SELECT _user_id, count(*) AS c FROM all_users.app.m GROUP BY _user_id"
    root = world.socket("root", Role.SYSTEM)
    client = await root.subscribe("a", sql)
    await world.settle()
    for user in ("bob", "carol", "dave"):
        await insert(world, 1, 2, user=user)
    await world.settle()
    client.check(await world.rows("root", sql, Role.SYSTEM))
    assert len(client.rows) == 4
    root.close()
    await insert(world, 9, user="erin")
    again = world.socket("root", Role.SYSTEM)
    again.clients = root.clients
    await again.resume("a", sql)
    await world.settle()
    assert client.resets == 0
    client.check(await world.rows("root", sql, Role.SYSTEM))
