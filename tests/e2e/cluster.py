"""Several `kalamdb-server` processes as one cluster, with routers before them.

1. `Cluster(home)` picks addresses and makes no process; `start` spawns all and waits until every
   node and router says it is healthy.
2. Faults are one node's: `nodes[2].kill()`, `.stop()`, `.pause()`, `.resume()`; `restart` brings a
   node back and waits for its health. A router is a `Server` too: `routers[0].kill()`.
3. What the cluster thinks is read from `/debug/raft` of the living nodes: `leader_of`, `wait_led`,
   `wait_level`; `group_of` is the group of a tenant.

Keeps: addresses stay the same over restarts and lie below the range the system gives to outgoing
connections, so that no connection can take the port of a node that is down; `close` leaves no
process behind, a paused one included. Everything but starting and waiting is blocking, so that
programs without a loop can use it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kalamdb.model.catalog import Placement
from kalamdb.model.ids import TenantId, slot_of, tenant_partition
from tests.e2e.server import PROGRAM, Server
from tests.waiting import wait_until

SECRET = "a-cluster-secret-of-more-than-thirty-two-bytes-0123456789"
SECRET_NAME = "KALAMDB_CLUSTER_SECRET"
GROUPS = 8
ROUTER_PROGRAM = PROGRAM.with_name("kalamdb-router")

LOOK_S = 0.2

_PORTS_FROM, _PORTS_TO = 12_000, 32_000


def _steady_ports() -> Iterator[int]:
    span = _PORTS_TO - _PORTS_FROM
    for step in itertools.count():
        port = _PORTS_FROM + (os.getpid() * 97 + step) % span
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


_ports = _steady_ports()


def steady_port() -> int:
    """A port below the range of outgoing connections, free now; other test processes begin
    elsewhere in it.
    """
    return next(_ports)


class Roster(NamedTuple):
    """Of a group, as its leader has it."""

    term: int
    leader: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]


class Member(Server):
    """One data node of a cluster."""

    def __init__(self, home: Path, node: int, env: Mapping[str, str]) -> None:
        super().__init__(home / f"node-{node}", dict(env))
        self.node = node
        self.port, self.rpc_port = steady_port(), steady_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.peers = ""
        self.joins = False  # started with --join
        self.plain = False  # started as a node that knows of no others

    @property
    def rpc_address(self) -> str:
        return f"127.0.0.1:{self.rpc_port}"

    @property
    def rpc(self) -> str:
        return f"{self.node}={self.rpc_address}"

    def environment(self) -> dict[str, str]:
        found = super().environment()
        return {k: v for k, v in found.items() if k != SECRET_NAME} if self.plain else found

    def command(self) -> list[str]:
        if self.plain:
            return super().command()
        join = ["--join"] if self.joins else []
        return [*super().command(), "--node-id", str(self.node), "--peers", self.peers, *join]

    def wipe(self) -> None:
        """Its disk is lost."""
        assert not runs(self)
        shutil.rmtree(self.data)

    def raft(self) -> list[dict[str, Any]]:
        """The groups as this node sees them, [] while it does not answer."""
        body = self._debug("/debug/raft")
        return [] if body is None else body["groups"]

    def digests(self) -> dict[str, str]:
        """Group → digest of its state here, with the applied index in it."""
        body = self._debug("/debug/digest")
        return {} if body is None else body["groups"]

    def _debug(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=2) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None


class Router(Server):
    """A `kalamdb-router`: no data, the nodes' rpc addresses."""

    def __init__(self, home: Path, number: int, env: Mapping[str, str]) -> None:
        super().__init__(home / f"router-{number}", dict(env))
        self.port = steady_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.peers = ""

    def command(self) -> list[str]:
        return [
            str(ROUTER_PROGRAM),
            *("--http", f"127.0.0.1:{self.port}"),
            *("--peers", self.peers),
        ]


