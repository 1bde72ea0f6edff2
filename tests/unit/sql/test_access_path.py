"""Which path a one-table statement takes, and the key ranges it comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kalamdb.errors import InvalidParameter, TypeMismatch
from kalamdb.model import keys
from kalamdb.model.catalog import CatalogView
from kalamdb.model.key_range import KeySource
from kalamdb.model.table import Index, IndexState, Unique
from kalamdb.sql import analyze
from kalamdb.sql.bound import ChangePlan, PageRows, PointSelect, RangeSelect, ScanSelect
from tests.unit.sql.tables import CATALOG, bind, env, table

CHAT = "SELECT id FROM messages WHERE "


def indexed() -> CatalogView:
    """`messages` (key id) with indexes; `pair` has the key (a, b), `events` is a STREAM."""
    messages = table("messages")
    ids = {column.name: column.id for column in messages.columns}

    def columns(*names: str) -> tuple[int, ...]:
        return tuple(ids[name] for name in names)

    more = replace(
        messages,
        indexes=(
            Index(10, columns("author"), "by_author"),
            Index(11, columns("author", "created"), "by_author_time"),
            Index(12, columns("likes", "id"), "by_likes"),
            Index(13, columns("price"), "by_price"),
            Index(14, columns("body"), "by_body"),
            Index(15, columns("created"), "unfinished", IndexState.BUILDING),
        ),
        uniques=(
            *messages.uniques,
            Unique(16, columns("body", "likes"), "half", by_index=True, state=IndexState.BUILDING),
        ),
    )
    tables = {**CATALOG.tables, ("chat", "messages"): more}
    by_id = {**CATALOG.tables_by_id, more.id: more}
    return replace(CATALOG, tables=tables, tables_by_id=by_id)


VIEW = indexed()


def ranged(sql: str) -> RangeSelect:
    found = bind(sql, VIEW)
    assert isinstance(found, RangeSelect), sql
    return found


def path(sql: str) -> str:
    """The first line of EXPLAIN, and how the order comes about."""
    lines = analyze.describe_path(bind(sql, VIEW))
    return " · ".join(line for line in (lines[0], lines[-1]) if "filter" not in line)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (CHAT + "author = 'a' ORDER BY id DESC LIMIT 5", "by_author (author: one value), back"),
        (CHAT + "author = 'a' ORDER BY created, id", "by_author_time (author: one value) "),
        (CHAT + "author = 'a' ORDER BY created DESC", "by_author_time (author: one value), back"),
        (CHAT + "author = 'a' AND created > '2026-01-01'", "(author: one value; created: a range)"),
        (CHAT + "author = 'a' AND id > 5", "by_author (author: one value; id: a range) "),
        (CHAT + "author = 'a' AND id = 5 ORDER BY id", "by primary key (id: one value)"),
        (CHAT + "author = 'a' ORDER BY created, id DESC", "rows sorted by created, id DESC"),
        (CHAT + "author = 'a' ORDER BY author, id", "by_author (author: one value) "),
        (CHAT + "author IN ('a', 'b') ORDER BY id", "ranges merged by id"),
        (CHAT + "author IN ('a', 'b') ORDER BY author DESC, id DESC", "several values), backwards"),
        (CHAT + "room = 'r' AND author = 'a'", "by UNIQUE messages_room_author_key"),
        (CHAT + "likes = 3", "by_likes (likes: one value) "),
        (CHAT + "likes IS NULL AND id BETWEEN 3 AND 9", "by_likes (likes: one value; id: a range)"),
        (CHAT + "price >= 1.5", "by_price (price: a range) "),
        (CHAT + "body LIKE 'he%'", "by_body (body: a range) "),
        (CHAT + "id > 5", "by primary key (id: a range) "),
        ("SELECT id FROM messages ORDER BY id DESC LIMIT 3", "by primary key (in its order), back"),
        ("SELECT id FROM messages ORDER BY likes LIMIT 3", "by_likes (in its order) "),
        ("SELECT id FROM messages LIMIT 3", "by primary key (in its order) "),
        ("SELECT line FROM logs LIMIT 3", "by primary key (in its order) "),
        ("SELECT c FROM pair WHERE a = 1", "by primary key (a: one value) "),
        ("SELECT c FROM pair WHERE a = 1 AND b > 'x' ORDER BY b", "(a: one value; b: a range) "),
        ("SELECT c FROM pair WHERE a IN (1, 2) AND b = 'x'", "(a, b: one of several values)"),
        ("UPDATE messages SET likes = 0 WHERE author = 'a'", "update of chat.messages by index"),
        ("DELETE FROM messages WHERE id > 5", "delete of chat.messages by primary key (id:"),
    ],
)
def test_path(sql: str, wanted: str) -> None:
    assert wanted in path(sql) + " "


@pytest.mark.parametrize(
    "sql",
    [
        CHAT + "created = '2026-01-01'",  # its index is not finished
        CHAT + "likes + 1 = 3",
        CHAT + "author = 'a' OR id = 3",
        CHAT + "author <> 'a'",
        CHAT + "author LIKE '%x'" + " AND body ILIKE 'x%'",
        CHAT + "room = 'r'",  # half of a UNIQUE
        CHAT + "author = 'a' ORDER BY likes + 1",
        CHAT + "author = 'a' ORDER BY created NULLS FIRST",
        CHAT + "author = 'a' LIMIT 1 + 1",
        "SELECT id FROM messages ORDER BY id",  # every row: the engine reads that as fast
        "SELECT id FROM messages ORDER BY author DESC, id LIMIT 3",
        "SELECT id FROM messages WHERE likes > 1 ORDER BY id LIMIT 3" + " OFFSET $1 + 1",
        "SELECT count(*) FROM messages WHERE author = 'a'",
        "SELECT DISTINCT id FROM messages WHERE author = 'a'",
        "SELECT CASE WHEN likes > 1 THEN 1 ELSE 2 END FROM messages WHERE author = 'a'",
        "SELECT id AS likes, likes AS id FROM messages WHERE author = 'a' ORDER BY upper(likes)",
    ],
)
def test_every_row_is_looked_at(sql: str) -> None:
    assert isinstance(bind(sql, VIEW), (ScanSelect, RangeSelect))
    first = analyze.describe_path(bind(sql, VIEW))[0]
    assert first.startswith("query engine") or "LIKE '%x'" in sql


def test_order_by_means_result_columns_first() -> None:
    found = ranged("SELECT likes AS id, id AS n FROM messages WHERE author = 'a' ORDER BY id, n")
    assert [one.column.name for one in found.sort] == ["likes", "id"]
    assert ranged(CHAT + "author = 'a' ORDER BY messages.id").sort == ()
    assert ranged("SELECT likes, id FROM messages WHERE author = 'a' ORDER BY 2").sort == ()


def test_unique_values_with_null_are_no_place_to_look() -> None:
    found = bind(CHAT + "room = 'r' AND author IS NULL", VIEW)
    assert isinstance(found, RangeSelect)
    assert found.path.source is KeySource.INDEX


def text_key(value: str) -> bytes:
    return keys.encode_key([table("messages").by_name["author"].type], [value])


def test_ranges() -> None:
    found = ranged(CHAT + "author = $1 AND created >= $2")
    (one,) = found.path.ranges(env("a", "2026-01-01"))
    assert (one.source, one.number, one.open_columns) == (KeySource.INDEX, 11, 1)
    assert one.start.startswith(text_key("a"))
    assert one.start[one.head_bytes :] == keys.TAG_INT + one.start[one.head_bytes + 1 :]
    assert one.stop == text_key("a") + keys.TAG_NULL
    assert found.path.ranges(env(None, "2026-01-01")) == ()
    assert found.path.ranges(env("a", None)) == ()
    with pytest.raises(InvalidParameter):
        found.path.ranges(env("a", "yesterday"))
    with pytest.raises(InvalidParameter):
        found.path.ranges(env("a"))
    with pytest.raises(TypeMismatch):
        bind(CHAT + "author = 'a' AND created >= 'yesterday'", VIEW)


@pytest.mark.parametrize(
    ("values", "count"),
    [(["a", "b"], 2), (["a", "a"], 1), (["a", None], 1), ([None, None], 0)],
)
def test_ranges_of_several_values(values: list[Any], count: int) -> None:
    found = ranged(CHAT + "author IN ($1, $2)")
    ranges = found.path.ranges(env(*values))
    assert len(ranges) == count
    assert [one.start for one in ranges] == sorted(one.start for one in ranges)


@pytest.mark.parametrize(
    ("condition", "value", "is_empty"),
    [
        ("id > $1", (1 << 63) - 1, False),
        ("id > $1", 1 << 64, True),
        ("id < $1", -(1 << 64), True),
        ("id < $1", 1 << 64, False),
        ("id >= $1", 1.5, False),
        ("id = $1", 1.5, True),
        ("price > $1", "1.005", False),
        ("price > $1", "1e60", False),
        ("price = $1", "1.005", True),
        ("body LIKE $1", "%", False),
        ("body LIKE $1", "a\\%b%", False),
    ],
)
def test_bounds_take_in_every_row_that_matches(condition: str, value: Any, is_empty: bool) -> None:
    found = bind(f"SELECT body FROM messages WHERE {condition}", VIEW)
    if isinstance(found, PointSelect):
        assert (list(found.keys(env(value))) == []) is is_empty
        return
    assert isinstance(found, RangeSelect)
    ranges = found.path.ranges(env(value))
    assert all(not one.stop or one.start < one.stop for one in ranges)
    assert (len(ranges) == 0) is is_empty


@pytest.mark.parametrize(
    ("tail", "params", "wanted"),
    [
        ("LIMIT 5", [], PageRows(5, 0)),
        ("LIMIT $1 OFFSET $2", [3, 4], PageRows(3, 4)),
        ("LIMIT NULL", [], PageRows(None, 0)),
        ("LIMIT $1", [None], PageRows(None, 0)),
        ("LIMIT $1", [-1], None),
        ("LIMIT $1", ["3"], None),
        ("LIMIT $1", [True], None),
        ("OFFSET 2", [], PageRows(None, 2)),
    ],
)
def test_limit(tail: str, params: list[Any], wanted: PageRows | None) -> None:
    assert ranged(f"SELECT id FROM messages WHERE author = 'a' {tail}").page(env(*params)) == wanted


def test_changes_by_a_path_have_no_keys() -> None:
    found = bind("UPDATE messages SET likes = 0 WHERE author = $1 AND likes > 3", VIEW)
    assert isinstance(found, ChangePlan)
    assert found.keys is None
    assert found.path is not None
    assert found.where is not None
    assert len(found.path.ranges(env("a"))) == 1
