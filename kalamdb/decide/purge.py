"""Removal in bounded steps: STREAM rows past their TTL, trimmed changes, dropped tables.

Each step is a command like any other. What is removed is found in the applied state (`reader`);
what is decided and not applied yet is seen through the draft, so a step never undoes a newer
decision. A caller repeats a step until it affects nothing.

Keeps:
- The change floor is raised by a command of its own, before anything is removed under it (core.md
  §9).
- The floor is at most the group's seq, so no cursor the group gave out is called expired by an idle
  hour.
- HISTORY goes with the change that superseded it: a version is old when its successor is at or
  below the floor, and that successor is the change being removed.
- What a slot holds that is frozen, on its way in or on its way out, is not touched: of a frozen one
  the other group has a copy by now.
"""

from __future__ import annotations

from collections.abc import Iterator

from kalamdb.decide.draft import Chains, Draft
from kalamdb.decide.plan import TablePlan
from kalamdb.decide.row_writer import RowWriter
from kalamdb.errors import Conflict
from kalamdb.model import codec, keys
from kalamdb.model.change import Op
from kalamdb.model.command import Outcome
from kalamdb.model.ids import (
    HOUR_MS,
    SEQ_TIME_SHIFT,
    Partition,
    Seq,
    Slot,
    TableId,
    seq_hour,
    slot_of,
)
from kalamdb.model.work import ExpireRows, PurgeTable, TrimBefore
from kalamdb.store.catalog_codec import Fence, FenceState, decode_fence, encode_fence
from kalamdb.store.changes import change_floor
from kalamdb.store.kv import KeyReader, prefix_end

STEP_KEYS_MAX = 2000
Held = frozenset[Slot]
_TABLE_FAMILIES = (
    keys.Family.ROW,
    keys.Family.SEQ,
    keys.Family.HISTORY,
    keys.Family.INDEX,
    keys.Family.UNIQUE,
    keys.Family.LAST,
)


def _split_chain(chain: bytes) -> tuple[TableId, Partition]:
    partition, _ = keys.split_terminated(chain, 4)
    return TableId(keys.U32.unpack_from(chain)[0]), Partition(partition)


# ---- TTL ----------------------------------------------------------------------------------------


def expire_rows(
    draft: Draft,
    work: ExpireRows,
    plan: TablePlan,
    *,
    reader: KeyReader,
    chains: Chains,
    held: Held = frozenset(),
) -> Outcome:
    """Remove rows with seq ≤ `upto`, oldest hours first; `affected` is how many entries went. Rows
    of slots that are `held` are left to who has them when they are not.
    """
    writers: dict[bytes, RowWriter] = {}
    expired = 0
    for key in _expiry_keys(reader, work.table.id, work.upto, held):
        if expired >= work.rows_max:
            break
        name = keys.chain_of_change(key)
        writer = writers.get(name)
        if writer is None:
            writer = RowWriter(draft, plan, chains(*_split_chain(name)))
        chain = writer.chain
        seq = Seq(keys.U64.unpack_from(key, len(key) - 8)[0])
        pk = reader.get(chain.seq_key(seq))
        raw = None if pk is None else draft.get(chain.row + pk)
        if pk is None or raw is None or codec.row_seq(raw) != seq:
            continue  # a decision under way has superseded it, and takes its EXPIRY entry out
        writers[name] = writer
        writer.remove(pk, raw, Op.EXPIRE)
        expired += 1
    for writer in writers.values():
        writer.finish()
    return Outcome(expired, draft.seq, deleted=expired)


def _expiry_keys(
    reader: KeyReader, table: TableId, upto: Seq, held: Held = frozenset()
) -> Iterator[bytes]:
    """EXPIRY keys of a table with seq ≤ `upto`, by hour; seeks past hours without any."""
    last_hour = seq_hour(upto)
    hour = 0
    while (hour := _next_hour(reader, keys.Family.EXPIRY, hour, last_hour)) <= last_hour:
        start = keys.U32.pack(hour) + keys.U32.pack(table)
        prefix = bytes([keys.Family.EXPIRY]) + start
        for key, _ in _not_held(reader, prefix, prefix_end(prefix), held):
            if keys.U64.unpack_from(key, len(key) - 8)[0] <= upto:
                yield key
        hour += 1


def _not_held(
    reader: KeyReader, start: bytes, stop: bytes, held: Held
) -> Iterator[tuple[bytes, bytes]]:
    """A scan of CHANGE or EXPIRY keys that passes by the chains of slots that are held."""
    if not held:
        yield from reader.scan(start, stop)
        return
    chain = b""
    while start < stop:
        begin, start = start, stop
        for key, value in reader.scan(begin, stop):
            if key[:-8] != chain:
                chain = key[:-8]
                if slot_of(_split_chain(chain[5:])[1]) in held:
                    start = prefix_end(chain)
                    break
            yield key, value


