"""The catalog as immutable data: namespaces, tables, users, placement at one version.

`CatalogView` is replaced as a whole by each applied catalog change; whoever bound a statement
against a view compares `version`. Data groups know schema from their own fences, never from here
(core.md §5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from kalamdb.errors import (
    InvalidStatement,
    NamespaceNotEmpty,
    Unavailable,
    UnknownNamespace,
    UnknownTable,
)
from kalamdb.model.ids import SLOTS, GroupId, NodeId, Partition, Slot, TableId, slot_of
from kalamdb.model.principal import Role
from kalamdb.model.slot import Move
from kalamdb.model.table import TableDef

_RESERVED_NAMESPACES = """
system sys root kalamdb kalam main sql admin internal information_schema pg_catalog datafusion
all_users
"""
RESERVED_NAMESPACES = frozenset(_RESERVED_NAMESPACES.split())
"""Namespaces nobody makes, nor tables in them."""
DEFAULT_NAMESPACE = "default"  # always there: it cannot be created or dropped


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    created_ms: int
    options: Mapping[str, object] = field(default_factory=dict[str, object])


class AuthType(Enum):
    """How a user signs in; internal ones cannot."""

    PASSWORD = "password"
    OIDC = "oidc"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a user is to an outside issuer of tokens."""

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class User:
    """`password_hash` is an argon2id string, empty for a user who cannot sign in by password
    yet. `identity` is of a user who signs in at an outside issuer: its tokens issued before
    `signed_out_ms` are void. `dropped_ms` marks the record of a dropped user, which keeps its name
    from being taken by accident. Times are Unix milliseconds.
    """

    name: str
    role: Role
    password_hash: str
    email: str | None
    epoch: int
    created_ms: int
    updated_ms: int
    identity: Identity | None = None
    signed_out_ms: int = 0
    dropped_ms: int | None = None

    @property
    def auth_type(self) -> AuthType:
        if self.identity is not None:
            return AuthType.OIDC
        return AuthType.PASSWORD if self.password_hash else AuthType.INTERNAL


class NodeState(Enum):
    """What is meant to become of a node. Its members of groups follow, one change at a time."""

    JOINING = "joining"  # its copy of the catalog is not current yet
    ACTIVE = "active"
    DRAINING = "draining"  # its members go to other nodes
    REMOVED = "removed"  # its id may be taken by another disk


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A data node. `uuid` is of its data directory, empty until it has said so; `rpc` and `http`
    are HOST:PORT, `http` empty until known. `since_ms`: when `state` was entered, Unix time.
    """

    id: NodeId
    uuid: str
    rpc: str
    http: str
    state: NodeState
    since_ms: int

    @property
    def holds(self) -> bool:
        """It is one of the cluster's nodes: a copy of the catalog belongs on it."""
        return self.state is not NodeState.REMOVED


MEMBERS_ALLOWED = (1, 3, 5)
"""How many voters a group may have; two tolerate no more than one."""
REPLICATION = 3  # of a new cluster


