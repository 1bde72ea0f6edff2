"""Transactions against a model of snapshot isolation: results, refusals, the end, and the changes.

Three connections and single statements between them, in random order, on a handful of rows, so
that they meet. The model is a page of Python: a snapshot is a copy, a commit compares versions.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kalamdb.model.change import Op
from kalamdb.model.ids import Seq
from kalamdb.model.principal import Principal, Role
from kalamdb.session.run import Conversation
from tests.small_node import SmallNode, small_node

KEYS = 5
VALUES = 4
CONFLICT, TAKEN, FAILED = "40001", "23505", "25P02"

Cell = tuple[int, int | None]  # v, u (UNIQUE)


@dataclass
class Committed:
    """What is there, with a version that moves on with every commit of a row."""

    rows: dict[int, Cell] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    commits: list[set[int]] = field(default_factory=list)
    clock: int = 0

    def put(self, written: dict[int, Cell | None]) -> None:
        self.clock += 1
        changed: set[int] = set()
        for key, cell in written.items():
            if cell is None and key not in self.rows:
                continue
            changed.add(key)
            if cell is None:
                del self.rows[key], self.versions[key]
            else:
                self.rows[key] = cell
                self.versions[key] = self.clock
        if changed:
            self.commits.append(changed)


@dataclass
class Tried:
    """One transaction in the model."""

    base: dict[int, Cell]
    versions: dict[int, int]
    own: dict[int, Cell | None] = field(default_factory=dict)
    saved: list[dict[int, Cell | None]] = field(default_factory=list)
    failed: bool = False

    @property
    def view(self) -> dict[int, Cell]:
        seen: dict[int, Cell | None] = {**self.base, **self.own}
        return {key: cell for key, cell in seen.items() if cell is not None}

    def commit(self, into: Committed) -> str | None:
        for key in self.own:
            if into.versions.get(key, 0) != self.versions.get(key, 0):
                return CONFLICT
        kept = {key: cell for key, cell in into.rows.items() if key not in self.own}
        taken = {cell[1] for cell in kept.values()} - {None}
        if any(cell is not None and cell[1] in taken for cell in self.own.values()):
            return TAKEN
        into.put(self.own)
        return None


def apply(view: dict[int, Cell], action: tuple[Any, ...]) -> dict[int, Cell | None] | None:
    """What a statement writes over what it sees; None: it is refused."""

    def taken(cell: Cell, keys: set[int]) -> bool:
        return cell[1] is not None and any(
            other[1] == cell[1] for key, other in view.items() if key not in keys
        )

    match action:
        case ("insert", key, v, u):
            return None if key in view or taken((v, u), {key}) else {key: (v, u)}
        case ("upsert", key, v, u):
            if key in view:
                return {key: (v, view[key][1])}
            return None if taken((v, u), {key}) else {key: (v, u)}
        case ("update", key, v, _):
            return {key: (v, view[key][1])} if key in view else {}
        case ("mark", key, _, u):
            if key not in view:
                return {}
            return None if taken((0, u), {key}) else {key: (view[key][0], u)}
        case ("bump", _, v, _):
            return {key: (cell[0] + 1, cell[1]) for key, cell in view.items() if cell[0] >= v}
        case ("delete", key, _, _):
            return {key: None} if key in view else {}
        case ("clear", _, v, _):
            return {key: None for key, cell in view.items() if cell[0] < v}
        case _:
            raise AssertionError(action)


SQL = {
    "insert": "INSERT INTO app.t (id, v, u) VALUES ({key}, {v}, {u})",
    "upsert": "INSERT INTO app.t (id, v, u) VALUES ({key}, {v}, {u})"
    " ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "update": "UPDATE app.t SET v = {v} WHERE id = {key}",
    "mark": "UPDATE app.t SET u = {u} WHERE id = {key}",
    "bump": "UPDATE app.t SET v = v + 1 WHERE v >= {v}",
    "delete": "DELETE FROM app.t WHERE id = {key}",
    "clear": "DELETE FROM app.t WHERE v < {v}",
}
READS = (
    "SELECT id, v, u FROM app.t ORDER BY id LIMIT 100",
    "SELECT id, v, u FROM app.t WHERE id IN (0, 1, 2, 3, 4)",
    "SELECT id, v, u FROM app.t WHERE u >= 0 OR u IS NULL ORDER BY id",
    "WITH w AS (SELECT * FROM app.t) SELECT w.id, w.v, w.u FROM w ORDER BY w.id",
)


def statement(action: tuple[Any, ...]) -> str:
    kind, key, v, u = action
    return SQL[kind].format(key=key, v=v, u="NULL" if u is None else u)


def found(body: dict[str, Any]) -> dict[int, Cell]:
    return {int(key): (v, u) for key, v, u in body["results"][0]["rows"]}


class Play:
    """One random history, step by step against the model."""

    def __init__(self, node: SmallNode, seed: int) -> None:
        self.node = node
        self.dice = random.Random(seed)
        self.user = f"u{seed}"
        self.committed = Committed()
        alice = Principal.of(self.user, Role.USER)
        self.talks = [Conversation(alice) for _ in range(3)]
        self.tried: list[Tried | None] = [None] * len(self.talks)

    def action(self) -> tuple[Any, ...]:
        dice = self.dice
        kind = dice.choice(tuple(SQL))
        u = dice.choice((None, None, *range(VALUES)))
        return kind, dice.randrange(KEYS), dice.randrange(VALUES), u

    async def step(self) -> None:
        which = self.dice.randrange(len(self.talks) + 1)
        if which == len(self.talks):
            await self.alone()
        elif self.talks[which].transaction is None:
            status, _ = await self.node.talk(self.talks[which], "BEGIN")
            assert status == 200
            # The snapshot is taken at the first statement.
            await self.node.talk(self.talks[which], READS[0])
            self.tried[which] = Tried(dict(self.committed.rows), dict(self.committed.versions))
        else:
            tried = self.tried[which]
            assert tried is not None
            await self.inside(which, self.talks[which], tried)

    async def alone(self) -> None:
        """A statement outside of any transaction."""
        if self.dice.random() < 0.3:
            status, body = await self.node.sql(self.user, self.dice.choice(READS))
            assert (status, found(body)) == (200, self.committed.rows)
            return
        action = self.action()
        written = apply(self.committed.rows, action)
        status, body = await self.node.sql(self.user, statement(action))
        if written is None:
            assert body["error"]["sqlstate"] == TAKEN
        else:
            assert status == 200, body
            self.committed.put(written)

    async def inside(self, which: int, talk: Conversation, tried: Tried) -> None:
        kind = self.dice.choices(
            ("write", "read", "save", "back", "commit", "rollback"), (12, 5, 4, 4, 3, 1)
        )[0]
        if tried.failed and kind in ("write", "read", "save"):
            status, body = await self.node.talk(talk, READS[0])
            assert (status, body["error"]["sqlstate"]) == (409, FAILED)
            kind = "back" if tried.saved else "rollback"
        match kind:
            case "write":
                await self.write(talk, tried)
            case "read":
                status, body = await self.node.talk(talk, self.dice.choice(READS))
                assert (status, found(body)) == (200, tried.view)
            case "save":
                tried.saved.append(dict(tried.own))
                assert (await self.node.talk(talk, f"SAVEPOINT s{len(tried.saved)}"))[0] == 200
            case "back":
                await self.back(talk, tried)
            case _:
                await self.end(which, talk, tried, commit=kind == "commit")

    async def write(self, talk: Conversation, tried: Tried) -> None:
        action = self.action()
        written = apply(tried.view, action)
        status, body = await self.node.talk(talk, statement(action))
        if written is None:
            assert body["error"]["sqlstate"] == TAKEN
            tried.failed = True
        else:
            assert status == 200, body
            assert body["results"][0]["row_count"] == len(written)
            tried.own.update(written)

    async def back(self, talk: Conversation, tried: Tried) -> None:
        if not tried.saved:
            return
        to = self.dice.randrange(len(tried.saved))
        assert (await self.node.talk(talk, f"ROLLBACK TO s{to + 1}"))[0] == 200
        tried.own = dict(tried.saved[to])
        del tried.saved[to + 1 :]
        tried.failed = False

    async def end(self, which: int, talk: Conversation, tried: Tried, *, commit: bool) -> None:
        self.tried[which] = None
        status, body = await self.node.talk(talk, "COMMIT" if commit else "ROLLBACK")
        assert talk.transaction is None
        said = None if status == 200 else body["error"]["sqlstate"]
        if not commit:
            assert said is None
        elif tried.failed:
            assert said == FAILED
        else:
            assert said == tried.commit(self.committed)

    async def check(self) -> None:
        """The end, and how it came about: each commit is one whole group of changes."""
        for talk in self.talks:
            self.node.session.hang_up(talk)
        for read in READS:
            status, body = await self.node.sql(self.user, read)
            assert (status, found(body)) == (200, self.committed.rows)
        partition = Principal.of(self.user, Role.USER).partition
        table = next(t for t in self.node.groups.catalog.tables_by_id.values() if t.name == "t")
        groups: list[set[int]] = []
        whole: set[int] = set()
        prev = Seq(0)
        with self.node.groups.snapshot(partition) as snapshot:
            for change in snapshot.changes(table, partition, Seq(0), snapshot.seq):
                assert change.prev_seq == prev
                prev = change.seq
                row = change.before if change.op is Op.DELETE else change.after
                assert row is not None
                whole.add(row[1])
                if change.last_of_txn:
                    groups.append(whole)
                    whole = set()
        assert not whole
        assert groups == self.committed.commits
        assert self.node.transactions.statistics().open == 0
        assert self.node.transactions.statistics().write_bytes == 0


async def histories(seeds: list[int], steps: int) -> None:
    async with small_node() as node:
        await node.setup(
            "CREATE NAMESPACE app",
            "CREATE USER TABLE app.t (id INT PRIMARY KEY, v INT, u INT UNIQUE)",
            "CREATE INDEX t_v ON app.t (v)",
        )
        for seed in seeds:
            play = Play(node, seed)
            for _ in range(steps):
                await play.step()
            await play.check()


@settings(max_examples=4, phases=(Phase.generate,), deadline=None)
@given(st.integers(0, 1 << 20))
def test_snapshot_isolation(start: int) -> None:
    asyncio.run(histories([start + number for number in range(4)], 90))
