"""CREATE VIEW and DROP VIEW, once it is known what the view's query gives.

Keeps: a view holds no rights; whoever reads it is checked for the tables under it. Meta records a
view only when all that it rests on is still there.
"""

from __future__ import annotations

from collections.abc import Sequence

from kalamdb.errors import InvalidStatement, StillNeeded, UnknownNamespace, UnknownTable
from kalamdb.model import work
from kalamdb.model.catalog import ViewDef
from kalamdb.model.work import RequestTag
from kalamdb.ports import Groups
from kalamdb.sql.statement import CreateView, DropView
from kalamdb.sql.views import dependents, view_definition


async def create_view(
    groups: Groups, statement: CreateView, namespace: str, now_ms: int, tag: RequestTag | None
) -> str:
    """`statement.found` is what its query gives. Raises AlreadyExists, InvalidDefinition,
    Conflict.
    """
    view = view_definition(statement, groups.catalog, namespace, now_ms)
    await groups.write_meta(work.PutView(view), tag)
    return f"view {view.full_name} {'replaced' if view.id else 'created'}"


async def drop_view(
    groups: Groups, statement: DropView, namespace: str, tag: RequestTag | None
) -> str:
    """Raises UnknownTable, InvalidStatement, StillNeeded when other views rest on it."""
    catalog = groups.catalog
    home, name = statement.view.namespace or namespace, statement.view.name
    view = catalog.views.get((home, name))
    if view is None:
        if (home, name) in catalog.tables:
            raise InvalidStatement(f"{home}.{name} is a table; write DROP TABLE")
        if statement.if_exists:
            return f"view {home}.{name} does not exist"
        if home not in catalog.namespaces:
            raise UnknownNamespace(home)
        raise UnknownTable(f"{home}.{name}", "view")
    above = dependents(catalog, views=(view.id,))
    if above and not statement.cascade:
        raise rests_on_it(f"view {view.full_name}", above)
    await forget_views(groups, [view, *above], tag)
    return f"view {view.full_name} dropped{with_views(above)}"


def rests_on_it(what: str, above: Sequence[ViewDef]) -> StillNeeded:
    return StillNeeded(what, "view " + ", ".join(view.full_name for view in above[:10]))


def with_views(above: Sequence[ViewDef]) -> str:
    return f" with {len(above)} views" if above else ""


async def forget_views(
    groups: Groups, views: Sequence[ViewDef], tag: RequestTag | None = None
) -> None:
    """All at once."""
    await groups.write_meta(work.DropViews(tuple(view.id for view in views)), tag)
