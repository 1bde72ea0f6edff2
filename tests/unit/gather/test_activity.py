"""What goes on on all nodes, and KILL from any of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from cluster.gather import activity
from kalamdb.model.principal import Principal, Role
from kalamdb.session.activity import Item, silent_row
from kalamdb.session.run import Conversation
from kalamdb.sql.statement import Ongoing
from kalamdb.sql.virtual import SYSTEM, virtual_table
from tests.small_cluster import ClusterNode, SmallCluster, small_cluster

LIVE = virtual_table(SYSTEM, "live")


class Things:
    """A `Source` of the test's own: live queries."""

    def __init__(self, node: int, *owners: str) -> None:
        self.node = node
        self.owners = {f"c{node}-{number}:all": who for number, who in enumerate(owners, 1)}

    def listed(self, owner: str | None) -> Iterator[Item]:
        for name, who in self.owners.items():
            row = [name, name[:4], "all", "app", "notes", who, "SELECT 1", None, "active", 0]
            yield Item(
                name, who, lambda row=row: [*row, None, None, self.node, None], ("app", "notes")
            )

    def end(self, item_id: str) -> None:
        del self.owners[item_id]


@pytest.fixture
async def world() -> AsyncIterator[SmallCluster]:
    async with small_cluster() as cluster:
        yield cluster


def offer(world: SmallCluster) -> dict[int, Things]:
    things = {node: Things(node, "alice", "bob") for node in (1, 2, 3)}
    for node, source in things.items():
        world[node].around.offer(Ongoing.LIVE_QUERY, source)
    return things


async def shown(node: ClusterNode, user: str, sql: str, role: Role = Role.USER) -> list[Any]:
    return (await node.ok(user, sql, role=role))[0]["rows"]


async def test_every_node_shows_what_all_have(world: SmallCluster) -> None:
    offer(world)
    for node in (1, 2, 3):
        found = await shown(world[node], "root", "SHOW LIVE QUERIES", Role.DBA)
        assert sorted((row[0], row[12]) for row in found) == [
            (f"c{n}-{number}:all", str(n)) for n in (1, 2, 3) for number in (1, 2)
        ]
        own = await shown(world[node], "alice", "SHOW LIVE QUERIES")
        assert sorted(row[0] for row in own) == [f"c{n}-1:all" for n in (1, 2, 3)]
        selected = await shown(
            world[node],
            "root",
            "SELECT node_id, count(*) FROM system.live GROUP BY 1 ORDER BY 1",
            Role.DBA,
        )
        assert selected == [[str(n), "2"] for n in (1, 2, 3)]


async def test_queries_and_transactions_of_other_nodes(world: SmallCluster) -> None:
    talk = Conversation(Principal.of("alice", Role.USER))
    await world[3].talk(talk, "BEGIN")
    (row,) = await shown(world[1], "alice", "SHOW TRANSACTIONS")
    assert row[-1] == "3"
    found = await shown(world[2], "root", "SELECT query_id, node_id FROM system.queries", Role.DBA)
    assert found == [["q2-1", "2"]]  # itself
    status, _ = await world[2].sql("bob", f"KILL TRANSACTION '{row[0]}'")
    assert status == 400
    await world[2].ok("alice", f"KILL TRANSACTION '{row[0]}'")
    assert world[3].transactions.statistics().open == 0


async def test_kill_finds_the_node(world: SmallCluster) -> None:
    things = offer(world)
    await world[1].ok("bob", "KILL LIVE QUERY 'c3-2:all'")
    assert "c3-2:all" not in things[3].owners
    for who, name in (
        ("bob", "c3-2:all"),
        ("alice", "c2-2:all"),
        ("bob", "c9-1:all"),
        ("bob", "x"),
    ):
        status, body = await world[1].sql(who, f"KILL LIVE QUERY '{name}'")
        assert (status, body["error"]["sqlstate"]) == (400, "42704"), name
    assert len(things[2].owners) == 2


async def test_a_silent_node_is_named(world: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    things = offer(world)
    monkeypatch.setattr(activity, "ANSWER_S", 0.05)
    world.net.cut(1, 2)
    world.net.hold(3, 1)
    found = await shown(world[1], "root", "SHOW LIVE QUERIES", Role.DBA)
    assert sorted((row[0], row[8], row[12]) for row in found) == [
        ("c1-1:all", "active", "1"),
        ("c1-2:all", "active", "1"),
        ("node 2", "unreachable", "2"),
        ("node 3", "unreachable", "3"),
    ]
    sql = "SELECT node_id FROM system.live WHERE status = 'unreachable' ORDER BY 1"
    assert await shown(world[1], "root", sql, Role.DBA) == [["2"], ["3"]]
    status, body = await world[1].sql("bob", "KILL LIVE QUERY 'c2-2:all'")
    assert (status, body["error"]["code"]) == (503, "CLUSTER_UNAVAILABLE")
    status, body = await world[1].sql("bob", "KILL LIVE QUERY 'c3-2:all'")
    assert (status, body["error"]["code"]) == (504, "OUTCOME_UNKNOWN")
    assert len(things[2].owners) == 2
    world.net.release(3, 1)


async def test_long_lists_come_in_pages(world: SmallCluster) -> None:
    source = Things(3, *("alice" for _ in range(3 * activity.PAGE_ROWS + 1)))
    world[3].around.offer(Ongoing.LIVE_QUERY, source)
    world[1].around.offer(Ongoing.LIVE_QUERY, Things(1))
    found = await shown(world[1], "alice", "SHOW LIVE QUERIES")
    assert len(found) == 3 * activity.PAGE_ROWS + 1


@pytest.mark.parametrize("name", ["queries", "live", "transactions", "sessions"])
def test_the_row_of_a_silent_node_fits_its_table(name: str) -> None:
    table = virtual_table(SYSTEM, name)
    row = silent_row(table, 7)
    assert len(row) == len(table.columns)
    by_name = {column.name: value for column, value in zip(table.columns, row, strict=True)}
    assert by_name["node_id"] == 7
    assert "unreachable" in (by_name.get("state"), by_name.get("status"))
    for column, value in zip(table.columns, row, strict=True):
        assert column.nullable or value is not None
