"""Integers of engine queries never wrap around.

Random expressions near the bounds of SMALLINT, INT and BIGINT say the same by key (compiled
closures) and through the engine: a value, or that it is out of range. SUM says what Python's
integers say, or that it is out of range, in every form a SUM has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kalamdb.query.engine_pool import EnginePool, PoolSettings
from tests.small_node import SmallNode, small_node

OUT_OF_RANGE = "22003"
BITS = {"h": 15, "i": 31, "n": 63}
COLUMNS = "id INT PRIMARY KEY, h SMALLINT, i INT, n BIGINT, x DOUBLE, c DECIMAL(38, 0)"
FEW = "id INT PRIMARY KEY, i INT, x DOUBLE, c DECIMAL(10, 2), da DATE"
SHORT = (Phase.generate,)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    found = EnginePool(PoolSettings(workers_max=1, kept_max_bytes=0))
    yield found
    await found.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node(pool: EnginePool) -> AsyncIterator[SmallNode]:
    async with small_node(pool=pool) as found:
        await found.setup(
            "CREATE NAMESPACE app",
            f"CREATE USER TABLE app.t ({COLUMNS})",
            f"CREATE USER TABLE app.s ({FEW})",
            "CREATE VIEW app.v AS SELECT id, n * 2 AS doubled FROM app.t",
            "CREATE VIEW app.w AS SELECT id, i - 0::int AS doubled FROM app.t",
        )
        await found.ok("alice", "INSERT INTO app.s VALUES (1, 2147483647, 1.5, 1.25, '2026-01-01')")
        for number, share in enumerate((0, 1, -1, 0.5, -0.5, 0.25), 1):
            row = {name: near(share, bits) for name, bits in BITS.items()}
            listed = f"{number}, {row['h']}, {row['i']}, {row['n']}, 1.5, {10**37 * number}"
            await found.ok("alice", f"INSERT INTO app.t VALUES ({listed})")
        yield found


def near(share: float, bits: int) -> int:
    """A share of the largest value; the smallest for -1."""
    return -(1 << bits) if share == -1 else int(share * (1 << bits)) - (share == 1)


async def said(node: SmallNode, sql: str, params: list[Any] | None = None) -> tuple[str, Any]:
    """("ok", rows), or the sqlstate and the message."""
    status, body = await node.sql("alice", sql, params or [])
    if status == 200:
        return "ok", body["results"][0]["rows"]
    assert status == 400, (sql, body)
    return body["error"]["sqlstate"], body["error"]["message"]


# ---- expressions, by key and through the engine --------------------------------------------------


def expression(dice: Random, depth: int) -> str:
    if depth == 0 or dice.random() < 0.2:
        return dice.choice(["h", "i", "n", "h", "i", "n", "1", "2", "3", str((1 << 62) + 1)])
    one, other = expression(dice, depth - 1), expression(dice, depth - 1)
    match dice.randrange(8):
        case 0:
            return f"-({one})"
        case 1:
            return f"- {one}" if one[0].isalpha() else one
        case 2:
            return f"CASE WHEN h > 0 THEN {one} ELSE {other} END"
        case 3:
            return f"({one})"
        case _:
            return f"{one} {dice.choice('+-*+-*+-*%')} {other}"


@settings(max_examples=25, deadline=None, phases=SHORT, derandomize=True)
@given(st.integers(0, (1 << 32) - 1))
async def test_expressions(node: SmallNode, seed: int) -> None:
    dice = Random(seed)
    for _ in range(8):
        text = expression(dice, dice.randint(1, 4))
        for key in range(1, 7):
            by_key = await said(node, f"SELECT {text} AS v FROM app.t WHERE id = {key}")
            by_engine = await said(
                node, f"SELECT {text} AS v FROM (SELECT * FROM app.t) t WHERE id = {key}"
            )
            assert by_key[0] == by_engine[0], (text, key, by_key, by_engine)
            if by_key[0] != OUT_OF_RANGE:  # operands of one row may come in another order
                assert by_key[1] == by_engine[1], (text, key)


async def test_values_that_do_not_fit_are_named(node: SmallNode) -> None:
    for text, message in (
        ("n + 1", f"value out of range for BIGINT: {(1 << 63) - 1} + 1"),
        ("i * i", f"value out of range for INT: {(1 << 31) - 1} * {(1 << 31) - 1}"),
        ("-h - h - h", "value out of range for SMALLINT: -32767 - 32767"),
    ):
        for table in ("app.t", "(SELECT * FROM app.t) t"):
            found = await said(node, f"SELECT {text} FROM {table} WHERE id = 2")
            assert found == (OUT_OF_RANGE, message), (text, table)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM app.t WHERE n + 1 > h",
        "SELECT id FROM app.t ORDER BY -n",
        "SELECT count(*) FROM app.t GROUP BY n * 2",
        "SELECT h FROM app.t GROUP BY h HAVING max(n) + 1 > 0",
        "SELECT a.id FROM app.t a JOIN app.t b ON a.n - 2 = b.n",
        "SELECT max(n - 1) OVER (ORDER BY id ROWS 1 PRECEDING) FROM app.t",
        "SELECT max(n) OVER (ORDER BY n + 1) FROM app.t",
        "SELECT (SELECT max(n) FROM app.t) + 1",
        "SELECT v + v FROM (SELECT h AS v FROM app.t UNION ALL SELECT 1::smallint) x",
        "WITH c (v) AS (SELECT h FROM app.t) SELECT v * v FROM c",
        "SELECT v + 1 FROM (VALUES (9223372036854775807)) x (v)",
        "SELECT coalesce(n, 1) + 1 FROM app.t",
        "SELECT max(n) - min(n) FROM app.t",
        "SELECT id FROM app.t WHERE n IS DISTINCT FROM n - 1 AND id > 0",
        "SELECT id FROM app.t WHERE EXISTS (SELECT 1 FROM app.t u WHERE u.n + 1 = t.id)",
        "SELECT abs(n) FROM (SELECT * FROM app.t) t",
        "SELECT n / -1 FROM (SELECT * FROM app.t) t",
        "SELECT id FROM app.v WHERE doubled > 0",
        "SELECT doubled + doubled FROM app.w",
        "UPDATE app.t SET n = n + 1 WHERE id IN (SELECT id FROM app.t)",
        "INSERT INTO app.t (id, n) SELECT id + 100, n * 2 FROM app.t",
        "WITH RECURSIVE r AS (SELECT 3 AS v UNION ALL SELECT v * v FROM r) SELECT v FROM r",
    ],
)
async def test_everywhere(node: SmallNode, sql: str) -> None:
    state, message = await said(node, sql)
    assert state == OUT_OF_RANGE, message
    assert "kalam" not in message


async def test_a_parameter_has_the_type_of_its_value(node: SmallNode) -> None:
    sql = "SELECT n + $1 FROM (SELECT * FROM app.t) t WHERE id = 2"
    assert await said(node, sql, [1]) == (
        OUT_OF_RANGE,
        f"value out of range for BIGINT: {(1 << 63) - 1} + 1",
    )
    assert await said(node, sql, [-1]) == ("ok", [[str((1 << 63) - 2)]])
    assert await said(node, sql, [0.5]) == ("ok", [[float(1 << 63)]])


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT i + 1 FROM app.s", [["2147483648"]]),  # a literal is BIGINT, as by key
        ("SELECT da + 1, da - da, x + 1, -x, c * 2 FROM app.s", [[20455, "0", 2.5, -1.5, "2.50"]]),
        (
            "SELECT sum(x), sum(c), sum(i), avg(i) FROM app.s",
            [[1.5, "1.25", "2147483647", 2147483647]],
        ),
        (
            "SELECT count(*) OVER () * 2, - i - -1, -(-i) FROM app.s",
            [["2", "-2147483646", 2147483647]],
        ),
        ("SELECT row_number() OVER () - rank() OVER () - 1 FROM app.s", [["-1"]]),
        ("SELECT NULL + NULL, -NULL, sum(NULL), NULL + 1 FROM app.s", [[None] * 4]),
        ("SELECT CASE WHEN i > 5 THEN i ELSE i + i END FROM app.s", [[2147483647]]),
        ("SELECT DISTINCT ON (i) * FROM (SELECT i FROM app.s) x", [[2147483647]]),
        ("SELECT x * 2 AS i FROM app.s ORDER BY i + 1", [[3.0]]),
        ("SELECT 'a\\\\b' || i + 1 FROM app.s", [["a\\\\b2147483648"]]),
    ],
)
async def test_what_fits_is_as_it_was(node: SmallNode, sql: str, rows: list[Any]) -> None:
    assert await said(node, sql) == ("ok", rows)


async def test_names_of_columns_are_of_operators(node: SmallNode) -> None:
    inner = "SELECT n + 1, -i, sum(n) OVER (), sum(h - h) OVER () FROM app.t WHERE id = 4"
    _, body = await node.sql("alice", f"SELECT * FROM ({inner}) x")
    assert "kalam" not in str(body)
    _, body = await node.sql("alice", "SELECT * FROM (SELECT sum(n) FROM app.t WHERE id = 4) x")
    assert "kalam" not in str(body)


async def test_a_nul_in_a_value_is_no_mark(node: SmallNode) -> None:
    text = "a\0+b\0\0,\0.\0\0"
    found = await said(node, "SELECT $1 || 'x', i + 1 FROM app.t WHERE h = 0 OR id < 0", [text])
    assert found == ("ok", [[text + "x", "1"]])


# ---- SUM -----------------------------------------------------------------------------------------

EDGE = st.sampled_from([(1 << 63) - 1, -(1 << 63), 1 << 62, -(1 << 62), (1 << 32) - 1, -1, 0, 1])
NUMBERS = st.one_of(EDGE, EDGE, st.integers(-(1 << 63), (1 << 63) - 1), st.none())
ROWS = st.lists(st.tuples(st.integers(0, 2), NUMBERS), min_size=1, max_size=12)


def fits(values: list[int]) -> bool:
    return all(-(1 << 63) <= value < 1 << 63 for value in values)


def shown(value: int | None) -> str | None:
    return None if value is None else str(value)


def total(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


@settings(max_examples=40, deadline=None, phases=SHORT, derandomize=True)
@given(ROWS)
async def test_sums(node: SmallNode, rows: list[tuple[int, int | None]]) -> None:
    listed = ", ".join(
        f"({at}, {group}, {'NULL' if value is None else value})"
        for at, (group, value) in enumerate(rows)
    )
    table = f"(SELECT a, g, CAST(n AS BIGINT) AS n FROM (VALUES {listed}) y (a, g, n)) x"
    values = [value for _, value in rows]
    groups = {group: [n for g, n in rows if g == group] for group, _ in sorted(rows, key=first)}
    running = [total(values[: at + 1]) for at in range(len(values))]
    pairs = [total(values[max(0, at - 1) : at + 1]) for at in range(len(values))]
    cases = [
        (f"SELECT sum(n) FROM {table}", [total(values)]),
        (f"SELECT sum(n) FROM {table} GROUP BY g ORDER BY g", list(map(total, groups.values()))),
        (f"SELECT sum(DISTINCT n) FROM {table}", [total(list(set(values)))]),
        (f"SELECT sum(n) FILTER (WHERE g = 1) FROM {table}", [total(groups.get(1, []))]),
        (f"SELECT sum(n) OVER (ORDER BY a) FROM {table} ORDER BY a", running),
        (
            f"SELECT sum(n) OVER (ORDER BY a ROWS 1 PRECEDING) FROM {table} ORDER BY a",
            pairs,
        ),
    ]
    for sql, expected in cases:
        state, found = await said(node, sql)
        if fits([value for value in expected if value is not None]):
            assert (state, found) == ("ok", [[shown(value)] for value in expected]), sql
        else:
            assert state == OUT_OF_RANGE, (sql, found)


def first(row: tuple[int, int | None]) -> int:
    return row[0]


async def test_sums_of_wide_decimals(node: SmallNode) -> None:
    assert await said(node, "SELECT sum(c) FROM app.t WHERE id < 4") == ("ok", [[f"{6 * 10**37}"]])
    for form in ("sum(c)", "sum(DISTINCT c)", "sum(c) FILTER (WHERE id > 0)", "avg(c)"):
        state, message = await said(node, f"SELECT {form} FROM app.t")
        assert state == OUT_OF_RANGE, (form, message)


async def test_a_type_that_shows_late(node: SmallNode) -> None:
    """A CASE has the type of its first branch until the planner has matched types."""
    for text, expected in (
        ("sum(CASE WHEN id > 3 THEN 1 ELSE 1.5 END)", 7.5),
        ("sum(CASE WHEN id > 3 THEN NULL ELSE id END)", "6"),
        ("max(CASE WHEN id > 3 THEN 1 ELSE 1.5 END + 1)", 2.5),
        ("max(-CASE WHEN id > 3 THEN i ELSE n END)", str((1 << 63) - 1)),
        ("min(CASE WHEN id > 9 THEN NULL ELSE id END * 2)", "2"),
        ("sum(DISTINCT CASE WHEN id > 3 THEN 1 ELSE 0.25 END)", 1.25),
    ):
        found = await said(node, f"SELECT {text} FROM app.t WHERE id <> 3 OR id > 0 AND n < 0")
        if "i ELSE n" in text:
            assert found[0] == OUT_OF_RANGE
        else:
            assert found == ("ok", [[expected]]), text
