"""Bound statements: which path they take, what the plans do with rows and parameters."""

from __future__ import annotations

from typing import Any

import pytest

from kalamdb.errors import (
    InvalidParameter,
    InvalidStatement,
    KalamError,
    NotNullViolation,
    QueryFailed,
    TypeMismatch,
    UnknownColumn,
    UnknownNamespace,
    UnknownTable,
    ValueOutOfRange,
)
from kalamdb.model.ids import Seq
from kalamdb.model.keys import encode_key
from kalamdb.model.types import BIGINT, INT, TEXT
from kalamdb.sql.analyze import describe_path
from kalamdb.sql.bound import (
    ChangePlan,
    EngineChangePlan,
    InsertPlan,
    InsertSelectPlan,
    PointSelect,
    ScanSelect,
)
from tests.unit.sql.tables import CATALOG, NOW_MS, bind, catalog, env, table

MESSAGE = {1: 5, 2: "r", 3: "bob", 4: "hello", 5: 1_000_000, 6: "1.50", 7: 3}


def key(*values: int | str) -> bytes:
    return encode_key([INT if isinstance(v, int) else TEXT for v in values], values)


def point(sql: str) -> PointSelect:
    found = bind(sql)
    assert isinstance(found, PointSelect), describe_path(found)
    return found


def insert(sql: str, view: Any = CATALOG) -> InsertPlan:
    found = bind(sql, view)
    assert isinstance(found, InsertPlan)
    return found


def change(sql: str) -> ChangePlan:
    found = bind(sql)
    assert isinstance(found, ChangePlan), describe_path(found)
    return found


# ---- SELECT by key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "id = $1",
        "$1 = id",
        "(messages.id = ($1))",
        "chat.messages.id = $1",
        "id IN ($1)",
        "id IN ($1, $1)",
        '"ID" = $1',
    ],
)
def test_the_whole_primary_key_is_a_point_read(where: str) -> None:
    found = point(f"SELECT id, body FROM messages WHERE {where}")
    assert list(found.keys(env(5))) == [key(5)]
    assert list(found.keys(env("5"))) == [key(5)]
    assert list(found.keys(env(5.0))) == [key(5)]
    assert list(found.keys(env(5.5))) == []
    assert list(found.keys(env(None))) == []
    assert list(found.keys(env(1 << 70))) == []
    assert found.where is None
    assert found.project(MESSAGE, Seq(9)) == ["5", "hello"]


def test_a_list_of_keys_is_read_once_each() -> None:
    found = point(
        "SELECT id FROM messages WHERE id IN (3, $1, '4', 3, NULL, 5.5, 99999999999999999999)"
    )
    assert list(found.keys(env(7))) == [key(3), key(7), key(4)]
    assert list(found.keys(env(4))) == [key(3), key(4)]


@pytest.mark.parametrize("value", ["x", True, [1], {"a": 1}])
def test_a_parameter_that_is_no_key_is_refused(value: Any) -> None:
    found = point("SELECT id FROM messages WHERE id = $1")
    with pytest.raises(InvalidParameter) as caught:
        found.keys(env(value))
    assert caught.value.index == 1


def test_the_star_is_the_columns_and_then_the_system_columns() -> None:
    found = point("SELECT * FROM messages WHERE id = 5")
    names = [column.name for column in found.output]
    assert names == [
        "id",
        "room",
        "author",
        "body",
        "created",
        "price",
        "likes",
        "_seq",
        "_deleted",
    ]
    assert found.project(MESSAGE, Seq(9)) == [
        "5", "r", "bob", "hello", 1_000_000, "1.50", 3, "9", False
    ]  # fmt: skip
    assert found.output[0].flags == ("pk", "nn", "uq")
    assert found.output[1].flags == ("nn",)
    assert found.output[0].type == BIGINT


def test_the_rest_of_the_where_is_a_filter() -> None:
    found = point("SELECT id FROM messages m WHERE m.likes > $2 AND id = $1 AND body LIKE 'h%'")
    assert found.where is not None
    assert found.where(env(5, 2))(MESSAGE, Seq(9)) is True
    assert not found.where(env(5, 3))(MESSAGE, Seq(9))
    assert not found.where(env(5, None))(MESSAGE, Seq(9))


