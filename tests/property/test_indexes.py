"""Reads by ranges of a key or an index answer what the query engine answers over all rows.

Tables, indexes, rows and statements are made at random; an index is made before, between or after
the writes. Each SELECT runs twice: as written, and by the engine, which looks at every row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kalamdb.model.principal import Role
from kalamdb.query.engine_pool import EnginePool, PoolSettings
from kalamdb.sql import select
from tests.small_node import SmallNode, small_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDS = st.lists(st.integers(0, (1 << 32) - 1), min_size=25, max_size=25)

UUIDS = ["00010203-0405-0607-0809-0a0b0c0d0e0f", "ffffffff-0000-0000-0000-111111111111"]
# Columns with values that meet: few, so that conditions hold and rows tie.
COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "a": ("INT", [None, -1, 0, 1, 2, 3, 2147483647]),
    "b": ("TEXT", [None, "", "a", "ab", "abc", "b", "é", "a%", "A"]),
    "c": ("DECIMAL(10, 2)", [None, "-1.50", "0", "1.5", "1.51", "99999999.99"]),
    "d": ("DOUBLE", [None, -1.5, 0.0, 0.1, 1e300, 2.0]),
    "e": ("BOOLEAN", [None, True, False]),
    "f": ("TIMESTAMP", [None, "2026-01-01T00:00:00", "2026-01-02T03:04:05.000006"]),
    "g": ("DATE", [None, "2026-01-01", "1969-12-31"]),
    "h": ("BIGINT", [None, 0, -9223372036854775808, 9223372036854775807, 5]),
    "u": (
        "UUID",
        [None, "00010203-0405-0607-0809-0a0b0c0d0e0f", "f" * 8 + "-0000" * 3 + "-" + "1" * 12],
    ),
}
# What is compared with them beside their own values.
STRANGERS: dict[str, list[Any]] = {
    "a": [1.5, 4, -5, 3000000000],
    "b": ["abcd", "zz", "aa"],
    "c": ["1.505", 1, "-0.001", 2],
    "d": [0, 1, "0.1"],
    "h": [1.5, 6],
}
KEYS = ("id BIGINT", "k TEXT, n INT")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[EnginePool]:
    found = EnginePool(PoolSettings(workers_max=1, kept_max_bytes=0))
    yield found
    await found.close()


@dataclass
class Shape:
    """One table as the test made it."""

    dice: Random
    key: tuple[str, ...] = ()
    columns: list[str] = field(default_factory=list)
    made: int = 0

    def ddl(self) -> str:
        declared = self.dice.choice(KEYS)
        self.key = tuple(part.split()[0] for part in declared.split(", "))
        self.columns = self.dice.sample(list(COLUMNS), self.dice.randint(2, 5))
        body = ", ".join(f"{name} {COLUMNS[name][0]}" for name in self.columns)
        key = ", ".join(self.key)
        return f"CREATE USER TABLE app.t ({declared}, {body}, PRIMARY KEY ({key}))"

    def index(self) -> str:
        self.made += 1
        known = [*self.columns, *self.key]
        names = self.dice.sample(known, self.dice.randint(1, min(3, len(known))))
        down = self.dice.choice(("", " DESC"))
        return f"CREATE INDEX i{self.made} ON app.t ({', '.join(n + down for n in names)})"

    def key_values(self) -> list[Any]:
        if len(self.key) == 1:
            return [self.dice.randint(0, 40)]
        return [self.dice.choice(("x", "y", "y\u0000", "")), self.dice.randint(0, 9)]

    def write(self) -> tuple[str, list[Any]]:
        dice = self.dice
        match dice.randrange(6):
            case 0:
                where = " AND ".join(f"{k} = ${i}" for i, k in enumerate(self.key, 1))
                return f"DELETE FROM app.t WHERE {where}", self.key_values()
            case 1:
                column = dice.choice(self.columns)
                where = " AND ".join(f"{k} = ${i}" for i, k in enumerate(self.key, 2))
                value = dice.choice(COLUMNS[column][1])
                return f"UPDATE app.t SET {column} = $1 WHERE {where}", [value, *self.key_values()]
            case 2:
                params: list[Any] = []
                column = dice.choice(self.columns)
                params.append(dice.choice(COLUMNS[column][1]))
                where = self.condition(params)
                return f"UPDATE app.t SET {column} = $1 WHERE {where}", params
            case _:
                names = [*self.key, *self.columns]
                values = [*self.key_values(), *(dice.choice(COLUMNS[c][1]) for c in self.columns)]
                places = ", ".join(f"${i}" for i in range(1, len(values) + 1))
                sets = ", ".join(f"{c} = excluded.{c}" for c in self.columns)
                return (
                    f"INSERT INTO app.t ({', '.join(names)}) VALUES ({places})"
                    f" ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {sets}",
                    values,
                )

    def value(self, column: str) -> Any:
        if column in self.key:
            return self.key_values()[self.key.index(column)]
        known = COLUMNS[column][1] + STRANGERS.get(column, [])
        return self.dice.choice([one for one in known if one is not None])

    def operand(self, column: str, params: list[Any]) -> str:
        """A value as a parameter or a literal."""
        value = self.value(column)
        if self.dice.random() < 0.5:
            params.append(value)
            return f"${len(params)}"
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'" if "\u0000" not in value else "'y'"
        return str(value)

    def condition(self, params: list[Any]) -> str:
        dice = self.dice
        column = dice.choice([*self.columns, *self.key])
        match dice.randrange(8):
            case 0 | 1 | 2:
                return f"{column} = {self.operand(column, params)}"
            case 3:
                listed = [self.operand(column, params) for _ in range(dice.randint(1, 3))]
                return f"{column} IN ({', '.join(listed)})"
            case 4:
                return f"{column} IS {dice.choice(('', 'NOT '))}NULL"
            case 5 if column in ("b", "k"):
                return f"{column} LIKE '{dice.choice(('a%', 'ab%', '%', 'a_', 'y%', ''))}'"
            case 6:
                low, high = (self.operand(column, params) for _ in range(2))
                return f"{column} BETWEEN {low} AND {high}"
            case _:
                op = dice.choice(("<", "<=", ">", ">="))
                if dice.random() < 0.5:
                    return f"{self.operand(column, params)} {op} {column}"
                return f"{column} {op} {self.operand(column, params)}"

    def query(self) -> Query:
        dice = self.dice
        params: list[Any] = []
        count = dice.randint(0, 3)
        conditions = [self.condition(params) for _ in range(count)]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        used = len(params)
        order = ""
        if dice.random() < 0.7:
            names = dice.sample([*self.columns, *self.key], dice.randint(1, 2))
            same = dice.choice((None, "", " DESC"))
            named = [f"{n}{dice.choice(('', ' DESC')) if same is None else same}" for n in names]
            # The key behind makes the order whole, so that LIMIT has one answer.
            tail = dice.choice(("", " DESC")) if same is None else same
            named += [f"{n}{tail}" for n in self.key if n not in names]
            if dice.random() < 0.1:
                named = [f"_seq{tail}"]
            order = f" ORDER BY {', '.join(named)}"
        limit = ""
        if dice.random() < 0.6 or not conditions:
            params.append(dice.randint(0, 8))
            limit = f" LIMIT ${len(params)}"
            if dice.random() < 0.4:
                limit += f" OFFSET {dice.randint(0, 4)}"
        if dice.random() < 0.2:
            one = dice.choice([*self.columns, *self.key])
            return Query(
                f"count(*), count({one})", where, "", "", params[:used], self.key, whole=False
            )
        chosen = ", ".join(dice.sample([*self.columns, *self.key], dice.randint(1, 3)))
        return Query(dice.choice((chosen, "*")), where, order, limit, params, self.key)


@dataclass(frozen=True)
class Query:
    chosen: str
    where: str
    order: str
    limit: str
    params: list[Any]
    key: tuple[str, ...]
    whole: bool = True  # rows, not counts of them

    @property
    def text(self) -> str:
        return f"SELECT {self.chosen} FROM app.t{self.where}{self.order}{self.limit}"

    @property
    def by_engine(self) -> str:
        """The same with an order that is whole; `engine_alone` keeps it from the ranges."""
        order = self.order or (f" ORDER BY {', '.join(self.key)}" if self.whole else "")
        return f"SELECT {self.chosen} FROM app.t{self.where}{order}{self.limit} -- by the engine"


@contextmanager
def engine_alone() -> Iterator[None]:
    """Statements bound meanwhile are read by the query engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "range_select", lambda *_: None)
        patch.setattr(select, "point_keys", lambda *_: None)
        patch.setattr(select, "find_path", lambda *_, **__: None)
        yield


