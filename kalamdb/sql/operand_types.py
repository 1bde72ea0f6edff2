# pyright: basic
"""Which literals and parameters of a query stand beside a column, and what type they take from it.

A column's type is followed to its stored table through subqueries in FROM and WITH; where it is not
plain to see, a value goes to the engine as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlglot import exp

from kalamdb.model.table import TableDef
from kalamdb.model.types import ColumnType, Kind
from kalamdb.sql.casts import cast_type
from kalamdb.sql.operands import literal
from kalamdb.sql.scope import NotCompilable

_COMPARED = (
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ
)  # fmt: skip
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul)
_SAME_TYPE = (exp.Max, exp.Min, exp.Coalesce)  # as their first argument
DEPTH_MAX = 32

Nodes = Mapping[int, TableDef]
"""id of a tree's table node → the stored table it names."""


class Types:
    """The columns one tree may mean. `outer`: the table of the statement around an expression."""

    def __init__(self, nodes: Nodes, outer: TableDef | None = None) -> None:
        self._nodes = nodes
        self._outer = outer
        self._depth = 0

    # ---- operands -------------------------------------------------------------------------------

    def typed_operands(self, node: Any) -> Iterator[tuple[Any, ColumnType]]:
        """Literals and parameters of a node that take the type of a column beside them."""
        if isinstance(node, _COMPARED):
            yield from self._beside(node.this, [node.expression])
            yield from self._beside(node.expression, [node.this])
        elif isinstance(node, _ARITHMETIC):
            for one, other in ((node.this, node.expression), (node.expression, node.this)):
                column_type = self.type_of(one)
                if column_type is not None and column_type.kind is Kind.DECIMAL:
                    yield from self._beside(one, [other])
        elif isinstance(node, exp.Between):
            yield from self._beside(node.this, [node.args["low"], node.args["high"]])
        elif isinstance(node, exp.In):
            yield from self._beside(node.this, node.expressions)

    def _beside(self, typed: Any, operands: Sequence[Any]) -> Iterator[tuple[Any, ColumnType]]:
        if literal(typed) is not None:
            return
        column_type = self.type_of(typed)
        if column_type is not None:
            for operand in operands:
                if literal(operand) is not None:
                    yield operand, column_type

    # ---- types ----------------------------------------------------------------------------------

    def type_of(self, node: Any) -> ColumnType | None:
        """The type of an expression; None when it is not plain to see."""
        while isinstance(node, (exp.Paren, exp.Neg, *_SAME_TYPE)):
            node = node.this
        match node:
            case exp.Column():
                return self._column(node)
            case exp.Cast():
                try:
                    return cast_type(node)
                except NotCompilable:
                    return None
            case _ if isinstance(node, _ARITHMETIC):
                for part in (node.this, node.expression):
                    found = self.type_of(part)
                    if found is not None and found.kind is Kind.DECIMAL:
                        return found
        return None

    def _column(self, node: Any) -> ColumnType | None:
        name = node.name.lower()
        select = node.find_ancestor(exp.Select)
        if select is None:
            outer = self._outer
            found = None if outer is None else outer.readable_by_name.get(name)
            return None if found is None else found.type
        return self._among(select_sources(select), node.text("table").lower(), name)

    def _among(self, sources: Iterator[Any], qualifier: str, name: str) -> ColumnType | None:
        """The one type a name has in these sources; None when one of them cannot be seen."""
        types: set[ColumnType] = set()
        for source in sources:
            if qualifier and source.alias_or_name.lower() != qualifier:
                continue
            columns = self._columns(source)
            if columns is None:
                return None
            if name in columns:
                column_type = columns[name]
                if column_type is None:
                    return None
                types.add(column_type)
        return types.pop() if len(types) == 1 else None

    def _columns(self, source: Any) -> dict[str, ColumnType | None] | None:
        """Names and types of a source in FROM; None when they cannot be seen."""
        table = self._nodes.get(id(source))
        alias = source.args.get("alias")
        if alias is not None and alias.args.get("columns"):
            return None
        if table is not None:
            return {column.name: column.type for column in table.readable}
        if isinstance(source, exp.Subquery):
            return self._output(source.this)
        if isinstance(source, exp.Table) and source.args.get("db") is None:
            return self._of_cte(source)
        return None

    def _of_cte(self, source: Any) -> dict[str, ColumnType | None] | None:
        name = source.name.lower()
        at: Any = source.parent
        while at is not None:
            clause = at.args.get("with_")
            if clause is not None:
                for cte in reversed(clause.expressions):
                    if cte.alias.lower() == name:
                        plain = not clause.args.get("recursive") and not cte.args["alias"].columns
                        return self._output(cte.this) if plain else None
            at = at.parent
        return None

    def _output(self, query: Any) -> dict[str, ColumnType | None] | None:
        """Names and types of what a SELECT gives."""
        if not isinstance(query, exp.Select) or self._depth >= DEPTH_MAX:
            return None
        self._depth += 1
        try:
            found: dict[str, ColumnType | None] = {}
            for node in query.expressions:
                if isinstance(node, exp.Star) or isinstance(node.this, exp.Star):
                    qualifier = node.text("table").lower() if isinstance(node, exp.Column) else ""
                    if not self._stars(query, qualifier, found):
                        return None
                else:
                    name = node.alias_or_name
                    found[name.lower()] = self.type_of(
                        node.this if isinstance(node, exp.Alias) else node
                    )
            return found
        finally:
            self._depth -= 1

    def _stars(self, query: Any, qualifier: str, found: dict[str, ColumnType | None]) -> bool:
        for source in select_sources(query):
            if qualifier and source.alias_or_name.lower() != qualifier:
                continue
            columns = self._columns(source)
            if columns is None:
                return False
            for name, column_type in columns.items():
                # A name of two sources means neither for sure.
                found[name] = None if name in found else column_type
        return True


def select_sources(select: Any) -> Iterator[Any]:
    """What stands in FROM and its joins."""
    clause = select.args.get("from_")
    if clause is not None:
        yield clause.this
        yield from (join.this for join in clause.this.args.get("joins") or ())
    for join in select.args.get("joins") or ():
        yield join.this
        yield from (inner.this for inner in join.this.args.get("joins") or ())
