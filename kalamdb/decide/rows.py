"""Row writes: checks and effects (core.md §1, §2).

Every change of a row has its effects from one place, `RowWriter`: ROW and SEQ of the new version,
HISTORY and the end of SEQ for the superseded one, CHANGE in the chain, LAST once per statement,
EXPIRY for STREAM rows, UNIQUE and INDEX entries that follow their row: put and deleted in the same
command, and only when their values changed.

Keeps:
- A statement is decided whole or refused whole, in one step.
- Uniqueness holds against everything decided before, applied or not, and within the statement.
- A STREAM row past its TTL counts as absent; a write that meets one expires it in the same command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kalamdb.decide.draft import Chain, Draft
from kalamdb.decide.plan import TablePlan, UniquePlan
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
    ReturningClause,
)
from kalamdb.store.rows import expired_upto

_Held = tuple[Op, Seq, Seq, bytes, Seq]


class RowWriter:
    """Turns row changes of one (table, partition) into effects, and counts them for the outcome."""

    __slots__ = (
        "_held",
        "_last",
        "_returning",
        "chain",
        "deleted",
        "draft",
        "hidden_upto",
        "inserted",
        "plan",
        "returned",
        "updated",
    )

    def __init__(
        self, draft: Draft, plan: TablePlan, chain: Chain, returning: ReturningClause | None = None
    ) -> None:
        self.draft = draft
        self.plan = plan
        self.chain = chain
        self.inserted = self.updated = self.deleted = 0
        self.returned: list[tuple[object, ...]] = []
        self._returning = returning
        self._last = chain.last_seq
        self._held: _Held | None = (
            None  # the newest change, until it is known whether it is the last
        )
        self.hidden_upto = (
            expired_upto(plan.table, draft.now_ms, draft.group) if plan.has_ttl else Seq(0)
        )

    # ---- reads ----------------------------------------------------------------------------------

    def is_live(self, raw: bytes | None) -> bool:
        """Does a ROW value hold a row that readers see?"""
        if raw is None or raw[1] & codec.TOMBSTONE:
            return False
        return not self.hidden_upto or codec.row_seq(raw) > self.hidden_upto

    def find(self, pk: bytes) -> bytes | None:
        """The live row under a primary key."""
        raw = self.draft.get(self.chain.row + pk)
        return raw if self.is_live(raw) else None

    # ---- versions -------------------------------------------------------------------------------

    def insert(self, pk: bytes, row: Row, old: bytes | None) -> None:
        """`old` is what ROW holds: nothing, a tombstone, or a row past its TTL."""
        draft, chain = self.draft, self.chain
        if old is not None:
            if old[1] & codec.TOMBSTONE:
                draft.add(chain.seq_key(codec.row_seq(old)), None)
            else:
                self.remove(pk, old, Op.EXPIRE)
        seq = draft.draw()
        draft.put(chain.row + pk, codec.encode_row(seq, self.plan.stored(row)))
        draft.add(chain.seq_key(seq), pk)
        if self.plan.has_ttl:
            draft.add(chain.expiry_key(seq), b"")
        for index in self.plan.indexes:
            values = index.values_key(chain, row)
            index.check(chain, values)
            draft.add(values + pk, b"")
        self._change(Op.INSERT, Seq(0), pk, seq)
        self.inserted += 1
        if self._returning is not None:
            self.returned.append(self._returning.project(row, seq))

    def update(self, pk: bytes, row: Row, old: bytes, before: Row) -> None:
        """`before` is the row in `old`. UNIQUE entries have been moved before (`claim`)."""
        draft, chain = self.draft, self.chain
        seq = draft.draw()
        old_seq = self._supersede(pk, old, seq)
        draft.put(chain.row + pk, codec.encode_row(seq, self.plan.stored(row)))
        draft.add(chain.seq_key(seq), pk)
        if self.plan.has_ttl:
            draft.add(chain.expiry_key(seq), b"")
        for index in self.plan.indexes:
            gone, values = index.values_key(chain, before), index.values_key(chain, row)
            if gone != values:
                index.check(chain, values)
                draft.add(gone + pk, None)
                draft.add(values + pk, b"")
        self._change(Op.UPDATE, old_seq, pk, seq)
        self.updated += 1
        if self._returning is not None:
            self.returned.append(self._returning.project(row, seq))

    def remove(self, pk: bytes, old: bytes, op: Op, before: Row | None = None) -> None:
        """DELETE, or EXPIRE with the row's UNIQUE entries: nobody has taken those out before.

        `before` is the row in `old`, where the caller has it.
        """
        draft, chain, plan = self.draft, self.chain, self.plan
        seq = draft.draw()
        old_seq = self._supersede(pk, old, seq)
        if plan.tombstones:
            draft.put(chain.row + pk, codec.encode_tombstone(seq))
            draft.add(chain.seq_key(seq), pk)
        else:
            draft.put(chain.row + pk, None)
        row = before
        if row is None and (plan.indexes or plan.uniques or self._returning is not None):
            row = self.plan.read(old)[1]
            assert row is not None
        for index in plan.indexes:
            assert row is not None
            draft.add(index.values_key(chain, row) + pk, None)
        self._change(op, old_seq, pk, seq)
        if op is Op.EXPIRE:
            if plan.uniques:
                assert row is not None
                self.release(pk, row)
            return
        self.deleted += 1
        if self._returning is not None:
            assert row is not None
            self.returned.append(self._returning.project(row, old_seq))

    def _supersede(self, pk: bytes, old: bytes, seq: Seq) -> Seq:
        draft, chain = self.draft, self.chain
        old_seq = codec.row_seq(old)
        draft.add(chain.history_key(pk, old_seq), codec.encode_history(seq, old))
        draft.add(chain.seq_key(old_seq), None)
        if self.plan.has_ttl:
            draft.add(chain.expiry_key(old_seq), None)
        return old_seq

    def _change(self, op: Op, before_seq: Seq, pk: bytes, seq: Seq) -> None:
        if self._held is not None:
            self._emit(self._held, last_of_txn=False)
        self._held = (op, self._last, before_seq, pk, seq)
        self._last = seq

    def _emit(self, held: _Held, *, last_of_txn: bool) -> None:
        op, prev_seq, before_seq, pk, seq = held
        value = codec.encode_change(op, prev_seq, before_seq, last_of_txn, pk)
        self.draft.add(self.chain.change_key(seq), value)

    # ---- UNIQUE ---------------------------------------------------------------------------------

    def release(self, pk: bytes, row: Row, after: Row | None = None) -> None:
        """Take out a row's UNIQUE values, but those it keeps in `after`."""
        for unique in self.plan.uniques:
            key = unique.key(self.chain, row)
            if key is None or (after is not None and unique.key(self.chain, after) == key):
                continue
            if unique.building and self.draft.get(key) != pk:
                continue  # another row's entry: this one has not been come to yet
            self.draft.put(key, None)

    def claim(self, pk: bytes, row: Row, before: Row | None = None) -> None:
        """Put a row's UNIQUE values, but those it had in `before`. Raises UniqueViolation."""
        for unique in self.plan.uniques:
            key = unique.key(self.chain, row)
            if key is None or (before is not None and unique.key(self.chain, before) == key):
                continue
            if self._owner(key) not in (None, pk):
                raise self.plan.duplicate(unique, row)
            unique.check(self.chain, key)
            self.draft.put(key, pk)

    def owner(self, unique: UniquePlan, row: Row) -> bytes | None:
        """Primary key of the row that has `row`'s value; a row past its TTL gives it up."""
        key = unique.key(self.chain, row)
        return None if key is None else self._owner(key)

    def _owner(self, key: bytes) -> bytes | None:
        pk = self.draft.get(key)
        if pk is not None and self.hidden_upto:
            raw = self.draft.get(self.chain.row + pk)
            if raw is not None and not self.is_live(raw):
                self.remove(pk, raw, Op.EXPIRE)
                return None
        return pk

    # ---- the end --------------------------------------------------------------------------------

    def finish(self) -> Outcome:
        draft = self.draft
        if self._held is not None:
            self._emit(self._held, last_of_txn=True)
            draft.end_chain(self.chain, self._last)
        returning = self._returning
        return Outcome(
            self.inserted + self.updated + self.deleted,
            self._last,
            None if returning is None else returning.columns,
            None if returning is None else tuple(self.returned),
            self.inserted,
            self.updated,
            self.deleted,
        )


