"""CLUSTER statements: what an operator sees and asks of nodes, members and leaders.

LIST and STATUS are rows of `system.cluster` and `system.cluster_groups`, arranged for people. The
others go to `ClusterControl`, which is real only on the node that leads meta; whoever carries
statements there has brought them.

Keeps: every change is told to `heard` (the audit log) once it was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from kalamdb.errors import Unsupported
from kalamdb.model.principal import Principal
from kalamdb.model.types import BIGINT, BOOLEAN, TEXT, ColumnType
from kalamdb.model.values import encoder
from kalamdb.query.system import Values
from kalamdb.session import answers
from kalamdb.session.system_tables import SystemTables
from kalamdb.sql.bound import OutputColumn
from kalamdb.sql.cluster_statement import (
    ClusterAsked,
    ClusterChange,
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
from kalamdb.sql.virtual import SYSTEM, virtual_table

LEADER = "leader"


@dataclass(frozen=True, slots=True)
class ClusterAct:
    """What became of a statement in one group (None: in the cluster as a whole)."""

    action: str
    group: int | None = None
    node: int | None = None
    error: str | None = None
    snapshot_index: int | None = None


class ClusterControl(Protocol):
    """Carries out what an operator asks. `cluster/control.py` implements it."""

    async def carry_out(self, asked: ClusterChange) -> str | Sequence[ClusterAct]:
        """A message, or what was done group by group; a group that could not says why in its act.

        Raises UnknownNode, NodeTaken, NodeNeeded, NoSuchMember, InvalidStatement, Unavailable.
        """
        ...


Heard = Callable[[Principal, str], None]
"""Who changed what, as `LEAVE 3`."""


class ClusterStatements:
    """Answers them. `control` None: a session outside a node, which has no cluster."""

    def __init__(self, system: SystemTables, control: ClusterControl | None, heard: Heard) -> None:
        self._system = system
        self._control = control
        self._heard = heard

    async def answer(self, principal: Principal, asked: ClusterAsked) -> bytes:
        """The result as bytes. Raises the error tree."""
        user = principal.user
        match asked:
            case ClusterList():
                rows = [_picked(row, _LIST) for row in await self._rows("cluster", principal)]
                return _table(_LIST, rows, user)
            case ClusterStatus():
                found = await self._rows("cluster_groups", principal)
                return _table(_STATUS, list(_groups(found)), user)
            case _:
                if self._control is None:
                    raise Unsupported("CLUSTER statements", "this session belongs to no node")
                done = await self._control.carry_out(asked)
                self._heard(principal, described(asked))
                if isinstance(done, str):
                    return answers.message(done, user)
                return _table(_ACTS, map(_act_row, done), user)

    async def _rows(self, name: str, principal: Principal) -> Sequence[Mapping[str, object]]:
        table = virtual_table(SYSTEM, name)
        names = [column.name for column in table.columns]
        rows = await self._system.rows(table, principal)
        return [dict(zip(names, row, strict=True)) for row in rows]


def described(asked: ClusterChange) -> str:
    """As it stands in the audit log."""
    match asked:
        case ClusterJoin(node, rpc):
            return f"JOIN {node} {rpc}"
        case ClusterLeave(node):
            return f"LEAVE {node}"
        case ClusterRemove(node):
            return f"REMOVE {node}"
        case ClusterReplication(voters):
            return f"REPLICATION {voters}"
        case ClusterTransfer(group, node):
            return f"TRANSFER LEADER {'of all groups' if group is None else group} TO {node}"
        case ClusterStepDown(group, node):
            named = f" GROUP {group}" if group is not None else ""
            return f"STEPDOWN{named}" if node is None else f"STEPDOWN NODE {node}"
        case ClusterRebalance(leaders):
            return "REBALANCE LEADERS" if leaders else "REBALANCE"
        case ClusterMove(slot, group):
            return f"MOVE {'SLOT' if isinstance(slot, int) else 'USER'} {slot} TO GROUP {group}"
        case ClusterSnapshot(group):
            return "SNAPSHOT" if group is None else f"SNAPSHOT {group}"


# ---- rows ---------------------------------------------------------------------------------------

_Columns = Mapping[str, ColumnType]

_LIST: _Columns = {
    "node_id": BIGINT,
    "status": TEXT,
    "connected": BOOLEAN,
    "rpc_addr": TEXT,
    "api_addr": TEXT,
    "is_leader": BOOLEAN,
    "groups_leading": BIGINT,
    "members": BIGINT,
    "version": TEXT,
    "uuid": TEXT,
}
_STATUS: _Columns = {
    "group_id": BIGINT,
    "group_type": TEXT,
    "current_leader": BIGINT,
    "current_term": BIGINT,
    "voters": TEXT,
    "learners": TEXT,
    "wished": TEXT,
    "committed": BIGINT,
}
_ACTS: _Columns = {
    "action": TEXT,
    "group_id": BIGINT,
    "success": BOOLEAN,
    "error": TEXT,
    "snapshot_index": BIGINT,
    "target_node_id": BIGINT,
}


def _act_row(act: ClusterAct) -> Values:
    return (act.action, act.group, act.error is None, act.error, act.snapshot_index, act.node)


def _picked(row: Mapping[str, object], columns: _Columns) -> Values:
    return tuple(row[name] for name in columns)


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[Values]:
    """One row per group: what its leader says, else the member that has seen the newest term."""
    best: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        known = best.get(row["group_id"])
        if known is None or _rank(row) > _rank(known):
            best[row["group_id"]] = row
    for _, row in sorted(best.items()):
        leader = row["current_leader"] if row["state"] == LEADER else None
        yield _picked({**row, "current_leader": leader}, _STATUS)


def _rank(row: Mapping[str, Any]) -> tuple[bool, int]:
    return row["state"] == LEADER, row["current_term"] or 0


def _table(columns: _Columns, rows: Iterable[Values], user: str) -> bytes:
    output = [OutputColumn(name, kind) for name, kind in columns.items()]
    encoders = [encoder(kind) for kind in columns.values()]
    found: list[list[Any]] = [
        [
            value if value is None or encode is None else encode(value)
            for value, encode in zip(row, encoders, strict=True)
        ]
        for row in rows
    ]
    return answers.rows(answers.schema(output), orjson.dumps(found), len(found), user, "0")
