# pyright: basic
"""Parsed statements → bound ones: names resolved, types known, the path chosen.

Pure: what comes out depends on the statement, the namespace and the catalog's version only, so that
it is kept and run again with other parameters.
"""

from __future__ import annotations

from typing import assert_never

from kalamdb.model.catalog import CatalogView
from kalamdb.sql.bound import Bound
from kalamdb.sql.change import bind_change
from kalamdb.sql.explain import describe_path
from kalamdb.sql.insert import bind_insert
from kalamdb.sql.select import bind_select
from kalamdb.sql.statement import Delete, Insert, Select, Update

__all__ = ["bind", "describe_path"]


def bind(
    statement: Select | Insert | Update | Delete, catalog: CatalogView, namespace: str
) -> Bound:
    """Bind a statement against one version of the catalog.

    Raises UnknownNamespace, UnknownTable, UnknownColumn, TypeMismatch, ValueOutOfRange,
    InvalidStatement, NotNullViolation, Unsupported. Errors of parameters come when the bound
    statement runs.
    """
    match statement:
        case Select():
            return bind_select(statement.tree, catalog, namespace)
        case Insert():
            name = statement.table
            table = catalog.table(name.namespace or namespace, name.name)
            return bind_insert(statement.tree, table, catalog, namespace)
        case Update() | Delete():
            name = statement.table
            table = catalog.table(name.namespace or namespace, name.name)
            return bind_change(statement.tree, table, catalog, namespace)
        case _:
            assert_never(statement)
