"""Change frames have the shape of the wire reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from kalamdb.feed.events import Renderer, event_prefix
from kalamdb.feed.predicate import ChangeKind, judge
from kalamdb.model.change import Change, Op, Row
from kalamdb.model.ids import Seq
from kalamdb.model.table import ROW_ID_COLUMN_ID, TableKind
from kalamdb.sql.bound import LivePlan
from tests.unit.feed.group import ALICE, GROUP, NOTES, in_room, note, plan


def change(op: Op, before: Row | None, after: Row | None) -> Change:
    return Change(
        GROUP, NOTES.id, ALICE, Seq(240), Seq(202), op, b"", before, Seq(202), after, True
    )


def rendered(live: LivePlan, kind: ChangeKind, event: Change, *, commit: bool = True) -> Any:
    made = Renderer(live).event(kind, event, commit=commit)
    assert made.seq == event.seq
    frame = orjson.loads(event_prefix("m") + made.tail)
    assert frame.pop("type") == "change"
    assert frame.pop("subscription_id") == "m"
    return frame


def test_insert_has_every_projected_column_and_the_seq() -> None:
    frame = rendered(plan(), ChangeKind.INSERT, change(Op.INSERT, None, note(1, body="a")))
    assert frame == {
        "change_type": "insert",
        "rows": [{"id": "1", "room": None, "body": "a", "_seq": "240", "_deleted": False}],
        "seq": "240",
        "prev_seq": "202",
        "commit": True,
    }


def test_insert_of_a_projection_has_no_other_column() -> None:
    event = change(Op.INSERT, None, note(1, "r", "a"))
    frame = rendered(plan(columns=["body"]), ChangeKind.INSERT, event, commit=False)
    assert frame["rows"] == [{"body": "a", "_seq": "240"}]
    assert frame["commit"] is False


def test_update_has_all_new_values_and_only_the_changed_old_ones() -> None:
    event = change(Op.UPDATE, note(1, "r", "a"), note(1, "r", "b"))
    frame = rendered(plan(), ChangeKind.UPDATE, event)
    assert frame["rows"] == [{"id": "1", "room": "r", "body": "b", "_seq": "240"}]
    assert frame["old_values"] == [{"id": "1", "body": "a", "_seq": "202"}]


def test_update_tells_of_a_column_that_became_null_or_stopped_being_it() -> None:
    event = change(Op.UPDATE, note(1, "r"), note(1, None, "b"))
    frame = rendered(plan(), ChangeKind.UPDATE, event)
    assert frame["rows"] == [{"id": "1", "room": None, "body": "b", "_seq": "240"}]
    assert frame["old_values"] == [{"id": "1", "room": "r", "body": None, "_seq": "202"}]


def test_update_names_the_key_even_when_it_is_not_projected() -> None:
    event = change(Op.UPDATE, note(1, "r", "a"), note(1, "s", "b"))
    frame = rendered(plan(columns=["body"]), ChangeKind.UPDATE, event)
    assert frame["rows"] == [{"id": "1", "body": "b", "_seq": "240"}]
    assert frame["old_values"] == [{"id": "1", "body": "a", "_seq": "202"}]


def test_delete_has_the_last_image_under_its_own_seq() -> None:
    event = change(Op.DELETE, note(1, "r", "a"), None)
    frame = rendered(plan(), ChangeKind.DELETE, event)
    assert "rows" not in frame
    assert "expired" not in frame
    assert frame["old_values"] == [
        {"id": "1", "room": "r", "body": "a", "_seq": "240", "_deleted": True}
    ]


def test_delete_of_a_projection_names_the_key() -> None:
    frame = rendered(
        plan(columns=["body"]), ChangeKind.DELETE, change(Op.DELETE, note(1, "r", "a"), None)
    )
    assert frame["old_values"] == [{"id": "1", "body": "a", "_seq": "240"}]


def test_expiry_is_a_marked_delete_without_deleted_flag_in_streams() -> None:
    stream = replace(NOTES, kind=TableKind.STREAM)
    frame = rendered(plan(stream), ChangeKind.DELETE, change(Op.EXPIRE, note(1, "r"), None))
    assert frame["expired"] is True
    assert frame["old_values"] == [{"id": "1", "room": "r", "body": None, "_seq": "240"}]


def test_a_table_without_key_shows_its_row_id() -> None:
    keyless = replace(NOTES, primary_key=(ROW_ID_COLUMN_ID,))
    row = {ROW_ID_COLUMN_ID: 99, 3: "a"}
    live = plan(keyless, columns=["body"])
    assert orjson.loads(Renderer(live).row(row, Seq(240))) == {
        "_row_id": "99",
        "body": "a",
        "_seq": "240",
    }
    frame = rendered(live, ChangeKind.DELETE, change(Op.DELETE, row, None))
    assert frame["old_values"] == [{"_row_id": "99", "body": "a", "_seq": "240"}]


R, S = note(1, "r"), note(1, "s")


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, R, ChangeKind.INSERT),
        (S, R, ChangeKind.INSERT),
        (R, R, ChangeKind.UPDATE),
        (R, S, ChangeKind.DELETE),
        (R, None, ChangeKind.DELETE),
        (None, S, None),
        (S, S, None),
        (S, None, None),
    ],
)
def test_filter_sees_both_images(
    before: Row | None, after: Row | None, kind: ChangeKind | None
) -> None:
    assert judge(in_room("r"), change(Op.UPDATE, before, after)) is kind
