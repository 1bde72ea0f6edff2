"""SELECT by the query engine: every type, order, isolation, what is kept between queries."""

from __future__ import annotations

import uuid
from typing import Any

import orjson
import pytest

from kalamdb.errors import (
    QueryFailed,
    ResultTooLarge,
    SchemaChanged,
    Unavailable,
    UnknownColumn,
    Unsupported,
)
from kalamdb.model.ids import shared_partition
from kalamdb.model.table import Column
from kalamdb.model.types import ColumnType, Kind
from kalamdb.model.values import parser
from kalamdb.query import scan
from kalamdb.query.engine_pool import EnginePool
from kalamdb.query.scan import ScanLimits, ScanResult
from kalamdb.sql.bound import ScanSelect, ScanTable
from kalamdb.sql.engine_query import USER_ID
from kalamdb.sql.virtual import VirtualTable, virtual_table
from tests.unit.query.world import (
    EVENTS,
    MESSAGES,
    ROOMS,
    FakeGroups,
    column,
    env,
    message,
    scan_plan,
    table,
    tenant,
)

# Queries of one module share a loop, so that they may share a pool of workers.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = ScanLimits()


def rows(result: ScanResult) -> list[list[Any]]:
    found = orjson.loads(result.rows_json)
    assert len(found) == result.row_count
    return found


TYPED = [
    (Kind.BOOLEAN, {}, True, True, "Boolean"),
    (Kind.SMALLINT, {}, -7, -7, "SmallInt"),
    (Kind.INT, {}, 1 << 30, 1 << 30, "Int"),
    (Kind.BIGINT, {}, -(1 << 63), str(-(1 << 63)), "BigInt"),
    (Kind.FLOAT, {}, 0.5, 0.5, "Float"),
    (Kind.DOUBLE, {}, 0.1, 0.1, "Double"),
    (
        Kind.DECIMAL,
        {"precision": 38, "scale": 10},
        "-0.0000000001",
        "-0.0000000001",
        {"Decimal": {"precision": 38, "scale": 10}},
    ),
    (
        Kind.DECIMAL,
        {"precision": 10, "scale": 2},
        "200.75",
        "200.75",
        {"Decimal": {"precision": 10, "scale": 2}},
    ),
    (Kind.TEXT, {}, 'ein "Wort"\n\x00', 'ein "Wort"\n\x00', "Text"),
    (Kind.BYTES, {}, b"\x00\xff", [0, 255], "Bytes"),
    (Kind.JSON, {}, '{"a":[1]}', '{"a":[1]}', "Json"),
    (Kind.TIMESTAMP, {}, 1_700_000_000_123_456, 1_700_000_000_123_456, "Timestamp"),
    (Kind.TIMESTAMP, {}, -1, -1, "Timestamp"),
    (Kind.DATETIME, {}, 1_700_000_000_123_456, 1_700_000_000_123_456, "DateTime"),
    (Kind.DATE, {}, 19_000, 19_000, "Date"),
    (Kind.TIME, {}, 86_399_999_999, 86_399_999_999, "Time"),
    (Kind.UUID, {}, uuid.UUID(int=1 << 100).bytes, str(uuid.UUID(int=1 << 100)), "Uuid"),
    (Kind.EMBEDDING, {"size": 2}, b"\0\0\x80?\0\0\0\xc0", [1.0, -2.0], {"Embedding": 2}),
    (Kind.FILE, {}, '{"id":"f"}', '{"id":"f"}', "File"),
]


