# pyright: basic
"""EXPLAIN: the path a bound statement takes, in words. Shows no data of anybody."""

from __future__ import annotations

from typing import assert_never

from kalamdb.model.key_range import KeySource
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import (
    AccessPath,
    Bound,
    ChangePlan,
    EngineChangePlan,
    InsertPlan,
    InsertSelectPlan,
    PointSelect,
    RangeSelect,
    ScanSelect,
)
from kalamdb.sql.engine_query import Renderer


def describe_path(bound: Bound) -> list[str]:
    """Lines that name the path: by key, by scan, by the query engine and with which text."""
    match bound:
        case PointSelect():
            rest = [] if bound.where is None else ["filter: the rest of the WHERE"]
            return [
                f"point read of {bound.table.full_name} by primary key ({_key(bound.table)})",
                *rest,
            ]
        case RangeSelect():
            return _ranged(bound)
        case ScanSelect():
            return _engine(bound)
        case InsertPlan():
            return [*_insert(bound), *_returning(bound.returning is not None)]
        case InsertSelectPlan():
            return [*_insert(bound), *_engine(bound.scan), *_returning(bound.returning is not None)]
        case ChangePlan():
            return [*_change(bound), *_returning(bound.returning is not None)]
        case EngineChangePlan():
            verb = "delete" if bound.assigned is None else "update"
            first = f"{verb} of {bound.table.full_name} by primary key, of the rows the query finds"
            return [first, *_engine(bound.scan), *_returning(bound.returning is not None)]
        case _:
            assert_never(bound)


def _ranged(plan: RangeSelect) -> list[str]:
    table = plan.table
    direction = ", backwards" if plan.reverse else ""
    lines = [f"read of {table.full_name} {_path(plan.path)}{direction}"]
    if plan.where is not None:
        lines.append("filter: the rest of the WHERE")
    if not plan.sort:
        lines.append("order: that of the keys")
    else:
        columns = ", ".join(
            one.column.name + (" DESC" if one.descending else "") for one in plan.sort
        )
        how = "ranges merged" if plan.sorted_within else "rows sorted"
        lines.append(f"order: {how} by {columns}")
    return lines


def _path(path: AccessPath) -> str:
    """`by index i (a = …, b in a range)`."""
    match path.source:
        case KeySource.PRIMARY:
            name = "by primary key"
        case KeySource.INDEX:
            name = f"by index {path.name}"
        case KeySource.UNIQUE:
            name = f"by UNIQUE {path.name}"
    how = "one of several values" if path.several else "one value"
    parts = [column.name for column in path.columns[: path.fixed]]
    said = [f"{', '.join(parts)}: {how}"] if parts else []
    if path.bounded:
        said.append(f"{path.columns[path.fixed].name}: a range")
    return f"{name} ({'; '.join(said)})" if said else f"{name} (in its order)"


def _key(table: TableDef) -> str:
    return ", ".join(column.name for column in table.key_columns)


def _insert(plan: InsertPlan | InsertSelectPlan) -> list[str]:
    table = plan.table
    lines = [f"insert into {table.full_name} by primary key ({_key(table)})"]
    if plan.conflict is not None:
        lines.append("on conflict: decided with the row's key or UNIQUE value")
    return lines


def _change(plan: ChangePlan) -> list[str]:
    verb = "delete" if plan.change is None else "update"
    table = plan.table
    if plan.keys is not None:
        lines = [f"{verb} of {table.full_name} by primary key ({_key(table)})"]
        return lines if plan.where is None else [*lines, "filter: the rest of the WHERE"]
    how = "every row" if plan.where is None else "a compiled filter"
    if plan.path is not None:
        lines = [f"{verb} of {table.full_name} {_path(plan.path)}"]
        return lines if plan.where is None else [*lines, "filter: the rest of the WHERE"]
    return [f"{verb} by scan of {table.full_name} with {how}"]


def _engine(scan: ScanSelect) -> list[str]:
    text = scan.render.shown if isinstance(scan.render, Renderer) else ""
    lines = [f"query engine: {text}"]
    for source in scan.tables:
        columns = ", ".join(column.name for column in source.columns)
        prefix = "all users' " if source.all_users else ""
        how = "scan" if source.path is None else "read"
        by = "" if source.path is None else f" {_path(source.path)}"
        name = source.table.full_name
        lines.append(f"{how} of {prefix}{name}{by} as {source.alias}: {columns}")
    return lines


def _returning(asked: bool) -> list[str]:
    return ["returning rows"] if asked else []