def test_expressions_and_aliases_of_a_point_read() -> None:
    found = point(
        'SELECT likes + 1, upper(body) AS Loud, price * 2 AS "Twice", _seq '
        "FROM messages WHERE id = 5"
    )
    assert [column.name for column in found.output] == ["likes + 1", "loud", "Twice", "_seq"]
    assert found.project(MESSAGE, Seq(9)) == ["4", "HELLO", "3.00", "9"]


def test_keys_of_several_columns() -> None:
    found = point("SELECT c FROM pair WHERE b = 'x' AND a = $1 LIMIT 1")
    assert list(found.keys(env(7))) == [key(7, "x")]
    assert list(found.keys(env(None))) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM messages",
        "SELECT * FROM messages WHERE id = 5 OR id = 6",
        "SELECT count(*) FROM messages WHERE id = 5",
        "SELECT DISTINCT id FROM messages WHERE id = 5",
        "SELECT id, now() FROM messages WHERE id = 5",
        "SELECT round(likes) FROM messages WHERE id = 5",
        "SELECT $1 FROM messages WHERE id = 5",
        "SELECT * FROM logs WHERE line = 'x'",
        "SELECT * FROM messages JOIN pair ON true WHERE id = 5",
        "SELECT * FROM messages WHERE id = (SELECT 5)",
        "SELECT id FROM all_users.chat.messages WHERE id = 5",
        "SELECT id FROM messages WHERE id = 5 UNION SELECT 6",
        "SELECT 1",
    ],
)
def test_everything_else_is_for_the_engine(sql: str) -> None:
    assert isinstance(bind(sql), ScanSelect)


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT * FROM nope", UnknownTable),
        ("SELECT * FROM nope.messages", UnknownNamespace),
        ("SELECT nope FROM messages WHERE id = 5", UnknownColumn),
        ("SELECT x.id FROM messages WHERE id = 5", UnknownColumn),
        ("SELECT messages.id FROM messages m WHERE m.id = 5", UnknownColumn),
        ("SELECT _row_id FROM logs WHERE line = 'x' AND _row_id = 5", UnknownColumn),
        ("SELECT * FROM messages WHERE id = 'x'", TypeMismatch),
        ("SELECT * FROM messages WHERE id = 5 AND created > 'yesterday'", TypeMismatch),
        ("SELECT * FROM all_users.chat.pair", InvalidStatement),
        ("SELECT * FROM all_users.messages", InvalidStatement),
    ],
)
def test_names_and_literals_are_checked(sql: str, error: type[KalamError] | None) -> None:
    if error is None:
        bind(sql)  # the engine knows no such column
        return
    with pytest.raises(error):
        bind(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM messages WHERE id = $1 AND likes = $2",
        "SELECT id FROM messages WHERE likes = $2",
        "INSERT INTO messages (id, room) VALUES ($1, $2)",
        "UPDATE messages SET body = $2 WHERE id = $1",
        "UPDATE messages SET body = $2 WHERE likes = 1",
        "DELETE FROM messages WHERE id IN (SELECT a FROM pair WHERE b = $2)",
    ],
)
@pytest.mark.parametrize("params", [(), (1,), (1, 2, 3)])
def test_exactly_the_parameters_of_the_statement_are_sent(sql: str, params: Any) -> None:
    found = bind(sql)
    with pytest.raises(InvalidParameter):
        match found:
            case PointSelect():
                found.keys(env(*params))
            case ScanSelect():
                found.render(env(*params))
            case InsertPlan():
                found.rows(env(*params))
            case EngineChangePlan():
                found.scan.render(env(*params))
            case ChangePlan() if found.keys is not None:
                found.keys(env(*params))
            case ChangePlan():
                assert found.where is not None
                found.where(env(*params))
            case _:
                raise AssertionError


# ---- INSERT --------------------------------------------------------------------------------------


def test_a_row_gets_its_values_and_then_its_defaults() -> None:
    found = insert("INSERT INTO messages (room, body) VALUES ($1, $2)")
    (row,) = found.rows(env("r", None))
    assert row == {2: "r", 3: "alice", 5: NOW_MS * 1000, 7: 0}
    assert found.drawn == (1,)


