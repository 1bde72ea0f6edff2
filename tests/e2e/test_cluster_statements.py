"""Any statement at any node and any router: what one defined the others know, what one began the
others go on with.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.cluster_load import SETTLED_S, Town, town
from tests.e2e.server import ROOT_PASSWORD, Client, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAD_WITHIN_S = 5.0
DEFINITIONS = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    async with town(tmp_path_factory.mktemp("statements") / "cluster", routers=2) as place:
        yield place


def edges(place: Town) -> list[Server]:
    return place.cluster.servers


def after(place: Town, server: Server) -> list[Server]:
    """All edges, those behind `server` first."""
    found = edges(place)
    at = found.index(server)
    return found[at + 1 :] + found[: at + 1]


# ---- definitions --------------------------------------------------------------------------------


async def test_what_is_defined_at_one_edge_is_there_at_every_other(place: Town) -> None:
    alice = place.tenants[1]
    for number, server in enumerate(edges(place)):
        table = f"app.made{number}"
        await place.at(server).ok(f"CREATE USER TABLE {table} (id INT PRIMARY KEY, v TEXT)")
        for row, other in enumerate(after(place, server)):
            await place.at(other, alice).ok(f"INSERT INTO {table} VALUES ({row}, 'x')")
        await place.at(server).ok(f"ALTER TABLE {table} ADD COLUMN more INT DEFAULT 7")
        for row, other in enumerate(after(place, server)):
            client = place.at(other, alice)
            changed = f"UPDATE {table} SET more = more + {row} WHERE id = {row}"
            await client.ok(changed)
            shown = await client.ok(f"SELECT id, v, more FROM {table} WHERE id = {row}")
            assert shown.rows == [[row, "x", 7 + row]]
        await place.at(server).ok(f"CREATE INDEX by_more{number} ON {table} (more)")
        for other in after(place, server):
            told = (await place.at(other, alice).ok(f"SHOW INDEXES FROM {table}")).rows
            assert any(f"by_more{number}" in row for row in told)
        await place.at(server).ok(f"DROP TABLE {table}")
        for other in after(place, server):
            gone = await place.at(other, alice).sql(f"SELECT * FROM {table}")
            assert gone.body["error"]["sqlstate"] == "42P01", gone.body


async def test_definitions_at_all_edges_at_once(place: Town) -> None:
    async def define(number: int, server: Server) -> None:
        await place.at(server).ok(f"CREATE NAMESPACE n{number}")
        await place.at(server).ok(f"CREATE SHARED TABLE n{number}.t (id INT PRIMARY KEY)")

    async with asyncio.TaskGroup() as tasks:
        for number, server in enumerate(edges(place) * 2):
            tasks.create_task(define(number, server))
    for server in edges(place):
        for number in range(2 * len(edges(place))):
            assert (await place.at(server).ok(f"SELECT count(*) FROM n{number}.t")).rows == [["0"]]
    answers = await asyncio.gather(
        *(place.at(server).sql("CREATE NAMESPACE once") for server in edges(place))
    )
    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400, 400]


# ---- users --------------------------------------------------------------------------------------


async def test_a_user_is_known_everywhere_at_once(place: Town) -> None:
    for number, server in enumerate(edges(place)):
        name = f"new{number}"
        await place.at(server).ok(
            f"CREATE USER '{name}' WITH PASSWORD '{ROOT_PASSWORD}' ROLE service"
        )
        for other in after(place, server):
            client = await other.login(place.http, name, ROOT_PASSWORD)
            for third in edges(place):
                at_third = Client(place.http, third.url, client.token)
                assert (await at_third.ok("SELECT count(*) FROM app.log")).rows == [["0"]]


async def test_another_password_holds_everywhere_at_once(place: Town) -> None:
    new = ROOT_PASSWORD[::-1]
    for number, server in enumerate(edges(place)):
        name = f"changing{number}"
        client = await place.new_user(name)
        await place.at(server).ok(f"ALTER USER '{name}' SET PASSWORD '{new}'")
        for other in after(place, server):
            await wait_refused(place, other, client.token)
            async with place.http.post(
                f"{other.url}/v1/api/auth/login", json={"user": name, "password": ROOT_PASSWORD}
            ) as response:
                assert response.status == 401
            again = await other.login(place.http, name, new)
            for third in edges(place):
                await Client(place.http, third.url, again.token).ok("SELECT 1")


async def test_tokens_of_who_is_dropped_die_everywhere(place: Town) -> None:
    for number, server in enumerate(edges(place)):
        name = f"leaving{number}"
        client = await place.new_user(name)
        for other in edges(place):
            await Client(place.http, other.url, client.token).ok("SELECT count(*) FROM app.log")
        await place.at(server).ok(f"DROP USER '{name}'")
        async with asyncio.timeout(DEAD_WITHIN_S):
            for other in after(place, server):
                await wait_refused(place, other, client.token)


async def wait_refused(place: Town, server: Server, token: str) -> None:
    client = Client(place.http, server.url, token)
    until_s = time.monotonic() + DEAD_WITHIN_S
    while (answer := await client.sql("SELECT count(*) FROM app.log")).status == 200:
        assert time.monotonic() < until_s, "the token is still good"
    assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")


# ---- one request, several groups ----------------------------------------------------------------


async def test_a_batch_over_several_groups(place: Town) -> None:
    alice = place.tenants[2]
    await place.root.ok(
        "".join(
            f"CREATE SHARED TABLE app.news{n} (id INT PRIMARY KEY, v TEXT)"
            " WITH (ACCESS_LEVEL = 'public');"
            for n in range(4)
        )
        + "CREATE USER TABLE app.inbox (id INT PRIMARY KEY, v TEXT)"
    )
    for number, server in enumerate(edges(place)):
        sql = "".join(
            f"INSERT INTO app.news{n} VALUES ({number}, 'n');"
            f"INSERT INTO app.inbox VALUES ({number * 10 + n}, 'i');"
            f"UPDATE app.news{n} SET v = 'changed' WHERE id = {number};"
            for n in range(4)
        )
        sql += f"SELECT count(*) FROM app.inbox; DELETE FROM app.inbox WHERE id = {number * 10};"
        answer = (await place.at(server, alice).ok(sql)).body["results"]
        assert answer[0]["rows"] == [[str(number * 3 + 4)]]
        assert [one["row_count"] for one in answer[1:]] == [8, 4, 1]
        # What fails in the middle leaves what came before it, and says which it was.
        failed = await place.at(server, alice).sql(
            f"INSERT INTO app.inbox VALUES ({number * 10 + 5}, 'i');"
            f"INSERT INTO app.news1 VALUES ({number}, 'again');"
            f"INSERT INTO app.inbox VALUES ({number * 10 + 6}, 'i')"
        )
        assert failed.body["error"]["message"].startswith("Statement 2 failed"), failed.body
        assert failed.body["error"]["sqlstate"] == "23505"
        await place.at(server, alice).ok(f"DELETE FROM app.inbox WHERE id = {number * 10 + 5}")
    for server in edges(place):
        client = place.at(server, alice)
        assert (await client.ok("SELECT count(*) FROM app.inbox")).rows == [["15"]]
        for n in range(4):
            shown = await client.ok(f"SELECT count(*) FROM app.news{n} WHERE v = 'changed'")
            assert shown.rows == [["5"]]


async def test_a_definition_inside_a_batch(place: Town) -> None:
    for number, server in enumerate(edges(place)):
        answer = await place.at(server).ok(
            f"CREATE USER TABLE app.batch{number} (id INT PRIMARY KEY);"
            f"INSERT INTO app.batch{number} VALUES (1);"
            f"ALTER TABLE app.batch{number} ADD COLUMN v INT;"
            f"INSERT INTO app.batch{number} VALUES (2, 3);"
            f"SELECT id, v FROM app.batch{number} ORDER BY id"
        )
        rows = next(one["rows"] for one in answer.body["results"] if "rows" in one)
        assert rows == [[1, None], [2, 3]]


# ---- request ids --------------------------------------------------------------------------------


async def test_a_request_id_counts_once_whatever_edge_it_is_sent_to(place: Town) -> None:
    alice = place.tenants[3]
    insert = "INSERT INTO app.log VALUES (1, 'once')"
    for round_, server in enumerate(edges(place)):
        first = await place.at(server, alice).ok(insert, request_id=f"id{round_}")
        for other in after(place, server):
            again = await place.at(other, alice).ok(insert, request_id=f"id{round_}")
            assert again.body["results"] == first.body["results"]
            another = await place.at(other, alice).sql(
                "INSERT INTO app.log VALUES (2, 'other')", request_id=f"id{round_}"
            )
            assert (another.status, another.code) == (422, "REQUEST_ID_REUSED")
    # At all at once.
    for round_ in range(10):
        answers = await asyncio.gather(
            *(
                place.at(server, alice).ok(insert, request_id=f"at once {round_}")
                for server in edges(place)
            )
        )
        assert len({str(answer.body["results"]) for answer in answers}) == 1
    count = await place.at(edges(place)[-1], alice).ok("SELECT count(*) FROM app.log")
    assert count.rows == [[str(len(edges(place)) + 10)]]


# ---- other tenants, SHARED tables ---------------------------------------------------------------


async def test_execute_as_goes_to_the_group_of_whom_it_acts_for(place: Town) -> None:
    await place.root.ok("CREATE USER TABLE app.as_whom (id INT PRIMARY KEY, v TEXT)")
    for number, server in enumerate(edges(place)):
        for name in place.tenants.values():
            done = await place.at(server).ok(
                f"EXECUTE AS '{name}' (INSERT INTO app.as_whom VALUES ({number}, '{name}'))"
            )
            assert done.body["results"][0]["as_user"] == name
    for name, server in zip(place.tenants.values(), itertools.cycle(edges(place)), strict=False):
        own = await place.at(server, name).ok("SELECT v, count(*) FROM app.as_whom GROUP BY v")
        assert own.rows == [[name, "5"]]
        of_other = await place.at(server).ok(
            f"EXECUTE AS '{name}' (SELECT v, count(*) FROM app.as_whom GROUP BY v)"
        )
        assert of_other.rows == [[name, "5"]]
        assert (await place.at(server).ok("SELECT count(*) FROM app.as_whom")).rows == [["0"]]


async def test_all_users_reads_every_group(place: Town) -> None:
    await place.root.ok("CREATE USER TABLE app.everybody (id INT PRIMARY KEY, v TEXT)")
    for name, server in zip(place.tenants.values(), itertools.cycle(edges(place)), strict=False):
        await place.at(server, name).ok("INSERT INTO app.everybody VALUES (1, 'a'), (2, 'b')")
    for server in edges(place):
        sql = "SELECT _user_id, count(*) FROM all_users.app.everybody GROUP BY 1 ORDER BY 1"
        told = (await place.at(server).ok(sql)).rows
        assert told == [[name, "2"] for name in sorted(place.tenants.values())]
        refused = await place.at(server, place.tenants[1]).sql(sql)
        assert refused.status == 403


async def test_joins_of_own_rows_with_shared_tables_of_other_groups(place: Town) -> None:
    await place.root.ok(
        "".join(
            f"CREATE SHARED TABLE app.price{n} (id INT PRIMARY KEY, v INT)"
            f" WITH (ACCESS_LEVEL = 'public'); INSERT INTO app.price{n} VALUES (1, {n}), (2, 9);"
            for n in range(3)
        )
        + "CREATE USER TABLE app.basket (id INT PRIMARY KEY, price INT);"
        + "CREATE USER TABLE app.bought (id INT PRIMARY KEY, v INT)"
    )
    joined = (
        "SELECT sum(a.v + b.v + c.v) FROM app.basket k JOIN app.price0 a ON a.id = k.price"
        " JOIN app.price1 b ON b.id = k.price JOIN app.price2 c ON c.id = k.price"
    )
    for number, (group, name) in enumerate(place.tenants.items()):
        server = edges(place)[number % len(edges(place))]
        client = place.at(server, name)
        await client.ok(f"INSERT INTO app.basket VALUES (1, 1), (2, 2), (3, {1 + group % 2})")
        third = 27 if group % 2 else 3
        for other in edges(place):
            assert (await place.at(other, name).ok(joined)).rows == [[str(3 + 27 + third)]]
        # Rows of a SHARED table of whatever group go into the caller's own.
        copied = await client.ok("INSERT INTO app.bought SELECT id, v FROM app.price2 WHERE v < 5")
        assert copied.body["results"][0]["row_count"] == 1
        assert (await client.ok("SELECT id, v FROM app.bought")).rows == [[1, 2]]


# ---- leaders that move --------------------------------------------------------------------------


async def test_definitions_go_on_while_leaders_move(place: Town) -> None:
    """What a hand-over refuses in the middle of a definition goes on at the next leader. Two may
    go on with it then, and one of them cannot say what came of it: a repeat with its id can.
    """
    alice, done = place.tenants[4], asyncio.Event()

    async def define(number: int, server: Server) -> None:
        root, table = place.at(server), f"app.moving{number}"
        turn = itertools.cycle(after(place, server))

        async def insist(sql: str) -> None:
            name = f"{number}.{round_}.{sql[:10]}"
            async with asyncio.timeout(SETTLED_S):
                while (answer := await root.sql(sql, request_id=name)).status in (503, 504):
                    pass
            assert answer.status == 200, (sql, answer.body)

        for round_ in range(DEFINITIONS):
            await insist(f"CREATE USER TABLE {table} (id INT PRIMARY KEY, v INT)")
            await place.at(next(turn), alice).ok(f"INSERT INTO {table} VALUES (1, {round_})")
            await insist(f"ALTER TABLE {table} ADD COLUMN more INT DEFAULT 7")
            await insist(f"CREATE INDEX by_v_of{number} ON {table} (v)")
            shown = await place.at(next(turn), alice).ok(f"SELECT v, more FROM {table}")
            assert shown.rows == [[round_, 7]]
            await insist(f"DROP TABLE {table}")

    async def move() -> int:
        moved = 0
        nodes = itertools.cycle(place.cluster.nodes)
        while not done.is_set():
            told = await place.root.ok(f"CLUSTER TRANSFER LEADER NODE {next(nodes)}")
            moved += sum(1 for row in told.rows if row[2])
        return moved

    async with asyncio.TaskGroup() as tasks:
        moving = tasks.create_task(move())
        async with asyncio.TaskGroup() as defining:
            for number, server in enumerate(edges(place)):
                defining.create_task(define(number, server))
        done.set()
    assert moving.result() > DEFINITIONS
    await place.root.ok("CLUSTER REBALANCE LEADERS")
