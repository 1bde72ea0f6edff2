"""Row writes: what is checked before anything is put (core.md §1, §2). The effects are made by
`row_writer`.

Keeps:
- A statement is decided whole or refused whole, in one step.
- Uniqueness holds against everything decided before, applied or not, and within the statement.
- A STREAM row past its TTL counts as absent; a write that meets one expires it in the same command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kalamdb.decide.draft import Chain, Draft
from kalamdb.decide.plan import TablePlan
from kalamdb.decide.row_writer import RowChange, RowWriter
from kalamdb.errors import Conflict, InvalidStatement
from kalamdb.model import codec, keys
from kalamdb.model.change import Op, Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq
from kalamdb.model.work import (
    ChangeKeys,
    ConflictRule,
    InsertRows,
    PutRows,
    ReadSet,
)
from kalamdb.store.kv import KeyReader

MANY_ROWS = 32
"""From so many rows on they are written in one loop, and an INSERT looks at the range of its keys
before it looks at each.
"""


# ---- INSERT -------------------------------------------------------------------------------------


def insert_rows(
    draft: Draft, work: InsertRows, plan: TablePlan, chain: Chain, *, reader: KeyReader
) -> Outcome:
    """`reader` is what the draft reads below what is decided.

    Raises UniqueViolation, NotNullViolation, CheckViolation, InvalidStatement.
    """
    writer = RowWriter(draft, plan, chain, work.returning)
    conflict = work.conflict
    drawn = work.drawn
    # A hidden key is a number nobody had before, so there is nothing to look up.
    is_new = plan.table.has_hidden_key and bool(drawn)
    many = len(work.rows) >= MANY_ROWS and conflict is None
    if many and not plan.uniques and writer.is_plain:
        # Numbers that rows draw and their seqs are from one counter, row by row.
        seqs = iter(draft.draw, None) if drawn else draft.draw_all(len(work.rows))
        plain = _insert_plain(writer, work.rows, drawn, is_new=is_new, reader=reader)
        writer.insert_all(plain, seqs)
        return writer.finish()
    touched: set[bytes] = set()
    for given in work.rows:
        row = given
        for column in drawn:
            if column not in row:
                row = row | {column: draft.draw()}
        plan.check(row)
        pk = plan.key(row)
        if conflict is not None:
            hit = _insert_conflict(writer, conflict, pk, row)
            if hit is not None:
                _insert_resolve(writer, conflict, row, hit, touched)
                continue
        old = None if is_new else draft.get(chain.row + pk)
        if old is not None and writer.is_live(old):
            raise plan.duplicate_key(row)
        if plan.uniques:
            writer.claim(pk, row)
            old = draft.get(chain.row + pk)  # claiming may have expired this very row
        writer.insert(pk, row, old)
        if conflict is not None:
            touched.add(pk)
    return writer.finish()


def _insert_plain(
    writer: RowWriter,
    given: Sequence[Row],
    drawn: Sequence[int],
    *,
    is_new: bool,
    reader: KeyReader,
) -> Iterator[tuple[bytes, Row, bytes | None]]:
    """(key, row, the tombstone under it) of rows that meet nothing but their primary key."""
    draft, plan, head = writer.draft, writer.plan, writer.chain.row
    new_keys = _insert_new_keys(writer, given, reader)
    if new_keys is not None:
        check, newer = plan.check, draft.newer
        for row, pk in zip(given, new_keys, strict=True):
            check(row)
            old = newer(head + pk, None)
            if old is not None and writer.is_live(old):
                raise plan.duplicate_key(row)
            yield pk, row, old
        return
    for row in given:
        for column in drawn:
            if column not in row:
                row = row | {column: draft.draw()}
        plan.check(row)
        pk = plan.key(row)
        old = None if is_new else draft.get(head + pk)
        if old is not None and writer.is_live(old):
            raise plan.duplicate_key(row)
        yield pk, row, old


def _insert_new_keys(
    writer: RowWriter, given: Sequence[Row], reader: KeyReader
) -> list[bytes] | None:
    """The rows' keys, if nothing is stored from the lowest to the highest of them: one look at the
    store for all.
    """
    key_columns = writer.plan.table.primary_key
    if any(row.get(column) is None for row in given for column in key_columns):
        return None  # drawn, or refused when its turn comes
    found = list(map(writer.plan.key, given))
    head = writer.chain.row
    for _ in reader.scan(head + min(found), head + max(found) + b"\x00"):
        return None
    return found


def _insert_conflict(
    writer: RowWriter, conflict: ConflictRule, pk: bytes, row: Row
) -> bytes | None:
    """Primary key of the row that stands in the way under the rule's target."""
    if (conflict.any_target or conflict.unique is None) and writer.find(pk) is not None:
        return pk
    for unique in writer.plan.uniques:
        if conflict.any_target or conflict.unique == unique.id:
            owner = writer.owner(unique, row)
            if owner is not None:
                return owner
    return None


