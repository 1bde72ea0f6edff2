"""Decisions on namespaces, tables, fences, slots and placement.

Meta decisions rest on the catalog as decided so far (`catalog`); each that changes it counts its
version up. Data groups know tables from their own fences only (core.md §5).

Keeps: table ids are never given twice; a name belongs to one active table; a definition that was
pending and never became active gives way to the next one of its name.
"""

from __future__ import annotations

from dataclasses import replace

from kalamdb.decide.draft import Draft
from kalamdb.errors import (
    AlreadyExists,
    Conflict,
    InvalidDefinition,
    InvalidStatement,
    NamespaceNotEmpty,
    UnknownNamespace,
    UnknownTable,
)
from kalamdb.model import keys
from kalamdb.model.catalog import DEFAULT_NAMESPACE, CatalogView, Namespace, Placement
from kalamdb.model.command import Outcome
from kalamdb.model.ids import TableId
from kalamdb.model.table import TableDef
from kalamdb.model.work import (
    ActivateTable,
    CreateNamespace,
    DefineTable,
    DropNamespace,
    DropTable,
    OpenSlots,
    PutFence,
    PutPlacement,
)
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import (
    Fence,
    FenceState,
    SlotRecord,
    SlotState,
    TableState,
    decode_fence,
    decode_slot,
    encode_fence,
    encode_namespace,
    encode_placement,
    encode_slot,
    encode_table,
)

TABLE_ID_MAX = (1 << 32) - 2


def done(draft: Draft, affected: int = 1) -> Outcome:
    return Outcome(affected, draft.seq)


def put_record(draft: Draft, catalog: CatalogView, key: bytes, value: bytes | None) -> None:
    """One catalog change, with the catalog's new version."""
    draft.put(key, value)
    draft.put(records.VERSION_KEY, keys.U64.pack(catalog.version + 1))


# ---- namespaces ---------------------------------------------------------------------------------


def create_namespace(draft: Draft, work: CreateNamespace, catalog: CatalogView) -> Outcome:
    if work.name in catalog.namespaces:
        if work.if_not_exists:
            return done(draft, 0)
        raise AlreadyExists("namespace", work.name)
    if work.name.lower() in records.RESERVED_NAMESPACES:
        raise InvalidDefinition(f"the namespace name {work.name} is reserved")
    made = Namespace(work.name, draft.wall_ms)
    put_record(draft, catalog, records.namespace_key(work.name), encode_namespace(made))
    return done(draft)


def drop_namespace(draft: Draft, work: DropNamespace, catalog: CatalogView) -> Outcome:
    if work.name == DEFAULT_NAMESPACE:
        raise InvalidStatement(f"the namespace {work.name} is built in and cannot be dropped")
    if work.name not in catalog.namespaces:
        if work.if_exists:
            return done(draft, 0)
        raise UnknownNamespace(work.name)
    tables = [*catalog.tables_by_id.values(), *catalog.pending.values()]
    inside = sum(table.namespace == work.name for table in tables)
    if inside:
        raise NamespaceNotEmpty(work.name, inside)
    put_record(draft, catalog, records.namespace_key(work.name), None)
    return done(draft)


# ---- tables -------------------------------------------------------------------------------------


def define_table(draft: Draft, work: DefineTable, catalog: CatalogView) -> Outcome:
    """Records the table as pending. The outcome's one row is its id and version."""
    table = work.table
    if table.namespace not in catalog.namespaces:
        raise UnknownNamespace(table.namespace)
    if (table.namespace, table.name) in catalog.tables:
        if work.if_not_exists:
            return done(draft, 0)
        raise AlreadyExists("table", table.full_name)
    for other in catalog.pending.values():
        if (other.namespace, other.name) == (table.namespace, table.name):
            draft.put(records.table_key(other.id), None)
    if table.id == 0:
        table = replace(table, id=_next_table_id(draft))
    put_record(draft, catalog, records.table_key(table.id), encode_table(table, TableState.PENDING))
    return Outcome(1, draft.seq, ("id", "version"), ((int(table.id), table.version),))


def _next_table_id(draft: Draft) -> TableId:
    raw = draft.get(records.TABLE_ID_KEY)
    newest = 0 if raw is None else keys.U64.unpack(raw)[0]
    if newest >= TABLE_ID_MAX:
        raise InvalidDefinition("all table ids have been given out")
    draft.put(records.TABLE_ID_KEY, keys.U64.pack(newest + 1))
    return TableId(newest + 1)


def activate_table(draft: Draft, work: ActivateTable, catalog: CatalogView) -> Outcome:
    pending = catalog.pending.get(work.table)
    if pending is None or pending.version != work.version:
        active = catalog.tables_by_id.get(work.table)
        if active is not None and active.version == work.version:
            return done(draft, 0)
        raise Conflict(f"table {work.table} has no pending version {work.version}")
    value = encode_table(pending, TableState.ACTIVE)
    put_record(draft, catalog, records.table_key(work.table), value)
    return done(draft)


def drop_table(draft: Draft, work: DropTable, catalog: CatalogView) -> Outcome:
    if work.table not in catalog.tables_by_id and work.table not in catalog.pending:
        return done(draft, 0)
    put_record(draft, catalog, records.table_key(work.table), None)
    return done(draft)


# ---- data groups --------------------------------------------------------------------------------


def put_fence(draft: Draft, work: PutFence) -> Outcome:
    """Raises UnknownTable for a table that was dropped here, Conflict for an older version."""
    table: TableDef = work.table
    state = FenceState.DROPPED if work.dropped else FenceState.ACTIVE
    raw = draft.get(keys.fence(table.id))
    if raw is not None:
        standing = decode_fence(raw)
        if standing.state is not FenceState.ACTIVE:
            if work.dropped:
                return done(draft, 0)
            raise UnknownTable(table.full_name)
        if standing.table.version > table.version:
            raise Conflict(f"version {standing.table.version} of {table.full_name} is in force")
        if standing.table.version == table.version and not work.dropped:
            return done(draft, 0)
    draft.put(keys.fence(table.id), encode_fence(Fence(table, state)))
    return done(draft)


def open_slots(draft: Draft, work: OpenSlots) -> Outcome:
    """First ownership. A slot that has a record already is left as it is."""
    opened = 0
    value = encode_slot(SlotRecord(work.epoch, SlotState.OPEN))
    for slot in work.slots:
        raw = draft.get(keys.slot(slot))
        if raw is not None:
            record = decode_slot(raw)
            if record.state is not SlotState.OPEN or record.epoch != work.epoch:
                raise Conflict(f"slot {slot} has a record of epoch {record.epoch}")
            continue
        draft.put(keys.slot(slot), value)
        opened += 1
    return done(draft, opened)


def put_placement(draft: Draft, work: PutPlacement, catalog: CatalogView) -> Outcome:
    if catalog.placement is not None:
        raise AlreadyExists("placement", catalog.placement.cluster_id)
    placement = Placement(work.cluster_id, work.groups, work.voters)
    put_record(draft, catalog, records.PLACEMENT_KEY, encode_placement(placement))
    return done(draft)
