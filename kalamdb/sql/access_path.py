# pyright: basic
"""Which key finds the rows of a one-table condition: the primary key, an index, a UNIQUE value.

Every candidate is measured by the same simple rule, in this order: the whole of a unique key is
given, most leading columns with a given value, its order is the one asked for and a range on the
next column (the other way round without a LIMIT), the primary key before an index (which costs a
second look-up per row). There are no statistics.

Keeps: every row that matches is in the ranges (`seek.py` says where it may be); only equalities
that the ranges settle exactly are taken out of the conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import product
from typing import Any

from kalamdb.model.key_range import KeyRange, KeySource
from kalamdb.model.keys import TAG_NULL, prefix_end
from kalamdb.model.table import Column, Index, IndexState, TableDef
from kalamdb.sql.bound import AccessPath, Env
from kalamdb.sql.parameters import check_count
from kalamdb.sql.point_key import ABSENT
from kalamdb.sql.scope import TableScope
from kalamdb.sql.seek import UNORDERED, Between, Equal, Nothing, outermost, seek_of

RANGES_MAX = 100  # of one statement: the values of its INs, multiplied


@dataclass(frozen=True, slots=True)
class OrderColumn:
    """One column of an ORDER BY, NULLs where PostgreSQL puts them by itself."""

    column: Column
    descending: bool


class Fit(IntEnum):
    """How a path's key order serves the order asked for."""

    NONE = 0
    WITHIN = 1  # each range by itself is in that order
    WHOLE = 2  # the ranges one after another are


@dataclass(frozen=True, slots=True, eq=False)
class FoundPath:
    """`left` are the conditions that the rows found must be checked against. `reverse`: the order
    asked for is the path's, backwards.
    """

    path: AccessPath
    left: tuple[Any, ...]
    fit: Fit
    reverse: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """`entry` columns come first in a key, the primary key's follow (not in a UNIQUE entry).

    `columns` has each once; values can be looked for in the first `usable` of them.
    """

    source: KeySource
    number: int
    name: str
    entry: tuple[Column, ...]
    columns: tuple[Column, ...]
    usable: int


@dataclass(slots=True, eq=False)
class _Seeks:
    equal: dict[int, tuple[Any, Equal]] = field(default_factory=dict)  # with their condition
    bounds: dict[int, list[Between]] = field(default_factory=dict)


def find_path(
    conditions: Sequence[Any],
    scope: TableScope,
    parameters: int,
    order: Sequence[OrderColumn],
    *,
    limited: bool,
) -> FoundPath | None:
    """The best path, or None: then every row must be looked at.

    `order` is what the rows are wanted in; a path that only gives an order is one if `limited`.
    Raises TypeMismatch, UnknownColumn.
    """
    seeks = _seeks(conditions, scope)
    best: tuple[tuple[int, ...], FoundPath] | None = None
    for candidate in _candidates(scope.table):
        found = _measured(candidate, seeks, conditions, parameters, order, limited=limited)
        if found is None:
            continue
        score, path = found
        narrow = path.path.fixed or path.path.bounded
        if not narrow and (conditions or not limited or path.fit is not Fit.WHOLE):
            continue
        if best is None or score > best[0]:
            best = score, path
    return None if best is None else best[1]


def _seeks(conditions: Sequence[Any], scope: TableScope) -> _Seeks:
    found = _Seeks()
    for condition in conditions:
        match seek_of(condition, scope):
            case Equal() as equal:
                found.equal.setdefault(equal.column.id, (condition, equal))
            case Between() as between:
                found.bounds.setdefault(between.column.id, []).append(between)
            case None:
                pass
    return found


def _candidates(table: TableDef) -> list[_Candidate]:
    key = table.key_columns
    found: list[_Candidate] = []
    if not any(column.type.kind in UNORDERED for column in key):
        found.append(_Candidate(KeySource.PRIMARY, 0, "", key, key, len(key)))
    for unique in table.ready_uniques:
        columns = tuple(table.by_id[column] for column in unique.columns)
        if not any(column.type.kind in UNORDERED for column in columns):
            made = _Candidate(
                KeySource.UNIQUE, unique.id, unique.name, columns, columns, len(columns)
            )
            found.append(made)
    for index in table.indexes:
        if index.state is IndexState.READY:
            found.append(_index_candidate(index, table))
    return found


def _index_candidate(index: Index, table: TableDef) -> _Candidate:
    entry = tuple(table.by_id[column] for column in index.columns)
    behind = [column for column in table.key_columns if column.id not in index.columns]
    columns = (*entry, *behind)
    # A key column that the index holds too stands twice in an entry. Its second value is the first
    # one again, so the order is that of `columns`, but what follows has no place to be looked for.
    usable = len(columns) if len(behind) == len(table.key_columns) else len(entry)
    return _Candidate(KeySource.INDEX, index.id, index.name, entry, columns, usable)


