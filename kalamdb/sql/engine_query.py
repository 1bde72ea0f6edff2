# pyright: basic
"""Queries for the engine: which stored tables and columns they need, and the text they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from kalamdb.errors import InvalidStatement
from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import USER_ID_COLUMN, USER_ID_COLUMN_ID, Column, TableDef
from kalamdb.model.types import TEXT, ColumnType, Kind
from kalamdb.sql.bound import Env, ScanSelect, ScanTable
from kalamdb.sql.literals import quoted
from kalamdb.sql.operands import literal
from kalamdb.sql.parameters import check_count
from kalamdb.sql.projection import unnamed
from kalamdb.sql.query_shape import base_tables
from kalamdb.sql.reader import word_of
from kalamdb.sql.render import (
    Dynamic,
    Piece,
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

TABLES_MAX = 64
USER_ID = Column(USER_ID_COLUMN_ID, USER_ID_COLUMN, TEXT, nullable=False)


@dataclass(slots=True, eq=False)
class Sources:
    """The stored tables of one statement, each under one alias, with the names of columns it
    mentions.
    """

    catalog: CatalogView
    namespace: str
    tables: dict[TableName, tuple[str, TableDef]] = field(default_factory=dict)
    nodes: dict[int, TableDef] = field(default_factory=dict)  # id of a tree's table node → table
    names: set[str] = field(default_factory=set)
    everything: bool = False
    hidden: set[str] = field(default_factory=set)  # aliases of which the hidden key is read

    def use(self, name: TableName) -> tuple[str, TableDef]:
        """Raises UnknownTable, UnknownNamespace, InvalidStatement."""
        namespace = name.namespace or self.namespace
        full = TableName(namespace, name.name, name.all_users)
        found = self.tables.get(full)
        if found is None:
            if len(self.tables) >= TABLES_MAX:
                raise InvalidStatement(f"a query reads at most {TABLES_MAX} tables")
            table = self.catalog.table(namespace, name.name)
            if name.all_users and not table.is_tenant_scoped:
                raise InvalidStatement(f"{table.full_name} is SHARED: name it without all_users")
            found = self.tables[full] = f"kt{len(self.tables)}", table
        return found

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
            ScanTable(alias, table, self._columns(name, alias, table), name.all_users)
            for name, (alias, table) in self.tables.items()
        )

    def _columns(self, name: TableName, alias: str, table: TableDef) -> tuple[Column, ...]:
        known = (*table.readable, USER_ID) if name.all_users else table.readable
        if not self.everything:
            known = tuple(column for column in known if column.name in self.names)
        if alias in self.hidden:
            known = (*known, *(column for column in table.key_columns if column not in known))
        return known or table.readable[-1:] or table.readable


def scan_select(
    query: Fragment, catalog: CatalogView, namespace: str, parameters: int
) -> ScanSelect:
    """Any query. Raises UnknownTable, UnknownNamespace, Unsupported, TypeMismatch."""
    sources = Sources(catalog, namespace)
    splices: Splices = {}
    splice_tree(query, sources, splices)
    _splice_names(query, splices)
    text = text_of(query.tokens, query.text, splices, kept_names=own_names(query.tree))
    return ScanSelect(
        sources.scans(), Renderer(text, parameters), bool(query.tree.args.get("order"))
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


def own_names(tree: exp.Expr) -> frozenset[str]:
    """Quoted names a query gives itself: they keep their case, names of the catalog are folded."""
    found: set[str] = set()
    for node in tree.walk():
        if isinstance(node, (exp.Alias, exp.TableAlias, exp.CTE)):
            names = [
                node.args.get("alias"),
                node.args.get("this"),
                *(node.args.get("columns") or ()),
            ]
            found.update(
                name.this for name in names if isinstance(name, exp.Identifier) and name.quoted
            )
    return frozenset(found)


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
        alias, table = sources.use(name)
        sources.nodes[id(node)] = table
        _splice_table(splices, node, alias)
    for node in tree.walk():
        match node:
            case exp.Column():
                _splice_column(splices, node)
            case exp.Escape():
                splice_escape(splices, node, fragment.tokens)
            case _:
                for operand, column_type in _typed_operands(node, sources, outer):
                    splice_typed(splices, operand, column_type)


def _splice_table(splices: Splices, node: Any, alias: str) -> None:
    first = node.args.get("catalog") or node.args.get("db") or node.this
    piece = (
        alias if node.args.get("alias") is not None else f"{alias} AS {quoted(node.name.lower())}"
    )
    add(splices, identifier_span(first)[0], identifier_span(node.this)[1], piece)


def _splice_column(splices: Splices, node: Any) -> None:
    """`chat.messages.id` → `"messages" . id`: the engine knows tables by alias only."""
    first = node.args.get("catalog") or node.args.get("db")
    if first is None:
        return
    table = node.args["table"]
    add(splices, identifier_span(first)[0], identifier_span(table)[1], quoted(table.name.lower()))


_COMPARED = (
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ
)  # fmt: skip
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul)


def _typed_operands(
    node: Any, sources: Sources, outer: TableDef | None
) -> Iterator[tuple[Any, ColumnType]]:
    """Literals and parameters of a node that take the type of a column beside them."""
    if isinstance(node, _COMPARED):
        yield from _beside(node.this, [node.expression], sources, outer)
        yield from _beside(node.expression, [node.this], sources, outer)
    elif isinstance(node, _ARITHMETIC):
        for one, other in ((node.this, node.expression), (node.expression, node.this)):
            column_type = type_of(one, sources, outer)
            if column_type is not None and column_type.kind is Kind.DECIMAL:
                yield from _beside(one, [other], sources, outer)
    elif isinstance(node, exp.Between):
        yield from _beside(node.this, [node.args["low"], node.args["high"]], sources, outer)
    elif isinstance(node, exp.In):
        yield from _beside(node.this, node.expressions, sources, outer)


def _beside(
    typed: Any, operands: Sequence[Any], sources: Sources, outer: TableDef | None
) -> Iterator[tuple[Any, ColumnType]]:
    if literal(typed) is not None:
        return
    column_type = type_of(typed, sources, outer)
    if column_type is not None:
        for operand in operands:
            if literal(operand) is not None:
                yield operand, column_type


def type_of(node: Any, sources: Sources, outer: TableDef | None) -> ColumnType | None:
    """The type of a column, or of decimal arithmetic with one; None when it is not plain to see."""
    while isinstance(node, (exp.Paren, exp.Neg)):
        node = node.this
    if isinstance(node, exp.Column):
        return _column_type(node, sources, outer)
    if isinstance(node, _ARITHMETIC):
        for part in (node.this, node.expression):
            found = type_of(part, sources, outer)
            if found is not None and found.kind is Kind.DECIMAL:
                return found
    return None


def _column_type(node: Any, sources: Sources, outer: TableDef | None) -> ColumnType | None:
    select = node.find_ancestor(exp.Select)
    qualifier, name = node.text("table").lower(), node.name.lower()
    if select is None:
        found = outer.readable_by_name.get(name) if outer is not None else None
        return None if found is None else found.type
    known: list[TableDef] = []
    opaque = False
    for source in select_sources(select):
        table = sources.nodes.get(id(source))
        if qualifier and source.alias_or_name.lower() != qualifier:
            continue
        if table is None:
            opaque = True
        else:
            known.append(table)
    types = {table.readable_by_name[name].type for table in known if name in table.readable_by_name}
    return types.pop() if len(types) == 1 and not opaque else None


def select_sources(select: exp.Select) -> Iterator[Any]:
    """What stands in FROM and its joins."""
    clause = select.args.get("from_")
    if clause is not None:
        yield clause.this
        yield from (join.this for join in clause.this.args.get("joins") or ())
    for join in select.args.get("joins") or ():
        yield join.this
        yield from (inner.this for inner in join.this.args.get("joins") or ())


# ---- names of result columns ---------------------------------------------------------------------

_LIST_ENDS_TEXT = """
FROM WHERE GROUP HAVING ORDER LIMIT OFFSET UNION EXCEPT INTERSECT WINDOW QUALIFY
"""
_LIST_ENDS = frozenset(_LIST_ENDS_TEXT.split())


def _splice_names(query: Fragment, splices: Splices) -> None:
    """Give columns without an alias the name of their own text, as the point path does."""
    select = query.tree
    while isinstance(select, exp.SetOperation):
        select = select.this
    if not isinstance(select, exp.Select):
        return
    ranges = select_list(query.tokens)
    if len(ranges) != len(select.expressions):
        return
    kept_names = own_names(query.tree)
    times: dict[str, int] = {}
    taken: set[str] = set()
    for node, tokens in zip(select.expressions, ranges, strict=True):
        if isinstance(node, (exp.Alias, exp.Star, exp.Column)):
            continue
        if isinstance(node, exp.Aliases) or not tokens:
            continue
        plain = unnamed(query.text[tokens[0].start : tokens[-1].end + 1])
        name = plain
        while name in taken:
            times[plain] = times.get(plain, 1) + 1
            name = f"{plain} ({times[plain]})"
        taken.add(name)
        inner = text_of(tokens, query.text, splices, kept_names=kept_names)
        _append(splices, tokens, inner, name)


def _append(splices: Splices, tokens: Sequence[Token], inner: Text, name: str) -> None:
    """Put the alias after an expression rendered by itself, as one splice."""

    shown = f"{inner.shown} AS {quoted(name)}"
    piece: Piece = shown
    if not all(isinstance(part, str) for part in inner.pieces):
        piece = Dynamic(shown, lambda env: f"{inner.render(env)} AS {quoted(name)}")
    add(splices, tokens[0].start, tokens[-1].end, piece)


def select_list(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens of each entry of the first SELECT list outside parentheses."""
    depth = 0
    entries: list[list[Token]] | None = None
    for at, token in enumerate(tokens):
        kind, word = token.token_type, word_of(token)
        if kind in (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.CASE):
            depth += 1
        elif kind in (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.END):
            depth -= 1
            if depth < 0:
                break
        elif depth == 0 and entries is None:
            if word == "SELECT":
                entries = [[]]
            continue
        elif depth == 0 and kind is TokenType.COMMA and entries is not None:
            entries.append([])
            continue
        elif depth == 0 and word in _LIST_ENDS and not _is_inside(tokens, at):
            break
        if entries is not None:
            entries[-1].append(token)
    if not entries:
        return []
    entries[0] = _without_distinct(entries[0])
    return entries


def _is_inside(tokens: Sequence[Token], at: int) -> bool:
    """Is the word at `at` part of an expression: IS DISTINCT FROM, WITHIN GROUP?"""
    pair = (word_of(tokens[at - 1]), word_of(tokens[at]))
    return pair in (("DISTINCT", "FROM"), ("WITHIN", "GROUP"))


def _without_distinct(entry: list[Token]) -> list[Token]:
    if not entry or word_of(entry[0]) not in ("DISTINCT", "ALL"):
        return entry
    if len(entry) > 1 and word_of(entry[1]) == "ON":
        depth = 0
        for at, token in enumerate(entry):
            depth += (token.token_type is TokenType.L_PAREN) - (
                token.token_type is TokenType.R_PAREN
            )
            if at > 1 and depth == 0:
                return entry[at + 1 :]
    return entry[1:]
