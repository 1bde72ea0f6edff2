"""Decisions on namespaces, tables, fences and placement.

Meta decisions rest on the catalog as decided so far (`catalog`); each that changes it counts its
version up. Data groups know tables from their own fences only (core.md §5).

Keeps: table ids are never given twice; a name belongs to one active table; a definition that was
pending and never became active gives way to the next one of its name.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from kalamdb.decide.draft import Draft
from kalamdb.decide.plan import TablePlan
from kalamdb.errors import (
    AlreadyExists,
    Conflict,
    InvalidDefinition,
    InvalidStatement,
    UnknownNamespace,
    UnknownTable,
)
from kalamdb.model import codec, keys
from kalamdb.model.catalog import (
    DEFAULT_NAMESPACE,
    RESERVED_NAMESPACES,
    CatalogView,
    Namespace,
    Placement,
)
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq, Slot, TableId
from kalamdb.model.table import TableDef
from kalamdb.model.work import (
    ActivateTable,
    CheckRows,
    CreateNamespace,
    DefineTable,
    DropNamespace,
    DropTable,
    PutFence,
    PutNamespace,
    PutPlacement,
)
from kalamdb.store import catalog as records
from kalamdb.store.catalog_codec import (
    Fence,
    FenceState,
    Replaced,
    TableState,
    decode_fence,
    decode_replaced,
    encode_fence,
    encode_namespace,
    encode_placement,
    encode_replaced,
    encode_table,
)
from kalamdb.store.kv import KeyReader, prefix_end
from kalamdb.store.rows import expired_upto
from kalamdb.store.slot_keys import slot_of_key

TABLE_ID_MAX = (1 << 32) - 2
HISTORY_VERSIONS_MAX = 100  # a table's definitions in force and replaced


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
    if work.name.lower() in RESERVED_NAMESPACES | {DEFAULT_NAMESPACE}:
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
    catalog.check_empty(work.name)
    put_record(draft, catalog, records.namespace_key(work.name), None)
    return done(draft)


def put_namespace(draft: Draft, work: PutNamespace, catalog: CatalogView) -> Outcome:
    """Raises UnknownNamespace, InvalidStatement for the one that is built in."""
    found = catalog.namespaces.get(work.name)
    if found is None:
        raise UnknownNamespace(work.name)
    if work.name == DEFAULT_NAMESPACE:
        raise InvalidStatement(f"the namespace {work.name} is built in and has no options")
    if found.options == work.options:
        return done(draft, 0)
    new = replace(found, options=work.options)
    put_record(draft, catalog, records.namespace_key(work.name), encode_namespace(new))
    return done(draft)


# ---- tables -------------------------------------------------------------------------------------


def define_table(draft: Draft, work: DefineTable, catalog: CatalogView) -> Outcome:
    """Records the table as pending. The outcome's one row is its id and version.

    With the id of an active table it is the table's next definition, and must rest on the newest.
    """
    table = work.table
    if table.id in catalog.tables_by_id:
        return _revise_table(draft, table, catalog)
    if table.version > 1:
        raise UnknownTable(table.full_name)
    if table.namespace not in catalog.namespaces:
        raise UnknownNamespace(table.namespace)
    if (table.namespace, table.name) in catalog.views:
        raise AlreadyExists("view", table.full_name)
    if (table.namespace, table.name) in catalog.tables:
        if work.if_not_exists:
            return done(draft, 0)
        raise AlreadyExists("table", table.full_name)
    for other in catalog.pending.values():
        if (other.namespace, other.name) == (table.namespace, table.name):
            if other.id in catalog.tables_by_id:
                raise Conflict(f"another table is being renamed to {table.full_name}")
            draft.put(records.table_key(other.id), None)
    if table.id == 0:
        table = replace(table, id=next_table_id(draft))
    put_record(draft, catalog, records.table_key(table.id), encode_table(table, TableState.PENDING))
    return Outcome(1, draft.seq, ("id", "version"), ((int(table.id), table.version),))


def _revise_table(draft: Draft, table: TableDef, catalog: CatalogView) -> Outcome:
    """Compare and set: `table` was made from the newest definition there is, or it is Conflict."""
    active = catalog.tables_by_id[table.id]
    newest = catalog.pending.get(table.id, active)
    if table.version != newest.version + 1:
        raise Conflict(f"table {active.full_name} is being changed by another statement")
    if (table.namespace, table.name) in catalog.views:
        raise AlreadyExists("view", table.full_name)
    for other in (*catalog.tables_by_id.values(), *catalog.pending.values()):
        if other.id != table.id and other.full_name == table.full_name:
            raise AlreadyExists("table", table.full_name)
    _check_index_names(table, catalog)
    value = encode_table(table, TableState.PENDING)
    put_record(draft, catalog, records.revision_key(table.id), value)
    return Outcome(1, draft.seq, ("id", "version"), ((int(table.id), table.version),))


def next_table_id(draft: Draft) -> TableId:
    raw = draft.get(records.TABLE_ID_KEY)
    newest = 0 if raw is None else keys.U64.unpack(raw)[0]
    if newest >= TABLE_ID_MAX:
        raise InvalidDefinition("all table ids have been given out")
    draft.put(records.TABLE_ID_KEY, keys.U64.pack(newest + 1))
    return TableId(newest + 1)


def _check_index_names(table: TableDef, catalog: CatalogView) -> None:
    """An index's name is its own in its namespace: DROP INDEX names no table. Raises
    AlreadyExists.
    """
    own = _index_names(table)
    for other in (*catalog.tables_by_id.values(), *catalog.pending.values()):
        if own and other.id != table.id and other.namespace == table.namespace:
            taken = own & _index_names(other)
            if taken:
                raise AlreadyExists("index", min(taken))


def _index_names(table: TableDef) -> set[str]:
    made = (*table.indexes, *(unique for unique in table.uniques if unique.by_index))
    return {index.name for index in made}


def activate_table(draft: Draft, work: ActivateTable, catalog: CatalogView) -> Outcome:
    pending = catalog.pending.get(work.table)
    if pending is None or pending.version != work.version:
        active = catalog.tables_by_id.get(work.table)
        if active is not None and active.version == work.version:
            return done(draft, 0)
        raise Conflict(f"table {work.table} has no pending version {work.version}")
    replaced = catalog.tables_by_id.get(work.table)
    if replaced is not None:
        draft.put(records.revision_key(work.table), None)
        _keep_replaced(draft, replaced, pending, catalog)
    value = encode_table(pending, TableState.ACTIVE)
    put_record(draft, catalog, records.table_key(work.table), value)
    return done(draft)


def _keep_replaced(draft: Draft, replaced: TableDef, new: TableDef, catalog: CatalogView) -> None:
    """The definition goes into the history; its oldest ones leave."""
    known = catalog.history.get(replaced.id, {})
    since_ms = replaced.created_ms
    if known:
        since_ms = decode_replaced(known[max(known)]).until_ms
    record = Replaced(replaced, since_ms, draft.wall_ms)
    draft.put(records.history_key(replaced.id, replaced.version), encode_replaced(record))
    for version in known:
        if version <= new.version - HISTORY_VERSIONS_MAX:
            draft.put(records.history_key(replaced.id, version), None)


def drop_table(draft: Draft, work: DropTable, catalog: CatalogView) -> Outcome:
    if work.table not in catalog.tables_by_id and work.table not in catalog.pending:
        return done(draft, 0)
    put_record(draft, catalog, records.table_key(work.table), None)
    if work.table in catalog.tables_by_id and work.table in catalog.pending:
        draft.put(records.revision_key(work.table), None)
    for version in catalog.history.get(work.table, {}):
        draft.put(records.history_key(work.table, version), None)
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
        if standing.table.version > table.version and work.dropped:
            table = standing.table  # ahead of the catalog, and dropped all the same
        elif standing.table.version > table.version:
            raise Conflict(f"version {standing.table.version} of {table.full_name} is in force")
        if standing.table.version == table.version and not work.dropped:
            return done(draft, 0)
    draft.put(keys.fence(table.id), encode_fence(Fence(table, state)))
    return done(draft)


def check_rows(
    draft: Draft,
    work: CheckRows,
    plan: TablePlan,
    *,
    reader: KeyReader,
    passed: frozenset[Slot] = frozenset(),
) -> Outcome:
    """One step over the rows from before the fence, which is applied: those decided since were
    checked when they were decided. Puts nothing. Raises NotNullViolation, CheckViolation, which say
    nothing of whose row it is. Rows of slots in `passed` are another group's.
    """
    table = plan.table
    prefix = keys.table_rows(table.id)
    start = prefix + work.after + b"\x00" if work.after else prefix
    hidden_upto = expired_upto(table, draft.now_ms, draft.group) if plan.has_ttl else Seq(0)
    looked, last = 0, b""
    for key, _ in islice(reader.scan(start, prefix_end(prefix)), work.rows_max):
        looked += 1
        last = key[len(prefix) :]
        raw = draft.get(key)
        if raw is None or codec.is_tombstone(raw) or codec.row_seq(raw) <= hidden_upto:
            continue
        if passed and slot_of_key(key, len(prefix)) in passed:
            continue
        row = plan.read(raw)[1]
        assert row is not None
        plan.check_new(row, work.columns, work.checks)
    after = None if looked < work.rows_max else last.hex()
    return Outcome(looked, draft.seq, ("after",), ((after,),))


def put_placement(draft: Draft, work: PutPlacement, catalog: CatalogView) -> Outcome:
    if catalog.placement is not None:
        raise AlreadyExists("placement", catalog.placement.cluster_id)
    placement = Placement(work.cluster_id, work.groups, work.voters)
    put_record(draft, catalog, records.PLACEMENT_KEY, encode_placement(placement))
    return done(draft)