async def test_every_type_comes_out_as_json(pool: EnginePool, groups: FakeGroups) -> None:
    columns = [
        Column(number, f"c{number}", ColumnType(kind, **parameters))
        for number, (kind, parameters, *_) in enumerate(TYPED, 2)
    ]
    typed = table(9, "typed", column(1, "id", Kind.BIGINT), *columns)
    stored = {number: case[2] for number, case in enumerate(TYPED, 2)}
    groups.put(typed, tenant(), {1: 1, **stored}, {1: 2})
    plan = scan_plan("SELECT * FROM t0", typed)
    result = await scan.select(plan, env(), groups, pool, LIMITS)
    first, second = rows(result)
    assert first[1:-2] == [case[3] for case in TYPED]
    assert second[1:-2] == [None] * len(TYPED)
    assert [found.type.label for found in result.columns[1:-2]] == [case[4] for case in TYPED]
    assert first[-2:] == [str(1000 + 1024), False]
    assert [found.name for found in result.columns[-2:]] == ["_seq", "_deleted"]
    assert result.columns[0].flags == ("pk", "nn", "uq")
    assert result.columns[1].flags == ()

    values = await scan.values(plan, env(), groups, pool, LIMITS)
    for number, (_, _, value, *_) in enumerate(TYPED, 1):
        given = values.rows[0][number]
        assert parser(columns[number - 1].type, "c")(given) == value
    assert values.rows[1][1:-2] == [None] * len(TYPED)


COMPUTED = [
    ("count(*)", "1", "BigInt"),
    ("id + 1", "2", "BigInt"),
    ("cast(id AS TEXT)", "1", "Text"),
    ("upper(author)", "AUTHOR-1", "Text"),
    ("NULL", None, "Text"),
    ("1.5", 1.5, "Double"),
    ("cast(1.5 AS DECIMAL(10,2))", "1.50", {"Decimal": {"precision": 10, "scale": 2}}),
    ("cast(7 AS SMALLINT)", 7, "SmallInt"),
    ("cast(18446744073709551615 AS BIGINT UNSIGNED)", "18446744073709551615", "BigInt"),
    ("date_trunc('day', at)", 1_699_920_000_000_000, "Timestamp"),
    ("INTERVAL '1 day 90 minutes'", "1 day 01:30:00", "Text"),
    ("[id, 2]", "[1,2]", "Json"),
    ("array_agg(author)", '["author-1"]', "Json"),
    ("at - INTERVAL '1 second'", 1_699_999_999_000_001, "Timestamp"),
    ("arrow_cast(1, 'Float16')", 1.0, "Float"),
    ("DATE '1970-01-02'", 1, "Date"),
    ("min(id)", "1", "BigInt"),
]


@pytest.mark.parametrize("expression", [case[0] for case in COMPUTED])
async def test_computed_columns(warm: EnginePool, groups: FakeGroups, expression: str) -> None:
    groups.put(MESSAGES, tenant(), message(1))
    plan = scan_plan(f"SELECT {expression} AS x FROM t0 GROUP BY id, author, at", MESSAGES)
    if "(" in expression and expression.startswith(("count", "array_agg", "min")):
        plan = scan_plan(f"SELECT {expression} AS x FROM t0", MESSAGES)
    result = await scan.select(plan, env(), groups, warm, LIMITS)
    expected = next(case for case in COMPUTED if case[0] == expression)
    assert rows(result) == [[expected[1]]]
    assert result.columns[0].type.label == expected[2]
    assert result.columns[0].flags == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("SELECT id / 0 AS x FROM t0", "division by zero"),
        ("SELECT 'NaN'::double AS x FROM t0", "NaN"),
        ("SELECT ['NaN'::double] AS x FROM t0", "NaN"),
        ("SELECT * FROM somewhere", "'somewhere'"),
        ("SELECT cast(author AS INT) AS x FROM t0", "cannot cast the text 'author-1'"),
        ("SELECT (1 FROM t0", "Expected"),
        ("SELECT id, count(*) FROM t0", "GROUP BY"),
        ("CREATE TABLE x AS SELECT 1", "not supported"),
        ("INSERT INTO t0 (id) VALUES (1)", "not supported"),
        ("COPY t0 TO '/tmp/x.csv'", "not supported"),
        ("SET datafusion.execution.batch_size = 1", "not supported"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "not supported"),
        ("SELECT * FROM '/etc/passwd'", "not found"),
        ("SELECT * FROM information_schema.tables", "not found"),
    ],
)
async def test_what_the_engine_refuses(
    warm: EnginePool, groups: FakeGroups, text: str, part: str
) -> None:
    groups.put(MESSAGES, tenant(), message(1))
    with pytest.raises(QueryFailed) as caught:
        await scan.select(scan_plan(text, MESSAGES), env(), groups, warm, LIMITS)
    shown = str(caught.value)
    assert part in shown
    for inner in ("DataFusion", "Arrow error", "datafusion.public", "t0", "github.com"):
        assert inner not in shown


