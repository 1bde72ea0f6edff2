"""KalamDB, three nodes and a router, started as the tests start them.

The table is a USER table; 64 tenants with role `user` write and read their own rows, so that every
group and thereby every node leads a part. The ways to load it: all requests through the router; to
any of the three nodes, which then forwards two of three; each to the leader of its tenant's group,
as a client that knows would do; and through the router only tenants that node 1 leads, which tells
what a leader, a follower and a router cost.
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.load import ID_MARK, Lane
from benchmarks.stacks.calls import Answer, answers, call, request_template
from benchmarks.stacks.stack import PASSWORD, StackError
from benchmarks.trios.trio import (
    ANYWHERE,
    LEADER,
    MEMBERS,
    ONE_LEADER,
    ROUTER,
    VALUE,
    Database,
    Probe,
    Wire,
)
from tests.e2e.cluster import ROUTER_PROGRAM, Cluster, runs
from tests.e2e.server import PROGRAM, ROOT_PASSWORD, Server

TENANTS = 64
MEASURED_LEADER = 1

_INSERT = "INSERT INTO bench.rows (id, body) VALUES ($1, $2)"
_READ = "SELECT id, body FROM bench.rows WHERE id = $1"
_SETUP = (
    "CREATE NAMESPACE bench",
    "CREATE USER TABLE bench.rows (id BIGINT PRIMARY KEY, body TEXT)",
)
_SQL = "/v1/api/sql"
# Logging in is not measured, and 64 users do it.
_ENVIRONMENT = {"KALAMDB_AUTH_HASH_MEMORY_KIB": "8", "KALAMDB_AUTH_HASH_PASSES": "1"}


class KalamTrio(Database):
    """Three KalamDB nodes and a router."""

    name = "kalamdb"
    title = "KalamDB x3"
    durability = "fdatasync on a majority (grouped by the log)"
    insert_ways = (ROUTER, ANYWHERE, LEADER, ONE_LEADER)
    read_ways = (ROUTER, ANYWHERE, LEADER)

    def __init__(self, directory: Path, groups: int) -> None:
        super().__init__(directory, groups)
        for program in (PROGRAM, ROUTER_PROGRAM):
            if not program.exists():
                raise StackError(f"no {program}: run `make install`")
        self.cluster = Cluster(directory, groups=groups, env=_ENVIRONMENT)
        self.tenants = [f"tenant{number}" for number in range(TENANTS)]
        self._tokens: dict[str, str] = {}
        self._probed = self.tenants[0]

    def start(self) -> None:
        try:
            asyncio.run(self.cluster.start())
        except AssertionError as error:
            raise StackError(f"{self.name} did not start: {error}\n{self.log_tail()}") from error
        self.wait_whole()
        self.setup()

    def launch(self, member: int) -> None:
        self.cluster.nodes[member].spawn()

    def setup(self) -> None:
        root = self._root()
        users = [
            f"CREATE USER '{name}' WITH PASSWORD '{PASSWORD}' ROLE user" for name in self.tenants
        ]
        for statement in (*_SETUP, *users):
            call(self._front.port, _SQL, {"sql": statement}, token=root)
        self._tokens = {name: self._login(name, PASSWORD) for name in self.tenants}
        self.wait_whole()

    def whole(self) -> bool:
        servers = self.cluster.servers
        for server in servers:
            if not runs(server):
                raise StackError(f"{server.log.name} ended\n{self.log_tail()}")
        return (
            all(answers(server.port, "/health") for server in servers)
            and len(self.cluster.leaders()) == self.groups + 1
        )

    def inserts(self, way: str) -> Wire:
        body = f'{{"sql":"{_INSERT}","params":[{ID_MARK},"{VALUE}"]}}'
        return self._wire(way, body, ('"row_count":1',))

    def reads(self, way: str) -> Wire:
        body = f'{{"sql":"{_READ}","params":[{ID_MARK}]}}'
        return self._wire(way, body, (f'"{ID_MARK}"', f'"{VALUE}"'))

    def parts(self) -> Mapping[str, list[int]]:
        found = {
            str(member): [node.process.pid]
            for member, node in self.cluster.nodes.items()
            if node.process is not None
        }
        router = self._front.process
        return {**found, "router": [router.pid]} if router is not None else found

    def leader(self) -> int:
        return self.cluster.leader_of(self.cluster.group_of(self._probed)) or 0

    @property
    def measured_leader(self) -> int:
        return MEASURED_LEADER

    def probe(self, dead: int) -> Probe:
        body = f'{{"sql":"{_INSERT}","params":[{ID_MARK},"{VALUE}"]}}'
        return Probe(self._front.port, self._request(self._probed, body))

    def level(self) -> Callable[[int], bool]:
        return self.cluster.level_with()

    def serves_without(self, member: int) -> bool:
        led = self.cluster.leaders()
        return len(led) == self.groups + 1 and member not in led.values()

    def kill(self, member: int) -> None:
        self.cluster.nodes[member].kill()

    def stop(self) -> None:
        self.cluster.close()

    @property
    def _front(self) -> Server:
        return self.cluster.front

    def _wire(self, way: str, body: str, expect: tuple[str, ...]) -> Wire:
        lanes = [
            Lane(
                port,
                tuple(self._request(self.tenants[index], body) for index in members),
                tuple(members),
            )
            for port, members in self._ways(way)
            if members
        ]
        if not lanes:
            raise StackError(f"node {MEASURED_LEADER} leads no group of any tenant")
        return Wire(tuple(lanes), expect, TENANTS)

    def _ways(self, way: str) -> list[tuple[int, Sequence[int]]]:
        """Port → numbers of the tenants whose requests go there."""
        everybody = range(TENANTS)
        nodes = self.cluster.nodes
        match way:
            case "any":
                return [(nodes[member].port, everybody[member - 1 :: 3]) for member in MEMBERS]
            case "leader":
                return [(nodes[member].port, self._led_by(member)) for member in MEMBERS]
            case "one leader":
                return [(self._front.port, self._led_by(MEASURED_LEADER))]
            case _:
                return [(self._front.port, everybody)]

    def _led_by(self, member: int) -> list[int]:
        leaders = self.cluster.leaders()
        return [
            index
            for index, name in enumerate(self.tenants)
            if leaders.get(self.cluster.group_of(name)) == member
        ]

    def _request(self, tenant: str, body: str) -> str:
        headers = {"Authorization": f"Bearer {self._tokens[tenant]}"}
        return request_template("POST", _SQL, body, headers=headers)

    def _root(self) -> str:
        """The token of root, who is made by the first leader of the meta group."""
        body = {"user": "root", "password": ROOT_PASSWORD}

        def login() -> Answer:
            return call(self._front.port, "/v1/api/auth/login", body, expect=None)

        self.wait_for(lambda: login().status == 200, "known to root")
        return login().text_of("access_token")

    def _login(self, user: str, password: str) -> str:
        body = {"user": user, "password": password}
        try:
            answer = call(self._front.port, "/v1/api/auth/login", body)
        except (OSError, http.client.HTTPException) as error:
            raise StackError(f"{self.name}: no sign-in: {error}") from error
        return answer.text_of("access_token")
