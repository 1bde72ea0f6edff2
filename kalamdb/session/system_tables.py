"""Who knows the rows of which virtual table, and the one way to them.

1. The catalog's own tables and `information_schema` are known here; a node adds what it alone knows
   (`provide`): its groups, connections, settings, the audit log.
2. A query asks `opener(principal)` for the rows of a table when it opens its sources; SHOW asks
   `rows`.

Keeps: the reader's role is checked here once more, whatever path led here. A provider is called on
the loop and gives immutable records; the rows themselves may be read in a thread. A table nobody
provides is unknown, never empty.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable

from kalamdb.errors import UnknownTable
from kalamdb.model.catalog import CatalogView
from kalamdb.model.principal import Principal
from kalamdb.query.system import OpenVirtual, Values
from kalamdb.session import information_schema, system_catalog
from kalamdb.session.permissions import check_read
from kalamdb.sql.virtual import INFORMATION_SCHEMA, SYSTEM, VirtualTable, virtual_table

Rows = Iterable[Values]
Provider = Callable[[Principal], "Rows | Awaitable[Rows]"]

_FROM_CATALOG: dict[str, Callable[[CatalogView], Rows]] = {
    "users": system_catalog.users,
    "namespaces": system_catalog.namespaces,
    "schemas": system_catalog.schemas,
    "tables": system_catalog.tables,
    "columns": system_catalog.columns,
    "indexes": system_catalog.indexes,
    "datatypes": system_catalog.datatypes,
    "views": system_catalog.views,
}
_INFORMATION: dict[str, Callable[[CatalogView, Principal], Rows]] = {
    "schemata": information_schema.schemata,
    "tables": information_schema.tables,
    "columns": information_schema.columns,
    "views": information_schema.views,
    "table_constraints": information_schema.table_constraints,
    "key_column_usage": information_schema.key_column_usage,
    "constraint_column_usage": information_schema.constraint_column_usage,
    "check_constraints": information_schema.check_constraints,
    "referential_constraints": information_schema.nothing,
}


class SystemTables:
    """The virtual tables of one node."""

    def __init__(self, catalog: Callable[[], CatalogView]) -> None:
        self._catalog = catalog
        self._providers: dict[str, Provider] = {}

    def provide(self, name: str, provider: Provider) -> None:
        """`system.<name>` is what `provider` says; once per table."""
        assert virtual_table(SYSTEM, name)
        assert name not in self._providers | _FROM_CATALOG
        self._providers[name] = provider

    def opener(self, principal: Principal) -> OpenVirtual:
        async def opened(table: VirtualTable) -> Rows:
            return await self.rows(table, principal)

        return opened

    async def rows(self, table: VirtualTable, principal: Principal) -> Rows:
        """Raises PermissionDenied, UnknownTable."""
        check_read(principal, table)
        if table.namespace == INFORMATION_SCHEMA:
            inform = _INFORMATION.get(table.name)
            if inform is not None:
                return inform(self._catalog(), principal)
        else:
            of_catalog = _FROM_CATALOG.get(table.name)
            if of_catalog is not None:
                return of_catalog(self._catalog())
            provider = self._providers.get(table.name)
            if provider is not None:
                found = provider(principal)
                return await found if isawaitable(found) else found
        raise UnknownTable(table.full_name)