async def test_rows_of_one_table_come_in_key_order(pool: EnginePool, groups: FakeGroups) -> None:
    numbers = [(number * 7919) % 30_011 - 15_000 for number in range(30_000)]
    groups.put(MESSAGES, tenant(), *map(message, numbers))
    plan = scan_plan("SELECT id FROM t0 WHERE author <> 'author-3'", MESSAGES)
    result = await scan.select(plan, env(), groups, pool, LIMITS)
    expected = [str(number) for number in sorted(numbers) if number % 7 != 3]
    assert [row[0] for row in rows(result)] == expected


async def test_only_the_sessions_rows_and_shared_ones(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant("alice"), message(1))
    groups.put(MESSAGES, tenant("bob"), message(2), message(3))
    groups.put(ROOMS, shared_partition(ROOMS.id), {1: 1, 2: "lobby"})
    plan = scan_plan(
        "SELECT t0.id, t1.title FROM t0 CROSS JOIN t1 ORDER BY t0.id", MESSAGES, ROOMS, ordered=True
    )
    for user, ids in (("alice", ["1"]), ("bob", ["2", "3"]), ("carol", []), ("alice", ["1"])):
        result = await scan.select(plan, env(user), groups, pool, LIMITS)
        assert rows(result) == [[number, "lobby"] for number in ids]
        assert len(result.seqs) == 2
        assert result.cursor.startswith("{")
    assert all(snapshot.closed for snapshot in groups.snapshots)


async def test_one_table_twice(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(10)))
    used = (
        ScanTable("a", MESSAGES, (MESSAGES.by_name["id"],)),
        ScanTable("b", MESSAGES, (MESSAGES.by_name["author"], MESSAGES.by_name["id"])),
    )
    text = "SELECT count(*) AS n FROM a JOIN b ON a.id < b.id"
    plan = ScanSelect(used, lambda env: text, ordered=False)
    result = await scan.select(plan, env(), groups, pool, LIMITS)
    assert rows(result) == [["45"]]
    assert result.cursor == str(groups.seq)


async def test_no_columns_no_rows_no_tables(pool: EnginePool, groups: FakeGroups) -> None:
    counted = ScanSelect(
        (ScanTable("t0", MESSAGES, ()),), lambda env: "SELECT count(*) FROM t0", False
    )
    assert rows(await scan.select(counted, env(), groups, pool, LIMITS)) == [["0"]]
    groups.put(MESSAGES, tenant(), *map(message, range(3)))
    assert rows(await scan.select(counted, env(), groups, pool, LIMITS)) == [["3"]]
    nothing = await scan.select(
        scan_plan("SELECT * FROM t0 WHERE id = 99", MESSAGES), env(), groups, pool, LIMITS
    )
    assert (nothing.rows_json, nothing.row_count) == (b"[]", 0)
    assert [found.name for found in nothing.columns] == [found.name for found in MESSAGES.readable]
    alone = ScanSelect((), lambda env: "SELECT 1 AS one", ordered=False)
    result = await scan.select(alone, env(), groups, pool, LIMITS)
    assert rows(result) == [["1"]]
    assert result.cursor == "0"


