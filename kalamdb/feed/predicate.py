"""The filter of a live query over both images of a change.

A row that comes to match is an insert, one that stops matching is a delete, whatever the statement
was; a change that matches on neither side is nothing. NULL counts as no, as in WHERE.
"""

from __future__ import annotations

from enum import Enum

from kalamdb.model.change import Change
from kalamdb.model.table import TableDef
from kalamdb.sql.bound import Predicate


class ChangeKind(Enum):
    """What a subscriber is told; the value is `change_type` on the wire."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


def completed(change: Change, table: TableDef) -> Change:
    """The same change, its images complete in columns that are younger than they are."""
    if table.initials:
        for image in (change.before, change.after):
            if image is not None:
                table.complete(image)
    return change


def judge(where: Predicate | None, change: Change) -> ChangeKind | None:
    """What `change` means to a subscriber with this filter; None: nothing.

    Raises: whatever the compiled WHERE raises over a row (a division by zero, a failed cast).
    """
    before, after = change.before, change.after
    if where is None:
        was, now = before is not None, after is not None
    else:
        was = before is not None and where(before, change.before_seq)
        now = after is not None and where(after, change.seq)
    if now:
        return ChangeKind.UPDATE if was else ChangeKind.INSERT
    return ChangeKind.DELETE if was else None
