"""Where a statement is carried out: at the leader of a partition, of the meta group, or anywhere.

Names alone decide it, so that a router, which binds nothing, and a node say the same. A SELECT that
reads several partitions belongs to its tenant's; the rows of the others are fetched from there.

Keeps: a statement that writes belongs to the partition it writes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from kalamdb.errors import UnknownTable
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.ids import Partition, TableId, TenantId, shared_partition, tenant_partition
from kalamdb.model.principal import Principal
from kalamdb.model.table import TableDef
from kalamdb.sql.cluster_statement import ClusterChange
from kalamdb.sql.statement import (
    AlterNamespace,
    AlterTable,
    AlterUser,
    Begin,
    Cluster,
    Commit,
    CreateIndex,
    CreateNamespace,
    CreateTable,
    CreateUser,
    CreateView,
    Delete,
    DropIndex,
    DropNamespace,
    DropTable,
    DropUser,
    DropView,
    ExecuteAs,
    Explain,
    Insert,
    Rollback,
    Select,
    SetOption,
    Statement,
    TableName,
    Update,
    UseNamespace,
)
from kalamdb.sql.virtual import VIRTUAL_NAMESPACES

_DEFINITIONS = (
    CreateNamespace,
    DropNamespace,
    AlterNamespace,
    CreateTable,
    AlterTable,
    DropTable,
    CreateView,
    DropView,
    CreateIndex,
    DropIndex,
    CreateUser,
    AlterUser,
    DropUser,
)


class Where(Enum):
    """`TENANT`: the caller's own partition, whoever that is."""

    TENANT = auto()
    SHARED = auto()
    OTHER_TENANT = auto()
    META = auto()
    ANYWHERE = auto()


@dataclass(frozen=True, slots=True)
class Target:
    """`table` with SHARED, `tenant` with OTHER_TENANT."""

    where: Where
    table: TableId | None = None
    tenant: TenantId | None = None
    writes: bool = False

    def partition(self, principal: Principal) -> Partition | None:
        """None for what belongs to no partition."""
        match self.where:
            case Where.TENANT:
                return principal.partition
            case Where.SHARED:
                assert self.table is not None
                return shared_partition(self.table)
            case Where.OTHER_TENANT:
                assert self.tenant is not None
                return tenant_partition(self.tenant)
            case Where.META | Where.ANYWHERE:
                return None


ANYWHERE = Target(Where.ANYWHERE)
META = Target(Where.META, writes=True)


def target_of(statement: Statement, catalog: CatalogView, namespace: str) -> Target:
    """Raises UnknownTable when the catalog does not have what the statement names."""
    match statement:
        case Select(tables=tables):
            found = list(_tables(tables, catalog, namespace))
            if any(table.is_tenant_scoped for table in found):
                return Target(Where.TENANT)
            return Target(Where.SHARED, found[0].id) if found else ANYWHERE
        case Insert(table=name) | Update(table=name) | Delete(table=name):
            table = catalog.tables.get((name.namespace or namespace, name.name))
            if table is None:
                raise UnknownTable(f"{name.namespace or namespace}.{name.name}")
            if table.is_tenant_scoped:
                return Target(Where.TENANT, writes=True)
            return Target(Where.SHARED, table.id, writes=True)
        case ExecuteAs(user=user, inner=inner):
            inside = target_of(inner, catalog, namespace)
            if inside.where is Where.TENANT:
                return Target(Where.OTHER_TENANT, tenant=TenantId(user), writes=inside.writes)
            return inside
        case Explain():
            return ANYWHERE
        case Cluster(asked):
            return META if isinstance(asked, ClusterChange) else ANYWHERE
        case _:
            return META if isinstance(statement, _DEFINITIONS) else ANYWHERE


def _tables(names: Sequence[TableName], catalog: CatalogView, namespace: str) -> Iterator[TableDef]:
    """Stored tables of one tenant, or SHARED; those of views among them."""
    for name in names:
        place = (name.namespace or namespace, name.name)
        if place[0] in VIRTUAL_NAMESPACES or name.all_users:
            continue
        table, view = catalog.tables.get(place), catalog.views.get(place)
        if table is not None:
            yield table
        elif view is None:
            raise UnknownTable(".".join(place))
        else:
            yield from _tables_of_view(view, catalog, set())


def _tables_of_view(view: ViewDef, catalog: CatalogView, seen: set[TableId]) -> Iterator[TableDef]:
    seen.add(view.id)
    for number in view.tables:
        table = catalog.tables_by_id.get(number)
        if table is not None:
            yield table
    for inner in catalog.views.values():
        if inner.id in view.views and inner.id not in seen:
            yield from _tables_of_view(inner, catalog, seen)


@dataclass(frozen=True, slots=True)
class Segment:
    """Statements `start` to `stop` (not included) that go to one place together."""

    start: int
    stop: int
    target: Target
    namespace: str  # in force after it
    stale: bool  # likewise


def next_segment(
    statements: Sequence[Statement],
    start: int,
    catalog: CatalogView,
    *,
    namespace: str,
    stale: bool,
) -> Segment:
    """What can go together from `start` on. A transaction stays whole; a definition stands alone,
    because what follows may need it.

    Raises UnknownTable of the first statement only; of a later one the segment ends before it.
    """
    if isinstance(statements[start], Begin):
        return _transaction(statements, start, catalog, namespace=namespace, stale=stale)
    target, at = ANYWHERE, start
    while at < len(statements) and not isinstance(statements[at], Begin):
        statement = statements[at]
        if isinstance(statement, UseNamespace):
            namespace = statement.name
        elif isinstance(statement, SetOption):
            if at > start and target.where is not Where.ANYWHERE:
                break  # where a read may go depends on it
            stale = statement.value == "stale"
        else:
            try:
                found = target_of(statement, catalog, namespace)
            except UnknownTable:
                if at == start:
                    raise
                break
            if found.where is Where.META and at > start:
                break
            if found.where is not Where.ANYWHERE:
                if target.where is Where.ANYWHERE:
                    target = found
                elif _place(found) != _place(target):
                    break
                elif found.writes and not target.writes:
                    target = found
        at += 1
        if target.where is Where.META:
            break
    return Segment(start, at, target, namespace, stale)


def _place(target: Target) -> tuple[object, ...]:
    return target.where, target.table, target.tenant


def _transaction(
    statements: Sequence[Statement],
    start: int,
    catalog: CatalogView,
    *,
    namespace: str,
    stale: bool,
) -> Segment:
    """From BEGIN to what ends it, or to the end: all of it at the partition it writes to."""
    reads: Target | None = None
    writes: Target | None = None
    at = start
    while at < len(statements):
        statement = statements[at]
        at += 1
        if isinstance(statement, (Commit, Rollback)):
            break
        if isinstance(statement, UseNamespace):
            namespace = statement.name
        try:
            found = target_of(statement, catalog, namespace)
        except UnknownTable:
            continue  # said where it is carried out
        if found.writes and found.where is not Where.META:
            writes = writes or found
        elif found.where is not Where.ANYWHERE:
            reads = reads or found
    target = writes or reads or Target(Where.TENANT)
    if target.where is Where.META:
        target = Target(Where.TENANT)
    return Segment(start, at, target, namespace, stale)
