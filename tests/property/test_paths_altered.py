"""Every way to the same rows agrees, whatever the table went through; views are their text;
a transaction in which nobody interferes is its statements.

Tables of all types with rows from before and after ALTER TABLE and CREATE INDEX are asked by key,
by a range, by an index and by a scan, and the same by the query engine. Statements come from the
fuzzer's grammar.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kalamdb.model.principal import Role
from kalamdb.model.types import Kind
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.sql import select
from tests.fuzz import expressions as e
from tests.fuzz import queries, writes
from tests.fuzz.speaker import VALUES, Speaker, cells, key_condition, quoted
from tests.small_node import SmallNode, small_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDS = st.lists(st.integers(0, (1 << 32) - 1), min_size=20, max_size=20)
COLUMNS = (
    "b BOOLEAN",
    "s SMALLINT",
    "i INT",
    "n BIGINT",
    "f REAL",
    "d DOUBLE",
    "c DECIMAL(7, 2)",
    "t TEXT",
    "y BYTES",
    "ts TIMESTAMP",
    "dt TIMESTAMPTZ",
    "da DATE",
    "ti TIME",
    "u UUID",
)
DEFAULTS = {
    "b": "true",
    "s": "1",
    "i": "2",
    "n": "3",
    "f": "0.5",
    "d": "1.5",
    "c": "1.50",
    "t": "'a'",
    "ts": "'2026-01-02T03:04:05'",
    "dt": "'2026-01-02T03:04:05Z'",
    "da": "'2026-02-28'",
    "ti": "'00:00:01'",
    "u": "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
}
ROOT = Role.SYSTEM
KEYS = ("id INT", "k TEXT, id INT", "da0 DATE")
# Where arithmetic stays inside its type: the engine's wraps around, which the manual says.
TAME = {
    **VALUES,
    Kind.SMALLINT: (0, 1, 2, -7),
    Kind.INT: (0, 1, 2, 3, -7),
    Kind.BIGINT: (0, 1, 2, 3, "9007199254740993"),
    Kind.FLOAT: (0.5, -3.5, 0),
    Kind.DOUBLE: (0.1, -1.5, 0),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    """Keeps no table: the nodes of these tests use the same seqs for other rows."""
    found = EnginePool(PoolSettings(workers_max=1, kept_max_bytes=0))
    yield found
    await found.close()


@contextmanager
def engine_alone() -> Iterator[None]:
    """SELECTs bound meanwhile are read by the query engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "range_select", lambda *_: None)
        patch.setattr(select, "point_keys", lambda *_: None)
        yield


def speaker_of(node: SmallNode, dice: Random) -> Speaker:
    speaker = Speaker(dice, node.groups.catalog, "alice", ("w",), ("bob",), values=TAME)
    speaker.plain = True
    return speaker


async def answer(node: SmallNode, sql: str, params: list[Any], **more: Any) -> tuple[int, Any]:
    """Status, and names, types and rows, or the SQLSTATE."""
    status, body = await node.sql("alice", sql, params or None, **more)
    if status != 200:
        return status, (body["error"]["sqlstate"], body["error"]["message"])
    found = body["results"][-1]
    schema = [(c["name"], json.dumps(c["data_type"])) for c in found.get("schema", ())]
    return status, (schema, found.get("rows", found["row_count"]))


def sorted_rows(found: tuple[int, Any]) -> tuple[int, Any]:
    if found[0] != 200 or not isinstance(found[1][1], list):
        return found
    return found[0], (found[1][0], sorted(found[1][1], key=repr))


def folded(found: tuple[int, Any]) -> tuple[int, Any]:
    """With the names as a view has them: all names of tables and columns are lower case."""
    if found[0] != 200:
        return found
    return found[0], ([(name.lower(), kind) for name, kind in found[1][0]], found[1][1])


# ---- tables that went through something ---------------------------------------------------------


