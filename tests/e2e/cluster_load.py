"""A cluster with people in it, and load with a ledger: what was tried, and what was answered.

1. `Town` is a running cluster with root and one tenant for each data group; their tokens are good
   at every node and router, so `at(server, name)` speaks as anybody to anyone.
2. `Load` writes as these tenants while a test breaks things. Loggers append to a table without a
   primary key, where a row that was applied twice shows; with request ids they retry elsewhere
   until they are answered, without they go on. Each tenant also has a register that one writer
   counts up and others read: an answer below what was acknowledged when it was asked for is stale.
3. `check` compares the ledger with what the leaders have, and the digests of all nodes.

Keeps: an answer is 200, 503 with Retry-After (surely not done) or 504 (unknown), or there is none
(unknown); anything else is a fault. Nothing here takes a 503 for done or a lost answer for refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.cluster import Cluster, running_cluster, runs
from tests.e2e.contract import CHEAP_HASHES
from tests.e2e.server import ROOT_PASSWORD, Client, Server
from tests.waiting import POLL_S, wait_until

TABLES = (
    "CREATE NAMESPACE IF NOT EXISTS app;"
    "CREATE USER TABLE app.log (n INT, body TEXT);"
    "CREATE USER TABLE app.register (id INT PRIMARY KEY, v INT);"
    "CREATE SHARED TABLE app.ledger (n INT, who TEXT) WITH (ACCESS_LEVEL = 'public')"
)
ANSWER_S = 20.0
"""Longer than any node or router takes to say that it cannot."""
SETTLED_S = 60.0


@dataclass(slots=True)
class Ledger:
    """Of one tenant: numbers it appended, by what was heard of them; its register."""

    group: int
    tenant: str
    acked: set[int] = field(default_factory=set[int])
    unknown: set[int] = field(default_factory=set[int])
    refused: set[int] = field(default_factory=set[int])
    shared: set[int] = field(default_factory=set[int])  # acknowledged ones of the shared table
    next_number: int = 0
    register_acked: int = 0
    register_tried: int = 0
    register_reads: int = 0

    def draw(self) -> int:
        self.next_number += 1
        return self.next_number


class Town:
    """`tenants` are names by data group; root and they have signed in once, at the first router."""

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http
        self.tenants = {
            group: next(cluster.tenants_of(group)) for group in range(1, cluster.groups + 1)
        }
        self.ledgers = {group: Ledger(group, name) for group, name in self.tenants.items()}
        self._tokens: dict[str, str] = {}

    def at(self, server: Server, name: str = "root") -> Client:
        return Client(self.http, server.url, self._tokens[name])

    def token(self, name: str) -> str:
        return self._tokens[name]

    @property
    def root(self) -> Client:
        return self.at(self.cluster.front)

    async def sign_in(self, name: str, server: Server | None = None) -> Client:
        client = await (server or self.cluster.front).login(self.http, name, ROOT_PASSWORD)
        self._tokens[name] = client.token
        return client

    async def new_user(self, name: str, role: str = "user") -> Client:
        await self.root.ok(f"CREATE USER '{name}' WITH PASSWORD '{ROOT_PASSWORD}' ROLE {role}")
        return await self.sign_in(name)

    async def settle(self) -> None:
        """Register and table of each tenant."""
        await self.sign_in("root")
        await self.root.ok(TABLES)
        for name in self.tenants.values():
            await self.new_user(name, "service")  # who may write SHARED tables
            await self.at(self.cluster.front, name).ok("INSERT INTO app.register VALUES (1, 0)")


@contextlib.asynccontextmanager
async def town(
    home: Path,
    *,
    nodes: int = 3,
    routers: int = 1,
    groups: int = 8,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Town]:
    """A settled cluster."""
    connector = aiohttp.TCPConnector(limit=0)
    variables = {**CHEAP_HASHES, **(env or {})}
    async with (
        running_cluster(home, nodes=nodes, routers=routers, groups=groups, env=variables) as made,
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        found = Town(made, http)
        await found.settle()
        yield found


class Came(Enum):
    """What came of a request."""

    DONE = auto()
    REFUSED = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class Heard:
    """Answers of all kinds; `faults` are those that must not be."""

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])

    def of(self, *kinds: str) -> int:
        return sum(self.counts[kind] for kind in kinds)


class Asker:
    """Sends requests for a tenant and sorts the answers."""

    def __init__(self, town: Town, tenant: str, heard: Heard) -> None:
        self._town = town
        self._tenant = tenant
        self._heard = heard

    async def ask(self, server: Server, sql: str, **fields: Any) -> tuple[Came, Any]:
        client = self._town.at(server, self._tenant)
        headers = {"Authorization": f"Bearer {client.token}"}
        counts = self._heard.counts
        try:
            async with asyncio.timeout(ANSWER_S):
                async with client.http.post(
                    f"{client.url}/v1/api/sql", json={"sql": sql, **fields}, headers=headers
                ) as response:
                    body = json.loads(await response.read())
                    status, again = response.status, response.headers.get("Retry-After")
        except TimeoutError:
            counts["no answer in time"] += 1
            return Came.UNKNOWN, None
        except (aiohttp.ClientError, ConnectionError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError)
            counts["not connected" if refused else "cut"] += 1
            return Came.REFUSED if refused else Came.UNKNOWN, None
        counts[str(status)] += 1
        match status:
            case 200:
                return Came.DONE, body
            case 503 if again is not None:
                return Came.REFUSED, body
            case 504:
                return Came.UNKNOWN, body
            case _:
                self._heard.faults.append(f"{self._tenant} at {server.url}: {sql}: {status} {body}")
                return Came.UNKNOWN, body


class Load:
    """Writers and readers of all tenants, over `edges`, until the block is left."""

    def __init__(self, town: Town, edges: Iterable[Server], groups: Iterable[int] = ()) -> None:
        self.town = town
        self.heard = Heard()
        self._edges = list(edges)
        self._stop = asyncio.Event()
        self._until_s = float("inf")
        chosen = list(groups) or list(town.tenants)
        self.ledgers = {group: town.ledgers[group] for group in chosen}

    @property
    def acked(self) -> int:
        return sum(len(ledger.acked) for ledger in self.ledgers.values())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.TaskGroup() as tasks:
            for place, ledger in enumerate(self.ledgers.values()):
                asker = Asker(self.town, ledger.tenant, self.heard)
                edges = self._from(place)
                tasks.create_task(self._append_once(ledger, asker, edges))
                tasks.create_task(self._append(ledger, asker, self._from(place + 1)))
                tasks.create_task(self._count_up(ledger, asker, self._from(place + 2)))
                tasks.create_task(self._read(ledger, asker, self._from(place + 3)))
            yield self
            self._stop.set()
            self._until_s = time.monotonic() + SETTLED_S

    async def wait_acked(self, more: int, *, group: int | None = None) -> None:
        """Until so many more were acknowledged to everybody: of one tenant, or of each."""
        chosen = self.ledgers.values() if group is None else [self.ledgers[group]]
        goals = [(ledger, len(ledger.acked) + more) for ledger in chosen]

        def reached() -> bool:
            assert not self.heard.faults, self.heard.faults[:5]
            return all(len(ledger.acked) >= goal for ledger, goal in goals)

        await wait_until(reached, what=f"{more} more acknowledged", timeout_s=SETTLED_S)

    def _from(self, place: int) -> itertools.cycle[Server]:
        turn = place % len(self._edges)
        return itertools.cycle([*self._edges[turn:], *self._edges[:turn]])

    async def _pause(self) -> None:
        """After a refusal, or the others get nothing done."""
        assert time.monotonic() < self._until_s, "what was begun cannot be ended"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._stop.wait()

    async def _append_once(
        self, ledger: Ledger, asker: Asker, edges: itertools.cycle[Server]
    ) -> None:
        """With a request id, at one edge after the other until it is done."""
        while not self._stop.is_set():
            number = ledger.draw()
            shared = number % 5 == 0
            table, body = ("ledger", ledger.tenant) if shared else ("log", f"row {number}")
            ledger.unknown.add(number)
            while True:
                came, _ = await asker.ask(
                    next(edges),
                    f"INSERT INTO app.{table} VALUES ($1, $2)",
                    params=[number, body],
                    request_id=f"{ledger.tenant}-{number}",
                )
                if came is Came.DONE:
                    ledger.unknown.discard(number)
                    (ledger.shared if shared else ledger.acked).add(number)
                    break
                await self._pause()

    async def _append(self, ledger: Ledger, asker: Asker, edges: itertools.cycle[Server]) -> None:
        """Without a request id: asked once, and the answer has to be honest."""
        while not self._stop.is_set():
            number = ledger.draw()
            sql = f"INSERT INTO app.log VALUES ({number}, 'row {number}')"
            came, _ = await asker.ask(next(edges), sql)
            match came:
                case Came.DONE:
                    ledger.acked.add(number)
                case Came.UNKNOWN:
                    ledger.unknown.add(number)
                case Came.REFUSED:
                    ledger.refused.add(number)
            if came is not Came.DONE:
                await self._pause()

    async def _count_up(self, ledger: Ledger, asker: Asker, edges: itertools.cycle[Server]) -> None:
        sql = "UPDATE app.register SET v = $1 WHERE id = 1"
        while not self._stop.is_set():
            ledger.register_tried += 1
            value = ledger.register_tried
            came = Came.UNKNOWN
            # A value whose fate is unknown must be settled before the next: it may land late.
            while came is not Came.DONE:
                came, _ = await asker.ask(
                    next(edges), sql, params=[value], request_id=f"{ledger.tenant}-v{value}"
                )
                if came is not Came.DONE:
                    await self._pause()
            ledger.register_acked = value

    async def _read(self, ledger: Ledger, asker: Asker, edges: itertools.cycle[Server]) -> None:
        while not self._stop.is_set():
            await read_register(ledger, asker, next(edges), self.heard)
            await self._pause()


async def read_register(ledger: Ledger, asker: Asker, server: Server, heard: Heard) -> None:
    """A linearizable read; it is a fault if it shows less than was acknowledged before."""
    least = ledger.register_acked
    came, body = await asker.ask(server, "SELECT v FROM app.register WHERE id = 1")
    if came is Came.DONE:
        (row,) = body["results"][0]["rows"]
        ledger.register_reads += 1
        if not least <= row[0] <= ledger.register_tried:
            told = f"{row[0]} is not between {least} and {ledger.register_tried}"
            heard.faults.append(f"stale read of {ledger.tenant} at {server.url}: {told}")


async def check(load: Load) -> None:
    """Everything acknowledged is there once; nothing refused is there; all nodes have the same.

    Every node and router has to be up.
    """
    assert not load.heard.faults, load.heard.faults[:5]
    town, cluster = load.town, load.town.cluster
    assert all(runs(server) for server in cluster.servers)
    await cluster.wait_healthy(SETTLED_S)
    front = cluster.front
    shared = Counter((row[0], row[1]) for row in await rows(town.root, "SELECT * FROM app.ledger"))
    for ledger in load.ledgers.values():
        found = await rows(town.at(front, ledger.tenant), "SELECT n, body FROM app.log")
        there = Counter(row[0] for row in found)
        assert all(row[1] == f"row {row[0]}" for row in found)
        of_shared = Counter(n for n, who in shared.elements() if who == ledger.tenant)
        twice = [n for n, count in (there + of_shared).items() if count > 1]
        assert not twice, f"{ledger.tenant}: applied twice: {sorted(twice)[:10]}"
        lost = sorted(ledger.acked - there.keys()) + sorted(ledger.shared - of_shared.keys())
        assert not lost, f"{ledger.tenant}: acknowledged and lost: {lost[:10]}"
        refused = sorted(ledger.refused & there.keys())
        assert not refused, f"{ledger.tenant}: refused and done: {refused[:10]}"
        known = ledger.acked | ledger.unknown | ledger.shared
        strange = sorted((there.keys() | of_shared.keys()) - known)
        assert not strange, f"{ledger.tenant}: nobody wrote {strange[:10]}"
        await read_register(ledger, Asker(town, ledger.tenant, load.heard), front, load.heard)
        assert ledger.register_reads, "registers were never read"
    assert not load.heard.faults, load.heard.faults[:5]
    await cluster.wait_alike(SETTLED_S)


async def rows(client: Client, sql: str) -> list[list[Any]]:
    """Of a read, which is repeated as long as it is refused."""
    until_s = time.monotonic() + SETTLED_S
    while True:
        answer = await client.sql(sql)
        if answer.status != 503 or time.monotonic() > until_s:
            return answer.rows
