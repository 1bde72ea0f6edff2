# pyright: basic
"""What a query may consist of: every clause that is not in the list is refused by name, none is
dropped.

The engine would accept some clauses and ignore them, and sqlglot reads many that other databases
have. So the list says what is known, and anything else that a tree holds is `Unsupported`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from kalamdb.errors import InvalidStatement, SyntaxInvalid, Unsupported
from kalamdb.sql.reader import ALL_USERS
from kalamdb.sql.statement import TableName
from kalamdb.sql.unsupported import FUNCTIONS
from kalamdb.sql.virtual import VIRTUAL_NAMESPACES

_SELECTABLE = "with_ order limit offset"
_KNOWN: dict[type[Any], frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        exp.Select: f"{_SELECTABLE} expressions from_ joins where group having distinct"
        " windows qualify",
        exp.SetOperation: f"{_SELECTABLE} this expression distinct",
        exp.Subquery: f"{_SELECTABLE} this alias joins",
        exp.Values: "expressions alias order limit offset",
        exp.Table: "this db catalog alias joins",
        exp.Join: "this on side kind using method",
        exp.From: "this",
        exp.With: "expressions recursive",
        exp.CTE: "this alias",
        exp.TableAlias: "this columns",
        exp.Group: "expressions grouping_sets cube rollup",
        exp.Order: "expressions",
        exp.Ordered: "this desc nulls_first",
        exp.Limit: "expression",
        exp.Offset: "expression",
        exp.Distinct: "expressions on",
        exp.Window: "this partition_by order spec alias over first",
        exp.Where: "this",
        exp.Having: "this",
        exp.Between: "this low high",
    }.items()
}
_SHOWN = {
    "locks": "FOR UPDATE",
    "into": "SELECT INTO",
    "sample": "TABLESAMPLE",
    "laterals": "LATERAL",
    "connect": "CONNECT BY",
    "match": "MATCH_RECOGNIZE",
    "pivots": "PIVOT",
    "cluster": "CLUSTER BY",
    "distribute": "DISTRIBUTE BY",
    "sort": "SORT BY",
    "prewhere": "PREWHERE",
    "by_name": "UNION BY NAME",
    "materialized": "AS [NOT] MATERIALIZED",
    "system_time": "FOR SYSTEM_TIME",
    "only": "ONLY",
    "ordinality": "WITH ORDINALITY",
    "limit_options": "WITH TIES",
    "hint": "hints",
    "hints": "hints",
    "kind": "SELECT AS",
    "search": "SEARCH",
    "cycle": "CYCLE",
    "all": "GROUP BY ALL",
    "symmetric": "BETWEEN SYMMETRIC",
}
_REFUSED: dict[type[Any], tuple[str, str | None]] = {
    exp.Command: ("this statement", None),
    exp.Lateral: ("LATERAL", "join a subquery"),
    exp.Unnest: ("UNNEST in FROM", "use UNNEST in the SELECT list"),
    exp.Pivot: ("PIVOT", "use CASE in aggregates"),
    exp.TableSample: ("TABLESAMPLE", "use WHERE and LIMIT"),
    exp.Lock: ("FOR UPDATE", "statements are atomic"),
    exp.Into: ("SELECT INTO", "write INSERT INTO … SELECT"),
    exp.Hint: ("hints", None),
    exp.Fetch: ("FETCH FIRST", "write LIMIT n"),
    exp.SessionParameter: ("@@ variables", None),
    exp.Placeholder: ("this placeholder", "number parameters: $1, $2, …"),
    exp.Insert: ("INSERT inside a query", "send it as a statement of its own"),
    exp.Update: ("UPDATE inside a query", "send it as a statement of its own"),
    exp.Delete: ("DELETE inside a query", "send it as a statement of its own"),
    exp.Merge: ("MERGE", "write INSERT … ON CONFLICT"),
    exp.Create: ("CREATE inside a query", None),
    exp.Lambda: ("lambda expressions", None),
    exp.BitwiseLeftShift: ("the operator <<", "multiply by a power of two"),
    exp.BitwiseRightShift: ("the operator >>", "divide by a power of two"),
    exp.BitwiseNot: ("the operator ~", "write -x - 1"),
    exp.SimilarTo: ("SIMILAR TO", "write LIKE, or ~ with a regular expression"),
    exp.Collate: ("COLLATE", "texts are compared by code points"),
    exp.JSONExtract: ("the operator ->", "read the JSON in your program"),
    exp.JSONExtractScalar: ("the operator ->>", "read the JSON in your program"),
}
_ANY_NAME = exp.Identifier(this="")
_COMPARISONS = {
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ
}  # fmt: skip
_MATCHES = {exp.In, exp.Between, exp.Like, exp.ILike, exp.RegexpLike, exp.RegexpILike}
_BITWISE = {exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseXor}
_JOIN_SIDES = {"", "LEFT", "RIGHT", "FULL"}
_JOIN_KINDS = {"", "INNER", "OUTER", "CROSS", "SEMI", "ANTI"}


def check_shape(tree: exp.Expr) -> None:
    """Refuse what no list knows. Raises Unsupported, SyntaxInvalid."""
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        _check_node(node)
        stack.extend(node.iter_expressions())


def _check_node(node: Any) -> None:
    kind = type(node)
    refused = _REFUSED.get(kind)
    if refused is not None:
        raise Unsupported(*refused)
    if kind is exp.Anonymous and node.name.lower() in FUNCTIONS:
        name = node.name.lower()
        raise Unsupported(f"function {name}()", FUNCTIONS[name])
    alias = node.args.get("alias") if kind is exp.Alias else _ANY_NAME
    if kind in _COMPARISONS or kind in _BITWISE:
        _check_binding(node)
    if kind is exp.TableAlias:
        alias = node.this or _ANY_NAME
    if not isinstance(alias, exp.Identifier):
        raise SyntaxInvalid("an alias is a name", None, None)
    known = _KNOWN.get(exp.SetOperation if isinstance(node, exp.SetOperation) else kind)
    if known is None:
        if isinstance(node, exp.DDL) and not isinstance(node, exp.Query):
            raise Unsupported(f"{node.key.upper()} inside a query", None)
        return
    for name, value in node.args.items():
        if name not in known and value is not None and value is not False and value != []:
            shown = _SHOWN.get(name, f"{name.strip('_').upper()} of {node.key.upper()}")
            raise Unsupported(shown, None)
    match node:
        case exp.Join():
            _check_join(node)
        case exp.From():
            _check_source(node.this)
        case exp.Table():
            _check_source(node)
        case _:
            pass


def _check_binding(node: Any) -> None:
    """Operators in a row that PostgreSQL and the engine put together differently."""
    kind = type(node)
    for inner in (node.this, node.expression):
        within = inner.this if isinstance(inner, exp.Not) else inner
        if kind in _COMPARISONS and type(within) in _COMPARISONS | _MATCHES:
            raise SyntaxInvalid("comparisons in a row: put one in parentheses", None, None)
        if kind in _BITWISE and type(inner) in _BITWISE and type(inner) is not kind:
            raise Unsupported("& and | in a row", "put one in parentheses")


def _check_join(join: Any) -> None:
    side, kind = str(join.args.get("side") or ""), str(join.args.get("kind") or "")
    method = str(join.args.get("method") or "")
    if side not in _JOIN_SIDES or kind not in _JOIN_KINDS or method not in ("", "NATURAL"):
        raise Unsupported(" ".join(word for word in (method, side, kind, "JOIN") if word), None)
    _check_source(join.this)


def _check_source(source: Any) -> None:
    if isinstance(source, exp.Table):
        if not isinstance(source.this, exp.Identifier):
            if source.this.name.lower() == "vector_search":
                raise Unsupported("VECTOR_SEARCH", "ORDER BY COSINE_DISTANCE(column, vector)")
            raise Unsupported("table functions", "FROM takes tables and subqueries")
        return
    if type(source) in _REFUSED:
        raise Unsupported(*_REFUSED[type(source)])
    if not isinstance(source, (exp.Subquery, exp.Values)):
        raise Unsupported(f"{source.key.upper()} in FROM", "FROM takes tables and subqueries")


# ---- tables --------------------------------------------------------------------------------------


def table_name(node: Any) -> TableName:
    """The name of a base table. Raises Unsupported for three parts other than all_users."""
    name = node.name.lower()
    namespace = node.text("db").lower() or None
    catalog = node.text("catalog").lower()
    if catalog and catalog != ALL_USERS:
        raise Unsupported(
            f"the three-part name {catalog}.{namespace}.{name}",
            f"a table is namespace.table, or {ALL_USERS}.namespace.table",
        )
    if namespace == ALL_USERS:
        raise InvalidStatement(f"name the namespace as well: {ALL_USERS}.namespace.{name}")
    if catalog and namespace in VIRTUAL_NAMESPACES:
        raise InvalidStatement(f"{namespace}.{name} has no tenants: name it without {ALL_USERS}")
    if not name:
        raise SyntaxInvalid("a table name is empty", None, None)
    return TableName(namespace, name, all_users=bool(catalog))


def base_tables(tree: exp.Expr) -> Iterator[tuple[Any, TableName]]:
    """The nodes that name stored tables, with their names; names of CTEs in their scope are left
    out.
    """
    stack: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while stack:
        node, visible = stack.pop()
        if isinstance(node, exp.Table):
            if node.args.get("db") is not None or node.name.lower() not in visible:
                yield node, table_name(node)
            stack.extend((join, visible) for join in node.args.get("joins") or ())
            continue
        clause = node.args.get("with_")
        if clause is not None:
            for cte in clause.expressions:
                inner = visible | {cte.alias.lower()}
                # Only WITH RECURSIVE lets a CTE see itself.
                stack.append((cte.this, inner if clause.args.get("recursive") else visible))
                visible = inner
        stack.extend((child, visible) for child in node.iter_expressions() if child is not clause)