async def make(node: SmallNode, dice: Random) -> None:
    """app.t with rows of several versions of it."""
    columns = dice.sample(COLUMNS, 4)
    later = dice.sample([one for one in COLUMNS if one not in columns and one[:2] != "y "], 2)
    key = dice.choice(KEYS)
    names = ", ".join(part.split()[0] for part in key.split(", "))
    body = ", ".join(columns)
    await node.setup("CREATE NAMESPACE app")
    await node.setup(f"CREATE USER TABLE app.t ({key}, {body}, PRIMARY KEY ({names}))")
    await fill(node, dice)
    for column in later:
        default = f" DEFAULT {DEFAULTS[column.split()[0]]}" if dice.random() < 0.7 else ""
        await node.setup(f"ALTER TABLE app.t ADD COLUMN {column}{default}")
        if dice.random() < 0.5:
            await fill(node, dice)
    first = columns[0].split()[0]
    match dice.randrange(4):
        case 0:
            await node.setup(f"ALTER TABLE app.t RENAME COLUMN {first} TO renamed")
        case 1:
            await node.setup(f"ALTER TABLE app.t DROP COLUMN {first}")
            await node.setup(f"ALTER TABLE app.t ADD COLUMN {columns[0]}")
        case 2 if "i INT" in columns:
            await node.setup("ALTER TABLE app.t ALTER COLUMN i TYPE BIGINT")
        case _:
            pass
    table = node.groups.catalog.tables["app", "t"]
    for number in range(dice.randint(0, 3)):
        listed = dice.sample([quoted(one.name) for one in table.columns], dice.randint(1, 2))
        down = dice.choice(("", " DESC"))
        text = ", ".join(one + down for one in listed)
        await node.setup(f"CREATE INDEX i{number} ON app.t ({text})")
    await fill(node, dice)


async def fill(node: SmallNode, dice: Random) -> None:
    table = node.groups.catalog.tables["app", "t"]
    for _ in range(4):
        speaker = speaker_of(node, dice)
        values = ", ".join(writes.value(speaker, column) for column in table.columns)
        sql = f"INSERT INTO app.t VALUES ({values}) ON CONFLICT DO NOTHING"
        await node.sql("alice", sql, speaker.params or None)


def query(speaker: Speaker) -> str:
    table = speaker.catalog.tables["app", "t"]
    scope = cells(table)
    listed = [cell.text for cell in speaker.some(scope, 3)]
    if speaker.chance(30):
        write = speaker.one(e.number, e.text, e.condition)
        listed = [f"{write(speaker, scope)} AS x"]
    what = "*" if speaker.chance(15) else ", ".join(listed)
    conditions = [e.condition(speaker, scope, 0) for _ in range(speaker.one(0, 1, 1, 2))]
    if speaker.chance(30):
        conditions.insert(0, key_condition(speaker, table))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    if not speaker.chance(75):
        return f"SELECT {what} FROM app.t{where}"
    keys = [quoted(one.name) for one in table.key_columns]
    # The key behind makes the order whole, so that LIMIT has one answer.
    order = queries.order(speaker, scope) + ", " + ", ".join(keys)
    limit = speaker.maybe(60, f" LIMIT {speaker.one(0, 1, 2, 5)}")
    offset = speaker.maybe(40, f" OFFSET {speaker.one(0, 1, 3)}") if limit else ""
    return f"SELECT {what} FROM app.t{where}{order}{limit}{offset}"


@settings(max_examples=15, phases=(Phase.generate,), deadline=None)
@given(seeds=SEEDS)
async def test_altered_tables(pool: EnginePool, seeds: list[int]) -> None:
    async with small_node(pool=pool) as node:
        await make(node, Random(seeds[0]))
        for seed in seeds:
            speaker = speaker_of(node, Random(seed))
            sql = query(speaker)
            found = await answer(node, sql, speaker.params)
            with engine_alone():
                scanned = await answer(node, f"{sql} -- by the engine", speaker.params)
            if found[0] != 200 and found[1][0] == "22003":
                continue  # overflow is an error here and wraps around there, as the manual says
            if "ORDER BY" not in sql:
                found, scanned = sorted_rows(found), sorted_rows(scanned)
            if found[0] != 200:
                assert scanned[0] != 200, (sql, speaker.params, found, scanned)
            assert found[0] != 200 or found == scanned, (sql, speaker.params, found, scanned)


# ---- views --------------------------------------------------------------------------------------

# What two evaluations need not agree on.
LOOSE = ("random", "now()", "CURRENT_TIMESTAMP", "LIMIT", "OVER", "string_agg", "array_agg")


@settings(max_examples=8, phases=(Phase.generate,), deadline=None)
@given(seeds=SEEDS)
async def test_a_view_is_its_text(pool: EnginePool, seeds: list[int]) -> None:
    async with small_node(pool=pool) as node:
        await make(node, Random(seeds[0]))
        for seed in seeds:
            speaker = speaker_of(node, Random(seed))
            speaker.is_batch = True
            text = queries.select(speaker)
            if any(word in text for word in LOOSE):
                continue
            direct = await answer(node, text, [])
            define = f"CREATE OR REPLACE VIEW app.v AS {text}"
            status, body = await node.sql("root", define, role=ROOT)
            if status != 200:
                why = body["error"]["message"]
                assert direct[0] != 200 or "is there twice" in why, (text, why)
                continue
            seen = await answer(node, "SELECT * FROM app.v", [])
            assert sorted_rows(folded(seen)) == sorted_rows(folded(direct)), text


