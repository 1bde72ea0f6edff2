"""The catalog as immutable data: namespaces, tables, users, placement at one version.

`CatalogView` is replaced as a whole by each applied catalog change; whoever bound a statement
against a view compares `version`. Data groups know schema from their own fences, never from here
(core.md §5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class User:
    """`password_hash` is an argon2id string, empty for a user who cannot sign in by password
    yet.
    """

    name: str
    role: Role
    password_hash: str
    email: str | None
    epoch: int
    created_ms: int
    updated_ms: int


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