def _measured(
    candidate: _Candidate,
    seeks: _Seeks,
    conditions: Sequence[Any],
    parameters: int,
    order: Sequence[OrderColumn],
    *,
    limited: bool,
) -> tuple[tuple[int, ...], FoundPath] | None:
    columns = candidate.columns
    fixed: list[Equal] = []
    ranges = 1
    for column in columns[: candidate.usable]:
        given = seeks.equal.get(column.id)
        if given is None or ranges * len(given[1].parts) > RANGES_MAX:
            break
        if given[1].has_null and candidate.source is KeySource.UNIQUE:
            break  # NULLs have no entry
        ranges *= len(given[1].parts)
        fixed.append(given[1])
    whole = len(fixed) == len(columns)
    if candidate.source is KeySource.UNIQUE and not whole:
        return None  # rows with a NULL in it have no entry
    bounds: list[Between] = []
    if len(fixed) < candidate.usable:
        bounds = seeks.bounds.get(columns[len(fixed)].id, [])
    settled = {id(seeks.equal[one.column.id][0]) for one in fixed}
    fit, reverse = _fit(candidate, fixed, order)
    path = AccessPath(
        candidate.source,
        candidate.name,
        columns,
        len(fixed),
        ranges > 1,
        bool(bounds),
        _ranges(candidate, fixed, bounds, parameters),
    )
    left = tuple(one for one in conditions if id(one) not in settled)
    single = whole and candidate.source is not KeySource.INDEX
    primary = candidate.source is KeySource.PRIMARY
    # With a LIMIT, to stop early is worth more than to begin late.
    last = (int(fit), int(bool(bounds))) if limited else (int(bool(bounds)), int(fit))
    score = (int(single), len(fixed), *last, int(primary))
    return score, FoundPath(path, left, fit, reverse)


# ---- order --------------------------------------------------------------------------------------


def _fit(
    candidate: _Candidate, fixed: Sequence[Equal], order: Sequence[OrderColumn]
) -> tuple[Fit, bool]:
    """How the keys' order serves `order`, and whether backwards."""
    single = {one.column.id for one in fixed if len(one.parts) == 1}
    several = {one.column.id for one in fixed} - single
    if candidate.source is not KeySource.INDEX and len(fixed) == len(candidate.columns):
        return (Fit.WITHIN if several else Fit.WHOLE), False  # a range is one row at most
    reverse = _direction(candidate, order, single)
    if reverse is not None:
        return Fit.WHOLE, reverse
    if several:
        reverse = _direction(candidate, order, single | several)
        if reverse is not None:
            return Fit.WITHIN, reverse
    return Fit.NONE, False


def _direction(
    candidate: _Candidate, order: Sequence[OrderColumn], constant: set[int]
) -> bool | None:
    """Read backwards, forwards, or (None) not in this order at all."""
    wanted = [one for one in order if one.column.id not in constant]
    given = [column for column in candidate.columns if column.id not in constant]
    if not wanted:
        return False
    if len(wanted) > len(given):
        return None
    reverse = wanted[0].descending
    for one, column in zip(wanted, given, strict=False):
        if one.column.id != column.id or one.descending is not reverse:
            return None
    return reverse


# ---- ranges -------------------------------------------------------------------------------------


def _ranges(
    candidate: _Candidate, fixed: Sequence[Equal], bounds: Sequence[Between], parameters: int
) -> Callable[[Env], Sequence[KeyRange]]:
    inside = min(len(fixed), len(candidate.entry))
    nullable = bool(bounds) and bounds[0].column.nullable
    single = all(len(one.parts) == 1 for one in fixed)

    def ranges(env: Env) -> Sequence[KeyRange]:
        """Raises InvalidParameter."""
        check_count(env, parameters)
        try:
            low, high = outermost(bounds, env)
        except Nothing:
            return ()
        choices = [[part(env) for part in one.parts] for one in fixed]
        rows = ([parts[0] for parts in choices],) if single else product(*choices)
        made: dict[bytes, KeyRange] = {}
        for row in rows:
            if any(part is ABSENT for part in row):
                continue
            found = _range(candidate, row, low, high, inside=inside, nullable=nullable)
            if found is not None:
                made[found.start] = found
        return [made[start] for start in sorted(made)] if len(made) > 1 else tuple(made.values())

    return ranges


def _range(
    candidate: _Candidate,
    fixed: Sequence[bytes],
    low: bytes | None,
    high: bytes | None,
    *,
    inside: int,
    nullable: bool,
) -> KeyRange | None:
    prefix = b"".join(fixed)
    start = prefix if low is None else prefix + low
    if high is not None:
        stop = prefix + high
    elif nullable:
        stop = prefix + TAG_NULL  # NULL is in no range of values
    else:
        stop = prefix_end(prefix) if prefix else b""
    if stop and start >= stop:
        return None
    head_bytes = sum(map(len, fixed[:inside]))
    open_columns = len(candidate.entry) - inside if candidate.source is KeySource.INDEX else 0
    return KeyRange(candidate.source, candidate.number, start, stop, head_bytes, open_columns)