async def answer(node: SmallNode, sql: str, params: list[Any]) -> tuple[int, Any]:
    status, body = await node.sql("alice", sql, params)
    if status != 200:
        return status, body["error"]["code"]
    (found,) = body["results"]
    return status, ([(c["name"], c["data_type"]) for c in found["schema"]], found["rows"])


@settings(max_examples=12, phases=(Phase.generate,), deadline=None)
@given(seeds=SEEDS)
async def test_ranges_and_engine_agree(pool: EnginePool, seeds: list[int]) -> None:
    dice = Random(seeds[0])
    async with small_node(pool=pool) as node:
        shape = Shape(dice)
        await node.setup("CREATE NAMESPACE app", shape.ddl())
        served = 0
        for seed in seeds:
            shape.dice = dice = Random(seed)
            if shape.made < 4 and dice.random() < 0.3:
                await node.setup(shape.index())
            for _ in range(dice.randint(2, 12)):
                text, params = shape.write()
                for user in ("alice", "bob"):
                    await node.sql(user, text, params)
            for _ in range(4):
                query = shape.query()
                found = await answer(node, query.text, query.params)
                with engine_alone():
                    scanned = await answer(node, query.by_engine, query.params)
                assert found == scanned, (query.text, query.params)
                plan = await node.ok("root", f"EXPLAIN {query.text}", role=Role.SYSTEM)
                served += plan[0]["rows"][0][0].startswith("read of")
        assert served
