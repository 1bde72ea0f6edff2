"""The rows of `system.cluster`, `cluster_groups`, `cluster_moves` and `cluster_links`.

Nodes come from the catalog, everything else from what the nodes tell (`facts.py`): a node that does
not answer has its row in `cluster`, and no others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from cluster.facts import ClusterFacts, NodeFacts
from kalamdb.model.catalog import CatalogView, NodeRecord, NodeState
from kalamdb.model.ids import META_GROUP, GroupId, NodeId
from kalamdb.ports import LogStatus
from kalamdb.query.system import Values
from kalamdb.session.system_tables import SystemTables

LEADER = "leader"


def provide_cluster(
    system: SystemTables, catalog: Callable[[], CatalogView], facts: ClusterFacts
) -> None:
    """The four tables, from now on."""

    async def nodes(_principal: object) -> list[Values]:
        return list(node_rows(catalog(), await facts.all(), facts.own_node))

    async def groups(_principal: object) -> list[Values]:
        return list(group_rows(catalog(), await facts.all()))

    async def moves(_principal: object) -> list[Values]:
        return list(move_rows(await facts.all()))

    async def links(_principal: object) -> list[Values]:
        return list(link_rows(await facts.all()))

    system.provide("cluster", nodes)
    system.provide("cluster_groups", groups)
    system.provide("cluster_moves", moves)
    system.provide("cluster_links", links)


def _cluster_id(catalog: CatalogView) -> str:
    return "" if catalog.placement is None else catalog.placement.cluster_id


# ---- nodes --------------------------------------------------------------------------------------


def node_rows(catalog: CatalogView, told: Sequence[NodeFacts], own: int | None) -> Iterator[Values]:
    """The cluster's nodes, by id."""
    by_node = {facts.node: facts for facts in told}
    heard = {node: at_ms for facts in told for node, at_ms in facts.heard.items()}
    meta_end = max(
        (log.last_index for log in _logs(told, META_GROUP) if log.role == LEADER), default=None
    )
    voters = [log.voters for facts in told for log in facts.logs if log.role == LEADER]
    nodes = {node.id: node for node in catalog.nodes.values() if node.holds}
    for facts in told:
        if facts.node not in nodes:  # it has not said yet who it is
            number = NodeId(facts.node)
            nodes[number] = NodeRecord(number, "", "", "", NodeState.JOINING, 0)
    for number, node in sorted(nodes.items()):
        yield _node_row(
            _cluster_id(catalog),
            node,
            by_node.get(number),
            members=sum(number in each for each in voters),
            heard_ms=heard.get(number),
            end=meta_end,
            is_self=number == own,
        )


def _node_row(
    cluster_id: str,
    node: NodeRecord,
    facts: NodeFacts | None,
    *,
    members: int,
    heard_ms: int | None,
    end: int | None,
    is_self: bool,
) -> Values:
    """`end`: where the log of meta ends at its leader; `members`: groups it votes in."""
    logs = () if facts is None else facts.logs
    meta = next((log for log in logs if log.group == META_GROUP), None)
    applied = None if meta is None else meta.applied_index
    lag = None if end is None or applied is None else max(0, end - applied)
    return (
        cluster_id,
        node.id,
        "unreachable" if meta is None else meta.role,
        node.state.value,
        node.rpc,
        node.http,
        is_self,
        meta is not None and meta.role == LEADER,
        sum(log.role == LEADER for log in logs),
        len(logs),
        None if meta is None else meta.term,
        applied,
        end,
        None if meta is None else meta.first_index - 1,
        None if lag is None or not end else min(100, 100 * (applied or 0) // end),
        lag,
        *_machine(facts),
        node.uuid or None,
        facts is not None,
        members,
        None if heard_ms is None else heard_ms * 1000,
        node.since_ms * 1000 or None,
    )


def _machine(facts: NodeFacts | None) -> Values:
    if facts is None:
        return (None,) * 8
    return (
        facts.hostname,
        facts.version,
        facts.memory_mb,
        None,
        facts.uptime_s,
        duration_text(facts.uptime_s),
        facts.os,
        facts.arch,
    )


def duration_text(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    parts = [(days, "d"), (rest // 3600, "h"), (rest // 60 % 60, "m"), (rest % 60, "s")]
    shown = [f"{count}{unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0s"


# ---- groups -------------------------------------------------------------------------------------


def group_rows(catalog: CatalogView, told: Sequence[NodeFacts]) -> Iterator[Values]:
    """Each group as each of its members sees it."""
    placement = catalog.placement
    for facts in told:
        for log in facts.logs:
            wished = () if placement is None else placement.voters_of(GroupId(log.group))
            yield (
                log.group,
                _cluster_id(catalog),
                log.node,
                "meta" if log.group == META_GROUP else "data",
                log.term,
                None,
                log.last_index,
                log.applied_index,
                None,
                log.first_index - 1,
                log.commit_index,
                log.role,
                log.leader,
                None,
                _listed(log.voters),
                _listed(log.learners),
                _listed(wished),
            )


def _listed(nodes: Sequence[int]) -> str:
    return json.dumps(list(nodes))


def _logs(told: Sequence[NodeFacts], group: GroupId) -> Iterator[LogStatus]:
    return (log for facts in told for log in facts.logs if log.group == group)


# ---- moves and links ----------------------------------------------------------------------------


def move_rows(told: Sequence[NodeFacts]) -> Iterator[Values]:
    """What is on its way, once each: while meta changes its leader two nodes may tell of it. Who
    takes an image knows more of it than the leader of meta.
    """
    rows: dict[tuple[object, ...], Values] = {}
    moves = [move for facts in told for move in facts.moves]
    for move in sorted(moves, key=lambda move: (move.bytes_done > 0, move.updated_ms)):
        eta_s = move.eta_s
        rows[move.kind, move.group, move.slot, move.target] = (
            move.kind,
            move.group,
            move.slot,
            move.source,
            move.target,
            move.state,
            move.keys_done,
            move.keys_total,
            move.bytes_done,
            move.bytes_total,
            move.started_ms * 1000,
            move.updated_ms * 1000,
            None if eta_s is None else round(eta_s, 1),
        )
    yield from (rows[key] for key in sorted(rows, key=str))


def link_rows(told: Sequence[NodeFacts]) -> Iterator[Values]:
    """Each link as each of its ends sees it."""
    for facts in told:
        for link in facts.links:
            yield (
                facts.node,
                link.node,
                link.peer,
                link.address,
                link.dialled,
                link.tls,
                link.since_ms * 1000,
                link.rtt_ms,
                link.bytes_in,
                link.bytes_out,
                link.buffered_bytes,
                link.requests,
                link.streams,
            )