def _next_hour(reader: KeyReader, family: keys.Family, hour: int, last_hour: int) -> int:
    """The first hour ≥ `hour` with a key of the family; above `last_hour` when there is none."""
    start = bytes([family]) + keys.U32.pack(hour)
    stop = bytes([family]) + keys.U32.pack(last_hour + 1)
    for key, _ in reader.scan(start, stop):
        return keys.U32.unpack_from(key, 1)[0]
    return last_hour + 1


# ---- changes, history, request ids --------------------------------------------------------------


def trim_before(
    draft: Draft,
    work: TrimBefore,
    *,
    reader: KeyReader,
    held: Held = frozenset(),
    keys_max: int = STEP_KEYS_MAX,
) -> Outcome:
    """First raises the floor; once that is applied, removes what is under it, step by step, but
    nothing of slots that are `held`.
    """
    first_of_hour = Seq((work.hour * HOUR_MS) << SEQ_TIME_SHIFT)
    target = min(first_of_hour, draft.seq)
    raw = draft.get(keys.CHANGE_FLOOR)
    decided = Seq(0) if raw is None else codec.decode_seq(raw)
    if target > decided:
        draft.put(keys.CHANGE_FLOOR, codec.encode_seq(target))
        return Outcome(1, draft.seq)
    removed = _trim_changes(draft, reader, held, keys_max)
    requests_hour = work.hour if work.requests_hour is None else work.requests_hour
    left = keys_max - removed
    removed += _trim_requests(draft, reader, requests_hour, held, keys_max=left)
    return Outcome(removed, draft.seq)


def _trim_changes(draft: Draft, reader: KeyReader, held: Held, keys_max: int) -> int:
    removed, floor = 0, change_floor(reader)
    start = keys.change_hour_prefix(0)
    stop = keys.change_hour_prefix(seq_hour(floor) + 1)
    for key, value in _not_held(reader, start, stop, held):
        if removed >= keys_max:
            break
        seq = Seq(keys.U64.unpack_from(key, len(key) - 8)[0])
        if seq > floor:
            continue  # in the floor's own hour
        op, _, before_seq, _, pk = codec.decode_change(value)
        chain = keys.chain_of_change(key)
        draft.add(key, None)
        removed += 1
        if before_seq:
            old = bytes([keys.Family.HISTORY]) + chain + pk + keys.U64.pack(before_seq)
            draft.add(old, None)
        if op is Op.DELETE:
            _trim_tombstone(draft, chain, pk, seq)
    return removed


def _trim_tombstone(draft: Draft, chain: bytes, pk: bytes, seq: Seq) -> None:
    """Nobody can ask for the delete any more, so its tombstone says no more than no row does."""
    row_key = bytes([keys.Family.ROW]) + chain + pk
    raw = draft.get(row_key)
    if raw is not None and codec.is_tombstone(raw) and codec.row_seq(raw) == seq:
        draft.put(row_key, None)
        draft.add(bytes([keys.Family.SEQ]) + chain + keys.U64.pack(seq), None)


def _trim_requests(draft: Draft, reader: KeyReader, hour: int, held: Held, *, keys_max: int) -> int:
    removed = 0
    family = bytes([keys.Family.REQUEST])
    start, stop = (
        bytes([keys.Family.REQUEST_HOUR]) + keys.U32.pack(bound) for bound in (0, max(0, hour))
    )
    for key, _ in reader.scan(start, stop):
        if removed >= keys_max:
            break
        if held and keys.U16.unpack_from(key, 5)[0] in held:
            continue
        draft.put(family + key[5:], None)
        draft.add(key, None)
        removed += 1
    return removed


# ---- dropped tables -----------------------------------------------------------------------------


def purge_table(draft: Draft, work: PurgeTable, *, reader: KeyReader) -> Outcome:
    """Remove keys of a dropped table; when none is left, its fence says so and `affected` is 0.

    Raises Conflict while the drop is not applied: writes decided before it may still be on their
    way.
    """
    raw = reader.get(keys.fence(work.table))
    fence = None if raw is None else decode_fence(raw)
    if fence is None or fence.state is FenceState.ACTIVE:
        raise Conflict(f"table {work.table} is not dropped")
    removed = 0
    for key in _table_keys(reader, work.table):
        if removed >= work.keys_max:
            break
        draft.put(key, None)
        removed += 1
    if not removed and fence.state is FenceState.DROPPED:
        purged = Fence(fence.table, FenceState.PURGED)
        draft.put(keys.fence(work.table), encode_fence(purged))
    return Outcome(removed, draft.seq, deleted=removed)


def _table_keys(reader: KeyReader, table: TableId) -> Iterator[bytes]:
    """Everything of a table but its changes, which leave with their hours."""
    for family in _TABLE_FAMILIES:
        prefix = bytes([family]) + keys.U32.pack(table)
        for key, _ in reader.scan(prefix, prefix_end(prefix)):
            yield key
    yield from _expiry_keys(reader, table, Seq((1 << 63) - 1))
