"""Whom of those who proved the cluster's secret this node talks to.

Keeps: a node id belongs to one disk until it was removed, so a node that lost its disk cannot vote
as the one it was (docs/decisions/0020-placement.md).
"""

from __future__ import annotations

from uuid import UUID

from kalamdb.model.catalog import CatalogView
from kalamdb.model.ids import NodeId


def may_join(catalog: CatalogView, node: int, uuid: UUID) -> str | None:
    """Why a node that proved the secret is not talked to; None: it is."""
    if not catalog.enrolled:
        return None  # a new cluster, or a node that has not heard of it yet
    known = catalog.nodes.get(NodeId(node))
    if known is None or not known.holds:
        return f"node {node} is not of this cluster; CLUSTER JOIN {node} 'HOST:PORT' comes first"
    if known.uuid and known.uuid != str(uuid):
        return (
            f"node {node} has another disk than before; CLUSTER REMOVE {node}, then CLUSTER JOIN it"
            " and start it with --join"
        )
    return None