def test_a_given_key_is_not_drawn_and_a_mixed_one_is() -> None:
    assert insert("INSERT INTO messages (id, room) VALUES (1, 'r')").drawn == ()
    mixed = insert("INSERT INTO messages (id, room) VALUES (1, 'r'), (DEFAULT, 's')")
    assert mixed.drawn == (1,)
    assert [row.get(1) for row in mixed.rows(env())] == [1, None]
    called = insert("INSERT INTO messages (id, room) VALUES (SNOWFLAKE_ID(), 'r')")
    assert called.drawn == (1,)
    assert 1 not in called.rows(env())[0]


def test_an_explicit_null_is_no_default() -> None:
    (row,) = insert("INSERT INTO messages (id, room, likes) VALUES (1, 'r', NULL)").rows(env())
    assert 7 not in row
    with pytest.raises(NotNullViolation):
        insert("INSERT INTO messages (id, room) VALUES (NULL, 'r')")
    with pytest.raises(NotNullViolation):
        insert("INSERT INTO messages (id, room) VALUES ($1, 'r')").rows(env(None))


def test_the_hidden_key_is_always_drawn() -> None:
    found = insert("INSERT INTO logs VALUES ('a'), ('b') RETURNING *")
    assert found.drawn == (0,)
    assert found.rows(env()) == [{1: "a"}, {1: "b"}]
    assert found.returning is not None
    assert found.returning.columns == ("line", "_seq", "_deleted")
    assert found.returning.project({0: 77, 1: "a"}, Seq(9)) == ("a", "9", False)


def test_values_are_computed_where_they_can_be() -> None:
    found = insert(
        "INSERT INTO messages (id, room, author, created, price) "
        "VALUES (1 + 2 * 3, lower('R') || $1, CURRENT_USER, NOW(), '7.5')"
    )
    (row,) = found.rows(env("x"))
    assert row == {1: 7, 2: "rx", 3: "alice", 5: NOW_MS * 1000, 6: "7.50", 7: 0}


def test_generated_values_differ_per_row() -> None:
    view = catalog("CREATE TABLE t (a UUID DEFAULT UUID_V7(), b TEXT DEFAULT ULID(), c INT)")
    first, second = insert("INSERT INTO t (c) VALUES (1), (2)", view).rows(env())
    assert first[1] != second[1]
    assert first[2] != second[2]
    assert len(first[1]) == 16
    (row,) = insert("INSERT INTO t (a, b) VALUES (UUID_V7(), UUID_V7())", view).rows(env())
    assert len(row[2]) == 36


def test_default_values() -> None:
    view = catalog("CREATE TABLE t (a INT DEFAULT 4, b TEXT)")
    assert insert("INSERT INTO t DEFAULT VALUES", view).rows(env()) == [{1: 4}]
    assert insert("INSERT INTO t VALUES (5)", view).rows(env()) == [{1: 5}]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("INSERT INTO nope VALUES (1)", UnknownTable),
        ("INSERT INTO pair (a, nope) VALUES (1, 2)", UnknownColumn),
        ("INSERT INTO pair (a, a) VALUES (1, 2)", InvalidStatement),
        ("INSERT INTO pair (a, _seq) VALUES (1, 2)", InvalidStatement),
        ("INSERT INTO pair (a, b) VALUES (1)", InvalidStatement),
        ("INSERT INTO pair VALUES (1, 'x', 'y', 'z')", InvalidStatement),
        ("INSERT INTO pair (a, b) VALUES ('x', 'y')", TypeMismatch),
        ("INSERT INTO pair (a, b) VALUES (3000000000, 'y')", ValueOutOfRange),
        ("INSERT INTO pair (a, b) VALUES (c, 'y')", UnknownColumn),
        ("INSERT INTO pair (a, b) VALUES (NOW(), 'y')", TypeMismatch),
        ("INSERT INTO pair VALUES (1,'x','y') ON CONFLICT (c) DO NOTHING", InvalidStatement),
        ("INSERT INTO pair VALUES (1,'x','y') ON CONFLICT (z) DO NOTHING", UnknownColumn),
        ("INSERT INTO pair VALUES (1,'x','y') ON CONFLICT ON CONSTRAINT z DO NOTHING",
         InvalidStatement),
        ("INSERT INTO pair VALUES (1,'x','y') ON CONFLICT DO UPDATE SET c = 'z'",
         InvalidStatement),
        ("INSERT INTO pair VALUES (1,'x','y') ON CONFLICT (a, b) DO UPDATE SET a = 2",
         InvalidStatement),
        ("INSERT INTO pair VALUES (1,'x','y') ON CONFLICT (a, b) DO UPDATE SET c = nope.c",
         UnknownColumn),
        ("INSERT INTO events VALUES ('k') RETURNING _deleted", UnknownColumn),
    ],
)  # fmt: skip
def test_inserts_that_make_no_sense(sql: str, error: type[KalamError]) -> None:
    with pytest.raises(error):
        insert(sql)


