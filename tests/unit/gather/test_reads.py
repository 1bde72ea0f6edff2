"""Queries whose rows are led by several nodes, over links in memory: what they give, and how they
fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster.gather import GatherLimits, reads, wire
from kalamdb.errors import CursorExpired, NotLeader, Overloaded, SchemaChanged, Unavailable
from kalamdb.far_reads import Freshness, RowsAsked
from kalamdb.model.ids import GroupId, Partition, Seq, slot_of
from kalamdb.model.principal import Principal, Role
from kalamdb.query.moment import Moment, evaluate_now, evaluate_then
from kalamdb.query.scan import ScanLimits
from kalamdb.sql.bound import Env, ReevaluatedPlan
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select
from tests.small_cluster import SmallCluster, small_cluster

ALL = Role.DBA
SYSTEM = Role.SYSTEM


@pytest.fixture
async def world() -> AsyncIterator[SmallCluster]:
    async with small_cluster() as cluster:
        await define(cluster)
        yield cluster


async def define(cluster: SmallCluster) -> None:
    """A table of users and one SHARED table, and rows of a tenant in each group."""
    await cluster[1].setup(
        "CREATE NAMESPACE app",
        "CREATE USER TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT, room INT)",
        "CREATE SHARED TABLE app.rooms (id INT PRIMARY KEY, title TEXT)"
        " WITH (ACCESS_LEVEL = 'public')",
        "CREATE INDEX by_title ON app.rooms (title)",
    )
    for group in (1, 2, 3):
        user = cluster.tenant_of(group)
        await cluster[group].ok(
            user, f"INSERT INTO app.notes VALUES ({group}, 'of {group}', 1), ({group + 10}, 'x', 2)"
        )
    await leader_of_rooms(cluster).ok(
        "root", "INSERT INTO app.rooms VALUES (1, 'one'), (2, 'two'), (3, 'three')", role=SYSTEM
    )


def rooms_group(cluster: SmallCluster) -> int:
    table = cluster[1].groups.catalog.table("app", "rooms")
    return cluster.group_of(table.partition_for(Partition(b"t")))


def leader_of_rooms(cluster: SmallCluster) -> Any:
    return cluster[rooms_group(cluster)]


def away_from_rooms(cluster: SmallCluster) -> int:
    """A group other than that of the SHARED table."""
    return next(group for group in (1, 2, 3) if group != rooms_group(cluster))


async def rows(node: Any, user: str, sql: str, **more: Any) -> list[list[Any]]:
    return (await node.ok(user, sql, **more))[0]["rows"]


ALL_NOTES = "SELECT _user_id, id, body FROM all_users.app.notes ORDER BY id"


async def test_rows_of_all_users_come_from_all_leaders(world: SmallCluster) -> None:
    wanted = [
        [world.tenant_of(n % 10), str(n), "x" if n > 9 else f"of {n}"]
        for n in (1, 2, 3, 11, 12, 13)
    ]
    for node in (1, 2, 3):
        result = (await world[node].ok("root", ALL_NOTES, role=ALL))[0]
        assert result["rows"] == wanted
        assert set(read_groups(result["cursor"])) == {1, 2, 3}


def read_groups(cursor: str) -> list[int]:
    return [int(pair.split(":")[0]) for pair in cursor.strip("{}").split(",")]


async def test_a_write_is_seen_at_once_from_every_node(world: SmallCluster) -> None:
    for turn in range(3):
        for group in (1, 2, 3):
            user = world.tenant_of(group)
            await world[group].ok(user, f"UPDATE app.notes SET body = 'new {turn}' WHERE id < 10")
            for node in (1, 2, 3):
                found = await rows(
                    world[node],
                    "root",
                    f"SELECT body FROM all_users.app.notes WHERE id = {group}",
                    role=ALL,
                )
                assert found == [[f"new {turn}"]]


JOIN = "SELECT n.id, r.title FROM app.notes n JOIN app.rooms r ON r.id = n.room ORDER BY n.id"


async def test_a_shared_table_of_another_group_joins(world: SmallCluster) -> None:
    group = away_from_rooms(world)
    node, user = world[group], world.tenant_of(group)
    result = (await node.ok(user, JOIN))[0]
    assert result["rows"] == [[str(group), "one"], [str(group + 10), "two"]]
    assert set(read_groups(result["cursor"])) == {group, rooms_group(world)}
    await node.setup("CREATE VIEW app.named AS " + JOIN.removesuffix(" ORDER BY n.id"))
    assert len(await rows(node, user, "SELECT * FROM app.named WHERE title = 'two'")) == 1


async def test_writes_read_shared_tables_of_other_groups(world: SmallCluster) -> None:
    group = away_from_rooms(world)
    node, user = world[group], world.tenant_of(group)
    await node.ok(user, "INSERT INTO app.notes SELECT id + 100, title, id FROM app.rooms")
    await node.ok(
        user,
        "UPDATE app.notes SET body = 'has a room' WHERE id < 100"
        " AND room IN (SELECT id FROM app.rooms WHERE title = 'two')",
    )
    found = await rows(node, user, "SELECT id, body FROM app.notes ORDER BY id")
    assert found == [
        [str(group), f"of {group}"],
        [str(group + 10), "has a room"],
        ["101", "one"],
        ["102", "two"],
        ["103", "three"],
    ]


async def test_a_write_into_a_shared_table_reads_a_tenant_elsewhere(world: SmallCluster) -> None:
    group = away_from_rooms(world)
    user = world.tenant_of(group)
    home = leader_of_rooms(world)
    await home.ok(user, "INSERT INTO app.rooms SELECT id + 500, body FROM app.notes", role=SYSTEM)
    found = await rows(home, "root", "SELECT id FROM app.rooms WHERE id > 500", role=SYSTEM)
    assert sorted(found) == [[500 + group], [510 + group]]


async def test_nobody_gets_another_tenants_rows(world: SmallCluster) -> None:
    for node in (1, 2, 3):
        user = world.tenant_of(node)
        found = await rows(world[node], user, "SELECT n.id FROM app.notes n, app.rooms r")
        assert {row[0] for row in found} == {str(node), str(node + 10)}
        status, body = await world[node].sql(user, ALL_NOTES)
        assert (status, body["error"]["code"]) == (403, "PERMISSION_DENIED")


async def test_a_range_is_narrowed_where_the_rows_are(
    world: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = away_from_rooms(world)
    sent: list[list[tuple[bytes, bytes]]] = []
    real = wire.read_batch

    def counted(batch: bytes) -> Any:
        found = list(real(batch))
        sent.append(found)
        return iter(found)

    monkeypatch.setattr(wire, "read_batch", counted)
    sql = (
        "SELECT n.id, r.title FROM app.notes n,"
        " (SELECT * FROM app.rooms WHERE title = 'two') r WHERE n.room = 2"
    )
    found = await rows(world[group], world.tenant_of(group), sql)
    assert [title for _, title in found] == ["two"]
    assert [len(batch) for batch in sent] in ([1], [3])  # one where the planner found the index


async def test_rows_a_worker_keeps_are_not_sent_again(
    world: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = reads.RemoteRows.rows

    def counted(self: Any, number: int) -> Any:
        asked.append(number)
        return real(self, number)

    monkeypatch.setattr(reads.RemoteRows, "rows", counted)
    for _ in range(3):
        await rows(world[1], "root", ALL_NOTES, role=ALL)
    assert len(asked) == 2  # once for each group that is elsewhere


async def test_a_wrong_hint_is_put_right(world: SmallCluster) -> None:
    world[1].hints.wrong = {2: 3, 3: None}
    assert len(await rows(world[1], "root", ALL_NOTES, role=ALL)) == 6
    assert (2, 3) in world[1].hints.refusals


async def test_a_node_that_is_gone_is_an_error_that_says_so() -> None:
    async with small_cluster(limits=GatherLimits(find_s=0.1)) as world:
        await define(world)
        world.net.cut(1, 2)
        status, body = await world[1].sql("root", ALL_NOTES, role=ALL)
        code = body["error"]["code"]
        assert (status, code) in ((503, "NOT_LEADER"), (503, "CLUSTER_UNAVAILABLE"))


async def test_a_node_is_waited_for(world: SmallCluster) -> None:
    world.net.cut(1, 2)
    waiting = asyncio.ensure_future(rows(world[1], "root", ALL_NOTES, role=ALL))
    async with asyncio.timeout(10):
        while len(world[1].hints.refusals) < 4:
            await asyncio.sleep(0)
    world.net.mend(1, 2)
    assert len(await waiting) == 6


async def test_large_tables_come_whole_and_a_break_ends_the_query(world: SmallCluster) -> None:
    await fill(world)
    count = "SELECT count(*), count(DISTINCT id) FROM all_users.app.notes"
    assert await rows(world[1], "root", count, role=ALL) == [["6006", "6006"]]
    await world[2].ok(world.tenant_of(2), "DELETE FROM app.notes WHERE id = 100")
    real = reads.RemoteRows._messages

    def broken(self: Any) -> Any:
        for number, message in enumerate(real(self)):
            if number == 2:
                self._loop.call_soon_threadsafe(world.net.cut, 1, 2)
            yield message

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reads.RemoteRows, "_messages", broken)
        status, body = await world[1].sql("root", count, role=ALL)
    assert (status, body["error"]["code"]) == (503, "CLUSTER_UNAVAILABLE")
    world.net.mend(1, 2)
    assert await rows(world[1], "root", count, role=ALL) == [["6005", "6005"]]
    await nobody_reads(world[2])


async def fill(world: SmallCluster) -> None:
    """6,000 rows in group 2, several windows of a stream."""
    for start in range(0, 6000, 1000):
        values = ",".join(f"({n}, '{'y' * 800}', 1)" for n in range(100 + start, 1100 + start))
        await world[2].ok(world.tenant_of(2), f"INSERT INTO app.notes VALUES {values}")


async def nobody_reads(node: Any) -> None:
    async with asyncio.timeout(10):
        while node.host._readers:
            await asyncio.sleep(0)


async def test_a_query_that_is_killed_lets_the_other_node_go(world: SmallCluster) -> None:
    await fill(world)
    real = reads.RemoteRows._messages
    begun = asyncio.Event()

    def held(self: Any) -> Any:
        """The rows come to a stop on their way: only an abort wakes who waits for them."""
        for number, message in enumerate(real(self)):
            yield message
            if number == 0:
                self._loop.call_soon_threadsafe(world.net.hold, 2, 1)
                self._loop.call_soon_threadsafe(begun.set)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reads.RemoteRows, "_messages", held)
        waiting = asyncio.ensure_future(world[1].sql("root", ALL_NOTES, role=ALL))
        await begun.wait()
        (query,) = world[1].around.queries.listed()
        await world[1].setup(f"KILL QUERY '{query.id}'")
        status, body = await waiting
    assert (status, body["error"]["code"]) == (400, "QUERY_KILLED")
    await nobody_reads(world[2])
    world.net.release(2, 1)
    count = "SELECT count(*) FROM all_users.app.notes"
    assert await rows(world[1], "root", count, role=ALL) == [["6006"]]


async def test_another_definition_is_told_and_bound_again(world: SmallCluster) -> None:
    table = world[1].groups.catalog.table("app", "notes")
    await world[1].setup("ALTER TABLE app.notes ADD COLUMN extra TEXT")
    far = world[1].groups.far
    assert far is not None
    with pytest.raises(SchemaChanged) as told:
        await far.open(GroupId(2), [RowsAsked(table, None)])
    assert told.value.definition.version == table.version + 1
    assert len(await rows(world[1], "root", ALL_NOTES, role=ALL)) == 6


async def test_a_partition_of_another_group_is_refused() -> None:
    async with small_cluster(limits=GatherLimits(find_s=0.1)) as world:
        await define(world)
        table = world[1].groups.catalog.table("app", "notes")
        partition = Principal.of(world.tenant_of(3), Role.USER).partition
        far = world[1].groups.far
        assert far is not None
        with pytest.raises(NotLeader):
            await far.open(GroupId(2), [RowsAsked(table, partition)])


async def test_readers_and_bytes_are_bounded() -> None:
    limits = GatherLimits(readers_max=1, size_max_bytes=200)
    async with small_cluster(limits=limits) as world:
        await define(world)
        table = world[1].groups.catalog.table("app", "notes")
        far = world[1].groups.far
        assert far is not None
        opened = await far.open(GroupId(2), [RowsAsked(table, None)])
        with pytest.raises(Overloaded):
            await far.open(GroupId(2), [RowsAsked(table, None)])
        opened.close()
        user = world.tenant_of(2)
        await world[2].ok(user, f"INSERT INTO app.notes VALUES (99, '{'z' * 300}', 1)")
        status, body = await world[1].sql("root", ALL_NOTES, role=ALL)
        assert (status, body["error"]["code"]) == (400, "LIMIT_REACHED")


async def test_explain_says_where_rows_come_from(world: SmallCluster) -> None:
    found = await rows(world[1], "root", f"EXPLAIN {ALL_NOTES}", role=ALL)
    lines = [line for (line,) in found]
    assert "rows of app.notes come from group 2, which node 2 leads" in lines
    assert not any("group 1" in line for line in lines)
    group, rooms = away_from_rooms(world), rooms_group(world)
    for node in (1, 2, 3):  # said of where it would run, not of where it was asked
        user = world.tenant_of(group)
        lines = [x for (x,) in await rows(world[node], user, f"EXPLAIN {JOIN}", role=ALL)]
        said = f"rows of app.rooms come from group {rooms}, which node {rooms} leads"
        assert [line for line in lines if "come from" in line] == [said]


async def test_stats_are_counted_at_the_leaders(world: SmallCluster) -> None:
    for node in (1, 2, 3):
        stats = (await rows(world[node], "root", "SHOW STATS FOR TABLE app.notes", role=ALL))[0]
        assert stats[3] == "6"
        user = world.tenant_of(node)
        assert (await rows(world[node], user, "SHOW STATS FOR TABLE app.rooms"))[0][3] == "3"
        assert (await rows(world[node], user, "SHOW STATS FOR TABLE app.notes"))[0][3] == "2"


async def test_without_a_replica_here_rows_come_from_where_there_is_one() -> None:
    members = {0: (1, 2, 3), 1: (1, 3), 2: (2, 3), 3: (3,)}
    async with small_cluster(members) as world:
        await define(world)
        for consistency in ("linearizable", "stale"):
            for node in (1, 2, 3):
                sql = f"SET consistency = '{consistency}'; {ALL_NOTES}"
                found = await world[node].ok("root", sql, role=ALL)
                assert len(found[1]["rows"]) == 6


async def test_a_transaction_does_not_reach_over_groups(world: SmallCluster) -> None:
    group = away_from_rooms(world)
    status, body = await world[group].sql(
        world.tenant_of(group), f"BEGIN; SELECT * FROM app.notes; {JOIN}; COMMIT"
    )
    assert (status, body["error"]["code"]) == (400, "TRANSACTION_CROSS_GROUP")


async def test_a_stale_opening_is_at_least_as_new_as_asked(world: SmallCluster) -> None:
    far = world[1].groups.far
    assert far is not None
    table = world[1].groups.catalog.table("app", "notes")
    newest = world[2].replicas[GroupId(2)].seq_last
    opened = await far.fresh(Freshness(True, {GroupId(2): newest})).open(
        GroupId(2), [RowsAsked(table, None)]
    )
    assert opened.seq >= newest
    opened.close()
    ahead = Freshness(True, {GroupId(2): Seq(newest + 1024)})
    with pytest.raises(Unavailable):
        await far.fresh(ahead).open(GroupId(2), [RowsAsked(table, None)])


async def test_a_slot_that_both_states_have_is_counted_once(world: SmallCluster) -> None:
    """As when it moved from this node's group to the other between the two snapshots."""
    user = world.tenant_of(2)
    partition = Principal.of(user, Role.USER).partition
    far = world[1].groups.far
    assert far is not None
    table = world[1].groups.catalog.table("app", "notes")
    opened = await far.open(GroupId(2), [RowsAsked(table, None)])
    assert await opened.count(0) == (2, pytest.approx(60, abs=40))
    opened.hide(frozenset([slot_of(partition)]))
    assert await opened.count(0) == (0, 0)
    assert await asyncio.to_thread(lambda: list(opened.rows(0))) == []
    opened.close()


