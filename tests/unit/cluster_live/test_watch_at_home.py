"""A watch of a group that turns out to be led here: between two leaders, both can be said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cluster.live_relay import LiveRelay
from kalamdb.errors import KalamError
from kalamdb.feed.hub import EndReason
from kalamdb.model.ids import GroupId, Partition
from kalamdb.model.table import TableDef
from tests.loopback import Loopback
from tests.unit.session.fakes import FakeClock

GROUP = GroupId(1)


class LedHere:
    """Implements `live_relay.Leaders`."""

    node = 1

    def leader_of(self, group: GroupId) -> int | None:
        return self.node

    def group_of(self, partition: Partition) -> GroupId:
        return GROUP

    def refused(self, group: GroupId, asked: int | None, error: KalamError) -> None: ...


class Watching:
    def __init__(self) -> None:
        self.ended: list[EndReason] = []

    @property
    def tables(self) -> Sequence[TableDef]:
        return ()

    def touched(self) -> None: ...

    def end_watch(self, reason: EndReason, detail: str) -> None:
        self.ended.append(reason)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_ends_once_whoever_watches_has_begun() -> None:
    clock: Any = FakeClock()
    async with Loopback(1) as net, LiveRelay(net[1], LedHere(), clock) as relay:
        watching, gone = Watching(), Watching()
        relay.hub(GROUP).watch(watching, [b"chain"])
        relay.hub(GROUP).watch(gone, [b"chain"])
        assert watching.ended == []
        relay.hub(GROUP).unwatch(gone)
        await turns()
        assert watching.ended == [EndReason.LEADERSHIP_LOST]
        assert gone.ended == []
