"""The catalog as immutable data: namespaces, tables, users, placement at one version.

`CatalogView` is replaced as a whole by each applied catalog change; whoever bound a statement
against a view compares `version`. Data groups know schema from their own fences, never from here
(core.md §5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from kalamdb.errors import UnknownNamespace, UnknownTable
from kalamdb.model.ids import SLOTS, GroupId, Slot, TableId
from kalamdb.model.principal import Role
from kalamdb.model.table import TableDef

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


@dataclass(frozen=True, slots=True)
class Placement:
    """slot → data group. Data groups are 1…`groups`; slots are cut into equal ranges."""

    cluster_id: str
    groups: int
    voters: tuple[int, ...]
    moved: Mapping[Slot, GroupId] = field(default_factory=dict[Slot, GroupId])

    def group_of(self, slot: Slot) -> GroupId:
        moved = self.moved.get(slot)
        return GroupId(slot * self.groups // SLOTS + 1) if moved is None else moved


@dataclass(frozen=True, slots=True)
class CatalogView:
    """`tables` by (namespace, name) holds active definitions only; `pending` those between the two
    steps.
    """

    version: int
    namespaces: Mapping[str, Namespace]
    tables: Mapping[tuple[str, str], TableDef]
    tables_by_id: Mapping[TableId, TableDef]
    pending: Mapping[TableId, TableDef]
    users: Mapping[str, User]
    placement: Placement | None

    def table(self, namespace: str, name: str) -> TableDef:
        """Raises UnknownTable (UnknownNamespace when there is no such namespace)."""
        found = self.tables.get((namespace, name))
        if found is None:
            if namespace not in self.namespaces:
                raise UnknownNamespace(namespace)
            raise UnknownTable(f"{namespace}.{name}")
        return found


EMPTY_CATALOG = CatalogView(0, {}, {}, {}, {}, {}, None)
