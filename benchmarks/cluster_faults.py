"""What a failure costs a replicated system: time to the next acknowledged write, time to catch up;
and what it costs when nothing happens.

- `failover`: the leader of the probed tenant is killed (-9). Once it is dead a new write is begun
  every 20 ms, each on a connection of its own, so that one write that hangs hides nothing; the
  time ends with the first acknowledgement. Then the member is launched, and the next kill comes
  when the trio is whole and the member has everything.
- `catch_up`: a member is killed, rows are written without it, it is launched: seconds until it has
  applied everything that was committed, starting the program included.
- `idle`: CPU share of each process over some seconds without a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import measure
from benchmarks.load import ID_MARK, LoadJob, body_start, run
from benchmarks.stacks.stack import StackError, pause
from benchmarks.trios.trio import MEMBERS, Database, Probe, Trio, Wire

PROBE_EVERY_S = 0.02
PROBE_LIMIT_S = 30.0
CATCH_UP_IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Failover:
    """One kill. Seconds from the kill to the first acknowledged write, and from the launch of the
    member until the trio was whole and level.
    """

    system: str
    member: int
    acknowledged_s: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class CatchUp:
    """One return. Seconds from the launch of the member until it was level."""

    system: str
    rows: int
    behind_s: float
    rows_per_s: float


@dataclass(frozen=True, slots=True)
class Idle:
    """CPU per process in percent of one core, by part."""

    system: str
    groups: int
    percent: Mapping[str, float]


def failover(trio: Database, first: int) -> Failover:
    """Kill, time, mend. Rows of the probes are numbered from `first`."""
    trio.wait_for(lambda: trio.leader() != 0, "led")
    dead = trio.leader()
    probe = trio.probe(dead)
    trio.kill(dead)
    acknowledged_s = asyncio.run(first_acknowledged_s(probe, first))
    launched_s = time.monotonic()
    mend(trio, dead)
    return Failover(trio.name, dead, acknowledged_s, time.monotonic() - launched_s)


def mend(trio: Database, member: int) -> None:
    """Launch a dead member and wait until nothing is left of the failure."""
    level = trio.level()
    trio.launch(member)
    trio.wait_whole()
    trio.wait_for(lambda: level(member), "level")


def catch_up(trio: Database, wire: Wire, rows: int, first: int) -> CatchUp:
    """Write `rows` rows while a member is down, and time its return."""
    leader = trio.measured_leader
    member = next(each for each in reversed(MEMBERS) if each != leader)
    trio.kill(member)
    trio.wait_for(lambda: trio.serves_without(member), "led by the others")
    result = run(
        LoadJob(
            port=0,
            template="",
            expect=wire.expect,
            first=first,
            count=rows,
            lanes=wire.lanes,
            tenants=wire.tenants,
            connections=CATCH_UP_IN_FLIGHT,
        )
    )
    level = trio.level()
    began_s = time.monotonic()
    trio.launch(member)
    trio.wait_for(lambda: level(member), "level", timeout_s=300)
    behind_s = time.monotonic() - began_s
    trio.wait_whole()
    return CatchUp(trio.name, rows, behind_s, result.per_s)


def idle(trio: Trio, seconds: float) -> Idle:
    """What the processes use while nobody asks anything."""
    parts = trio.parts()
    before_s = {part: measure.cpu_s(pids) for part, pids in parts.items()}
    began_s = time.monotonic()
    pause(seconds)
    took_s = time.monotonic() - began_s
    percent = {
        part: (measure.cpu_s(pids) - before_s[part]) / took_s * 100 for part, pids in parts.items()
    }
    return Idle(trio.name, trio.groups, percent)


async def first_acknowledged_s(probe: Probe, first: int) -> float:
    """Seconds until any of the writes begun from now on is acknowledged. Raises StackError."""
    began_s = time.monotonic()
    acknowledged = asyncio.Event()
    last = b"no answer"

    async def attempt(number: int) -> None:
        nonlocal last
        answer = await exchanged(probe, number)
        if answer.startswith(b"HTTP/1.1 200"):
            acknowledged.set()
        elif answer:
            last = answer

    async with asyncio.TaskGroup() as group:
        attempts: list[asyncio.Task[None]] = []
        while not acknowledged.is_set() and time.monotonic() - began_s < PROBE_LIMIT_S:
            attempts.append(group.create_task(attempt(first + len(attempts))))
            try:
                async with asyncio.timeout(PROBE_EVERY_S):
                    await acknowledged.wait()
            except TimeoutError:
                continue
        took_s = time.monotonic() - began_s
        for task in attempts:
            task.cancel()
    if not acknowledged.is_set():
        raise StackError(f"no write was acknowledged in {PROBE_LIMIT_S:.0f} s: {last[:300]!r}")
    return took_s


async def exchanged(probe: Probe, number: int) -> bytes:
    """One request on a connection of its own; b"" when it was lost."""
    answer = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", probe.port)
        try:
            writer.write(probe.template.replace(ID_MARK, str(number)).encode())
            while body_start(answer) < 0:
                part = await reader.read(65536)
                if not part:
                    return b""
                answer += part
        finally:
            writer.close()
    except OSError:
        return b""
    return answer
