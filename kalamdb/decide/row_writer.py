"""The effects of row changes, all made here: `RowWriter`.

ROW and SEQ of the new version, HISTORY and the end of SEQ for the superseded one, CHANGE in the
chain, LAST once per statement, EXPIRY for STREAM rows, UNIQUE and INDEX entries that follow their
row: put and deleted in the same command, and only when their values changed.

Keeps: many rows at once (`insert_all`, `change_all`) put exactly what they put one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from kalamdb.decide.draft import LARGE_BYTES, Chain, Draft
from kalamdb.decide.plan import IndexPlan, TablePlan, UniquePlan
from kalamdb.errors import ResultTooLarge
from kalamdb.model import codec
from kalamdb.model.change import Op, Row
from kalamdb.model.command import Outcome
from kalamdb.model.ids import Seq
from kalamdb.model.work import ReturningClause
from kalamdb.store.rows import expired_upto

_Held = tuple[Op, Seq, Seq, bytes, Seq]
RowChange = tuple[bytes, bytes, Row, Row | None]  # key, old bytes, old row, new row


VALUE_SIZE_BYTES = 8
"""What a number, a truth value or NULL counts in a result; the exact digits do not matter."""


def _size_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if value is None or isinstance(value, int | float):
        return VALUE_SIZE_BYTES
    return len(orjson.dumps(value, default=str))


class RowWriter:
    """Turns row changes of one (table, partition) into effects, and counts them for the outcome."""

    __slots__ = (
        "_held",
        "_last",
        "_returned_bytes",
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
        self._returned_bytes = 0
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
        draft, chain, plan = self.draft, self.chain, self.plan
        if old is not None:
            if old[1] & codec.TOMBSTONE:
                draft.add(chain.seq_key(codec.row_seq(old)), None)
            else:
                self.remove(pk, old, Op.EXPIRE)
        seq = draft.draw()
        draft.put(chain.row + pk, codec.encode_row(seq, plan.stored(row) if plan.initials else row))
        draft.add(chain.seq_key(seq), pk)
        if plan.has_ttl:
            draft.add(chain.expiry_key(seq), b"")
        for index in plan.indexes:
            values = index.values_key(chain, row)
            index.check(chain, values)
            draft.add(values + pk, b"")
        self._change(Op.INSERT, Seq(0), pk, seq)
        self.inserted += 1
        if self._returning is not None:
            self._give_back(self._returning, row, seq)

    def update(self, pk: bytes, row: Row, old: bytes, before: Row) -> None:
        """`before` is the row in `old`. UNIQUE entries have been moved before (`claim`)."""
        draft, chain, plan = self.draft, self.chain, self.plan
        seq = draft.draw()
        old_seq = self._supersede(pk, old, seq)
        draft.put(chain.row + pk, codec.encode_row(seq, plan.stored(row) if plan.initials else row))
        draft.add(chain.seq_key(seq), pk)
        if plan.has_ttl:
            draft.add(chain.expiry_key(seq), b"")
        for index in plan.indexes:
            self._move(index, pk, before, row)
        self._change(Op.UPDATE, old_seq, pk, seq)
        self.updated += 1
        if self._returning is not None:
            self._give_back(self._returning, row, seq)

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
            self._move(index, pk, row, None)
        self._change(op, old_seq, pk, seq)
        if op is Op.EXPIRE:
            if plan.uniques:
                assert row is not None
                self.release(pk, row)
            return
        self.deleted += 1
        if self._returning is not None:
            assert row is not None
            self._give_back(self._returning, row, old_seq)

    def _give_back(self, returning: ReturningClause, row: Row, seq: Seq) -> None:
        """Raises ResultTooLarge: an expression makes much of a small row; nothing is put yet."""
        values = returning.project(row, seq)
        self._returned_bytes += sum(map(_size_bytes, values))
        size_max_bytes = self.draft.returned_max_bytes
        if self._returned_bytes > size_max_bytes:
            raise ResultTooLarge("max_result_bytes", size_max_bytes)
        self.returned.append(values)

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

    # ---- many rows ------------------------------------------------------------------------------

    @property
    def is_plain(self) -> bool:
        """Nothing is to be done for a row but its versions and index entries, so that many of them
        may be written in one loop: a statement of 100,000 rows holds everybody else up.
        """
        return self._returning is None and not self.plan.has_ttl

    def insert_all(
        self, rows: Iterable[tuple[bytes, Row, bytes | None]], seqs: Iterable[Seq]
    ) -> None:
        """`insert` of each (key, row, what ROW holds: nothing or a tombstone), as `is_plain`.

        `rows` is asked for the next one when the one before is put, and then `seqs`.
        """
        draft, chain, plan = self.draft, self.chain, self.plan
        add, fresh, held, last = draft.effects.append, draft.fresh, self._held, self._last
        row_head, seq_head = chain.row, chain.seq
        for (pk, row, old), seq in zip(rows, seqs, strict=False):
            if old is not None:
                add((seq_head + codec.row_seq_bytes(old), None))
            value = codec.encode_row(seq, plan.stored(row) if plan.initials else row)
            if len(value) > LARGE_BYTES:
                draft.count(value)
            key = row_head + pk
            effect = fresh[key] = (key, value)
            add(effect)
            add((seq_head + codec.row_seq_bytes(value), pk))
            for index in plan.indexes:
                values = index.values_key(chain, row)
                index.check(chain, values)
                add((values + pk, b""))
            if held is not None:
                op, prev_seq, before_seq, held_pk, held_seq = held
                change = codec.encode_change(op, prev_seq, before_seq, False, held_pk)
                add((chain.change_key(held_seq), change))
            held = (Op.INSERT, last, Seq(0), pk, seq)
            last = seq
            self.inserted += 1
        self._held, self._last = held, last

    def change_all(self, changes: Sequence[RowChange]) -> None:
        """`update`, or `remove` for DELETE, of each, as `is_plain`."""
        draft, chain, plan = self.draft, self.chain, self.plan
        add, fresh, held, last = draft.effects.append, draft.fresh, self._held, self._last
        row_head, seq_head, history_head = chain.row, chain.seq, chain.history
        deleted = 0
        for (pk, old, before, after), seq in zip(
            changes, draft.draw_all(len(changes)), strict=True
        ):
            old_at = codec.row_seq_bytes(old)
            kept = codec.encode_history(seq, old)
            add((history_head + pk + old_at, kept))
            add((seq_head + old_at, None))
            if after is not None:
                value = codec.encode_row(seq, plan.stored(after) if plan.initials else after)
            else:
                value = codec.encode_tombstone(seq)
                deleted += 1
            if len(kept) > LARGE_BYTES or len(value) > LARGE_BYTES:
                draft.count(kept + value)
            key = row_head + pk
            effect = fresh[key] = (key, value)
            add(effect)
            add((seq_head + codec.row_seq_bytes(value), pk))
            for index in plan.indexes:
                self._move(index, pk, before, after)
            if held is not None:
                op, prev_seq, before_seq, held_pk, held_seq = held
                change = codec.encode_change(op, prev_seq, before_seq, False, held_pk)
                add((chain.change_key(held_seq), change))
            op = Op.DELETE if after is None else Op.UPDATE
            held = (op, last, codec.row_seq(old), pk, seq)
            last = seq
        self._held, self._last = held, last
        self.deleted += deleted
        self.updated += len(changes) - deleted

    def _move(self, index: IndexPlan, pk: bytes, before: Row, after: Row | None) -> None:
        """A row's entry follows the row."""
        gone = index.values_key(self.chain, before)
        values = None if after is None else index.values_key(self.chain, after)
        if gone == values:
            return
        if values is not None:
            index.check(self.chain, values)
        self.draft.add(gone + pk, None)
        if values is not None:
            self.draft.add(values + pk, b"")

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
