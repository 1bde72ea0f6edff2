"""The text made for the engine: it accepts it, and it means what the user wrote."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.errors import InvalidParameter, TypeMismatch
from kalamdb.model.ids import Seq
from kalamdb.model.principal import Role
from kalamdb.sql.bound import EngineChangePlan, InsertSelectPlan, RangeSelect, ScanSelect
from tests.unit.sql.tables import NOW_MS, bind, env, rows_of, run, table

MESSAGES = [
    ({1: 1, 2: "a", 3: "bob", 4: "it's", 5: 1_000_000, 6: "1.50", 7: 3}, 1024),
    ({1: 2, 2: "b", 3: "eve", 4: 'say "x" -- no', 5: 2_000_000, 6: "0.10", 7: 0}, 2048),
    ({1: 3, 2: "a", 3: "eve", 7: 9}, 3072),
]
PAIRS = [({1: 1, 2: "x", 3: "one"}, 10), ({1: 3, 2: "y", 3: "three"}, 20)]
KINDS = [
    ({1: 1, 3: 5, 4: 5, 5: 2.5, 7: "1.50", 8: "a", 10: True, 11: 1_704_067_200_000_000, 12: 0,
      13: 19723, 14: 3_723_000_000, 15: bytes(15) + b"\1", 16: b"\x00\xff", 17: '{"a":1}'}, 1),
]  # fmt: skip
STORED = {"messages": MESSAGES, "pair": PAIRS, "kinds": KINDS}


def scan(sql: str) -> ScanSelect:
    found = bind(sql)
    if isinstance(found, RangeSelect):
        found = found.otherwise  # the same statement for the engine
    assert isinstance(found, ScanSelect)
    return found


def ask(sql: str, *params: Any, role: Role = Role.USER) -> list[list[Any]]:
    return rows_of(run(scan(sql), env(*params, role=role), STORED))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT id FROM messages ORDER BY id", [[1], [2], [3]]),
        ("SELECT m.id, p.c FROM messages m JOIN pair p ON p.a = m.id ORDER BY 1",
         [[1, "one"], [3, "three"]]),
        ("SELECT messages.id, chat.pair.c FROM chat.messages LEFT JOIN chat.pair "
         "ON chat.pair.a = chat.messages.id ORDER BY id DESC",
         [[3, "three"], [2, None], [1, "one"]]),
        ("SELECT room, count(*), sum(likes) AS s FROM messages GROUP BY room ORDER BY room",
         [["a", 2, 12], ["b", 1, 0]]),
        ("SELECT count(*) FROM messages", [[3]]),
        ("SELECT count(*) FROM (SELECT * FROM messages) q", [[3]]),
        ("SELECT room FROM messages GROUP BY room HAVING count(*) > 1", [["a"]]),
        ("WITH pair AS (SELECT 7 AS a) SELECT * FROM pair", [[7]]),
        ("WITH p AS (SELECT * FROM pair) SELECT a, c FROM p WHERE a = 1", [[1, "one"]]),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) "
         "SELECT sum(i) FROM n", [[6]]),
        ("SELECT id FROM messages WHERE id IN (SELECT a FROM pair) ORDER BY id", [[1], [3]]),
        ("SELECT id FROM messages m WHERE EXISTS (SELECT 1 FROM pair WHERE a = m.id) ORDER BY id",
         [[1], [3]]),
        ("SELECT id FROM messages UNION ALL SELECT a FROM pair ORDER BY 1",
         [[1], [1], [2], [3], [3]]),
        ("SELECT id, row_number() OVER (PARTITION BY room ORDER BY id) FROM messages ORDER BY id",
         [[1, 1], [2, 1], [3, 2]]),
        ("SELECT * FROM (VALUES (1, 'x'), (2, 'y')) AS v(a, b) ORDER BY a", [[1, "x"], [2, "y"]]),
        ("VALUES (1), (2)", [[1], [2]]),
        ("SELECT 1 + 1, 'it''s', NULL IS NULL", [[2, "it's", True]]),
        ("SELECT E'a\\nb' = 'a\\nb', E'a\\nb' || 'c'", [[False, "a\nbc"]]),
        ("SELECT body FROM messages WHERE body LIKE '%--%' /* 'x */ -- \"", [['say "x" -- no']]),
        ('SELECT "ID", room AS "Room", 1 AS "X" FROM "Messages" m WHERE m."ID" = 1 ORDER BY "Room"',
         [[1, "a", 1]]),
        ('SELECT "Q"."N" FROM (SELECT id AS "N" FROM messages) "Q" ORDER BY "N"', [[1], [2], [3]]),
        ("SELECT a.id FROM messages a, messages b WHERE a.id < b.id AND b.id = 2", [[1]]),
        ("SELECT id FROM messages NATURAL JOIN (SELECT 2 AS id) q", [[2]]),
        ("SELECT c FROM pair JOIN (SELECT 1 AS a) q USING (a)", [["one"]]),
        ("SELECT max(_seq), min(_deleted::int) FROM messages", [[3072, 0]]),
        ("SELECT id FROM messages WHERE body LIKE 'it!''%' ESCAPE '!'", [[1]]),
        ("SELECT id IS DISTINCT FROM 1, id FROM messages ORDER BY id",
         [[False, 1], [True, 2], [True, 3]]),
        ("SELECT extract(year FROM created), substring(room FROM 1 FOR 1), trim(BOTH ' ' "
         "FROM room) FROM messages WHERE id < 2", [[1970, "a", "a"]]),
        ("SELECT DISTINCT ON (room) room, id FROM messages ORDER BY room, id DESC",
         [["a", 3], ["b", 2]]),
        ("(SELECT 1) UNION (SELECT 1)", [[1]]),
        ("SELECT CASE WHEN id = 1 THEN 'x' ELSE 'y' END FROM messages ORDER BY id",
         [["x"], ["y"], ["y"]]),
        ("SELECT count(*), count(*) FROM pair", [[2, 2]]),
        ("SELECT id FROM messages ORDER BY id LIMIT 1 OFFSET 1", [[2]]),
    ],
)  # fmt: skip
def test_queries_of_many_shapes(sql: str, expected: list[list[Any]]) -> None:
    assert ask(sql) == expected


def test_the_star_is_the_columns_and_then_the_system_columns() -> None:
    answer = run(scan("SELECT * FROM pair"), env(), STORED)
    assert answer.column_names == ["a", "b", "c", "_seq", "_deleted"]
    assert run(scan("SELECT * FROM events"), env(), {}).column_names == ["kind", "at", "_seq"]
    assert run(scan("SELECT * FROM logs"), env(), {}).column_names == ["line", "_seq", "_deleted"]


def test_columns_without_an_alias_are_called_by_their_text() -> None:
    answer = run(
        scan("SELECT COUNT(*), NOW(), $1, upper('X'), 1 AS One, count( * ) FROM pair"),
        env(5),
        STORED,
    )
    assert answer.column_names == [
        "count(*)", "now()", "$1", "upper('X')", "one", "count( * )"
    ]  # fmt: skip


def test_a_scan_reads_the_columns_a_query_mentions() -> None:
    found = scan("SELECT m.body FROM messages m JOIN pair ON pair.a = m.id WHERE m.likes > 1")
    names = {s.table.name: [column.name for column in s.columns] for s in found.tables}
    assert names == {"messages": ["id", "body", "likes"], "pair": ["a"]}
    (only,) = scan("SELECT count(*) FROM messages").tables
    assert len(only.columns) == 1
    (everything,) = scan("SELECT * FROM messages").tables
    assert everything.columns == table("messages").readable


def test_all_users_adds_whose_row_it_is() -> None:
    (found,) = scan("SELECT _user_id, id FROM all_users.chat.messages").tables
    assert found.all_users
    assert [column.name for column in found.columns] == ["id", "_user_id"]
    (starred,) = scan("SELECT * FROM all_users.chat.messages").tables
    assert starred.columns[-1].name == "_user_id"


def test_an_order_at_the_top_is_told() -> None:
    assert scan("SELECT id FROM messages ORDER BY id").ordered
    assert not scan("SELECT * FROM (SELECT id FROM messages ORDER BY id) q").ordered


def test_session_values_are_fixed_for_the_statement() -> None:
    (row,) = ask("SELECT current_user, CURRENT_USER(), current_role(), now() = current_timestamp")
    assert row == ["alice", "alice", "user", True]
    found = scan("SELECT now()").render(env())
    assert str(NOW_MS * 1000) in found
    assert ask("SELECT current_date = DATE '2023-11-14'") == [[True]]
    assert ask("SELECT q.now FROM (SELECT 1 AS now) q") == [[1]]


def test_identifiers_that_look_like_functions_stay_names() -> None:
    text = scan('SELECT "now", m.now FROM (SELECT 1 AS now) m').render(env())
    assert "arrow_cast" not in text


def test_generators_are_functions_of_the_engine() -> None:
    text = scan("SELECT SNOWFLAKE_ID(), UUID_V7(), ulid() FROM pair").render(env())
    for name in ("kalam_snowflake_id", "kalam_uuid_v7", "kalam_ulid"):
        assert f"{name}(random())" in text


@pytest.mark.parametrize(
    ("where", "params", "expected"),
    [
        ("id = $1", [1], True),
        ("id = $1", ["1"], True),
        ("n = $1", ["5"], True),
        ("n = $1", [5.0], True),
        ("n > $1", [4.5], True),
        ("f = $1", [2.5], True),
        ("f = $1", ["2.5"], True),
        ("d = $1", [1.5], True),
        ("d = $1", ["1.5"], True),
        ("d = $1", ["1.500000001"], False),
        ("d + $1 = 2", [0.5], True),
        ("s = $1", ["a"], True),
        ("s = $1", [5], False),
        ("s LIKE $1", ["a%"], True),
        ("b = $1", [True], True),
        ("b = $1", ["true"], True),
        ("ts = $1", ["2024-01-01"], True),
        ("ts = $1", ["2024-01-01T01:00:00+01:00"], True),
        ("ts >= $1", [1_704_067_200_000_000], True),
        ("tz = $1", ["1970-01-01T00:00:00Z"], True),
        ("day = $1", ["2024-01-01"], True),
        ("day IN ($1, $2)", ["2024-01-02", "2024-01-01"], True),
        ("day BETWEEN $1 AND $2", ["2024-01-01", "2024-01-02"], True),
        ("tm = $1", ["01:02:03"], True),
        ("u = $1", ["00000000-0000-0000-0000-000000000001"], True),
        ("u <> $1", ["00000000-0000-0000-0000-000000000001"], False),
        ("raw = $1", ["\\x00ff"], True),
        ("j = $1", ['{"a":1}'], True),
        ("j = $1", [{"a": 1}], True),
        ("$1 = i", [5], True),
        ("i = $1", [None], None),
        ("NOT i = $1", [6], True),
        ("$1", [True], True),
        ("i IN ($1, 7, NULL)", [6], None),
    ],
)
def test_parameters_take_the_type_beside_them_on_both_paths(
    where: str, params: list[Any], expected: bool | None
) -> None:
    assert ask(f"SELECT ({where}) FROM kinds", *params) == [[expected]]
    point = bind(f"SELECT id FROM kinds WHERE id = {KINDS[0][0][1]} AND ({where})")
    test = point.where  # type: ignore[union-attr]
    assert test is not None
    row, seq = KINDS[0]
    assert bool(test(env(*params))(row, Seq(seq))) is bool(expected)


@pytest.mark.parametrize(
    "text",
    ["'", "''", "a' OR 'x'='x", "\\'", '"', "--", "/*", "$1", "; DROP TABLE x", "\n", "😀", "\\"],
)
def test_texts_cannot_leave_their_quotes(text: str) -> None:
    assert ask("SELECT $1 = s, $1 FROM kinds", text) == [[False, text]]
    written = text.replace("'", "''")
    assert ask(f"SELECT '{written}' FROM kinds") == [[text]]


def test_values_of_every_json_type_without_a_type_beside_them() -> None:
    params = [None, True, 7, -7, 1.5, -1e300, "x", [1, "a"], {"k": None}]
    names = ", ".join(f"${number + 1} AS c{number}" for number in range(len(params)))
    (row,) = ask(f"SELECT {names}", *params)
    assert row == [None, True, 7, -7, 1.5, -1e300, "x", '[1,"a"]', '{"k":null}']
    assert ask("SELECT id FROM messages ORDER BY id LIMIT $1 OFFSET $2", 1, 1) == [[2]]


@pytest.mark.parametrize("value", [1 << 63, float("nan"), float("inf"), "\ud800"])
def test_values_no_literal_can_have(value: Any) -> None:
    with pytest.raises(InvalidParameter):
        scan("SELECT $1").render(env(value))


def test_wrong_values_beside_a_column_are_refused_before_the_engine() -> None:
    with pytest.raises(TypeMismatch):
        bind("SELECT * FROM kinds WHERE ts > 'tomorrow'")
    with pytest.raises(InvalidParameter) as caught:
        scan("SELECT count(*) FROM kinds WHERE u = $1").render(env("nope"))
    assert caught.value.index == 1


def test_types_follow_the_scope_of_a_name() -> None:
    sql = "SELECT count(*) FROM (SELECT s AS ts FROM kinds) q WHERE ts = 'a'"
    assert ask(sql) == [[1]]
    sql = (
        "SELECT count(*) FROM kinds k WHERE k.ts IN (SELECT created FROM messages WHERE room = 'a')"
    )
    assert ask(sql) == [[0]]


def test_an_update_through_the_engine_selects_keys_and_new_values() -> None:
    found = bind(
        "UPDATE chat.messages SET likes = round(likes) + $1, body = $2, price = DEFAULT, "
        "created = '1970-01-01' WHERE messages.room = 'a' AND chat.messages.price > $3"
    )
    assert isinstance(found, EngineChangePlan)
    answer = rows_of(run(found.scan, env(1, "it's", "1.2"), STORED))
    (row,) = answer
    assert row[:3] == [1, 4, "it's"]
    assert row[3] is None


def test_a_delete_through_the_engine_keeps_its_condition_together() -> None:
    found = bind("DELETE FROM messages m WHERE m.id = 1 OR round(m.likes) = 9")
    assert isinstance(found, EngineChangePlan)
    assert sorted(rows_of(run(found.scan, env(), STORED))) == [[1], [3]]


def test_the_select_of_an_insert() -> None:
    found = bind(
        "INSERT INTO pair (a, b) SELECT m.id, p.b FROM messages m JOIN pair p ON p.a = m.id "
        "WHERE m.room = $1 ON CONFLICT (a, b) DO NOTHING RETURNING a"
    )
    assert isinstance(found, InsertSelectPlan)
    assert sorted(rows_of(run(found.scan, env("a"), STORED))) == [[1, "x"], [3, "y"]]