async def test_a_kept_table_follows_every_change(pool: EnginePool, groups: FakeGroups) -> None:
    scanned: list[int] = []
    groups.on_snapshot = lambda snapshot: setattr(snapshot, "before_row", lambda: scanned.append(1))
    groups.put(MESSAGES, tenant(), *map(message, range(5)))
    count = scan_plan("SELECT count(*) AS n, max(body) AS b FROM t0", MESSAGES)

    async def ask() -> list[Any]:
        scanned.clear()
        return rows(await scan.select(count, env(), groups, pool, LIMITS))[0]

    assert await ask() == ["5", "message number 4"]
    assert len(scanned) == 5
    assert await ask() == ["5", "message number 4"]
    assert not scanned
    groups.put(MESSAGES, tenant(), message(4, body="z"))
    assert await ask() == ["5", "z"]
    assert len(scanned) == 5
    assert pool.statistics().kept_bytes > 0


async def test_stream_rows_are_never_kept(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(EVENTS, tenant(), {1: 1, 2: "x"}, {1: 2, 2: "y"})
    plan = scan_plan("SELECT count(*) AS n FROM t0", EVENTS)
    assert rows(await scan.select(plan, env(), groups, pool, LIMITS)) == [["2"]]
    del groups.rows[EVENTS.id, tenant()][min(groups.rows[EVENTS.id, tenant()])]
    assert rows(await scan.select(plan, env(), groups, pool, LIMITS)) == [["1"]]


async def test_columns_join_a_kept_table(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), message(1))

    async def ask(name: str) -> Any:
        used = (ScanTable("t0", MESSAGES, (MESSAGES.by_name[name],)),)
        plan = ScanSelect(used, lambda env: f"SELECT {name} FROM t0", ordered=False)
        return rows(await scan.select(plan, env(), groups, pool, LIMITS))[0][0]

    assert [await ask(name) for name in ("id", "author", "score", "id")] == [
        "1",
        "author-1",
        0.5,
        "1",
    ]


async def test_limits_of_a_result(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(100)))
    plan = scan_plan("SELECT * FROM t0", MESSAGES)
    assert len(rows(await scan.select(plan, env(), groups, pool, ScanLimits(100, 1 << 20)))) == 100
    with pytest.raises(ResultTooLarge) as by_rows:
        await scan.select(plan, env(), groups, pool, ScanLimits(99, 1 << 20))
    assert (by_rows.value.limit, by_rows.value.max) == ("max_result_rows", 99)
    with pytest.raises(ResultTooLarge) as by_size:
        await scan.select(plan, env(), groups, pool, ScanLimits(100, 1000))
    assert (by_size.value.limit, by_size.value.max) == ("max_result_bytes", 1000)
    assert pool.statistics().workers_started == 1


async def test_functions_draw_for_each_row(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(500)))
    names = ("kalam_snowflake_id", "kalam_uuid_v7", "kalam_ulid")
    drawn = ", ".join(f"{name}(random()) AS {name}" for name in names)
    result = await scan.select(
        scan_plan(f"SELECT {drawn} FROM t0", MESSAGES), env(), groups, pool, LIMITS
    )
    for values in zip(*rows(result), strict=True):
        assert len(set(values)) == 500
    snowflakes = [int(row[0]) for row in rows(result)]
    assert snowflakes == sorted(snowflakes)
    assert {number & 1023 for number in snowflakes} == {511}
    assert all(uuid.UUID(row[1]).version == 7 for row in rows(result))


async def test_what_reading_raises_reaches_the_caller(pool: EnginePool, groups: FakeGroups) -> None:
    groups.put(MESSAGES, tenant(), *map(message, range(10)))
    plan = scan_plan("SELECT count(*) AS n FROM t0", MESSAGES)

    def moved() -> None:
        raise SchemaChanged("app.messages", 2, None)

    def lost() -> None:
        raise Unavailable("the disk is away")

    groups.on_get = moved
    with pytest.raises(SchemaChanged):
        await scan.select(plan, env(), groups, pool, LIMITS)
    groups.on_get = lambda: None
    groups.on_snapshot = lambda snapshot: setattr(snapshot, "before_row", lost)
    with pytest.raises(Unavailable, match="the disk is away"):
        await scan.select(plan, env(), groups, pool, LIMITS)
    groups.on_snapshot = lambda snapshot: None
    assert rows(await scan.select(plan, env(), groups, pool, LIMITS)) == [["10"]]
    assert pool.statistics().workers_started == 1
    assert all(snapshot.closed for snapshot in groups.snapshots)


