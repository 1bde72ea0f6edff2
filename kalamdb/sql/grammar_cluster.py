# pyright: basic
"""CLUSTER statements: nodes, members, leaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlglot.tokenizer_core import TokenType

from kalamdb.config import check_address
from kalamdb.errors import InvalidStatement, Unsupported
from kalamdb.sql.cluster_statement import (
    ClusterAsked,
    ClusterJoin,
    ClusterLeave,
    ClusterList,
    ClusterMove,
    ClusterRebalance,
    ClusterRemove,
    ClusterReplication,
    ClusterSnapshot,
    ClusterStatus,
    ClusterStepDown,
    ClusterTransfer,
)
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import Cluster, Statement

_REFUSED: Mapping[tuple[str, ...], str] = {
    ("PURGE",): "logs are cut by themselves; CLUSTER SNAPSHOT does it now",
    ("CLEAR",): "no files of snapshots are left behind",
    ("TRIGGER", "ELECTION"): "write CLUSTER STEPDOWN",
}


def cluster(reader: Reader) -> Statement:
    """`CLUSTER …`."""
    reader.expect("CLUSTER")
    for words, hint in _REFUSED.items():
        if _accept(reader, *words):
            raise Unsupported(f"CLUSTER {' '.join(words)}", hint)
    for words, read in _FORMS.items():
        if _accept(reader, *words):
            return Cluster(read(reader))
    reader.fail(
        "LIST, STATUS, JOIN, LEAVE, REMOVE, REPLICATION, TRANSFER LEADER, STEPDOWN, REBALANCE, MOVE"
        " or SNAPSHOT is expected"
    )


def _accept(reader: Reader, *words: str) -> bool:
    """As `Reader.accept`; STEP-DOWN and STEP DOWN are the same two words."""
    at = reader.at
    for number, word in enumerate(words):
        if number:
            reader.accept_symbol(TokenType.DASH)
        if not reader.accept(word):
            reader.at = at
            return False
    return True


def _join(reader: Reader) -> ClusterAsked:
    node = _node(reader)
    reader.accept("RPC")
    rpc = _address(reader)
    http = _address(reader) if reader.accept("API") or not reader.done else None
    return ClusterJoin(node, rpc, http)


def _transfer(reader: Reader) -> ClusterAsked:
    """`[OF] [GROUP] g TO [NODE] n`, or the node alone for all groups."""
    reader.accept("OF")
    named = reader.accept("GROUP")
    if not named and reader.accept("NODE"):
        return ClusterTransfer(None, _number(reader, "a node's id"))
    number = _number(reader, "a group or a node")
    if not named and reader.done:
        return ClusterTransfer(None, number)
    reader.expect("TO")
    return ClusterTransfer(number, _node(reader))


def _step_down(reader: Reader) -> ClusterAsked:
    if reader.accept("GROUP"):
        return ClusterStepDown(group=_number(reader, "a group"))
    return ClusterStepDown() if reader.done else ClusterStepDown(node=_node(reader))


def _rebalance(reader: Reader) -> ClusterAsked:
    return ClusterRebalance(leaders=reader.accept("LEADERS"))


def _move(reader: Reader) -> ClusterAsked:
    """`SLOT n TO [GROUP] g`, `USER 'name' TO [GROUP] g`."""
    if reader.accept("USER"):
        slot: int | str = reader.string("a user's name")
    else:
        reader.accept("SLOT")
        slot = _number(reader, "a slot")
    reader.expect("TO")
    reader.accept("GROUP")
    return ClusterMove(slot, _number(reader, "a group"))


def _snapshot(reader: Reader) -> ClusterAsked:
    if reader.done:
        return ClusterSnapshot()
    reader.accept("GROUP")
    return ClusterSnapshot(_number(reader, "a group"))


def _node(reader: Reader) -> int:
    reader.accept("NODE")
    return _number(reader, "a node's id")


def _number(reader: Reader, what: str) -> int:
    return reader.integer(what)


def _address(reader: Reader) -> str:
    """In quotes, or bare up to the next space."""
    token = reader.peek()
    if token is None:
        reader.fail("an address (HOST:PORT) is expected")
    if token.token_type is TokenType.STRING:
        text = reader.string("an address")
    else:
        start = end = token
        while (token := reader.peek()) is not None and (
            token is start or token.start == end.end + 1
        ):
            end = reader.take()
        text = reader.text[start.start : end.end + 1]
    complaint = check_address(text)
    if complaint is not None:
        raise InvalidStatement(complaint)
    return text


_FORMS: Mapping[tuple[str, ...], Callable[[Reader], ClusterAsked]] = {
    ("LIST",): lambda reader: ClusterList(),
    ("LS",): lambda reader: ClusterList(),
    ("STATUS",): lambda reader: ClusterStatus(),
    ("JOIN",): _join,
    ("LEAVE",): lambda reader: ClusterLeave(_node(reader)),
    ("REMOVE",): lambda reader: ClusterRemove(_node(reader)),
    ("REPLICATION",): lambda reader: ClusterReplication(_number(reader, "a number of members")),
    ("TRANSFER", "LEADER"): _transfer,
    ("STEPDOWN",): _step_down,
    ("STEP", "DOWN"): _step_down,
    ("REBALANCE",): _rebalance,
    ("MOVE",): _move,
    ("SNAPSHOT",): _snapshot,
}
