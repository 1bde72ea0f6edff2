"""Live queries: which are incremental, which evaluated anew; equal ones have equal shapes."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.errors import InvalidParameter, KalamError, UnknownColumn, UnknownTable, Unsupported
from kalamdb.model.ids import Seq
from kalamdb.model.keys import key_encoder
from kalamdb.sql.bound import LivePlan, ReevaluatedPlan
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select
from tests.unit.sql.tables import CATALOG, env


def bound(sql: str, *params: Any, user: str = "alice") -> LivePlan | ReevaluatedPlan:
    (statement,) = parse(sql)
    assert isinstance(statement, Select)
    return bind_live(statement, CATALOG, "chat", env(*params, user=user))


def live(sql: str, *params: Any, user: str = "alice") -> LivePlan:
    plan = bound(sql, *params, user=user)
    assert isinstance(plan, LivePlan)
    return plan


def test_a_projection_and_a_filter() -> None:
    plan = live("SELECT id, body, _seq FROM chat.messages m WHERE m.room = $1 AND likes > 2", "r")
    assert [column.name for column in plan.columns] == ["id", "body", "_seq"]
    assert plan.where is not None
    assert plan.where({2: "r", 7: 3}, Seq(9))
    assert not plan.where({2: "r", 7: 2}, Seq(9))
    assert not plan.where({2: "r"}, Seq(9))


def test_the_star_and_no_filter() -> None:
    plan = live("SELECT * FROM events")
    assert [column.name for column in plan.columns] == ["kind", "at", "_seq"]
    assert plan.where is None


def test_shapes_are_equal_for_equal_queries_only() -> None:
    one = live("SELECT id FROM messages WHERE room = $1", "r").shape
    assert one == live("select  messages.id from chat.messages where room = $1", "r").shape
    assert one == live("SELECT id FROM messages WHERE room = 'r'").shape
    others = [
        live("SELECT id FROM messages WHERE room = $1", "s").shape,
        live("SELECT id, room FROM messages WHERE room = $1", "r").shape,
        live("SELECT id FROM messages").shape,
        live("SELECT id FROM messages WHERE room = CURRENT_USER").shape,
        live("SELECT id FROM messages WHERE room = CURRENT_USER", user="bob").shape,
        live("SELECT a FROM pair").shape,
    ]
    assert len({one, *others}) == len(others) + 1


def test_an_alias_is_a_name_in_rows() -> None:
    plan = live("SELECT id AS number, m.body FROM messages m")
    assert [column.name for column in plan.columns] == ["number", "body"]
    assert plan.shape != live("SELECT id, body FROM messages").shape
    assert plan.shape == live("SELECT id number, body FROM messages").shape


@pytest.mark.parametrize(
    ("where", "params", "column", "value"),
    [
        ("room = $1 AND likes > 2", ("r",), "room", "r"),
        ("likes > 2 AND ('r' = room)", (), "room", "r"),
        ("id = $1", (7,), "id", 7),
        ("id = '7'", (), "id", 7),
        ("price = 1.5", (), "price", "1.50"),
    ],
)
def test_equality_is_found_among_the_conditions(
    where: str, params: tuple[Any, ...], column: str, value: Any
) -> None:
    plan = live(f"SELECT id FROM messages WHERE {where}", *params)
    found = plan.table.by_name[column]
    assert plan.equality == (found.id, key_encoder(found.type)(value))


@pytest.mark.parametrize(
    "where",
    ["room = $1 OR likes = 2", "NOT room = $1", "room <> $1", "lower(room) = $1", "_seq = $1"],
)
def test_other_conditions_are_no_equality(where: str) -> None:
    value: Any = 5 if "_seq" in where else "r"
    assert live(f"SELECT id FROM messages WHERE {where}", value).equality is None


def test_null_and_values_that_no_row_can_have_are_no_equality() -> None:
    assert live("SELECT id FROM messages WHERE room = $1", None).equality is None
    assert live("SELECT id FROM messages WHERE id = 1.5").equality is None


@pytest.mark.parametrize(
    ("sql", "key"),
    [
        ("SELECT id FROM messages ORDER BY id", ("id",)),
        ("SELECT id AS n, body FROM messages LIMIT 5", ("n",)),
        ("SELECT body FROM messages OFFSET 5", None),
        ("SELECT DISTINCT id FROM messages", None),
        ("SELECT room FROM messages GROUP BY room", (0,)),
        ("SELECT count(*), room FROM messages GROUP BY 2", (1,)),
        ("SELECT upper(room) AS r, count(*) FROM messages GROUP BY upper(room)", (0,)),
        ("SELECT upper(room) AS r, count(*) FROM messages GROUP BY r", (0,)),
        ("SELECT count(*) FROM messages GROUP BY room", None),
        ("SELECT room, count(*) FROM messages GROUP BY ROLLUP (room)", None),
        ("SELECT m.id, a FROM messages m JOIN pair ON true", ("id",)),
        ("SELECT a, m.id FROM pair, messages m", None),
        ("SELECT * FROM messages m JOIN pair p ON true", ("id",)),
        ("SELECT p.* FROM messages m JOIN pair p ON true", None),
        ("WITH a AS (SELECT 1) SELECT id FROM messages", ("id",)),
        ("WITH messages AS (SELECT 1 AS id) SELECT messages.id FROM messages, pair", None),
        ("SELECT a FROM pair UNION SELECT 1", None),
        ("SELECT id FROM messages WHERE id IN (SELECT 1)", ("id",)),
        ("SELECT count(*) FROM messages", ()),
        ("SELECT max(likes) + 1 AS m FROM messages WHERE id > 3", ()),
        ("SELECT id, count(*) OVER () AS n FROM messages", ("id",)),
        ("SELECT id, (SELECT count(*) FROM pair) AS n FROM messages", ("id",)),
        ("SELECT id, likes + 1 FROM messages", ("id",)),
        ("SELECT body AS id FROM messages", None),
        ("SELECT id FROM messages WHERE body ~ 'x'", ("id",)),
        ("SELECT _user_id, id FROM all_users.chat.messages", ("_user_id", "id")),
        ("SELECT id FROM all_users.chat.messages", None),
    ],
)
def test_other_queries_are_evaluated_anew(sql: str, key: tuple[str | int, ...] | None) -> None:
    plan = bound(sql)
    assert isinstance(plan, ReevaluatedPlan)
    assert plan.key == key


def test_what_is_evaluated_is_named_by_tables_and_text() -> None:
    one, other = (
        bound("SELECT count(*) FROM pair WHERE a = $1", 1),
        bound("select count(*) from chat.pair where a = 1"),
    )
    assert isinstance(one, ReevaluatedPlan)
    assert isinstance(other, ReevaluatedPlan)
    assert one.shape.lower().replace(" ", "") == other.shape.lower().replace(" ", "")
    assert one.shape != bound("SELECT count(*) FROM pair WHERE a = $1", 2)


@pytest.mark.parametrize(
    ("sql", "construct"),
    [
        ("VALUES (1)", "a live query without a table"),
        ("SELECT 1", "a live query without a table"),
        ("SELECT x FROM (SELECT 1 AS x) q", "a live query without a table"),
        ("SELECT id FROM messages WHERE created > NOW()", "the current time in a live query"),
        ("SELECT id, current_date FROM messages", "the current time in a live query"),
        ("SELECT id FROM messages ORDER BY random()", "random values in a live query"),
        ("SELECT uuid_v7() AS u FROM messages", "random values in a live query"),
        ("SELECT * FROM system.tables", "system tables in a live query"),
    ],
)
def test_what_would_change_without_a_table_is_refused(sql: str, construct: str) -> None:
    with pytest.raises(Unsupported) as caught:
        bound(sql)
    assert caught.value.construct == construct


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT id FROM nope", UnknownTable),
        ("SELECT nope FROM messages", UnknownColumn),
        ("SELECT x.* FROM messages", UnknownColumn),
        ("SELECT id FROM messages WHERE nope = 1", UnknownColumn),
        ("SELECT id FROM messages WHERE room = $1", InvalidParameter),
    ],
)
def test_names_and_parameters_are_checked(sql: str, error: type[KalamError]) -> None:
    with pytest.raises(error):
        live(sql)