def test_on_conflict_targets() -> None:
    head = "INSERT INTO messages (id, room, author) VALUES (1, 'r', 'a') ON CONFLICT "
    for target, unique, any_target in [
        ("DO NOTHING", None, True),
        ("(id) DO NOTHING", None, False),
        ("(author, room) DO NOTHING", 1, False),
        ("ON CONSTRAINT messages_room_author_key DO NOTHING", 1, False),
        ("ON CONSTRAINT messages_pkey DO NOTHING", None, False),
    ]:
        found = insert(head + target)
        assert found.conflict is not None
        rule = found.conflict(env())
        assert (rule.unique, rule.any_target, rule.assign) == (unique, any_target, None)


def test_on_conflict_do_update_sees_both_rows() -> None:
    found = insert(
        "INSERT INTO messages AS m (id, room, likes) VALUES (1, 'r', 5) ON CONFLICT (id) DO UPDATE "
        "SET likes = m.likes + excluded.likes, body = $1, author = NULL, price = DEFAULT "
        "WHERE m.room = excluded.room AND likes < $2"
    )
    assert found.conflict is not None
    rule = found.conflict(env("new", 10))
    assert rule.assign is not None
    assert rule.where is not None
    assert rule.assign(MESSAGE, {1: 1, 2: "r", 7: 5}) == {
        1: 5,
        2: "r",
        4: "new",
        5: 1_000_000,
        7: 8,
    }
    assert rule.where(MESSAGE, {2: "r"}) is True
    assert rule.where(MESSAGE, {2: "other"}) is False
    assert rule.where(MESSAGE, {}) is False


def test_insert_from_a_select() -> None:
    found = bind(
        "INSERT INTO messages (room, price) SELECT b, a FROM pair WHERE a > $1 RETURNING id"
    )
    assert isinstance(found, InsertSelectPlan)
    assert found.drawn == (1,)
    row = found.complete(env(), ["r", 2])
    assert row == {2: "r", 6: "2.00", 3: "alice", 5: NOW_MS * 1000, 7: 0}
    assert [scan.table.name for scan in found.scan.tables] == ["pair"]
    with pytest.raises(InvalidStatement):
        found.complete(env(), ["r"])


# ---- UPDATE, DELETE ------------------------------------------------------------------------------


def test_an_update_by_key() -> None:
    found = change(
        "UPDATE messages SET likes = likes + $2, body = NULL, price = '2' WHERE id = $1 "
        "RETURNING id, likes"
    )
    assert found.keys is not None
    assert found.change is not None
    assert list(found.keys(env(5, 2))) == [key(5)]
    assert found.where is None
    changed = found.change(env(5, 2))(MESSAGE)
    assert changed == {1: 5, 2: "r", 3: "bob", 5: 1_000_000, 6: "2.00", 7: 5}
    assert MESSAGE[7] == 3
    assert found.returning is not None
    assert found.returning.project(changed, Seq(9)) == ("5", 5)


def test_set_converts_to_the_column() -> None:
    found = change(
        "UPDATE kinds SET small = n + 1, d = i * 1.5, t = i, ts = day, tz = ts, f = small "
        "WHERE id = 1"
    )
    assert found.change is not None
    row = {1: 1, 2: 4, 3: 3, 4: 9, 13: 1, 11: 5}
    changed = found.change(env())(row)
    assert (changed[2], changed[7], changed[9]) == (10, "4.50", "3")
    assert (changed[11], changed[12], changed[5]) == (86_400_000_000, 5, 4.0)
    with pytest.raises(ValueOutOfRange):
        found.change(env())(row | {4: 40_000})


