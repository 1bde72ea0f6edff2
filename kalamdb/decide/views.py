"""Decisions of the meta group on views.

Keeps: a view rests on tables and views that are there when it is decided, and on no view that rests
on it; it shares its name with no table; no view is dropped from under another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kalamdb.decide.draft import Draft
from kalamdb.decide.schema import done, next_table_id, put_record
from kalamdb.errors import AlreadyExists, Conflict, UnknownNamespace
from kalamdb.model.catalog import CatalogView, ViewDef
from kalamdb.model.command import Outcome
from kalamdb.model.ids import TableId
from kalamdb.model.work import DropViews, PutView
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import encode_view


def put_view(draft: Draft, work: PutView, catalog: CatalogView) -> Outcome:
    """Raises AlreadyExists, UnknownNamespace, Conflict when what it rests on has changed."""
    view = work.view
    if view.namespace not in catalog.namespaces:
        raise UnknownNamespace(view.namespace)
    for table in (*catalog.tables_by_id.values(), *catalog.pending.values()):
        if table.full_name == view.full_name:
            raise AlreadyExists("table", view.full_name)
    by_id = {found.id: found for found in catalog.views.values()}
    known = catalog.views.get((view.namespace, view.name))
    if known is not None and view.id != known.id:
        raise AlreadyExists("view", view.full_name)
    if view.id and (known is None or view.version != known.version + 1):
        raise Conflict(f"view {view.full_name} is being changed by another statement")
    missing = [one for one in view.tables if one not in catalog.tables_by_id]
    if missing or any(one not in by_id for one in view.views):
        raise Conflict(f"what view {view.full_name} reads is being changed")
    if _reaches(view, view.id, by_id):
        raise Conflict(f"view {view.full_name} would read itself")
    if not view.id:
        view = replace(view, id=next_table_id(draft))
    put_record(draft, catalog, records.view_key(view.id), encode_view(view))
    return done(draft)


def _reaches(view: ViewDef, wanted: TableId, by_id: Mapping[TableId, ViewDef]) -> bool:
    return any(one == wanted or _reaches(by_id[one], wanted, by_id) for one in view.views if wanted)


def drop_views(draft: Draft, work: DropViews, catalog: CatalogView) -> Outcome:
    gone = set(work.views)
    known = [view for view in catalog.views.values() if view.id in gone]
    for view in catalog.views.values():
        if view.id not in gone and gone.intersection(view.views):
            raise Conflict(f"view {view.full_name} rests on what is dropped")
    for view in known:
        put_record(draft, catalog, records.view_key(view.id), None)
    return done(draft, len(known))