@dataclass(frozen=True, slots=True)
class Placement:
    """slot → data group, group → voters. Data groups are 1…`groups`; slots are cut into equal
    ranges.

    `voters` are those the cluster began with, `members` those a group is meant to have since, the
    preferred leader first. `replication`: how many it should have, where there are nodes for it.
    """

    cluster_id: str
    groups: int
    voters: tuple[int, ...]
    moved: Mapping[Slot, GroupId] = field(default_factory=dict[Slot, GroupId])
    members: Mapping[GroupId, tuple[NodeId, ...]] = field(
        default_factory=dict[GroupId, tuple[NodeId, ...]]
    )
    replication: int = REPLICATION

    def voters_of(self, group: GroupId) -> tuple[NodeId, ...]:
        """The voters a group is meant to have, META_GROUP too."""
        found = self.members.get(group)
        return tuple(map(NodeId, self.voters)) if found is None else found

    def held_by(self, node: NodeId) -> tuple[GroupId, ...]:
        """The groups `node` is meant to vote in."""
        numbers = map(GroupId, range(self.groups + 1))
        return tuple(group for group in numbers if node in self.voters_of(group))

    def named(self) -> frozenset[NodeId]:
        """The nodes that are meant to vote in any group."""
        numbers = map(GroupId, range(self.groups + 1))
        return frozenset(node for group in numbers for node in self.voters_of(group))

    def group_of(self, slot: Slot) -> GroupId:
        moved = self.moved.get(slot)
        return GroupId(slot * self.groups // SLOTS + 1) if moved is None else moved


@dataclass(frozen=True, slots=True)
class ViewDef:
    """A named SELECT; its id is drawn from the numbers of tables.

    `columns` are what it gives, for ever: `tables` (ids of the tables it names) come with the
    column id from which their columns are younger than it, and it sees none of those. `home` is
    the namespace of names in `sql` without one, `views` the ids of the views it names.
    """

    id: TableId
    namespace: str
    name: str
    columns: tuple[str, ...]
    sql: str
    home: str
    tables: Mapping[TableId, int]
    views: tuple[TableId, ...]
    version: int = 1
    created_ms: int = 0

    @property
    def full_name(self) -> str:
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True, slots=True)
class CatalogView:
    """`tables` by (namespace, name) holds active definitions only; `pending` those between the two
    steps: new tables, and by the id of an active one the definition that is to replace it.
    `history` holds the definitions that were replaced, by version, as stored bytes
    (`catalog_codec.decode_replaced`). `users` are those who may sign in; `dropped_users` are only
    names that are kept. `nodes` are all that ever joined, removed ones too.
    """

    version: int
    namespaces: Mapping[str, Namespace]
    tables: Mapping[tuple[str, str], TableDef]
    tables_by_id: Mapping[TableId, TableDef]
    pending: Mapping[TableId, TableDef]
    users: Mapping[str, User]
    placement: Placement | None
    dropped_users: Mapping[str, User] = field(default_factory=dict[str, "User"])
    views: Mapping[tuple[str, str], ViewDef] = field(default_factory=dict[tuple[str, str], ViewDef])
    history: Mapping[TableId, Mapping[int, bytes]] = field(
        default_factory=dict[TableId, Mapping[int, bytes]]
    )
    nodes: Mapping[NodeId, NodeRecord] = field(default_factory=dict[NodeId, NodeRecord])
    moves: Mapping[Slot, Move] = field(default_factory=dict[Slot, Move])

    @property
    def enrolled(self) -> bool:
        """`nodes` are all of the cluster's. The first ones of a new cluster come one by one: while
        some are missing, who is not among them may belong to it all the same.
        """
        placement = self.placement
        return placement is not None and bool(self.nodes) and self.nodes.keys() >= placement.named()

    @property
    def placed(self) -> Placement:
        """`placement`. Raises Unavailable before the cluster has one."""
        if self.placement is None:
            raise Unavailable("the cluster has not been placed yet")
        return self.placement

    def group_of(self, partition: Partition) -> GroupId:
        """The group that a partition's rows are in. Raises Unavailable as `placed` does."""
        return self.placed.group_of(slot_of(partition))

    def data_groups(self) -> tuple[GroupId, ...]:
        """All of the cluster. Raises Unavailable as `placed` does."""
        return tuple(map(GroupId, range(1, self.placed.groups + 1)))

    def table(self, namespace: str, name: str, kind: str = "table") -> TableDef:
        """Raises UnknownTable (UnknownNamespace when there is no such namespace), InvalidStatement
        for a view. `kind`: what the statement takes it for.
        """
        found = self.tables.get((namespace, name))
        if found is None:
            if (namespace, name) in self.views:
                raise InvalidStatement(f"{namespace}.{name} is a view, and not a table")
            if namespace not in self.namespaces:
                raise UnknownNamespace(namespace)
            raise UnknownTable(f"{namespace}.{name}", kind)
        return found

    def check_empty(self, namespace: str) -> None:
        """Raises NamespaceNotEmpty."""
        tables = (*self.tables_by_id.values(), *self.pending.values())
        held = len({table.id for table in tables if table.namespace == namespace})
        views = sum(view.namespace == namespace for view in self.views.values())
        parts = [(held, "tables"), (views, "views")]
        if held or views:
            shown = " and ".join(f"{count} {kind}" for count, kind in parts if count)
            raise NamespaceNotEmpty(namespace, shown)

    def ahead(self) -> CatalogView:
        """This catalog with the definitions that are to replace active ones; the same object when
        there are none.
        """
        found = self
        for table in self.pending.values():
            if table.id in self.tables_by_id:
                found = found.with_table(table)
        return found

    def with_table(self, table: TableDef) -> CatalogView:
        """This catalog with `table` in the place of its other versions: what a group that is ahead
        of the catalog told of.
        """
        by_id = {**self.tables_by_id, table.id: table}
        by_name = {key: one for key, one in self.tables.items() if one.id != table.id}
        by_name[table.namespace, table.name] = table
        return replace(self, tables=by_name, tables_by_id=by_id)


EMPTY_CATALOG = CatalogView(0, {}, {}, {}, {}, {}, None)
