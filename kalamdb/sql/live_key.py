# pyright: basic
"""What most likely tells the rows of a result apart: grouping columns, or a table's primary key.

A guess from the text alone. Whoever uses it looks whether the values really are different in each
result, so a wrong guess costs nothing but a less telling difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from kalamdb.model.catalog import CatalogView
from kalamdb.model.table import USER_ID_COLUMN
from kalamdb.sql.query_shape import table_name

Key = tuple[str | int, ...]


def key_of(tree: Any, catalog: CatalogView, namespace: str) -> Key | None:
    """Output columns by name, or by position from 0; none at all for what has one row always; None
    when there is nothing to go by.
    """
    if not isinstance(tree, exp.Select):
        return None
    group = tree.args.get("group")
    if group is not None:
        return _grouping(tree, group)
    if tree.args.get("distinct") is not None:
        return None
    if any(_is_aggregate(item) for item in tree.expressions):
        return ()
    return _primary_key(tree, catalog, namespace)


def _is_aggregate(item: Any) -> bool:
    """Does it hold an aggregate of this very query, and no window?"""
    return any(
        isinstance(node, exp.AggFunc)
        and node.find_ancestor(exp.Window) is None
        and node.find_ancestor(exp.Select) is item.find_ancestor(exp.Select)
        for node in item.walk()
    )


def _grouping(tree: Any, group: Any) -> Key | None:
    """The grouping expressions, if all of them are in the SELECT list."""
    if any(group.args.get(name) for name in ("grouping_sets", "cube", "rollup")):
        return None
    items = tree.expressions
    if any(item.is_star for item in items):
        return None
    found = [_position(node, items) for node in group.expressions]
    return tuple(at for at in found if at is not None) if None not in found else None


def _position(node: Any, items: Sequence[Any]) -> int | None:
    if isinstance(node, exp.Literal) and node.is_int:
        at = int(node.this) - 1
        return at if 0 <= at < len(items) else None
    for at, item in enumerate(items):
        if item.unalias() == node or (
            isinstance(node, exp.Column) and not node.table and item.alias_or_name == node.name
        ):
            return at
    return None


def _primary_key(tree: Any, catalog: CatalogView, namespace: str) -> Key | None:
    """The key of the table that FROM begins with, under the names it has in the result."""
    clause = tree.args.get("from_")
    source = None if clause is None else clause.this
    if not isinstance(source, exp.Table):
        return None
    name = table_name(source)
    ctes = tree.args.get("with_")
    own = () if ctes is None or name.namespace is not None else ctes.expressions
    if any(cte.alias.lower() == name.name for cte in own):
        return None
    table = catalog.tables.get((name.namespace or namespace, name.name))
    if table is None or table.has_hidden_key:
        return None
    wanted = [column.name for column in table.key_columns]
    if name.all_users:
        wanted.insert(0, USER_ID_COLUMN)
    known = _output_names(tree.expressions, source.alias_or_name.lower())
    if None in known:
        return tuple(known.get(column, column) for column in wanted)
    return tuple(known[column] for column in wanted) if set(wanted) <= set(known) else None


def _output_names(items: Sequence[Any], table: str) -> dict[str | None, str]:
    """Column of `table` → its name in the result; None is in it where a star names the others."""
    names: dict[str | None, str] = {}
    for item in items:
        node = item.unalias()
        if node.is_star:
            if node.text("table").lower() in ("", table):
                names[None] = ""
        elif isinstance(node, exp.Column) and node.text("table").lower() in ("", table):
            alias = item.args.get("alias")
            quoted = alias is not None and alias.quoted
            name = item.alias_or_name
            names.setdefault(node.name.lower(), name if quoted else name.lower())
    return names
