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
from kalamdb.model.catalog import ViewDef
from kalamdb.model.change import Row
from kalamdb.model.ids import Seq
from kalamdb.model.key_range import KeyRange, KeySource
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
    """A base table inside a query, under the name the rendered SQL uses for it.

    `path`: rows outside of its ranges change nothing in the result, and need not be read.
    """

    alias: str
    table: TableDef
    columns: tuple[Column, ...]  # what the query reads, system columns among them
    all_users: bool = False
    path: AccessPath | None = None


@dataclass(frozen=True, slots=True)
class ScanSelect:
    """Everything else: `render(env)` is SQL for the engine with parameters and session values as
    literals.
    """

    tables: tuple[ScanTable, ...]
    render: Callable[[Env], str]
    ordered: bool  # an ORDER BY stands at the top
    views: tuple[ViewDef, ...] = ()  # that were expanded in it


@dataclass(frozen=True, slots=True)
class AccessPath:
    """How the rows of a one-table condition are found without looking at all of them.

    `columns` are what the keys of `source` consist of, in order: the first `fixed` have one value
    (or, `several`, one of a few), the next one a range of values if `bounded`. `ranges(env)` gives
    the key ranges, disjoint and in key order; every row that matches is in one of them, and rows
    that do not match may be.
    """

    source: KeySource
    name: str  # of the index or UNIQUE; empty for the primary key
    columns: tuple[Column, ...]
    fixed: int
    several: bool
    bounded: bool
    ranges: Callable[[Env], Sequence[KeyRange]]


@dataclass(frozen=True, slots=True)
class SortColumn:
    """One column of an ORDER BY: `encode` gives bytes in whose order its values are, NULL last."""

    column: Column
    encode: Callable[[Any], bytes]
    descending: bool


@dataclass(frozen=True, slots=True)
class PageRows:
    """LIMIT (None: all) and OFFSET of one run."""

    limit: int | None
    offset: int


@dataclass(frozen=True, slots=True)
class RangeSelect:
    """SELECT over one table by ranges of its primary key or of an index.

    `where(env)` is what the ranges leave to be checked. `sort` is empty when the ranges give the
    result's order (backwards if `reverse`); else rows are sorted, and `sorted_within` says that
    each range by itself is in that order. `page(env)` is None for a LIMIT that is no count: the
    engine says what is wrong. `otherwise` is the same statement for the engine, for what would be
    too much to sort or to look at here.
    """

    table: TableDef
    output: tuple[OutputColumn, ...]
    path: AccessPath
    reverse: bool
    sort: tuple[SortColumn, ...]
    sorted_within: bool
    project: Callable[[Row, Seq], Sequence[Any]]
    where: Callable[[Env], Predicate] | None
    page: Callable[[Env], PageRows | None]
    otherwise: ScanSelect


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
    with `where`, of the ranges of `path` if there is one.
    """

    table: TableDef
    keys: Callable[[Env], Sequence[bytes]] | None
    where: Callable[[Env], Predicate] | None
    change: Callable[[Env], Callable[[Row], Row]] | None
    returning: ReturningClause | None
    returning_output: tuple[OutputColumn, ...]
    path: AccessPath | None = None


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
    filter). `equality`: a column and the key bytes of the value it must have, where the filter says
    so; rows with another value never match. A column may have another name here (an alias).
    `ranges`: where all matching rows stand, if the filter gives leading values of a key of `table`.
    """

    table: TableDef
    columns: tuple[Column, ...]
    where: Predicate | None
    shape: str
    equality: tuple[int, bytes] | None = None
    ranges: tuple[KeyRange, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReevaluatedPlan:
    """Any other SELECT as a live query: run anew when one of its tables changes.

    `text` is rendered for this run. `key` names what tells result rows apart, by output name or
    position from 0: nothing where there is one row always, None when nothing is known to. Whether
    it really does is seen in each result.
    """

    scan: ScanSelect
    env: Env
    text: str
    key: tuple[str | int, ...] | None

    @property
    def shape(self) -> str:
        """Equal for queries with equal results on equal rows of one tenant."""
        return f"{_ids(self.scan.tables, with_versions=True)} {self.text}"

    @property
    def identity(self) -> str:
        """As `shape`, but the same for all versions of a table's definition."""
        return f"{_ids(self.scan.tables, with_versions=False)} {self.text}"

    @property
    def tables(self) -> tuple[TableDef, ...]:
        return tuple(use.table for use in self.scan.tables)

    @property
    def ordered(self) -> bool:
        return self.scan.ordered


def _ids(uses: Sequence[ScanTable], *, with_versions: bool) -> str:
    return ",".join(
        f"{use.table.id}{f'@{use.table.version}' if with_versions else ''}"
        f"{'*' if use.all_users else ''}"
        for use in uses
    )


Bound = (
    PointSelect
    | RangeSelect
    | ScanSelect
    | InsertPlan
    | ChangePlan
    | EngineChangePlan
    | InsertSelectPlan
)
