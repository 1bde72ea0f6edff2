# pyright: basic
"""Views: the grammar of CREATE VIEW and DROP VIEW, and what a view's text rests on.

A view is expanded where a query names it (`engine_query.py`), with the scope of whoever asks. Its
text is kept as it was written and read again when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from kalamdb.errors import InvalidDefinition, InvalidStatement, StillNeeded, Unsupported
from kalamdb.model.catalog import RESERVED_NAMESPACES, CatalogView, ViewDef
from kalamdb.model.ids import TableId
from kalamdb.model.table import COLUMNS_MAX, TableDef
from kalamdb.sql import dialect
from kalamdb.sql.ddl import check_name
from kalamdb.sql.dml import read_query
from kalamdb.sql.query_shape import base_tables
from kalamdb.sql.reader import Reader
from kalamdb.sql.statement import CreateView, DropView, Statement, TableName
from kalamdb.sql.syntax import QuerySyntax
from kalamdb.sql.virtual import VIRTUAL_NAMESPACES

SQL_LENGTH_MAX = 64 << 10
DEPTH_MAX = 8  # views in views
_CACHED = 500


# ---- grammar -------------------------------------------------------------------------------------


def create_view(reader: Reader, *, or_replace: bool = False) -> Statement:
    """Everything after `CREATE [OR REPLACE] VIEW`."""
    if reader.word() == "IF":
        raise Unsupported("CREATE VIEW IF NOT EXISTS", "write CREATE OR REPLACE VIEW")
    view = _name(reader)
    columns: tuple[str, ...] = ()
    if reader.symbol() is TokenType.L_PAREN:
        columns = tuple(reader.names("a column name"))
    if reader.word() == "WITH" and reader.symbol(1) is TokenType.L_PAREN:
        raise Unsupported("options of a view", None)
    reader.expect("AS")
    tokens = reader.tokens[reader.at :]
    if not tokens:
        reader.fail("a SELECT is expected")
    reader.at = len(reader.tokens)
    text = reader.text[tokens[0].start : tokens[-1].end + 1]
    if len(text) > SQL_LENGTH_MAX:
        raise InvalidDefinition(f"the text of a view has at most {SQL_LENGTH_MAX} characters")
    select = read_query(dialect.tokenize(text), text)
    if select.tree.parameters:
        raise InvalidDefinition("a view has no parameters; write the values")
    return CreateView(view, or_replace, columns, text, select)


def create_or(reader: Reader) -> Statement:
    """Everything after `CREATE OR`."""
    reader.expect("REPLACE")
    if not reader.accept("VIEW"):
        raise Unsupported(f"CREATE OR REPLACE {reader.word()}", "drop it first, then create it")
    return create_view(reader, or_replace=True)


def drop_view(reader: Reader) -> Statement:
    """Everything after `DROP VIEW`."""
    if_exists = reader.accept("IF", "EXISTS")
    view = _name(reader)
    if reader.symbol() is TokenType.COMMA:
        raise Unsupported("DROP VIEW of several views", "drop them one by one")
    cascade = reader.accept("CASCADE")
    if not cascade:
        reader.accept("RESTRICT")
    return DropView(view, if_exists, cascade)


def _name(reader: Reader) -> TableName:
    name = reader.table()
    if name.all_users:
        raise InvalidStatement("all_users names tables to read; a view is namespace.view")
    return name


# ---- meaning -------------------------------------------------------------------------------------


@lru_cache(_CACHED)
def view_query(sql: str) -> QuerySyntax:
    """The SELECT of a view's text."""
    return read_query(dialect.tokenize(sql), sql).tree


@dataclass(frozen=True, slots=True)
class Rests:
    """The stored tables (with the first column id they do not have) and views a text names."""

    tables: dict[TableId, int]
    views: tuple[ViewDef, ...]


def rests_on(names: Iterable[TableName], catalog: CatalogView, home: str) -> Rests:
    """Raises UnknownTable, UnknownNamespace, InvalidStatement."""
    tables: dict[TableId, int] = {}
    views: dict[TableId, ViewDef] = {}
    for name in names:
        namespace = name.namespace or home
        if namespace in VIRTUAL_NAMESPACES:
            continue
        view = catalog.views.get((namespace, name.name))
        if view is not None:
            views[view.id] = view
        else:
            table = catalog.table(namespace, name.name)
            tables[table.id] = table.next_column_id
    return Rests(tables, tuple(views.values()))


