# pyright: basic
"""CREATE INDEX and DROP INDEX: what they say, and the table definition they make.

An index is its columns in order; entries are read both ways, so ASC and DESC say nothing as long as
all columns have the same. NULLs come last in ascending order.

Keeps: an index's number is never given twice; its name is its own in its namespace.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import (
    AlreadyExists,
    InvalidDefinition,
    UnknownColumn,
    UnknownIndex,
    Unsupported,
)
from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import (
    NAME_LENGTH_MAX,
    Index,
    IndexState,
    TableDef,
    Unique,
)
from kalamdb.sql.ddl import check_name
from kalamdb.sql.reader import Reader
from kalamdb.sql.seek import UNORDERED
from kalamdb.sql.statement import CreateIndex, DropIndex, Statement, TableName

INDEXES_MAX = 16  # of one table, UNIQUE ones among them
INDEX_COLUMNS_MAX = 8
_METRICS = ("COSINE", "L2", "DOT", "HNSW", "IVFFLAT")
_NO_VECTORS = "order by the distance; it looks at every vector"
_PLAIN = "name columns; add a column and write the value into it"


# ---- grammar ------------------------------------------------------------------------------------


def create_index(reader: Reader) -> Statement:
    """Everything after `CREATE INDEX`."""
    return _create(reader, None, unique=False)


def create_unique_index(reader: Reader) -> Statement:
    """Everything after `CREATE UNIQUE`."""
    reader.expect("INDEX")
    return _create(reader, None, unique=True)


def drop_index(reader: Reader) -> Statement:
    """Everything after `DROP INDEX`."""
    return _drop(reader, None)


def begins_index(reader: Reader) -> bool:
    """Does `ALTER TABLE t` go on with CREATE … INDEX or DROP INDEX?"""
    return reader.word() == "CREATE" or (reader.word() == "DROP" and reader.word(1) == "INDEX")


def alter_index(reader: Reader, table: TableName) -> Statement:
    """`CREATE [UNIQUE] INDEX …` or `DROP INDEX …` after `ALTER TABLE t`."""
    if reader.accept("DROP"):
        reader.expect("INDEX")
        return _drop(reader, table)
    reader.expect("CREATE")
    if reader.word() == "VECTOR":
        raise Unsupported("vector indexes", _NO_VECTORS)
    unique = reader.accept("UNIQUE")
    reader.expect("INDEX")
    return _create(reader, table, unique=unique)


def _create(reader: Reader, table: TableName | None, *, unique: bool) -> CreateIndex:
    reader.accept("CONCURRENTLY")  # there is no other way
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    name = None
    if reader.word() not in ("ON", "") or reader.symbol() is TokenType.IDENTIFIER:
        name = reader.name("an index name")
    if table is None:
        reader.expect("ON")
        if reader.accept("ONLY"):
            raise Unsupported("CREATE INDEX … ON ONLY", "tables do not inherit")
        table = reader.table()
        if table.all_users:
            raise InvalidDefinition("all_users names tables to read; index namespace.table")
    if if_not_exists and name is None:
        reader.fail("IF NOT EXISTS needs the name of the index")
    _using(reader)
    if reader.done:  # `ALTER TABLE t CREATE INDEX col`, as vector indexes are written
        raise Unsupported("an index without a list of columns", "write (column, …)")
    columns = _columns(reader)
    _using(reader)
    for word, what in _TAILS.items():
        if reader.word() == word:
            raise Unsupported(*what)
    return CreateIndex(table, name, columns, unique, if_not_exists)


_TAILS = {
    "WHERE": ("partial indexes", "index all rows"),
    "INCLUDE": ("INCLUDE columns", "an index leads to the whole row"),
    "NULLS": ("NULLS NOT DISTINCT", "NULLs are distinct"),
    "WITH": ("storage parameters of an index", None),
    "TABLESPACE": ("TABLESPACE", "there is one storage"),
}


def _using(reader: Reader) -> None:
    if not reader.accept("USING"):
        return
    method = reader.name("an index method").upper()
    if method in _METRICS:
        raise Unsupported(f"CREATE INDEX … USING {method}", _NO_VECTORS)
    if method != "BTREE":
        raise Unsupported(f"CREATE INDEX … USING {method}", "leave it out, or write USING btree")


def _columns(reader: Reader) -> tuple[str, ...]:
    reader.expect_symbol(TokenType.L_PAREN, "(")
    names: list[str] = []
    directions: set[bool] = set()
    while True:
        if reader.symbol() is TokenType.L_PAREN or reader.symbol(1) is TokenType.L_PAREN:
            raise Unsupported("expressions in an index", _PLAIN)
        names.append(reader.name("a column name"))
        directions.add(_direction(reader))
        if not reader.accept_symbol(TokenType.COMMA):
            break
    if reader.symbol() is not TokenType.R_PAREN and not reader.done:
        raise Unsupported(f"{reader.shown()} behind a column of an index", _PLAIN)
    reader.expect_symbol(TokenType.R_PAREN, ")")
    if len(directions) > 1:
        raise Unsupported("an index with ASC and DESC columns", "give all columns one direction")
    if len(names) > INDEX_COLUMNS_MAX:
        raise InvalidDefinition(f"an index has at most {INDEX_COLUMNS_MAX} columns")
    if len(set(names)) < len(names):
        raise InvalidDefinition("an index names each of its columns once")
    return tuple(names)


def _direction(reader: Reader) -> bool:
    """Take ASC or DESC and NULLS …; is it DESC? Raises Unsupported for NULLs at the other end."""
    descending = reader.accept("DESC")
    if not descending:
        reader.accept("ASC")
    first = reader.accept("NULLS", "FIRST")
    last = not first and reader.accept("NULLS", "LAST")
    if (first and not descending) or (last and descending):
        raise Unsupported(
            f"{'DESC NULLS LAST' if last else 'ASC NULLS FIRST'} in an index",
            "NULLs come last in ascending order",
        )
    return descending


def _drop(reader: Reader, table: TableName | None) -> DropIndex:
    reader.accept("CONCURRENTLY")
    if_exists = reader.accept("IF", "EXISTS")
    first = reader.name("an index name")
    namespace = None
    if reader.accept_symbol(TokenType.DOT):
        namespace, first = first, reader.name("an index name")
    if table is None and reader.accept("ON"):
        table = reader.table()
    if reader.symbol() is TokenType.COMMA:
        raise Unsupported("DROP INDEX of several indexes", "drop them one by one")
    if reader.word() == "CASCADE":
        raise Unsupported("DROP INDEX … CASCADE", "nothing depends on an index")
    reader.accept("RESTRICT")
    return DropIndex(first, namespace, table, if_exists)


# ---- definitions --------------------------------------------------------------------------------


def index_named(table: TableDef, name: str) -> Index | Unique | None:
    """The index of that name that CREATE INDEX made."""
    made = (*table.indexes, *(unique for unique in table.uniques if unique.by_index))
    return next((index for index in made if index.name == name), None)


def find_index(
    catalog: CatalogView, namespace: str, name: str
) -> tuple[TableDef, Index | Unique] | None:
    """An index by its name in a namespace, with its table."""
    for (home, _), table in catalog.tables.items():
        if home == namespace and (found := index_named(table, name)) is not None:
            return table, found
    return None


def with_index(table: TableDef, statement: CreateIndex, catalog: CatalogView) -> TableDef:
    """The next version of `table`, with the index BUILDING.

    Raises InvalidDefinition, Unsupported, AlreadyExists, UnknownColumn.
    """
    columns = tuple(_column_id(table, name, unique=statement.unique) for name in statement.columns)
    if statement.unique and not table.has_tombstones:
        raise Unsupported("UNIQUE in a STREAM table", "its rows are forgotten; use a USER table")
    made = len(table.indexes) + sum(unique.by_index for unique in table.uniques)
    if made >= INDEXES_MAX:
        raise InvalidDefinition(f"a table has at most {INDEXES_MAX} indexes")
    if statement.name is None:
        name = _default_name(table, statement.columns, catalog)
    else:
        check_name(statement.name, "index")
        name = statement.name
        if _is_taken(catalog, table, name):
            raise AlreadyExists("index", name)
    number = table.next_index_id
    changed = replace(table, version=table.version + 1, next_index_id=number + 1)
    if statement.unique:
        unique = Unique(number, columns, name, by_index=True, state=IndexState.BUILDING)
        return replace(changed, uniques=(*table.uniques, unique))
    index = Index(number, columns, name, IndexState.BUILDING)
    return replace(changed, indexes=(*table.indexes, index))


def _column_id(table: TableDef, name: str, *, unique: bool) -> int:
    column = table.by_name.get(name)
    if column is None:
        if name in table.readable_by_name:
            raise Unsupported(f"an index on {name}", "index columns of your own")
        raise UnknownColumn(name, table.full_name)
    if column.type.kind in UNORDERED:
        raise Unsupported(f"an index on {column.type.sql}", "index columns with an order")
    return column.id


def _is_taken(catalog: CatalogView, table: TableDef, name: str) -> bool:
    own = {one.name for one in (*table.uniques, *table.checks, *table.indexes)}
    return name in own or find_index(catalog, table.namespace, name) is not None


def _default_name(table: TableDef, columns: tuple[str, ...], catalog: CatalogView) -> str:
    """`table_column_…_idx`, with a number when that is taken."""
    base = "_".join((table.name, *columns))
    for number in range(INDEXES_MAX * 100):
        tail = "_idx" + (str(number) if number else "")
        name = base[: NAME_LENGTH_MAX - len(tail)] + tail
        if not _is_taken(catalog, table, name):
            return name
    raise InvalidDefinition("name the index: too many are called like their columns")


def finished(table: TableDef, number: int) -> TableDef:
    """The next version, with the index READY."""

    def ready(index: Any) -> Any:
        return replace(index, state=IndexState.READY) if index.id == number else index

    return replace(
        table,
        version=table.version + 1,
        uniques=tuple(map(ready, table.uniques)),
        indexes=tuple(map(ready, table.indexes)),
    )


def without_index(table: TableDef, number: int) -> TableDef:
    """The next version, without the index; its number is not given again."""
    return replace(
        table,
        version=table.version + 1,
        uniques=tuple(one for one in table.uniques if one.id != number),
        indexes=tuple(one for one in table.indexes if one.id != number),
    )


def dropped_index(table: TableDef, name: str) -> Index | Unique:
    """What DROP INDEX takes away. Raises UnknownIndex, InvalidDefinition for a constraint."""
    found = index_named(table, name)
    if found is not None:
        return found
    if any(unique.name == name for unique in table.uniques):
        raise InvalidDefinition(
            f"{name} is a constraint; write ALTER TABLE {table.full_name} DROP CONSTRAINT {name}"
        )
    raise UnknownIndex(name, table.full_name)
