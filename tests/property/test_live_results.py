"""Any SELECT live: snapshot and units give what a fresh SELECT gives, whatever happens between.

A script of numbered moves is drawn: writes of several kinds, clients that go and resume, sockets
without room, rows that are let go. After each pause every client has exactly the rows, and in
ordered queries the order, of a SELECT of then.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kalamdb.edge.ws.protocol import Options
from kalamdb.feed.evaluations import EvaluationLimits
from kalamdb.model.principal import Role
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.property.live_world import QUICK, LiveWorld, live_world
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

DDL = (
    "CREATE NAMESPACE app",
    "CREATE USER TABLE app.m (id INT PRIMARY KEY, room TEXT, n INT)",
    "CREATE USER TABLE app.x (a INT, b TEXT)",
    "CREATE STREAM TABLE app.t (id INT PRIMARY KEY, n INT) WITH (TTL_SECONDS = 1000)",
    "CREATE SHARED TABLE app.s (id INT PRIMARY KEY, v TEXT) WITH (ACCESS_LEVEL = 'public')",
)
QUERIES = (
    "SELECT room, count(*) AS c, sum(n) AS total FROM app.m GROUP BY room",
    "SELECT room, count(*) AS c FROM app.m GROUP BY room HAVING count(*) > 1 ORDER BY c DESC, room",
    "SELECT id, n FROM app.m ORDER BY n DESC NULLS LAST, id LIMIT 3",
    "SELECT room FROM app.m WHERE id > 2 ORDER BY n NULLS FIRST, id DESC",
    "SELECT * FROM app.m ORDER BY id OFFSET 2",
    "SELECT DISTINCT room FROM app.m",
    "SELECT room, n FROM app.m UNION ALL SELECT v, id FROM app.s",
    "SELECT m.id, m.n, s.v FROM app.m m LEFT JOIN app.s s ON m.n = s.id",
    "SELECT m.id AS a, k.id AS b FROM app.m m JOIN app.m k ON m.room = k.room AND m.id < k.id",
    "WITH big AS (SELECT id, n FROM app.m WHERE n >= 2) SELECT count(*) AS c, max(n) FROM big",
    "SELECT id, (SELECT count(*) FROM app.s) AS o FROM app.m WHERE id IN (SELECT id FROM app.s)",
    "SELECT id, n * 2 + 1 AS odd, upper(room) AS loud FROM app.m WHERE n IS NOT NULL",
    "SELECT n, b FROM app.x JOIN app.t ON a = n ORDER BY n, b",
    "SELECT a, b FROM app.x ORDER BY a LIMIT 4",
    "SELECT id, n, row_number() OVER (PARTITION BY room ORDER BY id) AS nth FROM app.m",
)
EVERYBODY = "SELECT _user_id, room, count(*) AS c FROM all_users.app.m GROUP BY _user_id, room"
TINY = EvaluationLimits(per_s=1e6, kept_max_bytes=300, inline_max_bytes=100)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    found = EnginePool(PoolSettings(workers_max=1))
    yield found
    await found.close()


class Story:
    """Two tenants write; alice and an administrator look."""

    def __init__(self, world: LiveWorld, dice: random.Random) -> None:
        self.world = world
        self.dice = dice
        self.asked = {f"q{at}": sql for at, sql in enumerate(dice.sample(QUERIES, 5))}
        self.alice = world.socket("alice")
        self.root = world.socket("root", Role.SYSTEM)

    async def begin(self) -> None:
        rows = ", ".join(f"({number}, 'a', {number % 4})" for number in range(30, 36))
        await self.world.node.ok("alice", f"INSERT INTO app.m VALUES {rows}")
        for name, sql in self.asked.items():
            batch = self.dice.choice([2, 1000])
            await self.alice.subscribe(name, sql, Options(batch_size=batch))
        await self.root.subscribe("all", EVERYBODY)

    async def write(self) -> None:
        dice, node = self.dice, self.world.node
        who = dice.choice(["alice", "alice", "alice", "bob"])
        number, n = dice.randrange(8), dice.choice(["NULL", "0", "1", "2", "3"])
        room = dice.choice(["'a'", "'b'", "NULL"])
        sql = dice.choice(
            [
                f"INSERT INTO app.m VALUES ({number}, {room}, {n})"
                f" ON CONFLICT (id) DO UPDATE SET room = {room}, n = {n}",
                f"INSERT INTO app.m VALUES ({number + 10}, {room}, {n}), ({number + 20}, 'c', {n})"
                " ON CONFLICT DO NOTHING",
                f"UPDATE app.m SET n = {n} WHERE id < {number}",
                f"UPDATE app.m SET room = {room} WHERE id = {number}",
                f"DELETE FROM app.m WHERE id = {number}",
                f"DELETE FROM app.m WHERE n = {n}",
                f"INSERT INTO app.x VALUES ({number % 4}, {room})",
                f"DELETE FROM app.x WHERE a = {number % 4}",
                f"INSERT INTO app.t VALUES ({number}, {n}) ON CONFLICT DO NOTHING",
                f"DELETE FROM app.t WHERE id = {number}",
            ]
        )
        if dice.random() < 0.2:
            value = dice.choice(["'a'", "'b'"])
            await node.ok(
                "root",
                f"INSERT INTO app.s VALUES ({number % 4}, {value})"
                f" ON CONFLICT (id) DO UPDATE SET v = {value}",
                role=Role.SYSTEM,
            )
        await node.ok(who, sql)

    async def leave_and_resume(self) -> None:
        """Another socket goes on from the cursors, after writes nobody was told of."""
        old = self.alice
        old.close()
        self.world.sockets.remove(old)
        for _ in range(self.dice.randrange(4)):
            await self.write()
        self.alice = self.world.socket("alice")
        self.alice.clients = old.clients
        for name, sql in self.asked.items():
            if old.clients[name].ready:
                await self.alice.resume(name, sql)
            else:
                await self.alice.subscribe(name, sql)

    async def lose_room(self) -> None:
        """What is live cannot be pushed for a while: it comes as one difference."""
        outbox = self.alice._outbox
        outbox._limit, kept = 0, outbox._limit
        outbox._room = 0
        evaluations = self.world.evaluations
        for _ in range(self.dice.randrange(1, 4)):
            await self.write()
            await wait_until(lambda: evaluations.is_quiet, what="evaluations are done")
        outbox._limit = kept

    async def check(self) -> None:
        await self.world.settle()
        for name, sql in self.asked.items():
            client = self.alice.clients[name]
            assert client.error is None, client.error
            client.check(await self.world.rows("alice", sql))
        found = await self.world.rows("root", EVERYBODY, Role.SYSTEM)
        self.root.clients["all"].check(found)


@pytest.mark.parametrize("limits", [QUICK, TINY], ids=["roomy", "tiny"])
@pytest.mark.parametrize("seed", range(6))
async def test_clients_have_what_a_select_gives(
    pool: EnginePool, seed: int, limits: EvaluationLimits
) -> None:
    dice = random.Random(seed)
    async with live_world(pool, limits, *DDL) as world:
        story = Story(world, dice)
        for _ in range(4):
            await story.write()
        await story.begin()
        for _ in range(14):
            for _ in range(dice.choice([1, 1, 2, 4])):
                await story.write()
            move = dice.random()
            if move < 0.15:
                await story.leave_and_resume()
            elif move < 0.3:
                await story.lose_room()
            if dice.random() < 0.7:
                await story.check()
        await story.check()
        kinds: Counter[str] = Counter()
        for client in story.alice.clients.values():
            kinds += client.kinds
        assert kinds.total(), "there was something to tell"
        assert not any(client.resets for client in story.alice.clients.values())
