"""A world whose groups change their members, and whose nodes lose their disks.

Checked at every cycle, beside what `World` checks: one leader a term, also of those that are not
ready; rosters of a log differ by one step from each other; a life votes only when some roster names
it. `settle` wants equal state, equal rosters and a known roster of all members the leader names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from cluster.raft.group import Group
from cluster.raft.hub import Hub
from cluster.raft.journal import GroupJournal
from cluster.raft.members import MemberChange, Roster, decode_roster
from cluster.raft.wire import GrantVote, RequestVote, decode_frame, decode_message
from tests.raft.asking import Ask
from tests.raft.world import Machine, ModelDisk, World


class MemberWorld(World):
    """`size` nodes, of which `founders` begin the groups; the others join with nothing."""

    def __init__(self, seed: int, *, founders: int = 3, **given: Any) -> None:
        self.founders = tuple(range(1, founders + 1))
        self.joined: set[int] = set()  # nodes that lost their disk
        self.lives: set[tuple[int, int]] = {(node, 0) for node in self.founders}
        self.at_work: dict[tuple[int, int], int] = {}  # (gid, term) -> who leads
        self.committed: dict[int, dict[int, Roster]] = {}  # gid -> index -> roster
        super().__init__(seed, **given)

    def open(self, hub: Hub, gid: int, machine: Machine) -> Group:
        node = machine.node
        joining = node not in self.founders or node in self.joined
        return hub.open(gid, () if joining else self.founders, machine, self.timings)

    def lose_disk(self, id: int) -> None:
        """The node comes back with nothing."""
        if self.nodes[id].hub is not None:
            self.stop(id)
        node = self.nodes[id]
        node.disk = ModelDisk()
        node.machines = {gid: Machine(self, id, gid) for gid in self.gids}
        self.joined.add(id)

    def may_lose_disk(self, id: int) -> bool:
        """A majority of each roster that may be in force keeps its disk."""
        for gid in self.gids:
            for node in self.nodes.values():
                if node.hub is None:
                    return False
                journal = node.group(gid).journal
                for roster in journal.members.since(journal.getRaftCommitIndex()):
                    lost = [v for v in roster.voters if v == id or not self.alive(gid, roster, v)]
                    if 2 * len(lost) >= len(roster.voters):
                        return False
        return True

    def alive(self, gid: int, roster: Roster, voter: int) -> bool:
        """The voter has the life the roster names."""
        hub = self.nodes[voter].hub
        life = self.nodes[voter].group(gid).journal.members.life if hub is not None else -1
        return life == roster.life(voter)

    def ask(self, action: Callable[..., asyncio.Future[Any]], *args: Any) -> Ask:
        """Call it; what came of it, now or later."""
        return Ask(self, action, args)

    def change(self, change: MemberChange, gid: int = 0) -> Ask:
        """Ask the leader."""
        id = self.leader(gid)
        assert id is not None
        return self.ask(self.nodes[id].group(gid).propose_members, change)

    def make(self, *changes: MemberChange, duration_s: float = 5.0) -> None:
        """One after the other, each again until it is done."""
        for change in changes:
            asked = Ask(self, self._nothing, ())

            def done(change: MemberChange = change) -> bool:
                nonlocal asked
                if asked.done and asked.error is not None and self.leader() is not None:
                    asked = self.change(change)
                return asked.well

            asked.error = AssertionError()  # type: ignore[assignment]
            assert self.run(duration_s, done), (change, asked.error)

    def _nothing(self) -> None:
        return None

    def write_when_led(self, count: int) -> None:
        assert self.run(10.0, lambda: self.leader() is not None)
        self.write(count)

    def roster(self, id: int, gid: int = 0) -> Roster:
        return self.nodes[id].group(gid).journal.members.roster

    # Checks.

    def finish(self, node: Any, life: int) -> None:
        super().finish(node, life)
        if node.life == life and node.hub is not None:
            for gid in self.gids:
                self.watch(node.group(gid), gid)

    def watch(self, group: Group, gid: int) -> None:
        status = group.status()
        if status.role == "leader":
            first = self.at_work.setdefault((gid, status.term), status.node)
            assert first == status.node, f"{first} and {status.node} lead in term {status.term}"
        members = group.journal.members
        self.lives |= {(voter, members.roster.life(voter)) for voter in members.roster.voters}
        said = rosters(group.journal)
        for (_, one), (_, other) in pairwise(said):
            check_step(one, other)
        known = self.committed.setdefault(gid, {})
        for index, roster in said:
            if 0 < index <= status.commit_index:
                assert known.setdefault(index, roster) == roster
        order = [known[index] for index in sorted(known)]
        for one, other in pairwise(order):
            check_step(one, other)

    def send(self, source: int, target: int, frame: bytes) -> bool:
        for gid, data in decode_frame(frame) or []:
            message = decode_message(data)
            if isinstance(message, GrantVote | RequestVote):
                life = self.nodes[source].group(gid).journal.members.life
                assert (source, life) in self.lives, f"life {life} of {source} has no vote"
        return super().send(source, target, frame)

    def equal(self) -> bool:
        for gid in self.gids:
            id = self.leader(gid)
            if id is None:
                return False
            group = self.nodes[id].group(gid)
            for member in group.journal.members.roster.nodes:
                there = self.nodes[member].group(gid)
                if self.nodes[member].machines[gid].mark.index != group.journal.last_index:
                    return False
                if not there.journal.members.known or there.members() != group.members():
                    return False
        return True

    def settle(self, duration_s: float = 30.0) -> float:
        for id in self.voters:
            self.revive(id)
        self.heal()
        start_s = self.now_s
        assert self.run(duration_s, self.equal), [
            (node.id, node.group(gid).status()) for node in self.nodes.values() for gid in self.gids
        ]
        for gid in self.gids:
            id = self.leader(gid)
            assert id is not None
            rows = self.nodes[id].machines[gid].rows
            for member in self.roster(id, gid).nodes:
                assert self.nodes[member].machines[gid].rows == rows
            payloads = [payload for _, payload in rows]
            assert len(payloads) == len(set(payloads))
            lost = {payload for at, payload in self.acked if at == gid} - set(payloads)
            assert not lost, f"{len(lost)} acknowledged writes lost"
        return self.now_s - start_s


def rosters(journal: GroupJournal) -> list[tuple[int, Roster]]:
    """All that the log says, as far as known: as of its base and after it."""
    base = journal.members.base
    found = [(base.index, base.roster)] if base.known else []
    for command, index, _ in journal[1:]:
        roster = decode_roster(command)
        if roster is not None:
            found.append((index, roster))
    return found


def check_step(one: Roster, other: Roster) -> None:
    """One node moved by one step."""
    voters = set(one.voters) ^ set(other.voters)
    nodes = set(one.nodes) ^ set(other.nodes)
    assert len(voters) + len(nodes) == 1, (one, other)
