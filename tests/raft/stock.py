# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
"""The stock library as it is: real SyncObj objects on a FIFO network and a clock set by hand.

No loss, no reordering, no duplication but what a broken connection does. The faults that
test_stock_faults.py shows on it are why cluster/raft replaces so much of it.
"""

from __future__ import annotations

import logging
import pickle
from collections import defaultdict, deque
from typing import Any

import pysyncobj.journal
import pysyncobj.syncobj as library
import pytest
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

NAMES = ("a", "b", "c")


class Net:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.queues: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        self.transports: dict[str, _Transport] = {}
        self.cut: set[tuple[str, str]] = set()
        monkeypatch.setattr(library, "monotonicTime", lambda: self.now_s)
        monkeypatch.setattr(library, "createJournal", pysyncobj.journal.createJournal)
        logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)

    def link(self, a: str, b: str, up: bool) -> None:
        for x, y in ((a, b), (b, a)):
            self.queues[(x, y)].clear()
            (self.cut.discard if up else self.cut.add)((x, y))
            transport = self.transports.get(x)
            if transport is not None:
                tell = transport._onNodeConnected if up else transport._onNodeDisconnected
                tell(Node(y))

    def deliver(self, a: str, b: str, count: int = 1_000_000) -> None:
        queue = self.queues[(a, b)]
        while queue and count and b in self.transports:
            count -= 1
            self.transports[b]._onMessageReceived(Node(a), pickle.loads(queue.popleft()))

    def deliver_all(self) -> None:
        for a, b in list(self.queues):
            self.deliver(a, b)


class _Transport(Transport):
    def __init__(self, core: Stock, me: Node, others: Any) -> None:
        super().__init__(core, me, others)
        self._net, self._me = core.net, me.id
        self._net.transports[me.id] = self

    def send(self, node: Node, message: Any) -> bool:
        if (self._me, node.id) in self._net.cut:
            return False
        self._net.queues[(self._me, node.id)].append(pickle.dumps(message, 2))
        return True


class Stock(SyncObj):
    def __init__(self, net: Net, name: str, names: tuple[str, ...], **conf: Any) -> None:
        self.net = net
        self.applied: list[Any] = []
        conf = {"autoTick": False, "commandsWaitLeader": False} | conf
        others = [Node(other) for other in names if other != name]
        settings = SyncObjConf(**conf)
        super().__init__(Node(name), others, settings, transportClass=_Transport, nodeClass=Node)

    @replicated
    def put(self, value: Any) -> Any:
        self.applied.append(value)
        return value

    @replicated
    def fail(self) -> None:
        self.applied.append("fail")
        raise KeyError("in a replicated method")

    def tick(self, advance_s: float = 0.0) -> None:
        self.net.now_s += advance_s
        self.doTick()

    def wait(self) -> None:
        """No election of this node's own."""
        self._SyncObj__raftElectionDeadline = self.net.now_s + 100

    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self._SyncObj__raftLog[:]]

    def last(self) -> int:
        return self.log()[-1][0]


def cluster(net: Net, names: tuple[str, ...] = NAMES, **conf: Any) -> dict[str, Stock]:
    made = {name: Stock(net, name, names, **conf) for name in names}
    for a in names:
        for b in names:
            if a < b:
                net.link(a, b, True)
    return made


def elect(net: Net, cores: dict[str, Stock], name: str) -> Stock:
    cores[name]._SyncObj__raftElectionDeadline = 0
    for _ in range(3):
        for other in cores.values():
            if other is not cores[name]:
                other.wait()
        cores[name].tick()
        net.deliver_all()
    assert cores[name]._isLeader()
    return cores[name]


def steps(net: Net, cores: dict[str, Stock], count: int = 3) -> None:
    for _ in range(count):
        net.now_s += 0.11
        for core in cores.values():
            core.wait()
            core.tick()
        net.deliver_all()


def alone(net: Net) -> Stock:
    core = cluster(net, ("a",))["a"]
    core._SyncObj__raftElectionDeadline = 0
    for _ in range(4):
        core.tick(0.2)
    return core
