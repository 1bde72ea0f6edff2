"""Live queries: one table, a filter and a projection; equal filters have equal shapes."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.errors import InvalidParameter, KalamError, UnknownColumn, UnknownTable, Unsupported
from kalamdb.model.ids import Seq
from kalamdb.sql.bound import LivePlan
from kalamdb.sql.live import bind_live
from kalamdb.sql.parse import parse
from kalamdb.sql.statement import Select
from tests.unit.sql.tables import CATALOG, env


def live(sql: str, *params: Any, user: str = "alice") -> LivePlan:
    (statement,) = parse(sql)
    assert isinstance(statement, Select)
    return bind_live(statement, CATALOG, "chat", env(*params, user=user))


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


@pytest.mark.parametrize(
    ("sql", "construct"),
    [
        ("SELECT id FROM messages ORDER BY id", "ORDER BY in a live query"),
        ("SELECT id FROM messages LIMIT 5", "LIMIT in a live query"),
        ("SELECT id FROM messages OFFSET 5", "OFFSET in a live query"),
        ("SELECT DISTINCT id FROM messages", "DISTINCT in a live query"),
        ("SELECT room FROM messages GROUP BY room", "GROUP BY in a live query"),
        ("SELECT id FROM messages JOIN pair ON true", "JOIN in a live query"),
        ("SELECT id FROM messages, pair", "JOIN in a live query"),
        ("WITH a AS (SELECT 1) SELECT id FROM messages", "WITH in a live query"),
        ("SELECT a FROM pair UNION SELECT 1", "UNION in a live query"),
        ("VALUES (1)", "VALUES as a live query"),
        ("SELECT 1", "a live query without FROM"),
        ("SELECT x FROM (SELECT 1 AS x) q", "a subquery in FROM of a live query"),
        ("SELECT id FROM messages WHERE id IN (SELECT 1)", "a subquery in a live query"),
        ("SELECT count(*) FROM messages", "the aggregate COUNT() in a live query"),
        ("SELECT likes + 1 FROM messages", "expressions in the SELECT list of a live query"),
        ("SELECT id AS x FROM messages", "aliases in a live query"),
        ("SELECT id FROM messages WHERE created > NOW()", "the current time in a live query"),
        ("SELECT id FROM messages WHERE body ~ 'x'", "REGEXP_LIKE() in a live query"),
        ("SELECT id FROM all_users.chat.messages", "all_users in a live query"),
        ("SELECT * FROM messages AS m(a, b)", "this FROM in a live query"),
    ],
)
def test_other_queries_are_refused_by_name(sql: str, construct: str) -> None:
    with pytest.raises(Unsupported) as caught:
        live(sql)
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
