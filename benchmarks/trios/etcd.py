"""etcd, three members, spoken to through its HTTP/JSON gateway.

Keys and values are base 64 on this wire. The row number's digits stand in them as they are: digits
are letters of base 64, so different rows are different keys, and the load generator need encode
nothing. Ranges are linearizable unless asked otherwise. Every setting that matters is etcd's own
default: election timeout 1 s, heartbeat 0.1 s, fsync before each acknowledgement.
"""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.load import ID_MARK, Lane
from benchmarks.stacks.calls import call, request_template
from benchmarks.stacks.stack import StackError
from benchmarks.trios.trio import ANYWHERE, LEADER, MEMBERS, Database, Probe, Programs, Wire
from tests.e2e.cluster import steady_port

_KEY = f"rows/+{ID_MARK}"
_VALUE = f"message+{ID_MARK}+" + "the/quick/brown/fox/jumps/over/the/lazy/dog/and/so/on/" * 2
_VALUE64 = _VALUE[: len(_VALUE) // 4 * 4]
"""About 130 letters, 100 bytes."""


class EtcdTrio(Database):
    """Three etcd members and one Raft group."""

    name = "etcd"
    title = "etcd x3"
    durability = "fdatasync on a majority"
    insert_ways = (LEADER, ANYWHERE)
    read_ways = (LEADER, ANYWHERE)

    def __init__(self, directory: Path, groups: int) -> None:
        super().__init__(directory, 1)  # whatever is asked for: etcd has one
        self.program = find_program()
        self.programs = Programs()
        self.ports = {member: steady_port() for member in MEMBERS}
        self.peer_ports = {member: steady_port() for member in MEMBERS}

    def launch(self, member: int) -> None:
        client = f"http://127.0.0.1:{self.ports[member]}"
        peer = f"http://127.0.0.1:{self.peer_ports[member]}"
        cluster = ",".join(
            f"m{other}=http://127.0.0.1:{port}" for other, port in self.peer_ports.items()
        )
        command = [self.program, "--name", f"m{member}"]
        command += ["--data-dir", str(self.directory / f"m{member}")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", cluster, "--quota-backend-bytes", str(8 << 30)]
        command += ["--logger", "zap", "--log-level", "error"]
        self.programs.launch(member, command, self.directory / f"m{member}.log")

    def setup(self) -> None:
        """etcd has no tables."""

    def whole(self) -> bool:
        if self.programs.died():
            raise StackError(f"etcd ended\n{self.log_tail()}")
        return all(self._answers(member) for member in MEMBERS)

    def inserts(self, way: str) -> Wire:
        body = f'{{"key":"{_KEY}","value":"{_VALUE64}"}}'
        return self._wire(way, "/v3/kv/put", body, ('"revision":"',))

    def reads(self, way: str) -> Wire:
        body = f'{{"key":"{_KEY}"}}'
        return self._wire(way, "/v3/kv/range", body, (f'"{_KEY}"', f'"{_VALUE64}"', '"count":"1"'))

    def kill(self, member: int) -> None:
        self.programs.kill(member)

    def stop(self) -> None:
        self.programs.stop()

    def parts(self) -> Mapping[str, list[int]]:
        return self.programs.parts()

    def leader(self) -> int:
        for member in MEMBERS:
            status = self._status(member)
            if status is not None and status["header"]["member_id"] == status.get("leader"):
                return member
        return 0

    def probe(self, dead: int) -> Probe:
        alive = next(member for member in MEMBERS if member != dead)
        body = f'{{"key":"{_KEY}","value":"{_VALUE64}"}}'
        return Probe(self.ports[alive], request_template("POST", "/v3/kv/put", body))

    def level(self) -> Callable[[int], bool]:
        goal = max(self._applied(member) for member in MEMBERS)
        return lambda member: self._applied(member) >= goal

    def serves_without(self, member: int) -> bool:
        return self.leader() not in (0, member)

    def _applied(self, member: int) -> int:
        status = self._status(member)
        return 0 if status is None else int(status["raftAppliedIndex"])

    def _answers(self, member: int) -> bool:
        status = self._status(member)
        return status is not None and int(status.get("leader", 0)) != 0

    def _status(self, member: int) -> Any:
        try:
            answer = call(self.ports[member], "/v3/maintenance/status", {}, expect=None)
        except (OSError, http.client.HTTPException):
            return None
        return answer.body if answer.status == 200 else None

    def _wire(self, way: str, path: str, body: str, expect: tuple[str, ...]) -> Wire:
        members = (self.leader(),) if way == LEADER else MEMBERS
        template = request_template("POST", path, body)
        lanes = tuple(
            Lane(self.ports[member], (template,), (index,)) for index, member in enumerate(members)
        )
        return Wire(lanes, expect, len(members))


def find_program() -> str:
    """The server program. Raises StackError when it is absent."""
    found = shutil.which("etcd")
    if found is None:
        raise StackError("no etcd found: apt-get install etcd-server")
    return found
