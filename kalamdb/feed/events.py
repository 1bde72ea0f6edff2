"""The JSON of live rows and change events, made once per event for all subscribers of a shape.

An event is `{"type":"change","subscription_id":"…",` (the *prefix*, each subscriber's own) followed
by the *tail*, which they share:

    "change_type":"insert","rows":[{…}],"seq":"…","prev_seq":"…","commit":true}
    "change_type":"update","rows":[{…}],"old_values":[{…}],"seq":…}
    "change_type":"delete","old_values":[{…}],"expired":true,"seq":…}

- insert: every projected column, `_seq`, and `_deleted` with `*`.
- update: `rows` has the key, `_seq` and each projected column that is not NULL or has just become
  NULL; `old_values` has the key, the old `_seq` and the old value of each projected column that
  changed.
- delete: the last image with the key, the delete's own `_seq`, `_deleted` true with `*`; `expired`
  for TTL.
- `seq` is the cursor after this frame, `prev_seq` the change before it in the same table and
  partition, `commit` whether the rows of its transaction that this subscription sees are complete.

A table without a declared key shows its hidden `_row_id` in all of them, or no client could tell
rows apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from kalamdb.feed.predicate import ChangeKind
from kalamdb.model.change import Change, Op, Row
from kalamdb.model.ids import Seq
from kalamdb.model.table import DELETED_COLUMN, DELETED_COLUMN_ID, SEQ_COLUMN, Column
from kalamdb.model.values import encoder
from kalamdb.sql.bound import LivePlan

NO_SEQ = Seq(0)
_Field = tuple[int, str, Callable[[Any], Any] | None]


class FeedEvent:
    """One serialised event; `seq` is the last change it stands for, 0 for results evaluated anew.
    `prev_seq` is the change before it in its chain.

    `frames`, `deflated` and `packed` belong to the edge: what it made of it once.
    """

    __slots__ = ("deflated", "frames", "packed", "prev_seq", "seq", "tail")

    def __init__(self, seq: Seq, tail: bytes, prev_seq: Seq = NO_SEQ) -> None:
        self.seq = seq
        self.tail = tail
        self.prev_seq = prev_seq
        self.frames: dict[bytes, bytes] = {}
        self.deflated: bytes | None = None
        self.packed: object = None


def event_prefix(subscription_id: str) -> bytes:
    """What stands before the tail in the frames of one subscription."""
    return b'{"type":"change","subscription_id":' + orjson.dumps(subscription_id) + b","


class Renderer:
    """Rows and changes of one live query as JSON."""

    def __init__(self, plan: LivePlan) -> None:
        table = plan.table
        named = {column.id: column for column in plan.columns}
        self._key = _fields([named.get(column.id, column) for column in table.key_columns])
        key_ids = set(table.primary_key)
        shown = [column for column in plan.columns if column.id >= 0]
        if table.has_hidden_key and all(column.id not in key_ids for column in shown):
            shown = [*table.key_columns, *shown]
        self._shown = _fields(shown)
        shown_ids = {column.id for column in shown}
        self._whole = (
            *(field for field in self._key if field[0] not in shown_ids),
            *self._shown,
        )
        self._plain = tuple(field for field in self._shown if field[0] not in key_ids)
        self._with_deleted = any(column.id == DELETED_COLUMN_ID for column in plan.columns)

    def row(self, row: Row, seq: Seq) -> bytes:
        """A snapshot row, as an object."""
        return orjson.dumps(self._image(self._shown, row, seq, deleted=False))

    def event(self, kind: ChangeKind, change: Change, *, commit: bool) -> FeedEvent:
        """The shared part of a change frame."""
        fields: dict[str, Any] = {"change_type": kind.value}
        match kind:
            case ChangeKind.INSERT:
                assert change.after is not None
                fields["rows"] = [self._image(self._shown, change.after, change.seq, deleted=False)]
            case ChangeKind.UPDATE:
                rows, old_values = self._delta(change)
                fields["rows"] = [rows]
                fields["old_values"] = [old_values]
            case ChangeKind.DELETE:
                assert change.before is not None
                fields["old_values"] = [
                    self._image(self._whole, change.before, change.seq, deleted=True)
                ]
                if change.op is Op.EXPIRE:
                    fields["expired"] = True
        fields["seq"] = str(change.seq)
        fields["prev_seq"] = str(change.prev_seq)
        fields["commit"] = commit
        return FeedEvent(change.seq, orjson.dumps(fields)[1:], change.prev_seq)

    def _image(
        self, fields: tuple[_Field, ...], row: Row, seq: Seq, *, deleted: bool
    ) -> dict[str, Any]:
        image: dict[str, Any] = {}
        for column, name, encode in fields:
            value = row.get(column)
            image[name] = value if value is None or encode is None else encode(value)
        image[SEQ_COLUMN] = str(seq)
        if self._with_deleted:
            image[DELETED_COLUMN] = deleted
        return image

    def _delta(self, change: Change) -> tuple[dict[str, Any], dict[str, Any]]:
        before, after = change.before, change.after
        assert before is not None
        assert after is not None
        new: dict[str, Any] = {}
        for column, name, encode in self._key:
            value = after.get(column)
            new[name] = value if value is None or encode is None else encode(value)
        old = new.copy()
        new[SEQ_COLUMN] = str(change.seq)
        old[SEQ_COLUMN] = str(change.before_seq)
        for column, name, encode in self._plain:
            value, was = after.get(column), before.get(column)
            if value is not None:
                new[name] = value if encode is None else encode(value)
            elif was is not None:
                new[name] = None
            if value != was:
                old[name] = was if was is None or encode is None else encode(was)
        return new, old


def _fields(columns: Iterable[Column]) -> tuple[_Field, ...]:
    return tuple((column.id, column.name, encoder(column.type)) for column in columns)