async def test_all_users_tables(pool: EnginePool, groups: FakeGroups) -> None:
    """Rows of every tenant with the tenant's name, beside the session's own ones."""
    users = [f"user {number} \u00e9" for number in range(40)]
    for number, user in enumerate(users):
        groups.put(MESSAGES, tenant(user), *(message(each) for each in range(number % 3 + 1)))
    columns = (*MESSAGES.readable, USER_ID)
    used = (
        ScanTable("t0", MESSAGES, columns, all_users=True),
        ScanTable("t1", MESSAGES, MESSAGES.readable),
    )
    own = "(SELECT count(*) FROM t1) AS own"
    text = f"SELECT _user_id, count(*), {own} FROM t0 GROUP BY 1 ORDER BY 1"
    plan = ScanSelect(used, lambda env: text, ordered=True)
    expected = [
        [user, str(number % 3 + 1), "2"] for user, number in zip(users, range(40), strict=True)
    ]
    for _ in range(2):  # decoded, then kept
        result = await scan.select(plan, env(users[1]), groups, pool, LIMITS)
        assert rows(result) == sorted(expected)
    assert [group for group, _ in result.seqs] == list(range(1, 9))
    groups.put(MESSAGES, tenant("new"), message(1))
    assert len(rows(await scan.select(plan, env(users[1]), groups, pool, LIMITS))) == 41
    assert all(snapshot.closed for snapshot in groups.snapshots)


async def test_a_large_tenant_among_small_ones(pool: EnginePool, groups: FakeGroups) -> None:
    """Chunks are cut inside a tenant's rows and across tenants."""
    groups.put(MESSAGES, tenant("a"), *(message(each) for each in range(5000)))
    groups.put(MESSAGES, tenant("b"), message(1))
    used = (ScanTable("t0", MESSAGES, (MESSAGES.columns[0], USER_ID), all_users=True),)
    text = "SELECT _user_id, count(*) FROM t0 GROUP BY 1 ORDER BY 1"
    plan = ScanSelect(used, lambda env: text, ordered=True)
    found = rows(await scan.select(plan, env("c"), groups, pool, LIMITS))
    assert found == [["a", "5000"], ["b", "1"]]


async def test_system_tables_are_asked_once_and_seen_by_who_may(
    pool: EnginePool, groups: FakeGroups
) -> None:
    asked: list[str] = []

    async def opened(table: VirtualTable) -> list[tuple[object, ...]]:
        asked.append(table.full_name)
        return [(kind, kind, kind, None) for kind in ("a", "b", "a")]

    datatypes = virtual_table("system", "datatypes")
    plan = scan_plan("SELECT arrow_type, count(*) FROM t0 GROUP BY 1 ORDER BY 1", datatypes)
    for _ in range(2):
        result = await scan.select(plan, env(), groups, pool, LIMITS, open_virtual=opened)
        assert rows(result) == [["a", "2"], ["b", "1"]]
        assert result.cursor == "0"
    assert asked == ["system.datatypes"] * 2
    with pytest.raises(Unsupported):
        await scan.select(plan, env(), groups, pool, LIMITS)


async def test_a_column_that_is_not_there_is_named(pool: EnginePool, groups: FakeGroups) -> None:
    for text in ("SELECT nothing FROM t0", 'SELECT t0."nothing" FROM t0'):
        with pytest.raises(UnknownColumn, match="nothing"):
            await scan.select(scan_plan(text, MESSAGES), env(), groups, pool, LIMITS)