async def test_live_results_are_evaluated_over_groups(world: SmallCluster) -> None:
    """On the rows of now and of then; what changed since is not in the latter."""
    group = away_from_rooms(world)
    node, user = world[group], Principal.of(world.tenant_of(group), Role.USER)
    for sql, who in ((JOIN, user), (ALL_NOTES, Principal.of("root", Role.DBA))):
        plan = live_plan(node, sql, who)
        order: list[str] = []
        assert node.groups.far is not None
        real = node.groups.far.open

        async def opening(*asked: Any, real: Any = real, order: list[str] = order) -> Any:
            order.append("opened")
            return await real(*asked)

        def pinned(order: list[str] = order) -> int:
            order.append("pinned")
            return 5

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(node.groups.far, "open", opening)
            now = await evaluate_now(plan, node.groups, node.pool, ScanLimits(), pinned)
        assert order[0] == "pinned"  # a change after that makes the result stale
        other_title = "UPDATE app.rooms SET title = title || '!' WHERE true"
        await leader_of_rooms(world).ok("root", other_title, role=SYSTEM)
        for other in (1, 2, 3):
            await world[other].ok(world.tenant_of(other), "DELETE FROM app.notes WHERE id > 10")
        then = await evaluate_then(
            plan, node.groups, node.pool, ScanLimits(), then=now.moment, begun=lambda: 0
        )
        assert (then.parts, then.row_count) == (now.parts, now.row_count)
        assert now.row_count in (2, 6)
        later = await evaluate_now(plan, node.groups, node.pool, ScanLimits(), lambda: 5)
        assert later.parts != now.parts
        ahead = Moment(tuple((g, Seq(seq + (1 << 40))) for g, seq in now.moment.seqs), 0)
        with pytest.raises(CursorExpired):
            await evaluate_then(
                plan, node.groups, node.pool, ScanLimits(), then=ahead, begun=lambda: 0
            )
        await define_again(world)


def live_plan(node: Any, sql: str, who: Principal) -> ReevaluatedPlan:
    (statement,) = parse(sql)
    assert isinstance(statement, Select)
    env = Env(who, 0, node.ids, ())
    plan = bind_live(statement, node.groups.catalog, "default", env)
    assert isinstance(plan, ReevaluatedPlan)
    return plan


async def define_again(world: SmallCluster) -> None:
    for group in (1, 2, 3):
        await world[group].ok(
            world.tenant_of(group), f"INSERT INTO app.notes VALUES ({group + 10}, 'x', 2)"
        )
