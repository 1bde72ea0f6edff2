"""What operators see and ask of the cluster, put together: facts, members, statements.

Every data node builds it once; the job does something only on the node that leads meta.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.control import Control, MovesSlots
from cluster.facts import ClusterFacts, OwnFacts, serve_facts
from cluster.member_groups import KnowsLeaders, LedHere, MemberGroupsByRpc, serve_members
from cluster.membership import Membership, MembershipSettings, MoveProgress
from cluster.rpc.peers import LinkFacts
from cluster.rpc.port import Rpc, Service
from kalamdb.lib.clock import Clock
from kalamdb.model.catalog import CatalogView
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP
from kalamdb.model.work import Work
from kalamdb.ports import LogStatus


class LinkedRpc(Rpc, Service, Protocol):
    """The way to the other nodes (`rpc.peers.Peers`)."""

    def links(self) -> Sequence[LinkFacts]: ...


class MetaGroup(Protocol):
    """What of `kalamdb.ports.Groups` is used here."""

    @property
    def catalog(self) -> CatalogView: ...

    def write_meta(self, work: Work) -> Awaitable[Outcome]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Of this node. `peers` and `leaders` None: no other node can be. `own_moves`: slots and
    images under way that this node carries.
    """

    logs: Callable[[], Sequence[LogStatus]]
    slots: MovesSlots
    own_moves: Callable[[], Sequence[MoveProgress]] = tuple
    peers: LinkedRpc | None = None
    leaders: KnowsLeaders | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """`control` and `facts` go to `node_oversight`; `membership.run()` is a background job."""

    membership: Membership
    control: Control
    facts: ClusterFacts


def operations(
    here: LedHere,
    meta: MetaGroup,
    around: Surroundings,
    clock: Clock,
    settings: MembershipSettings,
) -> Operations:
    """Also answers what the other nodes ask of this one about facts and members."""
    started_s = clock.monotonic_s()
    peers = around.peers

    def catalog() -> CatalogView:
        return meta.catalog

    async def write_meta(work: Work) -> Outcome:
        return await meta.write_meta(work)

    def leads() -> bool:
        return here.leads(META_GROUP)

    members = MemberGroupsByRpc(here, write_meta, peers, around.leaders)
    job = Membership(members, catalog, leads, clock, settings)
    own = OwnFacts(
        here.node,
        lambda: clock.monotonic_s() - started_s,
        around.logs,
        tuple if peers is None else peers.links,
        lambda: [*job.moves(), *around.own_moves()],
        job.heard,
    )
    facts = ClusterFacts(
        own, peers, lambda: [node.id for node in catalog().nodes.values() if node.holds]
    )
    if peers is not None:
        serve_facts(peers, own)
        serve_members(peers, here)
    return Operations(job, Control(members, catalog, job.kick, around.slots), facts)
