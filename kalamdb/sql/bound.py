"""Bound statements: names resolved, types known, ready to run many times with other parameters.

A *bound* statement belongs to a catalog version and is cached by (text, namespace, version);
everything that varies per run is in `Env`. The classes say which path a statement takes: by key (no
DataFusion, no second parse), by scan with our own predicate, or by the query engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kalamdb.lib.clock import Ids
from kalamdb.model.change import Row
from kalamdb.model.ids import Seq
from kalamdb.model.principal import Principal
from kalamdb.model.table import Column, TableDef
from kalamdb.model.types import ColumnType
from kalamdb.model.work import ConflictRule, ReturningClause


@dataclass(frozen=True, slots=True)
class Env:
    """What a statement may see of its run: who, when (fixed per statement), dice, parameters."""

    principal: Principal
    now_ms: int
    ids: Ids
    params: Sequence[Any]


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A result column. `flags` as in result schemas (pk, nn, uq), empty for computed columns."""

    name: str
    type: ColumnType
    flags: tuple[str, ...] = ()


Predicate = Callable[[Row, Seq], bool]
"""Row (without deleted ones) and its seq → does WHERE hold (NULL counts as no)."""


@dataclass(frozen=True, slots=True)
class PointSelect:
    """SELECT of columns by full primary key: `keys(env)` gives key bytes, most often one.

    `project(row, seq)` gives the JSON-ready row; `where(env)` is the rest of the WHERE, None when
    there is none.
    """

    table: TableDef
    output: tuple[OutputColumn, ...]
    keys: Callable[[Env], Sequence[bytes]]
    project: Callable[[Row, Seq], Sequence[Any]]
    where: Callable[[Env], Predicate] | None


@dataclass(frozen=True, slots=True)
class ScanTable:
    """A base table inside a query, under the name the rendered SQL uses for it."""

    alias: str
    table: TableDef
    columns: tuple[Column, ...]  # what the query reads, system columns among them
    all_users: bool = False


@dataclass(frozen=True, slots=True)
class ScanSelect:
    """Everything else: `render(env)` is SQL for the engine with parameters and session values as
    literals.
    """

    tables: tuple[ScanTable, ...]
    render: Callable[[Env], str]
    ordered: bool  # an ORDER BY stands at the top


@dataclass(frozen=True, slots=True)
class InsertPlan:
    """INSERT … VALUES: `rows(env)` gives typed rows with defaults filled, `drawn` the seq-drawn
    columns.
    """

    table: TableDef
    rows: Callable[[Env], list[Row]]
    drawn: tuple[int, ...]
    conflict: Callable[[Env], ConflictRule] | None
    returning: ReturningClause | None
    returning_output: tuple[OutputColumn, ...]


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """UPDATE (`change`) or DELETE (`change` None).

    By key when `keys` is set (then `where` is the rest of the WHERE, or None); otherwise by scan
    with `where`.
    """

    table: TableDef
    keys: Callable[[Env], Sequence[bytes]] | None
    where: Callable[[Env], Predicate] | None
    change: Callable[[Env], Callable[[Row], Row]] | None
    returning: ReturningClause | None
    returning_output: tuple[OutputColumn, ...]


@dataclass(frozen=True, slots=True)
class EngineChangePlan:
    """UPDATE or DELETE whose WHERE or SET needs the query engine (subqueries, other functions).

    `scan` selects, for every matching row, the primary key columns and then the new values of
    `assigned`.
    """

    table: TableDef
    scan: ScanSelect
    assigned: tuple[Column, ...] | None  # None: DELETE
    returning: ReturningClause | None
    returning_output: tuple[OutputColumn, ...]


@dataclass(frozen=True, slots=True)
class InsertSelectPlan:
    """INSERT … SELECT: `scan` gives values of `columns` in order; `complete(env, values)` a typed
    row.
    """

    table: TableDef
    scan: ScanSelect
    complete: Callable[[Env, Sequence[Any]], Row]
    drawn: tuple[int, ...]
    conflict: Callable[[Env], ConflictRule] | None
    returning: ReturningClause | None
    returning_output: tuple[OutputColumn, ...]


@dataclass(frozen=True, slots=True)
class LivePlan:
    """One-table SELECT with filter and projection, for a live query.

    `shape` is equal for subscriptions that may share serialised events (table, columns, bound
    filter).
    """

    table: TableDef
    columns: tuple[Column, ...]
    where: Predicate | None
    shape: str


Bound = PointSelect | ScanSelect | InsertPlan | ChangePlan | EngineChangePlan | InsertSelectPlan