# ---- transactions -------------------------------------------------------------------------------


@settings(max_examples=10, phases=(Phase.generate,), deadline=None)
@given(seeds=SEEDS)
async def test_a_transaction_alone_is_its_statements(pool: EnginePool, seeds: list[int]) -> None:
    """The same statements on two nodes, on one of them inside a transaction with savepoints."""
    async with small_node(pool=pool) as outside, small_node(pool=pool) as inside:
        for node in (outside, inside):
            await make(node, Random(seeds[0]))
        _, body = await inside.sql("alice", "BEGIN", transaction_id="new")
        named = {"transaction_id": body["transaction_id"]}
        for seed in seeds:
            speaker = speaker_of(outside, Random(seed))
            sql = speaker.one(writes.insert, writes.update, writes.delete, query)(speaker)
            if "now()" in sql or "_seq" in sql:
                continue
            if sql.startswith("SELECT *") or sql.endswith("RETURNING *"):
                continue  # they show _seq, which a transaction gives at its end
            expected = await answer(outside, sql, speaker.params)
            assert (await answer(inside, "SAVEPOINT s", [], **named))[0] == 200
            found = await answer(inside, sql, speaker.params, **named)
            if found[0] != 200:
                assert (await answer(inside, "ROLLBACK TO s", [], **named))[0] == 200
            if "ORDER BY" not in sql:
                found, expected = sorted_rows(found), sorted_rows(expected)
            assert found == expected, (sql, speaker.params)
        assert (await answer(inside, "COMMIT", [], **named))[0] == 200
        table = outside.groups.catalog.tables["app", "t"]
        names = ", ".join(quoted(one.name) for one in table.columns)
        contents = [
            sorted_rows(await answer(node, f"SELECT {names} FROM app.t", []))
            for node in (outside, inside)
        ]
        assert contents[0] == contents[1]


# ---- changes ------------------------------------------------------------------------------------


def change(speaker: Speaker) -> tuple[str, str]:
    """An UPDATE or DELETE up to its WHERE, and a condition that fixes the key."""
    table = speaker.catalog.tables["app", "t"]
    scope = cells(table)
    if speaker.chance(25):
        text = "DELETE FROM app.t WHERE "
    else:
        free = [one for one in table.columns if one.id not in table.primary_key]
        column = speaker.of(free)
        made = speaker.value(column.type)
        if speaker.chance(50):
            write = e.number if column.type.is_numeric else e.text
            made = write(speaker, scope)
        text = f"UPDATE app.t SET {quoted(column.name)} = {made} WHERE "
    if speaker.chance(60):
        text += f"({e.condition(speaker, scope, 1)}) AND "
    return text, key_condition(speaker, table)


@settings(max_examples=8, phases=(Phase.generate,), deadline=None)
@given(seeds=SEEDS)
async def test_changes_of_altered_tables(pool: EnginePool, seeds: list[int]) -> None:
    """The same changes on three nodes: by key, by a scan, and by rows the engine finds."""
    async with (
        small_node(pool=pool) as one,
        small_node(pool=pool) as two,
        small_node(pool=pool) as three,
    ):
        nodes = (one, two, three)
        for node in nodes:
            await make(node, Random(seeds[0]))
        table = one.groups.catalog.tables["app", "t"]
        first = table.key_columns[0].name
        names = ", ".join(quoted(column.name) for column in table.columns)
        for seed in seeds:
            speaker = speaker_of(one, Random(seed))
            text, key = change(speaker)
            wheres = (key, f"({key} OR false)", f"{key} AND {first} IN (SELECT {first} FROM app.t)")
            answers: list[Any] = []
            for node, where in zip(nodes, wheres, strict=True):
                status, found = await answer(node, text + where, speaker.params)
                rows = await answer(node, f"SELECT {names} FROM app.t", [])
                answers.append((status, found[1] if status == 200 else None, sorted_rows(rows)))
            if any(status != 200 for status, *_ in answers):
                # What only runs where there is a row fails only there: the rows must be the same.
                answers = [rows for *_, rows in answers]
            assert answers[0] == answers[1] == answers[2], (text, key, speaker.params)
