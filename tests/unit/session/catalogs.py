"""A catalog of one USER and one SHARED table, with a view."""

from __future__ import annotations

from dataclasses import replace

from kalamdb.model.catalog import EMPTY_CATALOG, Namespace, ViewDef
from kalamdb.model.ids import TableId
from kalamdb.model.table import TableDef, TableKind
from kalamdb.model.types import Kind
from tests.unit.query.world import column, table

MINE = replace(table(1, "mine", column(1, "id", Kind.BIGINT)), namespace="app")
SETTINGS = replace(
    table(2, "settings", column(1, "id", Kind.BIGINT), kind=TableKind.SHARED), namespace="app"
)
VIEW_OF_MINE = ViewDef(
    TableId(3),
    "app",
    "view_of_mine",
    ("id",),
    "SELECT id FROM mine",
    "app",
    {MINE.id: 2},
    (),
)
_TABLES: tuple[TableDef, ...] = (MINE, SETTINGS)
CATALOG = replace(
    EMPTY_CATALOG,
    version=7,
    namespaces={"app": Namespace("app", 0), "default": Namespace("default", 0)},
    tables={(one.namespace, one.name): one for one in _TABLES},
    tables_by_id={one.id: one for one in _TABLES},
    views={("app", "view_of_mine"): VIEW_OF_MINE},
)
