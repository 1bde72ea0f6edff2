"""Three nodes on one asyncio loop, real disks, links in memory: the driver's timers and threads."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from cluster.raft.core import Timings
from cluster.raft.disk import DirectoryDisk
from cluster.raft.driver import drive
from cluster.raft.hub import Drive, Hub
from cluster.raft.wal import Wal
from kalamdb.lib.clock import SystemClock, SystemIds
from tests.raft.sole import Writers
from tests.waiting import wait_until

NODES = (1, 2, 3)
GIDS = (0, 1, 2)
TIMINGS = Timings(heartbeat_s=0.03, election_min_s=0.15, election_max_s=0.3, fallback_s=0.3)


class Switch:
    """Links of all nodes. A frame arrives in a later turn of the loop."""

    def __init__(self) -> None:
        self.hubs: dict[int, Hub] = {}

    def link_of(self, node: int) -> SwitchLink:
        return SwitchLink(self, node)

    def carry(self, source: int, target: int, frame: bytes) -> None:
        hub = self.hubs.get(target)
        if hub is not None and source in self.hubs:
            assert hub.receive(source, frame)


class SwitchLink:
    def __init__(self, switch: Switch, node: int) -> None:
        self.switch, self.node = switch, node

    def send(self, node: int, frame: bytes) -> bool:
        asyncio.get_running_loop().call_soon(self.switch.carry, self.node, node, frame)
        return True


async def test_three_nodes_on_one_loop(tmp_path: Path) -> None:
    switch = Switch()
    machines: dict[tuple[int, int], Writers] = {}
    async with AsyncExitStack() as stack:
        for node in NODES:
            disk = DirectoryDisk(tmp_path / str(node))
            stack.callback(disk.close)

            def make_hub(driver: Drive, node: int = node, disk: DirectoryDisk = disk) -> Hub:
                wal, link = Wal(disk, bytes([node]) * 16), switch.link_of(node)
                return Hub(node, wal, link, clock=SystemClock(), ids=SystemIds(), drive=driver)

            switch.hubs[node] = await stack.enter_async_context(drive(make_hub))
            for gid in GIDS:
                machine = machines[(node, gid)] = Writers()
                machine.group = switch.hubs[node].open(gid, NODES, machine, TIMINGS)
        for node, hub in switch.hubs.items():
            for other in NODES:
                if other != node:
                    hub.connected(other)

        def leader(gid: int) -> Writers | None:
            led = [machines[(node, gid)] for node in switch.hubs]
            return next((machine for machine in led if machine.leads.is_set()), None)

        for gid in GIDS:
            await wait_until(lambda gid=gid: leader(gid) is not None, what="a leader")
            machine = leader(gid)
            assert machine is not None
            for i in range(20):
                await asyncio.wait_for(machine.write(b"%d" % i), 5)
            assert machine.group is not None
            reading = machine.group.read_index()
            assert reading is not None
            assert await asyncio.wait_for(reading, 5) >= machine.mark.index
        # The node that leads group 0 vanishes; another takes over, and nothing is lost.
        gone = next(node for node in NODES if machines[(node, 0)] is leader(0))
        del switch.hubs[gone]
        for hub in switch.hubs.values():
            hub.disconnected(gone)
        await wait_until(lambda: leader(0) is not None, what="another leader")
        machine = leader(0)
        assert machine is not None
        await asyncio.wait_for(machine.write(b"more"), 5)
        assert machine.payloads == [b"%d" % i for i in range(20)] + [b"more"]
