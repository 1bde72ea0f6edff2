"""How new a read is: stale ones of followers, and such that must have seen a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kalamdb.errors import MalformedRequest
from kalamdb.model.ids import GroupId, Seq
from kalamdb.model.principal import Principal, Role
from kalamdb.session.run import Conversation, SqlRequest
from kalamdb.session.stale import freshness_of, read_cursor
from tests.small_cluster import SmallCluster, small_cluster
from tests.unit.gather.test_reads import define

NOTES = "SELECT id, body FROM app.notes ORDER BY id"
POINT = "SELECT body FROM app.notes WHERE id = 2"
WRITE = "UPDATE app.notes SET body = 'newer' WHERE id = 2"
PATHS = (POINT, "SELECT body FROM app.notes WHERE id < 3", "SELECT min(body) FROM app.notes")


@pytest.fixture
async def world() -> AsyncIterator[SmallCluster]:
    async with small_cluster() as cluster:
        await define(cluster)
        yield cluster


async def asked(node: Any, user: str, sql: str, **how: Any) -> tuple[int, dict[str, Any]]:
    return await node.sql(user, sql, **how)


@pytest.mark.parametrize("sql", PATHS)
async def test_a_follower_answers_stale_reads_and_says_how_new_they_are(
    world: SmallCluster, sql: str
) -> None:
    user = world.tenant_of(2)
    before = (await world[2].ok(user, sql))[0]
    world.hold(1, 2)
    await world[2].ok(user, WRITE)
    stale = (await world[1].ok(user, sql, consistency="stale"))[0]
    assert (stale["rows"], stale["cursor"]) == (before["rows"], before["cursor"])
    status, body = await world[1].sql(user, sql)
    if status == 200:  # the query engine fetches it from the leader
        assert body["results"][0]["rows"] == [["newer"]]
    else:
        assert (status, body["error"]["code"]) == (503, "NOT_LEADER")
    world.release(1, 2)
    fresh = (await world[1].ok(user, sql, consistency="stale"))[0]
    assert int(fresh["cursor"]) > int(stale["cursor"])
    assert fresh["rows"] == [["newer"]]


@pytest.mark.parametrize("sql", PATHS)
async def test_min_cursor_is_read_your_writes(world: SmallCluster, sql: str) -> None:
    user = world.tenant_of(2)
    world.hold(1, 2)
    cursor = (await world[2].ok(user, WRITE))[0]["cursor"]
    waiting = asyncio.ensure_future(world[1].ok(user, sql, consistency="stale", min_cursor=cursor))
    async with asyncio.timeout(10):
        while not world[1].replicas[GroupId(2)]._behind:
            await asyncio.sleep(0)
    assert not waiting.done()
    world.release(1, 2)
    assert (await waiting)[0]["rows"] == [["newer"]]
    assert not world[1].replicas[GroupId(2)]._behind


async def test_a_replica_that_stays_behind_says_so(world: SmallCluster) -> None:
    user = world.tenant_of(2)
    world.hold(1, 2)
    cursor = (await world[2].ok(user, WRITE))[0]["cursor"]
    status, body = await world[1].sql(user, POINT, consistency="stale", min_cursor=cursor)
    assert (status, body["error"]["code"]) == (503, "REPLICA_BEHIND")
    assert cursor in body["error"]["message"]
    assert not world[1].replicas[GroupId(2)]._behind


@pytest.mark.parametrize("sql", PATHS)
async def test_a_linearizable_read_never_waits_for_what_never_was(
    world: SmallCluster, sql: str
) -> None:
    user = world.tenant_of(2)
    cursor = int((await world[2].ok(user, sql))[0]["cursor"])
    for text in (str(cursor), f"{{1:9,2:{cursor}}}", "0"):
        assert (await world[2].sql(user, sql, min_cursor=text))[0] == 200
    ahead = world[2].replicas[GroupId(2)].seq_last + 1024
    status, body = await world[2].sql(user, sql, min_cursor=str(ahead))
    assert (status, body["error"]["code"]) == (410, "CURSOR_EXPIRED")
    assert "ahead" in body["error"]["message"]


async def test_the_cursor_of_a_read_of_all_users_is_good_for_the_next(
    world: SmallCluster,
) -> None:
    sql = "SELECT count(*) FROM all_users.app.notes"
    cursor = (await world[1].ok("root", sql, role=Role.DBA))[0]["cursor"]
    for how in ("stale", "linearizable"):
        found = await world[3].ok("root", sql, role=Role.DBA, consistency=how, min_cursor=cursor)
        assert found[0]["rows"] == [["6"]]
    seqs = read_cursor(cursor)
    ahead = f"{{2:{seqs[GroupId(2)] + 1024}}}"
    status, body = await world[1].sql("root", sql, role=Role.DBA, min_cursor=ahead)
    assert (status, body["error"]["code"]) == (410, "CURSOR_EXPIRED")
    world.hold(3, 2)
    later = (await world[2].ok(world.tenant_of(2), WRITE))[0]["cursor"]
    status, body = await world[3].sql(
        "root", sql, role=Role.DBA, consistency="stale", min_cursor=later
    )
    assert (status, body["error"]["code"]) == (503, "REPLICA_BEHIND")


async def test_set_and_the_field_say_the_same(world: SmallCluster) -> None:
    user = world.tenant_of(2)
    (_, found) = await world[1].ok(user, f"SET consistency = 'stale'; {POINT}")
    assert found["rows"] == [["of 2"]]
    status, _ = await world[1].sql(
        user, f"SET consistency = 'linearizable'; {POINT}", consistency="stale"
    )
    assert status == 503


async def test_a_transaction_takes_neither(world: SmallCluster) -> None:
    user = world.tenant_of(2)
    fields: list[dict[str, Any]] = [{"consistency": "stale"}, {"min_cursor": "0"}]
    for how in fields:
        for named in (None, "new"):
            status, body = await world[2].sql(
                user, f"BEGIN; {POINT}; COMMIT", transaction_id=named, **how
            )
            assert (status, body["error"]["sqlstate"]) == (400, "25000")
    talk = Conversation(Principal.of(user, Role.USER))
    await world[2].talk(talk, "BEGIN")
    request = SqlRequest(POINT, consistency="stale")
    with pytest.raises(Exception, match="outside a transaction"):
        await world[2].session.converse(talk, request)
    assert world[2].transactions.statistics().open == 1
    world[2].session.hang_up(talk)
    assert world[2].transactions.statistics().open == 0


def test_cursors_are_read_whole_or_refused() -> None:
    seq = 5 << 22 | 3
    assert read_cursor(str(seq)) == {3: seq}
    assert read_cursor("0") == {}
    assert read_cursor("{}") == {}
    assert read_cursor("{1:7,3:9}") == {1: 7, 3: 9}
    assert read_cursor(f"r1.{'0' * 16}.{'a' * 16}.0{{1:7}}") == {1: 7}
    wrong = "", "x", "-1", "1.5", "{1:7", "{1:7,1:8}", "{600:1}", str(1 << 63), "{1:7}x", "1" * 20
    for text in wrong:
        with pytest.raises(MalformedRequest):
            read_cursor(text)


def test_consistency_is_one_of_two() -> None:
    assert freshness_of("stale", None).stale
    assert not freshness_of("linearizable", "7").stale
    assert freshness_of(None, str(1024 + 2)).at_least == {GroupId(2): Seq(1026)}
    with pytest.raises(MalformedRequest):
        freshness_of("eventual", None)