def _insert_resolve(
    writer: RowWriter, conflict: ConflictRule, excluded: Row, pk: bytes, touched: set[bytes]
) -> None:
    """DO NOTHING, or DO UPDATE of the row under `pk`."""
    if conflict.assign is None:
        return
    if pk in touched:
        raise InvalidStatement("ON CONFLICT DO UPDATE would change one row twice in one statement")
    old = writer.find(pk)
    assert old is not None
    before = writer.plan.read(old)[1]
    assert before is not None
    if conflict.where is not None and not conflict.where(before, excluded):
        return
    after = conflict.assign(before, excluded)
    _check_key(writer.plan, pk, after, before)
    writer.release(pk, before, after)
    writer.claim(pk, after, before)
    writer.update(pk, after, old, before)
    touched.add(pk)


def _check_key(plan: TablePlan, pk: bytes, row: Row, before: Row) -> None:
    plan.check(row)
    for column in plan.table.primary_key:
        if row[column] is not before[column]:
            break
    else:
        return
    if plan.key(row) != pk:
        raise InvalidStatement("a primary key cannot be changed; delete the row and insert another")


# ---- UPDATE and DELETE --------------------------------------------------------------------------


def change_keys(draft: Draft, work: ChangeKeys, plan: TablePlan, chain: Chain) -> Outcome:
    """UPDATE or DELETE by primary key; keys without a matching row are skipped."""
    writer = RowWriter(draft, plan, chain, work.returning)
    changes: list[RowChange] = []
    for pk in dict.fromkeys(work.keys) if len(work.keys) > 1 else work.keys:
        old = writer.find(pk)
        if old is None:
            continue
        seq, before = plan.read(old)
        assert before is not None
        if work.where is not None and not work.where(before, seq):
            continue
        changes.append((pk, old, before, None if work.change is None else work.change(before)))
    _write_changes(writer, changes)
    return writer.finish()


def put_rows(
    draft: Draft, work: PutRows, plan: TablePlan, chain: Chain, *, last_seqs: dict[Chain, Seq]
) -> Outcome:
    """Rows worked out on a snapshot. `last_seqs` are the chains of the read set with the seqs it
    saw.

    Raises Conflict when what was read has changed since.
    """
    check_last_seqs(last_seqs)
    writer = RowWriter(draft, plan, chain, work.returning)
    changes: list[RowChange] = []
    if work.seen is not None:
        # The chain stands where it was seen, and no row changes without it: they are as they were.
        assert (chain.table, chain.partition) in work.read_set.tables
        for (pk, after), (old, before) in zip(work.rows, work.seen, strict=True):
            if plan.has_ttl and not writer.is_live(old):
                continue
            changes.append((pk, old, before, after))
        _write_changes(writer, changes)
        return writer.finish()
    _check_read_set(writer, work.read_set)
    for pk, after in dict(work.rows).items():
        old = writer.find(pk)
        if old is None:
            if after is None:
                continue
            raise Conflict("a row to update is gone")
        before = writer.plan.read(old)[1]
        assert before is not None
        changes.append((pk, old, before, after))
    _write_changes(writer, changes)
    return writer.finish()


def check_last_seqs(last_seqs: Mapping[Chain, Seq]) -> None:
    """Raises Conflict when one of the chains has moved on since it was seen."""
    for chain, seen in last_seqs.items():
        if chain.last_seq != seen:
            raise Conflict("the table was written meanwhile")


def _check_read_set(writer: RowWriter, read_set: ReadSet) -> None:
    for (table, partition, pk), seen in read_set.rows.items():
        if table == writer.chain.table and partition == writer.chain.partition:
            raw = writer.find(pk)
        else:
            raw = writer.draft.get(keys.row(table, partition, pk))
        present = raw is not None and not raw[1] & codec.TOMBSTONE
        if (codec.row_seq(raw) if raw is not None and present else 0) != seen:
            raise Conflict("a row that was read has changed")


def _write_changes(writer: RowWriter, changes: Sequence[RowChange]) -> None:
    """UNIQUE values of all old rows go out before those of the new rows come in: order does not
    matter.
    """
    plan = writer.plan
    for pk, _, before, after in changes:
        if after is not None:
            _check_key(plan, pk, after, before)
    if plan.uniques:
        for pk, _, before, after in changes:
            writer.release(pk, before, after)
        for pk, _, before, after in changes:
            if after is not None:
                writer.claim(pk, after, before)
    if len(changes) >= MANY_ROWS and writer.is_plain and plan.tombstones:
        writer.change_all(changes)
        return
    for pk, old, before, after in changes:
        if after is None:
            writer.remove(pk, old, Op.DELETE, before)
        else:
            writer.update(pk, after, old, before)
