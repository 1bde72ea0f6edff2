"""Who changes the members of groups: nodes join as learners, vote, are demoted and leave.

Keeps: a group has three voters at least, so that one failure is survived; a node that serves a
group has a copy of the catalog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster.raft.members import AddLearner, Demote, MemberChange, Members, Promote, Remove
from kalamdb.errors import KalamError, NotLeader
from kalamdb.model.ids import META_GROUP
from tests.sim.calls import Lost, Refused
from tests.sim.cluster.clients import Desk

VOTERS_MIN = 3
PAUSE_S = (0.02, 0.5)


class Changers:
    """See the module."""

    def __init__(self, desk: Desk, groups: Sequence[int]) -> None:
        self._desk = desk
        self._groups = groups
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Until the desk closes."""
        desk, dice = self._desk, self._desk.dice
        if len(desk.nodes) <= VOTERS_MIN:
            return
        while not desk.closed:
            await desk.calls.pause(dice.uniform(*PAUSE_S))
            await self._change(dice.choice(self._groups))

    async def _change(self, group: int) -> None:
        desk = self._desk
        for node in desk.nodes.values():
            log = node.groups.get(group) if node.up else None
            if log is None or not log.ready:
                continue
            change = self._draw(group, log.members())
            if change is None:
                return

            async def propose(here: Any, group: int = group, change: MemberChange = change) -> None:
                if group not in here.groups:
                    raise NotLeader(group, None)
                await here.groups[group].propose_members(change)

            name = type(change).__name__
            try:
                await desk.calls.call(node, propose)
                self.counts[name] += 1
                desk.timeline.note(f"g{group} {change}")
            except (KalamError, Refused, Lost) as error:
                self.counts[f"{name} {type(error).__name__}"] += 1
            return

    def _has_catalog(self, node: int) -> bool:
        """A node serves groups once it has a copy of the catalog."""
        there = self._desk.nodes[node]
        return there.up and there.replicas[META_GROUP].catalog.placement is not None

    def _draw(self, group: int, members: Members) -> MemberChange | None:
        dice, nodes = self._desk.dice, sorted(self._desk.nodes)
        others = [n for n in nodes if n not in (*members.voters, *members.learners)]
        if group != META_GROUP:
            others = [n for n in others if self._has_catalog(n)]
        kinds: list[MemberChange] = [AddLearner(node) for node in others]
        kinds += [Promote(node) for node in members.learners]
        if len(members.voters) > VOTERS_MIN:
            kinds += [Demote(node) for node in members.voters]
        if group != META_GROUP:
            kinds += [Remove(node) for node in members.learners]
        return dice.choice(kinds) if kinds else None