def test_numbers_never_wrap_around() -> None:
    found = change("UPDATE kinds SET n = n + 1 WHERE id = 1")
    assert found.change is not None
    with pytest.raises(ValueOutOfRange):
        found.change(env())({1: 1, 4: (1 << 63) - 1})
    divided = change("UPDATE kinds SET n = 7 / n WHERE id = 1")
    assert divided.change is not None
    assert divided.change(env())({1: 1, 4: -2})[4] == -3
    with pytest.raises(QueryFailed):
        divided.change(env())({1: 1, 4: 0})


def test_a_condition_without_the_key_is_a_scan() -> None:
    found = change("DELETE FROM messages WHERE room = $1 AND (likes > 2 OR body IS NULL)")
    assert found.keys is None
    assert found.change is None
    assert found.where is not None
    test = found.where(env("r"))
    assert test(MESSAGE, Seq(9))
    assert test({1: 1, 2: "r", 7: 0}, Seq(9))
    assert not test({1: 1, 2: "r", 7: 0, 4: "x"}, Seq(9))
    assert change("DELETE FROM messages WHERE true").keys is None


def test_the_seq_of_a_row_is_seen_by_conditions() -> None:
    found = change("DELETE FROM messages WHERE _seq < '100' AND NOT _deleted")
    assert found.where is not None
    assert found.where(env())(MESSAGE, Seq(99)) is True
    assert found.where(env())(MESSAGE, Seq(100)) is False


def test_what_is_not_compiled_goes_through_the_engine() -> None:
    found = bind("UPDATE messages SET likes = round(likes), body = $1 WHERE room = 'r'")
    assert isinstance(found, EngineChangePlan)
    assert found.assigned == (table("messages").by_name["likes"], table("messages").by_name["body"])
    gone = bind("DELETE FROM logs WHERE line IN (SELECT b FROM pair)")
    assert isinstance(gone, EngineChangePlan)
    assert gone.assigned is None
    assert "_row_id" in [column.name for column in gone.scan.tables[0].columns]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("UPDATE messages SET body = 'x'", InvalidStatement),
        ("DELETE FROM messages", InvalidStatement),
        ("UPDATE messages SET id = 2 WHERE id = 1", InvalidStatement),
        ("UPDATE messages SET _seq = 2 WHERE id = 1", InvalidStatement),
        ("UPDATE messages SET body = 'a', body = 'b' WHERE id = 1", InvalidStatement),
        ("UPDATE messages SET nope = 2 WHERE id = 1", UnknownColumn),
        ("UPDATE messages SET body = nope WHERE id = 1", UnknownColumn),
        ("UPDATE messages SET likes = 'x' WHERE id = 1", TypeMismatch),
        ("UPDATE messages SET likes = created WHERE id = 1", TypeMismatch),
        ("UPDATE events SET kind = 'x' WHERE kind = 'y'", InvalidStatement),
        ("UPDATE nope SET a = 1 WHERE true", UnknownTable),
        ("DELETE FROM messages WHERE nope = 1", UnknownColumn),
        ("DELETE FROM system.users WHERE true", InvalidStatement),
        ("UPDATE all_users.chat.messages SET body = '' WHERE true", InvalidStatement),
    ],
)
def test_changes_that_make_no_sense(sql: str, error: type[KalamError]) -> None:
    with pytest.raises(error):
        bind(sql)


def test_explain_names_the_path_and_no_values() -> None:
    for sql, words in [
        ("SELECT * FROM messages WHERE id = $1", "point read of chat.messages by primary key (id)"),
        ("INSERT INTO logs VALUES ('secret')", "insert into chat.logs"),
        ("UPDATE messages SET body = 'secret' WHERE id = 1", "update of chat.messages by primary"),
        ("DELETE FROM messages WHERE body = 'x'", "delete by scan of chat.messages"),
        ("SELECT now() FROM messages WHERE room = $1", "room = $1"),
        ("DELETE FROM messages WHERE id IN (SELECT a FROM pair)", "query engine: SELECT"),
    ]:
        text = "\n".join(describe_path(bind(sql)))
        assert words in text
        assert "secret" not in text
