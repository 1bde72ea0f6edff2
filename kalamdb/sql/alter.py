# pyright: basic
"""ALTER TABLE's meaning: from one version of a definition to the next.

Keeps: ids of columns and indexes are never given twice, so that rows stay readable as they are; a
column's bytes and key bytes stay what they were; what a definition says of itself in texts (CHECK)
follows renames; where nothing changes, the very same definition comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

from kalamdb.errors import (
    AlreadyExists,
    InvalidDefinition,
    StillNeeded,
    UnknownColumn,
    Unsupported,
)
from kalamdb.model.table import (
    COLUMNS_MAX,
    RESERVED_COLUMNS,
    Check,
    Column,
    DefaultKind,
    IndexState,
    TableDef,
    TableKind,
    TableOptions,
    Unique,
)
from kalamdb.sql import dialect
from kalamdb.sql.alter_table import (
    AddColumn,
    AddConstraint,
    DropColumn,
    DropConstraint,
    RenameColumn,
    RenameConstraint,
    RenameTable,
    SetDefault,
    SetNullable,
    SetOptions,
    SetType,
    TableChange,
)
from kalamdb.sql.alter_type import changed_type
from kalamdb.sql.constraint import checks, columns_of, compile_check, renamed_check
from kalamdb.sql.create_table import CONSTRAINTS_MAX, TableSyntax
from kalamdb.sql.ddl import check_name, column_of, default_of, implied_checks, is_implied
from kalamdb.sql.render import canonical
from kalamdb.sql.table_options import changed_options


@dataclass(frozen=True, slots=True)
class Unproven:
    """What a new definition says of rows that were written before it, and nobody has looked.

    `columns` (ids) that must not be NULL, `checks` (names) that must hold, `indexes` (numbers,
    those of UNIQUEs among them) to build.
    """

    columns: frozenset[int]
    checks: frozenset[str]
    indexes: tuple[int, ...]

    @property
    def looks_at_rows(self) -> bool:
        return bool(self.columns or self.checks or self.indexes)


def unproven(old: TableDef, new: TableDef) -> Unproven:
    """Old rows read as `initial` in columns that are new: what those say is known without them."""
    before = {column.id: column for column in old.columns}
    fresh = {column.id: column.initial for column in new.columns if column.id not in before}
    columns = {
        column.id
        for column in new.columns
        if not column.nullable
        and (before[column.id].nullable if column.id in before else column.initial is None)
    }
    known = {
        (text, frozenset(columns_of(old, check)))
        for check in old.checks
        for text in (check.sql, renamed_check(old, new, check).sql)
    }
    unchecked: set[str] = set()
    for check, (name, holds) in zip(new.checks, checks(new), strict=True):
        looks_at = frozenset(columns_of(new, check))
        if (check.sql, looks_at) in known:
            continue
        if looks_at <= fresh.keys() and holds(fresh) is not False:
            continue
        unchecked.add(name)
    indexes = (*new.uniques, *new.indexes)
    building = tuple(one.id for one in indexes if one.state is IndexState.BUILDING)
    return Unproven(frozenset(columns), frozenset(unchecked), building)


def check_can_be_undone(old: TableDef, new: TableDef) -> None:
    """Rows may fail what is new in a definition, and the one before comes back. Rows written
    meanwhile keep the new one only, so nothing may have been taken away by it.

    Raises Unsupported.
    """
    gone = _taken_away(old, new)
    proof = unproven(old, new) if gone else None
    if proof is not None and (proof.columns or proof.checks or proof.indexes):
        raise Unsupported(
            f"taking away {gone} in the ALTER TABLE that adds what rows have to be looked at for",
            "write two statements, and what is added first",
        )


def _taken_away(old: TableDef, new: TableDef) -> str | None:
    """Something rows kept that they need not keep any more; a wider type can stay."""
    now = {column.id: column for column in new.columns}
    for column in old.columns:
        kept = now.get(column.id)
        if kept is None:
            return f"column {column.name}"
        if kept.nullable and not column.nullable:
            return f"NOT NULL of column {column.name}"
    numbers = {one.id for one in (*new.uniques, *new.indexes)}
    for one in (*old.uniques, *old.indexes):
        if one.id not in numbers:
            return one.name
    texts = {check.sql for check in new.checks}
    for check in old.checks:
        # A length in a type gives way to another one, which says what it is looked at for.
        implied = any(is_implied(old, check, column) for column in old.columns)
        if not implied and not texts & {check.sql, renamed_check(old, new, check).sql}:
            return check.name
    return None


def altered_table(table: TableDef, changes: Sequence[TableChange], now_ms: int) -> TableDef:
    """The next version, or `table` itself when nothing changes.

    Raises InvalidDefinition, Unsupported, AlreadyExists, UnknownColumn, TypeMismatch.
    """
    new = table
    for change in changes:
        new = _changed(new, change, now_ms)
    if new == table:
        return table
    for check in new.checks:  # they look at columns whose types may have changed
        compile_check(new, dialect.expression(dialect.tokenize(check.sql), check.sql))
    return replace(new, version=table.version + 1)


def _changed(table: TableDef, change: TableChange, now_ms: int) -> TableDef:
    match change:
        case AddColumn():
            return _add_column(table, change, now_ms)
        case DropColumn():
            return _drop_column(table, change)
        case SetNullable():
            return _set_nullable(table, change.name, change.nullable)
        case SetDefault():
            column = _column(table, change.name)
            default = None if change.default is None else default_of(change.default, column)
            return _with_column(table, replace(column, default=default))
        case SetType():
            column = _column(table, change.name)
            new = changed_type(table, column, change.type)
            if change.nullable is None:
                return new
            return _set_nullable(new, change.name, change.nullable)
        case RenameColumn():
            return _rename_column(table, change)
        case RenameTable():
            if change.new == table.name:
                return table
            check_name(change.new, "table")
            new = replace(table, name=change.new)
            return replace(new, checks=tuple(renamed_check(table, new, one) for one in new.checks))
        case AddConstraint(syntax):
            return _with_constraints(table, syntax)
        case DropConstraint():
            return _drop_constraint(table, change)
        case RenameConstraint():
            return _rename_constraint(table, change)
        case SetOptions(options):
            return _set_options(table, options)
        case _:
            assert_never(change)


# ---- columns -------------------------------------------------------------------------------------


def _column(table: TableDef, name: str) -> Column:
    found = table.by_name.get(name)
    if found is None:
        if name in table.readable_by_name:
            raise InvalidDefinition(f"column {name} is built in and stays what it is")
        raise UnknownColumn(name, table.full_name)
    return found


def _with_column(table: TableDef, new: Column) -> TableDef:
    columns = tuple(new if column.id == new.id else column for column in table.columns)
    return replace(table, columns=columns)


def _new_name(table: TableDef, name: str) -> None:
    if name in RESERVED_COLUMNS:
        raise InvalidDefinition(f"column name {name} is reserved")
    check_name(name, "column")
    if name in table.by_name:
        raise AlreadyExists("column", f"{table.full_name}.{name}")


def _add_column(table: TableDef, change: AddColumn, now_ms: int) -> TableDef:
    (syntax,) = change.syntax.columns
    if change.if_not_exists and syntax.name in table.by_name:
        return table
    _new_name(table, syntax.name)
    if change.syntax.primary_keys:
        raise Unsupported("ADD COLUMN … PRIMARY KEY", "a table's primary key stays what it is")
    if len(table.columns) >= COLUMNS_MAX:
        raise InvalidDefinition(f"a table has at most {COLUMNS_MAX} columns")
    column = column_of(table.next_column_id, syntax, in_key=False)
    column = replace(column, initial=_initial(column, now_ms))
    new = replace(table, columns=(*table.columns, column), next_column_id=table.next_column_id + 1)
    change.syntax.checks[:0] = implied_checks(table.name, syntax)
    return _with_constraints(new, change.syntax)


def _initial(column: Column, now_ms: int) -> object:
    """What rows that are there read as: one value for all of them."""
    default = column.default
    match None if default is None else default.kind:
        case None:
            return None
        case DefaultKind.LITERAL:
            assert default is not None
            return default.value
        case DefaultKind.NOW:
            return now_ms * 1000
        case kind:
            assert kind is not None
            raise Unsupported(
                f"ADD COLUMN {column.name} … DEFAULT {kind.value}()",
                "each row would need a value of its own: add the column without a default, fill it"
                f" by UPDATE, then ALTER COLUMN {column.name} SET DEFAULT",
            )


def _drop_column(table: TableDef, change: DropColumn) -> TableDef:
    if change.if_exists and change.name not in table.readable_by_name:
        return table
    column = _column(table, change.name)
    if column.id in table.primary_key:
        raise InvalidDefinition(f"column {column.name} is in the PRIMARY KEY and stays")
    if len(table.columns) == 1:
        raise InvalidDefinition("a table has at least one column")
    in_checks = {check.name for check in table.checks if column.id in columns_of(table, check)}
    in_uniques = {one.name for one in table.uniques if column.id in one.columns}
    in_indexes = {index.name for index in table.indexes if column.id in index.columns}
    # A length or a list of words is part of the column's type.
    implied = {check.name for check in table.checks if is_implied(table, check, column)}
    dependent = sorted((in_checks - implied) | in_uniques | in_indexes)
    if dependent and not change.cascade:
        raise StillNeeded(f"column {column.name}", ", ".join(dependent))
    return replace(
        table,
        columns=tuple(one for one in table.columns if one is not column),
        checks=tuple(check for check in table.checks if check.name not in in_checks),
        uniques=tuple(unique for unique in table.uniques if unique.name not in in_uniques),
        indexes=tuple(index for index in table.indexes if index.name not in in_indexes),
    )


def _set_nullable(table: TableDef, name: str, nullable: bool) -> TableDef:
    column = _column(table, name)
    if nullable and column.id in table.primary_key:
        raise InvalidDefinition(f"column {name} is in the PRIMARY KEY and cannot be NULL")
    if nullable and column.default is not None and column.default.kind is DefaultKind.SNOWFLAKE_ID:
        return _with_column(table, replace(column, nullable=True))
    return _with_column(table, replace(column, nullable=nullable))


def _rename_column(table: TableDef, change: RenameColumn) -> TableDef:
    column = _column(table, change.name)
    if change.new == change.name:
        return table
    _new_name(table, change.new)
    new = _with_column(table, replace(column, name=change.new))
    return replace(new, checks=tuple(renamed_check(table, new, check) for check in table.checks))


# ---- constraints ---------------------------------------------------------------------------------


def _names(table: TableDef) -> set[str]:
    return {one.name for one in (*table.uniques, *table.checks, *table.indexes)}


def _free_name(names: set[str], wanted: str) -> str:
    name, number = wanted, 1
    while name in names:
        number += 1
        name = f"{wanted}_{number}"
    return name


def _take_name(names: set[str], given: str | None, wanted: str) -> str:
    if given is None:
        name = _free_name(names, wanted)
    else:
        check_name(given, "constraint")
        if given in names:
            raise AlreadyExists("constraint", given)
        name = given
    names.add(name)
    return name


def _with_constraints(table: TableDef, syntax: TableSyntax) -> TableDef:
    names = _names(table)
    uniques, next_index_id = list(table.uniques), table.next_index_id
    for given, column_names in syntax.uniques:
        ids = _unique_columns(table, column_names)
        if given is None and (
            ids == table.primary_key or any(one.columns == ids for one in uniques)
        ):
            continue  # the same promise a second time
        name = _take_name(names, given, f"{table.name}_{'_'.join(column_names)}_key")
        uniques.append(Unique(next_index_id, ids, name, state=IndexState.BUILDING))
        next_index_id += 1
    found = list(table.checks)
    for check in syntax.checks:
        name = _take_name(names, check.name, f"{table.name}_check")
        compile_check(table, check.condition.tree)
        found.append(Check(name, canonical(check.condition)))
    if len(uniques) + len(found) > CONSTRAINTS_MAX:
        raise InvalidDefinition(f"a table has at most {CONSTRAINTS_MAX} constraints")
    return replace(table, uniques=tuple(uniques), checks=tuple(found), next_index_id=next_index_id)


def _unique_columns(table: TableDef, names: Sequence[str]) -> tuple[int, ...]:
    if table.kind is TableKind.STREAM:
        raise Unsupported("UNIQUE in a STREAM table", "its rows are forgotten; use a USER table")
    if len(set(names)) != len(names):
        raise InvalidDefinition("UNIQUE names a column twice")
    columns = [_column(table, name) for name in names]
    for column in columns:
        if not column.type.is_key:
            raise InvalidDefinition(f"{column.type.sql} column {column.name} cannot be UNIQUE")
    return tuple(column.id for column in columns)


def _named(table: TableDef, name: str) -> Unique | Check | None:
    for one in (*table.uniques, *table.checks):
        if one.name == name:
            if isinstance(one, Unique) and one.by_index:
                raise InvalidDefinition(f"{name} is an index; write DROP INDEX {name}")
            return one
    return None


def _drop_constraint(table: TableDef, change: DropConstraint) -> TableDef:
    found = _named(table, change.name)
    if found is None:
        if change.if_exists:
            return table
        raise InvalidDefinition(f"constraint {change.name} of {table.full_name} does not exist")
    return replace(
        table,
        uniques=tuple(one for one in table.uniques if one is not found),
        checks=tuple(one for one in table.checks if one is not found),
    )


def _rename_constraint(table: TableDef, change: RenameConstraint) -> TableDef:
    found = _named(table, change.name)
    if found is None:
        raise InvalidDefinition(f"constraint {change.name} of {table.full_name} does not exist")
    if change.new == change.name:
        return table
    check_name(change.new, "constraint")
    if change.new in _names(table):
        raise AlreadyExists("constraint", change.new)
    return replace(
        table,
        uniques=tuple(
            replace(one, name=change.new) if one is found else one for one in table.uniques
        ),
        checks=tuple(
            replace(one, name=change.new) if one is found else one for one in table.checks
        ),
    )


# ---- options -------------------------------------------------------------------------------------


def _set_options(table: TableDef, given: dict[str, Any]) -> TableDef:
    if "TYPE" in given:
        raise Unsupported("changing TYPE", "create another table and INSERT … SELECT")
    if table.kind is TableKind.STREAM and given.get("TTL_SECONDS", 1) is None:
        raise InvalidDefinition("a STREAM table needs TTL_SECONDS")
    cleared = {key for key, value in given.items() if value is None}
    values = {key: value for key, value in given.items() if value is not None}
    options = changed_options(table.kind, table.options, values)
    for key in cleared:
        changed = _DEFAULTS.get(key)
        if changed is None:
            raise InvalidDefinition(f"option {key} cannot be NULL")
        # Refuses the option for a kind of table that does not have it.
        changed_options(table.kind, options, {key: changed[1]})
        options = changed[0](options)
    return replace(table, options=options)


_PLAIN = TableOptions()
_DEFAULTS: dict[str, tuple[Callable[[TableOptions], TableOptions], Any]] = {
    "STORAGE_ID": (lambda o: replace(o, storage_id=_PLAIN.storage_id), "local"),
    "USE_USER_STORAGE": (lambda o: replace(o, use_user_storage=False), False),
    "FLUSH_POLICY": (lambda o: replace(o, flush_policy=None), "rows:1"),
    "ACCESS_LEVEL": (lambda o: replace(o, access_level=_PLAIN.access_level), "private"),
    "COMPRESSION": (lambda o: replace(o, compression=_PLAIN.compression), "zstd"),
    "HISTORY": (lambda o: replace(o, history_full=False), "default"),
    "HISTORY_RETENTION_HOURS": (lambda o: replace(o, history_retention_h=None), 1),
}
