"""Errors of the cluster's nodes and members, in the families of `errors`.

StatementFailed ─ UnknownNode · NodeTaken · NodeNeeded · NoSuchMember
"""

from __future__ import annotations

from kalamdb.errors import StatementFailed


class UnknownNode(StatementFailed):
    """`hint` says what makes it one of the cluster's."""

    fields = ("node", "hint")

    def __str__(self) -> str:
        return f"node {self.node} is no node of this cluster" + (
            f"; {self.hint}" if self.hint else ""
        )


class NodeTaken(StatementFailed):
    """The id, the address or the disk belongs to a node of the cluster already."""

    fields = ("node", "detail")
    text = "node {node} is refused: {detail}"


class NodeNeeded(StatementFailed):
    """The node cannot leave: what it holds has no other place."""

    fields = ("node", "detail")
    text = "node {node} cannot go: {detail}"


class NoSuchMember(StatementFailed):
    """The node (None: any but the leader) cannot lead the group."""

    fields = ("node", "group", "detail")

    def __str__(self) -> str:
        who = "no other node" if self.node is None else f"node {self.node}"
        can = "can" if self.node is None else "cannot"
        return f"{who} {can} lead group {self.group}: {self.detail}"
