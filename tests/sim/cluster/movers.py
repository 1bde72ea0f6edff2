"""Who moves slots of busy tenants between the groups, and gives some of the moves up.

What is asked for reaches meta at its leader, by the node that was asked; the product's driver on
the node that leads meta does the rest.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.placement import SlotMove
from kalamdb.errors import KalamError, Unavailable
from kalamdb.model.ids import GroupId, Slot, slot_of
from kalamdb.model.slot_work import AbortMove
from tests.sim.calls import Lost, Refused
from tests.sim.cluster.clients import Desk
from tests.sim.cluster.logs import MetaLog

PAUSE_S = (0.02, 0.4)
BACK_SHARE = 0.5  # of moves: the slot that was moved last
ABORT_SHARE = 0.15
GROUPS = (GroupId(1), GroupId(2))


class Movers:
    """See the module."""

    def __init__(self, desk: Desk, meta: MetaLog) -> None:
        self._desk = desk
        self._meta = meta
        self.counts: Counter[str] = Counter()
        self._last: Slot | None = None
        self.eager = desk.dice.choice((1.0, 1.0, 0.3, 3.0))

    async def run(self) -> None:
        """Until the desk closes."""
        desk, dice = self._desk, self._desk.dice
        while not desk.closed:
            await desk.calls.pause(dice.uniform(*PAUSE_S) * self.eager)
            if desk.closed:
                return
            node = desk.nodes[dice.choice(sorted(desk.nodes))]
            try:
                if self._meta.catalog.moves and dice.random() < ABORT_SHARE:
                    await desk.calls.call(node, self._abort)
                    self.counts["aborts"] += 1
                else:
                    await desk.calls.call(node, self._begin)
                    self.counts["moves"] += 1
            except (KalamError, Refused, Lost) as error:
                self.counts[f"move {type(error).__name__}"] += 1

    async def _begin(self, there: Any) -> None:
        dice = self._desk.dice
        slot = slot_of(dice.choice(self._desk.tenants))
        if self._last is not None and dice.random() < BACK_SHARE:
            slot = self._last
        self._last = slot
        placement = there.cluster_groups.catalog.placement
        if placement is None:
            raise Unavailable("this node does not know the catalog yet")
        source = placement.group_of(slot)
        target = next(group for group in GROUPS if group != source)
        await there.moves.begin(SlotMove(slot, source, target))

    async def _abort(self, there: Any) -> None:
        moves = there.cluster_groups.catalog.moves
        if moves:
            move = moves[self._desk.dice.choice(sorted(moves))]
            await there.cluster_groups.write_meta(AbortMove(move.slot, move.epoch))
