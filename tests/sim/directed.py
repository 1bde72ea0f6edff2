"""Situations by hand, where chance seldom leads: a leader that is cut off and does not know it
yet.

Keeps: what a leader that is cut off answers must be true of the committed log, or be no answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cluster.raft.core import Timings
from kalamdb.errors import KalamError
from kalamdb.model.work import ChangeKeys, InsertRows, Work
from tests.sim import calls
from tests.sim.calls import Lost, Refused
from tests.sim.history import Elements
from tests.sim.member import Member
from tests.sim.run import Simulation, small_log
from tests.sim.schema import TABLE, appending, key_bytes, new_row

KEY = 5


class CutOff:
    """A group whose old leader is cut off while another leads and has inserted a row under KEY."""

    def __init__(self, seed: int) -> None:
        with small_log():
            self._world = world = Simulation(seed, timings=Timings(fallback_s=20.0))
            world.begin()
            self._place = place = world.desk.places[0]
            self.old = self._leader()
            others = [node for node in world.members if node != self.old.node]
            cut = [(self.old.node, node) for node in others]
            world.network.cut(*cut, *[(node, self.old.node) for node in others])
            assert world.timeline.run(10.0, lambda: self._leader() is not self.old)
            self.new = self._leader()
            row = InsertRows(TABLE, place.partition, [new_row(KEY, 1, None)])
            assert self._ask(self.new, row) == 1
            assert self.old.groups[place.group].ready, "it must still believe that it leads"

    def read_at_the_old(self) -> Elements | str | None:
        group, partition = self._place.group, self._place.partition
        return self._call(
            self.old, lambda there: calls.read(there, group, partition, key_bytes(KEY))
        )

    def append_at_the_old(self) -> int | str | None:
        """How many rows an UPDATE of KEY says it found."""
        work = ChangeKeys(TABLE, self._place.partition, [key_bytes(KEY)], appending(2, None))
        return self._ask(self.old, work)

    def _ask(self, member: Member, work: Work) -> int | str | None:
        group = self._place.group

        async def write(there: Member) -> int:
            return (await calls.write(there, group, work, None)).affected

        return self._call(member, write)

    def _call(self, member: Member, handle: Callable[[Member], Awaitable[object]]):
        """The answer, or the name of what came instead."""
        world = self._world

        async def call() -> object:
            try:
                return await world.calls.call(member, handle)
            except (KalamError, Refused, Lost) as error:
                return type(error).__name__

        task = world.spawn(call())
        assert world.timeline.run(5.0, task.done)
        return task.result()

    def _leader(self) -> Member:
        leading = [
            (member.groups[self._place.group].status().term, member)
            for member in self._world.members.values()
            if member.groups[self._place.group].ready
        ]
        return max(leading, key=lambda pair: pair[0])[1]


def bridges(seed: int, count: int = 8) -> str | None:
    """The fault that members elect a leader through one that dies after its vote, again and again.

    None when nothing was wrong.
    """
    with small_log():
        world = Simulation(seed)
        world.begin()
        try:
            for _ in range(count):
                bridge = world.spawn(world.nemesis.bridge())
                assert world.timeline.run(30.0, bridge.done)
                world.timeline.run(1.0)
        except AssertionError as error:
            return str(error) or "assertion"
    return None