# ---- INSERT -------------------------------------------------------------------------------------


def insert_rows(draft: Draft, work: InsertRows, plan: TablePlan, chain: Chain) -> Outcome:
    """Raises UniqueViolation, NotNullViolation, CheckViolation, InvalidStatement."""
    writer = RowWriter(draft, plan, chain, work.returning)
    conflict = work.conflict
    drawn = work.drawn
    # A hidden key is a number nobody had before, so there is nothing to look up.
    is_new = plan.table.has_hidden_key and bool(drawn)
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
    _check_key(writer.plan, pk, after)
    writer.release(pk, before, after)
    writer.claim(pk, after, before)
    writer.update(pk, after, old, before)
    touched.add(pk)


def _check_key(plan: TablePlan, pk: bytes, row: Row) -> None:
    plan.check(row)
    if plan.key(row) != pk:
        raise InvalidStatement("a primary key cannot be changed; delete the row and insert another")


# ---- UPDATE and DELETE --------------------------------------------------------------------------


def change_keys(draft: Draft, work: ChangeKeys, plan: TablePlan, chain: Chain) -> Outcome:
    """UPDATE or DELETE by primary key; keys without a matching row are skipped."""
    writer = RowWriter(draft, plan, chain, work.returning)
    changes: list[_RowChange] = []
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
    _check_read_set(writer, work.read_set)
    changes: list[_RowChange] = []
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


_RowChange = tuple[bytes, bytes, Row, Row | None]  # key, old bytes, old row, new row


def _check_read_set(writer: RowWriter, read_set: ReadSet) -> None:
    for (table, partition, pk), seen in read_set.rows.items():
        if table == writer.chain.table and partition == writer.chain.partition:
            raw = writer.find(pk)
        else:
            raw = writer.draft.get(keys.row(table, partition, pk))
        present = raw is not None and not raw[1] & codec.TOMBSTONE
        if (codec.row_seq(raw) if raw is not None and present else 0) != seen:
            raise Conflict("a row that was read has changed")


def _write_changes(writer: RowWriter, changes: Sequence[_RowChange]) -> None:
    """UNIQUE values of all old rows go out before those of the new rows come in: order does not
    matter.
    """
    plan = writer.plan
    for pk, _, _, after in changes:
        if after is not None:
            _check_key(plan, pk, after)
    if plan.uniques:
        for pk, _, before, after in changes:
            writer.release(pk, before, after)
        for pk, _, before, after in changes:
            if after is not None:
                writer.claim(pk, after, before)
    for pk, old, before, after in changes:
        if after is None:
            writer.remove(pk, old, Op.DELETE, before)
        else:
            writer.update(pk, after, old, before)
