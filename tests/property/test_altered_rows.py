"""Rows of a table that is altered all the time, against a model that rewrites every row at once.

Each read is done by key and by the query engine: columns that are younger than a row must read the
same in both, after any order of changes and writes, and after the node has forgotten what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from kalamdb.model.ids import META_GROUP
from kalamdb.model.principal import Role
from kalamdb.store import catalog
from tests.small_node import SmallNode, small_node

STEPS = 40
KEYS = 6
SEEDS = range(6)


@dataclass
class Model:
    """Columns by name with their defaults, rows by key; a row has every column."""

    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    required: set[str] = field(default_factory=set[str])
    rows: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    made: int = 0


async def alter(node: SmallNode, model: Model, dice: Random) -> None:
    names = list(model.defaults)
    kind = dice.choice(["add", "add", "drop", "rename", "default", "not null", "null", "check"])
    if kind == "add" or not names:
        name, default = f"c{model.made}", dice.choice([None, 1, 5])
        model.made += 1
        sql = f"ADD COLUMN {name} INT" + ("" if default is None else f" DEFAULT {default}")
        if await changed(node, sql):
            model.defaults[name] = default
            for row in model.rows.values():
                row[name] = default
        return
    name = dice.choice(names)
    match kind:
        case "drop" if len(names) > 1:
            if await changed(node, f"DROP COLUMN {name} CASCADE"):
                del model.defaults[name]
                model.required.discard(name)
                for row in model.rows.values():
                    del row[name]
        case "rename":
            new = f"c{model.made}"
            model.made += 1
            if await changed(node, f"RENAME {name} TO {new}"):
                model.defaults[new] = model.defaults.pop(name)
                if name in model.required:
                    model.required.remove(name)
                    model.required.add(new)
                for row in model.rows.values():
                    row[new] = row.pop(name)
        case "default":
            model.defaults[name] = dice.choice([2, 7])
            await changed(node, f"ALTER {name} SET DEFAULT {model.defaults[name]}")
        case "not null":
            done = await changed(node, f"ALTER {name} SET NOT NULL")
            assert done == all(row[name] is not None for row in model.rows.values())
            if done:
                model.required.add(name)
        case "check":
            done = await changed(node, f"ADD CHECK ({name} <> 7)")
            assert done == all(row[name] != 7 for row in model.rows.values())
            if done:  # of no further use here
                await changed(node, f"DROP CONSTRAINT {last_check(node)}")
        case _:
            await changed(node, f"ALTER {name} DROP NOT NULL")
            model.required.discard(name)


def last_check(node: SmallNode) -> str:
    return node.groups.catalog.table("app", "m").checks[-1].name


async def changed(node: SmallNode, sql: str) -> bool:
    status, body = await node.sql("root", f"ALTER TABLE app.m {sql}", role=Role.SYSTEM)
    assert status == 200 or body["error"]["sqlstate"] in ("23502", "23514"), (sql, body)
    return status == 200


async def write(node: SmallNode, model: Model, dice: Random) -> None:
    key = dice.randrange(KEYS)
    values = {name: dice.choice([None, 3, 7]) for name in model.defaults if dice.random() < 0.5}
    shown = {name: "NULL" if value is None else str(value) for name, value in values.items()}
    if key not in model.rows:
        row = {name: values.get(name, default) for name, default in model.defaults.items()}
        columns, given = ", ".join(["id", *shown]), ", ".join([str(key), *shown.values()])
        status, _ = await node.sql("alice", f"INSERT INTO app.m ({columns}) VALUES ({given})")
    elif dice.random() < 0.2:
        assert (await node.sql("alice", f"DELETE FROM app.m WHERE id = {key}"))[0] == 200
        del model.rows[key]
        return
    elif not shown:
        return
    else:
        row = {**model.rows[key], **values}
        sets = ", ".join(f"{name} = {value}" for name, value in shown.items())
        # By key, or by a condition that the table is looked through for.
        where = dice.choice([f"id = {key}", f"id + 0 = {key}"])
        status, _ = await node.sql("alice", f"UPDATE app.m SET {sets} WHERE {where}")
    if any(row[name] is None for name in model.required):
        assert status == 400
    else:
        assert status == 200
        model.rows[key] = row


async def read(node: SmallNode, model: Model, *, engine: bool) -> None:
    names = list(model.defaults)
    columns = ", ".join(["id", *names])
    expected = [[key, *(row[name] for name in names)] for key, row in sorted(model.rows.items())]
    keys = ", ".join(str(key) for key in range(KEYS))
    found = await node.ok("alice", f"SELECT {columns} FROM app.m WHERE id IN ({keys})")
    assert sorted(found[0]["rows"]) == expected
    if engine:
        found = await node.ok("alice", f"SELECT {columns}, 1 AS one FROM app.m m ORDER BY id + 0")
        assert [row[:-1] for row in found[0]["rows"]] == expected


@pytest.mark.parametrize("seed", SEEDS)
async def test_rows_read_as_if_they_were_rewritten(seed: int) -> None:
    dice = Random(seed)
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app", "CREATE USER TABLE app.m (id INT PRIMARY KEY, c INT DEFAULT 4)"
        )
        model = Model({"c": 4})
        for step in range(STEPS):
            await dice.choice([alter, write, write])(node, model, dice)
            await read(node, model, engine=step % 8 == 7)
        meta = node.replicas[META_GROUP]
        assert catalog.load(meta._store) == meta.catalog  # pyright: ignore[reportPrivateUsage]
