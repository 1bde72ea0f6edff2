"""Decisions on the cluster's nodes, and on which of them are to vote in which group.

The catalog says what is meant to be; the groups' own logs say what is. A job on the leader of meta
brings the one to the other (`cluster/membership.py`).

Keeps: a node id belongs to one disk until the node was removed, so no vote is forgotten; a group is
meant to have 1, 3 or 5 voters, all of them nodes of the cluster; no decision alone takes voters
from a group that has no node to take their place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from kalamdb.cluster_errors import NodeNeeded, NodeTaken, UnknownNode
from kalamdb.decide.draft import Draft
from kalamdb.decide.schema import done, put_record
from kalamdb.errors import Conflict, InvalidStatement, Unavailable
from kalamdb.model import work
from kalamdb.model.catalog import (
    MEMBERS_ALLOWED,
    CatalogView,
    NodeRecord,
    NodeState,
)
from kalamdb.model.command import Outcome
from kalamdb.model.ids import META_GROUP, NodeId
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import encode_members, encode_node, encode_replication

NODE_ID_MAX = (1 << 16) - 1
NODES_MAX = 100  # of the cluster at a time, and removed ones besides
ADDRESS_LENGTH_MAX = 300


def decide_nodes(draft: Draft, asked: work.NodeWork, catalog: CatalogView) -> Outcome:
    """Raises what the decision refuses."""
    match asked:
        case work.PutNode():
            return put_node(draft, asked, catalog)
        case work.ActivateNode():
            return activate_node(draft, asked, catalog)
        case work.DrainNode():
            return drain_node(draft, asked, catalog)
        case work.RemoveNode():
            return remove_node(draft, asked, catalog)
        case work.PutMembers():
            return put_members(draft, asked, catalog)
        case work.PutReplication():
            return put_replication(draft, asked, catalog)
        case _:
            assert_never(asked)


def put_node(draft: Draft, asked: work.PutNode, catalog: CatalogView) -> Outcome:
    found = catalog.nodes.get(asked.node)
    if found is None or not found.holds:
        made = _joined(asked, catalog, found)
    else:
        made = _spoken(asked, found, catalog)
    if made.state is not (None if found is None else found.state):
        made = replace(made, since_ms=draft.wall_ms)
    return _put(draft, catalog, found, made)


def _joined(asked: work.PutNode, catalog: CatalogView, found: NodeRecord | None) -> NodeRecord:
    if not asked.join:
        raise UnknownNode(asked.node, "CLUSTER JOIN makes it one")
    if not 1 <= asked.node <= NODE_ID_MAX:
        raise InvalidStatement(f"a node's id is a number from 1 to {NODE_ID_MAX}")
    if sum(node.holds for node in catalog.nodes.values()) >= NODES_MAX:
        raise InvalidStatement(f"a cluster has at most {NODES_MAX} nodes")
    _check_addresses(asked, catalog)
    # A node that groups have had from the beginning holds their rows already; one that was removed
    # begins anew, although groups may still be meant to have it.
    voted = found is None and catalog.placed.held_by(asked.node)
    state = NodeState.ACTIVE if voted else NodeState.JOINING
    return NodeRecord(asked.node, asked.uuid, asked.rpc, asked.http, state, 0)


def _spoken(asked: work.PutNode, found: NodeRecord, catalog: CatalogView) -> NodeRecord:
    if asked.uuid and found.uuid and asked.uuid != found.uuid:
        raise NodeTaken(
            asked.node,
            "the id is of another disk, and an empty one has forgotten its votes;"
            f" CLUSTER REMOVE {asked.node} frees it",
        )
    _check_addresses(asked, catalog)
    returns = asked.join and found.state is NodeState.DRAINING
    return replace(
        found,
        uuid=found.uuid or asked.uuid,
        rpc=asked.rpc,
        http=asked.http or found.http,
        state=NodeState.ACTIVE if returns else found.state,
    )


def _check_addresses(asked: work.PutNode, catalog: CatalogView) -> None:
    for text in (asked.rpc, asked.http):
        if len(text) > ADDRESS_LENGTH_MAX:
            raise InvalidStatement(f"an address has at most {ADDRESS_LENGTH_MAX} characters")
    if not asked.rpc:
        raise InvalidStatement("a node needs the address its peers reach it at")
    for other in catalog.nodes.values():
        if other.id == asked.node or not other.holds:
            continue
        if other.rpc == asked.rpc:
            raise NodeTaken(asked.node, f"{asked.rpc} is the address of node {other.id}")
        if asked.uuid and other.uuid == asked.uuid:
            raise NodeTaken(asked.node, f"its disk is that of node {other.id}")


def activate_node(draft: Draft, asked: work.ActivateNode, catalog: CatalogView) -> Outcome:
    found = _member(asked.node, catalog)
    if found.state is not NodeState.JOINING:
        return done(draft, 0)
    if not found.uuid:
        raise Unavailable(f"node {asked.node} has not said yet who it is")
    made = replace(found, state=NodeState.ACTIVE, since_ms=draft.wall_ms)
    return _put(draft, catalog, found, made)


def drain_node(draft: Draft, asked: work.DrainNode, catalog: CatalogView) -> Outcome:
    found = _member(asked.node, catalog)
    if found.state is NodeState.DRAINING:
        return done(draft, 0)
    left = sum(
        node.state is NodeState.ACTIVE and node.id != asked.node for node in catalog.nodes.values()
    )
    placement = catalog.placed
    held = placement.held_by(asked.node)
    members = max((len(placement.voters_of(group)) for group in held), default=0)
    needed = min(members, placement.replication)
    if not left and held:
        raise NodeNeeded(asked.node, "no other node could hold its groups")
    if left < needed:
        raise NodeNeeded(
            asked.node,
            f"groups have {needed} members, and {left} nodes would be left; CLUSTER JOIN another"
            f" node first, or CLUSTER REPLICATION 1; CLUSTER REMOVE {asked.node} if it is dead",
        )
    made = replace(found, state=NodeState.DRAINING, since_ms=draft.wall_ms)
    return _put(draft, catalog, found, made)


def remove_node(draft: Draft, asked: work.RemoveNode, catalog: CatalogView) -> Outcome:
    found = _member(asked.node, catalog)
    held = catalog.placed.held_by(asked.node)
    if held and not asked.dead:
        named = ", ".join(map(str, held))
        raise NodeNeeded(
            asked.node, f"it holds members of groups {named}; CLUSTER LEAVE {asked.node} moves them"
        )
    made = replace(found, state=NodeState.REMOVED, since_ms=draft.wall_ms)
    return _put(draft, catalog, found, made)


def put_members(draft: Draft, asked: work.PutMembers, catalog: CatalogView) -> Outcome:
    placement = catalog.placed
    changed = {
        group: voters
        for group, voters in asked.members.items()
        if placement.members.get(group) != voters
    }
    for group, voters in changed.items():
        if not META_GROUP <= group <= placement.groups:
            raise InvalidStatement(f"there is no group {group}")
        if len(voters) not in MEMBERS_ALLOWED or len(set(voters)) != len(voters):
            raise InvalidStatement(f"a group has 1, 3 or 5 different voters, not {voters}")
        before = placement.voters_of(group)
        # What a new cluster begins with comes first.
        for node in set(voters).difference(before) if catalog.nodes else ():
            state = _member(node, catalog).state
            if state is not NodeState.ACTIVE:
                raise Conflict(f"node {node} is {state.value} and gets no members")
        put_record(draft, catalog, records.members_key(group), encode_members(voters))
    return done(draft, len(changed))


def put_replication(draft: Draft, asked: work.PutReplication, catalog: CatalogView) -> Outcome:
    if asked.voters not in MEMBERS_ALLOWED:
        raise InvalidStatement("a group has 1, 3 or 5 members: two tolerate no more than one does")
    if catalog.placed.replication == asked.voters:
        return done(draft, 0)
    put_record(draft, catalog, records.REPLICATION_KEY, encode_replication(asked.voters))
    return done(draft)


def _member(node: NodeId, catalog: CatalogView) -> NodeRecord:
    """A node of the cluster. Raises UnknownNode."""
    found = catalog.nodes.get(node)
    if found is None:
        raise UnknownNode(node, None)
    if not found.holds:
        raise UnknownNode(node, "it was removed; CLUSTER JOIN brings it back")
    return found


def _put(draft: Draft, catalog: CatalogView, found: NodeRecord | None, made: NodeRecord) -> Outcome:
    if found == made:
        return done(draft, 0)
    put_record(draft, catalog, records.node_key(made.id), encode_node(made))
    return done(draft)
