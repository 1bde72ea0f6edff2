"""Statements that were parsed, permitted and bound once, kept by text.

The key is (text, namespace); an entry is good while its tables are what they were. This cache is
why a repeated insert or point read never parses a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kalamdb.errors import Unsupported
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.principal import Role
from kalamdb.model.table import TableDef
from kalamdb.session import answers
from kalamdb.sql import analyze
from kalamdb.sql.bound import (
    Bound,
    ChangePlan,
    EngineChangePlan,
    InsertPlan,
    InsertSelectPlan,
    PointSelect,
    RangeSelect,
    ScanSelect,
)
from kalamdb.sql.statement import Delete, Insert, Select, Update

Data = Select | Insert | Update | Delete

ENTRIES_MAX = 2000
TEXT_LENGTH_MAX = 16_384  # longer texts carry literals and do not come twice


@dataclass(slots=True)
class Prepared:
    """A bound data statement. `permitted` holds the roles that were checked for it already."""

    version: int
    statement: Data
    bound: Bound
    schema: bytes
    tables: tuple[TableDef, ...]
    text: str | None = None  # what it is kept by
    all_users: tuple[str, ...] = ()  # tables of which all tenants' rows are read
    views: tuple[ViewDef, ...] = ()
    permitted: set[Role] = field(default_factory=set[Role])


def prepare(statement: Data, catalog: CatalogView, namespace: str) -> Prepared:
    """Bind a statement against a catalog. Raises the analyser's errors."""
    bound = analyze.bind(statement, catalog, namespace)
    match bound:
        case PointSelect() | RangeSelect():
            output, tables = bound.output, (bound.table,)
        case ScanSelect():
            output, tables = (), tuple(scan.table for scan in bound.tables)
        case InsertSelectPlan() | EngineChangePlan():
            output = bound.returning_output
            tables = (bound.table, *(scan.table for scan in bound.scan.tables))
        case InsertPlan() | ChangePlan():
            output, tables = bound.returning_output, (bound.table,)
    prepared = Prepared(catalog.version, statement, bound, answers.schema(output), tables)
    scanned = bound.scan if isinstance(bound, (InsertSelectPlan, EngineChangePlan)) else bound
    if isinstance(scanned, ScanSelect):
        prepared.all_users = tuple(
            scan.table.full_name for scan in scanned.tables if scan.all_users
        )
        prepared.views = scanned.views
        if prepared.all_users and scanned is not bound:
            raise Unsupported(
                "a view of all_users in a statement that writes", "SELECT first, then write"
            )
    return prepared


class PreparedCache:
    """Bounded by count; the oldest entry leaves first."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries: dict[tuple[str, str], Prepared] = {}
        self._entries_max = entries_max

    def get(self, text: str, namespace: str, catalog: CatalogView) -> Prepared | None:
        """The statement if it is good for `catalog`.

        A newer catalog often differs in users only: when the tables have the same versions, names
        resolve as before.
        """
        found = self._entries.get((text, namespace))
        if found is None or found.version == catalog.version:
            return found
        tables, views = catalog.tables_by_id, catalog.views
        if all(_stands(table, tables.get(table.id)) for table in found.tables) and all(
            views.get((view.namespace, view.name)) == view for view in found.views
        ):
            found.version = catalog.version
            return found
        return None

    def put(self, text: str, namespace: str, prepared: Prepared) -> None:
        if len(text) > TEXT_LENGTH_MAX:
            return
        self._entries.pop((text, namespace), None)
        if len(self._entries) >= self._entries_max:
            del self._entries[next(iter(self._entries))]
        prepared.text = text
        self._entries[text, namespace] = prepared

    def __len__(self) -> int:
        return len(self._entries)


def _stands(table: TableDef, now: TableDef | None) -> bool:
    """A version of a table has one definition for ever."""
    return now is table or (now is not None and now.version == table.version)
