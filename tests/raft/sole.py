"""A node of one member on a real disk: a machine that keeps its payloads, and a program to kill.

`python -m tests.raft.sole DIRECTORY` writes numbers for ever and prints each when it is
acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.raft.disk import DirectoryDisk
from cluster.raft.driver import drive
from cluster.raft.group import Group
from cluster.raft.hub import Drive, Hub
from cluster.raft.wal import Wal
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.ports import AppliedMark, LogEntry


class NoLink:
    def send(self, node: int, frame: bytes) -> bool:
        return False


class Writers:
    """A machine in RAM; all that waits when an entry is taken goes into it."""

    def __init__(self) -> None:
        self.mark = AppliedMark(0, 0)
        self.payloads: list[bytes] = []
        self.waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self.taken: deque[list[asyncio.Future[None]]] = deque()
        self.leads = asyncio.Event()
        self.group: Group | None = None

    def applied(self) -> AppliedMark:
        return self.mark

    def lead(self, term: int) -> None:
        self.leads.set()

    def resign(self, reason: str) -> None:
        self.leads.clear()

    def take(self, term: int, size_max: int) -> bytes | None:
        if not self.waiting:
            return None
        batch, self.waiting = self.waiting, []
        self.taken.append([future for _, future in batch])
        return b"".join(data for data, _ in batch)

    def apply(self, entries: Sequence[LogEntry]) -> None:
        for entry in entries:
            if entry.payload:
                self.payloads.append(entry.payload)
                for future in self.taken.popleft() if self.leads.is_set() else ():
                    future.set_result(None)
        self.mark = AppliedMark(entries[-1].index, entries[-1].term)

    async def image(self, source: int) -> AppliedMark:
        raise AssertionError("a sole voter has nobody to ask")

    async def write(self, data: bytes) -> None:
        assert self.group is not None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((data, future))
        self.group.kick()
        await future


@asynccontextmanager
async def sole(directory: Path, *, durable: bool = True) -> AsyncIterator[tuple[Hub, Writers]]:
    disk = DirectoryDisk(directory)

    def make_hub(driver: Drive) -> Hub:
        wal = Wal(disk, bytes(16), durable=durable)
        return Hub(1, wal, NoLink(), clock=SystemClock(), ids=SystemIds(), drive=driver)

    async with drive(make_hub) as hub:
        machine = Writers()
        machine.group = hub.open(0, (1,), machine)
        yield hub, machine
    disk.close()


async def main(directory: Path) -> None:
    async with sole(directory) as (_, machine):
        await machine.leads.wait()
        first = int(machine.payloads[-1]) + 1 if machine.payloads else 0
        for number in range(first, 1_000_000):
            await machine.write(b"%d" % number)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