def view_definition(
    statement: CreateView,
    catalog: CatalogView,
    namespace: str,
    now_ms: int,
) -> ViewDef:
    """Raises InvalidDefinition, UnknownTable, InvalidStatement."""
    home = statement.view.namespace or namespace
    check_name(statement.view.name, "view")
    if home in RESERVED_NAMESPACES:
        raise InvalidDefinition(f"namespace {home} is reserved")
    rests = rests_on(statement.select.tables, catalog, namespace)
    known = catalog.views.get((home, statement.view.name))
    names = _column_names(statement.columns, statement.found)
    depth = 1 + max((_depth(view, catalog) for view in rests.views), default=0)
    if depth > DEPTH_MAX:
        raise InvalidDefinition(f"views may stand in views {DEPTH_MAX} deep")
    new = ViewDef(
        TableId(0),
        home,
        statement.view.name,
        names,
        statement.query,
        namespace,
        rests.tables,
        tuple(view.id for view in rests.views),
        1,
        now_ms,
    )
    return new if known is None or not statement.or_replace else _replacing(new, known, catalog)


def _replacing(new: ViewDef, known: ViewDef, catalog: CatalogView) -> ViewDef:
    users = [view.full_name for view in catalog.views.values() if known.id in view.views]
    if users and new.columns[: len(known.columns)] != known.columns:
        raise InvalidDefinition(
            f"view {', '.join(users)} reads this one: it keeps its columns"
            f" ({', '.join(known.columns)}), and may have more behind them"
        )
    above = {view.id for view in dependents(catalog, views=(known.id,))} | {known.id}
    if above.intersection(new.views):
        raise InvalidDefinition(f"view {known.full_name} would read itself")
    return ViewDef(
        known.id,
        new.namespace,
        new.name,
        new.columns,
        new.sql,
        new.home,
        new.tables,
        new.views,
        known.version + 1,
        known.created_ms,
    )


def _column_names(given: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, ...]:
    if len(given) > len(found):
        raise InvalidDefinition(f"the view has {len(found)} columns, and {len(given)} names")
    names = (*given, *(name.lower() for name in found[len(given) :]))
    if len(names) > COLUMNS_MAX:
        raise InvalidDefinition(f"a view has at most {COLUMNS_MAX} columns")
    for name in names:
        if names.count(name) > 1:
            raise InvalidDefinition(f"column {name} is there twice: name the columns of the view")
    return names


def _depth(view: ViewDef, catalog: CatalogView) -> int:
    by_id = {found.id: found for found in catalog.views.values()}

    def depth(number: TableId) -> int:
        inner = by_id.get(number)
        return 0 if inner is None else 1 + max(map(depth, inner.views), default=0)

    return depth(view.id)


# ---- what depends on what ------------------------------------------------------------------------


def dependents(
    catalog: CatalogView,
    *,
    tables: Iterable[TableId] = (),
    views: Iterable[TableId] = (),
) -> list[ViewDef]:
    """The views that rest on any of these, through others too, each once, by name."""
    wanted = set(tables)
    known = set(views)
    found: dict[TableId, ViewDef] = {}
    grows = True
    while grows:
        grows = False
        for view in catalog.views.values():
            if view.id not in found and (
                wanted.intersection(view.tables) or known.intersection(view.views)
            ):
                found[view.id] = view
                known.add(view.id)
                grows = True
    return sorted(found.values(), key=lambda view: view.full_name)


def mentions(view: ViewDef, column: str) -> bool:
    """Can the view's text mean a column of this name: by naming it, or by `*`, NATURAL?"""
    for node in view_query(view.sql).query.tree.walk():
        match node:
            case exp.Identifier():
                if node.name.lower() == column:
                    return True
            case exp.Star():
                if not isinstance(node.parent, exp.Count):
                    return True
            case exp.Join() if str(node.args.get("method") or "") == "NATURAL":
                return True
            case _:
                pass
    return False


def check_views_stay(old: TableDef, new: TableDef, catalog: CatalogView) -> None:
    """Would a view lose what it names? Raises InvalidDefinition, which names it."""
    direct = [view for view in catalog.views.values() if old.id in view.tables]
    if not direct:
        return
    if (old.namespace, old.name) != (new.namespace, new.name):
        raise StillNeeded(f"the name of table {old.full_name}", f"view {direct[0].full_name}")
    now = {column.id: column.name for column in new.columns}
    for column in old.columns:
        if now.get(column.id) == column.name:
            continue
        for view in direct:
            if column.id < view.tables[old.id] and mentions(view, column.name):
                raise StillNeeded(
                    f"column {column.name} of {old.full_name}", f"view {view.full_name}"
                )


def named_tables(view: ViewDef) -> list[TableName]:
    """The tables and views its text names, as it names them."""
    return [name for _, name in base_tables(view_query(view.sql).query.tree)]
