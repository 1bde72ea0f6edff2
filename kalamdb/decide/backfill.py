"""Entries of an index for the rows that were there before it, and the removal of a dropped one's.

An index is built while its table is written (core.md §5): the fence with the index BUILDING stands,
so every later write maintains its entries; then these steps go through the applied rows in key
order. What is decided and not applied yet is seen through the draft, so a step puts what belongs to
the newest decision. A row decided after the fence has its entry already, and to put it again
changes nothing.

Keeps:
- No row older than the fence is missed for not being applied: the fence itself is applied first.
- A UNIQUE entry is never taken from a row that has it: equal values end the build.
- Entries are removed only of an index that no decision under way can still write.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from kalamdb.decide.draft import Draft
from kalamdb.decide.plan import IndexPlan, TablePlan, UniquePlan
from kalamdb.errors import Conflict, IndexNotUnique
from kalamdb.model import codec, keys
from kalamdb.model.change import Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Partition, Slot, slot_of
from kalamdb.model.keys import Family
from kalamdb.model.table import TableDef
from kalamdb.model.work import BuildIndex, PurgeIndexes
from kalamdb.store.catalog_codec import FenceState, decode_fence
from kalamdb.store.kv import KeyReader, prefix_end
from kalamdb.store.rows import PartitionKeys
from kalamdb.store.slot_keys import index_numbers

STEP_BYTES_MAX = 256 << 10


def build_index(
    draft: Draft,
    work: BuildIndex,
    plan: TablePlan,
    *,
    reader: KeyReader,
    passed: frozenset[Slot] = frozenset(),
) -> Outcome:
    """One step; nothing is put for slots in `passed`. Raises Conflict when the index is not (or no
    longer) being built under this fence; IndexNotUnique; LimitReached for values that are too long.
    """
    index = _plan_of(plan, work.index)
    if index is None or _applied_version(reader, work.table) != plan.table.version:
        raise Conflict(f"index {work.index} of {work.table.full_name} is not in force here")
    prefix = keys.table_rows(work.table.id)
    start = prefix + work.after + b"\x00" if work.after else prefix
    at, head = PartitionKeys(work.table.id, Partition(b"")), b""
    last = b""
    size_bytes = looked = 0
    for key, stored in islice(reader.scan(start, prefix_end(prefix)), work.rows_max):
        looked += 1
        last = key[len(prefix) :]
        if not head or not key.startswith(head):
            partition, end = keys.split_terminated(key, len(prefix))
            at, head = PartitionKeys(work.table.id, Partition(partition)), key[:end]
        raw = draft.newer(key, stored)
        if raw is None or codec.is_tombstone(raw):
            continue
        if passed and slot_of(at.partition) in passed:
            continue
        row = plan.read(raw)[1]
        assert row is not None
        size_bytes += _put_entry(draft, plan.table, index, at, key[len(head) :], row=row)
        if size_bytes > STEP_BYTES_MAX:
            break
    done = looked < work.rows_max and size_bytes <= STEP_BYTES_MAX
    return Outcome(looked, draft.seq, ("after",), ((None if done else last.hex(),),))


def _plan_of(plan: TablePlan, number: int) -> IndexPlan | UniquePlan | None:
    found = (*plan.indexes, *plan.uniques)
    return next((index for index in found if index.id == number), None)


def _applied_version(reader: KeyReader, table: TableDef) -> int:
    raw = reader.get(keys.fence(table.id))
    return 0 if raw is None else decode_fence(raw).table.version


def _put_entry(
    draft: Draft,
    table: TableDef,
    index: IndexPlan | UniquePlan,
    at: PartitionKeys,
    pk: bytes,
    *,
    row: Row,
) -> int:
    """Puts a row's entry; returns its size in bytes."""
    match index:
        case IndexPlan():
            values = index.values_key(at, row)
            index.check(at, values)
            draft.add(values + pk, b"")
            return len(values) + len(pk)
        case UniquePlan():
            key = index.key(at, row)
            if key is None:
                return 0
            owner = draft.get(key)
            if owner is None:
                index.check(at, key)
                draft.put(key, pk)
            elif owner != pk:
                raise IndexNotUnique(table.full_name, index.name)
            return len(key) + len(pk)


# ---- dropped indexes ----------------------------------------------------------------------------


def purge_indexes(draft: Draft, work: PurgeIndexes, *, reader: KeyReader) -> Outcome:
    """One step of removing entries of indexes that the applied fence does not have."""
    raw = reader.get(keys.fence(work.table))
    fence = None if raw is None else decode_fence(raw)
    if fence is None or fence.state is not FenceState.ACTIVE:
        return Outcome(0, draft.seq)  # a dropped table is emptied as a whole
    removed = 0
    for key in islice(_stray_keys(reader, fence.table), work.keys_max):
        # Numbers are never reused, so no decision reads these by name any more.
        draft.add(key, None)
        removed += 1
    return Outcome(removed, draft.seq, deleted=removed)


def _stray_keys(reader: KeyReader, table: TableDef) -> Iterator[bytes]:
    known = {index.id for index in (*table.indexes, *table.uniques)}
    for family in (Family.INDEX, Family.UNIQUE):
        for number in index_numbers(reader, family, table.id):
            if number not in known and number < table.next_index_id:
                prefix = keys.index_entries(family, table.id, number)
                for key, _ in reader.scan(prefix, prefix_end(prefix)):
                    yield key
