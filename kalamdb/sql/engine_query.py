# pyright: basic
"""Queries for the engine: which stored tables and columns they need, and the text they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidStatement, UnknownNamespace, UnknownTable
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.ids import TableId
from kalamdb.model.table import USER_ID_COLUMN, USER_ID_COLUMN_ID, Column, TableDef
from kalamdb.model.types import TEXT
from kalamdb.sql.any_list import any_parameter, splice_any
from kalamdb.sql.bound import Env, ScanSelect, ScanTable
from kalamdb.sql.distances import splice_distances
from kalamdb.sql.literals import quoted
from kalamdb.sql.operand_types import Types, select_sources
from kalamdb.sql.output_names import around, name_outputs, own_names
from kalamdb.sql.overflow import splice_overflow
from kalamdb.sql.parameters import check_count
from kalamdb.sql.precedence import splice_distinct
from kalamdb.sql.query_shape import base_tables
from kalamdb.sql.render import (
    Splices,
    Text,
    add,
    identifier_span,
    splice_escape,
    splice_typed,
    text_of,
)
from kalamdb.sql.statement import TableName
from kalamdb.sql.syntax import Fragment
from kalamdb.sql.views import DEPTH_MAX, view_query
from kalamdb.sql.virtual import VIRTUAL_NAMESPACES, virtual_table

TABLES_MAX = 64
VIEWS_MAX = 32  # expanded in one query, those inside others among them
USER_ID = Column(USER_ID_COLUMN_ID, USER_ID_COLUMN, TEXT, nullable=False)


@dataclass(slots=True, eq=False)
class Sources:
    """The stored tables of one statement, each under one alias, with the names of columns it
    mentions.
    """

    catalog: CatalogView
    namespace: str
    tables: dict[tuple[TableName, int | None], tuple[str, TableDef]] = field(default_factory=dict)
    nodes: dict[int, TableDef] = field(default_factory=dict)  # id of a tree's table node → table
    view_nodes: dict[int, ViewDef] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    everything: bool = False
    hidden: set[str] = field(default_factory=set)  # aliases of which the hidden key is read
    views: dict[int, ViewDef] = field(default_factory=dict)  # those expanded, by id
    expanded: list[int] = field(default_factory=list)  # their ids, once for each time
    pins: Mapping[TableId, int] = field(default_factory=dict)  # the view's, inside one
    depth: int = 0

    def view(self, name: TableName) -> ViewDef | None:
        """The view of this name. Raises InvalidStatement for one that cannot be read here."""
        found = self.catalog.views.get((name.namespace or self.namespace, name.name))
        if found is not None:
            if name.all_users:
                raise InvalidStatement(f"{found.full_name} is a view: name it without all_users")
            if self.depth >= DEPTH_MAX or len(self.expanded) >= VIEWS_MAX:
                raise InvalidStatement(
                    f"a query reads at most {VIEWS_MAX} views, {DEPTH_MAX} inside each other"
                )
            self.views[found.id] = found
            self.expanded.append(found.id)
        return found

    def inside(self, view: ViewDef) -> Sources:
        """For the text of a view: the same tables and notes, the view's own names and columns."""
        return replace(
            self, namespace=view.home, pins=view.tables, depth=self.depth + 1, everything=False
        )

    def use(self, name: TableName) -> tuple[str, TableDef]:
        """Raises UnknownTable, UnknownNamespace, InvalidStatement."""
        namespace = name.namespace or self.namespace
        full = TableName(namespace, name.name, name.all_users)
        young = self._young(namespace, name.name)
        found = self.tables.get((full, young))
        if found is None:
            if len(self.tables) >= TABLES_MAX:
                raise InvalidStatement(f"a query reads at most {TABLES_MAX} tables")
            if namespace in VIRTUAL_NAMESPACES:
                table = virtual_table(namespace, name.name)
            else:
                table = self.catalog.table(namespace, name.name)
            if name.all_users and not table.is_tenant_scoped:
                raise InvalidStatement(f"{table.full_name} is SHARED: name it without all_users")
            if young is not None:
                older = tuple(column for column in table.columns if column.id < young)
                table = replace(table, columns=older)
            found = self.tables[full, young] = f"kt{len(self.tables)}", table
        return found

    def _young(self, namespace: str, name: str) -> int | None:
        """The column id from which columns are hidden here; None where none are."""
        table = self.catalog.tables.get((namespace, name))
        if table is None:
            return None
        young = self.pins.get(table.id, table.next_column_id)
        return young if any(column.id >= young for column in table.columns) else None

    def note(self, tree: exp.Expr) -> None:
        """Collect what a tree mentions: a superset of the columns it reads."""
        for node in tree.walk():
            match node:
                case exp.Identifier():
                    self.names.add(node.name.lower())
                case exp.Star():
                    self.everything = self.everything or not isinstance(node.parent, exp.Count)
                case exp.Join() if str(node.args.get("method") or "") == "NATURAL":
                    self.everything = True
                case _:
                    pass

    def scans(self) -> tuple[ScanTable, ...]:
        return tuple(
            # In a view a table may show fewer columns than it has.
            ScanTable(
                alias,
                self.catalog.tables_by_id.get(table.id, table),
                self._columns(name, alias, table),
                name.all_users,
            )
            for (name, _), (alias, table) in self.tables.items()
        )

    def _columns(self, name: TableName, alias: str, table: TableDef) -> tuple[Column, ...]:
        known = (*table.readable, USER_ID) if name.all_users else table.readable
        if not self.everything:
            known = tuple(column for column in known if column.name in self.names)
        if alias in self.hidden:
            known = (*known, *(column for column in table.key_columns if column not in known))
        return known or table.readable[-1:] or table.readable

    def star_columns(self, select: exp.Select, qualifier: str) -> set[str]:
        """Names of the columns that `*` or `qualifier.*` means, as far as they are known here."""
        found: set[str] = set()
        for source in select_sources(select):
            if qualifier and source.alias_or_name.lower() != qualifier:
                continue
            table = self.nodes.get(id(source))
            if table is not None:
                found.update(table.readable_by_name)
            elif id(source) in self.view_nodes:
                found.update(self.view_nodes[id(source)].columns)
        return found