class Cluster:
    """`nodes` by node id and `routers`, all on this machine; data and logs lie in `home`."""

    def __init__(
        self,
        home: Path,
        *,
        nodes: int = 3,
        routers: int = 1,
        groups: int = GROUPS,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.groups = groups
        self._variables = variables = {
            SECRET_NAME: SECRET,
            "KALAMDB_CLUSTER_GROUPS": str(groups),
            **(env or {}),
        }
        self.nodes = {node: Member(home, node, variables) for node in range(1, nodes + 1)}
        self.routers = [Router(home, number, variables) for number in range(1, routers + 1)]
        self._placement = Placement("", groups, tuple(self.nodes))
        peers = ",".join(node.rpc for node in self.nodes.values())
        for server in (*self.nodes.values(), *self.routers):
            server.peers = peers

    def add(self, node: int) -> Member:
        """One more node, not started: it joins a cluster of which it knows node 1, or whoever has
        the smallest id.
        """
        assert node not in self.nodes
        known = self.nodes[min(self.nodes)]
        made = self.nodes[node] = Member(self.home, node, self._variables)
        made.peers, made.joins = known.rpc, True
        return made

    @property
    def servers(self) -> list[Server]:
        return [*self.nodes.values(), *self.routers]

    @property
    def living(self) -> list[Member]:
        """Nodes whose process runs and is not paused."""
        return [node for node in self.nodes.values() if runs(node) and not node.paused]

    @property
    def front(self) -> Server:
        """The first router; the first node of a cluster without routers."""
        return self.routers[0] if self.routers else self.nodes[1]

    # ── life ──

    def spawn(self) -> None:
        """Start all processes that do not run and return without waiting."""
        self.home.mkdir(parents=True, exist_ok=True)
        for server in self.servers:
            if not runs(server):
                server.spawn()

    async def start(self, timeout_s: float = 60) -> None:
        self.spawn()
        await self.wait_healthy(timeout_s)

    async def wait_healthy(self, timeout_s: float = 60) -> None:
        """Until every node and router that runs (and is not paused) says that it is healthy."""
        for server in self.servers:
            if runs(server) and not server.paused:
                await server.wait_healthy(timeout_s)

    async def restart(self, node: int, timeout_s: float = 60) -> None:
        """Start a node that was killed or stopped; returns when it is healthy."""
        await self.nodes[node].start(timeout_s)

    def close(self) -> None:
        """SIGKILL to whatever still runs, routers first."""
        for server in reversed(self.servers):
            if runs(server):
                server.kill()

    # ── who leads ──

    def group_of(self, tenant: str) -> int:
        """The data group of a tenant whose slot never moved."""
        return self._placement.group_of(slot_of(tenant_partition(TenantId(tenant))))

    def tenants_of(self, group: int, *, prefix: str = "tenant") -> Iterator[str]:
        """Names whose tenant lives in `group`, without end: `tenant7`, `tenant12`, …"""
        names = (f"{prefix}{number}" for number in itertools.count(1))
        return (name for name in names if self.group_of(name) == group)

    def leaders(self) -> dict[int, int]:
        """Group → node that says it leads it, in its highest term; without leaderless groups."""
        best: dict[int, tuple[int, int]] = {}
        for member in self.living:
            for log in member.raft():
                if log["role"] == "leader":
                    claim = (log["term"], member.node)
                    best[log["group"]] = max(best.get(log["group"], claim), claim)
        return {group: node for group, (_, node) in best.items()}

    def leader_of(self, group: int) -> int | None:
        return self.leaders().get(group)

    def rosters(self) -> dict[int, Roster]:
        """Group → its members as its leader in the highest term has them."""
        found: dict[int, Roster] = {}
        for member in self.living:
            for log in member.raft():
                if log["role"] == "leader":
                    voters, learners = tuple(log["voters"]), tuple(log["learners"])
                    made = Roster(log["term"], member.node, voters, learners)
                    best = found.setdefault(log["group"], made)
                    found[log["group"]] = max(best, made)
        return found

    def held(self) -> dict[int, int]:
        """Node → of how many groups it is a voter."""
        rosters = self.rosters().values()
        return {node: sum(node in each.voters for each in rosters) for node in self.nodes}

    async def wait_rosters(
        self, wanted: Callable[[dict[int, Roster]], bool], what: str, timeout_s: float = 90
    ) -> None:
        """Until every group has a leader and all rosters are as `wanted`."""

        def found() -> bool:
            rosters = self.rosters()
            return len(rosters) == self.groups + 1 and wanted(rosters)

        await wait_until(found, what=what, timeout_s=timeout_s, poll_s=LOOK_S)

    async def wait_voters(self, count: int, timeout_s: float = 90) -> None:
        """Until every group has so many voters, and no copies are on their way."""

        def settled(rosters: dict[int, Roster]) -> bool:
            return all(
                len(each.voters) == count and (group == 0 or not each.learners)
                for group, each in rosters.items()
            )

        await self.wait_rosters(settled, f"{count} voters in each group", timeout_s)

    async def wait_even(self, nodes: int, timeout_s: float = 60) -> None:
        """Until the leaders are spread evenly over so many nodes."""

        def even(rosters: dict[int, Roster]) -> bool:
            led = Counter(each.leader for each in rosters.values())
            counts = [*led.values(), *[0] * (nodes - len(led))]
            return max(counts) - min(counts) <= 1

        await self.wait_rosters(even, "leaders are spread evenly", timeout_s)

    async def wait_led(
        self, group: int, *, by_other_than: int | None = None, timeout_s: float = 20
    ) -> int:
        """The node that leads `group`, as soon as there is one (other than the named)."""
        found: list[int] = []

        def led() -> bool:
            leader = self.leader_of(group)
            if leader is not None and leader != by_other_than:
                found.append(leader)
            return bool(found)

        await wait_until(led, what=f"a leader of group {group}", timeout_s=timeout_s)
        return found[0]

    # ── who has what ──

    async def wait_level(self, node: int, timeout_s: float = 60) -> None:
        """Until the node has applied everything that was committed when this was called."""
        level = self.level_with()
        await wait_until(
            lambda: level(node), what=f"node {node} has caught up", timeout_s=timeout_s
        )

    def level_with(self) -> Callable[[int], bool]:
        """A test whether a node has applied everything that is committed now."""
        goals: dict[int, int] = {}
        for member in self.living:
            for log in member.raft():
                group = log["group"]
                goals[group] = max(goals.get(group, 0), log["commit_index"])

        def level(node: int) -> bool:
            logs = self.nodes[node].raft()
            return bool(logs) and all(log["applied_index"] >= goals[log["group"]] for log in logs)

        return level

    async def wait_alike(self, timeout_s: float = 60) -> None:
        """Until every living node has the same digest of every group it shares with others."""
        await wait_until(self.alike, what="all nodes have equal digests", timeout_s=timeout_s)

    def alike(self) -> bool:
        seen: dict[str, str] = {}
        for member in self.living:
            digests = member.digests()
            if not digests:
                return False
            for group, digest in digests.items():
                if seen.setdefault(group, digest) != digest:
                    return False
        return True


def runs(server: Server) -> bool:
    """Whether the server's process was started and has not ended."""
    return server.process is not None and server.process.poll() is None


@contextlib.asynccontextmanager
async def running_cluster(
    home: Path,
    *,
    nodes: int = 3,
    routers: int = 1,
    groups: int = GROUPS,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Cluster]:
    """A healthy cluster for the length of a test."""
    cluster = Cluster(home, nodes=nodes, routers=routers, groups=groups, env=env)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.close()
