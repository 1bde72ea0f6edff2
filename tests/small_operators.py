"""What an operator asks of a small node: groups with one member, the node itself."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.control import NoSlotMoves
from cluster.member_groups import LedHere
from cluster.membership import MembershipSettings, enrol, introduce
from cluster.operations import MetaGroup, Operations, Surroundings, operations
from cluster.raft.members import MemberChange, MemberProgress, Members
from kalamdb.errors import InvalidInput
from kalamdb.lib.clock import Clock
from kalamdb.model.ids import GroupId, NodeId
from kalamdb.model.work import PutNode
from kalamdb.ports import Log, LogStatus

NODE = 1
RPC, HTTP = "127.0.0.1:9189", "127.0.0.1:8080"


class SoleMember:
    """A group whose only voter is here; implements `cluster.member_groups.GroupMember`."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def status(self) -> LogStatus:
        return self._log.status()

    def members(self) -> Members:
        return Members((NODE,), (), 0, True)

    def progress(self) -> tuple[MemberProgress, ...]:
        return ()

    async def propose_members(self, change: MemberChange) -> Members:
        raise InvalidInput(f"{change} at a log of one member")

    async def hand_over(self, peer: int) -> None:
        raise InvalidInput(f"node {peer} is not another voter")


def small_operations(logs: Mapping[GroupId, Log], meta: MetaGroup, clock: Clock) -> Operations:
    async def snapshot(group: GroupId) -> int:
        return logs[group].status().first_index - 1

    here = LedHere(NODE, {group: SoleMember(log) for group, log in logs.items()}, snapshot)
    around = Surroundings(lambda: [log.status() for log in logs.values()], NoSlotMoves())
    return operations(here, meta, around, clock, MembershipSettings())


async def enrol_small(meta: MetaGroup) -> None:
    """The node is the first of its cluster, and has said who it is."""

    await enrol(meta.write_meta, meta.catalog, {NODE: RPC})
    await introduce(meta.write_meta, meta.catalog, PutNode(NodeId(NODE), RPC, "uuid-1", HTTP))