def scan_select(
    query: Fragment, catalog: CatalogView, namespace: str, parameters: int
) -> ScanSelect:
    """Any query. Raises UnknownTable, UnknownNamespace, Unsupported, TypeMismatch."""
    sources = Sources(catalog, namespace)
    splices = Splices()
    splice_tree(query, sources, splices)
    name_outputs(query, splices, sources.star_columns)
    text = text_of(query.tokens, query.text, splices, kept_names=own_names(query.tree))
    return ScanSelect(
        sources.scans(),
        Renderer(text, parameters),
        bool(query.tree.args.get("order")),
        tuple(sources.views.values()),
    )


class Renderer:
    """A ScanSelect's `render`; `shown` is its text with what differs per run named."""

    def __init__(self, text: Text, parameters: int) -> None:
        self._text = text
        self._parameters = parameters

    def __call__(self, env: Env) -> str:
        check_count(env, self._parameters)
        return self._text.render(env)

    @property
    def shown(self) -> str:
        return self._text.shown


# ---- tables, names and literals of a tree --------------------------------------------------------


def splice_tree(
    fragment: Fragment, sources: Sources, splices: Splices, outer: TableDef | None = None
) -> None:
    """Note and replace what a tree holds. `outer`: the table of the statement around an
    expression.
    """
    tree = fragment.tree
    sources.note(tree)
    for node, name in base_tables(tree):
        view = sources.view(name)
        if view is not None:
            sources.view_nodes[id(node)] = view
            _splice_view(splices, node, view, sources)
            continue
        alias, table = sources.use(name)
        sources.nodes[id(node)] = table
        _splice_table(splices, node, alias)
    types = Types(sources.nodes, outer)
    splice_overflow(splices, fragment, types)
    splice_distinct(splices, fragment.tokens)
    for node in tree.walk():
        match node:
            case exp.Column():
                _splice_column(splices, node)
            case exp.Escape():
                splice_escape(splices, node, fragment.tokens)
            case _:
                listed = any_parameter(node)
                if listed is not None:
                    column_type = types.type_of(node.this)
                    splice_any(splices, *listed, column_type, fragment.tokens)
                    continue
                for operand, column_type in types.typed_operands(node):
                    splice_typed(splices, operand, column_type)
    _splice_negations(splices, fragment.tokens)
    splice_distances(splices, fragment)


def _splice_negations(splices: Splices, tokens: Sequence[Token]) -> None:
    """`!~` and its kin are two tokens here, and one to the engine."""
    for at, token in enumerate(tokens):
        if token.token_type is TokenType.NOT and token.text == "!":
            add(splices, token.start, tokens[at + 1].end, f"!{tokens[at + 1].text}")


def _splice_table(splices: Splices, node: Any, alias: str) -> None:
    first = node.args.get("catalog") or node.args.get("db") or node.this
    piece = (
        alias if node.args.get("alias") is not None else f"{alias} AS {quoted(node.name.lower())}"
    )
    add(splices, identifier_span(first)[0], identifier_span(node.this)[1], piece)


def _splice_view(splices: Splices, node: Any, view: ViewDef, sources: Sources) -> None:
    """A view becomes a subquery with the columns it was made with."""
    query = view_query(view.sql).query
    inside = sources.inside(view)
    inner_splices = Splices()
    try:
        splice_tree(query, inside, inner_splices)
    except (UnknownTable, UnknownNamespace) as error:
        raise InvalidStatement(f"view {view.full_name} cannot be read: {error}") from error
    sources.everything = sources.everything or inside.everything
    name_outputs(query, inner_splices, inside.star_columns)
    inner = text_of(query.tokens, query.text, inner_splices, kept_names=own_names(query.tree))
    columns = ", ".join(map(quoted, view.columns))
    named = f") AS {quoted(node.name.lower())} ({columns})"
    has_alias = node.args.get("alias") is not None
    before, after = ("(SELECT * FROM (", named + ")") if has_alias else ("(", named)
    first = node.args.get("catalog") or node.args.get("db") or node.this
    piece = around(before, inner, after)
    add(splices, identifier_span(first)[0], identifier_span(node.this)[1], piece)


def _splice_column(splices: Splices, node: Any) -> None:
    """`chat.messages.id` → `"messages" . id`: the engine knows tables by alias only."""
    first = node.args.get("catalog") or node.args.get("db")
    if first is None:
        return
    table = node.args["table"]
    add(splices, identifier_span(first)[0], identifier_span(table)[1], quoted(table.name.lower()))
