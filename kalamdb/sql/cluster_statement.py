"""What an operator asks of the cluster: a closed union, one class per CLUSTER statement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterList:
    """The nodes."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The groups and their members."""


@dataclass(frozen=True, slots=True)
class ClusterJoin:
    """`rpc`, `http`: HOST:PORT; `http` None: the node says so itself."""

    node: int
    rpc: str
    http: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterLeave:
    node: int


@dataclass(frozen=True, slots=True)
class ClusterRemove:
    node: int


@dataclass(frozen=True, slots=True)
class ClusterReplication:
    voters: int


@dataclass(frozen=True, slots=True)
class ClusterTransfer:
    """`group` None: every group in which the node votes."""

    group: int | None
    node: int


@dataclass(frozen=True, slots=True)
class ClusterStepDown:
    """Of one group, or of all that a node leads; neither: the node that leads meta."""

    group: int | None = None
    node: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterRebalance:
    """`leaders`: only those; else members and slots too."""

    leaders: bool = False


@dataclass(frozen=True, slots=True)
class ClusterMove:
    """A slot, a number or that of a user, to a group."""

    slot: int | str
    group: int


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """`group` None: all."""

    group: int | None = None


ClusterChange = (
    ClusterJoin
    | ClusterLeave
    | ClusterRemove
    | ClusterReplication
    | ClusterTransfer
    | ClusterStepDown
    | ClusterRebalance
    | ClusterMove
    | ClusterSnapshot
)
"""Carried out by the node that leads meta."""

ClusterAsked = ClusterList | ClusterStatus | ClusterChange
