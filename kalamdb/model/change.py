"""One row event at a Seq. Live queries and topics are two readers of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from kalamdb.model.ids import GroupId, Partition, Seq, TableId

Row = dict[int, Any]
"""A row's stored values by column id; a NULL column is left out."""


class Op(IntEnum):
    """The number is what a change record holds on disk."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3
    EXPIRE = 4  # a delete by TTL


@dataclass(frozen=True, slots=True)
class Change:
    """A row event with both images.

    `prev_seq` is the seq of the change before it in the same (table, partition) chain, 0 for the
    first. `before`/`before_seq` are None/0 for an insert, `after` is None for a delete or expiry.
    `last_of_txn` marks the last change of its statement or transaction: frames are not split before
    it.
    """

    group: GroupId
    table: TableId
    partition: Partition
    seq: Seq
    prev_seq: Seq
    op: Op
    key: bytes
    before: Row | None
    before_seq: Seq
    after: Row | None
    last_of_txn: bool


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """All changes of one apply of one group, in seq order; `seq_last` is the group's position after
    it.
    """

    group: GroupId
    seq_last: Seq
    changes: tuple[Change, ...]
